"""Read COCO's folder layout: images, multi-label targets, instances and semantic masks. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as rle

from mlssl.data.formats.coco import check_files, is_inside, is_mask, read_coco
from mlssl.data.images import FORMATS, read_image
from mlssl.data.semantic import IGNORE, MAX_CLASSES, SemanticMasks, read_semantic
from mlssl.data.shared_records import SharedRecords
from mlssl.errors import DataError
from mlssl.study.settings import Data

MAX_CATEGORIES = MAX_CLASSES - 1
"""Most categories of a mask painted from instances, in which 0 is background."""


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
    """bool N; a crowd is a region of many objects, excluded from training and labels."""


@dataclass(frozen=True)
class Split:
    """One split of a dataset in COCO's layout."""

    folder: Path
    annotation_file: Path
    images: list[dict[str, Any]]
    """COCO's image records, by ascending id."""
    categories: list[dict[str, Any]]
    """COCO's category records, by ascending id; a category's index is its index in this list."""
    annotations: Mapping[int, list[dict[str, Any]]]
    """By image id."""
    semantic: SemanticMasks | None = None
    """Masks of one class per pixel, if there are any beside the annotations; instances are painted otherwise."""

    def __len__(self) -> int:
        return len(self.images)

    def __getstate__(self) -> dict[str, Any]:
        """For worker processes: they share one file of annotations, and do not hold a copy of all objects each."""
        state = dict(self.__dict__)
        kept = state.pop("_shared", None) or SharedRecords(self.annotations)
        self.__dict__["_shared"] = kept  # one file for all workers, as long as this split exists
        return state | {"annotations": kept}

    @property
    def names(self) -> list[str]:
        return [c["name"] for c in self.categories]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes of `semantic_mask`, by class index."""
        return self.semantic.classes.names if self.semantic else ("background", *self.names)

    @property
    def exclusive(self) -> bool:
        """Whether the set says that each image has exactly one category (`exclusive: true` in every category)."""
        return all(c.get("exclusive") is True for c in self.categories)

    def _index(self) -> dict[int, int]:
        return {c["id"]: i for i, c in enumerate(self.categories)}

    def path(self, i: int) -> Path:
        """Path of the i-th image."""
        return self.folder / self.images[i]["file_name"]

    def pixels(self, i: int) -> np.ndarray:
        """The i-th image in its annotated size: uint8 H x W x 3."""
        return read_image(self.path(i), (self.images[i]["width"], self.images[i]["height"]))

    def labels(self) -> np.ndarray:
        """bool images x C: the categories in each image (without crowds)."""
        index = self._index()
        targets = np.zeros((len(self.images), len(self.categories)), dtype=bool)
        for row, image in enumerate(self.images):
            for a in self.annotations[image["id"]]:
                if not a.get("iscrowd", 0):
                    targets[row, index[a["category_id"]]] = True
        return targets

    def instances(self, i: int) -> Instances:
        """The annotated objects of the i-th image; boxes are clipped to it, those without area are left out.

        The mask of an object without one is its box.
        """
        image, index = self.images[i], self._index()
        records = [a for a in self.annotations[image["id"]] if a["has_box"]]
        height, width = image["height"], image["width"]
        boxes = np.array([a["bbox"] for a in records], dtype=np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes = boxes.clip(0, np.array([width, height, width, height], dtype=np.float32))
        masks = [decode(a["segmentation"], height, width) for a in records]
        return Instances(
            boxes=boxes,
            labels=np.array([index[a["category_id"]] for a in records], dtype=np.int64),
            masks=np.stack(masks) if masks else np.zeros((0, height, width), dtype=np.uint8),
            crowd=np.array([bool(a.get("iscrowd", 0)) for a in records], dtype=bool),
        )

    def semantic_mask(self, i: int) -> np.ndarray:
        """uint8 H x W: the index of each pixel's class in `classes`, or IGNORE.

        Read from the semantic masks, if there are any. Otherwise instances are painted on background (0) with
        1 + category index, the largest first, so that a small object on a large one stays visible; crowds are
        IGNORE. Raises DataError for an invalid mask, and without masks for more than MAX_CATEGORIES categories.
        """
        if self.semantic:
            return self.semantic.mask(i)
        if len(self.categories) > MAX_CATEGORIES:
            raise DataError(
                f"{self.annotation_file}: key 'categories' has {len(self.categories)}, a semantic mask can have "
                f"{MAX_CATEGORIES}; merge categories"
            )
        image, objects = self.images[i], self.instances(i)
        painted = np.zeros((image["height"], image["width"]), dtype=np.uint8)
        areas = objects.masks.sum(axis=(1, 2))
        # Crowds are painted first, so that they do not hide labelled objects.
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
    """Read `root/annotations/instances_<split>.json`, and check that its images exist.

    An annotation gets `has_box`, whether its box has an area inside the image, and `has_mask`, whether it has a
    segmentation inside the image; a missing or empty segmentation is replaced by the box as polygon. `iscrowd` is
    0 or 1. Raises DataError as `read_coco` does, and for missing images.
    """
    root = Path(root)
    path = root / "annotations" / f"instances_{split}.json"
    images, categories, records = read_coco(path)
    check_files(root / split, images, path)
    sizes = {image["id"]: (image["width"], image["height"]) for image in images}
    annotations: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in images}
    for record in records:
        size = sizes[record["image_id"]]
        record["has_box"] = is_inside(record["bbox"], size)
        record["has_mask"] = is_mask(record.get("segmentation"), size)
        record["iscrowd"] = record.get("iscrowd") or 0
        if not record.get("segmentation"):
            x, y, w, h = record["bbox"]
            record["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        annotations[record["image_id"]].append(record)
    semantic = read_semantic(root, split, images, categories, path)
    return Split(root / split, path, images, categories, annotations, semantic)


def read_splits(data: Data) -> tuple[Split, Split]:
    """The training and the validation split; DataError when their categories differ."""
    train, val = read_split(data.root, data.train), read_split(data.root, data.val)
    if [(c["id"], c["name"]) for c in train.categories] != [(c["id"], c["name"]) for c in val.categories]:
        raise DataError(
            f"{val.annotation_file}: key 'categories' differs from {train.annotation_file}; make them equal"
        )
    return train, val


def check_images(split: Split, *, decode_all: bool) -> None:
    """Raise UnusableImage, a DataError, for an image that cannot be read or is not of its annotated size.

    Without `decode_all` only headers are read, about 0.1 ms per image.
    """
    for i, image in enumerate(split.images):
        size = image["width"], image["height"]
        try:
            with Image.open(split.path(i), formats=FORMATS) as header:
                fits = header.size == size
        except Exception:  # `read_image` says why the file cannot be read.
            fits = False
        if decode_all or not fits:
            read_image(split.path(i), size)
