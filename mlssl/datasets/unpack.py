"""Unpack untrusted archives: no file outside the folder, no links, no decompression bombs."""

from __future__ import annotations

import lzma
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any

from filelock import FileLock
from tqdm import tqdm

from mlssl.errors import DataError

RATIO = 100
"""Maximum unpacked size / archive size; images have about 1, annotations in JSON about 10."""
HARMLESS = 2**26
"""Bytes that any archive may unpack to, regardless of the ratio."""
MEMBERS = 2_000_000
"""Maximum number of files in an archive."""
CHUNK = 2**20
DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError)


@dataclass(frozen=True)
class Member:
    """A file in an archive."""

    name: str
    size: int
    """Bytes, as the archive declares it."""
    handle: Any
    """The entry of `tarfile` or `zipfile`."""


def unpack(archive: Path, into: Path, *, limit: int | None = None) -> Path:
    """Unpack a zip, tar or compressed tar into the folder `into`, and return it.

    The folder appears only when it is complete; an existing one is left unchanged. All members are checked before
    the first is written. Raises DataError if a name is absolute or leaves the folder, or a member is a link or a
    device; if the total size exceeds `limit` bytes (None: 100 times the archive's size, at least 64 MiB) or the
    free disk space; or if the archive is damaged, encrypted or of another type. Modes and owners are not restored.
    """
    archive, into = Path(archive), Path(into)
    into.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(into.with_name(f".{into.name}.lock")):
        if into.exists():
            return into
        part = into.with_name(f".{into.name}.part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        try:
            with opened(archive) as (members, open_member):
                write(members, open_member, part, archive, limit)
            os.replace(part, into)
        except (*DAMAGED, RuntimeError) as error:  # zipfile raises RuntimeError for a missing password
            raise DataError(
                f"{archive}: is damaged, encrypted or incomplete ({type(error).__name__}: {error}); fetch it again"
            ) from None
        except OSError as error:
            raise DataError(f"{archive}: cannot be unpacked into {into} ({error})") from None
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return into


def write(members: Iterator[Member], open_member: Any, part: Path, archive: Path, limit: int | None) -> None:
    """Check all members, then write them below `part`."""
    allowed = max(HARMLESS, RATIO * archive.stat().st_size) if limit is None else limit
    files, total = [], 0
    for member in members:
        files.append((member, part / safe(member.name, archive)))
        total += member.size
        if total > allowed or len(files) > MEMBERS:
            raise DataError(
                f"{archive}: would unpack to over {min(total, allowed):,} bytes or {MEMBERS:,} files; refused as a "
                "decompression bomb"
            )
    free = shutil.disk_usage(part).free
    if total > free:
        raise DataError(f"{archive}: unpacks to {total:,} bytes, {part.parent} has room for {free:,}; make room")
    for member, path in tqdm(files, desc=f"unpacking {archive.name}", unit="file", mininterval=1):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_member(member) as source, open(path, "wb") as target:
            copy(source, target, member, archive)


def copy(source: IO[bytes], target: IO[bytes], member: Member, archive: Path) -> None:
    """Copy a member's bytes; DataError if their number differs from the declared size."""
    left = member.size
    while chunk := source.read(CHUNK):
        left -= len(chunk)
        if left < 0:
            break
        target.write(chunk)
    if left != 0:
        raise DataError(
            f"{archive}: '{member.name}' does not have the {member.size:,} bytes it declares; fetch it again"
        )


def safe(name: str, archive: Path) -> PurePosixPath:
    """A member's name as a relative path below the folder; DataError if it leaves the folder."""
    path = PurePosixPath(name)
    if (
        path.is_absolute() or PureWindowsPath(name).anchor or "\\" in name or "\0" in name
        or ".." in path.parts or not path.parts
    ):  # fmt: skip
        raise DataError(
            f"{archive}: has the member '{name}', which leaves the folder; refused, nothing is unpacked"
        )
    return path


@contextmanager
def opened(archive: Path) -> Iterator[tuple[Iterator[Member], Any]]:
    """The files of an archive, and a function that opens one; folder entries are checked and skipped."""
    try:
        is_tar, is_zip = tarfile.is_tarfile(archive), zipfile.is_zipfile(archive)
    except FileNotFoundError:
        raise DataError(f"{archive}: no such file; check the path") from None
    if is_tar:
        with tarfile.open(archive, "r:*") as tar:
            yield tar_members(tar, archive), lambda member: tar.extractfile(member.handle)
    elif is_zip:
        with zipfile.ZipFile(archive) as handle:
            yield zip_members(handle, archive), lambda member: handle.open(member.handle)
    else:
        raise DataError(f"{archive}: is not a zip or tar archive, or its header is damaged; fetch it again")


def tar_members(tar: tarfile.TarFile, archive: Path) -> Iterator[Member]:
    for info in tar:
        if info.isdir() and info.name in ("", "."):
            continue
        if info.isdir():
            safe(info.name, archive)
        elif info.isreg():
            yield Member(info.name, info.size, info)
        else:
            kind = "a link" if info.issym() or info.islnk() else "a device"
            raise DataError(f"{archive}: '{info.name}' is {kind}; refused, nothing is unpacked")


def zip_members(handle: zipfile.ZipFile, archive: Path) -> Iterator[Member]:
    for info in handle.infolist():
        kind = info.external_attr >> 28  # the file type of a Unix mode; 0 if made on another system
        if kind not in (0, 0o04, 0o10):
            what = "a link" if kind == 0o12 else "a device"
            raise DataError(f"{archive}: '{info.filename}' is {what}; refused, nothing is unpacked")
        if info.is_dir():
            safe(info.filename, archive)
        else:
            yield Member(info.filename, info.file_size, info)
