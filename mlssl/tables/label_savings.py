"""How many labels pretraining saves: the labelled images it needs to match training on all of them without it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from mlssl.analysis.outputs import linear_scores, pretrained_and_untrained
from mlssl.claims.evaluate import Samples
from mlssl.claims.paper import Level
from mlssl.statistics import verdict
from mlssl.statistics.paired import Difference, difference
from mlssl.study.study import COMPARE, Study

Curve = list[tuple[int, float]]
"""Labelled images and mAP in percent, by ascending number of images."""


@dataclass(frozen=True)
class Saving:
    """The result of one seed of one method."""

    labels: int
    """Number of labelled images."""
    target: float
    """mAP of the untrained backbone with all labelled images, %."""
    needed: float
    """Labelled images with which the pretrained backbone reaches `target`; NaN if it never does."""
    at_most: bool
    """Whether the smallest share already reaches `target`, so that fewer images may suffice."""
    without: tuple[Saving, ...] = ()
    """The same without each group of evaluation images; empty if that is not known."""


def saving(pretrained: Curve, untrained: Curve) -> Saving:
    """Where the pretrained curve first reaches the end of the untrained one, interpolated over log(images)."""
    labels, target = untrained[-1]
    images, scores = zip(*pretrained, strict=True)
    reached = [i for i, score in enumerate(scores) if score >= target]
    if not reached:
        return Saving(labels, target, math.nan, at_most=False)
    i = reached[0]
    if i == 0:
        return Saving(labels, target, float(images[0]), at_most=True)
    needed = np.exp(np.interp(target, scores[i - 1 : i + 1], np.log(images[i - 1 : i + 1])))
    return Saving(labels, target, float(needed), at_most=False)


def savings(
    study: Study, metrics: pd.DataFrame, groups: pd.DataFrame | None = None
) -> dict[str, dict[int, Saving]]:
    """Pretrained method -> seed -> Saving, for seeds with complete curves of this method and the untrained one.

    The study needs an untrained method, see `has_label_savings`. `groups` has the columns of image_groups.tsv.
    """
    samples = Samples(study, metrics, groups)
    pretrained, untrained = pretrained_and_untrained(study)
    assert untrained is not None
    base = curves(samples, untrained)
    found = {}
    for method in pretrained:
        own = curves(samples, method)
        found[method] = {seed: paired(own[seed], base[seed]) for seed in sorted(own.keys() & base.keys())}
    return found


def paired(pretrained: list[Curve], untrained: list[Curve]) -> Saving:
    """The saving of one seed, with that without each group of images where both have the same number of groups."""
    whole = saving(pretrained[0], untrained[0])
    if len(pretrained) != len(untrained):
        return whole
    return replace(whole, without=tuple(map(saving, pretrained[1:], untrained[1:])))


def curves(samples: Samples, method: str) -> dict[int, list[Curve]]:
    """Seed -> curve of a compared method, then its curves without each group of images, where these are known.

    Seeds with a missing share are skipped.
    """
    level, scores = Level(((COMPARE, method),)), linear_scores(samples.study)[::-1]
    images = [samples.get(level, replace(score, metric="train_images")).values for score in scores]
    found = [samples.get(level, score) for score in scores]
    result = {}
    for seed in sorted(set.intersection(*(set(x) for x in (*images, *(f.values for f in found))))):
        labels = [int(by_seed[seed]) for by_seed in images]
        result[seed] = [list(zip(labels, (f.values[seed] for f in found), strict=True))]
        groups = [f.groups.get(seed, np.empty(0)) for f in found]
        if len({len(g) for g in groups}) == 1:
            result[seed] += [list(zip(labels, values, strict=True)) for values in zip(*groups, strict=True)]
    return result


MARGIN = 0.1
"""δ: a saving of fewer than this share of the labels counts as none."""
CERTAIN = 6
"""Seeds at which a sign test can decide: all on one side, p = 1 / 64."""


def ratio(saving: Saving) -> float:
    """Logarithm of the labelled images needed over all of them; NaN where the target is not reached."""
    return math.log(saving.needed / saving.labels)


def decide(found: Sequence[Saving]) -> tuple[str, Difference | None]:
    """The verdict that pretraining saves labels, and the mean of `ratio` over two or more seeds with its interval.

    Where a seed gives a bound alone (never reached, or by the smallest share already), there is no mean: the seeds
    that save labels are counted, and a sign test decides. The words are those of the claims.
    """
    if len(found) < 2:
        return verdict.ONE_SEED, None
    if any(math.isnan(s.needed) or s.at_most for s in found):
        saved = sum(s.needed < s.labels for s in found)
        above, below = (binomtest(k, len(found), alternative="greater").pvalue for k in (saved, len(found) - saved))
        word = verdict.decide(verdict.Evidence(above=above, below=below))
        return word or verdict.undecided(max(CERTAIN, len(found) + 1)), None
    without = [[-ratio(w) for w in s.without] for s in found]
    known = len({len(w) for w in without}) == 1 and len(without[0]) > 1 and np.isfinite(without).all()
    saving = difference([-ratio(s) for s in found], *([without] if known else []))
    margin = -math.log(1 - MARGIN)
    word = verdict.decide(verdict.of(saving, margin))
    if word == verdict.SMALL:
        return word.format(100 * MARGIN) + " %", saving
    return word or verdict.verdict(verdict.Evidence(), [(saving, margin)]), saving


def sentence(method: str, found: list[Saving]) -> str:
    """One sentence on the labels that a method saves: images needed, their 95 % interval over seeds, the verdict.

    The mean and the interval are those of the logarithm of the images.
    """
    if not found:
        return f"{method}: not known yet, because no seed has all results."
    labels, n = found[0].labels, len(found)
    target = statistics.fmean(s.target for s in found)
    full = f"the mAP that all {labels} labelled images give without pretraining ({target:.1f} %)"
    word, saving = decide(found)
    if n == 1:
        only = found[0]
        most = "at most " if only.at_most else ""
        how = "never reached" if math.isnan(only.needed) else f"reached with {most}{only.needed:.0f}"
        return f"{method}: {full}: {how} in one seed, which gives no interval and no verdict."
    if saving is None:
        reached = sum(not math.isnan(s.needed) for s in found)
        fewer = sum(s.at_most for s in found)
        return (
            f"{method}: labels saved: {word}. With pretraining, {reached} of {n} seeds reach {full}, {fewer} of "
            "them with the smallest share of labels already, so the number of images has no interval. "
            f"{bound(found)}"
        )
    low, high = saving.interval()
    needed, most_needed, least_needed = (labels * math.exp(-x) for x in (saving.mean, low, high))
    share, least, most_saved = (100 * (1 - math.exp(-x)) for x in (saving.mean, low, high))
    saved = (
        f"{share:.0f} % of the labels saved [{least:.0f}, {most_saved:.0f}]"
        if share >= 0
        else f"{-share:.0f} % more labels needed [{-most_saved:.0f}, {-least:.0f}]"
    )
    return (
        f"{method}: labels saved: {word}. With pretraining, {needed:.0f} images [{least_needed:.0f}, "
        f"{most_needed:.0f}] give {full}: {saved} "
        f"(geometric mean, 95 % interval over n = {n} seeds{' and the images' if saving.images else ''}). "
        f"{allowed(least, most_saved)}"
    ).rstrip()


def allowed(least: float, most: float) -> str:
    """What an interval of the share of labels saved allows to say, in percent; negative where more are needed."""
    if math.isnan(least):
        return "Without an interval, this says nothing about other seeds."
    if round(least) > 0:
        return ""  # the interval has said it
    if round(most) < 0:
        return f"The interval allows to say that none are saved: {-most:.0f} % to {-least:.0f} % more are needed."
    return (
        f"The interval allows anything from {max(0.0, -least):.0f} % more labels needed to {max(0.0, most):.0f} % "
        "of them saved, so it does not say that pretraining saves labels."
    )


def bound(found: Sequence[Saving]) -> str:
    """What seeds without an interval allow to say."""
    most = max(math.inf if math.isnan(s.needed) else s.needed / s.labels for s in found)
    if most >= 1:
        return "This does not say that pretraining saves labels."
    return (
        f"Each of these seeds saves at least {100 * (1 - most):.0f} % of the labels; for others there is no bound."
    )


def table(found: dict[str, dict[int, Saving]]) -> pd.DataFrame:
    """One row per method and seed."""
    rows = [
        {
            "method": method,
            "seed": seed,
            "labelled images": s.labels,
            "mAP without pretraining, %": round(s.target, 2),
            "images needed with pretraining": "not reached"
            if math.isnan(s.needed)
            else f"{'≤ ' * s.at_most}{s.needed:.0f}",
        }
        for method, seeds in found.items()
        for seed, s in seeds.items()
    ]
    return pd.DataFrame(rows, dtype=object)
