"""Frozen local features without training: matching cells between two crops of an image, and retrieving objects.

Matching asks whether a cell knows its place; retrieval whether boxes of one category are alike in different images.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mlssl.data.coco import Split
from mlssl.errors import DataError, MissingLabels
from mlssl.seeds import seed_of
from mlssl.study.settings import Correspondence
from mlssl.transfer import regions
from mlssl.transfer.features import each_maps
from mlssl.transfer.jackknife import groups, row, without_each, without_each_part
from mlssl.transfer.load import image_tensor, load_backbone, read_splits, resize
from mlssl.transfer.needs import validation_parts as missing

WITHIN = 1.0
"""Largest distance of a correct match from the true position, in cells, in x and in y."""
TRIES = 10
"""Draws of a crop's area and ratio before the whole image is taken."""
CHUNK = 1024
"""Boxes that are compared at a time."""


def draw_crop(height: int, width: int, config: Correspondence, rng: torch.Generator) -> Tensor:
    """A crop of an image: float64 (x, y, w, h, flipped), whole pixels, flipped 0 or 1 with probability 0.5.

    Area and the logarithm of the ratio are uniform, as in the augmentation of pretraining.
    """
    flipped = float(torch.rand((), generator=rng) < 0.5)
    for _ in range(TRIES):
        area, place = torch.rand(2, generator=rng, dtype=torch.float64).tolist()
        low, high = config.scale
        thin, wide = (math.log(r) for r in config.ratio)
        pixels = (low + (high - low) * area) * height * width
        ratio = math.exp(thin + (wide - thin) * place)
        w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < w <= width and 0 < h <= height:
            x, y = (int(torch.randint(n + 1, (), generator=rng)) for n in (width - w, height - h))
            return torch.tensor([x, y, w, h, flipped], dtype=torch.float64)
    return torch.tensor([0, 0, width, height, flipped], dtype=torch.float64)


def crops_of(split: Split, i: int, config: Correspondence, seed: int) -> tuple[Tensor, Tensor]:
    """The two crops of the i-th image, which depend on the seed and i alone."""
    rng = torch.Generator().manual_seed(seed_of(seed, "correspondence", "crops", i))
    image = split.images[i]
    first, second = (draw_crop(image["height"], image["width"], config, rng) for _ in range(2))
    return first, second


def true_positions(one: Tensor, other: Tensor, cells: int) -> Tensor:
    """Where the centres of one crop's cells are in another crop: float64 (cells * cells) x 2, x and y in cells.

    A position is that of the other crop's cell i, j if it is (j, i): the centre of the first cell is (0, 0).
    Crops are (x, y, w, h, flipped), resized to squares of cells x cells cells, in rows from the top left.
    """
    centre = (torch.arange(cells, dtype=torch.float64) + 0.5) / cells
    x = one[0] + (1 - centre if one[4] else centre) * one[2]
    y = one[1] + centre * one[3]
    u, v = (x - other[0]) / other[2], (y - other[1]) / other[3]
    u = 1 - u if other[4] else u
    return torch.stack([u.repeat(cells), v.repeat_interleave(cells)], dim=1) * cells - 0.5


def match(one: Tensor, other: Tensor, positions: Tensor) -> tuple[int, int, float]:
    """Correct matches, cells that were matched, and how many would be correct by chance.

    `one` and `other` float D x h x h are the maps of two crops; `positions`, see `true_positions`, are those of the
    first one's cells in the second. Cells whose centre is outside the second crop are left out. The match is the
    cell of the second crop with the largest cosine similarity; it is correct if its centre is within one cell of
    the true position, in x and in y.
    """
    cells = one.shape[-1]
    inside = ((positions >= -0.5) & (positions < cells - 0.5)).all(dim=1)
    place = positions[inside]
    a, b = (F.normalize(m.flatten(1).T, dim=1) for m in (one, other))
    best = (a[inside.to(a.device)] @ b.T).argmax(dim=1).cpu()
    found = torch.stack([best % cells, best // cells], dim=1)
    right = ((found - place).abs() <= WITHIN).all(dim=1)
    grid = torch.arange(cells, dtype=torch.float64)
    near = ((grid - place[..., None]).abs() <= WITHIN).sum(dim=2)  # per cell: columns and rows that are near
    chance = near.prod(dim=1).double() / cells**2
    return int(right.sum()), len(place), float(chance.sum())


def _two_crops(split: Split, config: Correspondence, seed: int, place: int) -> tuple[int, Tensor]:
    """Crop `place % 2` of image `place // 2`, resized to a square."""
    i = place // 2
    x, y, w, h, flipped = (int(v) for v in crops_of(split, i, config, seed)[place % 2])
    pixels = resize(image_tensor(split, i)[:, y : y + h, x : x + w], config.size)
    return place, pixels.flip(-1) if flipped else pixels


def nearest(features: Tensor, image: Tensor, group: Tensor) -> Tensor:
    """Indices, int64 N x 2: the box most like each box, and the one most like it in another group.

    `features` float N x D; `image` and `group` int64 N. Boxes of the same image do not count. -1 if there is none.
    """
    x = F.normalize(features.float(), dim=1)
    found = []
    for part in torch.arange(len(x), device=x.device).split(CHUNK):
        similarity = x[part] @ x.T
        similarity[image[part][:, None] == image] = -torch.inf
        best, first = similarity.max(dim=1)
        similarity[group[first][:, None] == group] = -torch.inf
        second_best, second = similarity.max(dim=1)
        first = torch.where(best.isfinite(), first, -1)
        found.append(torch.stack([first, torch.where(second_best.isfinite(), second, -1)], dim=1))
    return torch.cat(found)


def precision_at_1(labels: Tensor, found: Tensor, asked: Tensor) -> float | None:
    """Mean over categories, in percent, of the share of boxes whose `found` box has their category.

    `labels` and `found` int64 N, `asked` bool N; boxes that found none (-1) do not count. None if no box is left.
    """
    asked = asked & (found >= 0)
    if not asked.any():
        return None
    right = (labels[found] == labels)[asked].double()
    own = labels[asked]
    total = own.bincount()
    return 100 * float((own.bincount(weights=right) / total.clamp_min(1))[total > 0].mean())


def retrieval(boxes: regions.Boxes, features: Tensor, images: int) -> tuple[float | None, list[float] | None]:
    """precision@1 of retrieving boxes from other images, and its values without each group of images.

    Without a group, its boxes neither ask nor are found: the others then take the nearest box of another group.
    """
    group = groups(images).to(boxes.image.device)[boxes.image]
    found = nearest(features, boxes.image, group)

    def metric(kept: Tensor) -> float | None:
        there = kept.to(group.device)[boxes.image]
        first = found[:, 0]
        instead = torch.where((first >= 0) & ~there[first], found[:, 1], first)
        return precision_at_1(boxes.labels, instead, there)

    everything = metric(torch.ones(images, dtype=torch.bool))
    return everything, without_each(images, metric)


def evaluate(
    backbone_file: Path, config: Correspondence, *, seed: int, device: torch.device, progress: bool = True
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows with the accuracy of matching (protocol `correspondence`, map C4) and with the precision@1 of retrieval.

    Accuracy is the share, in percent, of all matched cells of all images, in both directions. Retrieval
    (`correspondence_retrieval`) compares RoIAligned boxes of C5, as `regions` does. Raises MissingLabels with the
    sentence of `missing`, and if no cell of any image is inside the other crop.
    """
    backbone, _ = load_backbone(backbone_file)
    train, val = read_splits(config.data)
    if why := missing(train, val):
        raise MissingLabels(why)
    count = min(config.eval_images or len(val), len(val))
    group = groups(count)
    counts = torch.zeros(int(group.max()) + 1, 3, dtype=torch.float64)
    how: dict[str, Any] = {"size": config.size, "device": device, "progress": progress}
    pairs = each_maps(
        backbone,
        val,
        range(2 * count),
        batch_size=2 * config.batch_size,
        read=partial(_two_crops, val, config, seed),
        **how,
    )
    cells = 0
    for index, maps in pairs:
        found = maps["c4"]
        cells = found.shape[-1]
        for place in range(0, len(index), 2):
            i = index[place] // 2
            crops = crops_of(val, i, config, seed)
            for a, b in ((0, 1), (1, 0)):
                positions = true_positions(crops[a], crops[b], cells)
                counts[group[i]] += torch.tensor(match(found[place + a], found[place + b], positions))
    total = counts.sum(dim=0)

    def accuracy(of: Tensor) -> float | None:
        return 100 * float(of[0] / of[1]) if of[1] else None

    matched = accuracy(total)
    if matched is None:
        raise DataError(f"{val.annotation_file}: no two crops overlap; use more images, or a larger scale")
    rows = [row("correspondence", "accuracy", matched, count, without_each_part(count, counts, accuracy))]
    boxes = regions.read_boxes(backbone, val, range(count), batch_size=config.batch_size, maps=("c5",), **how)
    precision, without = retrieval(boxes, boxes.features["c5"], count) if len(boxes.labels) else (None, None)
    if precision is not None:
        rows.append(row("correspondence_retrieval", "precision_at_1", precision, count, without))
    categories = len(boxes.labels.unique())
    notes = {
        "head": "none; cosine of cells of C4 for matching, of RoIAligned boxes of C5 for retrieval",
        "crops": f"two per image, {config.scale[0]:g} to {config.scale[1]:g} of its area, flipped or not",
        "correct": f"within {WITHIN:g} cell in x and y",
        "size": config.size,
        "cells": f"{cells} x {cells}",
        "eval_images": count,
        "matched_cells": int(total[1]),
        "chance_accuracy": 100 * float(total[2] / total[1]),
        "eval_boxes": len(boxes.labels),
        "categories_retrieved": categories,
        "chance_precision_at_1": 100 / max(categories, 1),
    }
    return rows, notes
