"""Which results of a study exist, and which code made them. Imports no torch."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mlssl import results
from mlssl.errors import ConfigError
from mlssl.files import numbered
from mlssl.study.code import differing, stage_code
from mlssl.study.identity import transfer_digest
from mlssl.study.settings import ONE_DEVICE
from mlssl.study.study import Run, Study

OLD = "old"
"""Under a study's output: where `redo` moves results."""
WEIGHTS = (*ONE_DEVICE, "detection", "segmentation")
"""Transfers that read `backbone.pt`."""


@dataclass(frozen=True)
class Result:
    """One finished stage of a run."""

    run: Run
    stage: str
    path: Path
    content: dict[str, Any]

    @property
    def header(self) -> dict[str, Any]:
        return self.content["header"]

    @property
    def other_code(self) -> list[str]:
        """Source files of the stage that have changed since it ran."""
        target = self.run.config.target if self.stage in ("pretrain", "search_benchmark") else None
        return differing(self.header["code"], stage_code(self.stage, target))


class Progress:
    """What is finished of a study, read from its result files."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.results = {(r.run.id, r.stage): r for r in _read(study)}
        """By run and stage."""
        self.search = _search(study)
        """The benchmark of searches."""

    def finished(self, stage: str) -> set[str]:
        """The runs whose stage needs no job: its result exists, and so do the files that other jobs need."""
        done = {run for run, name in self.results if name == stage}
        return {run for run in done if not self._missing(run)} if stage == "pretrain" else done

    def _missing(self, run: str) -> list[str]:
        """Files of a finished pretraining that are gone and that something still needs."""
        wanted = {"log.jsonl"}
        for transfer, runs in self.study.transfer_runs.items():
            if run in runs and (run, transfer) not in self.results:
                wanted |= {"backbone.pt"} if transfer in WEIGHTS else {"pseudo_labels.npz"}
        search = self.study.search_benchmark
        searched = search and not self.search and self.study.compared[search.method] == run
        if searched or any(run == own and not self._drawn(m) for m, own in self.study.pictured.items()):
            wanted.add("checkpoint.pt")
        trained = {name for name, stage in self.results if stage == "pretrain"}
        for file, paired in self.study.pairs_of(self.study.runs.keys() - trained).items():
            if self.study.runs[paired].first_stage == run and not file.exists():
                wanted.add("checkpoint.pt")
        folder = self.study.out / "runs" / run
        return [name for name in sorted(wanted) if not (folder / name).exists()]

    def _drawn(self, method: str) -> bool:
        return all(path.exists() for path in self.study.picture_files(method))

    def drawable(self) -> list[str]:
        """The methods whose pictures can be drawn, or drawn again: all but those whose checkpoint is gone."""
        trained = self.finished("pretrain")
        folder = self.study.out / "runs"
        return [
            method
            for method, run in self.study.pictured.items()
            if run not in trained or (folder / run / "checkpoint.pt").exists()
        ]

    @cached_property
    def other_code(self) -> dict[tuple[str, str], list[str]]:
        """(run, stage) -> the sources that have changed since, for results made by other code than there is now."""
        found = self.results | ({(self.search.run.id, self.search.stage): self.search} if self.search else {})
        return {key: files for key, result in found.items() if (files := result.other_code)}

    def status(self) -> str:
        """A report: results and missing results of each stage, and results of other settings that are kept."""
        study, lines = self.study, [f"{self.study.path}: {len(self.study.runs)} runs"]
        for stage in ("pretrain", *study.transfers):
            wanted = list(study.runs) if stage == "pretrain" else list(study.transfer_runs[stage])
            missing = [run for run in wanted if (run, stage) not in self.results]
            rest = f"; missing: {some(missing)}" if missing else ""
            lines.append(f"{stage:<14} {len(wanted) - len(missing)} of {len(wanted)}{rest}")
        lines += self._axes()
        kept = study.out / "runs"
        others = sorted(p.name for p in kept.iterdir() if p.name not in study.runs) if kept.is_dir() else []
        if others:
            lines.append(
                f"{len(others)} other runs are kept in {kept}: {some(others)} (other settings, data or version)"
            )
        return "\n".join([*lines, *([self.report()] if self.other_code else [])])

    def _axes(self) -> list[str]:
        """How many runs of each axis have all their results; empty once all have, or with one axis alone."""
        runs: dict[str, dict[str, bool]] = {}
        for cell in self.study.cells:
            finished = all((cell.run, stage) in self.results for stage in self.study.stages(cell.run))
            runs.setdefault(cell.axis, {})[cell.run] = finished
        unfinished = [axis for axis, done in runs.items() if not all(done.values())]
        if len(runs) < 2 or not unfinished:
            return []
        counts = ", ".join(f"{axis} {sum(done.values())} of {len(done)}" for axis, done in runs.items())
        return [f"runs by axis: {counts}; `mlssl run {self.study.path} axis_{unfinished[0]}` makes one axis"]

    def report(self) -> str:
        """Results made by other code, one line for each change; empty if there are none."""
        by_change: dict[tuple[str, ...], list[str]] = {}
        for (run, stage), files in self.other_code.items():
            by_change.setdefault(tuple(files), []).append(f"{run} ({stage})")
        if not by_change:
            return ""
        lines = [f"  {some(changed)}: {some(made)}" for changed, made in by_change.items()]
        return "\n".join(
            [
                f"{len(self.other_code)} finished results were made by other code, and are kept:",
                *lines,
                f"  `mlssl redo --study={self.study.path}` lets them be made again.",
            ]
        )


def some(names: Iterable[str], shown: int = 3) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _read(study: Study) -> Iterable[Result]:
    for run in study.runs.values():
        for stage in ("pretrain", *study.transfers):
            if stage != "pretrain" and run.id not in study.transfer_runs[stage]:
                continue
            path = study.result(run.id, stage)
            content = results.read_result(path)
            if content is not None:
                found = Result(run, stage, path, content)
                _check(study, found)
                yield found


def _search(study: Study) -> Result | None:
    if not study.search_benchmark:
        return None
    path = study.search_out / "search.json"
    content = results.read_result(path)
    run = study.runs[study.compared[study.search_benchmark.method]]
    return Result(run, "search_benchmark", path, content) if content else None


def _check(study: Study, result: Result) -> None:
    """A result must belong to the experiment that the study asks for at its place."""
    run, stage, header = result.run, result.stage, result.header
    protocol = run.digest if stage == "pretrain" else transfer_digest(stage, study.transfers[stage])
    wanted = {"stage": stage, "digest": run.digest, "seed": run.config.seed, "config_digest": protocol}
    for key, value in wanted.items():
        if header.get(key) != value:
            remedy = (
                f"`mlssl redo --study={study.path} --stage={stage} {run.id}` moves it away, or restore the study"
            )
            asked = f"{key} is {header.get(key)}, but {study.path} asks for {value}"
            raise ConfigError(f"{result.path}: {asked}; {remedy}")


def refuse_mixed(found: Iterable[Result]) -> None:
    """Refuse results of one stage that were made on other data than the rest: no mean may combine them."""
    first: dict[str, Result] = {}
    for result in found:
        other = first.setdefault(result.stage, result)
        key = "images" if result.stage == "pretrain" else "all"
        mine, theirs = result.header["data"][key], other.header["data"][key]
        if mine != theirs:
            raise ConfigError(
                f"{result.path} and {other.path}: were made on different data ({mine} and {theirs}); "
                f"`mlssl redo --stage={result.stage} {other.run.id}` lets the second be made again"
            )


def redo(study: Study, wanted: Iterable[tuple[str, str]]) -> list[Path]:
    """Move results (run, stage) away, so that the next call of Snakemake makes them again; returns where they are.

    With `pretrain`, all of a run goes: its training state and its transfers too.
    """
    stages: dict[str, set[str]] = {}
    for run, stage in wanted:
        stages.setdefault(run, set()).add(stage)
    moved = []
    for run, named in stages.items():
        folder = study.out / "runs" / run
        transfers = sorted(named & study.transfers.keys())
        there = [folder] if "pretrain" in named else [study.result(run, transfer) for transfer in transfers]
        there += [study.search_out] if study.search_benchmark and "search_benchmark" in named else []
        there = [path for path in there if path.exists()]
        if there:
            to = numbered(study.out / OLD / f"{run}.")
            to.mkdir(parents=True)
            for path in there:
                shutil.move(path, to / path.name)
            moved.append(to)
    return moved
