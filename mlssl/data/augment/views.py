"""Random views of a batch: MoCo-v2's crop, jitter, grayscale, blur and flip, each sample with its own parameters.

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
from mlssl.parts.view import View
from mlssl.study.settings import Views


def make_views(
    images: Sequence[Tensor],
    index: Tensor,
    views: Views,
    rng: torch.Generator,
    device: torch.device,
    *,
    count: int = 2,
    part: slice = slice(None),
) -> list[View]:
    """`count` random views of each image, on `device`; a `part` gets the same views as in the full batch.

    `images` are uint8 H x W x 3, each of its own size; `index` (int64 B) has their indices in the dataset.
    """
    sizes = torch.tensor([image.shape[:2] for image in images])
    drawn = [draw(sizes, views, rng).part(part) for _ in range(count)]
    images, index = images[part], index[part]
    if device.type == "cpu":
        return [View(cpu.augment(images, p, views.crop), index, p.box, p.flip) for p in drawn]
    pixels, origin = gpu.padded(images, [p.box for p in drawn], device)
    columns = [list(vars(p).values()) for p in drawn]
    index, origin, *sent = gpu.upload([index, origin, *chain.from_iterable(columns)], device)
    each = [Parameters(*sent[i * len(columns[0]) : (i + 1) * len(columns[0])]) for i in range(count)]
    inside = [replace(p, box=p.box - origin) for p in each]
    made = [gpu.augment(pixels, p, views.crop) for p in inside]
    return [View(x, index, p.box, p.flip) for x, p in zip(made, each, strict=True)]
