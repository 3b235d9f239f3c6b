"""Ranks: the processes, started by torchrun, that train one model together, each with its own device.

All functions that communicate are collective: every rank must call them in the same order. With one process there
is no process group, and they return their input.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mlssl.errors import ConfigError

T = TypeVar("T")
TIMEOUT = timedelta(minutes=30)
"""How long a rank waits for the others, one of which may be building the image store."""


def count() -> int:
    """The number of ranks (world size)."""
    return dist.get_world_size() if dist.is_initialized() else 1


def own() -> int:
    """This rank's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this is rank 0, the only one that writes files; True for a single process."""
    return own() == 0


def on_this_machine() -> int:
    """The number of ranks on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if dist.is_initialized() else 1


@contextmanager
def joined(device: str = "auto") -> Iterator[str]:
    """Join the process group of torchrun, if there is one, for the duration of the context.

    Yields the name of this rank's device: its own GPU for `cuda`, or `auto` with CUDA. Raises ConfigError if a
    machine has more ranks than GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield device
        return
    here = int(os.environ["LOCAL_RANK"])
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        if here >= torch.cuda.device_count():
            raise ConfigError(
                f"rank {here} of this machine has no GPU, the machine has {torch.cuda.device_count()}; "
                "start one rank per GPU, or give --device cpu"
            )
        device = f"cuda:{here}"
        torch.cuda.set_device(here)
        # Objects and flags are exchanged between CPUs (gloo), so that no rank waits for its GPU.
        dist.init_process_group("cpu:gloo,cuda:nccl", timeout=TIMEOUT)
    else:
        dist.init_process_group("gloo", timeout=TIMEOUT)
    end_with_launcher()
    yield device
    dist.destroy_process_group()  # not after an error: other ranks may never reach it, and torchrun ends them


def end_with_launcher() -> None:
    """On Linux, receive SIGTERM if torchrun is killed; otherwise the ranks would continue without a launcher."""
    if sys.platform == "linux":
        on_death_of_parent = 1  # PR_SET_PDEATHSIG of prctl.h
        ctypes.CDLL(None).prctl(on_death_of_parent, signal.SIGTERM)


def part(batch: int) -> slice:
    """This rank's slice of a global batch, rank 0 first; ConfigError if the ranks do not divide it."""
    if batch % count():
        raise ConfigError(f"batch_size {batch} cannot be shared evenly by {count()} ranks; give a multiple")
    each = batch // count()
    return slice(each * own(), each * (own() + 1))


def gather(rows: Tensor) -> Tensor:
    """The rows of all ranks, rank 0's first: n x … -> (ranks n) x …, the same on every rank. No gradient flows."""
    if count() == 1:
        return rows
    rows = rows.detach().contiguous()
    sent = rows.view(torch.uint8) if rows.dtype == torch.bool else rows  # gloo does not support bool
    everyone = sent.new_empty(count() * len(sent), *sent.shape[1:])
    dist.all_gather_into_tensor(everyone, sent)
    return everyone.view(rows.dtype)


def gather_list(items: list[T]) -> list[T]:
    """The items (any picklable objects) of all ranks, rank 0's first."""
    if count() == 1:
        return items
    everyone: list[list[T]] = [[] for _ in range(count())]
    dist.all_gather_object(everyone, items)
    return [item for one in everyone for item in one]


def total(values: Tensor) -> Tensor:
    """The sum over ranks; its gradient is the sum of the ranks' gradients."""
    return _Total.apply(values) if count() > 1 else values


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, values: Tensor) -> Tensor:
        values = values.clone()
        dist.all_reduce(values)
        return values

    backward = forward


def mean(parts: dict[str, Tensor]) -> dict[str, Tensor]:
    """The means over ranks of some scalars, without gradient and without waiting for the device."""
    if count() == 1:
        return parts
    values = total(torch.stack([value.detach().float() for value in parts.values()])) / count()
    return dict(zip(parts, values.unbind(), strict=True))


def averaged(model: nn.Module) -> nn.Module:
    """The model, which has the same parameters on all ranks, as DistributedDataParallel: gradients are averaged."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")  # not yet, in torch 2.11
        # Buffers are not broadcast: the dictionary is large, and already equal on all ranks.
        return DistributedDataParallel(
            model, broadcast_buffers=False, init_sync=False, gradient_as_bucket_view=True
        )


def anyone(*flags: bool) -> list[bool]:
    """For each flag, whether it is true on any rank."""
    if count() == 1:
        return list(flags)
    raised = torch.tensor(flags, dtype=torch.int32)
    dist.all_reduce(raised, dist.ReduceOp.MAX)
    return raised.bool().tolist()


def wait_for_all() -> None:
    """Barrier: return when every rank has called this."""
    anyone(False)
