"""A study file, expanded into runs: what is trained, what is measured, and which table shows it.

Two tables that want the same run share it: a run is named by the digest of its experiment (see `identity`), in
which every default is written out. Imports no torch: a dry run reads constructor defaults from the source.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mlssl.errors import ConfigError, did_you_mean
from mlssl.study.backbones import check_backbone, is_transformer, patch
from mlssl.study.identity import pairs_file, run_digest, run_name, weights_id
from mlssl.study.methods import check_views, is_supervised, resolve
from mlssl.study.settings import (
    FROZEN,
    TRANSFERS,
    Config,
    Detection,
    Preprocessing,
    Pretrain,
    Segmentation,
    Selection,
    StudyFile,
    Transfer,
)
from mlssl.study.sources import Source
from mlssl.study.study import COMPARE, Cell, Run, Study, has_pseudo_labels
from mlssl.study.validation import build, plain


def start(file: StudyFile, name: str) -> dict[str, Any]:
    """What a method's runs are given for pretraining: the study's settings, its own, and its `weights`."""
    method = file.methods[name]
    given = {**file.pretrain, **method.pretrain}
    if method.weights is not None:
        given |= {"init": method.weights, "init_prefix": method.prefix}
        given["init_preprocessing"] = None if method.preprocessing is None else plain(method.preprocessing)
    return given


def expand(
    file: StudyFile,
    path: Path,
    source: Source,
    transfer_source: Source,
    weights: Mapping[str, str],
    changes: tuple[str, ...],
) -> Study:
    """A study's runs, their places in its tables, and their transfers."""
    runs, cells = expand_runs(file, source, weights, path)
    transfers: dict[str, Transfer] = {}
    transfer_runs: dict[str, tuple[str, ...]] = {}
    shown = {cell.run for cell in cells}
    compared = {cell.run for cell in cells if cell.axis == COMPARE}
    # Photos without labels have no transfers.
    for name, given in file.transfers.items() if transfer_source.labelled else ():
        on = source if name == "pseudo_labels" else transfer_source
        selecting: dict[str, Any] = {key: given[key] for key in ("runs", "seeds") if key in given}
        own = {key: value for key, value in given.items() if key not in selecting}
        where = f"{path}: transfers.{name}"
        transfers[name] = build(TRANSFERS[name], {**own, "data": plain(on.data)}, where)
        selection = build(Selection, selecting, where)
        seeds = seeds_of(file, selection.seeds, where)
        transfer_runs[name] = tuple(
            run.id
            for run in runs.values()
            if run.id in (shown if selection.runs == "all" else compared)
            and run.config.seed in seeds
            and (name != "pseudo_labels" or has_pseudo_labels(run.config))
            and (name in FROZEN or not is_transformer(run.config.backbone))
        )
        for run in transfer_runs[name]:
            check_patches(runs[run].config.backbone, transfers[name], where)
    if transfers and transfer_source.images()[1] == 0:
        raise ConfigError(f"{path}: data.val: split '{transfer_source.data.val}' is empty; give one with images")
    check_shares(file.gpus_per_run, file.nodes, runs, transfers, path)
    return Study(
        path=path,
        file=file,
        source=source,
        transfer_source=transfer_source,
        weights=dict(weights),
        changes=changes,
        runs=runs,
        cells=cells,
        transfers=transfers,
        transfer_runs=transfer_runs,
    )


def _list(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def seeds_of(file: StudyFile, subset: tuple[int, ...] | None, where: str) -> tuple[int, ...]:
    """A subset of the study's seeds, all if it is None; ConfigError for a seed that the study does not have."""
    for seed in subset or ():
        if seed not in file.seeds:
            raise ConfigError(f"{where}.seeds: {seed} is not a seed of the study; it has {_list(file.seeds)}")
    return subset or file.seeds


def levels(file: StudyFile) -> list[tuple[str, str, str, dict[str, Any]]]:
    """Axis, level, method and overridden parameters of every row of the study's tables."""
    rows: list[tuple[str, str, str, dict[str, Any]]] = [(COMPARE, method, method, {}) for method in file.compare]
    for axis, ablation in file.ablations.items():
        if ablation.levels is not None:
            rows += [(axis, level, entry.method, entry.params) for level, entry in ablation.levels.items()]
        else:
            assert ablation.method is not None  # Ablation checks that it has levels, or all of these three
            assert ablation.param is not None
            assert ablation.values is not None
            rows += [(axis, str(v), ablation.method, {ablation.param: v}) for v in ablation.values]
    return rows


def expand_runs(
    file: StudyFile, source: Source, weights: Mapping[str, str], path: Path
) -> tuple[dict[str, Run], tuple[Cell, ...]]:
    """All runs of a study, by id, and their places in its tables.

    A method whose boxes are paired by the network of another one brings the runs of that one with it.
    """
    runs: dict[str, Run] = {}
    cells: list[Cell] = []
    settings_of = partial(configured, file, source, weights, path, source.images()[0])

    def add(config: Pretrain, seed: int, before: str | None = None) -> str:
        digest = run_digest(config)
        run = Run(run_name(config, digest, seed), digest, replace(config, seed=seed), first_stage=before)
        # Methods that differ in their name alone share a run; it has the name that comes first.
        return runs.setdefault(run.id, run).id

    for axis, level, name, override in levels(file):
        where = f"{path}: methods.{name}"
        if axis != COMPARE:
            by_value = file.ablations[axis].levels is None
            where = f"{path}: ablations.{axis}." + ("values" if by_value else f"levels.{level}")
        config = settings_of(name, override, where, f"{axis} = {level}")
        first = first_stage(file, path, config, settings_of)
        axis_seeds = None if axis == COMPARE else file.ablations[axis].seeds
        for seed in seeds_of(file, axis_seeds, f"{path}: ablations.{axis}"):
            if first is None:
                run = add(config, seed)
            else:
                before = add(first, seed)
                pairs = pairs_file(config, Path("results") / file.name / "runs" / before)
                run = add(replace(config, pairs_id=run_digest(first), pairs_file=str(pairs)), seed, before)
            cells.append(Cell(axis, level, run))
    return runs, tuple(cells)


def configured(
    file: StudyFile,
    source: Source,
    weights: Mapping[str, str],
    path: Path,
    images: int | None,
    name: str,
    override: Mapping[str, Any],
    where: str,
    level: str,
) -> Pretrain:
    """The settings of a method's runs on `images` images, without their seed; `where` and `level` open messages."""
    method = file.methods[name]
    params = resolve(method.target, file.common, {**method.params, **override}, where, f"{path}: common")
    given = start(file, name)
    init = given.get("init") and str(Path(given["init"]).expanduser())
    trained_as = given.get("init_preprocessing")
    if init and trained_as is not None:
        trained_as = build(Preprocessing, trained_as, f"{path}: pretrain.init_preprocessing")
    config = build(
        Pretrain,
        {
            **given,
            "data": plain(source.data),
            "method": name,
            "target": method.target,
            "params": params,
            "init_id": weights_id(weights[init], given.get("init_prefix"), trained_as) if init else None,
            "supervised": is_supervised(method.target),
        },
        f"{path}: pretrain",
    )
    if config.supervised and not source.labelled:
        raise ConfigError(f"{where}: {method.target} trains with labels, and data has none; leave the method out")
    check_views(config.target, len(config.each_view), f"{where}.pretrain")
    check_sizes(config, images, f"{path}: {level}")
    check_backbone(config.backbone, f"{path}: pretrain.backbone")
    if method.target and is_transformer(config.backbone):
        raise ConfigError(
            f"{path}: pretrain.backbone: methods train convolutional models, and '{config.backbone}' is a "
            "vision transformer, which is evaluated with weights from a file; give one such as resnet50"
        )
    return config


def first_stage(
    file: StudyFile, path: Path, config: Pretrain, settings_of: Callable[..., Pretrain]
) -> Pretrain | None:
    """The settings of the runs whose network pairs boxes for those of `config`; None where nothing is paired.

    `settings_of` is `configured` with the study's arguments.
    """
    if config.pairs is None:
        return None
    name, where = config.pairs.method, f"{path}: methods.{config.method}.pretrain.pairs.method"
    if name not in file.methods:
        raise ConfigError(
            f"{where}: '{name}' is not under methods{did_you_mean(name, file.methods)}; known are "
            f"{', '.join(file.methods)}"
        )
    first = settings_of(name, {}, f"{path}: methods.{name}", f"methods.{name}")
    if first.target is None or first.supervised or first.pairs is not None:
        raise ConfigError(
            f"{where}: '{name}' trains nothing, trains with labels, or needs pairs itself; give a method that "
            "trains on whole images without labels, such as BYOL"
        )
    return first


def check_sizes(config: Pretrain, images: int | None, where: str) -> None:
    """Refuse a dictionary that a batch does not fit into, a batch that the images do not fill, and no steps."""
    size, batch = config.params.get("dictionary_size"), config.batch_size
    if size is not None and size < batch:
        raise ConfigError(
            f"{where}: dictionary_size {size} is smaller than batch_size {batch}; give at least {batch}"
        )
    if config.target and images is not None and batch > images:
        raise ConfigError(f"{where}: batch_size {batch} is larger than the dataset of {images} images; give less")
    if config.target and images is not None and not config.total_steps(images):
        raise ConfigError(
            f"{where}: epochs {config.epochs:g} of {images} images in batches of {batch} are 0 steps; give more"
        )


def check_patches(backbone: str, transfer: Transfer, where: str) -> None:
    """Refuse a size that is no whole number of a vision transformer's patches."""
    size, side = getattr(transfer, "size", 0), patch(backbone)
    if size % side:
        raise ConfigError(f"{where}.size: {size} is no multiple of {side}, the patch of {backbone}; give one")


def check_shares(
    gpus: int, nodes: int, runs: Mapping[str, Run], transfers: Mapping[str, Config], path: Path
) -> None:
    """Refuse batches that the GPUs of a run cannot share evenly, and GPUs that the nodes cannot."""
    if gpus % nodes:
        raise ConfigError(f"{path}: gpus_per_run {gpus} cannot be shared evenly by {nodes} nodes; give a multiple")
    trained = [run.config for run in runs.values() if run.config.target]
    batches = {f"pretrain.batch_size of {config.method}": config.batch_size for config in trained}
    for name, config in transfers.items():
        if isinstance(config, Detection | Segmentation):
            batches[f"transfers.{name}.batch_size"] = config.batch_size
    for key, batch in batches.items():
        if batch % gpus:
            raise ConfigError(f"{path}: {key}: {batch} cannot be shared evenly by {gpus} GPUs; give a multiple")
