"""Pascal VOC 2007 and 2012 (devkit documentation, section 3): convert XML boxes to COCO's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlssl.data.formats.voc import read_voc
from mlssl.data.layout import Found, Picture, annotation, find
from mlssl.errors import DataError

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def read(roots: Sequence[Path], split: str, *, years: Sequence[int]) -> Found:
    """The images of `ImageSets/Main/<split>.txt` of all `years`; test images only of 2007.

    VOC 2012 publishes no annotations of its test images.
    """
    pictures, left_out = [], []
    for year in years:
        if split == "test" and year != 2007:
            continue
        base = find(roots, f"VOC{year}/ImageSets/Main/{split}.txt").parents[2]
        for line in (base / "ImageSets" / "Main" / f"{split}.txt").read_text().split("\n"):
            if not line.strip():
                continue
            stem = line.split()[0]
            image, labels = base / "JPEGImages" / f"{stem}.jpg", base / "Annotations" / f"{stem}.xml"
            missing = next((path for path in (image, labels) if not path.exists()), None)
            if missing:
                left_out.append(f"{missing}: is listed but does not exist")
            else:
                pictures.append(Picture(image, image.name, objects_of(labels)))
    return Found([(name, name) for name in CLASSES], pictures, left_out)


def objects_of(path: Path) -> list[dict[str, Any]]:
    """The objects of an annotation file, as COCO annotations without masks.

    A difficult object becomes a crowd (`iscrowd`, and `difficult`): VOC's evaluation counts it neither for nor
    against, and so does COCO's with crowds. Raises DataError as `read_voc` does, and for an unknown class.
    """
    objects = []
    for found in read_voc(path).objects:
        if found.name not in CLASSES:
            raise DataError(f"{path}: object name '{found.name}' is not one of VOC's 20 classes; correct it")
        values = annotation(CLASSES.index(found.name) + 1, found.box, crowd=found.difficult)
        objects.append({**values, "difficult": int(found.difficult)})
    return objects
