"""What each compared method gains over untrained weights, by each evaluator."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mlssl.analysis.outputs import Score
from mlssl.claims.evaluate import Samples, paired_scores, share_of_the_way, verdict_on
from mlssl.claims.paper import Level
from mlssl.statistics.paired import Difference, Share
from mlssl.study.study import COMPARE


@dataclass(frozen=True)
class Gain:
    """Of one method by one evaluator."""

    method: str
    score: Score
    found: Difference | None
    """Method less untrained weights, paired by seed; None without a common seed."""
    share: Share | None
    """The gain as a share of the way from untrained (0) to supervised (1); None without both.

    Its seeds are those that also have supervised training.
    """

    @property
    def share_percent(self) -> Share | None:
        """`share` in percent, for reading.

        None without a share, and for one without bounds, where supervised training does not differ from
        untrained weights. Its interval is NaN for one seed.
        """
        if self.share is None or math.isnan(self.share.mean) or math.isinf(self.share.low):
            return None
        mean, low, high, n = self.share
        return Share(100 * mean, 100 * low, 100 * high, n)

    @property
    def word(self) -> str:
        """The verdict on the gain; `no result yet` without one."""
        return verdict_on(self.found, self.score.metric)


def deciding(found: Sequence[Gain]) -> Score:
    """The evaluator whose gains are the answer, by the rule of the claims: the first with two seeds or more."""
    return next((g.score for g in found if g.found and g.found.n > 1), found[0].score)


def gains(samples: Samples) -> list[Gain]:
    """All methods of the comparison but the untrained one, by every evaluator that is not below resolution.

    Evaluators that the study does not apply to untrained weights are left out. Empty if the study compares none.
    """
    if samples.floor is None:
        return []
    found = []
    for score in samples.scores:
        if not samples.expected(samples.floor, score):
            continue
        floor = samples.get(samples.floor, score)
        for method in samples.axes[COMPARE]:
            level = Level(((COMPARE, method),))
            if level == samples.floor or not samples.expected(level, score):
                continue
            two = (samples.get(level, score), floor)
            share = None if level == samples.ceiling else share_of_the_way(samples, score, two)
            found.append(Gain(method, score, paired_scores([(two, 1.0)]), share))
    return found
