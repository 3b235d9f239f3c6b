"""Predictions of a segmentation network for images of a split, and their confusion with the masks."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlssl.data.coco import Split
from mlssl.data.semantic import IGNORE
from mlssl.runtime import distributed
from mlssl.study.settings import Segmentation
from mlssl.transfer.load import autocast, bar, batches, evaluation_order, image_tensor, normalise, resize
from mlssl.transfer.metrics import confusion_matrix
from mlssl.transfer.segmentation.augment import crop_of, resize_within


def _example(split: Split, config: Segmentation, i: int) -> tuple[Tensor, Tensor]:
    image, mask = image_tensor(split, i), torch.from_numpy(split.semantic_mask(i))
    if config.test == "square":
        return resize(image, config.size), mask
    return image if config.scale is None else resize_within(image, config.scale), mask


def _list_masks(examples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, list[Tensor]]:
    images, masks = zip(*examples, strict=True)
    return torch.stack(images), list(masks)


def logits_of(model: nn.Module, images: Tensor, config: Segmentation) -> Tensor:
    """float B x C x h x w of normalised images B x 3 x H x W: of the whole input, or of crops over all of it."""
    with autocast(images.device):
        if config.test != "slide":
            return model(images).float()
        return slide(
            model, images, crop_of(config), config.slide_stride or 2 * config.size // 3, config.align_corners
        )


def slide(model: nn.Module, images: Tensor, crop: tuple[int, int], stride: int, align_corners: bool) -> Tensor:
    """The mean, B x C x H x W, of the upsampled logits of overlapping crops (height, width), `stride` pixels apart.

    The last crop of a row or a column ends at the image's edge. An image that is smaller than a crop is one crop.
    """
    rows, columns = (places(extent, side, stride) for extent, side in zip(images.shape[2:], crop, strict=True))
    total: Tensor | None = None
    seen = images.new_zeros(images.shape[2:])
    for top in rows:
        for left in columns:
            part = images[:, :, top : top + crop[0], left : left + crop[1]]
            logits = F.interpolate(
                model(part).float(), size=part.shape[2:], mode="bilinear", align_corners=align_corners
            )
            if total is None:
                total = logits.new_zeros(len(images), logits.shape[1], *images.shape[2:])
            total[:, :, top : top + crop[0], left : left + crop[1]] += logits
            seen[top : top + crop[0], left : left + crop[1]] += 1
    assert total is not None
    return total / seen


def places(extent: int, side: int, stride: int) -> list[int]:
    """Where the crops of a row or column begin: every `stride` pixels, the last one at the edge."""
    count = max(extent - side + stride - 1, 0) // stride + 1
    return [max(min(i * stride, extent - side), 0) for i in range(count)]


@torch.no_grad()
def confusion(
    model: nn.Module, split: Split, count: int, config: Segmentation, *, device: torch.device, progress: bool
) -> Tensor:
    """Pixel counts, int64 C x C, over the first `count` images at their original resolution.

    The network's input is that of `config.test`; its logits are upsampled bilinearly to the input's size, if that
    keeps the aspect ratio, and to each image's height and width.
    """
    classes = len(split.classes)
    total = torch.zeros(classes, classes, dtype=torch.int64, device=device)
    read = partial(_example, split, config)
    model.eval()
    seen = torch.zeros((), dtype=torch.int64, device=device)
    at_once = config.batch_size if config.test == "square" else 1
    for images, masks in bar(
        batches(read, evaluation_order(count), at_once, device, _list_masks), "segmentation, evaluation", progress
    ):
        x = normalise(images.to(device)).contiguous(memory_format=torch.channels_last)
        logits = logits_of(model, x, config)
        if config.test == "whole":
            logits = F.interpolate(logits, size=x.shape[2:], mode="bilinear", align_corners=config.align_corners)
        for one, mask in zip(logits, masks, strict=True):
            full = F.interpolate(one[None], size=mask.shape, mode="bilinear", align_corners=config.align_corners)
            total += confusion_matrix(full[0].argmax(dim=0), mask.to(device), classes, IGNORE)
            seen += 1
    if (seen := distributed.total(seen)) != count:
        raise RuntimeError(f"{split.folder}: saw {seen} of {count} images")
    return distributed.total(total)
