"""A run's folder: its outputs, and in `state/` the state to resume from or to write the outputs again from.

The state and the result of a finished run are kept there, because Snakemake deletes the outputs of a rule at each
attempt, even if an orphaned job has just written them; so no run is trained twice. The state takes no disk space,
because `checkpoint.pt` is a hard link to it.

Every rank reads the folder (RunFolder). Only the first rank, which owns the run, writes (RunWriter).
"""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mlssl import results, tensors
from mlssl.errors import ConfigError, DataError
from mlssl.files import set_aside, write_json, write_text
from mlssl.parts.method import TrainsDetectorParts
from mlssl.pretrain.run import checkpoint
from mlssl.pretrain.run.owner import Owner
from mlssl.pretrain.training import Training
from mlssl.study.code import differing

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""Disk errors after which training continues and the state is saved later."""

REDO = "move the run away with `mlssl redo` to start over"

COMPUTES = ("device", "precision")
"""Keys of a segment that may change when a run resumes, besides its code."""

OUTPUTS = ("checkpoint.pt", "backbone.pt", "log.jsonl")
"""Outputs of every run, besides the result, which is written last."""


class StateNotSaved(Exception):
    """The disk is full or faulty; the message says so, and which state is kept."""


class RunFolder:
    """The folder `out` of the run that `about` describes (see `study.identity.about_run`), to be read."""

    def __init__(self, out: Path, about: dict[str, Any]) -> None:
        self.out, self.about = out, about
        self.result = out / "pretrain.json"
        state = out / "state"
        self.state, self.log = state / "checkpoint.pt", state / "log.jsonl"
        self.kept_result, self.failed = state / "result.json", state / "failed.json"

    def is_complete(self) -> bool:
        """Whether the run has ended and all its outputs exist. FileExistsError for the result of another run."""
        return results.exists(self.result, self.about) and all((self.out / name).exists() for name in OUTPUTS)

    def has_state(self) -> bool:
        """Whether there is a state to resume from."""
        return any(path.exists() for path in (self.state, tensors.previous(self.state)))

    def load_state(
        self, *, images: str, present: dict[str, Any], total: int, changed_code: bool
    ) -> checkpoint.Newest | None:
        """The newest state, None if there is none; with a new segment at its end where code, device or precision
        change.

        `images` is the checksum of images and boxes, `present` the segment of a training that starts now, `total`
        the last step. Raises DataError for a state of other images; ConfigError for an unfinished state of other
        code, unless `changed_code` is set.
        """
        newest = checkpoint.load_newest(self.state, experiment=self.about["experiment"])
        if newest is None:
            return None
        state = newest.values
        # Version 0.2 began runs on proposals whose states have the checksum of the images alone.
        if state["images"] not in (images, images.partition("+")[0]):
            raise DataError(
                f"{self.state}: was trained on other images, or boxes of them, than there are now; {REDO}"
            )
        step, segments = state["step"], state["segments"]
        before = segments[-1]
        others = differing(before["code"], present["code"])
        # States of earlier versions do not say what computed them.
        moved = [key for key in COMPUTES if before.get(key, present[key]) != present[key]]
        if step == total or not (others or moved):
            return newest
        if others and not changed_code:
            raise ConfigError(
                f"{self.state}: step {step} of {total} was reached by other code ({', '.join(others[:3])}"
                f"{', …' * (len(others) > 3)}); resume with changed code by --changed-code "
                f"(Snakemake: --config changed_code=true), or restore the code, or {REDO}"
            )
        return newest._replace(values=state | {"segments": [*segments, present | {"step": step}]})

    def too_little_memory(self) -> int | None:
        """Bytes of GPU memory that were free when this run failed for lack of it; None if it did not."""
        try:
            return json.loads(self.failed.read_text()).get("gpu_memory_free")
        except FileNotFoundError:
            return None

    def load_kept_result(self) -> dict[str, Any] | None:
        """The result of this run, if it has ended and only its outputs are missing."""
        result = results.read_result(self.kept_result)
        return result if result and results.exists(self.kept_result, self.about) else None


class RunWriter:
    """Writes to a run's folder, as its owner. All methods raise TakenOver if another trainer has taken it over."""

    def __init__(self, folder: RunFolder, owner: Owner) -> None:
        self.folder, self.owner = folder, owner
        self.saved_step: int | None = None
        """The step of the newest state, None if there is none."""

    def begin(self, resumed: checkpoint.Newest | None) -> None:
        """Remove what a killed trainer has left incomplete, and write the log up to the state that is resumed."""
        folder = self.folder
        with self.owner.writing():
            checkpoint.remove_incomplete(folder.out)
            checkpoint.remove_incomplete(folder.state.parent)
            if resumed and resumed.problem:
                step = resumed.values["step"]
                print(f"{resumed.problem}; resuming from the previous one, of step {step}", file=sys.stderr)
                with suppress(FileNotFoundError):  # the problem may be that it is missing
                    folder.state.rename(checkpoint.damaged(folder.state))  # else it would become the previous one
            write_text(folder.log, resumed.values["log"] if resumed else "")
        self.saved_step = resumed.values["step"] if resumed else None

    def append_log(self, lines: Sequence[dict[str, Any]]) -> None:
        """Add lines to the log; without lines, only checks that the run is still owned."""
        with self.owner.writing(), open(self.folder.log, "a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)

    def save_state(self, training: Training) -> None:
        """Save a state to resume from, unless that of this step is saved already.

        Raises StateNotSaved if the disk is full or faulty; the state before is then kept.
        """
        try:
            self._save_state(training)
        except OSError as error:
            if error.errno not in DISK:
                raise
            before = f"that of step {self.saved_step} is kept" if self.saved_step else "there is none before it"
            raise StateNotSaved(
                f"{self.folder.state}: the state of step {training.step} could not be saved ({error}), {before}"
            ) from error

    def _save_state(self, training: Training) -> None:
        if self.saved_step == training.step:
            return
        state = {"meta": self.folder.about, **training.state(), "log": self.folder.log.read_text()}
        tensors.save(self.folder.state, state, keep_previous=True, writing=self.owner.writing)
        self.saved_step = training.step

    def write_outputs(self, training: Training, backbone: nn.Module) -> None:
        """Write all outputs except the result. Raises OSError if the disk is full or faulty."""
        out, writing = self.folder.out, self.owner.writing
        self._save_state(training)
        found: dict[str, Any] = {"backbone": weights_of(backbone), "meta": self.folder.about}
        if isinstance(training.method, TrainsDetectorParts):
            found["detector"] = {name: weights_of(part) for name, part in training.method.detector_parts().items()}
        tensors.save(out / "backbone.pt", found, writing=writing)
        tensors.link(self.folder.state, out / "checkpoint.pt", writing=writing)
        with writing():
            write_text(out / "log.jsonl", self.folder.log.read_text())
            if training.labels.kept:
                training.labels.write(out / "pseudo_labels.npz")

    def write_result(self, result: dict[str, Any]) -> None:
        """Write the result, then remove the files that only an unfinished run needs."""
        folder = self.folder
        with self.owner.writing():
            if results.read_result(folder.kept_result) not in (None, result):
                set_aside(folder.kept_result)
            write_json(folder.kept_result, result)
            results.write_result(folder.result, result)
        self._remove(*checkpoint.all_of(folder.state)[1:], folder.log, folder.failed)

    def write_failure(self, reason: str, **more: Any) -> None:
        """Write why the run failed, and remove outputs that look like those of a finished run."""
        self._remove(*(self.folder.out / name for name in (*OUTPUTS, "pseudo_labels.npz")))
        with self.owner.writing():
            write_json(self.folder.failed, {**self.folder.about, "reason": reason, **more})

    def _remove(self, *paths: Path) -> None:
        with self.owner.writing():
            for path in paths:
                path.unlink(missing_ok=True)


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """Its state on the CPU."""
    return {name: value.cpu().contiguous() for name, value in module.state_dict().items()}


def segment(step: int, code: dict[str, str], *, device: str, precision: str) -> dict[str, Any]:
    """A part of a training that starts after `step`: made by `code` (source -> digest), on `device`."""
    return {
        "step": step,
        "commit": results.git_commit(),
        "code": code,
        "device": device,
        "precision": precision,
    }


def code_of(segments: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Source -> digest, for the result; if a source changed during training, all its digests joined by +."""
    files = sorted({file for segment in segments for file in segment["code"]})
    by_file = {f: [s["code"][f] for s in segments if f in s["code"]] for f in files}
    return {file: "+".join(dict.fromkeys(digests)) for file, digests in by_file.items()}
