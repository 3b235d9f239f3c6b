"""A study file, expanded into runs: what is trained, what is measured, and which table wants it.

Two tables that want the same run share it: a run is named by the digest of its resolved configuration, in
which every default is written out. Imports no torch: a dry run reads constructor defaults from the source.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
from mlssl.scalars import check_scalars, resolve_params
from mlssl.source import Source, read_source

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
    source: Source
    """Where the images to pretrain on come from."""
    transfer_source: Source
    """Where the images of the transfers come from; the same unless the study says otherwise."""
    runs: dict[str, Run]
    cells: tuple[Cell, ...]
    transfers: dict[str, Config]
    transfer_runs: dict[str, tuple[str, ...]]
    """The runs that each transfer evaluates."""
    pictures: Pictures | None
    """How neighbours and score histograms are drawn; None draws none."""
    search_benchmark: dict[str, Any] | None
    """Settings of the benchmark of searches; None runs none."""
    gpus_per_run: int = 1
    """GPUs (without any: processes) that share a pretraining, a detection or a segmentation. Like `nodes`, no part
    of a run's digest: it changes the time, not the result."""
    nodes: int = 1
    """On so many machines they lie, as many on each."""

    @property
    def data(self) -> Data:
        """The images to pretrain on."""
        return self.source.data

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
    values = read_extended(path)
    validate(values, path)
    source = read_source(values["data"], f"{path}: data")
    elsewhere = values.get("transfer_data")
    transfer_source = read_source(elsewhere, f"{path}: transfer_data") if elsewhere else source
    runs, cells = expand(values, source, path)
    transfers, transfer_runs = {}, {}
    compared = {cell.run for cell in cells if cell.axis == COMPARE}
    # Photos without labels can be trained on and looked at, and no more.
    for name, settings in values["transfers"].items() if transfer_source.labelled else ():
        on = source if name == "pseudo_labels" else transfer_source
        own = {k: v for k, v in settings.items() if k not in ("runs", "seeds")}
        transfers[name] = build(TRANSFERS[name], {**own, "data": plain(on.data)}, f"{path}: transfers.{name}")
        seeds = settings.get("seeds", values["seeds"])
        everything = settings.get("runs", "all") == "all"
        transfer_runs[name] = tuple(
            run.id
            for run in runs.values()
            if (everything or run.id in compared)
            and run.config.seed in seeds
            and (name != "pseudo_labels" or has_pseudo_labels(run.config))
        )
    if transfers and transfer_source.images()[1] == 0:
        raise ConfigError(f"{path}: data.val: split '{transfer_source.data.val}' is empty; give one with images")
    search = values.get("search_benchmark")
    if search and search["method"] not in values["compare"]:
        raise ConfigError(
            f"{path}: search_benchmark.method: '{search['method']}' is not compared; give one of "
            f"{', '.join(values['compare'])}"
        )
    gpus, nodes = values.get("gpus_per_run", 1), values.get("nodes", 1)
    check_shares(gpus, nodes, runs, transfers, path)
    pictures = build(Pictures, values["pictures"], f"{path}: pictures") if "pictures" in values else None
    return Study(
        path=path,
        name=values["name"],
        about=values["about"],
        source=source,
        transfer_source=transfer_source,
        runs=runs,
        cells=cells,
        transfers=transfers,
        transfer_runs=transfer_runs,
        pictures=pictures,
        search_benchmark=search,
        gpus_per_run=gpus,
        nodes=nodes,
    )


def expand(values: Mapping[str, Any], source: Source, path: Path) -> tuple[dict[str, Run], tuple[Cell, ...]]:
    """All runs of a study, by id, and their places in its tables."""
    methods, common = values["methods"], values.get("common", {})
    check_scalars(methods, common, path)
    runs: dict[str, Run] = {}
    cells: list[Cell] = []
    images = source.images()[0]

    def add(axis: str, level: str, method: str, override: Mapping[str, Any]) -> None:
        if method not in methods:
            raise ConfigError(
                f"{path}: {axis}: method '{method}' is not under methods; known are {', '.join(methods)}"
            )
        told, where = methods[method], f"{path}: methods.{method}"
        target = told.get("target")
        params = resolve_params(target, common, {**told.get("params", {}), **override}, where)
        for seed in values["seeds"]:
            pretrain = {
                **values["pretrain"],
                **told.get("pretrain", {}),
                "data": plain(source.data),
                "method": method,
                "target": target,
                "params": params,
                "seed": seed,
            }
            config = build(Pretrain, pretrain, f"{path}: pretrain")
            check_sizes(config, images, f"{path}: {axis} = {level}")
            without_seed = digest_of({k: v for k, v in plain(config).items() if k != "seed"})
            run = Run(f"{method}-{without_seed[:8]}-s{seed}", without_seed, config)
            runs[run.id] = run
            cells.append(Cell(axis, level, run.id))

    for method in values["compare"]:
        add(COMPARE, method, method, {})
    for axis, ablation in values.get("ablations", {}).items():
        for level, (method, override) in ablation_levels(ablation).items():
            add(axis, level, method, override)
    return runs, tuple(cells)


def check_sizes(config: Pretrain, images: int | None, where: str) -> None:
    """Refuse k, dictionary and batch that do not fit each other, or a batch that the dataset cannot fill."""
    size, k, batch = config.params.get("dictionary_size"), config.params.get("k"), config.batch_size
    if size is not None and k is not None and k > size:
        raise ConfigError(f"{where}: k {k} is larger than dictionary_size {size}; give a smaller k")
    if size is not None and size < batch:
        raise ConfigError(
            f"{where}: dictionary_size {size} is smaller than batch_size {batch}; give at least {batch}"
        )
    if config.target and images is not None and batch > images:
        raise ConfigError(f"{where}: batch_size {batch} is larger than the dataset of {images} images; give less")


def check_shares(
    gpus: int, nodes: int, runs: Mapping[str, Run], transfers: Mapping[str, Config], path: Path
) -> None:
    """Refuse batches that the GPUs of a run cannot share evenly, and GPUs that the nodes cannot."""
    if gpus % nodes:
        raise ConfigError(f"{path}: gpus_per_run {gpus} cannot be shared evenly by {nodes} nodes; give a multiple")
    trained = [run.config for run in runs.values() if run.config.target]
    batches = {f"pretrain.batch_size of {config.method}": config.batch_size for config in trained}
    for name in ("detection", "segmentation"):
        if name in transfers:
            batches[f"transfers.{name}.batch_size"] = transfers[name].batch_size
    for key, batch in batches.items():
        if batch % gpus:
            raise ConfigError(f"{path}: {key}: {batch} cannot be shared evenly by {gpus} GPUs; give a multiple")


def read_extended(path: Path) -> Any:
    """A study file over the one that it `extends` (a path beside it), as far as there is one.

    Mappings are merged key by key, anything else takes the other's place; null takes a mapping away.
    """
    values, seen = read_yaml(path), [path.resolve()]
    at = path
    while isinstance(values, dict) and "extends" in values:
        by, named = at, str(values.pop("extends"))
        at = by.parent / named
        if not at.is_file():
            raise ConfigError(f"{by}: extends: {named}: no file {at}; give the path as seen from {by.parent}")
        if at.resolve() in seen:
            raise ConfigError(f"{by}: extends: {at} extends itself; name another study")
        seen.append(at.resolve())
        base = read_yaml(at)
        if not isinstance(base, dict):
            raise ConfigError(f"{by}: extends: {at} is no study")
        values = merged(base, values)
    return values


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
