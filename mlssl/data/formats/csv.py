"""Read image-level labels from a CSV. Imports no torch."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from unicodedata import normalize

from mlssl.data.formats.splits import SPLITS
from mlssl.data.formats.text import lines
from mlssl.data.images import SUFFIXES
from mlssl.errors import DataError

HEADERS = ("file", "filename", "file_name", "image", "path")
"""Names of a first column that need no further sign that the first line is a header."""
NAMES = {",": "a comma", ";": "a semicolon", "\t": "a tab"}
"""Separators of file and label."""
FORM = "write file,label;label per line, or a column of 0 and 1 for each category"
LABELS: tuple[str, ...] = (
    "label",
    "labels",
    "class",
    "classes",
    "category",
    "categories",
    "tag",
    "tags",
    "target",
    "id",
    "y",
)
LABELS += ("class_id", "label_id", "category_id", "classid", "labelid", "categoryid")
"""Names of a column of labels, which is no category itself."""
INDICATORS = {"0": False, "1": True, "0.0": False, "1.0": True, "false": False, "true": True}
"""Cells, in lower case, that say whether a photo has the category of the column."""


@dataclass(frozen=True)
class Table:
    """Labels by file."""

    rows: dict[str, tuple[int, list[str]]]
    """File name -> its first line, from 1, and its labels, in order and unique."""
    header: str | None = None
    """The first line, if it was taken for a header and its first cell is not in `HEADERS`."""
    splits: dict[str, str] = field(default_factory=dict)
    """File name -> train, val or test, by the column `split`; empty without that column."""
    exclusive: bool = False
    """Whether the column of labels is called `class`: each photo has exactly one label."""
    columns: list[str] = field(default_factory=list)
    """Categories that have a column of 0 and 1 each; empty if a column has labels."""


def read_csv(path: Path, is_photo: Callable[[str], bool]) -> Table:
    """Read a table of labels; `is_photo` says whether a name is that of a photo.

    - A line is `file,label;label`; several lines of a file add up; an empty cell means that it has no label.
    - `;` or a tab may separate file and label instead of the comma, if every line then has two cells: with several
      such separators, the one whose files are photos. Labels are still separated by `;`, and have no comma then.
    - The first line is a header if its labels and its first cell occur nowhere else, and the cell is in `HEADERS`,
      or is no photo and does not end like one's name (`.jpg`).
    - After a header, each category may have a column of 0 and 1 (or `true` and `false`) instead. One such column is
      read so unless it is called as in `LABELS`: `file,label` with 0 and 1 has the categories 0 and 1.
    - A header may have one more column `split`, with train, val, test or nothing; a first line of three or more
      cells with it is always a header.
    - If the header calls the labels `class`, each photo has exactly one.
    - Names and labels are in Unicode's NFC.

    Raises DataError, with file, line, value and remedy, for a line of another form or split, a photo in
    two splits or without exactly one `class`, and as `lines` does.
    """
    separator, cells, column = _split(path, lines(path), is_photo)
    table = [_without(row, column) for row in cells]
    columns = _columns(table, is_photo)
    found = _indicated(path, table, columns) if columns else _labelled(path, table, cells, separator)
    header, exclusive = None, False
    if found and (columns or column is not None or _is_header(found, is_photo)):
        i, name, labels = found.pop(0)
        header = None if name.lower() in HEADERS else separator.join(cells[i - 1])
        exclusive = not columns and [label.lower() for label in labels] == ["class"]
    rows: dict[str, tuple[int, list[str]]] = {}
    splits: dict[str, str] = {}
    for i, name, labels in found:
        mine = rows.setdefault(name, (i, []))[1]
        mine += [label for label in dict.fromkeys(labels) if label not in mine]
        split = _split_of(path, i, cells[i - 1], column)
        if split and splits.setdefault(name, split) != split:
            raise DataError(f"{path}: line {i}: '{name}' is in two splits, {splits[name]} and {split}; give one")
    for name, (i, labels) in rows.items() if exclusive else ():
        if len(labels) != 1:
            raise DataError(
                f"{path}: line {i}: '{name}' has {len(labels)} labels, but the column is called class; give "
                "one, or call the column label"
            )
    return Table(rows, header, splits, exclusive, columns)


def _labelled(
    path: Path, table: Sequence[Sequence[str]], cells: Sequence[Sequence[str]], separator: str
) -> list[tuple[int, str, list[str]]]:
    """Number, file and labels of each line of `file,label;label`; `cells` still have the splits."""
    found = []
    for i, row in enumerate(table, start=1):
        if not any(row):
            continue
        if len(row) != 2 or not row[0]:
            whole = cells[i - 1]
            raise DataError(f"{path}: line {i} has {len(whole)} cells ('{separator.join(whole)[:60]}'); {FORM}")
        if separator != "," and "," in row[1]:
            raise DataError(
                f"{path}: line {i}: '{row[1][:60]}' is one label or several; separate labels by ; and the file by ,"
            )
        found.append((i, row[0], [label for label in map(str.strip, row[1].split(";")) if label]))
    return found


def _columns(table: Sequence[Sequence[str]], is_photo: Callable[[str], bool]) -> list[str]:
    """The categories that have a column of 0 and 1 each, or an empty list if a column has labels."""
    head, *others = [row for row in table if any(row)] or [()]
    if len(head) < 2 or not others or any(len(row) != len(head) for row in others):
        return []
    if _like_photo(head[0], is_photo) or any(row[0] == head[0] for row in others):
        return []
    if len(head) > 2:
        return list(head[1:]) if any(cell.lower() in INDICATORS for cell in others[0][1:]) else []
    name, cells = head[1].lower().replace(" ", "_"), {row[1].lower() for row in others}
    own = name not in (*LABELS, *INDICATORS) and any(cells) and cells <= {"", *INDICATORS}
    return [head[1]] if own else []


def _indicated(
    path: Path, table: Sequence[Sequence[str]], columns: Sequence[str]
) -> list[tuple[int, str, list[str]]]:
    """Number, file and labels of each line, the header first, of a table with a column for each category."""
    (start, head), *others = [(i, row) for i, row in enumerate(table, start=1) if any(row)]
    twice = [name for k, name in enumerate(columns) if name in columns[:k]]
    if twice or "" in columns:
        what = f"two columns are called '{twice[0]}'" if twice else "a column has no name"
        raise DataError(f"{path}: line {start}: {what}; give each category a column")
    found = [(start, head[0], list(columns))]
    for i, row in others:
        for name, cell in zip(columns, row[1:], strict=True):
            if cell.lower() not in INDICATORS:
                raise DataError(
                    f"{path}: line {i}: '{cell[:40]}' in the column '{name}' is not 0 or 1; write 1 if the photo "
                    "has this category, else 0"
                )
        if not row[0]:
            raise DataError(f"{path}: line {i}: has no file; name the photo")
        labels = [name for name, cell in zip(columns, row[1:], strict=True) if INDICATORS[cell.lower()]]
        found.append((i, row[0], labels))
    return found


def _split_column(cells: Sequence[Sequence[str]], is_photo: Callable[[str], bool]) -> int | None:
    """The column of splits, if the first line is a header of three or more cells that names it."""
    head = next((row for row in cells if any(row)), ())
    names = [cell.lower() for cell in head]
    if len(names) < 3 or "split" not in names[1:] or _like_photo(head[0], is_photo):
        return None
    return names.index("split", 1)


def _split_of(path: Path, line: int, row: Sequence[str], column: int | None) -> str | None:
    """The split that a line gives: train, val, test or none."""
    if column is None or len(row) < 3 or not row[column]:
        return None
    split = SPLITS.get(row[column].lower())
    if split is None:
        known = ", ".join(SPLITS)
        raise DataError(f"{path}: line {line}: split '{row[column][:40]}' is not known; give one of {known}")
    return split


def _without(row: list[str], column: int | None) -> list[str]:
    """The cells of a line without that of the split, if there is one."""
    return [*row[:column], *row[column + 1 :]] if column is not None and len(row) >= 3 else row


def _split(
    path: Path, text: Sequence[str], is_photo: Callable[[str], bool]
) -> tuple[str, list[list[str]], int | None]:
    """The separator, the cells of each line, and the column of official splits, if there is one."""
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
    columns = {separator: _split_column(cells, is_photo) for separator, cells in parsed.items()}
    fit = [
        separator
        for separator, cells in parsed.items()
        if any(map(any, cells)) and _fits([_without(row, columns[separator]) for row in cells], is_photo)
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
    return separator, parsed[separator], columns[separator]


def _fits(table: Sequence[Sequence[str]], is_photo: Callable[[str], bool]) -> bool:
    return all(len(row) == 2 for row in table if any(row)) or bool(_columns(table, is_photo))


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
    return not _like_photo(name, is_photo) and (name.lower() in HEADERS or bool(others and labels))


def _like_photo(name: str, is_photo: Callable[[str], bool]) -> bool:
    """Whether the first cell of a line may be a photo's name, so that the line is no header."""
    return name.lower() not in HEADERS and (name.lower().endswith(SUFFIXES) or is_photo(name))
