"""A study file merged over the files that it `extends`. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any

from mlssl.errors import ConfigError
from mlssl.study.settings import SOURCES
from mlssl.study.yaml_files import read_yaml


def read_extended(path: Path, seen: tuple[Path, ...] = ()) -> Any:
    """The values of a study file, merged over those of the files that it `extends` (relative to its folder).

    Of several files, each is merged over those before it. Mappings are merged key by key, other values replace
    those of the base; null removes a mapping, from whichever file of the chain it is. `about` is not inherited, and
    a data source replaces that of the base if it is of another kind. `seen` are the files that led here.
    """
    values, seen = read_yaml(path), (*seen, path.resolve())
    if not isinstance(values, dict) or "extends" not in values:
        return values
    named = values.pop("extends")
    bases = []
    for name in named if isinstance(named, list) else [named]:
        at = path.parent / str(name)
        if not at.is_file():
            raise ConfigError(f"{path}: extends: {name}: no file {at}; give the path as seen from {path.parent}")
        if at.resolve() in seen:
            raise ConfigError(f"{path}: extends: {at} extends itself; name another study")
        base = read_extended(at, seen)
        if not isinstance(base, dict):
            raise ConfigError(f"{path}: extends: {at} is not a study")
        bases.append(base)
    return reduce(extended, [*bases, values])


def extended(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """A study's values over those of its base; `base` is changed."""
    base["about"] = ""
    for section in ("data", "transfer_data"):
        replace_source(base.get(section), over.get(section))
    return merged(base, over)


def replace_source(base: Any, over: Any) -> None:
    """Remove the source of a `data` section and its splits from `base`, if `over` has another kind of source."""
    if not isinstance(base, dict) or not isinstance(over, dict):
        return
    given = {key for key in SOURCES if over.get(key) is not None}
    if given and given.isdisjoint(key for key in SOURCES if base.get(key) is not None):
        for key in (*SOURCES, "train", "val"):
            base.pop(key, None)


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in over.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), Mapping):
            result[key] = merged(base[key], value)
        elif value is None and isinstance(base.get(key), Mapping):
            del result[key]
        else:
            result[key] = value
    return result
