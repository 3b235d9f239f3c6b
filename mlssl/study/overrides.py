"""Settings of a study that are given on the command line, as `--set pretrain.epochs=20`. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import quote, unquote

from mlssl.errors import ConfigError
from mlssl.study.yaml_files import parse


def as_text(overrides: Iterable[str]) -> str:
    """Overrides as one value of Snakemake's `--config`, joined by `&`, other characters as in an address (`%26`).

    Snakemake hands a list, or a text with quotes, to the jobs of a scheduler in a form that a shell cannot read.
    """
    return "&".join(quote(text, safe="=.,[] ") for text in overrides)


def from_text(text: str) -> tuple[str, ...]:
    """The overrides that `as_text` wrote."""
    return tuple(unquote(part) for part in text.split("&") if part)


def as_values(overrides: Iterable[str]) -> dict[str, Any]:
    """`pretrain.epochs=20` as `{"pretrain": {"epochs": 20}}`; a value is read as in a study file.

    Raises ConfigError for a text without `=`, a key with an empty part, and a key within another that has a value.
    """
    values: dict[str, Any] = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        parts = key.strip().split(".")
        if not equals or not all(parts):
            raise ConfigError(f"--set: '{text}' is not allowed; give key=value, such as pretrain.epochs=20")
        place = values
        for depth, part in enumerate(parts[:-1]):
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ConfigError(f"--set: '{text}': {'.'.join(parts[: depth + 1])} has a value already; give one")
        place[parts[-1]] = parse(value, f"--set: '{text}'")
    return values
