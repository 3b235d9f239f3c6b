"""Pascal VOC 2007 and 2012 (devkit documentation, section 3): convert XML boxes to COCO's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

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
    """The objects of an annotation file; VOC counts pixels from 1 and includes the last.

    A difficult object becomes a crowd (`iscrowd`, and `difficult`): VOC's evaluation counts it neither for nor
    against, and so does COCO's with crowds. No object has a mask. Raises DataError naming the file.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise DataError(f"{path}: not valid XML ({error}); fetch it again") from None
    objects = []
    for element in root.iter("object"):
        name = element.findtext("name", "").strip()
        if name not in CLASSES:
            raise DataError(f"{path}: object name '{name}' is not one of VOC's 20 classes; correct it")
        try:
            edges = [float(element.findtext(f"bndbox/{edge}", "")) for edge in ("xmin", "ymin", "xmax", "ymax")]
        except ValueError:
            raise DataError(
                f"{path}: bndbox of a '{name}' lacks an edge or has one that is not a number; correct it"
            ) from None
        x1, y1, x2, y2 = edges[0] - 1, edges[1] - 1, edges[2], edges[3]
        if not (0 <= x1 < x2 < float("inf") and 0 <= y1 < y2 < float("inf")):
            raise DataError(
                f"{path}: bndbox {edges} of a '{name}' is invalid; give 1 <= xmin <= xmax and 1 <= ymin <= ymax"
            )
        difficult = element.findtext("difficult", "0").strip() == "1"
        values = annotation(CLASSES.index(name) + 1, (x1, y1, x2 - x1, y2 - y1), crowd=difficult)
        objects.append({**values, "difficult": int(difficult)})
    return objects
