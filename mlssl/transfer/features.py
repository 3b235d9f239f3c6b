"""Features of images from a frozen backbone: one vector per image, or the maps of its stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mlssl.data.coco import Split
from mlssl.parts.backbone import image_features, stage_maps
from mlssl.runtime.device import gains_from_bf16
from mlssl.transfer.load import autocast, bar, batches, image_tensor, normalise, resize

MAPS = ("c4", "c5")
"""The maps that the dense evaluators read: the last ones of the third and of the fourth stage."""


def extract(
    backbone: nn.Module,
    split: Split,
    *,
    size: int,
    batch_size: int,
    device: torch.device,
    progress: bool = False,
) -> Tensor:
    """One vector per image (see `image_features`), float32 N x D on `device`, in the order of `split.images`.

    Images are resized to size x size pixels. The backbone runs in eval mode: weights and batch-norm
    statistics do not change. Raises FloatingPointError for features that are not finite, and RuntimeError
    when an image was not read exactly once.
    """
    found = [
        found
        for _, found in frozen(
            backbone,
            partial(image_features, backbone),
            split,
            partial(_example, split, size),
            range(len(split)),
            batch_size=batch_size,
            device=device,
            progress=progress,
        )
    ]
    return torch.cat(found)


def each_maps(
    backbone: nn.Module,
    split: Split,
    images: Sequence[int],
    *,
    size: int,
    batch_size: int,
    device: torch.device,
    progress: bool = False,
    read: Callable[[int], tuple[int, Tensor]] | None = None,
) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """Per batch of `images` (indices into the split): the indices, and the maps c4 and c5, float32 B x D x h x w.

    One forward pass gives all maps. `read(i)` gives i and its input, uint8 3 x H x W, if not the image resized to
    size x size pixels. The backbone does not change; the errors are those of `extract`.
    """

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        *_, c4, c5 = stage_maps(backbone, x)
        return c4, c5

    reader = read or partial(_example, split, size)
    for index, maps in frozen(
        backbone, forward, split, reader, images, batch_size=batch_size, device=device, progress=progress
    ):
        yield index, {name: m.float() for name, m in zip(MAPS, maps, strict=True)}


def frozen(
    backbone: nn.Module,
    forward: Callable[[Tensor], Any],
    split: Split,
    read: Callable[[int], tuple[int, Tensor]],
    images: Sequence[int],
    *,
    batch_size: int,
    device: torch.device,
    progress: bool,
) -> Iterator[tuple[list[int], Any]]:
    """Indices and `forward` of every batch of images, with the backbone in eval mode and without gradients.

    `read(i)` gives i and its input, uint8 3 x H x W. `forward` gives a tensor or a tuple of them.
    """
    layout = torch.channels_last if gains_from_bf16(device) else torch.contiguous_format
    was_training = backbone.training
    backbone.eval().to(device).to(memory_format=layout)
    loader = batches(read, images, batch_size, device)
    seen: list[int] = []
    for index, pixels in bar(loader, f"features of {split.folder.name}", progress):
        x = normalise(pixels.to(device, non_blocking=True)).contiguous(memory_format=layout)
        with torch.no_grad(), autocast(device):
            found = forward(x)
        if not all(torch.isfinite(f).all() for f in (found if isinstance(found, tuple) else (found,))):
            raise FloatingPointError(f"{split.folder}: the backbone gives features that are not finite")
        seen += index.tolist()
        yield index.tolist(), found
    backbone.train(was_training)
    if seen != list(images):
        raise RuntimeError(f"{split.folder}: saw {len(set(seen))} of {len(images)} images, in {len(seen)} reads")


def _example(split: Split, size: int, i: int) -> tuple[int, Tensor]:
    return i, resize(image_tensor(split, i), size)
