"""Semantic segmentation with an FCN head (arXiv 1411.4038) on the backbone's last map; all layers are trained."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlssl.data.augment.parameters import MEAN
from mlssl.data.coco import IGNORE, Split
from mlssl.errors import MissingLabels
from mlssl.runtime import distributed
from mlssl.seeds import seed_of
from mlssl.study.settings import Segmentation
from mlssl.transfer.finetune import finetune
from mlssl.transfer.load import (
    autocast,
    bar,
    batches,
    draw,
    evaluation_order,
    image_tensor,
    load_backbone,
    normalise,
    private_rng,
    read_splits,
    resize,
)
from mlssl.transfer.metrics import confusion_matrix, segmentation_scores
from mlssl.transfer.needs import masks as missing

SCALE = (0.5, 2.0)
"""Range of the random scale in training, relative to `size`."""
POLY_POWER = 0.9
DROPOUT = 0.1


class FCN(nn.Module):
    """The backbone, a 3x3 convolution with batch norm, and a 1x1 convolution to C classes."""

    def __init__(self, backbone: nn.Module, head_channels: int, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Sequential(
            nn.Conv2d(cast(int, backbone.num_features), head_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(head_channels),
            nn.ReLU(),
            nn.Dropout(DROPOUT),
            nn.Conv2d(head_channels, classes, 1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Normalised float B x 3 x H x W to logits B x C x h x w, at the size of the backbone's last map."""
        return self.head(self.backbone(images))


def poly_lr(iteration: int, config: Segmentation) -> float:
    """Learning rate of an iteration (from 0): lr * (1 - iteration / iterations)^0.9."""
    return config.lr * (1 - iteration / config.iterations) ** POLY_POWER


def augment(image: Tensor, mask: Tensor, size: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random scale, crop and horizontal flip, the same for image and mask.

    uint8 3 x H x W and H x W to 3 x size x size and size x size. The image is resized to a square whose
    side is 0.5 to 2 times `size`, then cropped; a smaller one is padded with the mean colour and IGNORE.
    """
    low, high = SCALE
    side = round(size * (low + (high - low) * float(torch.rand((), generator=rng))))
    image = resize(image, side)
    mask = F.interpolate(mask[None, None], size=(side, side), mode="nearest-exact")[0, 0]
    top, left = (int(torch.randint(abs(side - size) + 1, (), generator=rng)) for _ in range(2))
    if side >= size:
        image, mask = (v[..., top : top + size, left : left + size] for v in (image, mask))
    else:
        colour = (255 * torch.tensor(MEAN)).round().to(torch.uint8)
        canvas = colour[:, None, None].repeat(1, size, size)
        labels = torch.full((size, size), IGNORE, dtype=torch.uint8)
        canvas[:, top : top + side, left : left + side] = image
        labels[top : top + side, left : left + side] = mask
        image, mask = canvas, labels
    if torch.rand((), generator=rng) < 0.5:
        image, mask = image.flip(-1), mask.flip(-1)
    return image, mask


def _training_example(split: Split, size: int, seed: int, t: int) -> tuple[Tensor, Tensor]:
    i, rng = draw(t, len(split), seed, "segmentation")
    return augment(image_tensor(split, i), torch.from_numpy(split.semantic_mask(i)), size, rng)


def _evaluation_example(split: Split, size: int, i: int) -> tuple[Tensor, Tensor]:
    return resize(image_tensor(split, i), size), torch.from_numpy(split.semantic_mask(i))


def _list_masks(examples: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, list[Tensor]]:
    images, masks = zip(*examples, strict=True)
    return torch.stack(images), list(masks)


def loss_terms(model: nn.Module, batch: tuple[Tensor, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Cross entropy of a batch of uint8 images B x 3 x S x S and masks B x S x S, without the pixels IGNORE.

    The mean is over the labelled pixels of all ranks; it is 0 if there are none.
    """
    images, masks = batch
    x = normalise(images.to(device, non_blocking=True)).contiguous(memory_format=torch.channels_last)
    target = masks.to(device, non_blocking=True).long()
    with autocast(device):
        logits = model(x)
    logits = F.interpolate(logits.float(), size=target.shape[1:], mode="bilinear", align_corners=False)
    total = F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="sum")
    # The wrapped model averages gradients over ranks, so each rank divides by the mean number of pixels per rank.
    pixels = distributed.total((target != IGNORE).sum().float()) / distributed.count()
    return {"cross_entropy": total / pixels.clamp_min(1)}


def train(
    model: FCN, split: Split, config: Segmentation, *, seed: int, device: torch.device, progress: bool
) -> None:
    """Finetune all layers in place: SGD, poly schedule, pixel cross entropy without IGNORE.

    Raises FloatingPointError, with the iteration, when the loss is not finite.
    """
    finetune(
        model,
        partial(_training_example, split, config.size, seed),
        partial(loss_terms, device=device),
        partial(poly_lr, config=config),
        config,
        task="segmentation",
        random="dropout",
        seed=seed,
        device=device,
        progress=progress,
    )


@torch.no_grad()
def confusion(
    model: FCN, split: Split, count: int, config: Segmentation, *, device: torch.device, progress: bool
) -> Tensor:
    """Pixel counts, int64 C x C, over the first `count` images at their original resolution.

    The network's input is size x size pixels; its logits are upsampled bilinearly to each image's height and width.
    """
    classes = 1 + len(split.categories)
    total = torch.zeros(classes, classes, dtype=torch.int64, device=device)
    read = partial(_evaluation_example, split, config.size)
    model.eval()
    seen = torch.zeros((), dtype=torch.int64, device=device)
    for images, masks in bar(
        batches(read, evaluation_order(count), config.batch_size, device, _list_masks),
        "segmentation, evaluation",
        progress,
    ):
        x = normalise(images.to(device)).contiguous(memory_format=torch.channels_last)
        with autocast(device):
            logits = model(x)
        for one, mask in zip(logits.float(), masks, strict=True):
            full = F.interpolate(one[None], size=mask.shape, mode="bilinear", align_corners=False)
            total += confusion_matrix(full[0].argmax(dim=0), mask.to(device), classes, IGNORE)
            seen += 1
    if (seen := distributed.total(seen)) != count:
        raise RuntimeError(f"{split.folder}: saw {seen} of {count} images")
    return distributed.total(total)


def evaluate(
    backbone_file: Path, config: Segmentation, *, seed: int, device: torch.device, progress: bool = True
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows with mIoU, mAcc and aAcc in percent, after the last iteration, and notes."""
    train_split, val = read_splits(config.data)
    if why := missing(train_split, val):
        raise MissingLabels(why)
    classes = 1 + len(val.categories)
    count = min(config.eval_images or len(val), len(val))
    with private_rng(device):
        backbone, _ = load_backbone(backbone_file, output_stride=config.output_stride)
        torch.manual_seed(seed_of(seed, "segmentation", "head"))
        model = FCN(backbone, config.head_channels, classes).to(device).to(memory_format=torch.channels_last)
        train(model, train_split, config, seed=seed, device=device, progress=progress)
        counts = confusion(model, val, count, config, device=device, progress=progress)
    if not counts.sum():
        raise MissingLabels(
            f"{val.annotation_file}: all pixels of the {count} validation images are of crowds and have no class; "
            "annotate objects"
        )
    rows = [
        {"protocol": "segmentation", "metric": metric, "value": value, "n": count}
        for metric, value in segmentation_scores(counts).items()
    ]
    present = (counts.sum(dim=0) + counts.sum(dim=1)) > 0
    notes = {
        "head": f"FCN, {config.head_channels} channels, on the last map of stride {config.output_stride}",
        "parameters": sum(p.numel() for p in model.parameters()),
        "schedule": f"{config.iterations} iterations of {config.batch_size}, SGD, lr {config.lr}, "
        f"poly {POLY_POWER}",
        "augmentation": f"scale {SCALE[0]} to {SCALE[1]}, crop {config.size}, horizontal flip",
        "batch_norm": "trained, with the statistics of the whole batch",
        "evaluation": f"input of {config.size} x {config.size}, logits upsampled to each image's size",
        "eval_images": count,
        "classes": classes,
        "classes_scored": int(present.sum()),
    }
    return rows, notes
