"""Labels of photos in four formats (COCO JSON, VOC XML, YOLO txt, CSV), converted to the same records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mlssl.data.formats.classes import Classes
from mlssl.data.formats.coco import read_coco
from mlssl.data.formats.csv import read_csv
from mlssl.data.formats.voc import read_voc
from mlssl.data.formats.yolo import read_yolo
from mlssl.data.semantic import SemanticClasses
from mlssl.errors import DataError


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
    said: str | None = None
    """The name that the content of a photo's own label file gives, such as VOC's `filename`."""


@dataclass(frozen=True)
class LabelFile:
    """The content of one label file or folder."""

    format: str
    categories: list[tuple[str, Any]]
    """Name and original id of each category."""
    entries: list[Entry]
    exclusive: bool = False
    """Whether each photo has exactly one category."""
    classes: SemanticClasses | None = None
    """The classes of semantic masks, if the labels are masks."""
    splits: dict[str, str] = field(default_factory=dict)
    """The official split of photos without labels, by path."""
    notes: list[str] = field(default_factory=list)
    """A sentence on each thing that was not read, or read as something that may surprise."""


def from_coco(path: Path, folder: Path | None = None) -> LabelFile:
    """COCO's instances JSON; see `read_coco` with `strict=False`.

    `folder`: file names may be relative to the JSON's own place below it.
    """
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
        names: tuple[str, ...] = (image["file_name"],)
        if folder is not None and path.parent != folder:
            names = (f"{path.parent.relative_to(folder).as_posix()}/{names[0]}", *names)
        entries.append(Entry(names, PhotoLabels(where, objects[image["id"]], size)))
    return LabelFile("COCO JSON", [(category["name"], category["id"]) for category in categories], entries)


def from_cocos(folder: Path, files: Sequence[Path]) -> LabelFile:
    """Several of COCO's instances JSON as one; categories of the same name are one category.

    Raises DataError if they give a category different ids.
    """
    read = [from_coco(path, folder) for path in files]
    ids: dict[str, Any] = {}
    for path, content in zip(files, read, strict=True):
        for name, id_ in content.categories:
            if ids.setdefault(name, id_) != id_:
                raise DataError(
                    f"{path}: category '{name}' has id {id_}, another file of {folder} gives it id {ids[name]}; "
                    "use one list of categories"
                )
    names = sorted(ids, key=lambda name: ids[name])
    position = {name: i for i, name in enumerate(names)}
    entries = []
    for content in read:
        to = [position[name] for name, _ in content.categories]
        for entry in content.entries:
            objects = [replace(o, category=to[o.category]) for o in entry.labels.objects]
            entries.append(replace(entry, labels=replace(entry.labels, objects=objects)))
    return LabelFile("COCO JSON", [(name, ids[name]) for name in names], entries)


def from_voc(folder: Path, files: Sequence[Path]) -> LabelFile:
    """Pascal VOC's XML, one file per photo; see `read_voc`. A difficult object becomes a crowd."""
    read = {path: read_voc(path) for path in files}
    names = sorted({o.name for image in read.values() for o in image.objects})
    position = {name: i for i, name in enumerate(names)}
    entries = []
    for path, image in read.items():
        objects = [LabelledObject(position[o.name], o.box, crowd=o.difficult) for o in image.objects]
        alias = path.relative_to(folder).as_posix()
        entries.append(Entry((alias,), PhotoLabels(str(path), objects, image.size), said=image.file_name))
    return LabelFile("VOC XML", [(name, name) for name in names], entries)


def from_yolo(folder: Path, files: Sequence[Path], classes: Classes) -> LabelFile:
    """YOLO's txt, one file per photo; see `read_yolo`. `labels` in a path may be `images` for the photo."""
    position, entries = {id_: i for i, id_ in enumerate(classes.names)}, []
    for path, found in read_yolo(files, classes).items():
        objects = [
            LabelledObject(position[o.category], o.box, [] if o.polygon is None else [o.polygon]) for o in found
        ]
        alias = path.relative_to(folder).as_posix()
        parts = alias.split("/")
        if "labels" in parts[:-1]:
            at = len(parts) - 1 - parts[::-1].index("labels")
            names: tuple[str, ...] = ("/".join([*parts[:at], "images", *parts[at + 1 :]]), alias)
        else:
            names = (alias,)
        entries.append(Entry(names, PhotoLabels(str(path), objects, fractions=True)))
    return LabelFile("YOLO txt", [(name, id_) for id_, name in classes.names.items()], entries)


def from_csv(path: Path, is_photo: Callable[[str], bool]) -> LabelFile:
    """Image-level labels, no boxes; see `read_csv`."""
    table = read_csv(path, is_photo)
    names = sorted({label for _, labels in table.rows.values() for label in labels} | set(table.columns))
    position = {name: i for i, name in enumerate(names)}
    entries = []
    for file, (line, labels) in table.rows.items():
        objects = [LabelledObject(position[label], None) for label in labels]
        entries.append(Entry((file,), PhotoLabels(f"{path}: line {line}", objects, split=table.splits.get(file))))
    notes = [] if table.header is None else [f"{path.name}: its first line '{table.header}' is a header, no photo"]
    if table.columns:
        shown = ", ".join(table.columns[:5]) + (", …" if len(table.columns) > 5 else "")
        notes.append(f"{path.name}: its cells of 0 and 1 say which photos have {shown}; they are no labels")
    return LabelFile("CSV", [(name, name) for name in names], entries, table.exclusive, notes=notes)
