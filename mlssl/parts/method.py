"""What pretraining needs of a method; the complete contract is in ARCHITECTURE.md (Contracts)."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor

from mlssl.parts.view import View


@runtime_checkable
class Method(Protocol):
    """A module with a training step."""

    def step(self, view1: View, view2: View, progress: float) -> dict[str, Tensor]:
        """The losses of two views of a batch: `loss` with gradient, its parts without.

        `progress` is the share of the run that is done, in [0, 1).
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
