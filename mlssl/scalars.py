"""The scalars of a method, read from the source of its constructor without importing it."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from mlssl.config import ConfigError


def check_scalars(methods: Mapping[str, Any], common: Mapping[str, Any], path: Path) -> None:
    """Every method must be there, and every scalar under `common` known to at least one of them."""
    known = set()
    for name, method in methods.items():
        if method.get("target"):
            try:
                known |= set(constructor_defaults(method["target"]))
            except ConfigError as error:
                raise ConfigError(f"{path}: methods.{name}: {error}") from None
    for key in common:
        if key not in known:
            raise ConfigError(
                f"{path}: common.{key}: no method has this scalar; they have {', '.join(sorted(known))}"
            )


def resolve_params(
    target: str | None, common: Mapping[str, Any], own: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """All scalars of a method: constructor defaults, then the study's common ones, then its own."""
    defaults = constructor_defaults(target) if target else {}
    for key in own:
        if key not in defaults:
            raise ConfigError(f"{where}: params.{key}: {target} has no such scalar; it has {', '.join(defaults)}")
    return defaults | {k: v for k, v in common.items() if k in defaults} | dict(own)


@cache
def constructor_defaults(target: str) -> dict[str, Any]:
    """The keyword-only scalars of a method's constructor, read from its source without importing it."""
    tree = ast.parse(source_file(target).read_text())
    class_name = target.rpartition(".")[2]
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == class_name:
            init = next(n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__")
            pairs = zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True)
            return {arg.arg: ast.literal_eval(default) for arg, default in pairs if default}
    raise ConfigError(f"target '{target}': its module has no class {class_name}")


def source_file(target: str) -> Path:
    """The file that defines a method given by its dotted path."""
    module = target.rpartition(".")[0]
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:
        raise ConfigError(
            f"target '{target}': there is no module '{module}'; give package.module.Class, importable from here"
        )
    return Path(spec.origin)
