"""Which scores of a study cannot tell a trained backbone from an untrained one."""

from __future__ import annotations

import math

import pandas as pd

from mlssl.analysis.aggregate import summarise
from mlssl.analysis.outputs import Score, headline, pretrained_and_untrained, supervised
from mlssl.claims.margins import MARGIN
from mlssl.study.study import COMPARE, Study

BELOW_RESOLUTION = "below resolution"
"""What a score is called that cannot tell a trained backbone from an untrained one (docs/statistics.md)."""
MARK = "‡"
"""After the numbers of such a score in tables."""
MARKED = (
    f"{MARK}: {BELOW_RESOLUTION}, as floor and ceiling of the score differ by less than δ (docs/statistics.md): "
    "these numbers cannot tell trained from untrained weights."
)


def below_resolution(study: Study, metrics: pd.DataFrame) -> set[Score]:
    """The scores whose floor and ceiling differ by less than their margin δ.

    The floor is the untrained backbone, the ceiling supervised training, or the best compared method if the study
    has no supervised one. A score without a margin, a floor or a ceiling is not among them.
    """
    pretrained, untrained = pretrained_and_untrained(study)
    if untrained is None:
        return set()
    found = set()
    for score in (s for s in headline(study) if s.metric in MARGIN):
        means = {level: s.mean for level, s in summarise(study, metrics, COMPARE, score).items() if s.n}
        tops = [means[level] for level in supervised(study) or pretrained if level in means]
        if untrained in means and tops and math.fabs(max(tops) - means[untrained]) < MARGIN[score.metric]:
            found.add(score)
    return found
