"""Linear segmentation on the frozen maps of a backbone: every cell is classified, and logits are upsampled.

The classifier is linear discriminant analysis (Hastie, Tibshirani and Friedman, The Elements of Statistical
Learning, section 4.3) with the shares of a cell's pixels as soft labels. It needs only sums over cells, so it is
exact, has no noise of training, and its memory does not depend on the number of images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mlssl.data.coco import Split
from mlssl.data.semantic import IGNORE
from mlssl.errors import MissingLabels
from mlssl.seeds import seed_of
from mlssl.study.settings import Dense
from mlssl.transfer.features import MAPS, each_maps
from mlssl.transfer.jackknife import groups, row, without_each_part
from mlssl.transfer.linear import hold_out
from mlssl.transfer.load import load_backbone, random_order, read_splits
from mlssl.transfer.metrics import confusion_matrix, segmentation_scores
from mlssl.transfer.needs import masks as missing


class Sums(NamedTuple):
    """What the classifier needs of N cells with D features and C classes; all float64."""

    cells: Tensor
    """C, the number of cells of each class; a cell counts for a class by the share of its pixels."""
    first: Tensor
    """C x D, the sum of their features."""
    second: Tensor
    """D x D, the sum of x x^T over all cells."""

    def __add__(self, other: Sums) -> Sums:  # type: ignore[override]
        return Sums(*(a + b for a, b in zip(self, other, strict=True)))


class Learned(NamedTuple):
    """What the training images give of one map."""

    fitted: Sums
    held: Sums
    cells: Tensor
    """Of the held-out images: float N x D."""
    shares: Tensor
    """Of these cells: float64 N x C."""


class Classifier(NamedTuple):
    """One linear layer: float64 C x D and C."""

    weight: Tensor
    bias: Tensor

    def logits(self, cells: Tensor) -> Tensor:
        """float32 ... x C of float ... x D."""
        return F.linear(cells, self.weight.to(cells.dtype), self.bias.to(cells.dtype))


def cell_shares(mask: Tensor, height: int, width: int, classes: int) -> Tensor:
    """Share of each cell's pixels that are of each class, float64 (height * width) x C, in rows from the top left.

    `mask` uint8 H x W with IGNORE. A pixel belongs to the cell that its centre is in. Pixels to ignore count for no
    class, so the shares of a cell add up to 1 or less.
    """
    rows = ((torch.arange(mask.shape[0]) + 0.5) * height / mask.shape[0]).long()
    columns = ((torch.arange(mask.shape[1]) + 0.5) * width / mask.shape[1]).long()
    cell = rows[:, None] * width + columns
    pixels = cell.flatten().bincount(minlength=height * width)
    kept = mask != IGNORE
    counts = (cell[kept] * classes + mask[kept].long()).bincount(minlength=height * width * classes)
    return counts.reshape(height * width, classes).double() / pixels.clamp_min(1)[:, None]


def sums(cells: Tensor, shares: Tensor) -> Sums:
    """The sums over cells, features float N x D and shares N x C; a cell weighs as much as its shares add up to."""
    x, y = cells.double(), shares.double()
    return Sums(y.sum(dim=0), y.T @ x, (x * y.sum(dim=1, keepdim=True)).T @ x)


def discriminant(of: Sums, shrinkage: float) -> Classifier:
    """Linear discriminant analysis: the log-posterior of classes that are Gaussians with one covariance.

    w_c = S^-1 m_c and b_c = -m_c^T S^-1 m_c / 2 + log p_c, with the means m_c, the frequencies p_c, and the
    covariance within classes S, to which `shrinkage` times its mean variance is added on the diagonal. A class
    without a cell is never predicted.
    """
    there = of.cells > 0
    total = of.cells.sum()
    centre = of.first.sum(dim=0) / total
    mean = of.first / of.cells.clamp_min(1e-12)[:, None] - centre  # around the mean of all, against rounding
    mean[~there] = 0
    within = (of.second / total - centre[:, None] * centre) - (mean * of.cells[:, None] / total).T @ mean
    ridge = shrinkage * within.diagonal().mean().clamp_min(1e-12)
    within = within + ridge * torch.eye(len(within), dtype=within.dtype, device=within.device)
    weight = torch.linalg.solve(within, mean.T).T
    bias = torch.where(there, (of.cells / total).log() - (weight * mean).sum(dim=1) / 2, -1e30)
    return Classifier(weight, bias - weight @ centre)


def cell_scores(classifier: Classifier, cells: Tensor, shares: Tensor) -> float:
    """mIoU in percent over cells, by which the shrinkage is chosen: each counts by its shares of the classes."""
    predicted = F.one_hot(classifier.logits(cells).argmax(dim=1), shares.shape[1]).double()
    return segmentation_scores(shares.double().T @ predicted)["mIoU"]


def pixel_counts(logits: Tensor, mask: Tensor) -> Tensor:
    """Confusion, int64 C x C, of the logits C x h x w, upsampled bilinearly, against the mask, uint8 H x W."""
    full = F.interpolate(logits[None], size=mask.shape, mode="bilinear", align_corners=False)
    return confusion_matrix(full[0].argmax(dim=0), mask, len(logits), IGNORE)


def evaluate(
    backbone_file: Path, config: Dense, *, seed: int, device: torch.device, progress: bool = True
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows with mIoU and mAcc in percent for the map C5 (protocol `dense`) and for C4 (`dense_c4`), and notes.

    Scores come from one confusion matrix over the pixels of all evaluated images, at the size of their masks. The
    shrinkage has the best mIoU over the cells of held-out training images; on ties, the largest. Raises
    MissingLabels with the sentence of `missing`.
    """
    backbone, _ = load_backbone(backbone_file, output_stride=config.output_stride)
    train, val = read_splits(config.data)
    if why := missing(train, val):
        raise MissingLabels(why)
    order = random_order(len(train), seed_of(seed, "dense", "images"))
    fitted, held = hold_out(order[: config.train_images], config.selection)
    count = min(config.eval_images or len(val), len(val))
    classes = len(val.classes)
    each = partial(
        each_maps, backbone, size=config.size, batch_size=config.batch_size, device=device, progress=progress
    )
    learned = learn(each, train, fitted.tolist(), held.tolist(), classes, device)
    if not all(part.cells.sum() for part in (learned["c5"].fitted, learned["c5"].held)):
        raise MissingLabels(
            f"{train.annotation_file}: all pixels of the training images, or of those held out, are of crowds and "
            "have no class; annotate objects"
        )
    classifiers, notes_of = {}, {}
    for name, of in learned.items():
        shrinkage, scores = choose(of, config.shrinkages)
        classifiers[name] = discriminant(of.fitted + of.held, shrinkage)
        notes_of[name] = {
            "features": of.cells.shape[1],
            "parameters": (of.cells.shape[1] + 1) * classes,
            "shrinkage": shrinkage,
            "selection_cell_mIoU": {f"{s:g}": v for s, v in scores.items()},
        }
    group = groups(count)
    counts = {name: torch.zeros(int(group.max()) + 1, classes, classes, dtype=torch.int64) for name in MAPS}
    for index, maps in each(val, range(count)):
        masks = [torch.from_numpy(val.semantic_mask(i)).to(device) for i in index]
        for name, found in maps.items():
            logits = classifiers[name].logits(found.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            for i, one, mask in zip(index, logits, masks, strict=True):
                counts[name][group[i]] += pixel_counts(one, mask).cpu()
            notes_of[name]["cells"] = f"{found.shape[2]} x {found.shape[3]}"
    rows = [
        _row("dense" if name == "c5" else f"dense_{name}", metric, counts[name], count)
        for name in reversed(MAPS)
        for metric in ("mIoU", "mAcc")
    ]
    total = counts["c5"].sum(dim=0)
    notes = {
        "head": "linear discriminant analysis of cells, shares of pixels as labels",
        "evaluation": f"input of {config.size} x {config.size}, logits upsampled to each mask's size",
        "output_stride": config.output_stride,
        "train_images": len(fitted) + len(held),
        "selection_images": len(held),
        "eval_images": count,
        "classes": classes,
        "classes_scored": int(((total.sum(dim=0) + total.sum(dim=1)) > 0).sum()),
        **_constant(total, val),
        **label_notes(val),
        "maps": {("dense" if name == "c5" else f"dense_{name}"): notes_of[name] for name in reversed(MAPS)},
    }
    return rows, notes


def learn(
    each: Callable[[Split, Sequence[int]], Iterator[tuple[list[int], dict[str, Tensor]]]],
    split: Split,
    fitted: Sequence[int],
    held: Sequence[int],
    classes: int,
    device: torch.device,
) -> dict[str, Learned]:
    """What a classifier of each map needs of the images to fit and of those held out; `each` reads their maps."""
    parts: dict[str, dict[bool, Sums]] = {name: {} for name in MAPS}
    kept: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in MAPS}
    for is_held, images in ((False, fitted), (True, held)):
        for index, maps in each(split, images):
            masks = [torch.from_numpy(split.semantic_mask(i)) for i in index]
            for name, found in maps.items():
                cells = found.flatten(2).transpose(1, 2).flatten(0, 1)
                height, width = found.shape[2:]
                shares = torch.cat([cell_shares(mask, height, width, classes) for mask in masks]).to(device)
                own = sums(cells, shares)
                parts[name][is_held] = parts[name][is_held] + own if is_held in parts[name] else own
                if is_held:
                    kept[name].append((cells, shares))
    return {
        name: Learned(parts[name][False], parts[name][True], *map(torch.cat, zip(*kept.pop(name), strict=True)))
        for name in MAPS
    }


def choose(of: Learned, shrinkages: Sequence[float]) -> tuple[float, dict[float, float]]:
    """The shrinkage with the best mIoU over the held-out cells, on ties the largest; and all scores."""
    scores = {s: cell_scores(discriminant(of.fitted, s), of.cells, of.shares) for s in shrinkages}
    return max(scores, key=lambda s: (scores[s], s)), scores


def _row(protocol: str, metric: str, counts: Tensor, images: int) -> dict[str, Any]:
    def score(total: Tensor) -> float | None:
        return segmentation_scores(total)[metric] if total.sum() else None

    value = score(counts.sum(dim=0))
    if value is None:
        raise MissingLabels(
            f"{protocol}: no pixel of the {images} validation images has a class; evaluate more of them"
        )
    return row(protocol, metric, value, images, without_each_part(images, counts, score))


def label_notes(val: Split) -> dict[str, Any]:
    """Where the labels come from and, with semantic masks, the names of the classes by index."""
    if val.semantic is None:
        return {"labels": "instances, painted on background"}
    return {"labels": "semantic masks", "class_names": list(val.classes)}


def _constant(total: Tensor, val: Split) -> dict[str, float]:
    """mIoU in percent of predicting one class everywhere: background, else the most frequent one.

    `total` is a confusion matrix C x C, of which only the true classes are used.
    """
    background = val.classes[0] == "background"
    constant = torch.zeros_like(total)
    constant[:, 0 if background else int(total.sum(dim=1).argmax())] = total.sum(dim=1)
    name = "background_only_mIoU" if background else "most_frequent_only_mIoU"
    return {name: segmentation_scores(constant)["mIoU"]}
