"""The parameters of a method: names, types, ranges and defaults, read from the source of its constructor.

The class is not imported, so that a dry run needs no torch. Annotations are what Python and pydantic know: `int`,
`float`, `bool`, `str`, `Literal[...]`, `X | None`, `Annotated[int, Field(ge=1)]`, and the names of
`mlssl.ranges` (`Count`, `Positive`, …) where the module imports them. `REQUIRES` in the class body, a tuple of
comparisons such as "k <= dictionary_size", joined by `or` where one of several is enough, gives conditions on
several parameters.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import inspect
import json
import operator
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import pydantic

from mlssl import ranges
from mlssl.errors import ConfigError, did_you_mean
from mlssl.project import search_here
from mlssl.study import validation

KNOWN = {"typing": typing, "pydantic": pydantic, "mlssl.ranges": ranges}
"""Modules whose names an annotation may use; importing them runs no code of a method."""
COMPARISONS = {ast.LtE: operator.le, ast.Lt: operator.lt, ast.GtE: operator.ge, ast.Gt: operator.gt}
COMPARISONS |= {ast.NotEq: operator.ne, ast.Eq: operator.eq}


def _finite(value: Any) -> Any:
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        raise ValueError("give finite numbers") from None
    return value


FINITE = Annotated[Any, pydantic.AfterValidator(_finite)]
"""The type of a parameter without annotation and default."""


@dataclass(frozen=True)
class Constructor:
    """What the keyword-only parameters of a method's constructor take."""

    types: dict[str, Any]
    """Parameter -> annotation."""
    defaults: dict[str, Any]
    """Of those that have one; all others must be given."""
    requires: tuple[str, ...]
    supervised: bool = False
    """Whether it takes `labels`, the image labels, after the backbone."""
    views: tuple[int, int | None] | None = None
    """Least and largest number of views that `step` takes (None: any number); None without a `step` of its own."""


def source_file(target: str) -> Path:
    """The file that defines a method given by its dotted path."""
    search_here()
    module = target.rpartition(".")[0]
    try:
        spec = importlib.util.find_spec(module) if module else None
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise ConfigError(
            f"target '{target}': there is no module '{module}'; give package.module.Class, importable from here"
        )
    return Path(spec.origin)


@cache
def constructor(target: str) -> Constructor:
    """The constructor of the class at a dotted path. Raises ConfigError for one that is missing or unreadable."""
    path, name = source_file(target), target.rpartition(".")[2]
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:
        number, why = getattr(error, "lineno", None), getattr(error, "msg", error)
        line = f", line {number}" if number else ""
        raise ConfigError(f"target '{target}': {path}{line}: is not valid Python ({why}); fix it") from None
    found = next((n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name), None)
    if found is None:
        raise ConfigError(f"target '{target}': its module has no class {name}")
    init = next((n for n in found.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    if init is None:
        raise ConfigError(f"target '{target}': {name} has no __init__ of its own; write one with its parameters")
    names = _names(tree)
    types, defaults = {}, {}
    for arg, default in zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True):
        where = f"target '{target}': parameter {arg.arg}"
        if default is not None:
            defaults[arg.arg] = _literal(default, where)
        types[arg.arg] = _annotation(arg, defaults.get(arg.arg), names, where)
    supervised = "labels" in [arg.arg for arg in init.args.args]
    return Constructor(types, defaults, _requires(found, target), supervised, _views(found))


def _views(cls: ast.ClassDef) -> tuple[int, int | None] | None:
    """How many views the signature of `step` takes: all arguments but `self` and `progress`."""
    step = next((n for n in cls.body if isinstance(n, ast.FunctionDef) and n.name == "step"), None)
    if step is None:
        return None
    named = [arg.arg for arg in (*step.args.posonlyargs, *step.args.args) if arg.arg not in ("self", "progress")]
    least = max(0, len(named) - len(step.args.defaults))
    return least, None if step.args.vararg else len(named)


def _names(tree: ast.Module) -> dict[str, Any]:
    """What annotations may refer to: builtin types, names imported from KNOWN, aliases made of these."""
    names: dict[str, Any] = {t.__name__: t for t in (int, float, bool, str, list, tuple, dict)} | {"None": None}
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module in KNOWN:
            for alias in node.names:
                names[alias.asname or alias.name] = getattr(KNOWN[node.module], alias.name, None)
        elif isinstance(node, ast.Import):
            names |= {a.asname or a.name: KNOWN[a.name] for a in node.names if a.name in KNOWN}
    for name, value in _assigned(tree):
        with contextlib.suppress(Exception):
            names[name] = _evaluate(value, names)
    return names


def _evaluate(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """An expression of names, attributes, subscripts, calls of pydantic's Field, `|` and literals."""
    called = [n for n in ast.walk(node) if isinstance(n, ast.Call)]
    if any(_evaluate(call.func, names) is not pydantic.Field for call in called):
        raise ValueError("calls something")
    return eval(compile(ast.Expression(node), "<annotation>", "eval"), {"__builtins__": {}}, dict(names))


def _annotation(arg: ast.arg, default: Any, names: Mapping[str, Any], where: str) -> Any:
    if arg.annotation is None:
        return FINITE if default is None else type(default)
    node = arg.annotation
    try:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node = ast.parse(node.value, mode="eval").body
        found = _evaluate(node, names)
        validation.adapter(found)
        return found
    except Exception as error:
        why = " ".join(str(error).split())
        raise ConfigError(
            f"{where}: its annotation '{ast.unparse(node)}' cannot be read ({why}); use int, float, bool, str, "
            "Literal[...] or Annotated[..., Field(...)]"
        ) from None


def _literal(node: ast.expr, where: str) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError):
        raise ConfigError(f"{where}: its default '{ast.unparse(node)}' is not a literal; write the value") from None


def _requires(cls: ast.ClassDef, target: str) -> tuple[str, ...]:
    for name, value in _assigned(cls):
        if name == "REQUIRES":
            found = _literal(value, f"target '{target}': REQUIRES")
            return (found,) if isinstance(found, str) else tuple(found)
    return ()


def _assigned(node: ast.Module | ast.ClassDef) -> Iterator[tuple[str, ast.expr]]:
    """The names that are given a value at the top of a module or a class, and the values."""
    for child in node.body:
        target = child.targets[0] if isinstance(child, ast.Assign) else getattr(child, "target", None)
        if isinstance(child, ast.Assign | ast.AnnAssign) and isinstance(target, ast.Name) and child.value:
            yield target.id, child.value


def resolve(
    target: str | None, common: Mapping[str, Any], own: Mapping[str, Any], where: str, common_where: str = "common"
) -> dict[str, Any]:
    """All parameters of a method, typed: its defaults, then the study's common ones, then its own.

    `where` and `common_where` (file and section) open the messages. Raises ConfigError for one that the
    method does not have, or whose value it does not take.
    """
    if target is None:
        if own:
            raise ConfigError(
                f"{where}.params.{next(iter(own))}: without a target there are no parameters; give one"
            )
        return {}
    takes = constructor(target)
    shared = {key: value for key, value in common.items() if key in takes.types}
    for key in own:
        if key not in takes.types:
            known = ", ".join(takes.types)
            like = did_you_mean(key, takes.types)
            raise ConfigError(f"{where}.params.{key}: {target} has no such parameter{like}; it has {known}")
    values = takes.defaults | shared | dict(own)
    for key in takes.types:
        if key not in values:
            raise ConfigError(f"{where}.params: {target} needs '{key}'; add it")
        shares = key in shared and key not in own
        values[key] = validation.validate(
            takes.types[key], values[key], f"{common_where}.{key}" if shares else f"{where}.params.{key}"
        )
    if values.get("proposals") == "selective_search" and "boxes" not in values:
        raise ConfigError(
            f"{where}.params.proposals: {target} has no parameter 'boxes', the number of proposals that go with "
            "its views; add it to its constructor"
        )
    check_requirements(takes.requires, values, f"{where}.params", target)
    return values


def check_views(target: str | None, count: int, where: str) -> None:
    """Refuse another number of views than `step` takes; `where` (file and section) opens the message."""
    takes = constructor(target).views if target else None
    if takes is None:
        return
    least, most = takes
    if count < least or (most is not None and count > most):
        number = f"{least} or more" if most is None else least if most == least else f"{least} to {most}"
        raise ConfigError(f"{where}.each_view: {target} takes {number} views, but {count} are given; give as many")


def is_supervised(target: str | None) -> bool:
    """Whether a method trains with image labels."""
    return target is not None and constructor(target).supervised


def check_requirements(requires: tuple[str, ...], values: Mapping[str, Any], where: str, target: str) -> None:
    """Refuse parameters that do not fulfil one of the requirements: comparisons, or several joined by `or`.

    A comparison with null is fulfilled.
    """
    for text in requires:
        try:
            node = ast.parse(text, mode="eval").body
            options = node.values if isinstance(node, ast.BoolOp) and isinstance(node.op, ast.Or) else [node]
            fulfilled = any([_fulfilled(option, values) for option in options])
        except (SyntaxError, AttributeError, KeyError, ValueError, TypeError):
            raise ConfigError(
                f"{where}: REQUIRES '{text}' of {target} is not a comparison of parameters and literals; fix it"
            ) from None
        if not fulfilled:
            names = dict.fromkeys(n.id for n in ast.walk(node) if isinstance(n, ast.Name))
            given = ", ".join(f"{name} is {values[name]}" for name in names)
            raise ConfigError(f"{where}: {text} must hold, but {given}")


def _fulfilled(comparison: ast.expr, values: Mapping[str, Any]) -> bool:
    if not isinstance(comparison, ast.Compare):
        raise ValueError("no comparison")
    terms = [comparison.left, *comparison.comparators]
    read = [values[t.id] if isinstance(t, ast.Name) else ast.literal_eval(t) for t in terms]
    pairs = zip(comparison.ops, read[:-1], read[1:], strict=True)
    return all([None in (a, b) or COMPARISONS[type(op)](a, b) for op, a, b in pairs])


def check_common(targets: Mapping[str, str | None], common: Mapping[str, Any], where: str) -> None:
    """Raise ConfigError for a target that does not exist, and a parameter under `common` that no method has."""
    known: set[str] = set()
    for name, target in targets.items():
        if target is not None:
            try:
                known |= set(constructor(target).types)
            except ConfigError as error:
                raise ConfigError(f"{where}: methods.{name}: {error}") from None
    for key in common:
        if key not in known:
            raise ConfigError(
                f"{where}: common.{key}: no method has this parameter{did_you_mean(key, known)}; "
                f"they have {', '.join(sorted(known))}"
            )


def load_class(target: str) -> type:
    """Import a method by its dotted path, for example `mlssl.method.mls.MLS`."""
    search_here()
    module, _, name = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"target '{target}' cannot be imported: {error}") from error
    if not inspect.isclass(found):
        raise ConfigError(f"target '{target}' is not a class; give package.module.Class")
    return found
