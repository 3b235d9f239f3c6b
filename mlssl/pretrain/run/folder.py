"""A run's folder: what it leaves, and in `state/` what to go on from, or to write all of it again from.

The state and the result of a run that has ended are kept there: Snakemake deletes what a rule declares at each
attempt, also when an orphaned job has just made it, and nothing may be trained twice for that. The state costs no
disk, as `checkpoint.pt` is another name of it.
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
"""A state that cannot be saved for one of these is saved later, while training goes on."""

REDO = "`mlssl redo` moves the run away and lets it begin anew"

OUTPUTS = ("checkpoint.pt", "backbone.pt", "log.jsonl")
"""What every run leaves, beside the result that is written last."""


class RunFolder:
    """`out`, for a rank of the run that `about` describes (see `study.identity.about_run`).

    The first rank owns it; to the others, without `owner`, all that writes does nothing.
    """

    def __init__(self, out: Path, about: dict[str, Any], owner: Owner | None) -> None:
        self.out, self.about, self.owner = out, about, owner
        self.state = out / "state" / "checkpoint.pt"
        self.log = out / "state" / "log.jsonl"
        self.kept_result = out / "state" / "result.json"
        self.images = ""
        """Checksum of the images that the state belongs to, set by `open`."""
        self.segments: list[dict[str, Any]] = []
        """By which code the run was trained, set by `open`: the first step of each part, its commit and sources."""
        self.kept: int | None = None
        """The step of the newest state, None where there is none."""

    @property
    def result(self) -> Path:
        return self.out / "pretrain.json"

    def whole(self) -> bool:
        """Whether the run has ended, and all that it leaves is there."""
        return results.exists(self.result, self.about) and all((self.out / name).exists() for name in OUTPUTS)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Within, the folder may be written; raises Taken if another trainer has taken the run over."""
        if self.owner:
            with self.owner.writing():
                yield
        else:
            yield

    def open(self, *, images: str, code: dict[str, str], total: int, changed_code: bool) -> dict[str, Any] | None:
        """The newest state, None where there is none; what a killed trainer left half-written is removed.

        `images` is the checksum of the images, `code` the sources that would train on, `total` the last step.
        Raises DataError for a state of other images; ConfigError for one of other code in the middle of a run,
        unless `changed_code` allows to go on.
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
                    f"{', …' * (len(others) > 3)}); go on with changed code by --changed-code "
                    f"(Snakemake: --config changed_code=true), or restore the code, or {REDO}"
                )
            segments = [*segments, {**self.segments[0], "step": step}]
        self.segments, self.kept = segments, step
        if self.owner:
            with self.owner.writing():
                write_text(self.log, state["log"])
        return state

    def code(self) -> dict[str, str]:
        """Source -> digest, for the result; of a source that changed in the middle, all its digests."""
        files = sorted({file for segment in self.segments for file in segment["code"]})
        found = {f: [s["code"][f] for s in self.segments if f in s["code"]] for f in files}
        return {file: "+".join(dict.fromkeys(digests)) for file, digests in found.items()}

    def result_of_before(self) -> dict[str, Any] | None:
        """The result of this run, if it has ended and only its outputs are gone."""
        found = results.read_result(self.kept_result)
        return found if found and results.exists(self.kept_result, self.about) else None

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
        made_of = {"images": self.images, "segments": self.segments}
        state = {"meta": self.about, **made_of, **training.state(), "log": log}
        tensors.save(self.state, state, keep_previous=True, writing=self.owner.writing)
        self.kept = training.step

    def write_outputs(self, training: Training, backbone: nn.Module) -> None:
        """All that a run leaves but for its result."""
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
        """Write the result; only then all goes that was needed on the way."""
        if not self.owner:
            return
        with self.owner.writing():
            if results.read_result(self.kept_result) not in (None, result):
                set_aside(self.kept_result)
            write_json(self.kept_result, result)
            results.write_result(self.result, result)
        self._forget(*checkpoint.all_of(self.state)[1:], self.log, self.failed)

    def fail(self, reason: str) -> None:
        """Say why the run cannot go on, and take away outputs that would look like those of one that ended."""
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
