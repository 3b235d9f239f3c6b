"""A run's folder: what it leaves, and beside it, until it has ended, the state to go on from."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from mlssl import provenance
from mlssl.engine import checkpoint
from mlssl.engine.owner import Owner
from mlssl.engine.training import Training

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""A state that cannot be saved for one of these is saved later, while training goes on."""

OUTPUTS = ("checkpoint.pt", "backbone.pt", "log.jsonl", "pseudo_labels.npz")
"""What a run leaves, beside the result that is written last."""


class RunFolder:
    """`out`, for a rank of the run that `meta` describes (see `pretrain.describe`).

    The first rank owns it; to the others, without `owner`, all that writes does nothing.
    """

    def __init__(self, out: Path, meta: dict[str, Any], owner: Owner | None) -> None:
        self.out, self.meta, self.owner = out, meta, owner
        self.state = out / "state" / "checkpoint.pt"
        self.log = out / "state" / "log.jsonl"
        self.kept = 0
        """The step of the newest state, 0 where there is none."""

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Within, the folder may be written; raises Taken if another trainer has taken the run over."""
        if self.owner:
            with self.owner.writing():
                yield
        else:
            yield

    def open(self) -> dict[str, Any] | None:
        """The newest state, None where there is none; what a killed trainer left half-written is removed."""
        if self.owner:
            with self.owner.writing():
                checkpoint.sweep(self.out)
                checkpoint.sweep(self.state.parent)
        state = checkpoint.load_newest(self.state, config=self.meta["config"])
        if state:
            self.kept = state["step"]
            if self.owner:
                with self.owner.writing():
                    provenance.write_text(self.log, state["log"])
        return state

    def keep(self, training: Training) -> str:
        """Save a state to go on from; where the disk does not allow it, what to tell of that."""
        if not self.owner:
            return ""
        state = {"meta": self.meta, **training.state(), "log": self.log.read_text()}
        try:
            checkpoint.save(self.state, state, keep_previous=True, writing=self.owner.writing)
        except OSError as error:
            if error.errno not in DISK:
                raise
            before = f"that of step {self.kept} is kept" if self.kept else "there is none before it"
            return f"{self.state}: the state of step {training.step} could not be saved ({error}), {before}"
        self.kept = training.step
        return ""

    def write_outputs(self, training: Training, backbone: nn.Module) -> None:
        """All that a run leaves but for its result."""
        if not self.owner:
            return
        state = {"meta": self.meta, **training.state()}
        del state["unlogged"]
        checkpoint.save(self.out / "checkpoint.pt", state, writing=self.owner.writing)
        weights = {k: v.cpu().contiguous() for k, v in backbone.state_dict().items()}
        exported = {"backbone": weights, "meta": self.meta}
        checkpoint.save(self.out / "backbone.pt", exported, writing=self.owner.writing)
        with self.owner.writing():
            provenance.write_text(self.out / "log.jsonl", self.log.read_text())
            if training.labels.kept:
                training.labels.write(self.out / "pseudo_labels.npz")

    def end(self, result: dict[str, Any]) -> None:
        """Write the result; only then the state goes, so that a run killed before goes on from it."""
        if not self.owner:
            return
        with self.owner.writing():
            provenance.write_result(self.out / "pretrain.json", result)
            for path in (*checkpoint.all_of(self.state), self.log, self.failed):
                path.unlink(missing_ok=True)

    def fail(self, reason: str) -> None:
        """Say why the run cannot go on, and take away outputs that would look like those of one that ended."""
        if not self.owner:
            return
        with self.owner.writing():
            for name in OUTPUTS:
                (self.out / name).unlink(missing_ok=True)
            provenance.write_json(self.failed, {**self.meta, "reason": reason})

    @property
    def failed(self) -> Path:
        return self.state.with_name("failed.json")
