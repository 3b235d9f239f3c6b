"""Labels of photos in four formats (COCO JSON, VOC XML, YOLO txt, CSV), converted to the same records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlssl.data.formats.coco import read_coco
from mlssl.data.formats.csv import read_csv, read_header
from mlssl.data.formats.voc import read_voc
from mlssl.data.formats.yolo import read_classes, read_yolo
from mlssl.data.semantic import Classes


@dataclass(frozen=True)
class LabelledObject:
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
class PhotoLabels:
    """The labels of one photo."""

    where: str
    """File and position in it, for messages."""
    objects: list[LabelledObject]
    size: tuple[int, int] | None = None
    """Width and height of the image that the boxes refer to, if the labels record them."""
    fractions: bool = False
    """Whether boxes and polygons are fractions of the image's sides instead of pixels."""
    split: str | None = None
    """Its official split: train, val or test."""
    mask: Path | None = None
    """Its semantic mask."""


@dataclass(frozen=True)
class Entry:
    """The labels of one photo, and the names by which to find the photo."""

    names: tuple[str, ...]
    """Paths, the most reliable first; with one label file per photo, that file's path (its suffix differs)."""
    labels: PhotoLabels


@dataclass(frozen=True)
class LabelFile:
    """The content of one label file or folder."""

    format: str
    categories: list[tuple[str, Any]]
    """Name and original id of each category."""
    entries: list[Entry]
    exclusive: bool = False
    """Whether each photo has exactly one category."""
    classes: Classes | None = None
    """The classes of semantic masks, if the labels are masks."""
    splits: dict[str, str] = field(default_factory=dict)
    """The official split of photos without labels, by path."""


def from_coco(path: Path) -> LabelFile:
    """COCO's instances JSON; see `read_coco` with `strict=False`."""
    images, categories, annotations = read_coco(path, strict=False)
    position = {category["id"]: i for i, category in enumerate(categories)}
    objects: dict[int, list[LabelledObject]] = {image["id"]: [] for image in images}
    for a in annotations:
        x, y, w, h = a["bbox"]
        mask, crowd = a.get("segmentation") or [], bool(a.get("iscrowd"))
        objects[a["image_id"]].append(
            LabelledObject(position[a["category_id"]], (x, y, w, h), mask, crowd, a.get("area"))
        )
    entries = []
    for image in images:
        where = f"{path}: image {image['id']} ('{image['file_name']}')"
        size = None if image.get("width") is None else (image["width"], image["height"])
        entries.append(Entry((image["file_name"],), PhotoLabels(where, objects[image["id"]], size)))
    return LabelFile("COCO JSON", [(category["name"], category["id"]) for category in categories], entries)


def from_voc(folder: Path, files: Sequence[Path]) -> LabelFile:
    """Pascal VOC's XML, one file per photo; see `read_voc`. A difficult object becomes a crowd."""
    read = {path: read_voc(path) for path in files}
    names = sorted({o.name for image in read.values() for o in image.objects})
    position = {name: i for i, name in enumerate(names)}
    entries = []
    for path, image in read.items():
        objects = [LabelledObject(position[o.name], o.box, crowd=o.difficult) for o in image.objects]
        aliases = (path.relative_to(folder).as_posix(), *([image.file_name] if image.file_name else []))
        entries.append(Entry(aliases, PhotoLabels(str(path), objects, image.size)))
    return LabelFile("VOC XML", [(name, name) for name in names], entries)


def from_yolo(folder: Path, files: Sequence[Path]) -> LabelFile:
    """YOLO's txt, one file per photo; see `read_yolo` and `read_classes`."""
    names, entries = read_classes(folder), []
    for path in files:
        objects = [
            LabelledObject(o.category, o.box, [] if o.polygon is None else [o.polygon])
            for o in read_yolo(path, len(names))
        ]
        alias = path.relative_to(folder).as_posix()
        entries.append(Entry((alias,), PhotoLabels(str(path), objects, fractions=True)))
    return LabelFile("YOLO txt", [(name, i) for i, name in enumerate(names)], entries)


def from_csv(path: Path) -> LabelFile:
    """Image-level labels, no boxes; see `read_csv` and `read_header`."""
    rows, header = read_csv(path), read_header(path)
    names = sorted({label for _, labels in rows.values() for label in labels})
    position = {name: i for i, name in enumerate(names)}
    entries = []
    for file, (line, labels) in rows.items():
        objects = [LabelledObject(position[label], None) for label in labels]
        split = header.splits.get(file)
        entries.append(Entry((file,), PhotoLabels(f"{path}: line {line}", objects, split=split)))
    return LabelFile("CSV", [(name, name) for name in names], entries, header.exclusive)
