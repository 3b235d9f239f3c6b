"""The paper's ten claims: a sentence, its operational test, and where the paper has numbers for it.

A claim is a tree of comparisons `better - worse` of two levels of a study, all of which must hold (`every`), or one
of which is enough (`some`). The order in which evaluators decide is fixed here, before there are results.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mlssl.study.study import COMPARE

Axes = Mapping[str, Sequence[str]]
"""Axis of a study -> its levels."""


@dataclass(frozen=True)
class Level:
    """A level of a study, by its places: the first that the study has counts."""

    places: tuple[tuple[str, str], ...]
    """Axis and level."""

    def place(self, axes: Axes) -> tuple[str, str] | None:
        """Where the study has it; None if it does not."""
        return next(((axis, level) for axis, level in self.places if level in axes.get(axis, ())), None)

    def name(self, axes: Axes) -> str:
        """What tables and figures call it: the level, with its axis if that is a number's."""
        axis, level = self.place(axes) or self.places[0]
        return level if axis in (COMPARE, "loss", "dictionaries") else f"{axis} {level}"

    @property
    def needed(self) -> str:
        """What to add to a study that does not have it."""
        return " or ".join(f"{axis} = {level}" for axis, level in self.places)


@dataclass(frozen=True)
class Comparison:
    """That one level scores higher than another."""

    better: Level
    worse: Level
    metrics: tuple[str, str] | None = None
    """Metric of each level, where it is not that of the evaluator."""
    less: tuple[str, ...] = ()
    """Protocols; the same difference by the first of them that the study has is subtracted."""


@dataclass(frozen=True)
class Failures:
    """That runs of one level fail more often than those of another: they diverge, or end below the floor."""

    level: Level
    other: Level
    floor: Level
    """A run fails if it scores less than this level at the same seed."""


@dataclass(frozen=True)
class Parts:
    """Comparisons that together are a claim."""

    how: Literal["every", "some"]
    parts: tuple[Parts | Comparison | Failures, ...]


@dataclass(frozen=True)
class Numbers:
    """Where the paper has numbers for a claim."""

    table: str
    metric: str
    epochs: str
    methods: tuple[str, ...]


@dataclass(frozen=True)
class Claim:
    """One claim of the paper."""

    number: int
    sentence: str
    test: str
    """Its operational test, in words."""
    tree: Callable[[Axes], Parts | None]
    """The comparisons in a study with these axes; None without the levels that `needs` lists."""
    protocols: tuple[str, ...]
    """Its evaluators. The first by which the study measures all levels with two seeds or more decides."""
    paper: tuple[Numbers, ...] | str
    """The paper's numbers, or why there are none."""
    needs: str = ""


MLS, MOCO, DENSE = (Level(((COMPARE, name),)) for name in ("mls", "moco_v2", "densecl"))
RANDOM = Level(((COMPARE, "random"),))
NONE, SOFTMAX, POSITIVE, BCE = (
    Level((("loss", name),)) for name in ("infonce", "infonce+knn_softmax", "infonce+bce_pos", "infonce+bce")
)
BCE_ALONE = Level((("loss", "bce alone"),))
Q_G, Q_Z, BOTH = (Level((("dictionaries", name),)) for name in ("q_g_only", "q_z_only", "q_g_and_q_z"))
WITHOUT = Level((("lam", "0.0"), ("lam", "0"), ("loss", "infonce"), (COMPARE, "moco_v2")))
"""MLS with λ = 0 is MoCo-v2."""

IMAGE_LEVEL = ("linear", "knn")
REGION_LEVEL = ("regions", "regions_c4")
PIXEL_LEVEL = ("dense", "dense_c4", "correspondence", "segmentation")
DETECTION = ("detection", *REGION_LEVEL, *IMAGE_LEVEL, *PIXEL_LEVEL)
"""For claims that the paper bases on detection: detection, then what is closest to it and has less noise."""
BEST_K, TOO_LARGE_K, BEST_LAM = "20", "40", "0.5"


TABLE_5 = (
    *("voc07_mAP", "cub200_top1", "flowers_top1", "cars_top1"),
    *("aircraft_top1", "indoor67_top1", "pets_top1", "dtd_top1"),
)
"""Its metrics: multi-label classification first, then data sets with one label per image."""


def every(*parts: Parts | Comparison | Failures) -> Parts:
    return Parts("every", parts)


def some(*parts: Parts | Comparison | Failures) -> Parts:
    return Parts("some", parts)


def _k(axes: Axes) -> Parts:
    others = [level for level in axes.get("k", ()) if level not in (BEST_K, TOO_LARGE_K)]
    best = Level((("k", BEST_K),))
    return every(*(Comparison(best, Level((("k", level),))) for level in (*others, TOO_LARGE_K)))


def _dictionary_size(axes: Axes) -> Parts | None:
    sizes = sorted(axes.get("dictionary_size", ()), key=float)
    if len(sizes) < 3:
        return None
    low, *inner, high = (Level((("dictionary_size", size),)) for size in sizes)
    return some(*(every(Comparison(size, low), Comparison(size, high)) for size in inner))


def _lam(axes: Axes) -> Parts | None:
    weights = [level for level in axes.get("lam", ()) if float(level) > 0]
    if BEST_LAM not in weights or len(weights) < 2:
        return None
    levels = {level: Level((("lam", level),)) for level in weights}
    helps = [Comparison(level, WITHOUT) for level in levels.values()]
    best = [Comparison(levels[BEST_LAM], level) for name, level in levels.items() if name != BEST_LAM]
    return every(*helps, *best)


CLAIMS = (
    Claim(
        1,
        "Pretraining by MLS transfers to detection better than by MoCo-v2.",
        "mls − moco_v2 > 0",
        lambda axes: every(Comparison(MLS, MOCO)),
        DETECTION,
        (Numbers("table1", "AP_bbox", "800", ("mls", "moco_v2")),),
    ),
    Claim(
        2,
        "Pretraining by MLS transfers to detection better than by DenseCL.",
        "mls − densecl > 0",
        lambda axes: every(Comparison(MLS, DENSE)),
        DETECTION,
        (Numbers("table1", "AP_bbox", "800", ("mls", "densecl")),),
    ),
    Claim(
        3,
        "MLS is better than the others in multi-label classification, and there by the widest margin.",
        "mls − moco_v2 > 0 and mls − densecl > 0, and each difference is larger than in classification of regions, "
        "which have one label",
        lambda axes: every(
            *(Comparison(MLS, other) for other in (MOCO, DENSE)),
            *(Comparison(MLS, other, less=REGION_LEVEL) for other in (MOCO, DENSE)),
        ),
        IMAGE_LEVEL,
        tuple(Numbers("table5", metric, "400", ("mls", "moco_v2", "densecl")) for metric in TABLE_5),
    ),
    Claim(
        4,
        "Beside InfoNCE, BCE is the best multi-label loss, then its positive part, then a softmax over neighbours; "
        "each is better than none.",
        "every step of the order BCE > BCE-pos > kNN softmax > none",
        lambda axes: every(Comparison(BCE, POSITIVE), Comparison(POSITIVE, SOFTMAX), Comparison(SOFTMAX, NONE)),
        DETECTION,
        (
            Numbers(
                "table6", "AP_bbox", "400", ("infonce+bce", "infonce+bce_pos", "infonce+knn_softmax", "infonce")
            ),
        ),
    ),
    Claim(
        5,
        "Labels from backbone features and logits from projections are better than one dictionary for both.",
        "q_g_and_q_z − q_g_only > 0 and q_g_and_q_z − q_z_only > 0",
        lambda axes: every(Comparison(BOTH, Q_G), Comparison(BOTH, Q_Z)),
        DETECTION,
        (Numbers("table7", "AP_bbox", "400", ("q_g_and_q_z", "q_g_only", "q_z_only")),),
    ),
    Claim(
        6,
        "20 positives per query are best, and 40 are too many.",
        "k = 20 is better than every other k of the study, 40 among them",
        _k,
        DETECTION,
        (Numbers("table8", "AP_bbox", "400", ("k=1", "k=5", "k=20", "k=40")),),
    ),
    Claim(
        7,
        "A dictionary can be too small and too large.",
        "a size between the smallest and the largest is better than both",
        _dictionary_size,
        DETECTION,
        "curve only (figure 5a)",
        "dictionary_size with three levels or more",
    ),
    Claim(
        8,
        "The multi-label loss helps at every weight λ, and most at 0.5.",
        "every λ of the study is better than none (MoCo-v2), and 0.5 is better than every other λ",
        _lam,
        DETECTION,
        "curve only (figure 5b)",
        "lam = 0.5 and another level of lam",
    ),
    Claim(
        9,
        "The multi-label loss without InfoNCE trains unstably.",
        "runs with BCE alone diverge or end below random weights more often than with InfoNCE (Fisher's exact "
        "test), or their mean is below random weights; contradicted if none fails and their mean is above",
        lambda axes: some(Failures(BCE_ALONE, BCE, RANDOM), Comparison(RANDOM, BCE_ALONE)),
        (*IMAGE_LEVEL, *REGION_LEVEL, "detection", *PIXEL_LEVEL),
        "text only (section 3.3)",
    ),
    Claim(
        10,
        "Backbone features become indicative of what images share, more than projections do.",
        "labels from backbone features share a category with their query more often than random entries do, and "
        "more often than labels from projections. That scores of projections stay normal is not tested: "
        "figures/histograms shows it",
        lambda axes: every(Comparison(BOTH, BOTH, metrics=("shared", "chance")), Comparison(BOTH, Q_Z)),
        ("pseudo_labels",),
        "histograms only (figure 3)",
    ),
)
"""In the order of their numbers."""
