"""The state of a training: everything that a checkpoint stores, so that another process can resume it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mlssl.pretrain.log import NonFiniteLoss
from mlssl.pretrain.records import LabelRecords
from mlssl.pretrain.run import checkpoint
from mlssl.results import Stopwatch


class Training:
    """A method, its optimiser and the progress of the training."""

    def __init__(self, method: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.method, self.optimizer = method, optimizer
        self.step = 0
        """Number of finished steps."""
        self.labels = LabelRecords()
        self.unlogged: list[dict[str, Tensor]] = []
        """The parts of the losses since the last line of the log; the next line is their mean."""
        self.watch = Stopwatch()

    def state(self) -> dict[str, Any]:
        """The state to save; `restore` loads it."""
        return {
            "step": self.step,
            "seconds": self.watch.seconds(),
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": checkpoint.random_state(),
            "labels": self.labels.kept,
            "unlogged": [{name: value.cpu() for name, value in parts.items()} for parts in self.unlogged],
        }

    def restore(self, state: dict[str, Any], device: torch.device) -> None:
        """Resume from a state, which any number of ranks may have saved."""
        self.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])
        checkpoint.set_random_state(state["random"])
        self.step, self.labels = state["step"], LabelRecords(state["labels"])
        self.unlogged = [{name: value.to(device) for name, value in parts.items()} for parts in state["unlogged"]]
        self.watch = Stopwatch(before=state["seconds"])

    def refuse_non_finite(self) -> None:
        """Raises NonFiniteLoss unless all weights are finite; waits for the device once."""
        finite = [p.detach().isfinite().all() for p in self.method.parameters()]
        if finite and not torch.stack(finite).all():
            raise NonFiniteLoss(f"step {self.step}: the weights are not finite after its update")
