"""Unpack untrusted archives: no file outside the folder, no links, no decompression bombs.

`tarfile` (with its data filter) and `zipfile` write the files. The checks before are our own, because the libraries
accept links, rename members that leave the folder, and do not limit the size (tests/test_fetch.py,
test_tarfile_and_zipfile_accept_archives_that_we_refuse).
"""

from __future__ import annotations

import lzma
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath, PureWindowsPath

from filelock import FileLock
from tqdm import tqdm

from mlssl.errors import DataError

RATIO = 100
"""Maximum unpacked size / archive size; images have about 1, annotations in JSON about 10."""
HARMLESS = 2**26
"""Bytes that any archive may unpack to, regardless of the ratio."""
MEMBERS = 2_000_000
"""Maximum number of files in an archive."""
DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError)


def unpack(archive: Path, into: Path, *, limit: int | None = None) -> Path:
    """Unpack a zip, tar or compressed tar into the folder `into`, and return it.

    The folder appears only when it is complete; an existing one is left unchanged. All members are checked before
    the first is written. Raises DataError if a name is absolute or leaves the folder, or a member is a link or a
    device; if the total size exceeds `limit` bytes (None: 100 times the archive's size, at least 64 MiB) or the
    free disk space; or if the archive is damaged, encrypted or of another type. Owners are not restored.
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
            write(archive, part, limit)
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


def write(archive: Path, part: Path, limit: int | None) -> None:
    """Check all members of an archive, then write them below `part`."""
    try:
        is_tar, is_zip = tarfile.is_tarfile(archive), zipfile.is_zipfile(archive)
    except FileNotFoundError:
        raise DataError(f"{archive}: no such file; check the path") from None
    bar = partial(tqdm, desc=f"unpacking {archive.name}", unit="file", mininterval=1)
    if is_tar:
        with tarfile.open(archive, "r:*") as tar:
            check_total(tar_sizes(tar, archive), part, archive, limit)
            for member in bar(tar.getmembers()):
                tar.extract(member, part, filter="data")
    elif is_zip:
        with zipfile.ZipFile(archive) as handle:
            check_total(zip_sizes(handle, archive), part, archive, limit)
            for name in bar(handle.namelist()):
                handle.extract(name, part)
    else:
        raise DataError(f"{archive}: is not a zip or tar archive, or its header is damaged; fetch it again")


def check_total(sizes: Iterable[int], part: Path, archive: Path, limit: int | None) -> None:
    """Refuse members whose number or total size in bytes is too large; stops reading `sizes` where it is."""
    allowed = max(HARMLESS, RATIO * archive.stat().st_size) if limit is None else limit
    total = 0
    for count, size in enumerate(sizes, start=1):
        total += size
        if total > allowed or count > MEMBERS:
            raise DataError(
                f"{archive}: would unpack to over {min(total, allowed):,} bytes or {MEMBERS:,} files; refused as a "
                "decompression bomb"
            )
    free = shutil.disk_usage(part).free
    if total > free:
        raise DataError(f"{archive}: unpacks to {total:,} bytes, {part.parent} has room for {free:,}; make room")


def tar_sizes(tar: tarfile.TarFile, archive: Path) -> Iterator[int]:
    """The declared size of each member, in bytes; DataError for a link, a device or a name outside the folder."""
    for info in tar:
        if not info.isdir() and not info.isreg():
            kind = "a link" if info.issym() or info.islnk() else "a device"
            raise DataError(f"{archive}: '{info.name}' is {kind}; refused, nothing is unpacked")
        if not (info.isdir() and info.name in ("", ".")):
            check_name(info.name, archive)
        yield info.size


def zip_sizes(handle: zipfile.ZipFile, archive: Path) -> Iterator[int]:
    """As `tar_sizes`."""
    for info in handle.infolist():
        kind = info.external_attr >> 28  # the file type of a Unix mode; 0 if made on another system
        if kind not in (0, 0o04, 0o10):
            what = "a link" if kind == 0o12 else "a device"
            raise DataError(f"{archive}: '{info.filename}' is {what}; refused, nothing is unpacked")
        check_name(info.filename, archive)
        yield info.file_size


def check_name(name: str, archive: Path) -> None:
    """Refuse a member whose name is not a path below the folder, on any system."""
    path = PurePosixPath(name)
    if (
        path.is_absolute() or PureWindowsPath(name).anchor or "\\" in name or "\0" in name
        or ".." in path.parts or not path.parts
    ):  # fmt: skip
        raise DataError(
            f"{archive}: has the member '{name}', which leaves the folder; refused, nothing is unpacked"
        )
