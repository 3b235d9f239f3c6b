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
) -> list[View]:
    """A random view of each image for each of `views`, on `device`; a `part` gets the same as in the full batch.

    `images` are uint8 H x W x 3, each of its own size; `index` (int64 B) has their indices in the dataset. With
    `candidates`, the proposals of the images, each view brings those that were chosen, the same for all views.
    """
    sizes = torch.tensor([image.shape[:2] for image in images])
    complete: list[Parameters] = []
    for one in views:
        complete.append(draw(sizes, one, rng, complete))
    boxes = None
    if candidates is not None:
        complete = redrawn(complete, candidates, sizes, views, rng)
        boxes = chosen(candidates, complete, rng)[part]
    drawn, images, index = [p.part(part) for p in complete], images[part], index[part]
    if device.type == "cpu":
        pairs = zip(drawn, views, strict=True)
        return [View(cpu.augment(images, p, one.crop), index, p.box, p.flip, boxes) for p, one in pairs]
    pixels, origin = gpu.padded(images, [p.box for p in drawn], device)
    columns = [p.columns() for p in drawn]
    host = [index, origin, *chain.from_iterable(c.values() for c in columns)]
    index, origin, *sent = gpu.upload(host if boxes is None else [*host, boxes], device)
    there = iter(sent)
    each = [Parameters(**{name: next(there) for name in c}) for c in columns]
    inside = [replace(p, box=p.box - origin) for p in each]
    made = [gpu.augment(pixels, p, one.crop) for p, one in zip(inside, views, strict=True)]
    boxes = next(there, None)
    return [View(x, index, p.box, p.flip, boxes) for x, p in zip(made, each, strict=True)]
