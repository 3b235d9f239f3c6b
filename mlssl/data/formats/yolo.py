"""Read YOLO's label files, one txt per image. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlssl.data.formats.classes import Classes
from mlssl.data.formats.foreign import foreign_row
from mlssl.data.formats.text import integer, lines, number
from mlssl.errors import DataError

BEYOND = 0.01
"""Fraction of a side by which a coordinate may leave 0 to 1, because tools round."""


@dataclass(frozen=True)
class YoloObject:
    """One line; all coordinates are fractions of the image's sides."""

    category: int
    """Class id, from 0."""
    box: tuple[float, float, float, float]
    """x, y of the upper left corner, width, height."""
    polygon: list[float] | None
    """x1, y1, x2, y2, …; None if the line gives a box."""


@dataclass(frozen=True)
class Row:
    """One line, not yet understood."""

    where: str
    """File and line, for messages."""
    text: str
    category: int
    values: list[float]
    """All finite."""

    def refuse(self, why: str) -> DataError:
        shown = self.text if len(self.text) <= 100 else f"{self.text[:97]}…"
        return DataError(f"{self.where}: '{shown}' {why}")


def read_yolo(files: Iterable[Path], classes: Classes) -> dict[Path, list[YoloObject]]:
    """The objects of each file. A line is a class id and 4 or more values, fractions of the image's sides:

    - 4: `x y width height` of a box, (x, y) its centre. 5: a score, or the id of a track (an integer), follows.
    - 6: a score and the id of a track follow, if the ids say so: in one line of the data set at least, the last
      value is an integer above 1. Otherwise 3 points, unless the line could be both, which is refused.
    - 8 or more, an even number: a polygon. Lines that look like a pose without `kpt_shape` are refused.
    - With `kpt_shape`: a box and its keypoints, which are not used; a score and an id may follow.

    Coordinates are from 0 to 1, with a tolerance of `BEYOND`; scores from 0 to 1. Raises DataError, with file,
    line, value and remedy, for anything else.
    """
    rows = {path: read_rows(path, classes) for path in files}
    every = [row for found in rows.values() for row in found]
    tracked = any(_has_id(row.values) and row.values[5] > 1 for row in every if len(row.values) == 6)
    if not classes.keypoints:
        refuse_pose([row for row in every if len(row.values) > 6])
    return {path: [_object(row, classes.keypoints, tracked) for row in found] for path, found in rows.items()}


def read_rows(path: Path, classes: Classes) -> list[Row]:
    """The lines of a file; DataError for an unknown class, a value that is no number, and another format."""
    rows: list[Row] = []
    known: dict[str, int] = {}
    for i, line in enumerate(map(str.strip, lines(path)), start=1):
        words = line.split()
        if not words:
            continue
        where = f"{path}: line {i}"
        try:
            values = [float(word) for word in words[1:]]
        except ValueError:
            values = [math.nan]
        if len(words) == 10 or words[0] not in known or not all(map(math.isfinite, values)):
            kind = foreign_row(words)
            if kind is not None:
                raise DataError(f"{where}: this is {kind}; export VOC, YOLO or COCO")
            known[words[0]] = classes.of(words[0], where)
            values = [number(word, f"{where}: value") for word in words[1:]]
        rows.append(Row(where, line, known[words[0]], values))
    return rows


def looks_like_yolo(path: Path) -> bool:
    """Whether the first line that is not empty begins with an integer and has 4 or more further numbers."""
    try:
        words = next((line.split() for line in lines(path) if line.strip()), [])
        return len(words) >= 5 and integer(words[0]) is not None and all(math.isfinite(float(w)) for w in words)
    except (DataError, ValueError):
        return False


def _object(row: Row, keypoints: int, tracked: bool) -> YoloObject:
    n, values = len(row.values), row.values
    if keypoints:
        if n not in (4, 4 + keypoints, 5 + keypoints, 6 + keypoints):
            raise row.refuse(
                f"has {n} values after the class, kpt_shape wants {4 + keypoints}; correct one of them"
            )
        return _box(row)
    if n == 4:
        return _box(row)
    if n == 5:
        if not (0 <= values[4] <= 1 or _is_id(values[4])):
            raise row.refuse("has a fifth value that is neither a score from 0 to 1 nor an id; remove it")
        return _box(row)
    if n == 6:
        if tracked and not _has_id(values):
            raise row.refuse("has no score and id after its box, as other lines have; correct or remove it")
        if tracked:
            return _box(row)
        if _has_id(values) and _is_inside(values):
            raise row.refuse(
                "is a box with score and id, or 3 points; remove score and id, or repeat the polygon's first point"
            )
    if n < 6 or n % 2:
        raise DataError(
            f"{row.where}: {n + 1} values ('{row.text[:60]}'); give the class and 4 box values, or 3 or more points"
        )
    return _polygon(row)


def _box(row: Row) -> YoloObject:
    x, y, w, h = _in_image(row, row.values[:4])
    return YoloObject(row.category, (x - w / 2, y - h / 2, w, h), None)


def _polygon(row: Row) -> YoloObject:
    values = _in_image(row, row.values)
    xs, ys = values[::2], values[1::2]
    box = (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
    return YoloObject(row.category, box, values)


def _in_image(row: Row, values: list[float]) -> list[float]:
    if not all(-BEYOND <= value <= 1 + BEYOND for value in values):
        raise row.refuse("is not in 0 to 1; divide the coordinates by the image size")
    return values


def _is_id(value: float) -> bool:
    return value >= 0 and value.is_integer()


def _has_id(values: Sequence[float]) -> bool:
    """Whether 6 values can end in a score and the id of a track."""
    return 0 <= values[4] <= 1 and _is_id(values[5])


def _is_inside(values: Sequence[float]) -> bool:
    """Whether the first 4 values can be a box with an area, inside the image."""
    x, y, w, h = values[:4]
    edges = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
    return w > 0 and h > 0 and all(-BEYOND <= edge <= 1 + BEYOND for edge in edges)


def refuse_pose(rows: Sequence[Row]) -> None:
    """DataError if rows are boxes followed by keypoints: all have one length, all points after the first 4 values
    are inside the box that these give (or 0, 0), and drawn as a polygon, one of them crosses itself."""
    if not rows or len({len(row.values) for row in rows}) > 1 or len(rows[0].values) < 8:
        return
    for step in (2, 3):
        n = len(rows[0].values) - 4
        if n % step == 0 and all(_is_pose(row.values, step) for row in rows):
            # A third value is a visibility: 0, 1 or 2. Polygons have no such column.
            crossed = rows[0] if step == 3 else next((row for row in rows[:100] if crosses(row.values)), None)
            if crossed is not None:
                raise crossed.refuse("is a box with keypoints, not a polygon; write their kpt_shape in data.yaml")


def _is_pose(values: Sequence[float], step: int) -> bool:
    if not _is_inside(values):
        return False
    x, y, w, h = values[:4]
    points = list(zip(values[4::step], values[5::step], strict=True))
    near = all(abs(px - x) <= w / 2 + BEYOND and abs(py - y) <= h / 2 + BEYOND for px, py in points if px or py)
    return near and (step == 2 or all(value in (0, 1, 2) for value in values[6::3]))


def crosses(values: Sequence[float]) -> bool:
    """Whether two sides of a closed polygon cross, other than at a shared corner."""
    points = list(zip(values[::2], values[1::2], strict=True))
    sides = list(zip(points, points[1:] + points[:1], strict=True))

    def turn(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> float:
        return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])

    return any(
        turn(a, b, c) * turn(a, b, d) < 0 and turn(c, d, a) * turn(c, d, b) < 0
        for i, (a, b) in enumerate(sides)
        for c, d in sides[i + 2 :]
    )
