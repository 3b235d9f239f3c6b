"""Read image-level labels from a CSV. Imports no torch."""

from __future__ import annotations

import csv
from pathlib import Path

from mlssl.data.formats.text import lines
from mlssl.errors import DataError

HEADERS = ("file", "filename", "file_name", "image", "path")
"""Names of the first column that make the first line a header."""


def read_csv(path: Path) -> dict[str, tuple[int, list[str]]]:
    """File name -> its first line in the CSV, from 1, and its labels, in order and unique.

    A line is `file,label;label`; a header is optional; several lines of a file add up; an empty cell means that the
    file has no label. Raises DataError, with file, line, value and remedy, for a line of another form.
    """
    rows: dict[str, tuple[int, list[str]]] = {}
    try:
        table = list(csv.reader(lines(path)))
    except csv.Error as error:
        raise DataError(f"{path}: not a CSV ({error}); write file,label;label per line") from None
    for i, row in enumerate(table, start=1):
        cells = [cell.strip() for cell in row]
        if not any(cells) or (i == 1 and cells[0].lower() in HEADERS):
            continue
        if len(cells) != 2 or not cells[0]:
            raise DataError(
                f"{path}: line {i} has {len(cells)} cells ('{','.join(cells)[:60]}'); write file,label;label"
            )
        labels = rows.setdefault(cells[0], (i, []))[1]
        labels += [label for label in map(str.strip, cells[1].split(";")) if label and label not in labels]
    return rows
