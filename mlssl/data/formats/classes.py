"""What belongs to a folder of YOLO labels: names of classes, keypoints, folders. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unicodedata import normalize

import yaml

from mlssl.data.formats.text import integer, lines, text_of
from mlssl.errors import DataError

LISTS = ("classes.txt", "obj.names", "_darknet.labels")
"""Files with one name per line."""
YAML = (".yaml", ".yml")
SPLITS = ("train", "val", "valid", "test")


@dataclass(frozen=True)
class Classes:
    """The classes of a folder of YOLO labels."""

    path: Path
    """File that lists them."""
    names: dict[int, str]
    """By id, ascending; ids may have gaps."""
    keypoints: int = 0
    """Values after the box in each row, from `kpt_shape`; 0: rows have no keypoints."""
    folders: tuple[Path, ...] = ()
    """Existing folders of labels that belong to the `train`, `val` and `test` of a data.yaml."""

    def of(self, text: str, where: str) -> int:
        """The id that a row begins with, also written as `1.0`; DataError, beginning with `where`, if unknown."""
        id_ = integer(text)
        if id_ is None or id_ not in self.names:
            last = max(self.names)
            known = f"0 to {last}" if len(self.names) == last + 1 else ", ".join(map(str, self.names))[:60]
            raise DataError(
                f"{where}: class '{text[:40]}' is not in {known}; add its name to {self.path.name} or correct it"
            )
        return id_


class _Texts(yaml.BaseLoader):
    """YAML in which every value is a text, and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        twice = next((key for i, key in enumerate(keys) if key in keys[:i]), None)
        if twice is not None:
            raise yaml.MarkedYAMLError(problem=f"key '{twice}' is given twice", problem_mark=node.start_mark)
        return super().construct_mapping(node, deep)


def is_list(path: Path) -> bool:
    """Whether a file, by its name, lists classes one per line."""
    return path.name in LISTS or path.suffix == ".names"


def read_classes(folder: Path, files: Sequence[Path] = ()) -> Classes:
    """The classes of labels in `folder`, from `classes.txt`, a `.names` file or Ultralytics' YAML of any name.

    Looks in the folder, then in the two above it, then at `files`, those below the folder. In one place, a list
    comes before `data.yaml`, and `data.yaml` before other YAML with the key `names`. Raises DataError if there is
    none, if several of the same rank differ, or if the names are not unique texts.
    """
    for place in (folder, *folder.resolve().parents[:2]):
        if place.is_dir():
            found = _best([p for p in sorted(place.iterdir()) if not p.name.startswith(".") and p.is_file()])
            if found is not None:
                return found
    found = _best([path for path in files if path.parent != folder])
    if found is None:
        raise DataError(
            f"{folder}: has YOLO txt files but no classes.txt or data.yaml; write classes.txt with one name per "
            "line"
        )
    return found


def _best(files: Sequence[Path]) -> Classes | None:
    lists = [path for path in files if is_list(path)]
    texts = [path for path in files if path.suffix.lower() in YAML]
    exact = [path for path in texts if path.stem == "data"]
    for same in (lists, exact, [path for path in texts if path not in exact]):
        found = [classes for path in same if (classes := read_class_file(path)) is not None]
        for other in found[1:]:
            if other.names != found[0].names:
                raise DataError(
                    f"{other.path}: lists other class names than {found[0].path}; remove the one that is not used"
                )
        if found:
            return found[0]
    return None


def read_class_file(path: Path) -> Classes | None:
    """The classes of one file; None for YAML without the key `names`, which belongs to something else."""
    if is_list(path):
        rows = [line.strip() for line in lines(path)]
        while rows and not rows[-1]:
            rows.pop()
        if "" in rows:
            raise DataError(
                f"{path}: line {rows.index('') + 1} is empty, so the ids after it are ambiguous; remove it, or "
                "write a name"
            )
        return Classes(path, _checked(dict(enumerate(rows)), path))
    try:
        # The loader leaves `no`, `1` and `1.0` texts, as they are meant.
        content = yaml.load(text_of(path).lstrip("\ufeff"), Loader=_Texts)
    except (yaml.YAMLError, RecursionError) as error:
        raise DataError(f"{path}: not valid YAML ({str(error).splitlines()[0]}); write it again") from None
    if not isinstance(content, dict) or "names" not in content:
        if path.name == "data.yaml":
            raise DataError(f"{path}: lists no class names; list them under the key 'names'")
        return None
    names = content["names"]
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise DataError(f"{path}: lists no class names; list the names of classes 0, 1, …")
    by_id: dict[int, Any] = {}
    for key, name in names.items():
        id_ = integer(str(key))
        if id_ is None or id_ in by_id:
            raise DataError(f"{path}: names: '{key}' is not the id of one class; give integers from 0, each once")
        by_id[id_] = name
    return Classes(path, _checked(by_id, path), _keypoints(content.get("kpt_shape"), path), _folders(content, path))


def _checked(names: dict[int, Any], path: Path) -> dict[int, str]:
    if not names:
        raise DataError(f"{path}: lists no class names; list the names of classes 0, 1, …")
    for id_, name in names.items():
        if not isinstance(name, str) or not name.strip():
            raise DataError(f"{path}: lists no class names: that of class {id_} is {str(name)[:40]!r}; give a text")
    made = {id_: normalize("NFC", names[id_].strip()) for id_ in sorted(names)}
    if len(set(made.values())) < len(made):
        raise DataError(f"{path}: two classes have the same name; give each its own name")
    return made


def _keypoints(shape: Any, path: Path) -> int:
    if shape is None:
        return 0
    sides = [integer(str(side)) for side in shape] if isinstance(shape, list) else []
    if len(sides) != 2 or not sides[0] or sides[1] not in (2, 3):
        raise DataError(f"{path}: kpt_shape is {shape}; give the number of keypoints and 2 or 3 values of each")
    return sides[0] * sides[1]


def _folders(content: dict[str, Any], path: Path) -> tuple[Path, ...]:
    """The folders of labels of the splits: `images` in their paths replaced by `labels`, as Ultralytics does."""
    roots = [path.parent]
    if isinstance(content.get("path"), str) and "\0" not in content["path"]:
        roots.insert(0, path.parent / content["path"])
    found: list[Path] = []
    for split in SPLITS:
        values = content.get(split)
        for value in values if isinstance(values, list) else [values]:
            if not isinstance(value, str) or not value or "\0" in value:
                continue
            relative = value.replace("\\", "/")
            for root in roots:
                # Roboflow writes ../train/images for a folder that is beside the file.
                for place in (root / relative, root / relative.removeprefix("../")):
                    if place.is_dir():
                        parts = place.resolve().parts
                        at = max((i for i, part in enumerate(parts) if part == "images"), default=None)
                        labels = place if at is None else Path(*parts[:at], "labels", *parts[at + 1 :])
                        found.append((labels if labels.is_dir() else place).resolve())
                        break
                else:
                    continue
                break
    return tuple(dict.fromkeys(found))
