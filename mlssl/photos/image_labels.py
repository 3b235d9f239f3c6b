"""Labels in the form of folders of images: class folders, and semantic masks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from mlssl.data.formats.class_folders import read_class_folders
from mlssl.data.formats.splits import LIST_FOLDERS, of_lists
from mlssl.data.semantic import CLASSES_FILE, IGNORE, Classes, indices, read_classes, read_mask
from mlssl.errors import DataError
from mlssl.photos.formats import Entry, LabelFile, LabelledObject, PhotoLabels

SUFFIX = re.compile(r"[_-](masks?|labels?|seg|gt|L|labelIds|labelTrainIds)$")
"""What tools append to the name of a photo for its mask."""


def from_images(path: Path, names: Sequence[str], folder: Path | None) -> LabelFile | None:
    """Class folders if `path` is the folder of the photos `names`, semantic masks if it has PNGs; else None.

    None too if the folder has labels of another kind: XML, txt files with the names of photos, or JSON, but for
    JSON in the folders of lists (see `LIST_FOLDERS`).
    """
    stems = {PurePosixPath(name).stem for name in names}
    files = sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
    for file in files:
        suffix, of_photo = file.suffix.lower(), file.stem in stems
        if suffix == ".xml" or (suffix == ".txt" and of_photo):
            return None
        if suffix == ".json" and (of_photo or file.parent.name not in LIST_FOLDERS):
            return None
    if folder is not None and path.samefile(folder):
        return from_class_folders(path, names)
    if folder is None:  # A file of people: masks do not say who is to be hidden.
        return None
    masks = [file for file in files if file.suffix.lower() == ".png"]
    return from_semantic(path, masks, names) if masks else None


def from_class_folders(path: Path, names: Sequence[str]) -> LabelFile:
    """One category per photo; see `read_class_folders`."""
    found = read_class_folders(path, names)
    categories = sorted(set(found.categories.values()))
    position = {name: i for i, name in enumerate(categories)}
    entries = [
        Entry((name,), PhotoLabels(str(path / name), [LabelledObject(position[category], None)]))
        for name, category in found.categories.items()
    ]
    return LabelFile(
        "class folders", [(name, name) for name in categories], entries, exclusive=True, splits=found.splits
    )


def from_semantic(path: Path, files: Sequence[Path], names: Sequence[str]) -> LabelFile:
    """Semantic masks, one PNG per photo, and `classes.txt` in their folder or beside it.

    A mask has the name of its photo, or that name and an ending such as `_mask` (see SUFFIX). Lists beside the
    masks are official splits. Raises DataError if there is no classes file, or a mask is not a PNG.
    """
    file = next((f for f in (path / CLASSES_FILE, path.parent / CLASSES_FILE) if f.is_file()), None)
    if file is None:
        raise DataError(
            f"{path}: has PNGs and no {CLASSES_FILE}; name the values of the masks in it, one name per line"
        )
    classes, entries = read_classes(file), []
    for mask in files:
        try:
            with Image.open(mask, formats=["PNG"]) as image:
                size = image.size
        except OSError as error:
            raise DataError(f"{mask}: is not a PNG that can be decoded ({error}); write the mask again") from None
        alias = mask.relative_to(path).as_posix()
        shorter = mask.relative_to(path).with_name(SUFFIX.sub("", mask.stem) + mask.suffix).as_posix()
        entries.append(Entry(tuple(dict.fromkeys((alias, shorter))), PhotoLabels(str(mask), [], size, mask=mask)))
    values = {name: value for value, index in classes.values.items() for name in classes.names[index : index + 1]}
    categories: list[tuple[str, Any]] = [(name, values[name]) for name in classes.names]
    return LabelFile("semantic masks", categories, entries, classes=classes, splits=of_lists(path, names))


def check_masks(photos: Mapping[str, PhotoLabels], classes: Classes, folder: Path) -> dict[str, np.ndarray]:
    """Photo -> bool C, the classes in its mask. Reads every mask; no photo is decoded.

    Raises DataError, with file, place, value and remedy, for an invalid mask, or one not of its photo's size.
    """
    found = {}
    for name, labels in photos.items():
        assert labels.mask is not None
        found[name] = class_presence(indices(read_mask(labels.mask), classes, labels.mask), classes)
        try:
            with Image.open(folder / name) as image:
                size, turn = image.size, image.getexif().get(ExifTags.Base.Orientation, 1)
        except Exception:  # The import reports photos that cannot be read.
            continue
        allowed = {size, size[::-1]} if turn in (5, 6, 7, 8) else {size}
        if labels.size not in allowed:
            shown = " x ".join(map(str, labels.size or ()))
            raise DataError(
                f"{labels.mask}: has {shown} pixels, its photo '{name}' has {size[0]} x {size[1]}; give a mask of "
                "the photo's size"
            )
    return found


def class_presence(mask: np.ndarray, classes: Classes) -> np.ndarray:
    """bool C: the classes in a mask of class indices, uint8 H x W."""
    return np.bincount(mask.ravel(), minlength=IGNORE + 1)[: len(classes.names)] > 0
