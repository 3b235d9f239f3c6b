"""Training of a method by several ranks: each encodes its part of the batch, and the gradients are averaged."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mlssl.errors import ConfigError
from mlssl.parts.method import Method
from mlssl.parts.view import View
from mlssl.runtime import distributed
from mlssl.runtime.batch_norm import shuffle_over_ranks, synchronise


class Parallel:
    """A method that is trained by several ranks. Its loss is the mean over this rank's part of the batch."""

    def __init__(self, method: Method) -> None:
        self._averaged = distributed.averaged(_Forward(method))

    def step(self, *views: View, progress: float) -> dict[str, Tensor]:
        return self._averaged(*views, progress=progress)


class _Forward(nn.Module):
    """The step of a method as a forward pass, which DistributedDataParallel needs."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, *views: View, progress: float) -> dict[str, Tensor]:
        return self.method.step(*views, progress=progress)


def parallel(method: nn.Module, batch_norm: str, device: torch.device) -> Method:
    """The method itself for a single process, else wrapped for training with the other ranks.

    `batch_norm` is the setting of `Pretrain`: `sync`, `local` or `shuffle`. Raises ConfigError for a class without
    `step`, and for `shuffle` with a method that has no key encoder.
    """
    if not isinstance(method, Method):
        raise ConfigError(
            f"target: {type(method).__name__} has no step(view1, view2, progress), so it cannot be trained; "
            "add it as ARCHITECTURE.md (Contracts) describes"
        )
    if distributed.count() == 1:
        return method
    if batch_norm == "sync":
        synchronise(method, device)
    if batch_norm == "shuffle":
        if "encoders.key" not in dict(method.named_modules()):
            raise ConfigError(
                f"batch_norm: 'shuffle' is for keys, and {type(method).__name__} has no key encoder; give 'sync'"
            )
        shuffle_over_ranks(method.get_submodule("encoders.key"))
    return Parallel(method)
