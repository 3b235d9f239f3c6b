"""YAML files, read as JSON would be: `1e-4` is a number, and no key is given twice. Imports no torch."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from mlssl.errors import ConfigError


class _Loader(yaml.SafeLoader):
    """YAML in which `1e-4` is a number, as in JSON and YAML 1.2, and a key given twice is an error."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"key '{key.value}' is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return node


_Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(path: Path) -> Any:
    """Parse a YAML file; ConfigError names the file and the place when it cannot be read."""
    try:
        values = yaml.load(_text(path), Loader=_Loader)
        json.dumps(values, default=str)
        return values
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; check the path") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {_problem(error)}") from None
    except ConfigError:
        raise
    except (TypeError, ValueError, RecursionError) as error:  # a date as a key, a list within itself
        raise ConfigError(
            f"{path}: cannot be converted to JSON ({error}); give texts, numbers, lists, mappings"
        ) from None


def parse(text: str, where: str) -> Any:
    """Parse a value as in a YAML file; `where` opens the message of a ConfigError."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not valid YAML: {_problem(error)}") from None


def _problem(error: yaml.YAMLError) -> str:
    """What is wrong, and where: `line 7: key 'epochs' is given twice`."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    text = error.problem or "cannot be read"
    text = text.replace("found character '\\t' that cannot start any token", "a tab; indent by spaces")
    return f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}: {text}"


def _text(path: Path) -> str:
    content = Path(path).read_bytes()
    if content[:2].count(0) == 1 or content[:4].count(0) == 3:  # UTF-16 or UTF-32 without a byte order mark.
        raise ConfigError(f"{path}: is not UTF-8 but UTF-16 or UTF-32; save the file as UTF-8")
    return content.decode("utf-8-sig")
