"""Digests of plain values and of files: equal content has the same short name."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any


def digest_of(values: Any) -> str:
    """Twelve hex digits that name plain values (dicts, lists, scalars); the order of keys does not count."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def digest_of_file(path: Path) -> str:
    """Twelve hex digits that name a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]
