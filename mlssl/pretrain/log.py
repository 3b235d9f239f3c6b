"""The training log: one JSON line per interval. Losses are copied from the device once per line, asynchronously."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor


class NonFiniteLoss(FloatingPointError):
    """Training cannot continue; the message names the step and the parts of the loss."""


class Readback(NamedTuple):
    """Losses of an interval, being copied from the device."""

    step: int
    names: list[str]
    values: Tensor
    """steps x parts, on the CPU once `arrived`."""
    arrived: torch.cuda.Event | None
    more: dict[str, float]


class Log:
    """Collects the parts of each step on the device; `flush` averages and writes them.

    On a GPU a line is written at the next flush, so that training does not wait for it; `settle` waits.
    A resumed run drops the lines after its checkpoint, so that every step is logged once. Without a path nothing
    is written, but the losses are still checked.
    """

    def __init__(self, path: Path | None, *, resume_step: int = 0) -> None:
        self.path = path
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            kept = []
            if resume_step and path.exists():
                lines = path.read_text().splitlines()
                kept = [line for line in lines if json.loads(line)["step"] <= resume_step]
            path.write_text("".join(line + "\n" for line in kept))
        self.last: dict[str, float] = {}
        """The newest line."""
        self._pending: list[dict[str, Tensor]] = []
        self._under_way: list[Readback] = []

    def add(self, parts: Mapping[str, Tensor]) -> None:
        """Add the scalars of one step, without waiting for the device."""
        self._pending.append({name: value.detach() for name, value in parts.items()})

    @property
    def pending(self) -> int:
        """Steps since the last flush."""
        return len(self._pending)

    def flush(self, step: int, diagnostics: Mapping[str, Tensor] | None = None, **more: float) -> None:
        """Log the mean of every part since the last flush; `step` is the number of steps done.

        `diagnostics` are further scalars on the device, about the last step. Raises NonFiniteLoss if a
        copied value is not finite, naming the first such step (counted from 1).
        """
        names = list(self._pending[0])
        values, arrived = torch.stack([torch.stack([p[n].float() for n in names]) for p in self._pending]), None
        self._pending = []
        if diagnostics:
            names += diagnostics
            constant = torch.stack([value.float() for value in diagnostics.values()])
            values = torch.cat([values, constant.expand(len(values), -1)], dim=1)
        if values.is_cuda:
            self.settle()
            values = torch.empty(values.shape, pin_memory=True).copy_(values, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record()
        self._under_way.append(Readback(step, names, values, arrived, more))
        if arrived is None:
            self.settle()

    def settle(self) -> None:
        """Write every pending line. Raises NonFiniteLoss as `flush` does."""
        while self._under_way:
            step, names, values, arrived, more = self._under_way.pop(0)
            if arrived is not None:
                arrived.synchronize()
            for row, at in zip(values.tolist(), range(step - len(values) + 1, step + 1), strict=True):
                if not all(map(math.isfinite, row)):
                    parts = ", ".join(f"{n} = {v:g}" for n, v in zip(names, row, strict=True))
                    raise NonFiniteLoss(f"step {at}: the loss is not finite ({parts})")
            self.last = {"step": step, **dict(zip(names, values.mean(dim=0).tolist(), strict=True)), **more}
            if self.path:
                with open(self.path, "a") as file:
                    file.write(json.dumps(self.last) + "\n")
