"""What computes: the device chosen, and what result files say about it."""

from __future__ import annotations

from typing import Any

import torch


def choose(name: str = "auto", threads: int | None = None) -> torch.device:
    """The device called `name`; `auto` is CUDA where present, else the CPU. Sets the number of CPU threads."""
    if threads:
        torch.set_num_threads(threads)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


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
