"""The difference of two means over different seeds: Welch's interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import ttest_ind

from mlssl.statistics.paired import LEVEL


@dataclass(frozen=True)
class Unpaired:
    """A difference of means over `n` and `n_other` seeds; the ends are NaN if either is below 2."""

    mean: float
    low: float
    high: float
    n: int
    n_other: int


def unpaired(values: ArrayLike, others: ArrayLike) -> Unpaired:
    """mean(values) - mean(others) with its 95 % interval, for unequal variances (Welch 1947).

    Seeds that all agree exactly, in both, have no spread to infer from: their interval is NaN. The evaluation
    images count as fixed.
    """
    x, y = np.asarray(values, dtype=float), np.asarray(others, dtype=float)
    if not len(x) or not len(y):
        raise ValueError("values, others: give at least one score of each")
    low = high = math.nan
    if min(len(x), len(y)) > 1 and (x.var() > 0 or y.var() > 0):
        interval = ttest_ind(x, y, equal_var=False).confidence_interval(LEVEL)
        low, high = float(interval.low), float(interval.high)
    return Unpaired(float(x.mean() - y.mean()), low, high, len(x), len(y))
