"""Pascal VOC 2012's segmentation with SBD's masks ("VOC 2012 aug", 10,582 training images).

SBD (Semantic Boundaries Dataset, Hariharan et al. 2011) has masks of 11,355 images of VOC's trainval. Training has
VOC's own `train` list with VOC's masks, and all other images of SBD that are not in VOC's `val`, with SBD's;
validation is VOC's `val`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from mlssl.data.layout import Found, Picture, find
from mlssl.data.semantic import CLASSES_FILE
from mlssl.datasets import voc
from mlssl.errors import DataError
from mlssl.files import write_text

LISTS = "VOC2012/ImageSets/Segmentation"


def names(path: Path) -> list[str]:
    """The image names of a list, one on each line."""
    return path.read_text().split()


def read(roots: Sequence[Path], split: str) -> Found:
    """The images of `train` (VOC's and SBD's) or `val` (VOC's), with the objects of VOC's annotation where there is
    one."""
    lists = find(roots, f"{LISTS}/val.txt").parent
    own, held_out = names(lists / f"{split}.txt"), set(names(lists / "val.txt"))
    if split == "train":
        known = held_out | set(own)
        sbd = find(roots, "benchmark_RELEASE/dataset/train.txt").parent
        more = sorted({*names(sbd / "train.txt"), *names(sbd / "val.txt")} - known)
        own = [*own, *more]
    base, pictures, left_out = lists.parents[1], [], []
    for name in own:
        image, labels = base / "JPEGImages" / f"{name}.jpg", base / "Annotations" / f"{name}.xml"
        if image.exists():
            pictures.append(Picture(image, image.name, voc.objects_of(labels) if labels.exists() else []))
        else:
            left_out.append(f"{image}: is listed but does not exist")
    return Found([(name, name) for name in voc.CLASSES], pictures, left_out)


def write_semantic(roots: Sequence[Path], split: str, pictures: Path) -> None:
    """Write the masks of the images in `pictures` to `semantic/<split>` beside it: 0 background, 1 to 20, 255
    ignored."""
    own = find(roots, f"{LISTS}/val.txt").parents[2] / "SegmentationClass"
    folder = pictures.parent / "semantic" / split
    folder.mkdir(parents=True)
    write_text(folder.parent / CLASSES_FILE, "".join(f"{name}\n" for name in ("background", *voc.CLASSES)))
    for picture in tqdm(sorted(pictures.iterdir()), desc=f"voc2012aug masks {split}", mininterval=1):
        mask = own / f"{picture.stem}.png"
        if mask.exists():
            pixels = palette_indices(mask)
        else:
            pixels = sbd_mask(
                find(roots, "benchmark_RELEASE/dataset/train.txt").parent / "cls" / f"{picture.stem}.mat"
            )
        Image.fromarray(pixels).save(folder / f"{picture.stem}.png")


def palette_indices(path: Path) -> np.ndarray:
    """uint8 H x W of one of VOC's palette images."""
    try:
        with Image.open(path) as image:
            return np.asarray(image).astype(np.uint8)
    except OSError as error:
        raise DataError(f"{path}: cannot be decoded ({error}); unpack it again") from None


def sbd_mask(path: Path) -> np.ndarray:
    """uint8 H x W of one of SBD's files, `GTcls.Segmentation`."""
    try:
        import scipy.io

        return np.asarray(scipy.io.loadmat(path)["GTcls"]["Segmentation"][0, 0], dtype=np.uint8)
    except Exception as error:  # Decoding a damaged file may raise anything.
        remedy = "pip install scipy" if isinstance(error, ImportError) else "check the file or fetch it again"
        raise DataError(f"{path}: its mask cannot be read ({error}); {remedy}") from None
