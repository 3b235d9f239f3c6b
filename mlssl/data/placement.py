"""Where an image store's pixels are during training: in GPU memory, or in its file, which the page cache keeps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import psutil
import torch
from torch import Tensor

SHARE = 0.5
"""Maximum share of a GPU's free memory for a store; the rest is for training and other processes."""

CHUNK = 2**28
"""Bytes moved to a GPU at a time."""

Place = Literal["device", "mapped"]
NAMES: dict[Place, str] = {"device": "GPU memory", "mapped": "the page cache"}


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


def choose_place(need: int, free: FreeMemory, *, training: int = 0) -> Place:
    """The place of a store of `need` bytes beside a training that will allocate `training` bytes on the GPU.

    GPU memory if the store takes at most SHARE of what is free and leaves room for training. Without a GPU always
    `mapped`: a CPU reads the file directly.
    """
    if free.device is None:
        return "mapped"
    return "device" if need <= min(SHARE * free.device, free.device - training) else "mapped"


def moved(pixels: Tensor, place: Place, device: torch.device) -> Tensor:
    """The pixels of a store in their place: a copy, or for `mapped` the tensor itself.

    Raises torch.OutOfMemoryError if a GPU has no room for the copy.
    """
    if place == "mapped":
        return pixels
    copy = torch.empty(pixels.numel(), dtype=torch.uint8, device=device)
    for to, part in zip(copy.split(CHUNK), pixels.split(CHUNK), strict=True):
        to.copy_(part)
    return copy


def describe(need: int, place: Place, free: FreeMemory, *, training: int = 0) -> str:
    """For the result: where a store of `need` bytes is, and why."""
    if free.device is None:
        memory = f"{gigabytes(free.host)} of host memory free"
    else:
        memory = (
            f"{gigabytes(free.device)} of GPU memory free, at most {SHARE:.0%} of it to be used and "
            f"{gigabytes(training)} left for training; {gigabytes(free.host)} of host memory free"
        )
    slow = "; images are read from the disk again in every epoch" if place == "mapped" and need > free.host else ""
    return f"store of {gigabytes(need)} in {NAMES[place]} ({memory}{slow})"


def host_memory_free(
    own: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup"), machine: int | None = None
) -> int:
    """Bytes this process may still allocate: free memory of the machine, or of any cgroup that it is in.

    A scheduler's limit may be at any level: Slurm sets it on the job, several levels above the process. Files in
    the page cache that were not read recently count as free. `machine` is the free memory of the machine (None: as
    it is now).
    """
    free = psutil.virtual_memory().available if machine is None else machine
    return min([free, *cgroup_rooms(own, mount)])


def cgroup_rooms(own: Path, mount: Path) -> Iterator[int]:
    """What is left of each memory limit of this process's cgroups, versions 1 and 2, up to the root."""
    try:
        lines = own.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            roots, files = (mount, mount / "unified"), ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            roots = (mount / "memory", mount / controllers)
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        for root in dict.fromkeys(roots):
            # In a container the path may be that of the host, of which only the root is mounted.
            inside = PurePosixPath(path).relative_to("/")
            for folder in (root / inside, *(root / parent for parent in inside.parents)):
                yield from room(folder, *files)


def room(folder: Path, limit_file: str, usage_file: str, reclaimable: str) -> Iterator[int]:
    """The bytes left of the limit of one cgroup, if it has one."""
    try:
        limit, used = ((folder / name).read_text().strip() for name in (limit_file, usage_file))
    except OSError:
        return
    if limit == "max":
        return
    try:
        statistics = dict(line.split(maxsplit=1) for line in (folder / "memory.stat").read_text().splitlines())
    except OSError:
        statistics = {}
    yield max(0, int(limit) - int(used) + int(statistics.get(reclaimable, 0)))


def gigabytes(n: int) -> str:
    return f"{n / 1e9:.1f} GB"
