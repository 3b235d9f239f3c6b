"""Read and validate COCO's instances JSON. Imports no torch."""

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
    """Images, categories and annotations of a file, sorted by id, as COCO's records.

    Image id 0, gaps in ids, crowds, empty boxes, boxes beyond the image and images without annotations are valid;
    an annotation without segmentation gets its box as polygon. Raises DataError, with file, key, value and remedy,
    for anything else that is inconsistent.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; data.root must be a folder in COCO's layout") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({error}); fetch or write it again") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(f"{path}: key '{key}' is missing or not a list; give COCO's instances JSON")
    images = by_id(content["images"], path, "images")
    categories = by_id(content["categories"], path, "categories")
    for key, records in (("images", images), ("categories", categories)):
        if not records:
            raise DataError(f"{path}: key '{key}' is empty; a split needs at least one")
    for category in categories:
        if not isinstance(category.get("name"), str):
            refuse(path, f"category {category['id']}", "name", category.get("name"), "a string")
    sizes = {image["id"]: size_of(image, path) for image in images}
    annotations = by_id(content["annotations"], path, "annotations")
    known = {category["id"] for category in categories}
    for a in annotations:
        check_annotation(a, sizes, known, path)
    return images, categories, annotations


def by_id(records: Sequence[Any], path: Path, key: str) -> list[Record]:
    for i, record in enumerate(records):
        if not isinstance(record, dict) or not is_whole(record.get("id")):
            value = record.get("id") if isinstance(record, dict) else record
            refuse(path, f"{key}[{i}]", "id", value, "a record with an integer id")
    counts = Counter(record["id"] for record in records)
    if len(counts) < len(records):
        twice = next(id_ for id_, count in counts.items() if count > 1)
        raise DataError(f"{path}: key '{key}': id {twice} is given {counts[twice]} times; make ids unique")
    return sorted(records, key=lambda record: record["id"])


def size_of(image: Record, path: Path) -> tuple[int, int]:
    """Width and height of an image record; refuses a file name outside the split's folder."""
    where, name = f"image {image['id']}", image.get("file_name")
    if not isinstance(name, str) or not name or "\0" in name:
        refuse(path, where, "file_name", name, "the name of its file")
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts:
        refuse(path, where, "file_name", name, "a path below the folder of the split")
    for side in ("width", "height"):
        if not is_whole(image.get(side)) or image[side] <= 0:
            refuse(path, where, side, image.get(side), "its size in pixels")
    return image["width"], image["height"]


def check_annotation(a: Record, sizes: dict[int, tuple[int, int]], categories: set[int], path: Path) -> None:
    """Refuse an invalid annotation; one without segmentation gets its box as polygon."""
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
    """Whether `value` is a list of polygons, or an RLE (plain or compressed) of the image's size."""
    if isinstance(value, list):
        return all(is_numbers(p) and len(p) >= 6 and len(p) % 2 == 0 for p in value)
    if not isinstance(value, dict) or value.get("size") != [height, width]:
        return False
    counts = value.get("counts")
    if isinstance(counts, str):
        counts = run_lengths(counts)
    # The decoder does not check bounds: a wrong sum of runs would write outside the mask.
    return (
        isinstance(counts, list) and all(is_whole(n) and n >= 0 for n in counts) and sum(counts) == width * height
    )


def run_lengths(code: str) -> list[int] | None:
    """The runs of COCO's compressed RLE (5 bits per character, later runs as differences); None if invalid."""
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
    """Refuse a split with missing image files."""
    existing = set(os.listdir(folder)) if folder.is_dir() else set()
    missing = [
        name
        for image in images
        if (name := image["file_name"]) not in existing and not ("/" in name and (folder / name).is_file())
    ]
    if missing:
        raise DataError(
            f"{path}: image '{missing[0]}' is not in {folder} ({len(missing):,} of {len(images):,} are not); "
            "add them, or remove them from the file"
        )


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_numbers(value: Any, count: int | None = None) -> bool:
    """Whether `value` is a list of finite numbers (below 1e9), `count` of them if given."""
    if not isinstance(value, list) or (count is not None and len(value) != count):
        return False
    return all(type(v) in (int, float) and math.isfinite(v) and abs(v) < 1e9 for v in value)


def refuse(path: Path, where: str, key: str, value: Any, remedy: str) -> None:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}…"
    raise DataError(f"{path}: {where}: key '{key}' is {shown}; give {remedy}")
