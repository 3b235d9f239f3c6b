"""One optimiser step, for training and for timing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mlssl.parts.method import Method
from mlssl.parts.view import View
from mlssl.runtime import distributed


def step(
    method: Method,
    optimizer: torch.optim.Optimizer,
    views: Sequence[View],
    progress: float,
    scaler: torch.amp.GradScaler | None = None,
) -> dict[str, Tensor]:
    """Losses of the views, backward pass and update. Returns the parts of the loss on the device, without waiting.

    Training in float16 needs a scaler, which leaves out an update whose gradients have overflowed. With several
    ranks the parts are means over the ranks.
    """
    parts = method.step(*views, progress=progress)
    optimizer.zero_grad(set_to_none=True)
    if scaler is None:
        parts["loss"].backward()
        optimizer.step()
    else:
        scaler.scale(parts["loss"]).backward()
        scaler.step(optimizer)
        scaler.update()
    return distributed.mean(parts)
