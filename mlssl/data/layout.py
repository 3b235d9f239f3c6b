"""Write a split in COCO's layout: images as links, annotations in one file. Imports no torch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from mlssl.errors import DataError
from mlssl.files import write_text

SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Picture:
    """An image and its labels, as the dataset describes it."""

    path: Path
    """Path of the source file."""
    name: str
    """File name in the split's folder, without subfolders."""
    objects: list[dict[str, Any]] | None = field(default_factory=list)
    """COCO's annotations without id and image id, category ids from 1. None: one object of category
    `category` that fills the image."""
    category: int = 0
    id: int | None = None
    """COCO's image id; None: its position in the split, from 1."""


@dataclass(frozen=True)
class Found:
    """A split, read from the official annotation files."""

    categories: list[tuple[str, str | int]]
    """Name and official id of each; its position, from 1, is its new id."""
    pictures: list[Picture]
    left_out: list[str] = field(default_factory=list)
    """A sentence on each listed image that cannot be used."""
    exclusive: bool = False
    """Whether each image has exactly one category; written into every category, as `exclusive: true`."""


def candidates(roots: Sequence[Path], relative: str) -> Iterator[Path]:
    """Existing paths `relative` below `roots`, at most two folders deep; the least deep first.

    A root with the name of the first folder of `relative` may be that folder.
    """
    first, _, rest = relative.partition("/")
    yield from (root / rest for root in roots if root.name == first and (root / rest).exists())
    for prefix in ("", "*/", "*/*/"):
        for root in roots:
            yield from sorted(root.glob(prefix + relative))


def find(roots: Sequence[Path], relative: str) -> Path:
    """The least deep of `candidates`; DataError if there is none."""
    path = next(candidates(roots, relative), None)
    if path is None:
        where = ", ".join(str(root) for root in roots) or "no folder"
        raise DataError(f"{relative}: not found in {where}; give a folder in the official layout")
    return path


def link(source: Path, target: Path, own: Path) -> None:
    """Link an image: a hard link if it is in the temporary folder `own`, else a symlink."""
    source = source.resolve()
    if source.is_relative_to(own.resolve()):
        os.link(source, target)
    else:
        os.symlink(source, target)


def write_split(out: Path, split: str, found: Found, own: Path) -> dict[str, Any]:
    """Write `out/<split>/` and `out/annotations/instances_<split>.json`; returns the counts.

    A listed image that is missing or has no readable header is left out, with a reason. `own`: see `link`.
    """
    folder, left_out = out / split, list(found.left_out)
    folder.mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for place, picture in enumerate(found.pictures, start=1):
        try:
            if picture.path.suffix.lower() not in SUFFIXES:
                raise OSError(f"the name does not end in {', '.join(SUFFIXES)}")
            with Image.open(picture.path) as image:
                width, height = image.size
        except (OSError, Image.DecompressionBombError) as error:
            left_out.append(f"{picture.path}: {error}")
            continue
        if (folder / picture.name).is_symlink() or (folder / picture.name).exists():
            left_out.append(f"{picture.path}: is listed twice, or another image has the name {picture.name}")
            continue
        link(picture.path, folder / picture.name, own)
        image_id = place if picture.id is None else picture.id
        images.append({"id": image_id, "file_name": picture.name, "height": height, "width": width})
        objects = picture.objects
        if objects is None:
            objects = [annotation(picture.category, (0, 0, width, height))]
        for values in objects:
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **values})
    if not images:
        why = f"; the first: {left_out[0]}" if left_out else ""
        raise DataError(f"{split}: none of the listed images can be used{why}")
    more = {"exclusive": True} if found.exclusive else {}
    categories = [{"id": i, "name": name, **more} for i, (name, _) in enumerate(found.categories, start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_text(out / "annotations" / f"instances_{split}.json", json.dumps(content, allow_nan=False))
    return {
        "images": len(images),
        "annotations": len(annotations),
        "left_out": len(left_out),
        "left_out_first": left_out[:20],
    }


def annotation(
    category: int, box: Sequence[float], *, segmentation: Any = (), crowd: bool = False, area: float | None = None
) -> dict[str, Any]:
    """COCO annotation without ids; `box` is x, y, width, height in pixels; without a mask, segmentation is []."""
    return {
        "category_id": category,
        "bbox": list(box),
        "area": box[2] * box[3] if area is None else area,
        "iscrowd": int(crowd),
        "segmentation": list(segmentation) if isinstance(segmentation, tuple) else segmentation,
    }
