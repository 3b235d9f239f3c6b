"""Fine-tuning of a segmentation network: learning rate and losses."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlssl.data.coco import Split
from mlssl.data.semantic import IGNORE
from mlssl.runtime import distributed
from mlssl.study.settings import Segmentation
from mlssl.transfer.finetune import finetune
from mlssl.transfer.load import autocast, draw, image_tensor, normalise
from mlssl.transfer.segmentation.augment import augment, augment_within

POLY_POWER = 0.9


def poly_lr(iteration: int, config: Segmentation) -> float:
    """Learning rate of an iteration (from 0): (lr - lr_floor) * (1 - iteration / iterations)^0.9 + lr_floor."""
    share = (1 - iteration / config.iterations) ** POLY_POWER
    return (config.lr - config.lr_floor) * share + config.lr_floor


def training_example(split: Split, config: Segmentation, seed: int, t: int) -> tuple[Tensor, Tensor]:
    """The t-th training sample: uint8 3 x height x width of a crop, and its mask."""
    i, rng = draw(t, len(split), seed, "segmentation")
    image, mask = image_tensor(split, i), torch.from_numpy(split.semantic_mask(i))
    if config.scale is None:
        return augment(image, mask, config.size, rng)
    return augment_within(image, mask, config, rng)


def cross_entropy(logits: Tensor, target: Tensor, config: Segmentation) -> Tensor:
    """Of logits B x C x h x w, upsampled, and classes B x H x W without IGNORE; see `Segmentation.mean_over`.

    The mean is over the pixels of all ranks; it is 0 if there are none.
    """
    logits = F.interpolate(
        logits.float(), size=target.shape[1:], mode="bilinear", align_corners=config.align_corners
    )
    total = F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="sum")
    counted = (target != IGNORE) if config.mean_over == "labelled" else torch.ones_like(target)
    # The wrapped model averages gradients over ranks, so each rank divides by the mean number of pixels per rank.
    pixels = distributed.total(counted.sum().float()) / distributed.count()
    return total / pixels.clamp_min(1)


def loss_terms(
    model: nn.Module, batch: tuple[Tensor, Tensor], device: torch.device, config: Segmentation
) -> dict[str, Tensor]:
    """The cross entropy of a batch of uint8 images B x 3 x H x W and masks B x H x W, and the auxiliary head's."""
    images, masks = batch
    x = normalise(images.to(device, non_blocking=True)).contiguous(memory_format=torch.channels_last)
    target = masks.to(device, non_blocking=True).long()
    with autocast(device):
        found = model(x)
    if not config.auxiliary_weight:
        return {"cross_entropy": cross_entropy(found, target, config)}
    logits, auxiliary = found
    return {
        "cross_entropy": cross_entropy(logits, target, config),
        "auxiliary": config.auxiliary_weight * cross_entropy(auxiliary, target, config),
    }


def train(
    model: nn.Module, split: Split, config: Segmentation, *, seed: int, device: torch.device, progress: bool
) -> None:
    """Finetune all layers in place: SGD, poly schedule, pixel cross entropy without IGNORE.

    Raises FloatingPointError, with the iteration, when the loss is not finite.
    """
    finetune(
        model,
        partial(training_example, split, config, seed),
        partial(loss_terms, device=device, config=config),
        partial(poly_lr, config=config),
        config,
        task="segmentation",
        random="dropout",
        seed=seed,
        device=device,
        progress=progress,
    )
