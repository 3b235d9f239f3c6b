"""Checkpoints: all that a killed run needs to end as if it had never been interrupted.

A file ends in the SHA-256 of all bytes before, so that the two cannot be torn apart; `torch.load` and zip readers
pass over it. The newest checkpoint of a run and the one before it are kept.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import shutil
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from mlssl.config import ConfigError, DataError

MARK = b"\nmlssl sha256 "
TRAILER = len(MARK) + 64 + 1


class Damaged(DataError):
    """A file that is not, byte for byte, what `save` wrote."""


def random_state() -> dict[str, Any]:
    """The state of every global random number generator: torch (CPU and CUDA), numpy, python."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002 - the global one is meant
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all(),
        "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss),
        "python": random.getstate(),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put back what `random_state` gave; CUDA's only where there are as many devices as then."""
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    random.setstate(state["python"])


class Summed:
    """A file to write to, and the checksum of what was to be written."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sum = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sum.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def save(
    path: Path,
    values: dict[str, Any],
    *,
    keep_previous: bool = False,
    writing: Callable[[], AbstractContextManager] = nullcontext,
) -> None:
    """Write a checkpoint that takes the name `path` only when it was read back from the disk as it should be.

    With `keep_previous`, what was there until now is kept beside it (`previous`). `writing` is entered around the
    renaming; what it raises prevents that (see Owner.writing). Raises OSError, and leaves what was there, if the
    disk is full or faulty.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            summed = Summed(file)
            try:
                torch.save(values, summed)
            except RuntimeError as error:
                # Torch ends its archive even after a write that failed, and that hides why it did.
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise
            file.write(MARK + summed.sum.hexdigest().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
            if hasattr(os, "posix_fadvise"):  # so that the disk is read, not the memory it was written from
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        try:
            verify(part)
        except Damaged as error:
            raise OSError(errno.EIO, f"what was written was not read back ({error})") from None
        with writing():
            if keep_previous and path.exists():
                os.replace(path, previous(path))
            os.replace(part, path)
            settle(path.parent)
    finally:
        part.unlink(missing_ok=True)


def link(path: Path, to: Path, *, writing: Callable[[], AbstractContextManager] = nullcontext) -> None:
    """Give the checkpoint at `path` a second name, so that it stays when either is deleted; `writing` as in `save`.

    Where the file system has no hard links it is a copy.
    """
    part = to.with_name(f".{to.name}.{os.getpid()}.part")
    try:
        try:
            os.link(path, part)
        except OSError:
            shutil.copyfile(path, part)
        with writing():
            os.replace(part, to)
            settle(to.parent)
    finally:
        part.unlink(missing_ok=True)


def previous(path: Path) -> Path:
    """Where the checkpoint before the one at `path` is kept."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def damaged(path: Path) -> Path:
    """Where one that cannot be trusted is set aside."""
    return path.with_name(f"{path.stem}.damaged{path.suffix}")


def all_of(path: Path) -> tuple[Path, Path, Path]:
    """Every name that the checkpoints of one run may have."""
    return path, previous(path), damaged(path)


def settle(folder: Path) -> None:
    """Bring the names in a folder to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def verify(path: Path) -> None:
    """Read a whole checkpoint; Damaged if it is not what was written."""
    with open(path, "rb") as file:
        length = os.fstat(file.fileno()).st_size - TRAILER
        file.seek(max(0, length))
        trailer = file.read()
        if length < 0 or not trailer.startswith(MARK):
            raise Damaged(f"{path}: is cut off, or was not written by this version; it has no checksum at its end")
        file.seek(0)
        found, left = hashlib.sha256(), length
        while left:
            chunk = file.read(min(left, 2**22))
            if not chunk:
                raise Damaged(f"{path}: was cut off while it was read")
            found.update(chunk)
            left -= len(chunk)
    if MARK + found.hexdigest().encode() + b"\n" != trailer:
        raise Damaged(f"{path}: its bytes do not have the checksum at its end")


def load(path: Path, *, config: dict[str, Any]) -> dict[str, Any]:
    """Read a checkpoint to the CPU without running any code from it.

    Raises Damaged when it is not as it was written, and ConfigError when it was written by a run with another
    configuration, naming what differs.
    """
    verify(path)
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
        theirs = values["meta"]["config"]
    except Exception as error:  # Unpickling what is no checkpoint may raise anything.
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise Damaged(f"{path}: is no checkpoint of a pretraining ({why})") from None
    if theirs != config:
        differing = [key for key in config if theirs.get(key) != config[key]]
        raise ConfigError(
            f"{path}: belongs to a run with another {', '.join(differing)}; "
            "give another --out, or remove the folder to begin anew"
        )
    return values


def load_newest(path: Path, *, config: dict[str, Any]) -> dict[str, Any] | None:
    """The checkpoint at `path`, or the previous one if that is damaged or missing; None if there is neither.

    A damaged one is set aside (`.damaged`), so that it never becomes the previous one. Raises DataError when
    no whole one is left, and ConfigError as `load` does.
    """
    wrong = []
    for candidate in (path, previous(path)):
        try:
            values = load(candidate, config=config)
        except FileNotFoundError:
            continue
        except Damaged as error:
            wrong.append(str(error))
            continue
        if candidate != path:
            why = wrong[0] if wrong else f"{path}: is missing"
            print(f"{why}; going on from the previous one, of step {values.get('step')}", file=sys.stderr)
            with suppress(FileNotFoundError):  # missing, or another rank has done it
                path.rename(damaged(path))
        return values
    if wrong:
        raise DataError(
            f"{'; '.join(wrong)}; none is whole: put a copy back, or remove {path.parent} to begin anew"
        )
    return None


def sweep(folder: Path) -> None:
    """Remove what checkpoints half written by a killed owner of this folder have left there."""
    for part in [*folder.glob(".checkpoint.pt.*.part"), *folder.glob(".backbone.pt.*.part")]:
        part.unlink(missing_ok=True)
