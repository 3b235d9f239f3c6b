"""A study file, expanded into runs: what is trained, what is measured, and which table wants it.

Two tables that want the same run share it: a run is named by the digest of its resolved configuration, in
which every default is written out. Imports no torch: a dry run reads constructor defaults from the source.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from mlssl.config import (
    Config,
    ConfigError,
    Data,
    Detection,
    Linear,
    Pictures,
    Pretrain,
    PseudoLabels,
    Segmentation,
    build,
    plain,
    read_yaml,
)
from mlssl.provenance import digest_of

SCHEMA = Path(__file__).parents[1] / "workflow" / "schemas" / "study.schema.yaml"
TRANSFERS: dict[str, type] = {
    "linear": Linear,
    "detection": Detection,
    "segmentation": Segmentation,
    "pseudo_labels": PseudoLabels,
}
COMPARE = "method"
"""Name of the axis of the main comparison."""


@dataclass(frozen=True)
class Run:
    """One pretraining: a configuration with its seed."""

    id: str
    digest: str
    """Of the configuration without its seed."""
    config: Pretrain


@dataclass(frozen=True)
class Cell:
    """A run's place in a table: one seed of one level of an axis."""

    axis: str
    level: str
    run: str


@dataclass(frozen=True)
class Study:
    """All runs of a study, where they belong, and the transfers each goes through."""

    path: Path
    name: str
    about: str
    scenes: dict[str, Any] | None
    """Settings of the embedded dataset, if the study draws it."""
    data: Data
    runs: dict[str, Run]
    cells: tuple[Cell, ...]
    transfers: dict[str, Config]
    transfer_runs: dict[str, tuple[str, ...]]
    """The runs that each transfer evaluates."""
    pictures: Pictures | None
    """How neighbours and score histograms are drawn; None draws none."""
    search_benchmark: dict[str, Any] | None
    """Settings of the benchmark of searches; None runs none."""

    @property
    def out(self) -> Path:
        return Path("results") / self.name

    @property
    def store(self) -> Path:
        """Where the training images lie decoded; shared by studies on the same data."""
        key = digest_of([self.data.root, self.data.train, self.data.short_side])
        return Path("results") / "data" / f"store-{key[:8]}"

    @property
    def compared(self) -> dict[str, str]:
        """Compared method -> its run of the first seed."""
        first: dict[str, str] = {}
        for cell in self.cells:
            if cell.axis == COMPARE:
                first.setdefault(cell.level, cell.run)
        return first

    @property
    def pictured(self) -> dict[str, str]:
        """The runs that neighbours and histograms are drawn of, by method."""
        return self.compared if self.pictures else {}

    @property
    def seeds(self) -> list[int]:
        return sorted({run.config.seed for run in self.runs.values()})

    def axes(self) -> dict[str, list[str]]:
        """Axis -> its levels, in the order of the study file."""
        levels: dict[str, list[str]] = {}
        for cell in self.cells:
            known = levels.setdefault(cell.axis, [])
            if cell.level not in known:
                known.append(cell.level)
        return levels


def load(path: Path | str) -> Study:
    """Read, validate and expand a study; ConfigError names file, key, value and remedy."""
    path = Path(path)
    values = read_yaml(path)
    validate(values, path)

    scenes = values["data"].get("scenes")
    data_values = {k: v for k, v in values["data"].items() if k != "scenes"}
    if scenes:
        data_values["root"] = f"results/data/scenes-{digest_of(scenes)[:8]}"
    data = build(Data, data_values, f"{path}: data")

    methods, common = values["methods"], values.get("common", {})
    check_scalars(methods, common, path)
    runs: dict[str, Run] = {}
    cells: list[Cell] = []

    def add(axis: str, level: str, method: str, override: Mapping[str, Any]) -> None:
        if method not in methods:
            raise ConfigError(
                f"{path}: {axis}: method '{method}' is not under methods; known are {', '.join(methods)}"
            )
        target = methods[method].get("target")
        where = f"{path}: methods.{method}"
        params = resolve_params(target, common, {**methods[method].get("params", {}), **override}, where)
        for seed in values["seeds"]:
            pretrain = {
                **values["pretrain"],
                "data": plain(data),
                "method": method,
                "target": target,
                "params": params,
                "seed": seed,
            }
            config = build(Pretrain, pretrain, f"{path}: pretrain")
            without_seed = digest_of({k: v for k, v in plain(config).items() if k != "seed"})
            run = Run(f"{method}-{without_seed[:8]}-s{seed}", without_seed, config)
            runs[run.id] = run
            cells.append(Cell(axis, level, run.id))

    for method in values["compare"]:
        add(COMPARE, method, method, {})
    for axis, ablation in values.get("ablations", {}).items():
        for level, (method, override) in ablation_levels(ablation).items():
            add(axis, level, method, override)

    transfers, transfer_runs = {}, {}
    compared = {cell.run for cell in cells if cell.axis == COMPARE}
    for name, settings in values["transfers"].items():
        own = {k: v for k, v in settings.items() if k not in ("runs", "seeds")}
        transfers[name] = build(TRANSFERS[name], {**own, "data": plain(data)}, f"{path}: transfers.{name}")
        seeds = settings.get("seeds", values["seeds"])
        everything = settings.get("runs", "all") == "all"
        transfer_runs[name] = tuple(
            run.id
            for run in runs.values()
            if (everything or run.id in compared)
            and run.config.seed in seeds
            and (name != "pseudo_labels" or has_pseudo_labels(run.config))
        )
    search = values.get("search_benchmark")
    if search and search["method"] not in values["compare"]:
        raise ConfigError(
            f"{path}: search_benchmark.method: '{search['method']}' is not compared; give one of "
            f"{', '.join(values['compare'])}"
        )
    pictures = build(Pictures, values["pictures"], f"{path}: pictures") if "pictures" in values else None
    return Study(
        path=path,
        name=values["name"],
        about=values["about"],
        scenes=scenes,
        data=data,
        runs=runs,
        cells=tuple(cells),
        transfers=transfers,
        transfer_runs=transfer_runs,
        pictures=pictures,
        search_benchmark=search,
    )


def has_pseudo_labels(config: Pretrain) -> bool:
    """Whether the run's method picks labels from its dictionary: it then has a scalar `rule`."""
    return "rule" in config.params


def ablation_levels(ablation: Mapping[str, Any]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Level -> (method, overridden scalars), from `param` and `values` or from `levels`."""
    if "levels" in ablation:
        return {level: (entry["method"], entry.get("params", {})) for level, entry in ablation["levels"].items()}
    return {str(v): (ablation["method"], {ablation["param"]: v}) for v in ablation["values"]}


def validate(values: Any, path: Path) -> None:
    """Check a study against the schema; ConfigError names the key of the first error."""
    schema = yaml.safe_load(SCHEMA.read_text())
    errors = sorted(Draft202012Validator(schema).iter_errors(values), key=lambda e: list(map(str, e.path)))
    if errors:
        error = errors[0]
        key = ".".join(map(str, error.path)) or "the file"
        raise ConfigError(f"{path}: {key}: {error.message}; see {SCHEMA.name} for what it takes")


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
