"""What text formats share: UTF-8 lines and finite numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path

from mlssl.errors import DataError


def lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file, with or without a byte order mark; DataError for another encoding."""
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None


def number(text: str | None, where: str) -> float:
    """A finite number; DataError, which starts with `where`, for anything else."""
    try:
        value = math.nan if text is None else float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        shown = json.dumps(text)
        raise DataError(f"{where} is {shown if len(shown) <= 60 else f'{shown[:57]}…'}; give a number")
    return value
