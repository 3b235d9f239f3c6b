"""Fingerprints of a data set: short digests that differ when its images or labels do. Imports no torch.

A data set has seven parts: the images, annotations and semantic masks of its two splits, and the classes file of
the masks, which counts only where it exists. Names are relative to
the part's folder, in Unicode's NFC; the path of the data set and the names of its splits do not count, so two
copies have equal fingerprints. A folder with at most MAX_READ bytes, and any annotation file, is digested by
names, sizes and contents; a larger folder by names, sizes and modification times, which `cp -a`, `rsync -a` and
unpacking tools keep.

All files that are not hidden count, as in `mlssl.data.images.find_images` but with any suffix, because annotations
may name images of any suffix.

A cache makes a second call cheap: one stat per file. A file is read again when its name, size, modification time
or change time has changed. The change time (ctime) cannot be set by hand, so an edit is noticed even if it
keeps the size and sets the modification time back. In a folder above MAX_READ such an edit is not noticed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import sys
import time
import unicodedata
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlssl.digest import digest_of
from mlssl.errors import DataError
from mlssl.files import write_json

MAX_READ = 2 * 2**30
"""Bytes of a folder up to which its files are read; in a larger folder, modification times are used instead."""
MAX_LISTED = 20_000
"""Files of a part up to which the cache keeps a digest per file; in a larger part, any change reads all again."""
RACY_NS = 2 * 10**9
"""Nanoseconds before a scan; a file modified later is read again by the next call.

On a coarse clock it may change again without a change of its times.
"""
ANNOUNCED = 2**28
"""Bytes above which a line on stderr announces reading."""
CLASSES = "semantic/classes.txt"
"""The file that names the values of semantic masks."""
VERSION = 1
"""Version of the cache and of the digests; a cache of another version is ignored."""
ABSENT = {"stat": "", "digest": "-", "by_content": True, "scanned": 0, "settled": True, "count": 0, "files": {}}


@dataclass(frozen=True)
class Fingerprint:
    """Digests of a data set, twelve hex digits each."""

    images: str
    """What pretraining reads: the training split's images."""
    all: str
    """What transfers read: images, annotations and semantic masks of both splits."""
    parts: dict[str, str]
    """The digest of each part, by its path below the root; folders end in `/`. `-` if there is no such part."""


def fingerprint(
    root: Path, train: str, val: str, *, cache: Path, progress: bool = False
) -> tuple[Fingerprint, list[str]]:
    """The fingerprint of a data set, and sentences on what has changed since the cache's last state of it.

    Reads only files that have changed since their state in the folder `cache`. There are no sentences the first
    time, nor if only times have changed. With `progress`, a line on stderr announces what is read. Raises DataError
    if the root or the training folder does not exist, or something in it cannot be read.
    """
    root = Path(os.path.abspath(root))
    for folder in (root, root / train):
        if not os.path.isdir(folder):
            raise DataError(f"{folder}: no such folder; give a data set in COCO's layout and its training split")
    file = _cache_file(cache, root, train, val)
    known = _load(file)
    parts: dict[str, dict[str, Any]] = {}
    changes: list[str] = []
    for key in dict.fromkeys(_keys(train, val)):
        try:
            parts[key] = _look(root, key, known.get(key, ABSENT), progress)
        except OSError as error:
            reason = f"cannot be read ({error.strerror}); make it readable or move it away"
            raise DataError(f"{error.filename or root / key}: {reason}") from None
        changes += _changes(root, key, known, parts[key])
    if parts != known:
        # A folder that cannot be written to, or a full disk: the next call takes longer, nothing else.
        with contextlib.suppress(OSError):
            write_json(file, {"root": str(root), "digest": digest_of([VERSION, parts]), "parts": parts})
    return _of_parts(parts, train, val), changes


def content_id(path: Path, cache: Path) -> tuple[str, list[str]]:
    """The digest of a file or of a folder of files, and sentences on what has changed since the cache's last state.

    The digest is `-` if there is nothing. The first time there are no sentences. Raises DataError if unreadable.
    """
    path = Path(os.path.abspath(path))
    key = f"{path.name}/" if path.is_dir() else path.name
    file = _cache_file(cache, path, "", "")
    known = _load(file)
    try:
        part = _look(path.parent, key, known.get(key, ABSENT), progress=True)
    except OSError as error:
        name = error.filename or path
        raise DataError(f"{name}: cannot be read ({error.strerror}); make it readable or move it away") from None
    if known.get(key) != part:
        with contextlib.suppress(OSError):
            write_json(file, {"root": str(path), "digest": digest_of([VERSION, {key: part}]), "parts": {key: part}})
    return part["digest"], _changes(path.parent, key, known, part)


def _keys(train: str, val: str) -> list[str]:
    """The parts by their role; some are the same if both splits are one."""
    names = [f"annotations/instances_{split}.json" for split in (train, val)]
    return [f"{train}/", f"{val}/", *names, f"semantic/{train}/", f"semantic/{val}/", CLASSES]


def _of_parts(parts: dict[str, dict[str, Any]], train: str, val: str) -> Fingerprint:
    there = [key for key in _keys(train, val) if key != CLASSES or parts[key]["digest"] != "-"]
    digests = [parts[key]["digest"] for key in there]
    by_name = {key: parts[key]["digest"] for key in sorted(parts)}
    return Fingerprint(images=digest_of(digests[:1]), all=digest_of(digests), parts=by_name)


def _look(root: Path, key: str, known: dict[str, Any], progress: bool) -> dict[str, Any]:
    """A part as the cache keeps it; `known` itself if no file's size or times are others. Raises OSError."""
    now = time.time_ns()  # Before the scan, so that any later write counts as racy.
    files = _scan(root / key)
    if files is None:
        return ABSENT
    size = sum(numbers[0] for numbers in files.values())
    by_content = not key.endswith("/") or size <= MAX_READ
    listing = digest_of([by_content, sorted(files.items())])
    if known["stat"] == listing and known["settled"]:
        return known
    rows = {name: [*numbers, str(numbers[1])] for name, numbers in files.items()}
    if by_content:
        old = known["files"] if known["files"] and known["by_content"] else {}
        trusted = known["scanned"] - RACY_NS
        same = {n for n, numbers in files.items() if n in old and old[n][:3] == numbers and numbers[1] < trusted}
        if progress and len(same) < len(files) and size > ANNOUNCED:
            left = [numbers[0] for name, numbers in files.items() if name not in same]
            text = f"reading {len(left):,} of {len(files):,} files, {sum(left) / 1e6:,.1f} MB, for the fingerprint"
            print(f"{root / key}: {text}", file=sys.stderr, flush=True)
        for name, row in rows.items():
            row[3] = old[name][3] if name in same else _content(root / key / name)
    content = sorted([unicodedata.normalize("NFC", name), row[0], row[3]] for name, row in rows.items())
    return {
        "stat": listing,
        "digest": digest_of(content),
        "by_content": by_content,
        "scanned": now,
        "settled": not by_content or all(numbers[1] < now - RACY_NS for numbers in files.values()),
        "count": len(files),
        "files": rows if len(files) <= MAX_LISTED else None,
    }


def _scan(top: Path) -> dict[str, list[int]] | None:
    """Size, mtime and ctime in ns of each file below a folder, by relative path; one stat each. Raises OSError.

    Hidden files and folders, and links to nothing, are left out. A folder that several links lead to is entered
    once. If `top` is a file, it is listed under the name ''. None if there is nothing.
    """
    try:
        status = os.stat(top)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISREG(status.st_mode):
        return {"": [status.st_size, status.st_mtime_ns, status.st_ctime_ns]}
    found, entered, left = {}, set(), [("", status)]
    while left:
        here, status = left.pop()
        if (status.st_dev, status.st_ino) in entered:
            continue
        entered.add((status.st_dev, status.st_ino))
        prefix, folders = f"{here}/" if here else "", []
        with os.scandir(top / here) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                try:
                    status = entry.stat()
                except FileNotFoundError:
                    continue
                if stat.S_ISDIR(status.st_mode):
                    folders.append((prefix + entry.name, status))
                elif stat.S_ISREG(status.st_mode):
                    found[prefix + entry.name] = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        left += sorted(folders, reverse=True)
    return found


def _content(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except PermissionError:  # A stage that needs the file raises an error; an import skips it.
        return "unreadable"


def _changes(root: Path, key: str, known: dict[str, dict[str, Any]], new: dict[str, Any]) -> list[str]:
    """One sentence if the part below `root` differs from the cache's state of it; none the first time."""
    old = known.get(key, ABSENT)  # Caches of earlier versions have no classes file.
    if not known or old["digest"] == new["digest"]:
        return []
    return [f"{root}: {_change(key, old, new)}".encode(errors="replace").decode()]  # Names need not be Unicode.


def _change(key: str, old: dict[str, Any], new: dict[str, Any]) -> str:
    """What makes a part's digest another one, in one sentence."""
    name = key.rstrip("/")
    if "-" in (old["digest"], new["digest"]):
        return f"{name} is {'new' if old['digest'] == '-' else 'gone'}"
    if not key.endswith("/"):
        return f"{name} has other contents"
    if old["files"] is None or new["files"] is None:
        return f"{name}: other images, {new['count']:,} now, {old['count']:,} before"
    was, now = old["files"], new["files"]
    compared = (0, 3) if old["by_content"] == new["by_content"] else (0,)  # Digests of two kinds always differ.
    others = [n for n in sorted(now) if n in was and any(was[n][i] != now[n][i] for i in compared)]
    more, fewer = sorted(now.keys() - was.keys()), sorted(was.keys() - now.keys())
    texts = []
    if others:
        what = "contents" if new["by_content"] else "sizes or modification times"
        have = "has" if len(others) == 1 else "have"
        texts.append(f"{len(others):,} of {_images(now)} {have} other {what} ({_some(others)})")
    if more:
        texts.append(f"{_images(more)} more ({_some(more)})")
    if fewer:
        texts.append(f"{_images(fewer)} fewer ({_some(fewer)})")
    return f"{name}: {', '.join(texts)}"


def _images(names: Collection[str]) -> str:
    return f"{len(names):,} {'image' if len(names) == 1 else 'images'}"


def _some(names: list[str]) -> str:
    return ", ".join([*names[:3], "..."] if len(names) > 3 else names)


def _cache_file(cache: Path, root: Path, train: str, val: str) -> Path:
    return Path(cache) / f"{digest_of([str(root), train, val])}.json"


def _load(file: Path) -> dict[str, dict[str, Any]]:
    """The parts as they were last; {} if there is no cache, or it is damaged or of another version."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return content["parts"] if content["digest"] == digest_of([VERSION, content["parts"]]) else {}
    except Exception:  # Whatever is wrong with the file: without it the next call takes longer, nothing else.
        return {}
