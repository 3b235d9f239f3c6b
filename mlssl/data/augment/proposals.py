"""Which proposals of an image go with its views, and crops that are drawn again where the views share too few.

As SoCo's loader (arXiv 2106.02637; ueoo/SoCo): K random ones of those that touch what all views show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from mlssl.data.augment.parameters import Parameters, crops
from mlssl.study.settings import Views

TRIES = 5
"""How often crops are drawn again; the number of proposals that is enough is halved each time."""


class Candidates(NamedTuple):
    """The proposals of a batch of images, and how many of each go with its views."""

    boxes: Tensor
    """float B x M x 4: left, top, right, bottom in pixels of the image."""
    there: Tensor
    """bool B x M: which of these rows are boxes."""
    wanted: int


def touching(candidates: Candidates, drawn: Sequence[Parameters]) -> Tensor:
    """Which proposals share some area with what all views show, bool B x M."""
    corner = torch.stack([p.box[:, :2] for p in drawn]).amax(dim=0)
    end = torch.stack([p.box[:, :2] + p.box[:, 2:] for p in drawn]).amin(dim=0)
    low = torch.maximum(candidates.boxes[..., :2], corner[:, None])
    high = torch.minimum(candidates.boxes[..., 2:], end[:, None])
    return candidates.there & (high > low).all(dim=2)


def redrawn(
    drawn: Sequence[Parameters], candidates: Candidates, sizes: Tensor, views: Sequence[Views], rng: torch.Generator
) -> list[Parameters]:
    """The parameters, with new crops for images whose views share fewer than half of the wanted proposals."""
    drawn = list(drawn)
    for attempt in range(TRIES):
        enough = max(candidates.wanted // 2 ** (attempt + 1), 1)
        few = touching(candidates, drawn).sum(dim=1) < enough
        if not few.any():
            break
        new: list[Parameters] = []
        for old, one in zip(drawn, views, strict=True):
            box = crops(sizes, one, rng, new)
            new.append(replace(old, box=torch.where(few[:, None], box, old.box)))
        drawn = new
    return drawn


def chosen(candidates: Candidates, drawn: Sequence[Parameters], rng: torch.Generator) -> Tensor:
    """The proposals that go with the views, float B x wanted x 4: random ones of those that touch.

    Where there are fewer, they are repeated; where there is none, all are 0, 0, 0, 0.
    """
    touch = touching(candidates, drawn)
    order = torch.rand(touch.shape, generator=rng).masked_fill(~touch, 2.0).argsort(dim=1)
    count = touch.sum(dim=1, keepdim=True)
    row = order.gather(1, torch.arange(candidates.wanted) % count.clamp(min=1))
    boxes = candidates.boxes.gather(1, row[..., None].expand(-1, -1, 4))
    return torch.where(count[..., None] > 0, boxes, 0.0)
