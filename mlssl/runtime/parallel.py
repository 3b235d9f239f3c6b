"""Training of a method by several ranks: each encodes its part of the batch, and the gradients are averaged."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mlssl.parts.view import View
from mlssl.runtime import distributed
from mlssl.runtime.batch_norm import shuffled, synchronise


class Parallel:
    """Replaces a method in `step`. Its loss is the mean over this rank's part of the batch."""

    def __init__(self, method: nn.Module) -> None:
        self._together = distributed.averaged(_Forward(method))

    def step(self, view1: View, view2: View, progress: float) -> dict[str, Tensor]:
        return self._together(view1, view2, progress)


class _Forward(nn.Module):
    def __init__(self, method: nn.Module) -> None:
        super().__init__()
        self.method = method

    def forward(self, view1: View, view2: View, progress: float) -> dict[str, Tensor]:
        return self.method.step(view1, view2, progress)


def parallel(method: nn.Module, batch_norm: str, device: torch.device) -> nn.Module | Parallel:
    """The method itself for a single process, else wrapped for training with the other ranks.

    `batch_norm` is the setting of `Pretrain`: `sync`, `local` or `shuffle`.
    """
    if distributed.count() == 1:
        return method
    if batch_norm == "sync":
        synchronise(method, device)
    if batch_norm == "shuffle":
        method.encoders.key.forward = shuffled(method.encoders.key.forward)
    return Parallel(method)
