"""A run's folder: its outputs, and in `state/` the state to resume from or to write the outputs again from.

The state and the result of a finished run are kept there, because Snakemake deletes the outputs of a rule at each
attempt, even if an orphaned job has just written them; so no run is trained twice. The state takes no disk space,
because `checkpoint.pt` is a hard link to it.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from mlssl import results, tensors
from mlssl.errors import ConfigError, DataError
from mlssl.files import set_aside, write_json, write_text
from mlssl.pretrain.run import checkpoint
from mlssl.pretrain.run.owner import Owner
from mlssl.pretrain.training import Training
from mlssl.study.code import differing

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""Disk errors after which training continues and the state is saved later."""

REDO = "move the run away with `mlssl redo` to start over"

OUTPUTS = ("checkpoint.pt", "backbone.pt", "log.jsonl")
"""Outputs of every run, besides the result, which is written last."""


class RunFolder:
    """`out`, for a rank of the run that `about` describes (see `study.identity.about_run`).

    The first rank has the `owner`; on the other ranks, without `owner`, all writing methods do nothing.
    """

    def __init__(self, out: Path, about: dict[str, Any], owner: Owner | None) -> None:
        self.out, self.about, self.owner = out, about, owner
        self.state = out / "state" / "checkpoint.pt"
        self.log = out / "state" / "log.jsonl"
        self.kept_result = out / "state" / "result.json"
        self.images = ""
        """Checksum of the images that the state belongs to, set by `open`."""
        self.segments: list[dict[str, Any]] = []
        """The code of each part of the training, set by `open`: its first step, commit and sources."""
        self.kept: int | None = None
        """The step of the newest state, None if there is none."""

    @property
    def result(self) -> Path:
        return self.out / "pretrain.json"

    def whole(self) -> bool:
        """Whether the run has ended and all its outputs exist."""
        return results.exists(self.result, self.about) and all((self.out / name).exists() for name in OUTPUTS)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A context in which the folder may be written; raises Taken if another trainer has taken over the run."""
        if self.owner:
            with self.owner.writing():
                yield
        else:
            yield

    def open(self, *, images: str, code: dict[str, str], total: int, changed_code: bool) -> dict[str, Any] | None:
        """The newest state, None if there is none; removes the incomplete files of a killed trainer.

        `images` is the checksum of the images, `code` the present sources, `total` the last step.
        Raises DataError for a state of other images; ConfigError for an unfinished state of other code, unless
        `changed_code` is set.
        """
        self.images, self.segments = images, [{"step": 0, "commit": results.git_commit(), "code": code}]
        if self.owner:
            with self.owner.writing():
                checkpoint.sweep(self.out)
                checkpoint.sweep(self.state.parent)
        state = checkpoint.load_newest(self.state, experiment=self.about["experiment"])
        if not state:
            return None
        if state["images"] != images:
            raise DataError(f"{self.state}: was trained on other images than those of the image store; {REDO}")
        step, segments = state["step"], state["segments"]
        others = differing(segments[-1]["code"], code)
        if others and step < total:
            if not changed_code:
                raise ConfigError(
                    f"{self.state}: step {step} of {total} was reached by other code ({', '.join(others[:3])}"
                    f"{', …' * (len(others) > 3)}); resume with changed code by --changed-code "
                    f"(Snakemake: --config changed_code=true), or restore the code, or {REDO}"
                )
            segments = [*segments, {**self.segments[0], "step": step}]
        self.segments, self.kept = segments, step
        if self.owner:
            with self.owner.writing():
                write_text(self.log, state["log"])
        return state

    def code(self) -> dict[str, str]:
        """Source -> digest, for the result; if a source changed during training, all its digests joined by +."""
        files = sorted({file for segment in self.segments for file in segment["code"]})
        by_file = {f: [s["code"][f] for s in self.segments if f in s["code"]] for f in files}
        return {file: "+".join(dict.fromkeys(digests)) for file, digests in by_file.items()}

    def result_of_before(self) -> dict[str, Any] | None:
        """The result of this run, if it has ended and only its outputs are missing."""
        result = results.read_result(self.kept_result)
        return result if result and results.exists(self.kept_result, self.about) else None

    def keep(self, training: Training) -> str:
        """Save a state to resume from; returns a warning if the disk is full or faulty, else an empty string."""
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
        inputs = {"images": self.images, "segments": self.segments}
        state = {"meta": self.about, **inputs, **training.state(), "log": log}
        tensors.save(self.state, state, keep_previous=True, writing=self.owner.writing)
        self.kept = training.step

    def write_outputs(self, training: Training, backbone: nn.Module) -> None:
        """Write all outputs except the result."""
        if not self.owner:
            return
        if self.kept != training.step:
            self._save(training)
        weights = {k: v.cpu().contiguous() for k, v in backbone.state_dict().items()}
        exported = {"backbone": weights, "meta": self.about}
        tensors.save(self.out / "backbone.pt", exported, writing=self.owner.writing)
        tensors.link(self.state, self.out / "checkpoint.pt", writing=self.owner.writing)
        with self.owner.writing():
            write_text(self.out / "log.jsonl", self.log.read_text())
            if training.labels.kept:
                training.labels.write(self.out / "pseudo_labels.npz")

    def end(self, result: dict[str, Any]) -> None:
        """Write the result, then remove the files that only an unfinished run needs."""
        if not self.owner:
            return
        with self.owner.writing():
            if results.read_result(self.kept_result) not in (None, result):
                set_aside(self.kept_result)
            write_json(self.kept_result, result)
            results.write_result(self.result, result)
        self._forget(*checkpoint.all_of(self.state)[1:], self.log, self.failed)

    def fail(self, reason: str) -> None:
        """Write why the run failed, and remove outputs that look like those of a finished run."""
        if not self.owner:
            return
        self._forget(*(self.out / name for name in (*OUTPUTS, "pseudo_labels.npz")))
        with self.owner.writing():
            write_json(self.failed, {**self.about, "reason": reason})

    def _forget(self, *paths: Path) -> None:
        with self.owner.writing():
            for path in paths:
                path.unlink(missing_ok=True)

    @property
    def failed(self) -> Path:
        return self.state.with_name("failed.json")
