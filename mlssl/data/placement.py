"""Where a store's pixels lie while a run trains, planned before anything is moved: memory never runs out."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch

from mlssl.data.store import ImageStore

SHARE = 0.5
"""Of the memory that is free, a store takes at most so much; the rest is for training and for others."""

CHUNK = 2**28
"""Bytes moved to a GPU at a time."""


def plan(need: int, device_free: int | None, host_free: int, share: float = SHARE) -> str:
    """`device`, `pinned` or `mapped`, for a store of `need` bytes beside so many bytes of free memory.

    `mapped` leaves it to the page cache: always where there is no GPU (`device_free` None), since a CPU reads the
    file in place.
    """
    if device_free is None:
        return "mapped"
    if need <= share * device_free:
        return "device"
    return "pinned" if need <= share * host_free else "mapped"


def place(store: ImageStore, device: torch.device, *, sharers: int = 1) -> str:
    """Bring a store's pixels to where they are planned to lie; the sentence says where and why.

    `sharers` processes of this machine do so at once, each on a GPU of its own.
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
    """Bytes this process may still take: what the machine has, or its control group (a scheduler's job) allows."""
    free = psutil.virtual_memory().available
    try:
        limit, used = ((cgroup / f"memory.{name}").read_text().strip() for name in ("max", "current"))
    except OSError:  # no control group, or one of version 1
        return free
    return free if limit == "max" else min(free, max(0, int(limit) - int(used)))


def gigabytes(n: int) -> str:
    return f"{n / 1e9:.1f} GB"
