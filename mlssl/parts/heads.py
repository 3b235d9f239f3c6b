"""Projectors: the layers between backbone and loss."""

from __future__ import annotations

from torch import nn


def projector(d_in: int, d_out: int, *, hidden: int | None = None, batch_norm: bool = False) -> nn.Sequential:
    """MoCo-v2's two-layer MLP, B x d_in -> B x d_out (arXiv 2003.04297).

    `hidden` defaults to d_in (2048 for ResNet-50). `batch_norm` adds a BatchNorm1d after the hidden layer,
    which the papers' projector does not have; a small budget needs it.
    """
    hidden = hidden or d_in
    norm = [nn.BatchNorm1d(hidden)] if batch_norm else []
    return nn.Sequential(nn.Linear(d_in, hidden), *norm, nn.ReLU(inplace=True), nn.Linear(hidden, d_out))


def dense_projector(d_in: int, d_out: int, *, hidden: int | None = None, batch_norm: bool = False) -> nn.Sequential:
    """DenseCL's projector of every cell, B x d_in x S x S -> B x d_out x S x S: the same MLP as 1x1 convs."""
    hidden = hidden or d_in
    norm = [nn.BatchNorm2d(hidden)] if batch_norm else []
    return nn.Sequential(nn.Conv2d(d_in, hidden, 1), *norm, nn.ReLU(inplace=True), nn.Conv2d(hidden, d_out, 1))
