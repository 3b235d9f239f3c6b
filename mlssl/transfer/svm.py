"""Linear support vector machines on frozen features, with all labels and with few: VOC07's protocol.

As VISSL and OpenSelfSup run it (Goyal et al., arXiv 1905.01235, section 4): one `LinearSVC` of scikit-learn per
category, on the L2-normalised features of a map that is averaged to about 9,000 dimensions; the cost of an error is
chosen per category by cross-validation. The average precision is VOC's of 2010: all points, with envelope.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import average_precision_score
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import LinearSVC
from torch import Tensor, nn
from torch.nn import functional as F

from mlssl.data.coco import Split
from mlssl.errors import ConfigError, MissingLabels
from mlssl.seeds import seed_of
from mlssl.study.settings import Svm
from mlssl.transfer.features import frozen
from mlssl.transfer.jackknife import row, without_each
from mlssl.transfer.load import bar, image_tensor, load_backbone, read_splits, resize, resize_short
from mlssl.transfer.metrics import area_under_envelope
from mlssl.transfer.needs import labels as missing

POOLING = {"c1": (10, 10, 4), "c2": (16, 8, 0), "c3": (13, 5, 0), "c4": (8, 3, 0), "c5": (6, 1, 0)}
"""Layer -> kernel, stride and padding of the average pooling, for inputs of 224 pixels."""
GRIDS = {"c1": 12, "c2": 6, "c3": 4, "c4": 3, "c5": 2}
"""Layer -> cells per side of the pooled map, for inputs of any size."""
EPSILON = 1e-5
"""Added to the norm of a feature before division."""


def presence(split: Split) -> np.ndarray:
    """int8 images x C: 1 where the category is there, -1 where all its objects are difficult (crowds), else 0."""
    shown = split.labels().astype(np.int8)
    column = {category["id"]: i for i, category in enumerate(split.categories)}
    for i, image in enumerate(split.images):
        for a in split.annotations[image["id"]]:
            j = column[a["category_id"]]
            if a.get("iscrowd", 0) and not shown[i, j]:
                shown[i, j] = -1
    return shown


def all_point_ap(scores: np.ndarray, positive: np.ndarray) -> float:
    """VOC's average precision of 2010 in percent: the area under the envelope of precision over recall.

    `scores` float N, `positive` bool N. The precision at a recall is the largest at this recall or a higher one.
    Raises ValueError without a positive example.
    """
    if not positive.any():
        raise ValueError("average precision is undefined without a positive example")
    right = positive[np.argsort(-scores, kind="stable")]
    hits = right.cumsum()
    return 100 * area_under_envelope(hits / hits[-1], hits / np.arange(1, len(right) + 1))


def pool(maps: Tensor, layer: str, size: int) -> Tensor:
    """B x D x h x w -> B x (D g g), L2-normalised; g cells per side."""
    if size == 224:
        kernel, stride, padding = POOLING[layer]
        found = F.avg_pool2d(maps, kernel, stride, padding)
    else:
        found = F.adaptive_avg_pool2d(maps, GRIDS[layer])
    flat = found.flatten(1)
    return flat / (flat.norm(dim=1, keepdim=True) + EPSILON)


def layer_maps(backbone: nn.Module, layers: Sequence[str], size: int, images: Tensor) -> tuple[Tensor, ...]:
    """The pooled features of each layer. Raises ConfigError for a backbone that has no map `c1`."""
    wanted = 5 if "c1" in layers else 4
    try:
        maps: list[Tensor] = backbone.forward_intermediates(  # type: ignore[operator]
            images, indices=wanted, intermediates_only=True
        )
    except (ValueError, AssertionError):
        raise ConfigError("svm.layers: the backbone has no map before its first stage; leave c1 out") from None
    named = dict(zip(("c1", "c2", "c3", "c4", "c5")[-wanted:], maps, strict=True))
    return tuple(pool(named[layer].float(), layer, size) for layer in layers)


def read_example(split: Split, config: Svm, i: int) -> tuple[int, Tensor]:
    """The i-th image as the protocol resizes it: its short side first, then both sides to `size`."""
    image = image_tensor(split, i)
    if config.resize is not None:
        image = resize_short(image, config.resize)
    return i, resize(image, config.size)


def extract(
    backbone: nn.Module, split: Split, config: Svm, device: torch.device, progress: bool
) -> dict[str, np.ndarray]:
    """Layer -> float32 N x D features of all images."""
    found: list[tuple[Tensor, ...]] = [
        tuple(f.cpu() for f in features)
        for _, features in frozen(
            backbone,
            partial(layer_maps, backbone, config.layers, config.size),
            split,
            partial(read_example, split, config),
            range(len(split)),
            batch_size=config.batch_size,
            device=device,
            progress=progress,
        )
    ]
    parts = zip(*found, strict=True)
    return {layer: torch.cat(each).numpy() for layer, each in zip(config.layers, parts, strict=True)}


def machine(cost: float, config: Svm, seed: int) -> LinearSVC:
    """One category's classifier, of labels 1 and -1."""
    return LinearSVC(
        C=cost,
        class_weight={1: config.positive_weight, -1: 1.0},
        penalty="l2",
        loss="squared_hinge",
        dual=True,
        tol=config.tolerance,
        max_iter=config.iterations,
        random_state=seed,
    )


def fit(x: np.ndarray, y: np.ndarray, cost: float, config: Svm, seed: int) -> tuple[LinearSVC, bool]:
    """The fitted classifier, and whether it converged."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        found = machine(cost, config, seed).fit(x, y)
    return found, not any(issubclass(w.category, ConvergenceWarning) for w in caught)


def choose_cost(x: np.ndarray, y: np.ndarray, config: Svm, seed: int) -> float:
    """The cost with the best mean average precision in cross-validation; on ties, the smallest.

    `y` int N is 1 or -1. With fewer images of a kind than folds, there are as many folds; with a single one, the
    cost nearest to 1, scikit-learn's default, is taken.
    """
    folds = min(config.folds, int((y == 1).sum()), int((y == -1).sum()))
    if folds < 2:
        return min(sorted(config.costs), key=lambda c: abs(np.log(c)))
    parts = list(StratifiedKFold(folds).split(x, y))
    scores = {}
    for cost in sorted(config.costs):
        found = []
        for train, held in parts:
            fitted, _ = fit(x[train], y[train], cost, config, seed)
            found.append(average_precision_score(y[held] == 1, fitted.decision_function(x[held])))
        scores[cost] = float(np.mean(found))
    return max(sorted(scores), key=lambda c: scores[c])


def low_shot(shown: np.ndarray, category: int, k: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of k images with a category and of k with each other one and without it; fewer where there are fewer.

    `shown` int8 N x C as `presence` gives it; images where the category is difficult are left out.
    """

    def draw(candidates: np.ndarray) -> np.ndarray:
        return rng.permutation(candidates)[:k]

    chosen = [draw(np.flatnonzero(shown[:, category] == 1))]
    without = shown[:, category] == 0
    for other in range(shown.shape[1]):
        if other != category:
            left = without.copy()
            left[np.concatenate(chosen)] = False  # an image is drawn once
            chosen.append(draw(np.flatnonzero(left & (shown[:, other] == 1))))
    return np.concatenate(chosen)


def mean_ap(scores: np.ndarray, shown: np.ndarray) -> float:
    """Mean all-point AP over the categories that are on some images and not on others; difficult ones left out."""
    found = []
    for j in range(shown.shape[1]):
        kept = shown[:, j] >= 0
        positive = shown[kept, j] == 1
        if positive.any() and not positive.all():
            found.append(all_point_ap(scores[kept, j], positive))
    if not found:
        raise ValueError("no category has both a positive and a negative example")
    return float(np.mean(found))


def mean_ap_without_each(scores: np.ndarray, shown: np.ndarray) -> list[float] | None:
    """`mean_ap` without each group of images (see `jackknife`); None where that leaves no category."""

    def metric(kept: Tensor) -> float | None:
        try:
            return mean_ap(scores[kept.numpy()], shown[kept.numpy()])
        except ValueError:
            return None

    return without_each(len(shown), metric)


def evaluate(
    backbone_file: Path, config: Svm, *, seed: int, device: torch.device, progress: bool = True
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows with the mAP in percent of each protocol of `config.protocols`, and notes.

    With few labels there are two rows: `mAP`, whose costs are chosen on the training images, and
    `mAP_best_on_test`, as published: of one cost for all categories, the one whose mean over the samples is highest
    on the evaluated images. Raises MissingLabels with the sentence of `missing`.
    """
    backbone, _ = load_backbone(backbone_file)
    train, val = read_splits(config.data)
    if why := missing(train, val):
        raise MissingLabels(why)
    shown, shown_val = presence(train), presence(val)
    x, x_val = (extract(backbone, split, config, device, progress) for split in (train, val))
    rows, notes_of, capped = [], {}, 0
    solver_seed = seed_of(seed, "svm") % 2**32
    for layer in bar(config.layers, "SVMs", progress):
        name = "svm" if layer == "c5" else f"svm_{layer}"
        if config.all_labels:
            # Absent and difficult: both are negatives in training.
            scores, costs, missed = one_each(
                x[layer], np.where(shown == 1, 1, -1), None, x_val[layer], config, solver_seed
            )
            capped += missed
            value, without = mean_ap(scores, shown_val), mean_ap_without_each(scores, shown_val)
            rows.append(row(name, "mAP", value, len(val), without))
            notes_of[name] = {"costs": costs, "train_images": len(train)}
        for k in config.shots:
            found, notes_of[f"{name}_k{k}"], missed = of_few(
                x[layer], shown, x_val[layer], shown_val, k, config, seed
            )
            capped += missed
            rows += [row(f"{name}_k{k}", metric, v, len(val), None) for metric, v in found.items()]
    notes = {
        "head": "one linear SVM per category (squared hinge, L2) on L2-normalised maps of the frozen backbone",
        "pooling": "VOC07's kernels" if config.size == 224 else "adaptive, to the grids of 224 pixels",
        "features": {layer: values.shape[1] for layer, values in x.items()},
        "fits_at_iterations": capped,
        "train_images": len(train),
        "eval_images": len(val),
        "categories": len(val.categories),
        "protocols": notes_of,
    }
    return rows, notes


def one_each(
    x: np.ndarray,
    y: np.ndarray,
    chosen: Sequence[np.ndarray] | None,
    x_val: np.ndarray,
    config: Svm,
    seed: int,
    cost: float | None = None,
) -> tuple[np.ndarray, list[float | None], int]:
    """Scores N_val x C of one classifier per category, their costs, and how many fits did not converge.

    `y` N x C is 1 or -1. `chosen` has the training images of each category, None takes all. `cost` is that of all,
    None chooses. A category without an image of both kinds scores 0 everywhere.
    """
    scores, missed = np.zeros((len(x_val), y.shape[1])), 0
    costs: list[float | None] = []
    for j in range(y.shape[1]):
        rows = np.arange(len(x)) if chosen is None else chosen[j]
        target = y[rows, j]
        if len(set(target.tolist())) < 2:
            costs.append(None)
            continue
        own = choose_cost(x[rows], target, config, seed) if cost is None else cost
        costs.append(own)
        fitted, converged = fit(x[rows], target, own, config, seed)
        missed += not converged
        scores[:, j] = fitted.decision_function(x_val)
    return scores, costs, missed


def of_few(
    x: np.ndarray,
    shown: np.ndarray,
    x_val: np.ndarray,
    shown_val: np.ndarray,
    k: int,
    config: Svm,
    seed: int,
) -> tuple[dict[str, float], dict[str, Any], int]:
    """`mAP` and `mAP_best_on_test`, means over the samples of k images per category; notes; fits not converged."""
    y = np.where(shown == 1, 1, -1)
    of_train: list[float] = []
    of_cost: dict[float, list[float]] = {cost: [] for cost in config.costs}
    missed = 0
    for index in range(config.samples):
        rng = np.random.default_rng(seed_of(seed, "svm", "shots", k, index))
        chosen = [low_shot(shown, j, k, rng) for j in range(shown.shape[1])]
        solver = seed_of(seed, "svm") % 2**32
        scores, _, more = one_each(x, y, chosen, x_val, config, solver)
        missed += more
        of_train.append(mean_ap(scores, shown_val))
        for cost, values in of_cost.items():
            scores, _, more = one_each(x, y, chosen, x_val, config, solver, cost)
            missed += more
            values.append(mean_ap(scores, shown_val))
    best = max(of_cost, key=lambda cost: float(np.mean(of_cost[cost])))
    spread = {
        name: {"min": min(v), "max": max(v), "std": float(np.std(v))}
        for name, v in (("mAP", of_train), ("mAP_best_on_test", of_cost[best]))
    }
    found = {"mAP": float(np.mean(of_train)), "mAP_best_on_test": float(np.mean(of_cost[best]))}
    return found, {"samples": config.samples, "cost_best_on_test": best, **spread}, missed
