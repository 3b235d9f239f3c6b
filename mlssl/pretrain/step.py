"""One optimiser step, for whoever trains or times a method."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mlssl.parts.view import View
from mlssl.runtime import distributed
from mlssl.runtime.parallel import Parallel


def step(
    method: nn.Module | Parallel, optimizer: torch.optim.Optimizer, views: Sequence[View], progress: float
) -> dict[str, Tensor]:
    """Losses, backward pass and update; the losses' parts, on the device. Nothing waits for the device.

    With several ranks the parts are means over them.
    """
    parts = method.step(*views, progress)
    optimizer.zero_grad(set_to_none=True)
    parts["loss"].backward()
    optimizer.step()
    return distributed.mean(parts)
