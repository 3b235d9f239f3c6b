"""What pretraining needs of a method; the complete contract is in ARCHITECTURE.md (Contracts)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class Method(Protocol):
    """A module with a training step."""

    @property
    def step(self) -> Callable[..., dict[str, Tensor]]:
        """`step(view1, view2, progress)`: the losses of a batch, `loss` with gradient, its parts without.

        Its signature says how many views (`parts.view.View`) it takes: three with `view3`, two or more with
        `*more`. `progress`, passed by name, is the share of the run that is done, in [0, 1).
        """
        ...


@runtime_checkable
class RecordsLabels(Protocol):
    """A method with pseudo-labels."""

    def label_record(self) -> dict[str, Tensor]:
        """The pseudo-labels of the last step, to be called before the next one; empty if there were none."""
        ...


@runtime_checkable
class Diagnoses(Protocol):
    """A method that measures something about its last step for the log."""

    def diagnostics(self) -> dict[str, Tensor]:
        """Scalars on the device, without gradient; to be called before the next step. Empty if there are none."""
        ...


@runtime_checkable
class TrainsDetectorParts(Protocol):
    """A method that trains parts of a detector beside the backbone."""

    def detector_parts(self) -> dict[str, nn.Module]:
        """The pyramid (`fpn`) and the box head (`box_head`) of a Mask R-CNN with `head: 4conv1fc`."""
        ...
