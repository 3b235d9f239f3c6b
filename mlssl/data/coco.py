"""COCO's folder layout, read: images, multi-label targets, instances and semantic masks. Imports no torch."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as rle

from mlssl.config import DataError
from mlssl.data.images import read_image

IGNORE = 255
"""Value of semantic mask pixels that count neither for nor against."""


@dataclass(frozen=True)
class Instances:
    """The objects of one image: N of them, in the order of the annotation file."""

    boxes: np.ndarray
    """float32 N x 4, x1 y1 x2 y2 in pixels."""
    labels: np.ndarray
    """int64 N, category index in 0 .. C-1."""
    masks: np.ndarray
    """uint8 N x H x W, 0 or 1."""
    crowd: np.ndarray
    """bool N; a crowd is a region of many objects, left out of training and of the labels."""


@dataclass(frozen=True)
class Split:
    """One split of a dataset in COCO's layout."""

    folder: Path
    annotation_file: Path
    images: list[dict[str, Any]]
    """COCO's image records, by ascending id."""
    categories: list[dict[str, Any]]
    """COCO's category records, by ascending id; a category's index is its place here."""
    annotations: dict[int, list[dict[str, Any]]]
    """By image id."""

    def __len__(self) -> int:
        return len(self.images)

    @property
    def names(self) -> list[str]:
        return [c["name"] for c in self.categories]

    def _index(self) -> dict[int, int]:
        return {c["id"]: i for i, c in enumerate(self.categories)}

    def path(self, i: int) -> Path:
        """Path of the i-th image."""
        return self.folder / self.images[i]["file_name"]

    def pixels(self, i: int) -> np.ndarray:
        """The i-th image, decoded as it was annotated: uint8 H x W x 3."""
        return read_image(self.path(i), (self.images[i]["width"], self.images[i]["height"]))

    def labels(self) -> np.ndarray:
        """bool images x C: which categories an image shows (crowds do not count)."""
        index = self._index()
        targets = np.zeros((len(self.images), len(self.categories)), dtype=bool)
        for row, image in enumerate(self.images):
            for a in self.annotations[image["id"]]:
                if not a.get("iscrowd", 0):
                    targets[row, index[a["category_id"]]] = True
        return targets

    def instances(self, i: int) -> Instances:
        """The annotated objects of the i-th image; boxes without area are left out."""
        image, index = self.images[i], self._index()
        found = [a for a in self.annotations[image["id"]] if min(a["bbox"][2:]) > 0]
        boxes = np.array([a["bbox"] for a in found], dtype=np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        height, width = image["height"], image["width"]
        masks = [decode(a["segmentation"], height, width) for a in found]
        return Instances(
            boxes=boxes,
            labels=np.array([index[a["category_id"]] for a in found], dtype=np.int64),
            masks=np.stack(masks) if masks else np.zeros((0, height, width), dtype=np.uint8),
            crowd=np.array([bool(a.get("iscrowd", 0)) for a in found], dtype=bool),
        )

    def semantic_mask(self, i: int) -> np.ndarray:
        """uint8 H x W: 0 background, 1 + category index, IGNORE for crowds.

        Painted from the instances, the largest first, so that a small object on a large one stays visible.
        """
        image, objects = self.images[i], self.instances(i)
        painted = np.zeros((image["height"], image["width"]), dtype=np.uint8)
        areas = objects.masks.sum(axis=(1, 2))
        # Crowds are painted before all else: an object in front of a crowd is known.
        for j in sorted(range(len(areas)), key=lambda j: (not objects.crowd[j], -int(areas[j]))):
            painted[objects.masks[j] > 0] = IGNORE if objects.crowd[j] else 1 + objects.labels[j]
        return painted


def decode(segmentation: Any, height: int, width: int) -> np.ndarray:
    """A COCO segmentation (polygons, uncompressed or compressed RLE) as a uint8 mask H x W of 0 and 1."""
    if isinstance(segmentation, list):
        if not segmentation:
            return np.zeros((height, width), dtype=np.uint8)
        code = rle.merge(rle.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        code = rle.frPyObjects(segmentation, height, width)
    else:
        code = segmentation
    return rle.decode(code)


def read_split(root: Path | str, split: str) -> Split:
    """Read `root/annotations/instances_<split>.json`.

    Raises DataError when the file is missing or is not COCO's, naming file, key and remedy.
    """
    root = Path(root)
    path = root / "annotations" / f"instances_{split}.json"
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; data.root must be a folder in COCO's layout") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: not valid JSON ({error}); fetch or write it again") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(f"{path}: key '{key}' is missing or no list; is this an instances file of COCO?")
    images = sorted(content["images"], key=lambda image: image["id"])
    categories = sorted(content["categories"], key=lambda c: c["id"])
    if not images:
        raise DataError(f"{path}: key 'images' is empty; a split needs at least one image")
    by_image: dict[int, list[dict[str, Any]]] = defaultdict(list)
    known_images, known_categories = {im["id"] for im in images}, {c["id"] for c in categories}
    for a in content["annotations"]:
        if a["image_id"] not in known_images:
            raise DataError(f"{path}: annotation {a['id']} has image_id {a['image_id']}, which no image has")
        if a["category_id"] not in known_categories:
            raise DataError(
                f"{path}: annotation {a['id']} has category_id {a['category_id']}, which no category has"
            )
        by_image[a["image_id"]].append(a)
    annotations = {image["id"]: by_image[image["id"]] for image in images}
    return Split(root / split, path, images, categories, annotations)
