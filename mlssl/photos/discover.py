"""Which files of a folder are labels, in which format, and what the others are."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlssl.data.formats.classes import YAML, Classes, is_list, read_class_file, read_classes
from mlssl.data.formats.foreign import foreign
from mlssl.data.formats.text import text_of
from mlssl.data.formats.yolo import looks_like_yolo
from mlssl.data.images import SUFFIXES, by_suffix
from mlssl.errors import DataError
from mlssl.photos.formats import LabelFile, from_cocos, from_csv, from_voc, from_yolo
from mlssl.photos.matching import Names

EXPORT = "export VOC, YOLO or COCO"
WANTED = "give a folder of VOC XML, YOLO txt or COCO JSON files, or a JSON or CSV file"


def read_label_file(path: Path, photos: Names) -> LabelFile:
    """Read a label file or folder in the format that its content has.

    A file is COCO's JSON, one VOC XML, a CSV, or the data.yaml of a folder. In a folder, at any depth:

    - XML with VOC's root `annotation` is labels; txt is, if its stem is a photo's or its first line is YOLO's.
    - JSON with `images`, `annotations` and `categories` is COCO's; the instances of several files add up.
    - Where the data.yaml of YOLO's files names folders that have labels, only these are read.
    - Only one of the formats may be there. The notes name what is not read; what it is, if it is annotations.

    Raises DataError for files of other tools if there is nothing else, naming the tool, and as the readers do.
    """
    try:
        if path.is_dir():
            return _read_folder(path, photos)
        return _read_file(path, photos)
    except FileNotFoundError as error:
        raise DataError(f"{error.filename}: no such file; give an existing file or folder of labels") from None
    except OSError as error:
        raise DataError(f"{error.filename}: cannot be read ({error.strerror}); make it readable") from None


def _read_file(path: Path, photos: Names) -> LabelFile:
    kind = foreign(path)
    if kind is not None:
        raise DataError(f"{path}: this is {kind}; {EXPORT}, or a CSV of file,label;label")
    if path.suffix.lower() in YAML:
        classes = read_class_file(path)
        if classes is None:
            raise DataError(f"{path}: has no key 'names', so it is no data.yaml; give a folder or file of labels")
        outside = [f for f in classes.folders if not f.is_relative_to(path.parent.resolve())]
        if outside:
            raise DataError(
                f"{path}: its labels are in {outside[0]}, outside the file's own folder; give that folder as "
                "labels, and copy the file into it"
            )
        return _read_folder(path.parent, photos, classes)
    with open(path, "rb") as handle:
        head = handle.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    # A file name may begin with a bracket.
    if path.suffix.lower() == ".json" or re.match(rb'\{\s*"|\[\s*\{\s*"|\[\s*\]\s*\Z|\{\s*\}\s*\Z', head):
        return from_cocos(path.parent, [path])
    if head[:1] == b"<" or path.suffix.lower() == ".xml":
        return from_voc(path.parent, [path])
    if path.suffix.lower() == ".txt" and looks_like_yolo(path):
        raise DataError(f"{path}: this is YOLO's txt of one photo; give the folder of all of them")
    return from_csv(path, photos.is_photo)


def _read_folder(folder: Path, photos: Names, classes: Classes | None = None) -> LabelFile:
    files = list_files(folder)
    notes: list[str] = []
    kinds = {path: foreign(path) for path in files if path.suffix.lower() in (".xml", ".json")}
    others = [path for path, kind in kinds.items() if kind is not None]
    readable = [path for path, kind in kinds.items() if kind is None]
    xml = [path for path in readable if path.suffix.lower() == ".xml"]
    coco, unknown = _coco([path for path in readable if path.suffix.lower() == ".json"])
    txt, texts = _yolo(files, photos)
    if (xml or coco) and not any(map(looks_like_yolo, txt)):  # Captions beside labels, for example.
        txt, texts = [], txt + texts
    formats = {"VOC XML": xml, "YOLO txt": txt, "COCO JSON": coco}
    there = {name: same for name, same in formats.items() if same}
    if len(there) > 1:
        shown = " and ".join(f"{name} ({same[0].relative_to(folder)})" for name, same in there.items())
        raise DataError(f"{folder}: has both {shown}; give the folder or file of one of them")
    if not there and others:
        raise DataError(f"{others[0]}: this is {kinds[others[0]]}; {EXPORT}")
    if not there and unknown:
        return from_cocos(folder, unknown[:1])  # Raises what is wrong with it.
    tables = [path for path in files if path.suffix.lower() in (".csv", ".tsv")]
    if not there:
        there_is = [path for path in files if not path.name.lower().endswith(SUFFIXES)]
        hint = f"; it has {by_suffix(there_is)}" if there_is else ""
        hint = f"; or did you mean {tables[0]}?" if tables else hint
        raise DataError(f"{folder}: has neither XML nor txt files of labels, nor COCO JSON; {WANTED}{hint}")
    if others:
        more = f" and {len(others) - 1:,} more files" if others[1:] else ""
        notes.append(f"{others[0].relative_to(folder)}{more}: this is {kinds[others[0]]}, not read")
    for what, same in (("text", texts), ("JSON", unknown), ("CSV", tables)):
        if same:
            shown = ", ".join(str(path.relative_to(folder)) for path in same[:3])
            more = ", …" if len(same) > 3 else ""
            notes.append(
                f"{len(same):,} {what} {'file is' if len(same) == 1 else 'files are'} not labels: {shown}{more}"
            )
    if xml:
        content = from_voc(folder, xml)
    elif coco:
        content = from_cocos(folder, coco)
    else:
        classes = classes or read_classes(folder, files)
        within = classes.folders
        named = [path for path in txt if any(path.resolve().is_relative_to(f) for f in within)] if within else txt
        if named and len(named) < len(txt):
            notes.append(
                f"{len(txt) - len(named):,} txt files are outside the folders that {classes.path.name} names"
            )
        content = from_yolo(folder, named or txt, classes)
    return replace(content, notes=notes + content.notes)


def list_files(folder: Path) -> list[Path]:
    """All files below a folder, sorted; hidden files and folders are left out, links to folders not followed."""
    found = []
    for here, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [os.path.join(here, name) for name in names if not name.startswith(".")]
    return [Path(path) for path in sorted(found) if os.path.isfile(path)]


def _yolo(files: Sequence[Path], photos: Names) -> tuple[list[Path], list[Path]]:
    """The txt files that are labels, and the others. One that is empty says that its photo has no object."""
    txt = [path for path in files if path.suffix.lower() == ".txt" and not is_list(path)]
    labels = {path for path in txt if photos.has_stem(path.name) or looks_like_yolo(path)}
    return [path for path in txt if path in labels], [path for path in txt if path not in labels]


def _coco(files: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """The JSON files with COCO's instances, and the others; COCO's keypoints describe people a second time."""
    found = {path: _content(path) for path in files}
    coco = [path for path, content in found.items() if _has_instances(content)]
    plain = [
        path for path in coco if not any("keypoints" in c for c in found[path]["categories"] if isinstance(c, dict))
    ]
    coco = plain or coco
    return coco, [path for path in files if path not in coco]


def _has_instances(content: Any) -> bool:
    keys = ("images", "annotations", "categories")
    return isinstance(content, dict) and all(isinstance(content.get(key), list) for key in keys)


def _content(path: Path) -> Any:
    try:
        return json.loads(text_of(path))
    except (ValueError, RecursionError, DataError):
        return None
