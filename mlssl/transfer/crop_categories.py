"""The categories that a crop of a training image shows, from the image's annotations. Imports no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from mlssl.data.coco import Split
from mlssl.errors import DataError


@dataclass(frozen=True)
class Objects:
    """The annotated objects of a store's N images, M in total, ordered by image, without crowds."""

    first: np.ndarray
    """int64 N + 1: the objects of image i are first[i] .. first[i + 1] - 1."""
    box: np.ndarray
    """float64 M x 4, x1 y1 x2 y2 in pixels of the stored image."""
    category: np.ndarray
    """int64 M, in 0 .. C-1."""
    categories: int
    """C."""

    @cached_property
    def area(self) -> np.ndarray:
        """float64 M, in square pixels."""
        return (self.box[:, 2:] - self.box[:, :2]).prod(axis=1)

    def __len__(self) -> int:
        return len(self.first) - 1


def read_objects(split: Split, store: Path) -> Objects:
    """The objects of a store's images in the store's order and pixels, with boxes clipped to the image.

    Raises DataError when the store is missing, or when it contains an image that is not in the split.
    """
    try:
        index = json.loads((store / "index.json").read_text())
    except FileNotFoundError:
        raise DataError(f"{store}: not an image store; give the store that the run trained on") from None
    image_of = {image["file_name"]: image for image in split.images}
    label_of = {category["id"]: i for i, category in enumerate(split.categories)}
    counts, boxes, labels = [], [], []
    for name, (height, width) in zip(index["names"], index["sizes"], strict=True):
        if name not in image_of:
            raise DataError(
                f"{split.annotation_file}: no image has file_name '{name}', which is in {store}; "
                "give the dataset that the store was built from"
            )
        image = image_of[name]
        scale = np.tile([width / image["width"], height / image["height"]], 2)
        found = [a for a in split.annotations[image["id"]] if a["has_box"] and not a["iscrowd"]]
        box = np.array([a["bbox"] for a in found], dtype=np.float64).reshape(-1, 4)
        box[:, 2:] += box[:, :2]
        boxes.append((box * scale).clip(0, np.tile([width, height], 2)))
        labels += [label_of[a["category_id"]] for a in found]
        counts.append(len(found))
    first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Objects(first, np.concatenate(boxes), np.array(labels, dtype=np.int64), len(label_of))


def categories_shown(objects: Objects, image: np.ndarray, box: np.ndarray, visible: float) -> np.ndarray:
    """Which categories the crops show, bool ... x C: at least `visible` (in (0, 1]) of an object's box is inside.

    `image` is int ..., -1 for no crop (shows no category); `box` is ... x 4, x y width height in pixels of the
    stored image.
    """
    flat, crop = image.ravel(), box.reshape(-1, 4).astype(np.float64)
    there = np.flatnonzero(flat >= 0)
    start = objects.first[flat[there]]
    count = objects.first[flat[there] + 1] - start
    # One row per pair of a crop and an object of its image.
    of_crop = np.repeat(there, count)
    of_object = np.arange(len(of_crop)) + np.repeat(start - (count.cumsum() - count), count)
    low = np.maximum(crop[of_crop, :2], objects.box[of_object, :2])
    high = np.minimum(crop[of_crop, :2] + crop[of_crop, 2:], objects.box[of_object, 2:])
    inside = (high - low).clip(min=0).prod(axis=1)
    enough = inside >= visible * objects.area[of_object]
    result = np.zeros((flat.size, objects.categories), dtype=bool)
    result[of_crop[enough], objects.category[of_object[enough]]] = True
    return result.reshape(*image.shape, objects.categories)
