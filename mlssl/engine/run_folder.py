"""A run's folder: what it leaves, and in `state/` what to go on from, or to write all of it again from.

The state of a run that has ended is kept: Snakemake deletes what a rule declares at each attempt, also when an
orphaned job has just made it, and nothing may be trained twice for that. It costs no disk, as `checkpoint.pt` is
another name of it, and it is used only while the images and the sources are those it was made of.
"""

from __future__ import annotations

import errno
import sys
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

OUTPUTS = ("checkpoint.pt", "backbone.pt", "log.jsonl")
"""What every run leaves, beside the result that is written last."""


class RunFolder:
    """`out`, for a rank of the run that `meta` describes (see `pretrain.describe`).

    The first rank owns it; to the others, without `owner`, all that writes does nothing.
    """

    def __init__(self, out: Path, meta: dict[str, Any], owner: Owner | None) -> None:
        self.out, self.meta, self.owner = out, meta, owner
        self.state = out / "state" / "checkpoint.pt"
        self.log = out / "state" / "log.jsonl"
        self.made_of: dict[str, str] = {}
        """What a state is good for, set by `open`: digests of the images and of the sources."""
        self.kept: int | None = None
        """The step of the newest state, None where there is none."""

    @property
    def result(self) -> Path:
        return self.out / "pretrain.json"

    def whole(self) -> bool:
        """Whether the run has ended, and all that it leaves is there."""
        return provenance.stands(self.result, **self.meta) and all((self.out / name).exists() for name in OUTPUTS)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Within, the folder may be written; raises Taken if another trainer has taken the run over."""
        if self.owner:
            with self.owner.writing():
                yield
        else:
            yield

    def open(self, made_of: dict[str, str], total: int) -> dict[str, Any] | None:
        """The newest state, None where none is of use; what a killed trainer left half-written is removed.

        A state goes with its images, and at the end, step `total`, with its sources too: a run that is made again
        for a change of either begins anew. Sources may change in the middle, as when a fault of theirs is mended.
        """
        self.made_of = made_of
        if self.owner:
            with self.owner.writing():
                checkpoint.sweep(self.out)
                checkpoint.sweep(self.state.parent)
        state = checkpoint.load_newest(self.state, config=self.meta["config"])
        if state:
            others = [name for name, digest in made_of.items() if state.get("made_of", {}).get(name) != digest]
            if "images" in others or (others and state["step"] == total):
                if self.owner:
                    print(f"{self.state}: is of other {' and '.join(others)}; beginning anew", file=sys.stderr)
                    self._forget(*checkpoint.all_of(self.state))
                return None
            self.kept = state["step"]
            if self.owner:
                with self.owner.writing():
                    provenance.write_text(self.log, state["log"])
        return state

    def keep(self, training: Training) -> str:
        """Save a state to go on from; where the disk does not allow it, what to tell of that."""
        if not self.owner:
            return ""
        try:
            self._save(training)
        except OSError as error:
            if error.errno not in DISK:
                raise
            before = f"that of step {self.kept} is kept" if self.kept else "there is none before it"
            return f"{self.state}: the state of step {training.step} could not be saved ({error}), {before}"
        return ""

    def _save(self, training: Training) -> None:
        log = self.log.read_text()
        state = {"meta": self.meta, "made_of": self.made_of, **training.state(), "log": log}
        checkpoint.save(self.state, state, keep_previous=True, writing=self.owner.writing)
        self.kept = training.step

    def write_outputs(self, training: Training, backbone: nn.Module) -> None:
        """All that a run leaves but for its result."""
        if not self.owner:
            return
        if self.kept != training.step:
            self._save(training)
        weights = {k: v.cpu().contiguous() for k, v in backbone.state_dict().items()}
        exported = {"backbone": weights, "meta": self.meta}
        checkpoint.save(self.out / "backbone.pt", exported, writing=self.owner.writing)
        checkpoint.link(self.state, self.out / "checkpoint.pt", writing=self.owner.writing)
        with self.owner.writing():
            provenance.write_text(self.out / "log.jsonl", self.log.read_text())
            if training.labels.kept:
                training.labels.write(self.out / "pseudo_labels.npz")

    def end(self, result: dict[str, Any]) -> None:
        """Write the result; only then all goes that was needed on the way."""
        if not self.owner:
            return
        with self.owner.writing():
            provenance.write_result(self.result, result)
        self._forget(*checkpoint.all_of(self.state)[1:], self.log, self.failed)

    def fail(self, reason: str) -> None:
        """Say why the run cannot go on, and take away outputs that would look like those of one that ended."""
        if not self.owner:
            return
        self._forget(*(self.out / name for name in (*OUTPUTS, "pseudo_labels.npz")))
        with self.owner.writing():
            provenance.write_json(self.failed, {**self.meta, "reason": reason})

    def _forget(self, *paths: Path) -> None:
        with self.owner.writing():
            for path in paths:
                path.unlink(missing_ok=True)

    @property
    def failed(self) -> Path:
        return self.state.with_name("failed.json")
