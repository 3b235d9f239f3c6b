"""Labels of photos: read any supported format, match photos by file name, convert to pixels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlssl.data.formats.coco import is_mask
from mlssl.data.formats.splits import of_folders
from mlssl.data.layout import annotation
from mlssl.data.semantic import SemanticClasses
from mlssl.errors import DataError
from mlssl.photos.discover import read_label_file
from mlssl.photos.formats import PhotoLabels
from mlssl.photos.image_labels import masks_among
from mlssl.photos.matching import Names, find_photos

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
    notes: list[str]
    """A sentence on each thing that was not read, or read as something that may surprise."""
    own: dict[str, str] = field(default_factory=dict)
    """Images in the folder of photos that are semantic masks of these labels, and no photos -> the photo's name."""
    exclusive: bool = False
    """Whether each photo has exactly one category."""
    classes: SemanticClasses | None = None
    """The classes of semantic masks, if the labels are masks."""
    splits: dict[str, str] = field(default_factory=dict)
    """Photo -> its official split (train, val or test), also of photos without labels; empty if there is none."""


def read_labels(
    path: Path | str, names: Iterable[str], *, max_missing: float = MAX_MISSING, folder: Path | None = None
) -> Labels:
    """Read labels and find the photo of each among `names`, paths with `/` below the folder of photos.

    `path` is COCO's JSON, a CSV of `file,label;label`, a folder with VOC's XML, YOLO's txt files or COCO's JSON at
    any depth, the data.yaml of such a folder, the folder of the photos itself, whose folders are the classes, or a
    folder of semantic masks; the content decides the format (see `read_label_file`). `folder` is the folder of the
    photos. Splits are official if the labels give them, or if all labelled photos are in folders named train and
    val or test. How a photo is found: see `find_photos`. Raises DataError with file, position, value and remedy;
    also if more than the share `max_missing` of the labels match no photo.
    """
    path = Path(path)
    photos = Names(names)
    content = read_label_file(path, photos, folder)
    if not content.categories:
        raise DataError(f"{path}: has no category; label at least one object, or import without labels")
    own = masks_among(content.entries, photos.all, folder)
    found, missing = find_photos(content, Names(name for name in photos.all if name not in own) if own else photos)
    if not found or len(missing) > max_missing * len(content.entries):
        first = f"; the first: {missing[0]}" if missing else ""
        raise DataError(
            f"{path}: {len(missing):,} of {len(content.entries):,} labelled photos are not found{first}; "
            "correct the names, remove these labels, or give the folder they are relative to"
        )
    splits = content.splits | {name: labels.split for name, labels in found.items() if labels.split}
    if not splits and (by_folder := of_folders(found)):
        splits = by_folder[0]
    return Labels(
        content.format,
        content.categories,
        found,
        missing,
        content.notes,
        own,
        content.exclusive,
        content.classes,
        splits,
    )


def placed(labels: PhotoLabels, width: int, height: int) -> list[dict[str, Any]]:
    """COCO annotations in pixels, without ids, for a photo of width x height; category ids from 1.

    Boxes are clipped to the image; one without area is left out. Raises DataError for a box or a mask outside the
    image.
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
        if shape and not is_mask(shape, (width, height)):
            raise DataError(
                f"{labels.where}: a segmentation has no area inside the image of {width} x {height} pixels; "
                "correct or remove it"
            )
        area = None if (x1, y1, x2, y2) != (x, y, x + w, y + h) else found.area
        made.append(
            annotation(
                found.category + 1, (x1, y1, x2 - x1, y2 - y1), segmentation=shape, crowd=found.crowd, area=area
            )
        )
    return made
