"""The precision of training: the number format of forward passes, and of float32 products on a GPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mlssl.runtime.device import gains_from_bf16

REDUCED = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""Precisions whose forward passes run under autocast, and its dtype."""


def effective(name: str, device: torch.device) -> tuple[str, str | None]:
    """The precision that the setting `name` means on a device, and a remark for people, or None.

    `auto` is `bf16` with hardware for it; on a GPU that has tensor cores for float16 alone (compute capability 7:
    V100, T4), `fp16` with loss scaling; else `fp32`. `tf32` is `fp32` on a device without it.
    """
    if name == "auto" and gains_from_bf16(device):
        return "bf16", None
    if device.type != "cuda":
        if name == "tf32":
            return "fp32", "precision: tf32 is for NVIDIA GPUs; a CPU computes in fp32"
        return ("fp32" if name == "auto" else name), None
    capability, gpu = torch.cuda.get_device_capability(device), torch.cuda.get_device_name(device)
    if name == "auto" and capability >= (7, 0):
        return "fp16", f"{gpu} has no bfloat16 hardware; training uses fp16 with loss scaling"
    if name == "auto":
        return "fp32", f"{gpu} has no hardware for bfloat16 and float16 products; training uses fp32"
    if name == "tf32" and capability < (8, 0):
        return "fp32", f"{gpu} has no TF32; training uses fp32"
    if name == "bf16" and not gains_from_bf16(device):
        return "bf16", f"{gpu} has no bfloat16 hardware; precision: bf16 is emulated and slow, auto is faster"
    return name, None


def run_under_autocast(module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Run every forward pass of the module on `device` under autocast to `dtype` (by forward hooks)."""
    autocast = _Autocast(device.type, dtype)
    module.register_forward_pre_hook(autocast.enter)
    module.register_forward_hook(autocast.leave, always_call=True)


class _Autocast:
    def __init__(self, device_type: str, dtype: torch.dtype) -> None:
        self._context = torch.autocast(device_type, dtype=dtype)

    def enter(self, module: nn.Module, inputs: Any) -> None:
        self._context.__enter__()

    def leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._context.__exit__(None, None, None)
