"""Official splits of a set: folders named train, val and test, or lists of photos. Imports no torch."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from mlssl.data.formats.text import lines
from mlssl.errors import DataError

SPLITS = {
    **dict.fromkeys(("train", "training", "trainval"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Names of splits, in lower case -> train, val or test."""
LIST = re.compile(r"([a-z]+?)[_-]?(images|list|files)?\.txt")
"""File names of lists, in lower case: train.txt, TrainImages.txt, test_list.txt."""
LIST_FOLDERS = (".", "meta", "splits", "lists")
"""Folders, relative to the labels, where lists of photos are."""


def of_folders(names: Iterable[str]) -> tuple[dict[str, str], int] | None:
    """The split of each photo by its folder, and the position of that folder in the path; None if there are none.

    `names` are paths with `/`. Every path must have a folder named as in SPLITS at the same position, the first one
    possible; some must be of train, and some of val or test.
    """
    folders = {name: PurePosixPath(name).parts[:-1] for name in names}
    if not folders:
        return None
    for place in range(min(map(len, folders.values()))):
        found = {name: SPLITS.get(parts[place].lower()) for name, parts in folders.items()}
        splits = {name: split for name, split in found.items() if split}
        if len(splits) == len(found) and "train" in splits.values() and set(splits.values()) != {"train"}:
            return splits, place
    return None


def list_files(folder: Path) -> dict[Path, str]:
    """The files below a folder that may list the photos of a split, and the split of each."""
    found = {}
    for place in LIST_FOLDERS:
        for path in sorted((folder / place).glob("*.[tT][xX][tT]")):
            match = LIST.fullmatch(path.name.lower())
            if match and match[1] in SPLITS:
                found[path] = SPLITS[match[1]]
    return found


def of_lists(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """The split of each photo that lists in `folder` name; without lists, {}.

    A line of a list is a photo's path or the end of it, with or without suffix; a number may follow. A file of
    which no line names a photo is not a list. If no list is of train, the photos on no list are. Raises DataError,
    with file, line, value and remedy, for a line that names no photo or several, for a photo in two splits, and if
    no list is of val or test.
    """
    by_end: dict[str, list[str]] = defaultdict(list)
    all_names = list(names)
    for name in all_names:
        photo = PurePosixPath(name)
        for parts in (photo.parts, photo.with_suffix("").parts):
            for start in range(len(parts)):
                by_end["/".join(parts[start:])].append(name)
    splits: dict[str, str] = {}
    first: dict[str, str] = {}
    read = {}
    for path, split in list_files(folder).items():
        rows = [(i, row.strip()) for i, row in enumerate(lines(path), start=1) if row.strip()]
        hits = {i: _photos(row, by_end) for i, row in rows}
        if not any(hits.values()):
            continue
        read[path] = split
        for i, row in rows:
            where = f"{path}: line {i}: '{row[:80]}'"
            if len(hits[i]) != 1:
                what = "names no photo" if not hits[i] else f"may be any of {len(hits[i])} photos"
                raise DataError(f"{where} {what}; correct the line or remove it")
            name = hits[i][0]
            if splits.setdefault(name, split) != split:
                raise DataError(f"{where} is in split {split}, but in {splits[name]} by {first[name]}; remove one")
            first.setdefault(name, f"{path.name} line {i}")
    if read and set(read.values()) == {"train"}:
        raise DataError(f"{next(iter(read))}: lists photos of train, but no list is of val or test; add val.txt")
    if read and "train" not in read.values():
        splits |= {name: "train" for name in all_names if name not in splits}
    return splits


def _photos(row: str, by_end: dict[str, list[str]]) -> list[str]:
    """The photos that a line of a list may name."""
    plain = row.replace("\\", "/").removeprefix("./")
    shorter = re.sub(r"[\s,;]+\d+$", "", plain)
    for text in (plain, shorter):
        hits = by_end.get(text, [])
        whole = [name for name in hits if text in (name, PurePosixPath(name).with_suffix("").as_posix())]
        if hits:
            return whole or hits
    return []
