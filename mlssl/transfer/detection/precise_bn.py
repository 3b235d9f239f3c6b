"""Batch norm statistics over many batches of fixed weights (PreciseBN, arXiv 2105.07576, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mlssl.runtime.batch_norm import CpuSyncBatchNorm


@torch.no_grad()
def recompute_statistics(model: nn.Module, forward: Callable[[Any], object], batches: Iterable[Any]) -> None:
    """Set the running statistics of all batch norms to their means over `batches`; leaves training mode on.

    As detectron2 does before a test: the mean of the batches' means, and of their (unbiased) variances.
    `forward(batch)` calls the model. Weights stay as they are. Without batches nothing changes.
    """
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm | CpuSyncBatchNorm)]
    momenta = [norm.momentum for norm in norms]
    model.train()
    for seen, batch in enumerate(batches):
        for norm in norms:
            # running += (batch's - running) / (seen + 1): the mean of all batches until now.
            norm.momentum = 1 / (seen + 1)
        forward(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
