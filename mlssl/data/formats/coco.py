"""Read and validate COCO's instances JSON. Imports no torch."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn
from unicodedata import normalize

from pycocotools import mask as rle

from mlssl.data.formats.text import text_of
from mlssl.errors import DataError

Record = dict[str, Any]
MAX_COORDINATE = 1e6
"""Bound of a polygon's coordinates in pixels; decoding takes memory in proportion to the length of its sides."""
MIN_SIDE = 1e-5
"""Shortest side of a box, as a share of the image's: a shorter one may vanish in float32 when boxes are scaled."""


def read_coco(path: Path, *, strict: bool = True) -> tuple[list[Record], list[Record], list[Record]]:
    """Images, categories and annotations of a file, as COCO's records, sorted by id.

    Rules:
    - UTF-8, UTF-16 or UTF-32, with or without a byte order mark; at least one image and one category.
    - Ids are unique integers; 0 and gaps are valid. Category names and file names are unique and not empty. A
      category name is read in Unicode's NFC and without spaces around it; it may be an integer.
    - Integers may be written as 64.0.
    - An image has width and height, positive integers; its file name is a path below the folder of the split.
    - `segmentation` is missing, null or an empty list, which all mean no mask; or a list of polygons; or an RLE,
      plain or compressed, whose size is the image's and whose runs fill it.
    - `bbox` is x, y, width, height in pixels: finite JSON numbers, sides not negative. It may extend beyond the
      image; its users clip it. A box that is missing, null, an empty list, or without area becomes that of the
      mask; without a mask, a box is needed, and it may have no area.
    - `iscrowd` is 0, 1, null or missing; `area` is a number, not negative, null or missing.

    `strict=False` reads label files of photos, whose photos are found by name: file names may be absolute, images
    may lack their size (both sides), and annotations need no id and keep their order.

    Raises DataError, with file, key, value and remedy, for anything else.
    """
    try:
        text = text_of(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; data.root must be a folder in COCO's layout") from None
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({error}); fetch or write it again") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(f"{path}: key '{key}' is missing or not a list; give COCO's instances JSON")
    for key, name in (("images", "file_name"), ("categories", "name")):
        if not content[key]:
            raise DataError(f"{path}: key '{key}' is empty; give at least one")
        content[key] = by_id(content[key], path, key)
        for record in content["categories"] if key == "categories" else ():
            if is_integer(record.get("name")) or isinstance(record.get("name"), str):
                record["name"] = normalize("NFC", str(record["name"]).strip())
        check_names(content[key], path, key, name)
    sizes = {image["id"]: check_image(image, path, strict=strict) for image in content["images"]}
    known = {category["id"] for category in content["categories"]}
    annotations = by_id(content["annotations"], path, "annotations") if strict else content["annotations"]
    for i, a in enumerate(annotations):
        check_annotation(a, f"annotation {a['id']}" if strict else f"annotations[{i}]", sizes, known, path)
        if not has_area(a.get("bbox")):
            a["bbox"] = mask_box(a.get("segmentation")) or a["bbox"]
    return content["images"], content["categories"], annotations


def by_id(records: Sequence[Any], path: Path, key: str) -> list[Record]:
    """The records, sorted by id; DataError if an id is missing, not an integer or not unique."""
    for i, record in enumerate(records):
        if isinstance(record, dict):
            as_integers(record, "id")
        if not isinstance(record, dict) or not is_integer(record.get("id")):
            value = record.get("id") if isinstance(record, dict) else record
            refuse(path, f"{key}[{i}]", "id", value, "a record with an integer id")
    counts = Counter(record["id"] for record in records)
    if len(counts) < len(records):
        twice = next(id_ for id_, count in counts.items() if count > 1)
        raise DataError(f"{path}: key '{key}': id {twice} is given {counts[twice]} times; make ids unique")
    return sorted(records, key=lambda record: record["id"])


def check_names(records: Sequence[Record], path: Path, key: str, name: str) -> None:
    """Refuse records whose `name` is missing, empty or not unique."""
    first: dict[str, int] = {}
    for record in records:
        value, where = record.get(name), f"{key}, id {record['id']}"
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            refuse(path, where, name, value, "a name that is not empty")
        if value in first:
            refuse(path, where, name, value, f"another name, as the record with id {first[value]} has this one")
        first[value] = record["id"]


def check_image(image: Record, path: Path, *, strict: bool) -> tuple[int, int] | None:
    """Width and height of an image record, None if it has none; refuses a file name outside the split's folder."""
    where, name = f"image {image['id']}", image["file_name"]
    parts = PurePosixPath(name.replace("\\", "/"))
    if strict and (parts.is_absolute() or ".." in parts.parts):
        refuse(path, where, "file_name", name, "a path below the folder of the split")
    if not strict and image.get("width") is None and image.get("height") is None:
        return None
    as_integers(image, "width", "height")
    for side in ("width", "height"):
        if not is_integer(image.get(side)) or image[side] <= 0:
            refuse(path, where, side, image.get(side), "its size in pixels")
    return image["width"], image["height"]


def check_annotation(
    a: Any, where: str, sizes: dict[int, tuple[int, int] | None], categories: set[int], path: Path
) -> None:
    """Refuse an invalid annotation; `sizes`: width and height by image id."""
    if not isinstance(a, dict):
        raise DataError(f"{path}: {where} is {shown(a)}; give a record")
    as_integers(a, "image_id", "category_id")
    for key, known in (("image_id", sizes), ("category_id", categories)):
        value = a.get(key)
        if not is_integer(value) or value not in known:
            refuse(path, where, key, value, f"the id of one of the {key[:-3]} records")
    shape = a.get("segmentation")
    if shape is not None and not is_segmentation(shape, sizes[a["image_id"]]):
        remedy = "polygons of at least 3 points, or a run-length code of the image's size"
        refuse(path, where, "segmentation", shape, remedy)
    box = a.get("bbox")
    if box in (None, []):
        if not shape:
            refuse(path, where, "bbox", box, "x, y, width and height in pixels, or a mask (key 'segmentation')")
        if mask_box(shape) is None:
            refuse(path, where, "segmentation", shape, "a mask that is not empty, or the object's bbox")
    elif not isinstance(box, list) or not is_numbers(box, 4) or box[2] < 0 or box[3] < 0:
        refuse(path, where, "bbox", box, "x, y, width and height in pixels")
    if a.get("iscrowd") not in (0, 1, None):
        refuse(path, where, "iscrowd", a["iscrowd"], "0 or 1")
    if a.get("area") is not None and not (is_numbers([a["area"]]) and a["area"] >= 0):
        refuse(path, where, "area", a["area"], "its area in pixels, or leave it out")


def has_area(box: Any) -> bool:
    """Whether a box (x, y, width, height) is there and both its sides are positive."""
    return bool(box) and box[2] > 0 and box[3] > 0


def mask_box(segmentation: Any) -> list[float] | None:
    """The box (x, y, width, height in pixels) around a valid mask; None without a mask, or around no area.

    Around polygons it is that of their points, as in COCO, around an RLE that of its pixels.
    """
    if not segmentation:
        return None
    if isinstance(segmentation, dict):
        code, (height, width) = segmentation, segmentation["size"]
        if isinstance(code["counts"], list):
            code = rle.frPyObjects(code, height, width)
        box = rle.toBbox(code).tolist()
    else:
        points = segmentation[0] if len(segmentation) == 1 else [v for polygon in segmentation for v in polygon]
        xs, ys = points[::2], points[1::2]
        left, top = min(xs), min(ys)
        box = [left, top, max(xs) - left, max(ys) - top]
    return box if has_area(box) else None


def is_inside(box: Sequence[float] | None, size: tuple[int, int]) -> bool:
    """Whether a box (x, y, width, height) has an area in an image of `size` (width, height), both in pixels."""
    if box is None:
        return False
    (x, y, w, h), (width, height) = box, size
    inside = min(x + w, width) - max(x, 0), min(y + h, height) - max(y, 0)
    return inside[0] > MIN_SIDE * width and inside[1] > MIN_SIDE * height


def is_mask(segmentation: Any, size: tuple[int, int]) -> bool:
    """Whether a valid `segmentation`, or none, has an area in an image of `size` (width, height) in pixels."""
    if segmentation and isinstance(segmentation, list):
        # Three points inside, not on one line, decide almost all polygons without a look at the others.
        x1, y1, x2, y2, x3, y3 = segmentation[0][:6]
        width, height = size
        within_x = 0 <= x1 <= width and 0 <= x2 <= width and 0 <= x3 <= width
        within_y = 0 <= y1 <= height and 0 <= y2 <= height and 0 <= y3 <= height
        if within_x and within_y and (x2 - x1) * (y3 - y1) != (x3 - x1) * (y2 - y1):
            return True
    return is_inside(mask_box(segmentation), size)


def is_segmentation(value: Any, size: tuple[int, int] | None) -> bool:
    """Whether `value` is a list of polygons, or an RLE, plain or compressed, that fills its size.

    `size`: width and height that an RLE must have; None: any.
    """
    if isinstance(value, list):
        return all(is_numbers(p, below=MAX_COORDINATE) and len(p) >= 6 and len(p) % 2 == 0 for p in value)
    own = value.get("size") if isinstance(value, dict) else None
    if not isinstance(own, list) or len(own) != 2 or not all(is_integer(side) and side > 0 for side in own):
        return False
    if (size is not None and own != [size[1], size[0]]) or own[0] * own[1] >= 2**32:
        return False
    counts = value.get("counts")
    if isinstance(counts, str):
        counts = run_lengths(counts)
    if not isinstance(counts, list) or not all(is_integer(n) and n >= 0 for n in counts):
        return False
    return sum(counts) == own[0] * own[1]


def run_lengths(code: str) -> list[int] | None:
    """The runs of COCO's compressed RLE (5 bits per character, later runs as differences); None if invalid.

    pycocotools does not report runs that end before the mask does; it returns memory that was never written
    (tests/test_annotations.py, test_pycocotools_decodes_runs_that_do_not_fill_the_mask).
    """
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


def as_integers(record: Record, *keys: str) -> None:
    """Replace whole numbers written as 64.0, as a table's columns with gaps are, by integers."""
    for key in keys:
        value = record.get(key)
        if type(value) is float and value.is_integer():
            record[key] = int(value)


def is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_numbers(value: Any, count: int | None = None, *, below: float = 1e9) -> bool:
    """Whether `value` is a list of finite numbers, whose absolute values are below `below`; `count` if given."""
    if not isinstance(value, list) or (count is not None and len(value) != count):
        return False
    return all(type(v) in (int, float) and abs(v) < below for v in value)


def shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def refuse(path: Path, where: str, key: str, value: Any, remedy: str) -> NoReturn:
    raise DataError(f"{path}: {where}: key '{key}' is {shown(value)}; give {remedy}")
