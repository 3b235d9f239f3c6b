"""Views that are no random crops: boxes of an image, and of another image (ORL, arXiv 2106.11952)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mlssl.data.augment.parameters import intersection
from mlssl.study.settings import Region

TRIES = 200
"""How often a moved box is drawn; the first that passes is taken, else the box itself."""
SHIFT, AREA, ASPECT, LEAST_IOU = 0.5, (0.5, 2.0), (0.5, 2.0), 0.5
"""Largest shift of the centre, in sides of the box; ranges of its area, relative to the box, and of its width over
its height; least intersection over union with the box."""


@dataclass(frozen=True)
class Regions:
    """Where the views of a batch of images are cut out that have a region."""

    boxes: Mapping[Region, Tensor]
    """Region -> int64 B x 4: x, y, width, height in pixels of the image; `pair_of_neighbour`: of the neighbour."""
    neighbours: Sequence[Tensor] = ()
    """The neighbours, uint8 H x W x 3; empty where no view shows them."""
    index: Tensor | None = None
    """int64 B, their indices in the dataset."""


def moved(box: Tensor, sizes: Tensor, rng: torch.Generator) -> Tensor:
    """ORL's jitter of boxes, int64 B x 4 (x, y, width, height), in images of `sizes` (int64 B x 2: height, width).

    Centre, area and aspect are drawn until the box is inside of the image and overlaps enough.
    """
    shift, area, aspect = torch.rand(4, len(box), TRIES, generator=rng, dtype=torch.float64).split((2, 1, 1))
    x, y, w, h = box.double()[:, :, None].unbind(1)
    shift = (shift * 2 - 1) * SHIFT
    area = w * h * (AREA[0] + (AREA[1] - AREA[0]) * area[0])
    low, high = map(math.log, ASPECT)
    ratio = torch.exp(low + (high - low) * aspect[0])
    wide, tall = (area * ratio).sqrt(), (area / ratio).sqrt()
    left, top = x + w / 2 + shift[0] * w - wide / 2, y + h / 2 + shift[1] * h - tall / 2
    drawn = torch.stack([left, top, wide, tall], dim=2).round()
    inside = (drawn[..., :2] >= 0).all(dim=2) & (drawn[..., :2] + drawn[..., 2:] <= sizes.flip(1)[:, None]).all(
        dim=2
    )
    passes = inside & (iou(drawn, box.double()[:, None]) > LEAST_IOU)
    first = drawn[torch.arange(len(box)), passes.double().argmax(dim=1)].long()
    return torch.where(passes.any(dim=1, keepdim=True), first, box)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes (x, y, width, height): … x 4 twice -> …."""
    shared = intersection(a, b)
    return shared / (a[..., 2:].prod(dim=-1) + b[..., 2:].prod(dim=-1) - shared)
