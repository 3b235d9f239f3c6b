"""Random views of a batch: crop, jitter, grayscale, blur, solarise and flip, each sample with its own parameters.

Parameters are drawn first, on the CPU (`parameters`); then a CPU makes the views in pieces (`cpu`), and any other
device the whole batch at once (`gpu`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import torch
from torch import Tensor

from mlssl.data.augment import cpu, gpu
from mlssl.data.augment.parameters import Parameters, draw
from mlssl.data.augment.proposals import Candidates, chosen, redrawn
from mlssl.data.augment.regions import Regions
from mlssl.parts.view import View
from mlssl.study.settings import Views


def make_views(
    images: Sequence[Tensor],
    index: Tensor,
    views: Sequence[Views],
    rng: torch.Generator,
    device: torch.device,
    *,
    part: slice = slice(None),
    candidates: Candidates | None = None,
    regions: Regions | None = None,
) -> list[View]:
    """A random view of each image for each of `views`, on `device`; a `part` gets the same as in the full batch.

    `images` are uint8 H x W x 3, each of its own size; `index` (int64 B) has their indices in the dataset. With
    `candidates`, the proposals of the images, each view brings those that were chosen, the same for all views.
    `regions` has the boxes of views that are no random crops.
    """
    sizes = torch.tensor([image.shape[:2] for image in images])
    complete: list[Parameters] = []
    for one in views:
        complete.append(draw(sizes, one, rng, complete))
    boxes = None
    if candidates is not None:
        complete = redrawn(complete, candidates, sizes, views, rng)
        boxes = chosen(candidates, complete, rng)[part]
    if regions is not None:
        complete = [
            p if one.region == "crop" else replace(p, box=regions.boxes[one.region])
            for p, one in zip(complete, views, strict=True)
        ]
    drawn = [p.part(part) for p in complete]
    shown = [(images[part], index[part])]
    if regions is not None and regions.index is not None:
        shown.append((regions.neighbours[part], regions.index[part]))
    of = [int(one.region == "pair_of_neighbour") for one in views]  # which of `shown` a view is of
    if device.type == "cpu":
        rows = zip(drawn, views, of, strict=True)
        return [
            View(cpu.augment(shown[i][0], p, one.crop), shown[i][1], p.box, p.flip, boxes) for p, one, i in rows
        ]
    return on_device(shown, of, drawn, views, boxes, device)


def on_device(
    shown: Sequence[tuple[Sequence[Tensor], Tensor]],
    of: Sequence[int],
    drawn: Sequence[Parameters],
    views: Sequence[Views],
    boxes: Tensor | None,
    device: torch.device,
) -> list[View]:
    """The views on a GPU: all that is not pixels goes there by one copy."""
    staged = [
        gpu.padded(images, [p.box for p, mine in zip(drawn, of, strict=True) if mine == i], device)
        for i, (images, _) in enumerate(shown)
    ]
    columns = [p.columns() for p in drawn]
    host = [*(index for _, index in shown), *(origin for _, origin in staged)]
    host += [*chain.from_iterable(c.values() for c in columns)]
    there = iter(gpu.upload(host if boxes is None else [*host, boxes], device))
    index, origin = [next(there) for _ in shown], [next(there) for _ in shown]
    each = [Parameters(**{name: next(there) for name in c}) for c in columns]
    boxes = next(there, None)
    return [
        View(gpu.augment(staged[i][0], replace(p, box=p.box - origin[i]), one.crop), index[i], p.box, p.flip, boxes)
        for p, one, i in zip(each, views, of, strict=True)
    ]
