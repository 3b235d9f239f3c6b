"""Multi-label linear classification on frozen features, with all labels and with few labels.

Features are extracted once. For each share of the labelled training images, L-BFGS fits one linear layer. The
L2 penalty is chosen on held-out images of that share; then the layer is fitted again on all of the share.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mlssl.errors import ConfigError, DataError
from mlssl.seeds import seed_of
from mlssl.study.settings import Linear
from mlssl.transfer.features import extract
from mlssl.transfer.load import bar, load_backbone, read_splits
from mlssl.transfer.metrics import mean_average_precision, scorable

FEWEST = 10
"""Minimum number of images in a share (or all, if there are fewer), so that some remain for selection."""


class Probe(NamedTuple):
    """One linear layer on standardised features: D features, C categories."""

    mean: Tensor
    """float D."""
    scale: Tensor
    """float D, standard deviation of the features; 1 where they are constant."""
    weight: Tensor
    """float C x D."""
    bias: Tensor
    """float C."""

    def scores(self, features: Tensor) -> Tensor:
        """Logits, float N x C, of features N x D."""
        return F.linear((features - self.mean) / self.scale, self.weight, self.bias)


class Choice(NamedTuple):
    """The chosen L2 penalty and the scores behind it."""

    weight_decay: float
    scores: dict[float, float] | None
    """mAP on the held-out images for each candidate; None if no category can be scored on them."""
    held_out: int


def subset(count: int, fraction: float, seed: int) -> Tensor:
    """Indices, int64, of the share of `count` training images to train on, in random order.

    A smaller share is a prefix of every larger one. It depends only on the seed, not on the method.
    """
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed_of(seed, "linear", "subset")))
    return order[: max(round(fraction * count), min(FEWEST, count))]


def hold_out(indices: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Split randomly ordered indices into a fit set and a selection set, each with at least two indices."""
    if not 0 < share < 1:
        raise ConfigError(f"linear.selection: {share} is not a share; give a number in (0, 1)")
    if len(indices) < 4:
        raise ConfigError(f"linear: {len(indices)} training images are too few to select on; give at least 4")
    held = min(max(round(share * len(indices)), 2), len(indices) - 2)
    return indices[held:], indices[:held]


def fit(features: Tensor, targets: Tensor, weight_decay: float, iterations: int) -> Probe:
    """Minimise, over W and b, sum_c [ mean_n BCE(w_c x_n + b_c, y_nc) + weight_decay / 2 ||w_c||^2 ].

    `features` float N x D, standardised here with their mean and standard deviation; `targets` bool N x C.
    Full batches, at most `iterations` iterations of L-BFGS from zero; deterministic.
    """
    mean, scale = features.mean(dim=0), features.std(dim=0, correction=0)
    scale = torch.where(scale > 0, scale, 1.0)
    x, y = (features - mean) / scale, targets.to(features.dtype)
    weight = x.new_zeros(y.shape[1], x.shape[1], requires_grad=True)
    bias = x.new_zeros(y.shape[1], requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=iterations, line_search_fn="strong_wolfe")

    def objective() -> Tensor:
        optimiser.zero_grad()
        data = F.binary_cross_entropy_with_logits(F.linear(x, weight, bias), y, reduction="sum") / len(x)
        loss = data + weight_decay / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimiser.step(objective)
    return Probe(mean, scale, weight.detach(), bias.detach())


def choose(
    features: Tensor,
    targets: Tensor,
    indices: Tensor,
    share: float,
    candidates: Sequence[float],
    iterations: int,
) -> Choice:
    """The weight decay with the best mAP on held-out images; on ties, the largest.

    If no category can be scored on the held-out images, the middle candidate is used.
    """
    fitted, held = hold_out(indices, share)
    if not scorable(targets[held]).any():
        return Choice(sorted(candidates)[len(candidates) // 2], None, len(held))
    scores = {}
    for candidate in candidates:
        probe = fit(features[fitted], targets[fitted], candidate, iterations)
        scores[candidate] = mean_average_precision(probe.scores(features[held]), targets[held])[0]
    return Choice(max(candidates, key=lambda c: (scores[c], c)), scores, len(held))


def evaluate(
    backbone_file: Path, config: Linear, *, seed: int, device: torch.device, progress: bool = True
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows with the mAP in percent on all validation images, one per share of the labels, and notes.

    The mean is over the categories with a positive and a negative validation image; the notes give their number.
    Raises DataError if there is none.
    """
    backbone, _ = load_backbone(backbone_file)
    train, val = read_splits(config.data)
    y, y_val = (torch.from_numpy(s.labels()).to(device) for s in (train, val))
    scored = scorable(y_val)
    if not scored.any():
        raise DataError(
            f"{val.annotation_file}: no category is on some of its {len(val)} images and not on others, so none "
            "can be scored; label more images, or other categories"
        )
    x, x_val = (
        extract(backbone, s, size=config.size, batch_size=config.batch_size, device=device, progress=progress)
        for s in (train, val)
    )
    rows, protocols = [], {}
    for fraction in bar(config.fractions, "linear probes", progress):
        indices = subset(len(train), fraction, seed).to(device)
        choice = choose(x, y, indices, config.selection, config.weight_decays, config.iterations)
        probe = fit(x[indices], y[indices], choice.weight_decay, config.iterations)
        value, _ = mean_average_precision(probe.scores(x_val), y_val)
        rows.append({"protocol": config.protocol(fraction), "metric": "mAP", "value": value, "n": len(val)})
        protocols[config.protocol(fraction)] = {
            "train_images": len(indices),
            "selection_images": choice.held_out,
            "weight_decay": choice.weight_decay,
            "selection_mAP": None if choice.scores is None else {f"{c:g}": s for c, s in choice.scores.items()},
            "categories_without_positive": int((~y[indices].any(dim=0)).sum()),
        }
    notes = {
        "head": "linear layer on standardised, globally average-pooled features of the frozen backbone",
        "solver": f"L-BFGS, at most {config.iterations} iterations; BCE and L2 penalty",
        "features": x.shape[1],
        "parameters": (x.shape[1] + 1) * y.shape[1],
        "size": config.size,
        "eval_images": len(val),
        "categories": len(val.categories),
        "categories_scored": int(scored.sum()),
        "constant_mAP": 100 * float(y_val[:, scored].double().mean()),
        "protocols": protocols,
    }
    return rows, notes
