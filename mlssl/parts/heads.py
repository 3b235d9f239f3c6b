"""Projectors and predictors: the layers between backbone and loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn


def projector(d_in: int, d_out: int, *, hidden: int | None = None, batch_norm: bool = False) -> nn.Sequential:
    """MoCo-v2's two-layer MLP, B x d_in -> B x d_out (arXiv 2003.04297).

    `hidden` defaults to d_in (2048 for ResNet-50). `batch_norm` adds batch norm after both layers, the last one
    without scale and shift, as in MoCo-v3 (arXiv 2104.02057); the papers' projector has none.
    """
    hidden = hidden or d_in
    return _mlp(nn.Linear(d_in, hidden), nn.Linear(hidden, d_out), nn.BatchNorm1d if batch_norm else None)


def dense_projector(d_in: int, d_out: int, *, hidden: int | None = None, batch_norm: bool = False) -> nn.Sequential:
    """DenseCL's projector of each cell, B x d_in x S x S -> B x d_out x S x S: the same MLP as 1x1 convolutions."""
    hidden = hidden or d_in
    layers = nn.Conv2d(d_in, hidden, 1), nn.Conv2d(hidden, d_out, 1)
    return _mlp(*layers, nn.BatchNorm2d if batch_norm else None)


def without_autocast(head: nn.Module, x: Tensor) -> Tensor:
    """The output of a head on x in the precision of its weights, also inside an encoder that runs in bfloat16.

    A bfloat16 embedding has 8 bits; cosines near 1 would differ by steps of 0.004.
    """
    with torch.autocast(x.device.type, enabled=False):
        return head(x)


def mlp(
    widths: Sequence[int],
    *,
    bias: bool = True,
    last_bias: bool = True,
    last_norm: Literal["none", "affine", "plain"] = "none",
    of_cells: bool = False,
    activation: Callable[[], nn.Module] | None = None,
) -> nn.Sequential:
    """Linear layers with batch norm and an activation between them, B x widths[0] -> B x widths[-1].

    BYOL, SimSiam, NNCLR and MSF build projectors and predictors like this; PixPro, SlotCon and Self-EMD with
    `of_cells`, the same layers for each cell of a map as 1x1 convolutions, B x widths[0] x S x S to B x widths[-1]
    x S x S. `activation` is ReLU if not given. `bias` is that of the linear layers
    before the last one, `last_bias` that of the last. `last_norm` is the batch norm after it: `none`, `affine` with
    scale and shift, or `plain` without. At least two widths.
    """
    norm = nn.BatchNorm2d if of_cells else nn.BatchNorm1d

    def linear(d_in: int, d_out: int, bias: bool) -> nn.Module:
        return nn.Conv2d(d_in, d_out, 1, bias=bias) if of_cells else nn.Linear(d_in, d_out, bias=bias)

    layers: list[nn.Module] = []
    for d_in, d_out in pairwise(widths[:-1]):
        layers += [linear(d_in, d_out, bias), norm(d_out), activation() if activation else nn.ReLU(inplace=True)]
    layers.append(linear(widths[-2], widths[-1], last_bias))
    if last_norm != "none":
        layers.append(norm(widths[-1], affine=last_norm == "affine"))
    return nn.Sequential(*layers)


def _mlp(first: nn.Linear | nn.Conv2d, last: nn.Linear | nn.Conv2d, norm: type[nn.Module] | None) -> nn.Sequential:
    if norm is None:
        return nn.Sequential(first, nn.ReLU(inplace=True), last)
    hidden, d_out = first.weight.shape[0], last.weight.shape[0]
    return nn.Sequential(first, norm(hidden), nn.ReLU(inplace=True), last, norm(d_out, affine=False))
