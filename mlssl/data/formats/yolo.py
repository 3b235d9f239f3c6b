"""Read YOLO's label files, one txt per image. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mlssl.data.formats.text import lines, number
from mlssl.errors import DataError

BEYOND = 0.01
"""Fraction of a side by which a coordinate may leave 0 to 1, because tools round."""


@dataclass(frozen=True)
class YoloObject:
    """One line; all coordinates are fractions of the image's sides."""

    category: int
    """Class index, from 0."""
    box: tuple[float, float, float, float]
    """x, y of the upper left corner, width, height."""
    polygon: list[float] | None
    """x1, y1, x2, y2, …; None if the line gives a box."""


def read_yolo(path: Path, classes: int) -> list[YoloObject]:
    """Read a label file: per line a class from 0 to `classes` - 1, and a box or a polygon.

    Coordinates are fractions of the image's sides, from 0 to 1, with a tolerance of `BEYOND`. A box is
    `x y width height`, (x, y) its centre; a score may follow and is not used. A polygon has 3 or more points.
    Raises DataError, with file, line, value and remedy, for anything else.
    """
    objects = []
    for i, line in enumerate(lines(path), start=1):
        words, where = line.split(), f"{path}: line {i}"
        if not words:
            continue
        if not words[0].isdecimal() or int(words[0]) >= classes:
            raise DataError(
                f"{where}: class '{words[0][:40]}' is not in 0 to {classes - 1}; add its name or correct it"
            )
        values = [number(word, f"{where}: value") for word in words[1:]]
        is_box, is_polygon = len(values) in (4, 5), len(values) >= 6 and len(values) % 2 == 0
        if not is_box and not is_polygon:
            raise DataError(f"{where}: {len(words)} values; give the class and 4 box values, or 3 or more points")
        if not all(-BEYOND <= value <= 1 + BEYOND for value in (values[:4] if is_box else values)):
            raise DataError(f"{where}: '{line[:60]}' is not in 0 to 1; divide the coordinates by the image size")
        if is_box:
            x, y, w, h = values[:4]
            objects.append(YoloObject(int(words[0]), (x - w / 2, y - h / 2, w, h), None))
        else:
            xs, ys = values[::2], values[1::2]
            box = (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
            objects.append(YoloObject(int(words[0]), box, values))
    return objects


def read_classes(folder: Path) -> list[str]:
    """Class names from classes.txt or data.yaml, in the labels' folder or up to two levels above it.

    Raises DataError if neither file exists, or the names are not unique strings.
    """
    for place in (folder, *folder.resolve().parents[:2]):
        if (place / "classes.txt").is_file():
            path = place / "classes.txt"
            names: Any = [line.strip() for line in lines(path) if line.strip()]
        elif (place / "data.yaml").is_file():
            path = place / "data.yaml"
            try:
                content = yaml.safe_load("\n".join(lines(path)))
            except yaml.YAMLError as error:
                raise DataError(f"{path}: not valid YAML ({str(error).splitlines()[0]}); write it again") from None
            names = content.get("names") if isinstance(content, dict) else None
            if isinstance(names, dict) and set(names) == set(range(len(names))):
                names = [names[i] for i in range(len(names))]
        else:
            continue
        if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
            raise DataError(f"{path}: lists no class names; list the names of classes 0, 1, …")
        if len(set(names)) < len(names):
            raise DataError(f"{path}: two classes have the same name; give each its own name")
        return names
    raise DataError(
        f"{folder}: has YOLO txt files but no classes.txt or data.yaml; write classes.txt with one name per line"
    )
