"""Worker processes that read images for a GPU: how many, and how they are started."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from mlssl.runtime import distributed
from mlssl.runtime.launch import MOST_THREADS

SHARED_MEMORY = Path("/dev/shm")
"""64 MB in a container by default."""
WAITING = 3
"""Batches of a worker that may be there at once: two are prefetched, and one is being copied."""
SAFETY = 2
"""Examples may be this many times larger than the first one."""


def count(example: Any, batch_size: int) -> int:
    """Number of worker processes for batches of `batch_size` examples like this one; 0 if they cannot share memory.

    One per CPU thread of this process, at most MOST_THREADS, and no more than its share of the machine's cores and
    of the shared memory allow. A smaller number than wanted is explained on stderr.
    """
    ranks = distributed.on_this_machine()
    wanted = wished(torch.get_num_threads(), len(os.sched_getaffinity(0)), ranks)
    need = max(1, SAFETY * WAITING * batch_size * size_of(example))
    free = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.exists() else need * wanted * ranks
    allowed = min(wanted, free // ranks // need)
    if allowed < wanted and distributed.is_main():
        who = f"{allowed} of them read" if allowed else "the training process reads"
        print(
            f"{SHARED_MEMORY} has {free / 1e6:.0f} MB free, and {wanted * ranks} processes that read images need "
            f"{need * wanted * ranks / 1e6:.0f} MB; {who} the images instead, which is slower (for a container, "
            "give --shm-size=8g)",
            file=sys.stderr,
        )
    return allowed


def wished(threads: int, cores: int, jobs: int) -> int:
    """Workers of a process with this number of CPU threads, one of `jobs` that share the cores."""
    return max(1, min(threads, cores // jobs, MOST_THREADS))


def size_of(example: Any) -> int:
    """Bytes of the tensors and arrays of an example."""
    leaves = tree_leaves(example)
    return sum(
        x.numel() * x.element_size() if isinstance(x, Tensor) else x.nbytes
        for x in leaves
        if isinstance(x, Tensor | np.ndarray)
    )


def context() -> BaseContext:
    """How workers are started: by a server without threads.

    A process that uses a GPU has threads, and a fork would copy their locks in any state.
    """
    started = multiprocessing.get_context("forkserver")
    started.set_forkserver_preload(["mlssl.transfer.load"])  # imported once, not by each worker
    return started
