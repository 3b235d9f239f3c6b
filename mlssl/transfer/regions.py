"""Classification of annotated boxes by a frozen backbone's maps: RoIAlign, then a linear layer or nearest
neighbours.

Boxes are given, so the score is about what a box contains and not about finding it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import roi_align

from mlssl.data.coco import Split
from mlssl.errors import MissingLabels
from mlssl.seeds import seed_of
from mlssl.study.settings import Regions
from mlssl.transfer.features import MAPS, each_maps
from mlssl.transfer.jackknife import groups, row, without_each_part
from mlssl.transfer.knn import vote
from mlssl.transfer.linear import hold_out
from mlssl.transfer.load import load_backbone, random_order, read_splits
from mlssl.transfer.logistic import Fit, basis, fit
from mlssl.transfer.metrics import confusion_matrix, segmentation_scores
from mlssl.transfer.needs import parts as missing

BINS = 7
"""RoIAlign's bins per side."""
SIZES = {"small": (0, 32), "medium": (32, 96), "large": (96, math.inf)}
"""COCO's limits of the square root of an object's area, in pixels of an image whose short side is 800."""
COCO_SIZE = 800
NONE = -1
"""Ignored class of a confusion matrix; no box has it."""


class Boxes(NamedTuple):
    """N boxes of some images, with their features."""

    features: dict[str, Tensor]
    """By map, float32 N x D."""
    labels: Tensor
    """int64 N, category index."""
    image: Tensor
    """int64 N, index of the image in the split."""
    side: Tensor
    """float32 N, square root of the area in pixels of the network's input."""


def limits(size: int) -> dict[str, tuple[float, float]]:
    """COCO's size classes for inputs of size x size pixels, scaled as the anchors of `detection` are: by
    sqrt(size / 800).

    Of each, the smallest side (included) and the largest (not included), where side is the square root of the area.
    """
    zoom = math.sqrt(size / COCO_SIZE)
    return {name: (low * zoom, high * zoom) for name, (low, high) in SIZES.items()}


def pooled(maps: Tensor, boxes: Sequence[Tensor], size: int) -> Tensor:
    """Mean of RoIAlign's 7 x 7 bins (aligned, adaptive sampling): float N x D.

    `maps` float B x D x h x w, of inputs of size x size pixels; `boxes` one float n x 4 (x1 y1 x2 y2 in pixels of
    the input) per image, in whose order the N boxes are.
    """
    scale = maps.shape[-1] / size
    found = roi_align(maps, list(boxes), BINS, spatial_scale=scale, sampling_ratio=-1, aligned=True)
    return found.mean(dim=(2, 3))


def read_boxes(
    backbone: nn.Module,
    split: Split,
    images: Sequence[int],
    *,
    size: int,
    batch_size: int,
    device: torch.device,
    progress: bool,
    maps: Sequence[str] = MAPS,
) -> Boxes:
    """The boxes of some images, crowds excepted, with features of each map; one forward pass per image."""
    features: dict[str, list[Tensor]] = {name: [] for name in maps}
    labels, owners, sides = [], [], []
    for index, found in each_maps(
        backbone, split, images, size=size, batch_size=batch_size, device=device, progress=progress
    ):
        boxes = []
        for i in index:
            objects, image = split.instances(i), split.images[i]
            zoom = torch.tensor([size / image["width"], size / image["height"]] * 2, dtype=torch.float32)
            box = torch.from_numpy(objects.boxes[~objects.crowd]) * zoom
            boxes.append(box.to(device))
            labels.append(torch.from_numpy(objects.labels[~objects.crowd]))
            owners.append(torch.full((len(box),), i))
            sides.append((box[:, 2:] - box[:, :2]).prod(dim=1).sqrt())
        for name in maps:
            features[name].append(pooled(found[name], boxes, size))
    return Boxes(
        {name: torch.cat(f) for name, f in features.items()},
        *(torch.cat(values).to(device) for values in (labels, owners, sides)),
    )


def accuracies(prediction: Tensor, target: Tensor, classes: int) -> dict[str, float]:
    """Accuracy in percent of int64 N against int64 N: `mAcc`, the mean over the classes in `target`, and `aAcc`."""
    scores = segmentation_scores(confusion_matrix(prediction, target, classes, NONE))
    return {name: scores[name] for name in ("mAcc", "aAcc")}


def choose_weight_decay(
    x: Tensor, y: Tensor, held: Tensor, classes: int, config: Regions
) -> tuple[float, dict[float, float], list[Fit]]:
    """The L2 penalty with the best mAcc on held-out boxes (bool N), the scores, and the fits; on ties, the largest.

    The middle candidate, if all boxes are held out, or none.
    """
    if held.all() or not held.any():
        return sorted(config.weight_decays)[len(config.weight_decays) // 2], {}, []
    of, start, scores, fits = basis(x[~held]), None, {}, []
    target = F.one_hot(y[~held], classes)
    for candidate in sorted(config.weight_decays, reverse=True):
        found = fit(
            of,
            target,
            candidate,
            softmax=True,
            tolerance=config.tolerance,
            iterations=config.iterations,
            start=start,
        )
        start = found.solution
        scores[candidate] = accuracies(found.probe.scores(x[held]).argmax(dim=1), y[held], classes)["mAcc"]
        fits.append(found)
    return max(scores, key=lambda c: (scores[c], c)), scores, fits


def choose_neighbours(x: Tensor, y: Tensor, held: Tensor, classes: int, config: Regions) -> tuple[int, list[float]]:
    """The number of neighbours with the best mAcc on held-out boxes, on ties the smallest; and the scores.

    The middle candidate, if all boxes are held out, or none.
    """
    candidates = sorted(config.neighbours)
    if held.all() or not held.any():
        return candidates[len(candidates) // 2], []
    votes = vote(x[held], x[~held], F.one_hot(y[~held], classes), candidates, config.temperature)
    scores = [accuracies(v.argmax(dim=1), y[held], classes)["mAcc"] for v in votes]
    return candidates[scores.index(max(scores))], scores


def rows_of(
    protocol: str, prefix: str, prediction: Tensor, boxes: Boxes, classes: int, images: int, wanted: Sequence[str],
    kept: Tensor | None = None, suffix: str = "",
) -> list[dict[str, Any]]:  # fmt: skip
    """One row per wanted metric, over all boxes or those `kept` (bool N); none if there is no box.

    Groups of the jackknife are groups of the first `images` images of the split.
    """
    kept = torch.ones_like(boxes.image, dtype=torch.bool) if kept is None else kept
    group = groups(images).to(boxes.image.device)[boxes.image]
    parts = torch.stack(
        [
            confusion_matrix(prediction[own], boxes.labels[own], classes, NONE)
            for own in (kept & (group == g) for g in range(int(groups(images).max()) + 1))
        ]
    )
    if parts.sum() == 0:
        return []
    rows = []
    for name in wanted:

        def metric(counts: Tensor, name: str = name) -> float | None:
            return segmentation_scores(counts)[name] if counts.sum() else None

        value = metric(parts.sum(dim=0))
        assert value is not None
        rows.append(
            row(protocol, f"{prefix}{name}{suffix}", value, images, without_each_part(images, parts, metric))
        )
    return rows


def evaluate(
    backbone_file: Path, config: Regions, *, seed: int, device: torch.device, progress: bool = True
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows for the map C5 (protocol `regions`) and for C4 (`regions_c4`), in percent, and notes.

    mAcc is the mean accuracy over the categories, aAcc that over all boxes, both of the linear layer; knn_mAcc and
    knn_aAcc are those of nearest neighbours. mAcc_small, _medium and _large are over boxes of a size; a size
    without a validation box has no row. Raises MissingLabels with the sentence of `missing`.
    """
    backbone, _ = load_backbone(backbone_file, output_stride=config.output_stride)
    train, val = read_splits(config.data)
    if why := missing(train, val):
        raise MissingLabels(why)
    order = random_order(len(train), seed_of(seed, "regions", "images"))[: config.train_images]
    _, held_images = hold_out(order, config.selection)
    count = min(config.eval_images or len(val), len(val))
    classes = len(val.categories)
    how: dict[str, Any] = {
        "size": config.size,
        "batch_size": config.batch_size,
        "device": device,
        "progress": progress,
    }
    learned = read_boxes(backbone, train, order.tolist(), **how)
    scored = read_boxes(backbone, val, range(count), **how)
    held = torch.isin(learned.image, held_images.to(device))
    for split, images, boxes in ((train, len(order), learned), (val, count, scored)):
        if not len(boxes.labels):
            raise MissingLabels(
                f"{split.annotation_file}: the {images} images that are used have no box; use more of them"
            )
    rows, maps, capped = [], {}, []
    for name in reversed(MAPS):
        protocol = "regions" if name == "c5" else f"regions_{name}"
        x, y, x_val = learned.features[name], learned.labels, scored.features[name]
        weight_decay, scores, fits = choose_weight_decay(x, y, held, classes, config)
        k, knn_scores = choose_neighbours(x, y, held, classes, config)
        final = fit(
            basis(x),
            F.one_hot(y, classes),
            weight_decay,
            softmax=True,
            tolerance=config.tolerance,
            iterations=config.iterations,
        )
        capped += [{"protocol": protocol, "gradient": f.gradient} for f in (*fits, final) if not f.converged]
        prediction = final.probe.scores(x_val).argmax(dim=1)
        rows += rows_of(protocol, "", prediction, scored, classes, count, ("mAcc", "aAcc"))
        for size, (low, high) in limits(config.size).items():
            kept = (scored.side >= low) & (scored.side < high)
            rows += rows_of(protocol, "", prediction, scored, classes, count, ("mAcc",), kept, f"_{size}")
        (votes,) = vote(x_val, x, F.one_hot(y, classes), [k], config.temperature)
        rows += rows_of(protocol, "knn_", votes.argmax(dim=1), scored, classes, count, ("mAcc", "aAcc"))
        maps[protocol] = {
            "features": x.shape[1],
            "parameters": (x.shape[1] + 1) * classes,
            "weight_decay": weight_decay,
            "selection_mAcc": {f"{c:g}": s for c, s in scores.items()},
            "neighbours": k,
            "selection_knn_mAcc": {str(c): s for c, s in zip(sorted(config.neighbours), knn_scores, strict=False)},
        }
    sides = {name: f"side {low:.1f} to {high:.1f} px" for name, (low, high) in limits(config.size).items()}
    notes = {
        "head": f"RoIAlign {BINS} x {BINS}, mean over bins; linear layer on standardised features, and nearest "
        "boxes by cosine",
        "solver": f"truncated Newton to a gradient of {config.tolerance:g}, at most {config.iterations} steps",
        "not_converged": capped,
        "size": config.size,
        "output_stride": config.output_stride,
        "box_sizes": sides,
        "train_images": len(order),
        "train_boxes": len(learned.labels),
        "selection_images": len(held_images),
        "selection_boxes": int(held.sum()),
        "eval_images": count,
        "eval_boxes": len(scored.labels),
        "categories": classes,
        "categories_scored": len(scored.labels.unique()),
        "chance_mAcc": 100 / len(scored.labels.unique()),
        "most_frequent_aAcc": 100 * float(scored.labels.bincount().max()) / len(scored.labels),
        "maps": maps,
    }
    return rows, notes
