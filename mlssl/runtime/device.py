"""What computes: the device chosen, and what result files say about it."""

from __future__ import annotations

import ctypes
import functools
import platform
from typing import Any

import torch


def choose(name: str = "auto", threads: int | None = None) -> torch.device:
    """The device called `name`; `auto` is CUDA where present, else the CPU.

    Sets the number of CPU threads, and for the CPU how memory is kept.
    """
    if threads:
        torch.set_num_threads(threads)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        keep_freed_memory()
    return torch.device(name)


@functools.cache
def keep_freed_memory() -> None:
    """Have glibc keep freed memory for the next tensor instead of giving it back to the system.

    Every activation would otherwise be mapped and zeroed anew: a ResNet-18 step at 64 px takes 5 to 20 % longer.
    """
    if platform.libc_ver()[0] == "glibc":
        mmap_threshold, trim_threshold = -3, -1  # malloc.h: M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 2**30)
        libc.mallopt(trim_threshold, 2**31 - 1)


def facts(device: torch.device) -> dict[str, Any]:
    """For the header of a result: the device's name, CPU threads and, on a GPU, the peak of its memory in MB."""
    told = {"device": "cpu", "threads": torch.get_num_threads()}
    if device.type == "cuda":
        told["device"] = torch.cuda.get_device_name(device)
        told["peak_memory_mb"] = torch.cuda.max_memory_allocated(device) / 2**20
    return told


def gains_from_bf16(device: torch.device) -> bool:
    """Whether bfloat16 matrix products have hardware of their own: a GPU's tensor cores, a CPU's AMX tiles."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return torch.cpu._is_amx_tile_supported()
