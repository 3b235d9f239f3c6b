"""One file from a web server to a disk: resumed where it broke off, checked, and given its name only when whole."""

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
"""Of silence on the line, after which a transfer counts as broken."""
AGAIN_LATER = (408, 429, 500, 502, 503, 504)
"""HTTP states that may pass; all other errors are final."""


class Broken(Exception):
    """A transfer that broke off and may be tried again."""


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
    """Fetch `url` into the file `to`, and return it; a file that is there already is left as it is.

    What has come lies in `<to>.part` and is gone on from (HTTP Range), by the next call too. `attempts` failures in
    a row that brought not one byte end it; the pause between them is `wait_s` seconds, doubled each time. Raises
    DataError if the server cannot be reached, refuses, or offers another size than `size` (bytes), if the disk
    would be full, or if the checksum is not the one given; what has come is then removed, so that the next call
    starts afresh.
    """
    to = Path(to)
    if not url.lower().startswith(("http://", "https://")):
        raise DataError(f"{url}: only http and https addresses are fetched")
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
                        f"{url}: {error}; given up after {failures} attempts in a row ({size_of(part):,} bytes are "
                        f"kept in {part}): check the network and call again, or fetch the file by hand as {to}"
                    ) from None
                time.sleep(wait_s * 2 ** (failures - 1))
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise DataError(f"{part}: the disk is full; make room and call again, it goes on there") from None
        try:
            verify(part, size=size, md5=md5, sha256=sha256)
        except DataError as error:
            forget(part)
            raise DataError(f"{url}: {error}; what came is removed, call again to start afresh") from None
        os.replace(part, to)
        forget(part)
    return to


def verify(path: Path, *, size: int | None = None, md5: str | None = None, sha256: str | None = None) -> None:
    """DataError if a file has not the size in bytes, or not the checksum (hex digits), that is given."""
    actual = path.stat().st_size
    if size is not None and actual != size:
        raise DataError(f"{path.name} has {actual:,} bytes, not {size:,}")
    for kind, expected in (("md5", md5), ("sha256", sha256)):
        if expected is None:
            continue
        with open(path, "rb") as handle:
            found = hashlib.file_digest(handle, kind).hexdigest()
        if found != expected.lower():
            raise DataError(f"{path.name} has {kind} {found}, not {expected}")


def size_of(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def validator_of(part: Path) -> Path:
    """The file beside a part that holds what the server called the version it is a part of."""
    return part.with_name(f"{part.name}.version")


def forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    validator_of(part).unlink(missing_ok=True)


def transfer(url: str, part: Path, size: int | None) -> None:
    """One attempt: go on with `part` until all is there. Raises Broken if it may be tried again."""
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
        if error.code == 416 and start:  # nothing lies beyond what is there: whole, or a part of another file
            if re.fullmatch(rf"bytes \*/{start}", error.headers.get("Content-Range", "")):
                return
            forget(part)
            raise Broken("the part that was kept is longer than the file") from None
        if error.code in AGAIN_LATER:
            raise Broken(f"the server answers {error.code} {error.reason}") from None
        raise DataError(
            f"{url}: the server answers {error.code} {error.reason}; the file has moved or wants a login: "
            f"fetch it by hand as {part.with_suffix('')}"
        ) from None
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            raise DataError(f"{url}: the server's certificate does not hold ({error.reason})") from None
        raise Broken(f"the server cannot be reached ({error.reason})") from None
    except (http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
        raise Broken(f"the transfer broke off ({type(error).__name__}: {error})") from None


def receive(url: str, answer: http.client.HTTPResponse, part: Path, start: int, size: int | None) -> None:
    """Write the answer to a request for the bytes from `start` on; from 0 if the server does not know Range."""
    span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
    if answer.status == 206 and (span is None or int(span[1]) != start):
        forget(part)
        raise Broken("the server sent another range than was asked for")
    if answer.status != 206:
        start = 0
    length = answer.headers.get("Content-Length")
    total = int(span[2]) if span else int(length) if length else None
    if size is not None and total is not None and total != size:
        forget(part)
        raise DataError(f"{url}: the server offers {total:,} bytes, not {size:,}; the file was replaced there")
    if total is not None and total - start > shutil.disk_usage(part.parent).free:
        raise DataError(f"{part}: {total - start:,} bytes are to come, the disk has no room for them; make room")
    if start == 0:
        forget(part)
        etag, changed = answer.headers.get("ETag", ""), answer.headers.get("Last-Modified", "")
        version = etag if etag.startswith('"') else changed  # a weak tag (W/…) does not name bytes
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
