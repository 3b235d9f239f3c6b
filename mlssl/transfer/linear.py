"""Multi-label linear classification on frozen features, with all labels and with few labels.

Features are extracted once. For each share of the labelled training images, and for each of several subsets of that
share, one linear layer is fitted until it has converged. The L2 penalty is chosen on held-out images of the subset;
then the layer is fitted again on all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mlssl.errors import ConfigError, MissingLabels
from mlssl.seeds import seed_of
from mlssl.study.settings import Knn, Linear
from mlssl.transfer.features import extract
from mlssl.transfer.jackknife import row, without_each
from mlssl.transfer.load import bar, load_backbone, random_order, read_splits
from mlssl.transfer.logistic import basis, fit
from mlssl.transfer.metrics import mean_average_precision, scorable
from mlssl.transfer.needs import labels as missing

FEWEST = 10
"""Minimum number of images in a share (or all, if there are fewer), so that some remain for selection."""


class Choice(NamedTuple):
    """The chosen L2 penalty and the scores behind it."""

    weight_decay: float
    scores: dict[float, float] | None
    """mAP on the held-out images for each candidate; None if no category can be scored on them."""
    held_out: int
    capped: dict[float, float]
    """Candidates whose fit did not converge, with the largest entry of its gradient."""


class Labelled(NamedTuple):
    """The features of two splits (float32 N x D), and which categories their images show (bool N x C)."""

    x: Tensor
    y: Tensor
    x_val: Tensor
    y_val: Tensor
    categories: int


def read_labelled(backbone_file: Path, config: Linear | Knn, device: torch.device, progress: bool) -> Labelled:
    """Globally average-pooled features of a frozen backbone, and labels. Raises MissingLabels (see `missing`)."""
    backbone, _ = load_backbone(backbone_file)
    train, val = read_splits(config.data)
    if why := missing(train, val):
        raise MissingLabels(why)
    y, y_val = (torch.from_numpy(s.labels()).to(device) for s in (train, val))
    x, x_val = (
        extract(backbone, s, size=config.size, batch_size=config.batch_size, device=device, progress=progress)
        for s in (train, val)
    )
    return Labelled(x, y, x_val, y_val, len(val.categories))


def subset(count: int, fraction: float, seed: int, index: int = 0) -> Tensor:
    """Indices, int64, of the share of `count` training images to train on, in random order.

    A smaller share is a prefix of every larger one of the same `index`. It depends only on seed and index, not on
    the method.
    """
    order = random_order(count, seed_of(seed, "linear", "subset", index))
    return order[: max(round(fraction * count), min(FEWEST, count))]


def hold_out(indices: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Split randomly ordered indices into a fit set and a selection set, each with at least two indices."""
    if not 0 < share < 1:
        raise ConfigError(f"linear.selection: {share} is not a share; give a number in (0, 1)")
    if len(indices) < 4:
        raise ConfigError(f"linear: {len(indices)} training images are too few to select on; give at least 4")
    held = min(max(round(share * len(indices)), 2), len(indices) - 2)
    return indices[held:], indices[:held]


def choose(
    features: Tensor,
    targets: Tensor,
    indices: Tensor,
    share: float,
    candidates: Sequence[float],
    tolerance: float,
    iterations: int,
) -> Choice:
    """The weight decay with the best mAP on held-out images; on ties, the largest.

    If no category can be scored on the held-out images, the middle candidate is used. Each fit starts from that of
    the next larger penalty, which saves time; it converges to the same optimum from anywhere.
    """
    fitted, held = hold_out(indices, share)
    if not scorable(targets[held]).any():
        return Choice(sorted(candidates)[len(candidates) // 2], None, len(held), {})
    scores: dict[float, float] = {}
    capped: dict[float, float] = {}
    start = None
    of = basis(features[fitted])
    for candidate in sorted(candidates, reverse=True):
        found = fit(
            of, targets[fitted], candidate, softmax=False, tolerance=tolerance, iterations=iterations, start=start
        )
        start = found.solution
        scores[candidate] = mean_average_precision(found.probe.scores(features[held]), targets[held])[0]
        if not found.converged:
            capped[candidate] = found.gradient
    return Choice(max(candidates, key=lambda c: (scores[c], c)), scores, len(held), capped)


def mean_ap_without_each(scores: Tensor, targets: Tensor) -> list[float] | None:
    """The mAP, in percent, without each group of images (see `jackknife`); N x C float and bool."""

    def metric(kept: Tensor) -> float | None:
        kept = kept.to(targets.device)
        return mean_average_precision(scores[kept], targets[kept])[0] if scorable(targets[kept]).any() else None

    return without_each(len(targets), metric)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def evaluate(
    backbone_file: Path, config: Linear, *, seed: int, device: torch.device, progress: bool = True
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows with the mAP in percent on all validation images, one per share of the labels, and notes.

    A row is the mean over the subsets of its share; the notes have each one's value. The mean is over the
    categories with a positive and a negative validation image; the notes give their number. Raises MissingLabels
    if there is none.
    """
    x, y, x_val, y_val, categories = read_labelled(backbone_file, config, device, progress)
    rows, protocols = [], {}
    capped: list[dict[str, Any]] = []
    for fraction in bar(config.fractions, "linear probes", progress):
        protocol = config.protocol(fraction)
        values: list[float] = []
        found, jackknives = [], []
        for index in range(1 if fraction == 1 else config.subsets):
            indices = subset(len(x), fraction, seed, index).to(device)
            choice = choose(
                x, y, indices, config.selection, config.weight_decays, config.tolerance, config.iterations
            )
            final = fit(
                basis(x[indices]),
                y[indices],
                choice.weight_decay,
                softmax=False,
                tolerance=config.tolerance,
                iterations=config.iterations,
            )
            scores = final.probe.scores(x_val)
            jackknives.append(mean_ap_without_each(scores, y_val))
            named = None if choice.scores is None else {f"{c:g}": s for c, s in choice.scores.items()}
            values.append(mean_average_precision(scores, y_val)[0])
            found.append(
                {
                    "mAP": values[-1],
                    "weight_decay": choice.weight_decay,
                    "selection_mAP": named,
                    "categories_without_positive": int((~y[indices].any(dim=0)).sum()),
                }
            )
            missed = {} if final.converged else {choice.weight_decay: final.gradient}
            for phase, gradients in (("selection", choice.capped), ("final", missed)):
                capped += [
                    {"protocol": protocol, "subset": index, "fit": phase, "weight_decay": c, "gradient": g}
                    for c, g in gradients.items()
                ]
        known = [j for j in jackknives if j is not None]
        jackknife = [_mean(v) for v in zip(*known, strict=True)] if len(known) == len(found) else None
        rows.append(row(protocol, "mAP", _mean(values), len(x_val), jackknife))
        protocols[protocol] = {
            "train_images": len(indices),
            "selection_images": choice.held_out,
            "subsets": found,
        }
    notes = {
        "head": "linear layer on standardised, globally average-pooled features of the frozen backbone",
        "solver": f"truncated Newton to a gradient of {config.tolerance:g}, at most {config.iterations} steps; "
        "BCE and L2 penalty",
        "not_converged": capped,
        "features": x.shape[1],
        "parameters": (x.shape[1] + 1) * y.shape[1],
        "size": config.size,
        "eval_images": len(x_val),
        "categories": categories,
        "categories_scored": int(scorable(y_val).sum()),
        "constant_mAP": 100 * float(y_val[:, scorable(y_val)].double().mean()),
        "protocols": protocols,
    }
    return rows, notes
