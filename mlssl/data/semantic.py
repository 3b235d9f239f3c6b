"""Semantic masks: PNGs with one class value per pixel, beside a split in COCO's layout. Imports no torch.

    root/<split>/a/b.jpg            an image, listed in root/annotations/instances_<split>.json
    root/semantic/<split>/a/b.png   its mask, of the same size
    root/semantic/classes.txt       the class of each value (optional)

Without classes.txt, a value is the id of a category of the annotation file, and 0 is background unless it is one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from mlssl.data.formats.text import lines
from mlssl.data.images import MAX_PIXELS
from mlssl.errors import DataError

IGNORE = 255
"""Value of semantic mask pixels that losses and metrics ignore."""
IGNORED_NAMES = frozenset(("void", "ignore", "ignored", "unlabeled", "unlabelled"))
"""Names in a classes file (in any case) whose pixels are ignored."""
MAX_CLASSES = 255
"""SemanticClasses are 0 to 254 in uint8 masks, and 255 is ignored."""
CLASSES_FILE = "classes.txt"
VALUES = 65_536
"""Number of values that a PNG of 16 bits can have."""
JPEG = b"\xff\xd8\xff"
"""First bytes of a JPEG."""
NUMBERED = re.compile(r"(\d+)[\s:=,;]+(\S.*)")


@dataclass(frozen=True)
class SemanticClasses:
    """The classes of a data set, and the mask value of each."""

    names: tuple[str, ...]
    """By class index, from 0."""
    values: dict[int, int]
    """Mask value -> class index, or IGNORE."""
    file: Path | None
    """The classes file; None if the classes are background and the categories of the annotation file."""

    @cached_property
    def table(self) -> np.ndarray:
        """int16 65536: mask value -> class index, IGNORE, or -1 for a value without a class."""
        table = np.full(VALUES, -1, dtype=np.int16)
        table[[255, VALUES - 1]] = IGNORE
        for value, index in self.values.items():
            table[value] = index
        return table


def read_classes(path: Path) -> SemanticClasses:
    """Read a classes file: a name per line, for the values 0, 1, …; or `value name` on every line.

    Pixels of a class named in IGNORED_NAMES are ignored, as are those of 255 and 65535 if the file does not name
    these values. Values with the same name are one class, if the values are given. Raises DataError, with line,
    value and remedy, for anything else.
    """
    rows = [(i, line.strip()) for i, line in enumerate(lines(path), start=1) if line.strip()]
    matches = [NUMBERED.fullmatch(row) for _, row in rows]
    numbered = bool(rows) and all(matches)
    if not numbered and any(matches):
        line, row = next(row for row, match in zip(rows, matches, strict=True) if bool(match) != bool(matches[0]))
        raise DataError(f"{path}: line {line}: '{row[:60]}' differs from line {rows[0][0]}; {FORM}")
    ends = [int(match[1]) for _, row in rows if (match := re.fullmatch(r"\S.*[\s:=,;](\d+)", row))]
    counted = any(ends == list(range(first, first + len(rows))) for first in (0, 1))
    if rows and not numbered and len(set(ends)) == len(rows) and not counted:
        raise DataError(f"{path}: line {rows[0][0]}: '{rows[0][1][:60]}' has a number at its end; {FORM}")
    names: dict[str, int] = {}
    values: dict[int, int] = {}
    for place, ((line, row), match) in enumerate(zip(rows, matches, strict=True)):
        value, name = (int(match[1]), match[2].strip()) if match and numbered else (place, row)
        if value >= VALUES or value in values:
            why = "is given twice" if value in values else f"is above {VALUES - 1}"
            raise DataError(f"{path}: line {line}: value {value} ('{name[:60]}') {why}; correct it")
        if name.lower() in IGNORED_NAMES:
            values[value] = IGNORE
            continue
        if name in names and not numbered:
            raise DataError(
                f"{path}: line {line}: '{name[:60]}' is listed twice; give each value its own name, or write "
                "'value name' on each line to join values"
            )
        values[value] = names.setdefault(name, len(names))
    if not 2 <= len(names) <= MAX_CLASSES:
        raise DataError(f"{path}: names {len(names)} classes; give 2 to {MAX_CLASSES}, {FORM}")
    return SemanticClasses(tuple(names), values, path)


FORM = "one name per line, or 'value name' on each line"


def classes_of(categories: Sequence[dict[str, Any]], path: Path) -> SemanticClasses:
    """Background (value 0, unless that is a category's id) and the categories of an annotation file, by id."""
    ids = [c["id"] for c in categories]
    if len(ids) >= MAX_CLASSES or not all(0 <= id_ < VALUES for id_ in ids):
        raise DataError(
            f"{path}: key 'categories' has {len(ids)} ids from {min(ids)} to {max(ids)}, which semantic masks "
            f"cannot hold; name the values of the masks in semantic/{CLASSES_FILE}"
        )
    pairs = [*([] if 0 in ids else [(0, "background")]), *((c["id"], c["name"]) for c in categories)]
    return SemanticClasses(tuple(name for _, name in pairs), {id_: i for i, (id_, _) in enumerate(pairs)}, None)


def read_mask(path: Path) -> np.ndarray:
    """The values of a mask, uint8 or uint16 H x W: grey of 1 to 16 bits, or palette indices.

    A colour PNG is read if its channels are equal. Raises DataError for other files.
    """
    try:
        with open(path, "rb") as handle:
            header = handle.read(26)
            if header.startswith(JPEG):
                raise is_jpeg(path)
            handle.seek(0)
            with Image.open(handle, formats=["PNG"]) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise DataError(f"{path}: has {image.width} x {image.height} pixels, more than {MAX_PIXELS:,}")
                mode, pixels = image.mode, np.asarray(image)
    except FileNotFoundError:
        raise DataError(f"{path}: no such mask; add it, or remove its image from the annotations") from None
    except DataError:
        raise
    except Exception as error:  # Decoding a damaged file may raise anything.
        raise DataError(f"{path}: is not a PNG that can be decoded ({error}); write the mask again") from None
    if pixels.ndim == 3:
        colours = pixels[..., : 1 if mode == "LA" else 3]
        if (different := (colours != colours[..., :1]).any(axis=2)).any():
            y, x = np.argwhere(different)[0].tolist()
            raise DataError(
                f"{path}: is a colour image, pixel ({x}, {y}) is {tuple(colours[y, x].tolist())}; save one value "
                "per pixel, as a grey or palette PNG"
            )
        pixels = colours[..., 0]
    if mode.startswith("I"):
        return pixels.astype(np.uint16)
    depth, grey = header[24], header[25] == 0
    if mode == "L" and grey and depth < 8:  # Pillow scales grey of 2 and 4 bits to 0 … 255.
        pixels = pixels // (255 // (2**depth - 1))
    return pixels.astype(np.uint8)


def indices(values: np.ndarray, classes: SemanticClasses, path: Path) -> np.ndarray:
    """Class indices, uint8 H x W with IGNORE, of mask values; DataError for a value without a class."""
    found = classes.table[values]
    if (unknown := found < 0).any():
        y, x = np.argwhere(unknown)[0].tolist()
        value = int(values[y, x])
        remedy = (
            f"add the line '{value} <name>' to {classes.file}, or '{value} void' to ignore it"
            if classes.file
            else f"name the values in semantic/{CLASSES_FILE}, {FORM}; 255 is ignored"
        )
        raise DataError(f"{path}: pixel ({x}, {y}) has value {value}, which has no class; {remedy}")
    return found.astype(np.uint8)


@dataclass(frozen=True)
class SemanticMasks:
    """The semantic masks of a split."""

    folder: Path
    images: Sequence[dict[str, Any]]
    """COCO's image records."""
    classes: SemanticClasses

    def path(self, i: int) -> Path:
        """Path of the i-th image's mask."""
        return self.folder / PurePosixPath(self.images[i]["file_name"]).with_suffix(".png")

    def mask(self, i: int) -> np.ndarray:
        """uint8 H x W of the i-th image: class indices, and IGNORE. Raises DataError for an invalid mask."""
        values, image = read_mask(self.path(i)), self.images[i]
        if values.shape != (image["height"], image["width"]):
            raise DataError(
                f"{self.path(i)}: has {values.shape[1]} x {values.shape[0]} pixels, its image "
                f"'{image['file_name']}' has {image['width']} x {image['height']}; give a mask of the image's size"
            )
        return indices(values, self.classes, self.path(i))

    @cached_property
    def presence(self) -> np.ndarray:
        """bool N x C: the classes in each mask. Reads every mask once; raises DataError for an invalid one."""
        absent = [self.path(i) for i in range(len(self.images)) if not self.path(i).is_file()]
        if absent:
            jpegs = [f for f in map(absent[0].with_suffix, (".jpg", ".jpeg", ".JPG", ".JPEG")) if f.is_file()]
            if jpegs:
                raise is_jpeg(jpegs[0])
            raise DataError(
                f"{absent[0]}: no such mask ({len(absent):,} of {len(self.images):,} images have none); add them, "
                f"or remove the images from the annotations, or remove {self.folder.parent} to use instances"
            )
        return np.array([class_presence(self.mask(i), self.classes) for i in range(len(self.images))])

    @property
    def images_of_each_class(self) -> np.ndarray:
        """int64 C: in how many masks each class is."""
        return self.presence.sum(axis=0)

    def first_without_class(self, count: int | None = None) -> list[Path]:
        """Those of the first `count` masks (None: of all) in which every pixel is ignored."""
        return [self.path(int(i)) for i in np.flatnonzero(~self.presence[:count].any(axis=1))]


def class_presence(mask: np.ndarray, classes: SemanticClasses) -> np.ndarray:
    """bool C: the classes in a mask of class indices, uint8 H x W."""
    return np.bincount(mask.ravel(), minlength=IGNORE + 1)[: len(classes.names)] > 0


def is_jpeg(path: Path) -> DataError:
    """That a mask is a JPEG."""
    return DataError(f"{path}: is a JPEG, whose compression changes the values of a mask; save masks as PNG")


def read_semantic(
    root: Path, split: str, images: Sequence[dict[str, Any]], categories: Sequence[dict[str, Any]], path: Path
) -> SemanticMasks | None:
    """The semantic masks of a split, or None if there is no folder `semantic/<split>`; no mask is read yet.

    `images` and `categories` are those of the annotation file `path`.
    """
    folder, file = root / "semantic" / split, root / "semantic" / CLASSES_FILE
    if not folder.is_dir():
        return None
    return SemanticMasks(folder, images, read_classes(file) if file.exists() else classes_of(categories, path))


def check(train: SemanticMasks, val: SemanticMasks) -> None:
    """Read all masks of two splits; raise DataError if one is invalid, or if they cannot be learned from.

    At least two classes must be in train and one in val. If a classes file names the classes, each class of val
    must be in train.
    """
    names = train.classes.names
    for masks, least in ((train, 2), (val, 1)):
        found = masks.images_of_each_class
        if (found > 0).sum() < least:
            there = ", ".join(f"'{n}'" for n, count in zip(names, found, strict=True) if count) or "none"
            raise DataError(
                f"{masks.folder}: {len(masks.images):,} masks show too few classes ({there}), and no others but "
                f"ignored pixels; check the values, and name them in semantic/{CLASSES_FILE}"
            )
    in_train, in_val = train.images_of_each_class, val.images_of_each_class
    lacking = np.flatnonzero((in_val > 0) & (in_train == 0))
    if train.classes.file and len(lacking):
        i = int(lacking[0])
        mask = val.path(int(val.presence[:, i].argmax()))
        raise DataError(
            f"{mask}: class '{names[i]}' is in {in_val[i]:,} masks of {val.folder.name} and in none of "
            f"{train.folder.name} ({len(lacking)} such classes); add training images with it, or name its value "
            f"void in {train.classes.file}"
        )
