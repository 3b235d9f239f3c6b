"""Fine-tuning of a detector: learning rate, weight decay by kind of layer, losses."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from mlssl.data.coco import Split
from mlssl.runtime import distributed
from mlssl.study.settings import Detection
from mlssl.transfer.detection.examples import as_lists, batches_of, trainable, training_example
from mlssl.transfer.detection.precise_bn import recompute_statistics
from mlssl.transfer.finetune import finetune
from mlssl.transfer.load import bar, batches, training_order


def learning_rate(iteration: int, config: Detection) -> float:
    """Learning rate of an iteration (from 0): linear warm-up, then divided by 10 at each milestone."""
    passed = sum(iteration >= round(m * config.iterations) for m in config.milestones)
    return config.lr * warmup(iteration, config) * 0.1**passed


def warmup(iteration: int, config: Detection) -> float:
    """Share of the learning rate at an iteration: from `warmup_factor`, or from one step of the rise, to 1."""
    if iteration >= config.warmup_iterations:
        return 1.0
    if config.warmup_factor is None:
        return (iteration + 1) / config.warmup_iterations
    return config.warmup_factor + (1 - config.warmup_factor) * iteration / config.warmup_iterations


def loss_terms(model: nn.Module, batch: tuple[list, list], device: torch.device) -> dict[str, Tensor]:
    """Mask R-CNN's losses of a batch, by their names in torchvision."""
    images, targets = batch
    return model(
        [image.to(device, non_blocking=True).float() / 255 for image in images],
        [{name: value.to(device, non_blocking=True) for name, value in target.items()} for target in targets],
    )


def train(
    model: GeneralizedRCNN, split: Split, config: Detection, *, seed: int, device: torch.device, progress: bool
) -> None:
    """Finetune all layers in place, then recompute the batch norm statistics if `config.precise_bn`.

    With several ranks, each rank samples and weights the anchors and regions of its own images, as is usual.

    Raises FloatingPointError, with the iteration and the loss terms, when the loss is not finite.
    """
    kept = trainable(split, difficult=config.train_difficult)
    samples = batches_of(
        split, kept, seed, config.iterations + config.precise_bn, config.batch_size, grouped=config.aspect_groups
    )
    example = partial(training_example, split, kept, seed, difficult=config.train_difficult)
    finetune(
        model,
        example,
        partial(loss_terms, device=device),
        partial(learning_rate, config=config),
        config,
        task="detection",
        # The anchor and region samplers use torch's global random generator.
        random="samplers",
        collate=as_lists,
        samples=samples[: config.iterations],
        norm_weight_decay=config.norm_weight_decay,
        seed=seed,
        device=device,
        progress=progress,
    )
    if config.precise_bn:
        order = training_order(samples[config.iterations :])
        loader = batches(example, order, config.batch_size // distributed.count(), device, as_lists)
        steps = bar(loader, "detection, batch norm", progress)
        recompute_statistics(model, partial(loss_terms, model, device=device), steps)
