"""Files of tensors: written with a checksum and verified, and read without running any code in them.

A file written by `save` ends in the SHA-256 of all bytes before, so that file and checksum stay together;
`torch.load` and zip readers ignore it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from mlssl.errors import ConfigError, DataError

MARK = b"\nmlssl sha256 "
TRAILER = len(MARK) + 64 + 1


class Damaged(DataError):
    """A file whose bytes differ from those that `save` wrote."""


class Summed:
    """A file to write to, with the checksum of all bytes passed to `write`."""

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
    """Write a checkpoint that is renamed to `path` only after it has been verified by reading it from the disk.

    With `keep_previous`, the old file is kept beside it (`previous`). The context `writing` is entered for the
    renaming and may prevent it by an exception (see Owner.writing). Raises OSError, and keeps the old file, if the
    disk is full or faulty.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            summed = Summed(file)
            try:
                torch.save(values, cast(BinaryIO, summed))  # it calls only write and flush
            except RuntimeError as error:
                # torch closes its archive even after a failed write, and that error hides the cause.
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise
            file.write(MARK + summed.sum.hexdigest().encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
            if hasattr(os, "posix_fadvise"):  # so that `verify` reads from the disk, not from the page cache
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        try:
            verify(part)
        except Damaged as error:
            raise OSError(errno.EIO, f"the file was not read back as written ({error})") from None
        with writing():
            if keep_previous and path.exists():
                os.replace(path, previous(path))
            os.replace(part, path)
            sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def link(path: Path, to: Path, *, writing: Callable[[], AbstractContextManager] = nullcontext) -> None:
    """Give the checkpoint at `path` a second name, so that it remains if either is deleted; `writing` as in `save`.

    Copies the file if the file system has no hard links.
    """
    part = to.with_name(f".{to.name}.{os.getpid()}.part")
    try:
        try:
            os.link(path, part)
        except OSError:
            shutil.copyfile(path, part)
        with writing():
            os.replace(part, to)
            sync_folder(to.parent)
    finally:
        part.unlink(missing_ok=True)


def previous(path: Path) -> Path:
    """The path at which the previous version of `path` is kept."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk (fsync)."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def has_checksum(path: Path) -> bool:
    """Whether a file ends in a checksum of `save`."""
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - TRAILER))
        return file.read().startswith(MARK)


def verify(path: Path) -> None:
    """Read a complete checkpoint; raises Damaged if it differs from what was written."""
    with open(path, "rb") as file:
        length = os.fstat(file.fileno()).st_size - TRAILER
        file.seek(max(0, length))
        trailer = file.read()
        if length < 0 or not trailer.startswith(MARK):
            raise Damaged(f"{path}: is cut off, or was not written by this version; it has no checksum at its end")
        file.seek(0)
        digest, left = hashlib.sha256(), length
        while left:
            chunk = file.read(min(left, 2**22))
            if not chunk:
                raise Damaged(f"{path}: was cut off while it was read")
            digest.update(chunk)
            left -= len(chunk)
    if MARK + digest.hexdigest().encode() + b"\n" != trailer:
        raise Damaged(f"{path}: its bytes do not match the checksum at its end")


def read_own(path: Path, what: str, keys: set[str], *, missing: str, broken: str) -> dict[str, Any]:
    """Load to the CPU what `save` wrote to `path`: a dict with at least `keys`, verified by its checksum.

    Raises ConfigError, with the remedy `missing` for a missing file, and with the remedy `broken` for one without
    the checksum, or that cannot be read as `what`.
    """
    try:
        if not has_checksum(path):
            raise Damaged(f"{path}: is cut off, or was not written by mlssl: it has no checksum at its end")
        verify(path)
        values = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; {missing}") from None
    except Damaged as error:
        raise ConfigError(f"{error}; {broken}") from None
    except Exception as error:  # Unpickling another file may raise any exception; its text may advise to run code.
        raise ConfigError(f"{path}: cannot be read as {what} ({type(error).__name__}); {broken}") from None
    if not isinstance(values, dict) or not keys <= values.keys():
        raise ConfigError(f"{path}: holds no {' and '.join(sorted(keys))}; give {what} written by mlssl")
    return values
