"""A study's runs, where its tables show them, and its files."""

from __future__ import annotations

import importlib.util
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from mlssl.digest import digest_of
from mlssl.study.backbones import is_transformer
from mlssl.study.identity import experiment, proposals_file, transfer_digest
from mlssl.study.images import about_images, absent_images, own_photos
from mlssl.study.settings import CostBenchmark, Data, Pictures, Pretrain, SearchBenchmark, StudyFile, Transfer
from mlssl.study.sources import Source

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

    def stages(self, run: str) -> list[str]:
        """The stages of a run: `pretrain` and its transfers."""
        return ["pretrain", *(transfer for transfer, runs in self.transfer_runs.items() if run in runs)]

    def results_of(self, axis: str) -> list[Path]:
        """The result files of all runs of an axis."""
        runs = dict.fromkeys(cell.run for cell in self.cells if cell.axis == axis)
        return [self.result(run, stage) for run in runs for stage in self.stages(run)]

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


def has_pseudo_labels(config: Pretrain) -> bool:
    """Whether the run's method makes pseudo-labels: it then has a parameter `rule`."""
    return "rule" in config.params
