"""Labels of photos: read any supported format, match photos by file name, convert to pixels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from mlssl.data.layout import annotation
from mlssl.errors import DataError
from mlssl.photos.formats import Labelled, Told, read_coco, read_csv, read_voc, read_yolo

MAX_MISSING = 0.1
"""Maximum share of labels without a photo; more suggest a wrong folder."""


@dataclass(frozen=True)
class Labels:
    """Labels matched to their photos."""

    format: str
    categories: list[tuple[str, Any]]
    """Name and original id of each; its position, from 1, is its id in the dataset."""
    photos: dict[str, Labelled]
    """By the photo's path in the folder of photos."""
    missing: list[str]
    """A sentence on each label whose photo is missing or ambiguous."""


def read_labels(path: Path | str, names: Iterable[str], *, max_missing: float = MAX_MISSING) -> Labels:
    """Read labels and find the photo of each among `names`, paths with `/` below the folder of photos.

    `path` is COCO's JSON, a CSV of `file,label;label`, or a folder with VOC's XML or YOLO's txt files at any
    depth; the content decides the format. A photo is found by its relative path, with or without suffix, else by
    its file name, else by its stem, if that is unique. Raises DataError with file, position, value and remedy;
    also if more than the share `max_missing` of the labels match no photo.
    """
    path = Path(path)
    content = read_told(path)
    if not content.categories:
        raise DataError(f"{path}: has no category; label at least one object, or import without labels")
    found, missing = find_photos(content, list(names))
    if not found or len(missing) > max_missing * len(content.entries):
        first = f"; the first: {missing[0]}" if missing else ""
        raise DataError(
            f"{path}: {len(missing):,} of {len(content.entries):,} labelled photos are not found{first}; "
            "correct the names, remove these labels, or give the folder they are relative to"
        )
    return Labels(content.format, content.categories, found, missing)


def read_told(path: Path) -> Told:
    """Read a label file or folder in the format that its content has."""
    try:
        if path.is_dir():
            files = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
            xml = [p for p in files if p.suffix.lower() == ".xml"]
            txt = [p for p in files if p.suffix.lower() == ".txt" and p.name != "classes.txt"]
            if bool(xml) == bool(txt):
                both = "both XML and txt files" if xml else "neither XML nor txt files"
                raise DataError(
                    f"{path}: has {both}; give a folder of VOC XML or YOLO txt files, or a JSON or CSV file"
                )
            return read_voc(path, xml) if xml else read_yolo(path, txt)
        with open(path, "rb") as handle:
            head = handle.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
        return read_coco(path) if head[:1] in (b"{", b"[") else read_csv(path)
    except FileNotFoundError as error:
        raise DataError(f"{error.filename}: no such file; give an existing file or folder of labels") from None
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror}); make it readable") from None


def find_photos(content: Told, names: list[str]) -> tuple[dict[str, Labelled], list[str]]:
    """Match labels to photos, the most reliable names first.

    Returns labels by photo, and a sentence per unmatched entry. Raises DataError if two entries have the same path.
    """
    open_, found, missing = list(content.entries), {}, []
    for key in (str, _without_suffix, _file_name, _stem):
        by_key, matches = defaultdict(list), defaultdict(list)
        for name in names:
            if name not in found:
                by_key[key(name)].append(name)
        for entry in open_:
            hits = (by_key.get(key(_plain(alias)), []) for alias in entry.names)
            matches[next((hit[0] for hit in hits if len(hit) == 1), None)].append(entry)
        for name, entries in matches.items():
            if name is not None and len(entries) > 1 and key is str:
                raise DataError(
                    f"{entries[1].labelled.where}: '{name}' is labelled a second time, after "
                    f"{entries[0].labelled.where}; remove one"
                )
            if name is not None and len(entries) == 1:
                found[name] = entries[0].labelled
        taken = {id(labelled) for labelled in found.values()}
        open_ = [entry for entry in open_ if id(entry.labelled) not in taken]
    for entry in open_:
        missing.append(f"{entry.labelled.where}: no photo, or several, are named '{entry.names[-1]}'")
    return found, missing


def placed(labelled: Labelled, width: int, height: int) -> list[dict[str, Any]]:
    """COCO annotations in pixels, without ids, for a photo of width x height; category ids from 1.

    Boxes are clipped to the image; one without area is left out. Raises DataError for a box outside the image.
    """
    across, down = (width, height) if labelled.shares else (1, 1)
    made = []
    for thing in labelled.things:
        if thing.box is None:
            made.append(annotation(thing.category + 1, (0, 0, width, height)))
            continue
        x, y, w, h = (v * s for v, s in zip(thing.box, (across, down, across, down), strict=True))
        if w <= 0 or h <= 0:
            continue
        x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
        if x1 >= x2 or y1 >= y2:
            shown = ", ".join(f"{v:g}" for v in (x, y, w, h))
            raise DataError(
                f"{labelled.where}: box x, y, width, height = {shown} is outside the image of {width} x "
                f"{height} pixels; correct or remove it"
            )
        shape = thing.segmentation
        if isinstance(shape, dict) and shape["size"] != [height, width]:
            raise DataError(
                f"{labelled.where}: a segmentation has size {shape['size']}, the image has height {height}, "
                f"width {width}; correct or remove it"
            )
        if labelled.shares:
            shape = [[v * (height if i % 2 else width) for i, v in enumerate(polygon)] for polygon in shape]
        area = None if (x1, y1, x2, y2) != (x, y, x + w, y + h) else thing.area
        made.append(
            annotation(
                thing.category + 1, (x1, y1, x2 - x1, y2 - y1), segmentation=shape, crowd=thing.crowd, area=area
            )
        )
    return made


def _plain(name: str) -> str:
    return name.replace("\\", "/").removeprefix("./")


def _without_suffix(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix() if PurePosixPath(name).name else name


def _file_name(name: str) -> str:
    return PurePosixPath(name).name


def _stem(name: str) -> str:
    return PurePosixPath(name).stem
