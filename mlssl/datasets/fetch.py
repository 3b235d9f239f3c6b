"""Download a file over HTTP: resumes after failures, verifies, and renames the file only when it is complete.

pooch does not resume: it fetches a file of many GB from its first byte again (tests/test_fetch.py,
test_pooch_does_not_resume_a_broken_transfer).
"""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import re
import shutil
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path

from filelock import FileLock
from tqdm import tqdm

from mlssl.errors import DataError
from mlssl.files import write_text

CHUNK = 2**20
TIMEOUT_S = 60
"""Seconds without data after which a transfer counts as broken."""
AGAIN_LATER = (408, 429, 500, 502, 503, 504)
"""HTTP status codes that are retried; all other errors are final."""


class Broken(Exception):
    """A failed transfer that may be retried."""


def download(
    url: str,
    to: Path,
    *,
    size: int | None = None,
    md5: str | None = None,
    sha256: str | None = None,
    attempts: int = 5,
    wait_s: float = 1.0,
) -> Path:
    """Fetch `url` into the file `to`, and return it; an existing file is left unchanged.

    Partial data is stored in `<to>.part` and resumed with HTTP Range, also by the next call. It gives up after
    `attempts` failures in a row without a new byte; the pause between them is `wait_s` seconds, doubled each time.
    Raises DataError if the server cannot be reached, refuses, or offers another size than `size` (bytes), if the
    disk has no room, or if a checksum differs; a wrong size or checksum removes the partial file.
    """
    to = Path(to)
    if not url.lower().startswith(("http://", "https://")):
        raise DataError(f"{url}: only http and https URLs can be downloaded")
    to.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(to.with_name(f".{to.name}.lock")):
        if to.exists():
            return to
        part, failures = to.with_name(f"{to.name}.part"), 0
        while True:
            before = size_of(part)
            try:
                transfer(url, part, size)
                break
            except Broken as error:
                failures = 1 if size_of(part) > before else failures + 1
                if failures >= attempts:
                    raise DataError(
                        f"{url}: {error}; gave up after {failures} attempts in a row ({size_of(part):,} bytes are "
                        f"kept in {part}): check the network and call again, or download the file by hand as {to}"
                    ) from None
                time.sleep(wait_s * 2 ** (failures - 1))
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise DataError(f"{part}: the disk is full; make room and call again, it resumes") from None
        try:
            verify(part, size=size, md5=md5, sha256=sha256)
        except DataError as error:
            forget(part)
            raise DataError(f"{url}: {error}; the partial file is removed, call again to start over") from None
        os.replace(part, to)
        forget(part)
    return to


def verify(path: Path, *, size: int | None = None, md5: str | None = None, sha256: str | None = None) -> None:
    """Raise DataError if the file's size in bytes or checksum (hex digits) differs from a given one."""
    actual = path.stat().st_size
    if size is not None and actual != size:
        raise DataError(f"{path.name} has {actual:,} bytes, not {size:,}")
    for kind, expected in (("md5", md5), ("sha256", sha256)):
        if expected is None:
            continue
        with open(path, "rb") as handle:
            digest = hashlib.file_digest(handle, kind).hexdigest()
        if digest != expected.lower():
            raise DataError(f"{path.name} has {kind} {digest}, not {expected}")


def size_of(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def validator_of(part: Path) -> Path:
    """The file next to `part` with the ETag or Last-Modified of the partly downloaded version."""
    return part.with_name(f"{part.name}.version")


def forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    validator_of(part).unlink(missing_ok=True)


def transfer(url: str, part: Path, size: int | None) -> None:
    """One attempt to complete `part`. Raises Broken if a retry may succeed."""
    start = size_of(part)
    headers = {"User-Agent": "mlssl", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if validator_of(part).exists():
            headers["If-Range"] = validator_of(part).read_text()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S) as answer:
            receive(url, answer, part, start, size)
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:  # no bytes after `start`: complete, or a part of another file
            if re.fullmatch(rf"bytes \*/{start}", error.headers.get("Content-Range", "")):
                return
            forget(part)
            raise Broken("the partial file is longer than the file on the server") from None
        if error.code in AGAIN_LATER:
            raise Broken(f"the server answers {error.code} {error.reason}") from None
        raise DataError(
            f"{url}: the server answers {error.code} {error.reason}; the file has moved or needs a login: "
            f"download it by hand as {part.with_suffix('')}"
        ) from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise DataError(
                f"{url}: the server's certificate is not valid ({error.reason}); download it by hand"
            ) from None
        raise Broken(f"the server cannot be reached ({error.reason})") from None
    except (http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
        raise Broken(f"the transfer broke off ({type(error).__name__}: {error})") from None


def receive(url: str, answer: http.client.HTTPResponse, part: Path, start: int, size: int | None) -> None:
    """Write a response to `part`, from byte `start`; from 0 if the server does not support Range."""
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
    if answer.status == 206 and (span is None or int(span[1]) != start):
        forget(part)
        raise Broken("the server sent another range than requested")
    if answer.status != 206:
        start = 0
    length = answer.headers.get("Content-Length")
    total = int(span[2]) if span else int(length) if length else None
    if size is not None and total is not None and total != size:
        forget(part)
        raise DataError(
            f"{url}: the server offers {total:,} bytes, not {size:,}; the file was replaced on the server"
        )
    if total is not None and total - start > shutil.disk_usage(part.parent).free:
        raise DataError(
            f"{part}: {total - start:,} bytes remain to download, but the disk has no room for them; make room"
        )
    if start == 0:
        forget(part)
        etag, changed = answer.headers.get("ETag", ""), answer.headers.get("Last-Modified", "")
        version = etag if etag.startswith('"') else changed  # a weak tag (W/…) does not identify bytes
        if version:
            write_text(validator_of(part), version)
    bar = tqdm(
        total=total, initial=start, desc=part.stem, unit="B", unit_scale=True, unit_divisor=1024, mininterval=1
    )
    with open(part, "ab") as handle, bar:
        while chunk := answer.read(CHUNK):
            handle.write(chunk)
            bar.update(len(chunk))
        handle.flush()
        os.fsync(handle.fileno())
    if total is not None and size_of(part) != total:
        raise Broken(f"the transfer broke off at {size_of(part):,} of {total:,} bytes")
