"""Arrays in one NPZ file, with `about`, JSON on how they were made: proposals, and pairs of them."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mlssl.errors import DataError
from mlssl.files import atomic


def checksum(*arrays: np.ndarray) -> int:
    """Of all arrays, in this order."""
    found = 0
    for array in arrays:
        found = zlib.crc32(np.ascontiguousarray(array).tobytes(), found)
    return found


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
    """Write a file, which appears only when it is complete."""
    with atomic(path) as part, open(part, "wb") as target:
        np.savez(target, **{**arrays, "about": np.array(json.dumps(about))})  # type: ignore[arg-type]


def read_arrays(path: Path, names: tuple[str, ...], kind: str) -> tuple[list[np.ndarray], dict[str, Any]]:
    """The arrays of a file, in the order of `names`, and `about`.

    `kind` is what the file has and the name of the command that makes it. Raises DataError for a missing file and
    one of another kind.
    """
    try:
        with np.load(path) as file:
            return [file[name] for name in names], json.loads(str(file["about"]))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; make it with `mlssl {kind}`") from None
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: is no file of {kind} ({error}); {remedy(kind)}") from None


def remedy(kind: str) -> str:
    """What to do with a file that cannot be used."""
    return f"move the file away, `mlssl {kind}` makes it again"
