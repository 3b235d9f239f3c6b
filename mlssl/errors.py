"""The errors that a user can fix. Each message names file, key, value and remedy."""

import difflib
from collections.abc import Iterable


def did_you_mean(given: object, known: Iterable[str]) -> str:
    """` (did you mean 'study'?)` if one of the known names is like the given one, else nothing."""
    names = {name.lower().replace("-", "_"): name for name in map(str, known)}
    near = difflib.get_close_matches(str(given).lower().replace("-", "_"), names, 1)
    return f" (did you mean '{names[near[0]]}'?)" if near else ""


class ConfigError(ValueError):
    """A setting that cannot be used."""


class DataError(ValueError):
    """Data that cannot be used."""


class Resumable(DataError):
    """Data or a machine that stopped a command, which goes on where it ended when it is called again."""


class MissingLabels(DataError):
    """Data without the labels that an evaluator needs."""
