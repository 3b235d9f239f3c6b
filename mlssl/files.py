"""Atomic writes: a file gets its name only when it is complete."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to; it is renamed to `path` unless an exception is raised."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        with open(part, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic(path) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, values: Any) -> None:
    """Write JSON atomically, indented, in the order of the keys given."""
    write_text(path, json.dumps(values, indent=1, allow_nan=False) + "\n")


def set_aside(path: Path) -> Path:
    """Rename a file or folder to the first free `<name>.old<n>` beside it, and return the new path."""
    return path.rename(numbered(path.with_name(f"{path.name}.old")))


def numbered(path: Path) -> Path:
    """The first of `<path>1`, `<path>2`, … that does not exist."""
    n = 1
    while (free := path.with_name(f"{path.name}{n}")).exists():
        n += 1
    return free
