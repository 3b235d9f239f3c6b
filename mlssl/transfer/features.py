"""Features of complete images, from a frozen backbone."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from mlssl.data.coco import Split
from mlssl.parts.backbone import global_average_pool
from mlssl.runtime.device import gains_from_bf16
from mlssl.transfer.load import autocast, bar, batches, image_tensor, normalise, resize


def extract(
    backbone: nn.Module,
    split: Split,
    *,
    size: int,
    batch_size: int,
    device: torch.device,
    progress: bool = False,
) -> Tensor:
    """Globally average-pooled features, float32 N x D on `device`, in the order of `split.images`.

    Images are resized to size x size pixels. The backbone runs in eval mode: weights and batch-norm
    statistics do not change. Raises FloatingPointError for features that are not finite, and RuntimeError
    when an image was not read exactly once.
    """
    layout = torch.channels_last if gains_from_bf16(device) else torch.contiguous_format
    was_training = backbone.training
    backbone.eval().to(device=device, memory_format=layout)
    loader = batches(partial(_example, split, size), range(len(split)), batch_size, device)
    found, seen = [], []
    with torch.no_grad():
        for index, images in bar(loader, f"features of {split.folder.name}", progress):
            x = normalise(images.to(device, non_blocking=True)).contiguous(memory_format=layout)
            with autocast(device):
                maps = backbone(x)
            found.append(global_average_pool(maps.float()))
            seen += index.tolist()
    backbone.train(was_training)
    if seen != list(range(len(split))):
        raise RuntimeError(f"{split.folder}: saw {len(set(seen))} of {len(split)} images, in {len(seen)} reads")
    features = torch.cat(found)
    if not torch.isfinite(features).all():
        raise FloatingPointError(f"{split.folder}: the backbone gives features that are not finite")
    return features


def _example(split: Split, size: int, i: int) -> tuple[int, Tensor]:
    return i, resize(image_tensor(split, i), size)
