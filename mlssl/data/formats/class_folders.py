"""Class folders: one category per photo, named by its folder. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from unicodedata import normalize

from mlssl.data.formats.splits import SPLITS, of_folders, of_lists
from mlssl.errors import DataError


@dataclass(frozen=True)
class ClassFolders:
    """The categories of photos, and their official splits."""

    categories: dict[str, str]
    """Photo -> its category; photos without one are left out."""
    splits: dict[str, str]
    """Photo -> train, val or test; empty if the set has no official splits."""


def read_class_folders(folder: Path, names: Sequence[str]) -> ClassFolders:
    """The category of each of `names`, paths with `/` below `folder`.

        class/photo.jpg, class/more/photo.jpg          the first folder is the class
        train/class/photo.jpg, val/…, test/…           official splits by folders (see `of_folders`)
        train.txt, test.txt beside the classes         official splits by lists (see `of_lists`)

    Folders around all classes do not count. Classes are in Unicode's NFC, without spaces around them. A photo in
    no folder has no category; with lists, one on no list has none either. Raises DataError if there are fewer than
    two categories, and for invalid lists.
    """
    by_folder = of_folders(name for name in names if "/" in name)
    splits, place = by_folder or ({}, -1)
    parts = {}
    for name in names:
        folders = list(PurePosixPath(name).parts[:-1])
        if splits and name in splits:
            del folders[place]
        if folders:
            parts[name] = folders
    while parts and len({folders[0] for folders in parts.values()}) == 1 and min(map(len, parts.values())) > 1:
        parts = {name: folders[1:] for name, folders in parts.items()}
    categories = {name: normalize("NFC", folders[0].strip()) for name, folders in parts.items()}
    if not splits:
        splits = of_lists(folder, names)
        if splits:
            categories = {name: category for name, category in categories.items() if name in splits}
    found = {SPLITS.get(category.lower()) for category in categories.values()}
    if not splits and "train" in found and found & {"val", "test"}:
        other = next((c for c in categories.values() if c.lower() not in SPLITS), "photos in no class folder")
        raise DataError(f"{folder}: has splits such as 'train' beside '{other}'; move that out, or into a split")
    if len(set(categories.values())) < 2:
        only = ", ".join(f"'{name}'" for name in set(categories.values())) or "none"
        raise DataError(f"{folder}: has one folder of photos or none ({only}); give a folder for each class")
    return ClassFolders(categories, splits)
