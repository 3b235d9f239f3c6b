"""Ranks: the processes that train one model together, each with a device of its own. torchrun starts them.

Every function here is of the kind that all ranks call, at the same place of their programs. Where there is one
process, no process group exists and each gives back what it got.
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
"""So long a rank waits for the others, one of which may be building the image store."""


def count() -> int:
    """How many ranks there are."""
    return dist.get_world_size() if dist.is_initialized() else 1


def own() -> int:
    """This rank's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this is the first rank, which alone writes files; true where there is only one."""
    return own() == 0


def on_this_machine() -> int:
    """How many ranks share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if dist.is_initialized() else 1


@contextmanager
def joined(device: str = "auto") -> Iterator[str]:
    """Join the other ranks, if torchrun started any, for as long as the context lasts.

    Gives the name of this rank's device: of `cuda` or `auto` its own GPU. Raises ConfigError where there are more
    ranks on a machine than GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield device
        return
    here = int(os.environ["LOCAL_RANK"])
    if device == "cuda" or (device == "auto" and torch.cuda.is_available()):
        if here >= torch.cuda.device_count():
            raise ConfigError(
                f"rank {here} of this machine has no GPU, there are {torch.cuda.device_count()}; "
                "start as many ranks per machine as it has GPUs, or give --device cpu"
            )
        device = f"cuda:{here}"
        torch.cuda.set_device(here)
        # What ranks agree on besides tensors goes between their CPUs, so that no GPU is waited for.
        dist.init_process_group("cpu:gloo,cuda:nccl", timeout=TIMEOUT)
    else:
        dist.init_process_group("gloo", timeout=TIMEOUT)
    end_with_launcher()
    yield device
    dist.destroy_process_group()  # not after an error: torchrun ends the others, who may never come to it


def end_with_launcher() -> None:
    """Have Linux send this process SIGTERM if torchrun is killed: the ranks would train on, seen by nobody."""
    if sys.platform == "linux":
        on_death_of_parent = 1  # PR_SET_PDEATHSIG of prctl.h
        ctypes.CDLL(None).prctl(on_death_of_parent, signal.SIGTERM)


def part(batch: int) -> slice:
    """This rank's share of a global batch, rank 0 having the first samples; ConfigError if it cannot be shared."""
    if batch % count():
        raise ConfigError(f"batch_size {batch} cannot be shared evenly by {count()} ranks; give a multiple")
    each = batch // count()
    return slice(each * own(), each * (own() + 1))


def gather(rows: Tensor) -> Tensor:
    """The rows of all ranks, rank 0's first: n x … -> (ranks n) x …, the same on every rank. No gradient flows."""
    if count() == 1:
        return rows
    rows = rows.detach().contiguous()
    sent = rows.view(torch.uint8) if rows.dtype == torch.bool else rows  # gloo knows no bool
    everyone = sent.new_empty(count() * len(sent), *sent.shape[1:])
    dist.all_gather_into_tensor(everyone, sent)
    return everyone.view(rows.dtype)


def gather_list(items: list[T]) -> list[T]:
    """The items of all ranks, rank 0's first, whatever they are."""
    if count() == 1:
        return items
    everyone: list[list[T]] = [[] for _ in range(count())]
    dist.all_gather_object(everyone, items)
    return [item for one in everyone for item in one]


def total(values: Tensor) -> Tensor:
    """The sum over ranks, with gradient: of the sum of what all ranks make of it."""
    return _Total.apply(values) if count() > 1 else values


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, values: Tensor) -> Tensor:
        values = values.clone()
        dist.all_reduce(values)
        return values

    backward = forward


def mean(parts: dict[str, Tensor]) -> dict[str, Tensor]:
    """The means over ranks of some scalars, without gradient; the device is not waited for."""
    if count() == 1:
        return parts
    values = total(torch.stack([value.detach().float() for value in parts.values()])) / count()
    return dict(zip(parts, values.unbind(), strict=True))


def averaged(model: nn.Module) -> nn.Module:
    """The model, whose parameters are the same on all ranks, with its gradients averaged over them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")  # not yet, in torch 2.11
        # Buffers are not sent around: a dictionary is large, and equal on all ranks as it is.
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
    """Come back when every rank is here."""
    anyone(False)
