"""Choose where an image store's pixels are kept during training: GPU, pinned host memory or page cache."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

from mlssl.data.store import ImageStore

SHARE = 0.5
"""Maximum share of the free memory for a store; the rest is for training and other processes."""

CHUNK = 2**28
"""Bytes moved to a GPU at a time."""


def plan(need: int, device_free: int | None, host_free: int, share: float = SHARE) -> str:
    """`device`, `pinned` or `mapped`, for a store of `need` bytes, given the free memory in bytes.

    `mapped` uses the page cache; without a GPU (`device_free` None) always, because a CPU reads the file directly.
    """
    if device_free is None:
        return "mapped"
    if need <= share * device_free:
        return "device"
    return "pinned" if need <= share * host_free else "mapped"


def place(store: ImageStore, device: torch.device, *, sharers: int = 1) -> str:
    """Move a store's pixels as planned; returns a sentence that says where and why.

    `sharers`: number of processes on this machine that do so at once, each on its own GPU.
    """
    need, host = store.pixels.numel(), host_memory_free() // sharers
    on_gpu = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
    where = plan(need, on_gpu, host)
    if where == "device":
        pixels = torch.empty(need, dtype=torch.uint8, device=device)
        for to, part in zip(pixels.split(CHUNK), store.pixels.split(CHUNK), strict=True):
            to.copy_(part)
        store.pixels = pixels
    elif where == "pinned":
        store.pixels = store.pixels.pin_memory()
    what = {"device": "GPU memory", "pinned": "pinned host memory", "mapped": "the page cache"}[where]
    free = f"{gigabytes(host)} of host memory free"
    if on_gpu is not None:
        free = f"{gigabytes(on_gpu)} of GPU memory and {free}"
    return f"store of {gigabytes(need)} in {what} ({free}, at most {SHARE:.0%} of either to be used)"


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
