"""COCO's instances JSON, checked before anything relies on it. Imports no torch."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from mlssl.errors import DataError

Record = dict[str, Any]


def read_annotations(path: Path) -> tuple[list[Record], list[Record], list[Record]]:
    """Images, categories and annotations of a file, all by ascending id, in COCO's own records.

    Image id 0, gaps in ids, crowds, empty boxes, boxes that reach outside and images without annotations are
    sound; an annotation without segmentation gets its box as one. Raises DataError, with file, key, value and
    remedy, for anything else that does not fit together.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; data.root must be a folder in COCO's layout") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({error}); fetch or write it again") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(f"{path}: key '{key}' is missing or no list; is this an instances file of COCO?")
    images = by_id(content["images"], path, "images")
    categories = by_id(content["categories"], path, "categories")
    for key, found in (("images", images), ("categories", categories)):
        if not found:
            raise DataError(f"{path}: key '{key}' is empty; a split needs at least one")
    for category in categories:
        if not isinstance(category.get("name"), str):
            refuse(path, f"category {category['id']}", "name", category.get("name"), "a text")
    sizes = {image["id"]: size_of(image, path) for image in images}
    annotations = by_id(content["annotations"], path, "annotations")
    known = {category["id"] for category in categories}
    for a in annotations:
        check_annotation(a, sizes, known, path)
    return images, categories, annotations


def by_id(records: Sequence[Any], path: Path, key: str) -> list[Record]:
    for i, record in enumerate(records):
        if not isinstance(record, dict) or not is_whole(record.get("id")):
            told = record.get("id") if isinstance(record, dict) else record
            refuse(path, f"{key}[{i}]", "id", told, "a record with a whole number as id")
    counts = Counter(record["id"] for record in records)
    if len(counts) < len(records):
        twice = next(id_ for id_, count in counts.items() if count > 1)
        raise DataError(f"{path}: key '{key}': id {twice} is given {counts[twice]} times; make ids differ")
    return sorted(records, key=lambda record: record["id"])


def size_of(image: Record, path: Path) -> tuple[int, int]:
    """Width and height of an image record, whose file name must stay below its folder."""
    where, name = f"image {image['id']}", image.get("file_name")
    if not isinstance(name, str) or not name or "\0" in name:
        refuse(path, where, "file_name", name, "the name of its file")
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts:
        refuse(path, where, "file_name", name, "a path below the folder of the split")
    for side in ("width", "height"):
        if not is_whole(image.get(side)) or image[side] <= 0:
            refuse(path, where, side, image.get(side), "its pixels")
    return image["width"], image["height"]


def check_annotation(a: Record, sizes: dict[int, tuple[int, int]], categories: set[int], path: Path) -> None:
    """Refuse an annotation that does not fit the rest; one without segmentation gets its box."""
    for key, known in (("image_id", sizes), ("category_id", categories)):
        value = a.get(key)
        if not is_whole(value) or value not in known:
            refuse(path, f"annotation {a['id']}", key, value, f"the id of one of the {key[:-3]} records")
    box = a.get("bbox")
    if not is_numbers(box, 4) or box[2] < 0 or box[3] < 0:
        refuse(path, f"annotation {a['id']}", "bbox", box, "x, y, width and height in pixels")
    if a.get("iscrowd", 0) not in (0, 1):
        refuse(path, f"annotation {a['id']}", "iscrowd", a["iscrowd"], "0 or 1")
    if a.get("segmentation") is None:
        x, y, w, h = box
        a["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    elif not is_segmentation(a["segmentation"], *sizes[a["image_id"]]):
        remedy = "polygons of at least 3 points, or a run-length code of the image's size"
        refuse(path, f"annotation {a['id']}", "segmentation", a["segmentation"], remedy)


def is_segmentation(value: Any, width: int, height: int) -> bool:
    """Whether it is a list of polygons, or a run-length code (plain or compressed) of the image's size."""
    if isinstance(value, list):
        return all(is_numbers(p) and len(p) >= 6 and len(p) % 2 == 0 for p in value)
    if not isinstance(value, dict) or value.get("size") != [height, width]:
        return False
    counts = value.get("counts")
    if isinstance(counts, str):
        counts = run_lengths(counts)
    # The decoder writes as many pixels as the runs tell, wherever that is.
    return (
        isinstance(counts, list) and all(is_whole(n) and n >= 0 for n in counts) and sum(counts) == width * height
    )


def run_lengths(code: str) -> list[int] | None:
    """The runs of COCO's compressed code (5 bits a character, later runs told by their change); None if broken."""
    runs: list[int] = []
    value = shift = 0
    for character in code:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            return None
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return None if shift else runs


def check_files(folder: Path, images: Sequence[Record], path: Path) -> None:
    """Refuse a split of which an image's file is not there."""
    there = set(os.listdir(folder)) if folder.is_dir() else set()
    missing = [
        name
        for image in images
        if (name := image["file_name"]) not in there and not ("/" in name and (folder / name).is_file())
    ]
    if missing:
        raise DataError(
            f"{path}: image '{missing[0]}' is not in {folder} ({len(missing):,} of {len(images):,} are not); "
            "add them, or take them out of the file"
        )


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_numbers(value: Any, count: int | None = None) -> bool:
    """Whether it is a list of finite numbers, `count` of them if that is given."""
    if not isinstance(value, list) or (count is not None and len(value) != count):
        return False
    return all(type(v) in (int, float) and math.isfinite(v) and abs(v) < 1e9 for v in value)


def refuse(path: Path, where: str, key: str, value: Any, remedy: str) -> None:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}…"
    raise DataError(f"{path}: {where}: key '{key}' is {shown}; give {remedy}")
