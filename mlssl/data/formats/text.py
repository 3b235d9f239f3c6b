"""What text formats share: lines, of any usual encoding and line end, and finite numbers."""

from __future__ import annotations

import codecs
import json
import math
import re
from pathlib import Path

from mlssl.errors import DataError

MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # Before UTF-16, whose mark is its beginning.
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks and the encodings that they announce."""


WITHOUT_MARK = (
    (rb"[^\0]\0\0\0", "utf-32-le"),  # Before UTF-16, of which this is a beginning.
    (rb"\0\0\0[^\0]", "utf-32-be"),
    (rb"[^\0]\0", "utf-16-le"),
    (rb"\0[^\0]", "utf-16-be"),
)
"""First bytes of a text that begins with an ASCII character, and its encoding; UTF-8 has no zero bytes."""


def encoding(content: bytes) -> str:
    """The encoding that a byte order mark announces, or that zero bytes at the beginning do; else UTF-8."""
    marked = next((name for mark, name in MARKS if content.startswith(mark)), None)
    plain = next((name for zeros, name in WITHOUT_MARK if re.match(zeros, content, re.DOTALL)), "utf-8")
    return marked or plain


def text_of(path: Path) -> str:
    """The text of a file in UTF-8, or in the encoding of its byte order mark; DataError for another encoding."""
    content = path.read_bytes()
    name = encoding(content)
    try:
        return content.decode(name)
    except UnicodeDecodeError as error:
        shown = name.removesuffix("-sig").upper()
        raise DataError(f"{path}: not {shown} text (byte {error.start}); save it as UTF-8") from None


def lines(path: Path) -> list[str]:
    """The lines of a text file, without their ends: LF, CR LF, or CR in a file that has no LF.

    Raises DataError as `text_of` does, and for a CR inside a line.
    """
    text = re.sub("\r+\n", "\n", text_of(path))
    if "\r" in text and "\n" not in text:
        text = text.replace("\r", "\n")
    found = text.removesuffix("\n").split("\n") if text else []
    for i, line in enumerate(found, start=1):
        if "\r" in line:
            shown = line.replace("\r", "\\r")
            raise DataError(f"{path}: line {i}: '{shown[:60]}' has a carriage return (\\r) inside it; remove it")
    return found


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


def integer(text: str) -> int | None:
    """An integer that is not negative, also written as `64.0`; None for anything else."""
    try:
        value = float(text)
    except ValueError:
        return None
    return int(value) if math.isfinite(value) and value >= 0 and value.is_integer() else None
