"""One optimiser step, for training and for timing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mlssl.parts.method import Method
from mlssl.parts.view import View
from mlssl.runtime import distributed


def step(
    method: Method, optimizer: torch.optim.Optimizer, views: Sequence[View], progress: float
) -> dict[str, Tensor]:
    """Losses of the views, backward pass and update. Returns the parts of the loss on the device, without waiting.

    With several ranks the parts are means over the ranks.
    """
    parts = method.step(*views, progress=progress)
    optimizer.zero_grad(set_to_none=True)
    parts["loss"].backward()
    optimizer.step()
    return distributed.mean(parts)
