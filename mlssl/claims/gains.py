"""What each compared method gains over untrained weights, by each evaluator."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from mlssl.analysis.outputs import Score
from mlssl.claims.evaluate import Samples, paired_scores, share_of_the_way
from mlssl.claims.paper import Level
from mlssl.statistics.paired import Difference
from mlssl.study.expand import COMPARE, Study


@dataclass(frozen=True)
class Gain:
    """Of one method by one evaluator."""

    method: str
    score: Score
    found: Difference | None
    """Method less untrained weights, paired by seed; None without a common seed."""
    share: tuple[float, float, float] | None
    """The gain as a share of the way from untrained (0) to supervised (1), with its interval; None without both."""


def gains(study: Study, metrics: pd.DataFrame, groups: pd.DataFrame | None) -> list[Gain]:
    """All methods of the comparison but the untrained one, by every evaluator that is not below resolution.

    `groups` has the columns of image_groups.tsv. Empty if the study compares no untrained weights.
    """
    samples = Samples(study, metrics, groups)
    if samples.floor is None:
        return []
    found = []
    for score in samples.scores:
        floor = samples.get(samples.floor, score)
        for method in study.axes()[COMPARE]:
            level = Level(((COMPARE, method),))
            if level == samples.floor or not samples.expected(level, score):
                continue
            two = (samples.get(level, score), floor)
            share = None if level == samples.ceiling else share_of_the_way(samples, score, two)
            found.append(Gain(method, score, paired_scores([(two, 1.0)]), share))
    return found
