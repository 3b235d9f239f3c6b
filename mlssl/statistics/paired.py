"""The mean of paired differences over seeds, with an interval for new trainings and new evaluation images.

docs/statistics.md derives every formula. Runs of one seed share data order, views and initial weights, and all runs
are evaluated on the same images, so a difference is taken within a seed and within a group of images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special
from scipy.optimize import brentq

LEVEL = 0.95
"""Coverage of every reported interval."""
ALPHA = (1 - LEVEL) / 2
"""One-sided error rate of every test: a test rejects where the interval excludes the value."""
POWER = 0.8
"""Power of the minimum detectable difference."""
LARGEST_EFFECT = 20.0
"""In standard errors; one degree of freedom needs 16.3 for 80 % power."""
MOST_SEEDS = 100_000
"""Number of seeds at which only the noise of the images is left."""


@dataclass(frozen=True)
class Images:
    """What a delete-a-group jackknife says about a mean over n seeds; variances are of that mean."""

    variance: float
    """Of the evaluation images, the same for all seeds: never below 0."""
    total: float
    """Jackknife variance: `variance` plus `interaction`, before the difference is cut at 0."""
    interaction: float
    """Of seed x image; it is already part of the variance over seeds."""
    groups: int
    """Number of groups, G."""


@dataclass(frozen=True)
class Difference:
    """A mean over n seeds with its variance components."""

    mean: float
    n: int
    seeds: float
    """Variance of the mean over trainings, s^2 / n; NaN for one seed."""
    images: tuple[Images, ...] = ()
    """One per set of evaluation images; empty if no jackknife is known, so that the images count as fixed."""

    @property
    def image_variance(self) -> float:
        """Variance of the mean over evaluation images; 0 if the images count as fixed."""
        return sum(i.variance for i in self.images)

    @property
    def df(self) -> float:
        """Welch-Satterthwaite degrees of freedom of all components together; at least n - 1."""
        parts = [(self.seeds, self.n - 1)]
        for i in self.images:
            parts += [(i.total, i.groups - 1), (i.interaction, (self.n - 1) * (i.groups - 1))]
        spread = sum(variance**2 / df for variance, df in parts)
        variance = self.seeds + self.image_variance
        return max(variance**2 / spread, self.n - 1) if spread else self.n - 1

    @property
    def scales(self) -> tuple[tuple[float, float], ...]:
        """Standard error and degrees of freedom: over seeds alone, and over seeds and images.

        Both count, the more cautious one each time: the degrees of freedom of a sum are estimated too, and with two
        or three seeds the second alone would cover 87 to 93 % instead of 95 %.
        """
        over_seeds = math.sqrt(self.seeds), float(self.n - 1)
        if not self.images:
            return (over_seeds,)
        return over_seeds, (math.sqrt(self.seeds + self.image_variance), self.df)

    def half_width(self, level: float = LEVEL) -> float:
        """Half the width of the interval; NaN for one seed."""
        if self.n < 2:
            return math.nan
        return max(se * float(special.stdtrit(df, (1 + level) / 2)) for se, df in self.scales)

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Lower and upper end; NaN for one seed."""
        half = self.half_width(level)
        return self.mean - half, self.mean + half

    def p_above(self, value: float = 0.0) -> float:
        """One-sided p-value of the hypothesis that the true difference is at most `value`; 1 for one seed.

        Seeds that agree exactly have no spread to test against: their p-value is 1, unless they agree on a
        difference of exactly 0.
        """
        return self._p(self.mean - value)

    def p_below(self, value: float = 0.0) -> float:
        """One-sided p-value of the hypothesis that the true difference is at least `value`."""
        return self._p(value - self.mean)

    def p_within(self, margin: float) -> float:
        """TOST: p-value of the hypothesis that the true difference is at least `margin` in size."""
        return max(self.p_above(-margin), self.p_below(margin))

    def _p(self, distance: float) -> float:
        if self.n < 2:
            return 1.0
        if self.seeds == 0:
            return 0.0 if self.mean == 0 and distance > 0 else 1.0
        return max(float(special.stdtr(df, -distance / se)) for se, df in self.scales)

    def at(self, n: int) -> Difference:
        """The same components at another number of seeds: those of trainings shrink, that of images does not."""
        by = self.n / n
        images = tuple(
            Images(i.variance, i.variance + i.interaction * by, i.interaction * by, i.groups) for i in self.images
        )
        return Difference(self.mean, n, self.seeds * by, images)

    def detectable(self) -> float:
        """Smallest true difference that a two-sided 5 % test finds in 80 % of studies; NaN for one seed."""
        if self.n < 2:
            return math.nan
        return max(se * detectable_effect(df) for se, df in self.scales)


def difference(values: ArrayLike, *leave_out: ArrayLike) -> Difference:
    """Summarise differences d_s of n seeds, or any other linear combination of scores within a seed.

    Args:
        values: n differences.
        leave_out: for each set of evaluation images, n x G: the same differences without group g of the images.
            Several sets count as independent.

    The variance over seeds holds the images fixed: it is that of training and of seed x image. The jackknife
    variance of the mean, (G-1)/G sum_g (mean_-g - their mean)^2, is that of the images and of
    seed x image / n;
    the latter is estimated from the residuals of the n x G pseudo-values and subtracted.
    """
    d = np.asarray(values, dtype=float)
    if d.ndim != 1 or not len(d):
        raise ValueError(f"values: shape {d.shape}; give at least one difference")
    n = len(d)
    seeds = float(d.var(ddof=1)) / n if n > 1 else math.nan
    return Difference(float(d.mean()), n, seeds, tuple(_images(np.asarray(x, dtype=float), n) for x in leave_out))


def _images(without: np.ndarray, n: int) -> Images:
    if without.ndim != 2 or without.shape[0] != n or without.shape[1] < 2:
        raise ValueError(f"leave_out: shape {without.shape}; give {n} seeds x at least 2 groups")
    groups = without.shape[1]
    # Pseudo-values are an affine map of the leave-out values; only their deviations count.
    pseudo = -(groups - 1) * without
    columns = pseudo.mean(axis=0)
    total = float(columns.var(ddof=1)) / groups
    residual = pseudo - columns - pseudo.mean(axis=1, keepdims=True) + pseudo.mean()
    interaction = 0.0
    if n > 1:
        interaction = float((residual**2).sum()) / ((n - 1) * (groups - 1)) / (n * groups)
    return Images(max(total - interaction, 0.0), total, interaction, groups)


def detectable_effect(df: float, alpha: float = 2 * ALPHA, power: float = POWER) -> float:
    """Smallest effect, in standard errors, that a two-sided t test with `df` degrees of freedom finds.

    From the noncentral t distribution, by its upper side: the other adds nothing at such effects.
    """
    critical = special.stdtrit(df, 1 - alpha / 2)

    def missing(effect: float) -> float:
        return 1 - float(special.nctdtr(df, effect, critical)) - power

    return float(brentq(missing, 0.1, LARGEST_EFFECT))


def seeds_needed(found: Difference, half_width: float, level: float = LEVEL) -> float:
    """Seeds at which the interval's half-width is at most `half_width`, if the variances stay as they are.

    Infinite if no number of seeds is enough: the evaluation images alone are too noisy, or the score is so coarse
    that the seeds agree exactly and their spread is not known.
    """
    low, high = 1, MOST_SEEDS
    if found.seeds == 0 or found.at(high).half_width(level) > half_width:
        return math.inf
    while high - low > 1:
        middle = (low + high) // 2
        enough = found.at(middle).half_width(level) <= half_width
        low, high = (low, middle) if enough else (middle, high)
    return high


class Share(NamedTuple):
    """A difference as a share of another one, with its 95 % interval."""

    mean: float = math.nan
    low: float = math.nan
    high: float = math.nan
    n: int = 0
    """Seeds that have both differences."""


def share(
    part: ArrayLike, whole: ArrayLike, part_out: ArrayLike | None = None, whole_out: ArrayLike | None = None
) -> Share:
    """Ratio of two paired means, part / whole, with its 95 % interval by Fieller's method.

    The interval contains every ratio r for which the mean of part - r * whole is not different from 0 by
    `difference`; arguments as there. The ends are infinite if the whole itself is not different from 0, NaN for one
    seed.
    """
    y, x = np.asarray(part, dtype=float), np.asarray(whole, dtype=float)

    def left(ratio: float) -> Difference:
        out = (
            [] if part_out is None or whole_out is None else [np.asarray(part_out) - ratio * np.asarray(whole_out)]
        )
        return difference(y - ratio * x, *out)

    centre = float(y.mean() / x.mean()) if x.mean() else math.nan
    whole_found = difference(x, *([] if whole_out is None else [whole_out]))
    if whole_found.n < 2:
        return Share(centre, n=whole_found.n)
    if abs(whole_found.mean) <= whole_found.half_width():
        return Share(centre, -math.inf, math.inf, whole_found.n)

    def outside(ratio: float) -> float:
        found = left(ratio)
        return abs(found.mean) - found.half_width()

    ends = []
    for sign in (-1, 1):
        step = 1e-6 + abs(centre)
        while outside(centre + sign * step) < 0:
            step *= 2
        exact = outside(centre) >= 0
        ends.append(centre if exact else float(brentq(outside, centre, centre + sign * step)))
    return Share(centre, min(ends), max(ends), whole_found.n)


def repeat_noise(scores: ArrayLike) -> tuple[float, float]:
    """Standard deviations of repeating one seed, and of seeds apart from it: one-way random effects.

    `scores` is n seeds x r >= 2 runs of the same seed (another machine, a GPU's order of additions). The second is
    0 if the seeds differ no more than the repeats do.
    """
    x = np.asarray(scores, dtype=float)
    if x.ndim != 2 or min(x.shape) < 2:
        raise ValueError(f"scores: shape {x.shape}; give at least 2 seeds x 2 runs of each")
    within = float(x.var(axis=1, ddof=1).mean())
    between = float(x.mean(axis=1).var(ddof=1)) - within / x.shape[1]
    return math.sqrt(within), math.sqrt(max(between, 0.0))
