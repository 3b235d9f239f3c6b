"""What each level of an axis changes by each evaluator: the level less the study's own choice, paired by seed."""

from __future__ import annotations

from dataclasses import dataclass

from mlssl.analysis.outputs import BASELINE, Score
from mlssl.claims.evaluate import Samples, paired_scores, word
from mlssl.claims.findings import choices
from mlssl.claims.paper import Level
from mlssl.statistics.paired import Difference
from mlssl.study.study import COMPARE


@dataclass(frozen=True)
class LevelDifference:
    """Of one level by one evaluator."""

    axis: str
    level: str
    less: str
    """The level that is subtracted."""
    score: Score
    found: Difference | None
    """None without a common seed."""

    @property
    def word(self) -> str:
        """`better`, `worse`, `no difference larger than δ`, or why there is none of these."""
        return word(self.found, self.score.metric)


def differences(samples: Samples) -> list[LevelDifference]:
    """All levels of all axes but the subtracted one, by every evaluator that is not below resolution.

    Of the compared methods, those that train without labels.
    """
    found = []
    for axis in samples.axes:
        less = subtracted(samples, axis)
        for level in choices(samples, axis):
            if level == less:
                continue
            two = [Level(((axis, name),)) for name in (level, less)]
            for score in samples.scores:
                if all(samples.expected(one, score) for one in two):
                    a, b = (samples.get(one, score) for one in two)
                    found.append(LevelDifference(axis, level, less, score, paired_scores([((a, b), 1.0)])))
    return found


def subtracted(samples: Samples, axis: str) -> str:
    """The level of an axis that is subtracted from the others.

    MoCo-v2 of the compared methods; of another axis the first level that is one of these methods without a changed
    parameter. Without such a level, the first.
    """
    levels = samples.axes[axis]
    if axis == COMPARE:
        return BASELINE if BASELINE in levels else choices(samples, axis)[0]
    compared = {cell.run for cell in samples.study.cells if cell.axis == COMPARE}
    own = [cell.level for cell in samples.study.cells if cell.axis == axis and cell.run in compared]
    return own[0] if own else levels[0]
