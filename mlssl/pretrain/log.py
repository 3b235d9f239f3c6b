"""The lines of the training log: means of the losses since the previous line.

Losses are copied from the device once per line, asynchronously.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

Line = dict[str, Any]
"""`step`, the mean of every part of the loss, `lr`, `images_per_s`, `diagnostics` of methods that have some, and at
some steps `knn_mAP` (percent) and `knn_seconds`."""


class NonFiniteLoss(FloatingPointError):
    """Training cannot continue; the message names the step and the parts of the loss."""


class Copy(NamedTuple):
    """Losses of an interval, being copied from the device."""

    step: int
    names: list[str]
    values: Tensor
    """steps x parts and diagnostics (the same in each step), on the CPU once `arrived`."""
    arrived: torch.cuda.Event | None
    diagnostics: list[str]
    more: dict[str, float]


class LossLog:
    """Collects the losses of each step on the device; `flush` starts a line of the log.

    On a GPU, the line is returned by the next `flush`, so that training does not wait for it; `settle` waits.
    """

    def __init__(self) -> None:
        self.pending: list[dict[str, Tensor]] = []
        """The parts of the loss of each step since the last flush; a checkpoint stores them."""
        self._copying: Copy | None = None

    def add(self, parts: Mapping[str, Tensor]) -> None:
        """Add the scalars of one step, without waiting for the device."""
        self.pending.append({name: value.detach() for name, value in parts.items()})

    def flush(self, step: int, diagnostics: Mapping[str, Tensor], **more: float) -> list[Line]:
        """Start a line with the means since the last flush; returns the lines that are complete by now.

        `step` is the number of steps done, `diagnostics` are scalars on the device about the last of them, `more`
        are further values of the line. Raises NonFiniteLoss if a copied value is not finite, naming the first such
        step (counted from 1).
        """
        names = list(self.pending[0])
        values, arrived = torch.stack([torch.stack([p[n].float() for n in names]) for p in self.pending]), None
        self.pending = []
        if diagnostics:
            constant = torch.stack([value.float() for value in diagnostics.values()])
            values = torch.cat([values, constant.expand(len(values), -1)], dim=1)
        lines = self.settle()
        if values.is_cuda:
            values = torch.empty(values.shape, pin_memory=True).copy_(values, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        self._copying = Copy(step, names, values, arrived, list(diagnostics), more)
        return lines if arrived else self.settle()

    def settle(self) -> list[Line]:
        """Wait for the line that was started, if any, and return it. Raises NonFiniteLoss as `flush` does."""
        if self._copying is None:
            return []
        step, names, values, arrived, diagnostics, more = self._copying
        self._copying = None
        if arrived is not None:
            arrived.synchronize()
        for row, at in zip(values.tolist(), range(step - len(values) + 1, step + 1), strict=True):
            if not all(map(math.isfinite, row)):
                parts = ", ".join(f"{n} = {v:g}" for n, v in zip(names + diagnostics, row, strict=True))
                raise NonFiniteLoss(f"step {at}: the loss is not finite ({parts})")
        means = values.mean(dim=0).tolist()
        line = {"step": step, **dict(zip(names, means, strict=False)), **more}
        if diagnostics:
            line["diagnostics"] = dict(zip(diagnostics, means[len(names) :], strict=True))
        return [line]


class Throughput:
    """Images per second between two lines of the log."""

    def __init__(self, step: int, batch_size: int) -> None:
        self._step, self._batch_size, self._measured = step, batch_size, time.monotonic()

    def measure(self, step: int) -> float:
        """The rate since the last call (at first, since construction); `step` is the number of steps done."""
        now = time.monotonic()
        rate = (step - self._step) * self._batch_size / (now - self._measured)
        self._step, self._measured = step, now
        return round(rate, 1)

    def leave_out(self, seconds: float) -> None:
        """Do not count these seconds, in which nothing was trained."""
        self._measured += seconds
