"""A study file, expanded into runs: what is trained, what is measured, and which table shows it.

Two tables that want the same run share it: a run is named by the digest of its experiment (see `identity`), in
which every default is written out. Imports no torch: a dry run reads constructor defaults from the source.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from mlssl.digest import digest_of
from mlssl.errors import ConfigError, did_you_mean
from mlssl.files import write_json
from mlssl.project import included
from mlssl.study.backbones import check_backbone, is_transformer, patch
from mlssl.study.extends import merged, read_extended
from mlssl.study.fingerprint import content_id
from mlssl.study.identity import (
    experiment,
    pairs_file,
    proposals_file,
    run_digest,
    run_name,
    transfer_digest,
    weights_id,
)
from mlssl.study.images import about_images, absent_images, own_photos
from mlssl.study.methods import check_common, check_views, is_supervised, resolve
from mlssl.study.overrides import as_values
from mlssl.study.settings import FROZEN as FROZEN_TRANSFERS
from mlssl.study.settings import (
    RESOLVED,
    TRANSFERS,
    Config,
    CostBenchmark,
    Data,
    Detection,
    Pictures,
    Preprocessing,
    Pretrain,
    SearchBenchmark,
    Segmentation,
    Selection,
    StudyFile,
    Transfer,
)
from mlssl.study.sources import CACHE, Source, identify, read_source
from mlssl.study.validation import build, check_section, plain

COMPARE = "method"
"""Name of the axis of the main comparison."""
PICTURES = ("neighbours", "histograms")
"""What is drawn of a compared method, if the study wants pictures."""
FROZEN = "study.json"
"""Under a study's output: the study as the last call of Snakemake read it, for its jobs."""


@dataclass(frozen=True)
class Run:
    """One pretraining: a configuration with its seed."""

    id: str
    digest: str
    """Of the experiment, without its seed."""
    config: Pretrain
    first_stage: str | None = None
    """The run whose network pairs the boxes that this one trains on."""


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
    file: StudyFile
    """Its settings."""
    source: Source
    """Where the images to pretrain on come from."""
    transfer_source: Source
    """Where the images of the transfers come from; `source` unless the study has `transfer_data`."""
    runs: dict[str, Run]
    cells: tuple[Cell, ...]
    transfers: dict[str, Transfer]
    transfer_runs: dict[str, tuple[str, ...]]
    """The runs that each transfer evaluates."""
    weights: dict[str, str]
    """The identities of the files that runs start from."""
    changes: tuple[str, ...] = ()
    """Sentences on what has changed in the data since it was last read."""
    overrides: tuple[str, ...] = ()
    """What the command line sets, such as `pretrain.epochs=20`; `file` has it."""

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def about(self) -> str:
        """What captions say of the study: its own words, or where its images come from."""
        if self.file.about:
            return self.file.about
        images, transferred = about_images(self.source), about_images(self.transfer_source)
        return images if images == transferred else f"{images}; transfers: {transferred}"

    @property
    def pictures(self) -> Pictures | None:
        """How neighbours and score histograms are drawn; None draws none."""
        return self.file.pictures

    @property
    def search_benchmark(self) -> SearchBenchmark | None:
        """Settings of the benchmark of searches; None runs none."""
        return self.file.search_benchmark

    @property
    def cost_benchmark(self) -> CostBenchmark | None:
        """Settings of the benchmark of the methods' costs; None runs none."""
        return self.file.cost_benchmark

    @property
    def gpus_per_run(self) -> int:
        return self.file.gpus_per_run

    @property
    def nodes(self) -> int:
        return self.file.nodes

    @property
    def frozen(self) -> Path:
        """Where `freeze` puts the study for the jobs of Snakemake."""
        return self.out / FROZEN

    def result(self, run: str, stage: str) -> Path:
        """The result file of a run's stage; that of a transfer is named by the transfer's settings and data."""
        digest = f"-{transfer_digest(stage, self.transfers[stage])[:8]}" if stage in self.transfers else ""
        return self.out / "runs" / run / f"{stage}{digest}.json"

    @property
    def search_out(self) -> Path:
        """Where the benchmark of searches goes."""
        assert self.search_benchmark is not None
        named = [self.compared[self.search_benchmark.method], experiment(self.search_benchmark)]
        return self.out / "search" / digest_of(named)[:8]

    @property
    def costed(self) -> dict[str, Run]:
        """The compared methods that train -> their run of the first seed, whose cost is measured."""
        runs = {method: self.runs[run] for method, run in self.compared.items()}
        return {method: run for method, run in runs.items() if run.config.target}

    @property
    def cost_out(self) -> Path:
        """Where the benchmark of the methods' costs goes."""
        assert self.cost_benchmark is not None
        named = [{method: run.digest for method, run in self.costed.items()}, experiment(self.cost_benchmark)]
        return self.out / "cost" / digest_of(named)[:8]

    @property
    def own_photos(self) -> bool:
        """Whether it trains or tests on the user's own photos."""
        return own_photos(self.source, self.transfer_source)

    def absent(self) -> list[str]:
        """One sentence for each file, folder or library that the study names but that is not there."""
        found = absent_images(self.source, f"{self.path}: data")
        if self.transfer_source is not self.source:
            found += absent_images(self.transfer_source, f"{self.path}: transfer_data")
        named = initial_weights(self.file)
        lost = [init for init in self.weights if not Path(init).exists()]
        found += [f"{self.path}: {named[init]}: {init}: no such file; check the path" for init in lost]
        tools = {tool for run in self.runs.values() if run.config.target for tool in run.config.log_to}
        return found + [
            f"{self.path}: pretrain.log_to: {tool} is not installed; run `pip install {tool}`, or take it out"
            for tool in sorted(tools)
            if importlib.util.find_spec(tool) is None
        ]

    @property
    def data(self) -> Data:
        """The images to pretrain on."""
        return self.source.data

    @property
    def out(self) -> Path:
        return Path("results") / self.name

    @property
    def store(self) -> Path:
        """Where the decoded training images are; shared by studies on the same images."""
        key = digest_of([self.data.images_id, self.data.short_side])
        return Path("results") / "data" / f"store-{key[:8]}"

    @property
    def proposals(self) -> dict[Path, str]:
        """The files of proposals that runs train on -> the first run of each."""
        return self.proposals_of(self.runs)

    def proposals_of(self, runs: Collection[str]) -> dict[Path, str]:
        """The same for some of the runs."""
        found: dict[Path, str] = {}
        for run in self.runs.values():
            if run.id in runs and run.config.takes_proposals:
                found.setdefault(proposals_file(run.config.proposals, self.store), run.id)
        return found

    @property
    def first_stages(self) -> dict[str, str]:
        """Run -> the run whose network pairs the boxes that it trains on."""
        return {run.id: run.first_stage for run in self.runs.values() if run.first_stage}

    @property
    def pairs(self) -> dict[Path, str]:
        """The files of paired boxes that runs train on -> the first run of each."""
        return self.pairs_of(self.runs)

    def pairs_of(self, runs: Collection[str]) -> dict[Path, str]:
        """The same for some of the runs."""
        found: dict[Path, str] = {}
        for run in self.runs.values():
            if run.id in runs and run.config.pairs_file is not None:
                found.setdefault(Path(run.config.pairs_file), run.id)
        return found

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
        """The runs that neighbours and histograms are drawn of, by method; supervised ones have no key encoder, and
        vision transformers no map that it projects."""
        if not self.pictures:
            return {}
        configs = {method: self.runs[run].config for method, run in self.compared.items()}
        left_out = {m for m, c in configs.items() if c.supervised or is_transformer(c.backbone)}
        return {method: run for method, run in self.compared.items() if method not in left_out}

    def picture_files(self, method: str) -> list[Path]:
        """What is drawn of a compared method: neighbours, and counts of scores.

        A finished method whose histograms an earlier version drew, and whose checkpoint is gone, keeps that
        picture: counts would cost a pretraining.
        """
        neighbours, drawn = (self.out / "figures" / f"{kind}_{method}.png" for kind in PICTURES)
        counts, run = drawn.with_suffix(".json"), self.out / "runs" / self.pictured[method]
        kept = (run / "pretrain.json").exists() and not (run / "checkpoint.pt").exists()
        return [neighbours, drawn if kept and drawn.exists() and not counts.exists() else counts]

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


def load(path: Path | str, *, in_job: bool = False, overrides: Iterable[str] = ()) -> Study:
    """Read, check and expand a study; ConfigError names file, key, value and remedy.

    `overrides`, such as `pretrain.epochs=20`, replace what the file says; a frozen study has its own.

    Checks size and times of every file of its data. A file written by `freeze` is read instead, without this check,
    if `path` is one, or if a job of Snakemake asks (`in_job`) and the study has one.
    """
    path = Path(path)
    if path.suffix == ".json":
        return thaw(path)
    if not path.exists():
        like, names = did_you_mean(path.stem, included()), ", ".join(included())
        raise ConfigError(f"{path}: no such file{like}; give the path of a study, or the name of one of {names}")
    values = read_extended(path)
    if not isinstance(values, dict):
        held = "nothing" if values is None else type(values).__name__
        raise ConfigError(f"{path}: holds {held}; give a mapping of keys to values")
    overrides = tuple(overrides)
    values = merged(values, as_values(overrides))
    if in_job and (frozen := Path("results") / str(values.get("name")) / FROZEN).exists():
        return thaw(frozen)
    file = build(StudyFile, values, str(path))
    check_sections(file, path)
    source, changes = identify(read_source(file.data, f"{path}: data"))
    transfer_source = source
    if file.transfer_data:
        transfer_source, more = identify(read_source(file.transfer_data, f"{path}: transfer_data"))
        changes += more
    weights = {}
    for init in initial_weights(file):
        weights[init], more = content_id(Path(init), CACHE)
        changes += more
    return replace(expand(file, path, source, transfer_source, weights, tuple(changes)), overrides=overrides)


def freeze(study: Study) -> None:
    """Write a study, with the identities of its data, to `study.frozen`: its jobs need not compute them again."""
    sources = [
        {"root": s.data.root, "images_id": s.data.images_id, "data_id": s.data.data_id}
        for s in (study.source, study.transfer_source)
    ]
    write_json(
        study.frozen,
        {
            "path": str(study.path),
            "set": list(study.overrides),
            "study": plain(study.file),
            "sources": sources,
            "init": study.weights,
        },
    )


def thaw(path: Path) -> Study:
    """The study that `freeze` wrote to `path`."""
    try:
        frozen = json.loads(path.read_text(encoding="utf-8"))
        origin, values, given, weights = (frozen[key] for key in ("path", "study", "sources", "init"))
        overrides = tuple(frozen.get("set", ()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: is not a frozen study ({error!r}); give the study file") from None
    file, origin = build(StudyFile, values, origin), Path(origin)
    data, sources = (file.data, file.transfer_data or file.data), []
    for section, found in zip(data, given, strict=True):
        source = read_source(section, f"{origin}: data")
        sources.append(replace(source, data=replace(source.data, **found)))
    source, transfer_source = sources
    study = expand(file, origin, source, source if file.transfer_data is None else transfer_source, weights, ())
    return replace(study, overrides=overrides)


def check_sections(file: StudyFile, path: Path) -> None:
    """Check what is given for each stage and method, where it is given."""
    check_section(Pretrain, file.pretrain, f"{path}: pretrain", without=RESOLVED)
    for name, method in file.methods.items():
        check_section(Pretrain, method.pretrain, f"{path}: methods.{name}.pretrain", without=RESOLVED)
    for name, settings in file.transfers.items():
        if name not in TRANSFERS:
            raise ConfigError(
                f"{path}: transfers: unknown key '{name}'{did_you_mean(name, TRANSFERS)}; "
                f"known are {', '.join(TRANSFERS)}"
            )
        own = {key: value for key, value in settings.items() if key not in ("runs", "seeds")}
        check_section(TRANSFERS[name], own, f"{path}: transfers.{name}", without=RESOLVED)
    check_common({name: m.target for name, m in file.methods.items()}, file.common, str(path))
    for axis, level, named, _ in levels(file):
        if named not in file.methods:
            known = ", ".join(file.methods)
            place = "compare" if axis == COMPARE else f"ablations.{axis}: {level}"
            like = did_you_mean(named, file.methods)
            raise ConfigError(f"{path}: {place}: method '{named}' is not under methods{like}; known are {known}")
    search = file.search_benchmark
    if search and search.method not in file.compare:
        raise ConfigError(
            f"{path}: search_benchmark.method: '{search.method}' is not compared; give one of "
            f"{', '.join(file.compare)}"
        )
    cost = file.cost_benchmark
    trained = [method for method in file.compare if method in file.methods and file.methods[method].target]
    if cost and cost.relative_to not in trained:
        raise ConfigError(
            f"{path}: cost_benchmark.relative_to: '{cost.relative_to}' is not compared, or trains nothing; "
            f"give one of {', '.join(trained) or 'the methods with a target, after adding one to compare'}"
        )


def initial_weights(file: StudyFile) -> dict[str, str]:
    """The files that runs of the study start from, and the setting that names each."""
    sections = {"pretrain.init": file.pretrain}
    for name, method in file.methods.items():
        if method.weights:
            sections[f"methods.{name}.weights"] = {"init": method.weights}
        sections[f"methods.{name}.pretrain.init"] = method.pretrain
    found: dict[str, str] = {}
    for key, section in sections.items():
        if section.get("init"):
            found.setdefault(str(Path(section["init"]).expanduser()), key)
    return found


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
            and (name in FROZEN_TRANSFERS or not is_transformer(run.config.backbone))
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


def has_pseudo_labels(config: Pretrain) -> bool:
    """Whether the run's method makes pseudo-labels: it then has a parameter `rule`."""
    return "rule" in config.params
