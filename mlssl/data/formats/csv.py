"""Read image-level labels from a CSV. Imports no torch."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlssl.data.formats.splits import SPLITS
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
        cells = _without_split([cell.strip() for cell in row], table[0])
        if not any(cells) or (i == 1 and cells[0].lower() in HEADERS):
            continue
        if len(cells) != 2 or not cells[0]:
            raise DataError(
                f"{path}: line {i} has {len(cells)} cells ('{','.join(cells)[:60]}'); write file,label;label"
            )
        labels = rows.setdefault(cells[0], (i, []))[1]
        labels += [label for label in map(str.strip, cells[1].split(";")) if label and label not in labels]
    return rows


@dataclass(frozen=True)
class Header:
    """What the header of a CSV adds to its rows."""

    splits: dict[str, str]
    """File name -> train, val or test, by the column `split`; empty without that column."""
    exclusive: bool
    """Whether the column of labels is called `class`: each photo has exactly one label."""


def read_header(path: Path) -> Header:
    """Read the columns that only a header explains: `file,label,split`, in any order after the file.

    Raises DataError, with file, line, value and remedy, for another split than train, val, test or none, for a file
    in two splits, and for a file without exactly one label if the column is called `class`.
    """
    table = list(csv.reader(lines(path)))
    head = [cell.strip().lower() for cell in table[0]] if table else []
    exclusive = "class" in head[1:] and head[0] in HEADERS
    if exclusive:
        for file, (line, labels) in read_csv(path).items():
            if len(labels) != 1:
                raise DataError(
                    f"{path}: line {line}: '{file}' has {len(labels)} labels, but the column is called class; give "
                    "one, or call the column label"
                )
    column = _split_column(head)
    splits: dict[str, str] = {}
    for i, row in enumerate(table[1:], start=2):
        cells = [cell.strip() for cell in row]
        if column is None or len(cells) != len(head) or not cells[column]:
            continue
        split = SPLITS.get(cells[column].lower())
        if split is None:
            known = ", ".join(SPLITS)
            raise DataError(f"{path}: line {i}: split '{cells[column][:40]}' is not known; give one of {known}")
        if splits.setdefault(cells[0], split) != split:
            raise DataError(
                f"{path}: line {i}: '{cells[0]}' is in two splits, {splits[cells[0]]} and {split}; give one"
            )
    return Header(splits, exclusive)


def _split_column(head: Sequence[str]) -> int | None:
    """The column of splits of a header of three cells, in lower case."""
    if len(head) == 3 and head[0] in HEADERS and "split" in head[1:]:
        return head.index("split", 1)
    return None


def _without_split(cells: list[str], head: Sequence[str]) -> list[str]:
    """The cells of a row without that of the split, if there is one."""
    column = _split_column([cell.strip().lower() for cell in head])
    return [*cells[:column], *cells[column + 1 :]] if column is not None and len(cells) == len(head) else cells
