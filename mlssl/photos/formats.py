"""Readers for four label formats (COCO JSON, VOC XML, YOLO txt, CSV); all return the same records."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml

from mlssl.errors import DataError


@dataclass(frozen=True)
class Thing:
    """One labelled object."""

    category: int
    """Index of its category, from 0."""
    box: tuple[float, float, float, float] | None
    """x, y, width, height, in pixels or as fractions of the image's sides; None: the entire image."""
    segmentation: Any = field(default_factory=list)
    """COCO's format, in the units of the box; an empty list if there is no mask."""
    crowd: bool = False
    area: float | None = None


@dataclass(frozen=True)
class Labelled:
    """The labels of one photo."""

    where: str
    """File and position in it, for messages."""
    things: list[Thing]
    size: tuple[int, int] | None = None
    """Width and height of the image that the boxes refer to, if the labels record them."""
    shares: bool = False
    """Whether boxes and polygons are fractions of the image's sides instead of pixels."""


@dataclass(frozen=True)
class Entry:
    """The labels of one photo, and the names by which to find the photo."""

    names: tuple[str, ...]
    """Paths, the most reliable first; with one label file per photo, that file's path (its suffix differs)."""
    labelled: Labelled


@dataclass(frozen=True)
class Told:
    """The content of one label file or folder."""

    format: str
    categories: list[tuple[str, Any]]
    """Name and original id of each category."""
    entries: list[Entry]


def read_coco(path: Path) -> Told:
    """COCO's instances JSON; ids may have gaps."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({error}); write it again") from None
    content = content if isinstance(content, dict) else {}
    rows = {}
    for key in ("images", "annotations", "categories"):
        rows[key] = content.get(key)
        if not isinstance(rows[key], list) or not all(isinstance(row, dict) for row in rows[key]):
            raise DataError(f"{path}: key '{key}' is missing or no list of records; give COCO's instances JSON")
    categories = _by_id(path, "categories", rows["categories"], "name")
    images = _by_id(path, "images", rows["images"], "file_name")
    place = {id_: i for i, id_ in enumerate(sorted(categories))}
    things: dict[int, list[Thing]] = {id_: [] for id_ in images}
    for i, row in enumerate(rows["annotations"]):
        where = f"{path}: annotations[{i}]"
        for key, known in (("image_id", images), ("category_id", categories)):
            if not _is_integer(row.get(key)) or row[key] not in known:
                raise DataError(
                    f"{where} has {key} {_shown(row.get(key))}, which is not listed; correct or remove it"
                )
        box = _box(row.get("bbox"), f"{where}, key 'bbox'")
        shape = _segmentation(row.get("segmentation"), f"{where}, key 'segmentation'")
        area = None if row.get("area") is None else _number(row["area"], f"{where}, key 'area'")
        things[row["image_id"]].append(Thing(place[row["category_id"]], box, shape, bool(row.get("iscrowd")), area))
    entries = []
    for id_, image in images.items():
        where, size = f"{path}: image {id_} ('{image['file_name']}')", (image.get("width"), image.get("height"))
        if size != (None, None) and not all(_is_integer(side) and side > 0 for side in size):
            raise DataError(
                f"{where} has width {_shown(size[0])}, height {_shown(size[1])}; give its size in pixels"
            )
        labelled = Labelled(where, things[id_], None if size == (None, None) else size)
        entries.append(Entry((image["file_name"],), labelled))
    return Told("COCO JSON", [(categories[id_]["name"], id_) for id_ in sorted(categories)], entries)


def read_voc(folder: Path, files: Sequence[Path]) -> Told:
    """Pascal VOC's XML, one file per photo. Pixels count from 1 and the last is included; difficult means crowd."""
    records, names = [], set()
    for path in files:
        try:
            root = ElementTree.parse(path, ElementTree.XMLParser(target=_Plain())).getroot()
        except (ElementTree.ParseError, LookupError, ValueError) as error:
            raise DataError(f"{path}: not plain, valid XML ({error}); write it again") from None
        size = tuple(root.findtext(f"size/{side}", "").strip() for side in ("width", "height"))
        if size not in (("", ""), ("0", "0")) and not all(side.isdecimal() and int(side) for side in size):
            raise DataError(f"{path}: size is '{size[0]}' x '{size[1]}'; give width and height in pixels")
        boxes = []
        for i, row in enumerate(root.findall("object")):
            where, name = f"{path}: object {i + 1}", row.findtext("name", "").strip()
            if not name:
                raise DataError(f"{where} has no name; give it one")
            edges = [
                _number(row.findtext(f"bndbox/{edge}"), f"{where} ('{name}'), {edge}")
                for edge in ("xmin", "ymin", "xmax", "ymax")
            ]
            x, y = max(edges[0] - 1, 0.0), max(edges[1] - 1, 0.0)
            if edges[2] < x or edges[3] < y:
                raise DataError(f"{where} ('{name}') has bndbox {edges}; give xmax >= xmin and ymax >= ymin")
            boxes.append((name, (x, y, edges[2] - x, edges[3] - y), row.findtext("difficult", "").strip() == "1"))
            names.add(name)
        file_name = root.findtext("filename", "").strip()
        aliases = (path.relative_to(folder).as_posix(), *([file_name] if file_name else []))
        records.append(
            (aliases, path, boxes, None if not all(size) or "0" in size else (int(size[0]), int(size[1])))
        )
    place = {name: i for i, name in enumerate(sorted(names))}
    entries = [
        Entry(aliases, Labelled(str(path), [Thing(place[n], box, crowd=crowd) for n, box, crowd in boxes], size))
        for aliases, path, boxes, size in records
    ]
    return Told("VOC XML", [(name, name) for name in sorted(names)], entries)


def read_yolo(folder: Path, files: Sequence[Path]) -> Told:
    """YOLO txt: `class x y width height` as fractions of the image, (x, y) the centre, or + score; or a polygon."""
    names = _yolo_names(folder)
    entries = []
    for path in files:
        things = []
        for i, line in enumerate(_lines(path), start=1):
            words, where = line.split(), f"{path}: line {i}"
            if not words:
                continue
            if not words[0].isdecimal() or int(words[0]) >= len(names):
                raise DataError(
                    f"{where}: class '{words[0][:40]}' is not in 0 to {len(names) - 1}; add its name or fix it"
                )
            values = [_number(word, f"{where}: value") for word in words[1:]]
            if len(values) in (4, 5):
                x, y, w, h = values[:4]
                box, shape = (x - w / 2, y - h / 2, w, h), []
            elif len(values) >= 6 and len(values) % 2 == 0:
                xs, ys = values[::2], values[1::2]
                box, shape = (min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)), [values]
            else:
                raise DataError(
                    f"{where}: {len(words)} values; give the class and 4 box values, or 3 or more points"
                )
            if not all(-0.01 <= value <= 1.01 for value in (values[:4] if not shape else values)):
                raise DataError(
                    f"{where}: '{line[:60]}' is not in 0 to 1; divide the coordinates by the image size"
                )
            things.append(Thing(int(words[0]), box, shape))
        alias = path.relative_to(folder).as_posix()
        entries.append(Entry((alias,), Labelled(str(path), things, shares=True)))
    return Told("YOLO txt", [(name, i) for i, name in enumerate(names)], entries)


def read_csv(path: Path) -> Told:
    """`file,label;label` per line, header optional, no boxes. Lines of a file add up; an empty cell: no label."""
    rows: dict[str, tuple[int, list[str]]] = {}
    lines = _lines(path)
    for i, row in enumerate(csv.reader(lines), start=1):
        cells = [cell.strip() for cell in row]
        if not any(cells) or (i == 1 and cells[0].lower() in ("file", "filename", "file_name", "image", "path")):
            continue
        if len(cells) != 2 or not cells[0]:
            raise DataError(
                f"{path}: line {i} has {len(cells)} cells ('{','.join(cells)[:60]}'); write file,label;label"
            )
        labels = rows.setdefault(cells[0], (i, []))[1]
        labels += [label for label in map(str.strip, cells[1].split(";")) if label and label not in labels]
    names = sorted({label for _, labels in rows.values() for label in labels})
    place = {name: i for i, name in enumerate(names)}
    entries = [
        Entry((file,), Labelled(f"{path}: line {i}", [Thing(place[label], None) for label in labels]))
        for file, (i, labels) in rows.items()
    ]
    return Told("CSV", [(name, name) for name in names], entries)


class _Plain(ElementTree.TreeBuilder):
    """Rejects a document type (DOCTYPE), so that no entity can expand or open a file."""

    def doctype(self, *_: Any) -> None:
        raise ValueError("it has a DOCTYPE, which may define entities; remove it")


def _yolo_names(folder: Path) -> list[str]:
    """Class names from classes.txt or data.yaml, in the labels' folder or up to two levels above it."""
    for place in (folder, *folder.resolve().parents[:2]):
        if (place / "classes.txt").is_file():
            path = place / "classes.txt"
            names: Any = [line.strip() for line in _lines(path) if line.strip()]
        elif (place / "data.yaml").is_file():
            path = place / "data.yaml"
            try:
                content = yaml.safe_load("\n".join(_lines(path)))
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


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None


def _by_id(path: Path, key: str, rows: list[dict], name: str) -> dict[int, dict]:
    """The records by their ids; DataError if an id or a name is missing or duplicated."""
    records: dict[int, dict] = {}
    names: set[str] = set()
    for i, row in enumerate(rows):
        where = f"{path}: {key}[{i}]"
        if not _is_integer(row.get("id")) or row["id"] in records:
            raise DataError(f"{where} has id {_shown(row.get('id'))}; give each a unique integer")
        if not isinstance(row.get(name), str) or not row[name].strip() or row[name] in names:
            raise DataError(f"{where} has {name} {_shown(row.get(name))}; give each a unique {name}")
        records[row["id"]] = row
        names.add(row[name])
    return records


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any, where: str) -> float:
    try:
        number = math.nan if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{where} is {_shown(value)}; give a number")
    return number


def _box(value: Any, where: str) -> tuple[float, float, float, float]:
    if not isinstance(value, list) or len(value) != 4:
        raise DataError(f"{where} is {_shown(value)}; give [x, y, width, height]")
    x, y, w, h = (_number(v, where) for v in value)
    if w < 0 or h < 0:
        raise DataError(f"{where} is {_shown(value)}; width and height must not be negative")
    return x, y, w, h


def _segmentation(value: Any, where: str) -> Any:
    """A checked list of polygons or run-length code; `placed` compares its size with the image's."""
    if value is None or value == [] or value == {}:
        return []
    if isinstance(value, list) and all(isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0 for p in value):
        return [[_number(v, where) for v in polygon] for polygon in value]
    if isinstance(value, dict) and isinstance(value.get("size"), list) and len(value["size"]) == 2:
        counts, size = value.get("counts"), value["size"]
        if all(_is_integer(v) and v > 0 for v in size):
            if isinstance(counts, str) and counts and counts.isascii():
                return {"size": size, "counts": counts}
            valid = isinstance(counts, list) and all(_is_integer(v) and v >= 0 for v in counts)
            if valid and sum(counts) == size[0] * size[1]:
                return {"size": size, "counts": counts}
    raise DataError(
        f"{where} is {_shown(value)}; give polygons of 3 or more points, or run lengths that fill the image"
    )


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
