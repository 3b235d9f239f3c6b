"""Cityscapes' fine annotations (arXiv 1604.01685): instances of 8 classes, and semantic masks of 19.

Label ids and train ids: cityscapesScripts, helpers/labels.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as rle
from tqdm import tqdm

from mlssl.data.layout import Found, Picture, annotation, find
from mlssl.data.semantic import CLASSES_FILE, IGNORE
from mlssl.errors import DataError
from mlssl.files import write_text

THINGS = {
    24: "person", 25: "rider", 26: "car", 27: "truck", 28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle",
}  # fmt: skip
"""Label id -> name. Instance ids: 1000 * label id + object number for an object, the label id for a group."""
TRAINED_ON = {
    7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light",
    20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky", **THINGS,
}  # fmt: skip
"""Label id -> name of the classes that are trained on, by train id; all other label ids are ignored."""


def read(roots: Sequence[Path], split: str) -> Found:
    """The images of `leftImg8bit/<split>` with the objects of `gtFine/<split>/…_gtFine_instanceIds.png`.

    Masks cover the visible pixels only, and are written as RLE; boxes enclose the masks; a group becomes a crowd.
    """
    images, truths = find(roots, f"leftImg8bit/{split}"), find(roots, f"gtFine/{split}")
    pictures, left_out = [], []
    for path in tqdm(sorted(images.glob("*/*_leftImg8bit.png")), desc=f"cityscapes {split}", mininterval=1):
        truth = truths / path.parent.name / path.name.replace("_leftImg8bit", "_gtFine_instanceIds")
        if truth.exists():
            pictures.append(Picture(path, path.name, objects_of(truth)))
        else:
            left_out.append(f"{truth}: does not exist")
    return Found([(name, label) for label, name in THINGS.items()], pictures, left_out)


def pixels_of(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            return np.asarray(image).astype(np.int32)
    except OSError as error:
        raise DataError(f"{path}: cannot be decoded ({error}); unpack it again") from None


def objects_of(path: Path) -> list[dict[str, Any]]:
    """COCO annotations of the objects in an image of instance ids, H x W."""
    pixels, objects = pixels_of(path), []
    places = {label: place for place, label in enumerate(THINGS, start=1)}
    for value in np.unique(pixels).tolist():
        label = value // 1000 if value >= 1000 else value
        if label not in places:
            continue
        code = rle.encode(np.asfortranarray(pixels == value, dtype=np.uint8))
        segmentation = {"size": code["size"], "counts": code["counts"].decode()}
        box, area = rle.toBbox(code).tolist(), int(rle.area(code))
        objects.append(annotation(places[label], box, segmentation=segmentation, crowd=value < 1000, area=area))
    return objects


def write_semantic(roots: Sequence[Path], split: str, pictures: Path) -> None:
    """Write the train ids, 0 to 18 and 255, of the images in `pictures` to `semantic/<split>` beside it.

    `semantic/classes.txt` names the train ids.
    """
    truths, folder = find(roots, f"gtFine/{split}"), pictures.parent / "semantic" / split
    folder.mkdir(parents=True)
    write_text(folder.parent / CLASSES_FILE, "".join(f"{name}\n" for name in TRAINED_ON.values()))
    table = np.full(256, IGNORE, dtype=np.uint8)
    table[list(TRAINED_ON)] = np.arange(len(TRAINED_ON))
    for picture in tqdm(sorted(pictures.iterdir()), desc=f"cityscapes masks {split}", mininterval=1):
        name = picture.name.replace("_leftImg8bit", "_gtFine_labelIds")
        labels = pixels_of(truths / picture.name.split("_")[0] / name)
        Image.fromarray(table[np.clip(labels, 0, 255)]).save(folder / picture.name)
