"""Classification of whole images by a linear layer on a backbone: all layers are trained, or the layer alone.

The protocols of VOC07's fine-tuned mAP, of small sets fine-tuned for 120 epochs, and of ImageNet's linear probe
differ in their settings (config/protocols/). Publications often print the best epoch on the test images; here both
the last and the best are rows, and tables show the last.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import RandomResizedCrop

from mlssl.data.coco import Split
from mlssl.errors import MissingLabels
from mlssl.parts.backbone import channels, image_features
from mlssl.seeds import seed_of
from mlssl.study.settings import Classification
from mlssl.transfer.jackknife import row, without_each
from mlssl.transfer.load import (
    autocast,
    bar,
    batches,
    draw,
    image_tensor,
    load_backbone,
    normalise,
    private_rng,
    read_splits,
    resize_short,
)
from mlssl.transfer.metrics import single_label_scores
from mlssl.transfer.needs import labels as missing
from mlssl.transfer.svm import mean_ap, mean_ap_without_each, presence

SGD_MOMENTUM = 0.9
STD = 0.01
"""Of the initial weights of a linear layer on a frozen backbone (MoCo)."""


class Classifier(nn.Module):
    """Images, float B x 3 x S x S, to logits B x C."""

    def __init__(self, backbone: nn.Module, categories: int, config: Classification) -> None:
        super().__init__()
        self.backbone, self.config = backbone, config
        self.fc = nn.Linear(channels(backbone), categories)
        if config.frozen:
            nn.init.normal_(self.fc.weight, std=STD)
            nn.init.zeros_(self.fc.bias)
            backbone.requires_grad_(False)

    def train(self, mode: bool = True) -> Classifier:
        """Norms keep their statistics where the backbone is frozen or `batch_norm` is `eval`."""
        super().train(mode)
        if self.config.frozen:
            self.backbone.eval()
        elif self.config.batch_norm == "eval":
            for module in self.backbone.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.frozen):
            features = image_features(self.backbone, images)
        return self.fc(features)


def learning_rate(step: int, per_epoch: int, config: Classification) -> float:
    """That of an optimiser step, from 0."""
    total = per_epoch * config.epochs
    if config.schedule == "cosine":
        return config.lr * (1 + math.cos(math.pi * step / total)) / 2
    passed = sum(step // per_epoch >= round(share * config.epochs) for share in config.milestones)
    return config.lr * 0.1**passed


def crop_of(image: Tensor, config: Classification) -> Tensor:
    """The centre, uint8 3 x size x size, of an image resized to `resize` (at least `size`) on its short side."""
    image, size = resize_short(image, max(config.resize, config.size)), config.size
    top, left = ((length - size) // 2 for length in image.shape[1:])
    return image[:, top : top + size, left : left + size]


def augmented(image: Tensor, config: Classification, generator: torch.Generator) -> Tensor:
    """A training crop, uint8 3 x size x size, flipped with probability one half."""
    size = config.size
    if config.crop == "random_resized":
        # torchvision draws from the global generator.
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        top, left, height, width = RandomResizedCrop.get_params(image, list(config.scale), list(config.ratio))
        part = image[None, :, top : top + height, left : left + width]
        image = F.interpolate(part, size=(size, size), mode="bilinear", antialias=True)[0]
    elif config.crop == "random":
        image = resize_short(image, max(config.resize, size))
        top, left = (int(torch.randint(length - size + 1, (), generator=generator)) for length in image.shape[1:])
        image = image[:, top : top + size, left : left + size]
    else:
        image = crop_of(image, config)
    return image.flip(2) if torch.rand((), generator=generator) < 0.5 else image


def ratings(scores: np.ndarray, shown: np.ndarray, exclusive: bool) -> dict[str, float]:
    """`mAP` in percent, all-point, and for exclusive categories `top1` and `mAcc`."""
    found = {"mAP": mean_ap(scores, shown)}
    return found | (
        single_label_scores(torch.from_numpy(scores), torch.from_numpy(shown == 1)) if exclusive else {}
    )


def evaluate(
    backbone_file: Path, config: Classification, *, seed: int, device: torch.device, progress: bool = True
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of protocol `classification` after the last epoch: `mAP`, for exclusive categories also `top1`, `mAcc`.

    Then each with `_best_epoch`, of the epoch that is best on the evaluated images, as many publications print.

    A difficult object (a crowd) counts as present in training, and its category is left out in evaluation. Raises
    MissingLabels with the sentence of `missing`, FloatingPointError for a loss that is not finite.
    """
    with private_rng(device):
        torch.manual_seed(seed_of(seed, "classification", "head"))
        backbone, _ = load_backbone(backbone_file)
        train, val = read_splits(config.data)
        if why := missing(train, val):
            raise MissingLabels(why)
        exclusive = train.exclusive and val.exclusive
        model = Classifier(backbone, len(val.categories), config).to(device)
        model.to(memory_format=torch.channels_last)
        trained = [p for p in model.parameters() if p.requires_grad]
        optimiser = torch.optim.SGD(trained, lr=config.lr, momentum=SGD_MOMENTUM, weight_decay=config.weight_decay)
        shown, shown_val = presence(train), presence(val)
        epochs: list[dict[str, float]] = []
        scores = np.zeros(0)
        for epoch in bar(range(config.epochs), "classification", progress):
            train_epoch(model, optimiser, train, shown, exclusive, epoch, config, seed, device)
            scores = predict(model, val, config, device)
            epochs.append(ratings(scores, shown_val, exclusive))
    return rows_of(epochs, scores, shown_val, exclusive), {
        "head": "linear layer on the frozen backbone" if config.frozen else "linear layer, all layers trained",
        "loss": "softmax" if exclusive else "one logistic output per category",
        "train_images": len(train),
        "eval_images": len(val),
        "categories": len(val.categories),
        "batch_norm": "eval" if config.frozen else config.batch_norm,
        "best_epoch": {m: best_epoch(epochs, m) + 1 for m in epochs[0]},
    }


def best_epoch(epochs: list[dict[str, float]], metric: str) -> int:
    """The first epoch, from 0, with the highest value."""
    return max(range(len(epochs)), key=lambda e: epochs[e][metric])


def rows_of(
    epochs: list[dict[str, float]], scores: np.ndarray, shown: np.ndarray, exclusive: bool
) -> list[dict[str, Any]]:
    """The rows of the last epoch, with their values without each group of images, and those of the best."""
    without: Mapping[str, list[float] | None] = {"mAP": mean_ap_without_each(scores, shown)}
    if exclusive:

        def metric(name: str, kept: Tensor) -> float:
            part = torch.from_numpy(scores)[kept], torch.from_numpy(shown == 1)[kept]
            return single_label_scores(*part)[name]

        without = {
            **without,
            "top1": without_each(len(shown), lambda kept: metric("top1", kept)),
            "mAcc": without_each(len(shown), lambda kept: metric("mAcc", kept)),
        }
    rows = [row("classification", m, value, len(shown), without[m]) for m, value in epochs[-1].items()]
    for m in epochs[-1]:
        value = epochs[best_epoch(epochs, m)][m]
        rows.append(row("classification", f"{m}_best_epoch", value, len(shown), None))
    return rows


def train_epoch(
    model: Classifier,
    optimiser: torch.optim.Optimizer,
    split: Split,
    shown: np.ndarray,
    exclusive: bool,
    epoch: int,
    config: Classification,
    seed: int,
    device: torch.device,
) -> None:
    """One pass over the training images, in incomplete batches too unless one image would be left alone."""
    count = len(split)
    per_epoch = max(1, -(-count // config.batch_size) - (count % config.batch_size == 1 and count > 1))
    number = min(count, per_epoch * config.batch_size)

    def read(place: int) -> tuple[int, Tensor]:
        i, generator = draw(epoch * count + place, count, seed, "classification")
        return i, augmented(image_tensor(split, i), config, generator)

    model.train()
    present = torch.from_numpy(shown != 0)
    for step, (index, pixels) in enumerate(batches(read, range(number), config.batch_size, device)):
        optimiser.param_groups[0]["lr"] = learning_rate(epoch * per_epoch + step, per_epoch, config)
        x = normalise(pixels.to(device, non_blocking=True)).contiguous(memory_format=torch.channels_last)
        y = present[index].to(device)
        with autocast(device):
            logits = model(x)
        if exclusive:
            loss = F.cross_entropy(logits.float(), y.int().argmax(dim=1))
        else:
            loss = F.binary_cross_entropy_with_logits(logits.float(), y.float())
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"classification: the loss is {float(loss.detach())} in epoch {epoch + 1}; lower classification.lr "
                f"({config.lr})"
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()


@torch.no_grad()
def predict(model: Classifier, split: Split, config: Classification, device: torch.device) -> np.ndarray:
    """Logits, float32 N x C, of the centre crops of all images."""
    model.eval()

    def read(i: int) -> tuple[int, Tensor]:
        return i, crop_of(image_tensor(split, i), config)

    found = []
    for _, pixels in batches(read, range(len(split)), config.batch_size, device):
        with autocast(device):
            found.append(model(normalise(pixels.to(device))).float().cpu())
    return torch.cat(found).numpy()
