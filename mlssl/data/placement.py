"""Where an image store's pixels are kept during training: GPU memory, pinned host memory or the page cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
import torch
from torch import Tensor

SHARE = 0.5
"""Maximum share of the free memory for a store; the rest is for training and other processes."""

CHUNK = 2**28
"""Bytes moved to a GPU at a time."""

Place = Literal["device", "pinned", "mapped"]
NAMES: dict[Place, str] = {"device": "GPU memory", "pinned": "pinned host memory", "mapped": "the page cache"}


@dataclass(frozen=True)
class FreeMemory:
    """Memory that this process may still allocate, in bytes."""

    host: int
    device: int | None
    """None without a GPU."""


def free_memory(device: torch.device, *, sharers: int = 1) -> FreeMemory:
    """The free memory now; `sharers` processes on this machine share that of the host, each with its own GPU."""
    on_gpu = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
    return FreeMemory(host_memory_free() // sharers, on_gpu)


def choose_place(need: int, free: FreeMemory, share: float = SHARE) -> Place:
    """The place of a store of `need` bytes: the fastest one of which it takes at most `share` of the free memory.

    `mapped` uses the page cache; without a GPU always, because a CPU reads the file directly.
    """
    if free.device is None:
        return "mapped"
    if need <= share * free.device:
        return "device"
    return "pinned" if need <= share * free.host else "mapped"


def moved(pixels: Tensor, place: Place, device: torch.device) -> Tensor:
    """The pixels of a store in their place: a copy, or for `mapped` the tensor itself."""
    if place == "pinned":
        return pixels.pin_memory()
    if place == "mapped":
        return pixels
    copy = torch.empty(pixels.numel(), dtype=torch.uint8, device=device)
    for to, part in zip(copy.split(CHUNK), pixels.split(CHUNK), strict=True):
        to.copy_(part)
    return copy


def describe(need: int, place: Place, free: FreeMemory) -> str:
    """For the result: where a store of `need` bytes is, and why."""
    memory = f"{gigabytes(free.host)} of host memory free"
    if free.device is not None:
        memory = f"{gigabytes(free.device)} of GPU memory and {memory}"
    return f"store of {gigabytes(need)} in {NAMES[place]} ({memory}, at most {SHARE:.0%} of either to be used)"


def host_memory_free(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes this process may still allocate: free memory of the machine or of its cgroup (a scheduler's job)."""
    free = psutil.virtual_memory().available
    try:
        limit, used = ((cgroup / f"memory.{name}").read_text().strip() for name in ("max", "current"))
    except OSError:  # no cgroup, or version 1
        return free
    return free if limit == "max" else min(free, max(0, int(limit) - int(used)))


def gigabytes(n: int) -> str:
    return f"{n / 1e9:.1f} GB"
