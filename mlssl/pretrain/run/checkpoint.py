"""Checkpoints: the complete state from which a killed run resumes with the same result as without interruption.

The newest checkpoint of a run and the one before it are kept (file format: `mlssl.tensors`).
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from mlssl.errors import ConfigError, DataError
from mlssl.tensors import Damaged, previous, verify


def random_state() -> dict[str, Any]:
    """The state of every global random number generator: torch (CPU and CUDA), numpy, python."""
    state = np.random.get_state(legacy=False)  # noqa: NPY002 - the global one is meant
    keys = torch.from_numpy(state["state"]["key"].astype(np.int64))
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all(),
        "numpy": (state["bit_generator"], keys, state["state"]["pos"], state["has_gauss"], state["gauss"]),
        "python": random.getstate(),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Restore the result of `random_state`; CUDA's only if the number of devices is the same."""
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    random.setstate(state["python"])


def damaged(path: Path) -> Path:
    """The path to which a damaged checkpoint is renamed."""
    return path.with_name(f"{path.stem}.damaged{path.suffix}")


def all_of(path: Path) -> tuple[Path, Path, Path]:
    """All paths that the checkpoints of one run may have."""
    return path, previous(path), damaged(path)


def load(path: Path, *, experiment: dict[str, Any]) -> dict[str, Any]:
    """Read a checkpoint to the CPU without running any code from it.

    Raises Damaged if the file has changed since it was written, and ConfigError, naming the differing settings, if
    it is from a run of another experiment (see `study.identity`).
    """
    verify(path)
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
        meta = values["meta"]
    except Exception as error:  # Unpickling another file may raise any exception.
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise Damaged(f"{path}: is not a checkpoint of a pretraining ({why})") from None
    theirs = meta.get("experiment", {})
    if theirs != experiment:
        differing = [key for key in theirs | experiment if theirs.get(key) != experiment.get(key)]
        raise ConfigError(
            f"{path}: belongs to a run with another {', '.join(differing)}; "
            "give another --out, or move the folder away to start over"
        )
    if lacking := {"step", "images", "segments"} - values.keys():  # as in a backbone.pt
        raise Damaged(f"{path}: is not a checkpoint of a pretraining (it has no {' and '.join(sorted(lacking))})")
    return values


class Newest(NamedTuple):
    """The newest complete checkpoint of a run."""

    values: dict[str, Any]
    problem: str | None
    """What is wrong with the last one written, if these are the values of the previous one."""


def load_newest(path: Path, *, experiment: dict[str, Any]) -> Newest | None:
    """The checkpoint at `path`, or the previous one if that is damaged or missing; None if there is neither.

    Raises DataError if no complete one is left, and ConfigError as `load` does.
    """
    wrong = []
    for candidate in (path, previous(path)):
        try:
            values = load(candidate, experiment=experiment)
        except FileNotFoundError:
            continue
        except Damaged as error:
            wrong.append(str(error))
            continue
        missing = f"{path}: is missing"
        return Newest(values, None if candidate == path else "; ".join(wrong) or missing)
    if wrong:
        raise DataError(
            f"{'; '.join(wrong)}; none is complete: restore a copy, or move {path.parent} away to start over"
        )
    return None


def remove_incomplete(folder: Path) -> None:
    """Remove the incomplete checkpoints that a killed trainer has left in this folder."""
    for part in [*folder.glob(".checkpoint.pt.*.part"), *folder.glob(".backbone.pt.*.part")]:
        part.unlink(missing_ok=True)
