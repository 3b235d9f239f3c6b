"""Labels of photos: read any supported format, match photos by file name, convert to pixels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from mlssl.data.formats.splits import of_folders
from mlssl.data.layout import annotation
from mlssl.data.semantic import Classes
from mlssl.errors import DataError
from mlssl.photos.formats import Entry, LabelFile, PhotoLabels, from_coco, from_csv, from_voc, from_yolo
from mlssl.photos.image_labels import from_images

MAX_MISSING = 0.1
"""Maximum share of labels without a photo; more suggest a wrong folder."""


@dataclass(frozen=True)
class Labels:
    """Labels matched to their photos."""

    format: str
    categories: list[tuple[str, Any]]
    """Name and original id of each; its position, from 1, is its id in the dataset."""
    photos: dict[str, PhotoLabels]
    """By the photo's path in the folder of photos."""
    missing: list[str]
    """A sentence on each label whose photo is missing or ambiguous."""
    exclusive: bool = False
    """Whether each photo has exactly one category."""
    classes: Classes | None = None
    """The classes of semantic masks, if the labels are masks."""
    splits: dict[str, str] = field(default_factory=dict)
    """Photo -> its official split (train, val or test), also of photos without labels; empty if there is none."""


def read_labels(
    path: Path | str, names: Iterable[str], *, max_missing: float = MAX_MISSING, folder: Path | None = None
) -> Labels:
    """Read labels and find the photo of each among `names`, paths with `/` below the folder of photos.

    `path` is COCO's JSON, a CSV of `file,label;label`, a folder with VOC's XML or YOLO's txt files at any depth,
    the folder of the photos itself, whose folders are the classes, or a folder of semantic masks; the content
    decides the format. `folder` is the folder of the photos. Splits are official if the labels give them, or if all
    labelled photos are in folders named train and val or test. A photo is found by its relative path, with or
    without suffix, else by its file name, else by its stem, if that is unique. Raises DataError with file,
    position, value and remedy; also if more than the share `max_missing` of the labels match no photo.
    """
    path, names = Path(path), list(names)
    content = read_label_file(path, names, folder)
    if not content.categories:
        raise DataError(f"{path}: has no category; label at least one object, or import without labels")
    found, missing = find_photos(content, names)
    if not found or len(missing) > max_missing * len(content.entries):
        first = f"; the first: {missing[0]}" if missing else ""
        raise DataError(
            f"{path}: {len(missing):,} of {len(content.entries):,} labelled photos are not found{first}; "
            "correct the names, remove these labels, or give the folder they are relative to"
        )
    splits = content.splits | {name: labels.split for name, labels in found.items() if labels.split}
    if not splits and (by_folder := of_folders(found)):
        splits = by_folder[0]
    return Labels(content.format, content.categories, found, missing, content.exclusive, content.classes, splits)


def read_label_file(path: Path, names: Sequence[str] = (), folder: Path | None = None) -> LabelFile:
    """Read a label file or folder in the format that its content has; `folder` has the photos `names`."""
    try:
        if path.is_dir():
            if (content := from_images(path, names, folder)) is not None:
                return content
            files = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
            xml = [p for p in files if p.suffix.lower() == ".xml"]
            txt = [p for p in files if p.suffix.lower() == ".txt" and p.name != "classes.txt"]
            if bool(xml) == bool(txt):
                both = "both XML and txt files" if xml else "neither XML nor txt files"
                raise DataError(
                    f"{path}: has {both}; give a folder of VOC XML or YOLO txt files, or a JSON or CSV file"
                )
            return from_voc(path, xml) if xml else from_yolo(path, txt)
        with open(path, "rb") as handle:
            head = handle.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
        return from_coco(path) if head[:1] in (b"{", b"[") else from_csv(path)
    except FileNotFoundError as error:
        raise DataError(f"{error.filename}: no such file; give an existing file or folder of labels") from None
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror}); make it readable") from None


def find_photos(content: LabelFile, names: list[str]) -> tuple[dict[str, PhotoLabels], list[str]]:
    """Match labels to photos, the most reliable names first.

    Returns labels by photo, and a sentence per unmatched entry. Raises DataError if two entries have the same path.
    """
    unmatched = list(content.entries)
    found: dict[str, PhotoLabels] = {}
    for key in (str, _without_suffix, _file_name, _stem):
        by_key: dict[str, list[str]] = defaultdict(list)
        matches: dict[str | None, list[Entry]] = defaultdict(list)
        for name in names:
            if name not in found:
                by_key[key(name)].append(name)
        for entry in unmatched:
            hits = (by_key.get(key(_plain(alias)), []) for alias in entry.names)
            matches[next((hit[0] for hit in hits if len(hit) == 1), None)].append(entry)
        for match, entries in matches.items():
            if match is not None and len(entries) > 1 and key is str:
                raise DataError(
                    f"{entries[1].labels.where}: '{match}' is labelled a second time, after "
                    f"{entries[0].labels.where}; remove one"
                )
            if match is not None and len(entries) == 1:
                found[match] = entries[0].labels
        taken = {id(labels) for labels in found.values()}
        unmatched = [entry for entry in unmatched if id(entry.labels) not in taken]
    return found, [
        f"{entry.labels.where}: no photo, or several, are named '{entry.names[-1]}'" for entry in unmatched
    ]


def placed(labels: PhotoLabels, width: int, height: int) -> list[dict[str, Any]]:
    """COCO annotations in pixels, without ids, for a photo of width x height; category ids from 1.

    Boxes are clipped to the image; one without area is left out. Raises DataError for a box outside the image.
    """
    across, down = (width, height) if labels.fractions else (1, 1)
    made = []
    for found in labels.objects:
        if found.box is None:
            made.append(annotation(found.category + 1, (0, 0, width, height)))
            continue
        x, y, w, h = (v * s for v, s in zip(found.box, (across, down, across, down), strict=True))
        if w <= 0 or h <= 0:
            continue
        x1, y1, x2, y2 = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
        if x1 >= x2 or y1 >= y2:
            shown = ", ".join(f"{v:g}" for v in (x, y, w, h))
            raise DataError(
                f"{labels.where}: box x, y, width, height = {shown} is outside the image of {width} x "
                f"{height} pixels; correct or remove it"
            )
        shape = found.segmentation
        if isinstance(shape, dict) and shape["size"] != [height, width]:
            raise DataError(
                f"{labels.where}: a segmentation has size {shape['size']}, the image has height {height}, "
                f"width {width}; correct or remove it"
            )
        if labels.fractions:
            shape = [[v * (height if i % 2 else width) for i, v in enumerate(polygon)] for polygon in shape]
        area = None if (x1, y1, x2, y2) != (x, y, x + w, y + h) else found.area
        made.append(
            annotation(
                found.category + 1, (x1, y1, x2 - x1, y2 - y1), segmentation=shape, crowd=found.crowd, area=area
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
