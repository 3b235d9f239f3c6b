"""The training log: one JSON line per interval, with losses read back from the device only then."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor


class NonFiniteLoss(FloatingPointError):
    """Training cannot go on; the message names the step and the parts of the loss."""


class Log:
    """Collects the parts of each step on the device; `flush` averages and writes them.

    A resumed run drops the lines after its checkpoint, so that every step is told once.
    """

    def __init__(self, path: Path, *, resume_step: int = 0) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = []
        if resume_step and self.path.exists():
            lines = self.path.read_text().splitlines()
            kept = [line for line in lines if json.loads(line)["step"] <= resume_step]
        self.path.write_text("".join(line + "\n" for line in kept))
        self._pending: list[dict[str, Tensor]] = []

    def add(self, parts: Mapping[str, Tensor]) -> None:
        """Remember the scalars of one step without waiting for them."""
        self._pending.append({name: value.detach() for name, value in parts.items()})

    @property
    def pending(self) -> int:
        """Steps since the last flush."""
        return len(self._pending)

    def flush(self, step: int, **more: float) -> dict[str, float]:
        """Write the mean of every part since the last flush; `step` is the number of steps done.

        Raises NonFiniteLoss if any of them was not finite, naming the first such step (counted from 1).
        """
        names = list(self._pending[0])
        values = torch.stack([torch.stack([p[n].float() for n in names]) for p in self._pending]).cpu()
        for row, at in zip(values.tolist(), range(step - len(values) + 1, step + 1), strict=True):
            if not all(map(math.isfinite, row)):
                parts = ", ".join(f"{n} = {v:g}" for n, v in zip(names, row, strict=True))
                raise NonFiniteLoss(f"step {at}: the loss is not finite ({parts})")
        self._pending = []
        line = {"step": step, **dict(zip(names, values.mean(dim=0).tolist(), strict=True)), **more}
        with open(self.path, "a") as file:
            file.write(json.dumps(line) + "\n")
        return line
