"""Which levels of an axis are the best beyond noise: a set, because noise seldom leaves a single one."""

from __future__ import annotations

from mlssl.analysis.outputs import Score, supervised
from mlssl.claims.evaluate import Samples, paired_scores
from mlssl.claims.margins import MARGIN
from mlssl.claims.paper import Level
from mlssl.statistics.paired import LEVEL


def best_levels(samples: Samples, axis: str, score: Score) -> set[str]:
    """The level with the highest mean, and those that do not differ from it.

    A level differs if the interval of its paired difference to the best one excludes 0, with 95 % for all of these
    differences together (Bonferroni). Levels with fewer than two seeds in common with the best one cannot be
    compared and are not in the set, nor are methods that train with labels. Empty without two levels of two seeds
    or more, or if the score has no margin, such as a cost.
    """
    if score.metric not in MARGIN:
        return set()
    known = {
        name: sample
        for name in samples.axes[axis]
        if name not in supervised(samples.study)
        and (sample := samples.get(Level(((axis, name),)), score)).summary.n > 1
    }
    if len(known) < 2:
        return set()
    best = max(known, key=lambda name: known[name].summary.mean)
    level = 1 - (1 - LEVEL) / (len(known) - 1)
    found = {best}
    for name, sample in known.items():
        less = paired_scores([((known[best], sample), 1.0)]) if name != best else None
        if less is not None and less.n > 1 and less.interval(level)[0] <= 0:
            found.add(name)
    return found
