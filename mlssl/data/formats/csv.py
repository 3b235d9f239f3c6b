"""Read image-level labels from a CSV. Imports no torch."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

from mlssl.data.formats.text import lines
from mlssl.data.images import SUFFIXES
from mlssl.errors import DataError

HEADERS = ("file", "filename", "file_name", "image", "path")
"""Names of a first column that need no further sign that the first line is a header."""
NAMES = {",": "a comma", ";": "a semicolon", "\t": "a tab"}
"""Separators of file and label."""
FORM = "write file,label;label per line"


@dataclass(frozen=True)
class Table:
    """Labels by file."""

    rows: dict[str, tuple[int, list[str]]]
    """File name -> its first line, from 1, and its labels, in order and unique."""
    header: str | None = None
    """The first line, if it was taken for a header and its first cell is not in `HEADERS`."""


def read_csv(path: Path, is_photo: Callable[[str], bool]) -> Table:
    """Read a table of labels; `is_photo` says whether a name is that of a photo.

    - A line is `file,label;label`; several lines of a file add up; an empty cell means that it has no label.
    - `;` or a tab may separate file and label instead of the comma, if every line then has two cells: with several
      such separators, the one whose files are photos. Labels are still separated by `;`, and have no comma then.
    - The first line is a header if its labels and its first cell occur nowhere else, and the cell is in `HEADERS`,
      or is no photo and does not end like one's name (`.jpg`).
    - Names and labels are in Unicode's NFC.

    Raises DataError, with file, line, value and remedy, for a line of another form, and as `lines` does.
    """
    separator, cells = _split(path, lines(path), is_photo)
    found: list[tuple[int, str, list[str]]] = []
    for i, row in enumerate(cells, start=1):
        if not any(row):
            continue
        if len(row) != 2 or not row[0]:
            raise DataError(f"{path}: line {i} has {len(row)} cells ('{separator.join(row)[:60]}'); {FORM}")
        if separator != "," and "," in row[1]:
            raise DataError(
                f"{path}: line {i}: '{row[1][:60]}' is one label or several; separate labels by ; and the file by ,"
            )
        found.append((i, row[0], [label for label in map(str.strip, row[1].split(";")) if label]))
    header = None
    if found and _is_header(found, is_photo):
        i, name, _ = found.pop(0)
        header = None if name.lower() in HEADERS else separator.join(cells[i - 1])
    rows: dict[str, tuple[int, list[str]]] = {}
    for i, name, labels in found:
        mine = rows.setdefault(name, (i, []))[1]
        mine += [label for label in dict.fromkeys(labels) if label not in mine]
    return Table(rows, header)


def _split(path: Path, text: Sequence[str], is_photo: Callable[[str], bool]) -> tuple[str, list[list[str]]]:
    """The separator and the cells of each line."""
    said = re.fullmatch(r'"?sep=(.)"?', text[0].strip()) if text else None
    if said is not None:  # Excel's note on the separator.
        text = ["", *text[1:]]
    parsed: dict[str, list[list[str]]] = {}
    refusals: list[DataError] = []
    for separator in NAMES if said is None or said[1] not in NAMES else [said[1]]:
        try:
            parsed[separator] = _cells(path, text, separator)
        except DataError as error:
            refusals.append(error)
    fit = [
        separator
        for separator, cells in parsed.items()
        if all(len(row) == 2 for row in cells if any(row)) and any(map(any, cells))
    ]
    if len(fit) > 1:
        named = [s for s in fit if any(is_photo(row[0]) for row in parsed[s] if any(row))]
        fit = named or [s for s in fit if s == ","] or fit
    if len(fit) > 1:
        shown = " or ".join(NAMES[s] for s in fit)
        raise DataError(f"{path}: {shown} may separate file and label ('{text[0][:60]}'); {FORM}")
    if not fit and refusals:
        raise refusals[0]
    separator = fit[0] if fit else next(iter(parsed))
    return separator, parsed[separator]


def _cells(path: Path, text: Sequence[str], separator: str) -> list[list[str]]:
    """The cells of each line; DataError for quotes that do not end in their line."""
    reader = csv.reader((f"{line}\n" for line in text), delimiter=separator, strict=True)
    table: list[list[str]] = []
    try:
        for row in reader:
            if reader.line_num > len(table) + 1:
                raise DataError(f"{path}: line {len(table) + 1}: its quotes end in another line; end them, {FORM}")
            table.append([normalize("NFC", cell.strip()) for cell in row])
    except csv.Error as error:
        raise DataError(f"{path}: line {len(table) + 1}: not a CSV ({error}); {FORM}") from None
    return table


def _is_header(found: Sequence[tuple[int, str, list[str]]], is_photo: Callable[[str], bool]) -> bool:
    (_, name, labels), others = found[0], found[1:]
    if any(label in labels for _, _, same in others for label in same) or any(
        name == other for _, other, _ in others
    ):
        return False
    if name.lower() in HEADERS:
        return True
    return bool(others and labels) and not name.lower().endswith(SUFFIXES) and not is_photo(name)
