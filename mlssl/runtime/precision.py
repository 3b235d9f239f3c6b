"""bfloat16 forward passes of single modules."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def run_in_bf16(module: nn.Module, device: torch.device) -> None:
    """Run every forward pass of the module on `device` under bfloat16 autocast (by forward hooks)."""
    autocast = _Autocast(device.type)
    module.register_forward_pre_hook(autocast.enter)
    module.register_forward_hook(autocast.leave, always_call=True)


class _Autocast:
    def __init__(self, device_type: str) -> None:
        self._context = torch.autocast(device_type, dtype=torch.bfloat16)

    def enter(self, module: nn.Module, inputs: Any) -> None:
        self._context.__enter__()

    def leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._context.__exit__(None, None, None)
