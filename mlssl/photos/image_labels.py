"""Labels in the form of folders of images: class folders, and semantic masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from mlssl.data.formats.class_folders import read_class_folders
from mlssl.data.formats.splits import of_lists
from mlssl.data.images import SUFFIXES
from mlssl.data.semantic import (
    CLASSES_FILE,
    JPEG,
    SemanticClasses,
    class_presence,
    indices,
    is_jpeg,
    read_classes,
    read_mask,
)
from mlssl.errors import DataError
from mlssl.photos.formats import Entry, LabelFile, LabelledObject, PhotoLabels
from mlssl.photos.masks import LOSSY, unmarked
from mlssl.photos.matching import Names


def from_images(path: Path, files: Sequence[Path], photos: Names, pictures: Path | None) -> LabelFile | None:
    """Class folders if `path` is `pictures`, the folder of the photos; semantic masks if it has PNGs; else None.

    `files` are those below `path`. Without `pictures` the labels are people to hide, and neither format has their
    places. A folder of photos without folders and with a CSV gives None: the CSV is meant.
    """
    if pictures is None:
        return None
    if path.samefile(pictures):
        flat = not any("/" in name for name in photos.all)
        return None if flat and any(f.suffix.lower() == ".csv" for f in files) else from_class_folders(path, photos)
    masks = [file for file in files if file.suffix.lower() == ".png"]
    inside = pictures.resolve()
    images = [f for f in files if f.name.lower().endswith(SUFFIXES) and f.suffix.lower() != ".png"]
    others = [
        f for f in images if not f.resolve().is_relative_to(inside) and photos.has_stem(unmarked(f.stem) + ".png")
    ]
    if not masks and others:
        if others[0].suffix.lower() in LOSSY:
            raise is_jpeg(others[0])
        raise DataError(f"{others[0]}: is not a PNG, which masks have to be; convert the masks")
    if not masks:
        return None
    content = from_semantic(path, masks, photos)
    if not others:
        return content
    what = "image is" if len(others) == 1 else "images are"
    return replace(content, notes=[*content.notes, f"{len(others):,} {what} no PNG: {others[0].relative_to(path)}"])


def from_class_folders(path: Path, photos: Names) -> LabelFile:
    """One category per photo; see `read_class_folders`."""
    found = read_class_folders(path, photos.all)
    categories = sorted(set(found.categories.values()))
    position = {name: i for i, name in enumerate(categories)}
    entries = [
        Entry((name,), PhotoLabels(str(path / name), [LabelledObject(position[category], None)]))
        for name, category in found.categories.items()
    ]
    return LabelFile(
        "class folders", [(name, name) for name in categories], entries, exclusive=True, splits=found.splits
    )


def from_semantic(path: Path, files: Sequence[Path], photos: Names) -> LabelFile:
    """Semantic masks, one PNG per photo, and `classes.txt` in their folder or beside it.

    A mask has the name of its photo, or that name and an ending such as `_mask` (see `unmarked`). Lists beside the
    masks are official splits. Raises DataError if there is no classes file, or a mask is not a PNG.
    """
    file = next((f for f in (path / CLASSES_FILE, path.parent / CLASSES_FILE) if f.is_file()), None)
    if file is None:
        raise DataError(
            f"{path}: has PNGs and no {CLASSES_FILE}; name the values of the masks in it, one name per line"
        )
    classes, entries = read_classes(file), []
    for mask in files:
        with open(mask, "rb") as handle:
            if handle.read(len(JPEG)) == JPEG:
                raise is_jpeg(mask)
        try:
            with Image.open(mask, formats=["PNG"]) as image:
                size = image.size
        except OSError as error:
            raise DataError(f"{mask}: is not a PNG that can be decoded ({error}); write the mask again") from None
        alias = mask.relative_to(path).as_posix()
        shorter = mask.relative_to(path).with_name(unmarked(mask.stem) + mask.suffix).as_posix()
        entries.append(Entry(tuple(dict.fromkeys((alias, shorter))), PhotoLabels(str(mask), [], size, mask=mask)))
    values = {name: value for value, index in classes.values.items() for name in classes.names[index : index + 1]}
    categories: list[tuple[str, Any]] = [(name, values[name]) for name in classes.names]
    return LabelFile("semantic masks", categories, entries, classes=classes, splits=of_lists(path, photos.all))


def masks_among(entries: Sequence[Entry], names: Sequence[str], folder: Path | None) -> dict[str, str]:
    """Those of `names`, images below `folder`, that are semantic masks of the entries, and the photo of each."""
    masks = {entry.labels.mask.resolve(): entry.names[-1] for entry in entries if entry.labels.mask is not None}
    if folder is None or not masks:
        return {}
    return {name: masks[path] for name in names if (path := (folder / name).resolve()) in masks}


def check_masks(photos: Mapping[str, PhotoLabels], classes: SemanticClasses, folder: Path) -> dict[str, np.ndarray]:
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
