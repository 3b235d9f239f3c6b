"""Values from YAML, checked against the declarations in `settings`, and error messages that a user can act on.

`read` and `build` make a class of settings from plain values; `plain` is the way back. Imports no torch.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import typing
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from mlssl.errors import ConfigError, did_you_mean
from mlssl.study.settings import STRICT
from mlssl.study.yaml_files import read_yaml

T = TypeVar("T")


def validate(annotation: Any, value: Any, where: str) -> Any:
    """Convert `value`, as read from YAML, to the type `annotation`.

    Raises ConfigError, with the key, the value and what is allowed; `where` (file and section) opens the message.
    """
    text = json.dumps(value, default=str)
    try:
        return adapter(annotation).validate_json(text)
    except ValidationError as error:
        raise ConfigError(_sentence(error, annotation, json.loads(text), where)) from None


@functools.lru_cache(maxsize=256)
def adapter(annotation: Any) -> TypeAdapter:
    """The pydantic adapter that reads values strictly as the type `annotation`."""
    marked = typing.get_origin(annotation) is typing.Annotated
    config = None if dataclasses.is_dataclass(typing.get_args(annotation)[0] if marked else annotation) else STRICT
    return TypeAdapter(annotation, config=config)


ALLOWED = {
    "greater_than": "give more than {gt}",
    "greater_than_equal": "give at least {ge}",
    "less_than": "give less than {lt}",
    "less_than_equal": "give at most {le}",
    "literal_error": "give {expected}",
    "int_type": "give a whole number",
    "int_from_float": "give a whole number",
    "float_type": "give a number",
    "finite_number": "give a finite number",
    "bool_type": "give true or false",
    "string_type": "give a text",
    "string_too_short": "give a text",
    "string_pattern_mismatch": "give lower-case letters, digits and _{dash}",
    "tuple_type": "give a list such as [0, 1]",
    "list_type": "give a list such as [0, 1]",
    "too_short": "give at least {min_length}",
    "too_long": "give {max_length}",
    "dict_type": "give a mapping such as {{key: value}}",
    "dataclass_type": "give a mapping such as {{key: value}}",
    "dataclass_exact_type": "give a mapping such as {{key: value}}",
    "value_error": "{error}",
}
UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")
MISSING = ("missing", "missing_argument")


def _sentence(error: ValidationError, annotation: Any, value: Any, where: str) -> str:
    """One error: where it is, the value, and what is allowed there."""
    found = [(_place(e, value), e) for e in error.errors(include_url=False)]
    # A misspelt key gives two errors, an unknown and a missing key; the first helps more.
    place, first = next((f for f in found if f[1]["type"] in UNKNOWN), found[0])
    key, section = _key(where, place), _key(where, place[:-1])
    if first["type"] in UNKNOWN:
        known = known_keys(annotation, place[:-1])
        return f"{section}: unknown key '{place[-1]}'{did_you_mean(place[-1], known)}; known are {', '.join(known)}"
    if first["type"] in MISSING:
        what = f"key '{place[-1]}'" if isinstance(place[-1], str) else f"value {place[-1] + 1}"
        return f"{section}: {what} is missing; add it"
    if first["type"] == "value_error" and isinstance(first["input"], dict):  # of a section: it names the keys
        return f"{key}: {first['ctx']['error']}"
    # Where several types are allowed, each has its error.
    allowed = list(dict.fromkeys(_allowed(e) for at, e in found if at == place))
    allowed[1:] = [text.removeprefix("give ") for text in allowed[1:]]
    shown = repr(first["input"])
    shown = shown if len(shown) <= 60 else f"{shown[:57]}…"
    return f"{key}: {shown} is not allowed; {' or '.join(allowed)}"


def _place(error: Mapping[str, Any], value: Any) -> list[str | int]:
    """The keys that lead to the error within `value`; pydantic's own list names types among them."""
    place = []
    for part in error["loc"]:
        if part in (value if isinstance(value, dict) else range(len(value) if isinstance(value, list) else 0)):
            value = value[part]
            place.append(part)
    return [*place, error["loc"][-1]] if error["type"] in MISSING else place


def _key(where: str, place: list[str | int]) -> str:
    """`file: section.key`, where `where` is `file` or `file: section`."""
    return where + ("." if ": " in where else ": ") + ".".join(map(str, place)) if place else where


def _allowed(error: Mapping[str, Any]) -> str:
    text, context = ALLOWED.get(error["type"]), error.get("ctx", {})
    dash = " or -, a letter or digit first" if "-]" in str(context.get("pattern")) else ""
    return text.format(**context, dash=dash) if text else error["msg"]


def known_keys(annotation: Any, place: list[str | int]) -> list[str]:
    """The keys of the section at `place` within a class of settings."""
    for part in place:
        is_class = dataclasses.is_dataclass(annotation)
        annotation = _section(hints(annotation)[str(part)] if is_class else typing.get_args(annotation)[-1])
    return [f.name for f in dataclasses.fields(annotation)] if dataclasses.is_dataclass(annotation) else []


def _section(annotation: Any) -> Any:
    """The class of settings, or the mapping, that an annotation has among its options."""
    options = [annotation]
    while options and not dataclasses.is_dataclass(options[0]) and typing.get_origin(options[0]) is not dict:
        options = [*typing.get_args(options[0]), *options[1:]]
    return options[0] if options else None


def check_section(cls: type, values: Mapping[str, Any], where: str, *, without: Collection[str] = ()) -> None:
    """Check each of the given keys of `cls`; missing keys are allowed. Raises ConfigError."""
    known = {f.name: hint for f, hint in zip(dataclasses.fields(cls), hints(cls).values(), strict=True)}
    known = {name: hint for name, hint in known.items() if name not in without}
    for key, value in values.items():
        if key not in known:
            raise ConfigError(
                f"{where}: unknown key '{key}'{did_you_mean(key, known)}; known are {', '.join(known)}"
            )
        validate(known[key], value, f"{where}.{key}")


def build(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Make the frozen settings `cls` from plain values, as read from YAML.

    `where` (file and section) opens every message. Raises ConfigError for an unknown or missing key, or a value of
    another type or outside of the range.
    """
    return validate(cls, dict(values), where)


@functools.cache
def hints(cls: type) -> dict[str, Any]:
    """Field -> annotation of a class of settings, with its range and kind."""
    return typing.get_type_hints(cls, include_extras=True)


def plain(value: Any) -> Any:
    """Settings, or the value of one, as nested dicts, lists and scalars, ready for YAML or JSON."""
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


A_STUDY = frozenset({"extends", "methods", "compare", "transfers"})
"""Keys that only a study has."""


def read(cls: type[T], path: Path) -> T:
    """Read the settings `cls` from a YAML file. Raises ConfigError."""
    values = read_yaml(path)
    if not isinstance(values, Mapping):
        held = "nothing" if values is None else type(values).__name__
        raise ConfigError(f"{path}: holds {held}; give a mapping of keys to values")
    if A_STUDY & values.keys() - known_keys(cls, []):
        raise ConfigError(
            f"{path}: is a study, not the settings of one stage; give it by --study with --run-name, or write the "
            f"settings of one of its runs or transfers by `mlssl resolve NAME --study {path} --out FILE`"
        )
    return build(cls, values, str(path))
