"""How many labels pretraining saves: the labelled images it needs to match training on all of them without it."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from mlssl.analysis.aggregate import summarise
from mlssl.analysis.outputs import linear_scores, pretrained_and_untrained
from mlssl.study.expand import COMPARE, Study

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


def savings(study: Study, metrics: pd.DataFrame) -> dict[str, dict[int, Saving]]:
    """Pretrained method -> seed -> Saving, for seeds with complete curves of this method and the untrained one.

    The study needs an untrained method, see `has_label_savings`.
    """
    pretrained, untrained = pretrained_and_untrained(study)
    assert untrained is not None
    base = curves(study, metrics, untrained)
    found = {}
    for method in pretrained:
        own = curves(study, metrics, method)
        found[method] = {seed: saving(own[seed], base[seed]) for seed in sorted(own.keys() & base.keys())}
    return found


def curves(study: Study, metrics: pd.DataFrame, method: str) -> dict[int, Curve]:
    """Seed -> curve of a compared method; seeds with a missing share are skipped."""
    points = []
    for score in reversed(linear_scores(study)):
        images = summarise(study, metrics, COMPARE, replace(score, metric="train_images"))[method].values
        points.append((images, summarise(study, metrics, COMPARE, score)[method].values))
    seeds = set.intersection(*(images.keys() & scores.keys() for images, scores in points))
    return {seed: [(int(images[seed]), scores[seed]) for images, scores in points] for seed in sorted(seeds)}


def sentence(method: str, found: list[Saving]) -> str:
    """One sentence on the labels that a method saves, with the uncertainty."""
    if not found:
        return f"{method}: not known yet, because no seed has all results."
    labels, n = found[0].labels, len(found)
    target = statistics.fmean(s.target for s in found)
    reached = [s.needed for s in found if not math.isnan(s.needed)]
    seeds = "one seed, so its uncertainty is not known" if n == 1 else f"{n} seeds"
    full = f"the mAP that all {labels} give without pretraining ({target:.1f} %)"
    if not reached:
        return f"{method}: pretraining saved no labels; it never reached {full} ({seeds})."
    if len(reached) < n:
        return (
            f"{method}: pretraining reached {full} in only {len(reached)} of {seeds}, so no saving can be claimed."
        )
    mean, spread = statistics.fmean(reached), statistics.stdev(reached) if n > 1 else 0.0
    about = f"{mean:.0f} ± {spread:.0f}" if n > 1 else f"{mean:.0f}"
    most = "at most " if any(s.at_most for s in found) else ""
    share = round(100 * (1 - mean / labels))
    if share == 0:
        return f"{method}: pretraining saved no labels; it takes all {labels} to reach {full} ({seeds})."
    doubt = (
        ""
        if n == 1 or mean + 2 * spread < labels
        else " Within two standard deviations the saving may be zero: add seeds."
    )
    return (
        f"{method}: with pretraining, {most}{about} labelled images give {full}. "
        f"It saved about {share} % of the labels ({seeds}).{doubt}"
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
