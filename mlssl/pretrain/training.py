"""The state of a training: everything that a checkpoint stores, so that another process can resume it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from mlssl.pretrain.log import LossLog, NonFiniteLoss
from mlssl.pretrain.records import LabelRecords
from mlssl.pretrain.run import checkpoint
from mlssl.results import Stopwatch


class Training:
    """A method, its optimiser and the progress of the training.

    Args:
        images: checksum of the images to train on, and of their boxes.
        segments: the parts of the training, each of one code, device and precision (see `run.folder.segment`).
        scaler: of the loss, in float16.
    """

    def __init__(
        self,
        method: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        images: str,
        segments: list[dict[str, Any]],
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        self.method, self.optimizer, self.scaler = method, optimizer, scaler
        self.images, self.segments = images, segments
        self.step = 0
        """Number of finished steps."""
        self.labels = LabelRecords()
        self.losses = LossLog()
        self.watch = Stopwatch()

    def state(self) -> dict[str, Any]:
        """The state to save; `restore` loads it."""
        return {
            "images": self.images,
            "segments": self.segments,
            "step": self.step,
            "seconds": self.watch.seconds(),
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict() if self.scaler else {},
            "random": checkpoint.random_state(),
            "labels": self.labels.kept,
            "unlogged": [{name: value.cpu() for name, value in parts.items()} for parts in self.losses.pending],
        }

    def restore(self, state: dict[str, Any], device: torch.device) -> None:
        """Resume from a state of the same images, which any number of ranks may have saved."""
        self.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler and state.get("scaler"):  # empty if the run was in another precision before
            self.scaler.load_state_dict(state["scaler"])
        checkpoint.set_random_state(state["random"])
        self.step, self.segments, self.labels = state["step"], state["segments"], LabelRecords(state["labels"])
        for parts in state["unlogged"]:
            self.losses.add({name: value.to(device) for name, value in parts.items()})
        self.watch = Stopwatch(before=state["seconds"])

    def refuse_non_finite(self) -> None:
        """Raises NonFiniteLoss unless all weights are finite; waits for the device once."""
        weights = [p.detach() for p in self.method.parameters()]
        # The largest magnitude of each tensor, NaN where one is; a few kernels for all of them.
        if weights and not torch.stack(torch._foreach_norm(weights, math.inf)).isfinite().all():
            raise NonFiniteLoss(f"step {self.step}: the weights are not finite after its update")
