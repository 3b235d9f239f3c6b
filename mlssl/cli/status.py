"""The report of `mlssl status`: what is finished, what runs, what failed and why, and the time that is left."""

from __future__ import annotations

import json
import os
import re
import textwrap
import time
from dataclasses import dataclass
from pathlib import Path

from mlssl.analysis.failures import last_error, reason
from mlssl.analysis.outputs import HISTOGRAMS, count_files, figure_files, table_files
from mlssl.cost.estimate import duration, seconds_left
from mlssl.errors import ConfigError
from mlssl.study.progress import Progress, some
from mlssl.study.study import PICTURES, Run, Study

QUIET = 900.0
"""Seconds without a new line of the log, or a checkpoint, after which a job may have been interrupted."""
TAIL = 10_000
"""Bytes at the end of a log in which its last line is."""
SHOWN, MOST = 100, 20
"""Characters of a log's last line, and number of running transfers, that are shown."""


@dataclass(frozen=True)
class Training:
    """A pretraining that has begun and has not ended."""

    run: str
    step: int
    total: int | None
    """Steps of the whole run; None if its images cannot be counted."""
    images_per_s: float
    batch_size: int
    age: float
    """Seconds since it last wrote something."""

    @property
    def left(self) -> float | None:
        """Seconds that it still takes, at its last rate."""
        if self.total is None or not self.images_per_s:
            return None
        return (self.total - self.step) * self.batch_size / self.images_per_s

    def text(self) -> str:
        of = "" if self.total is None else f" of {self.total:,}"
        left = "" if self.left is None else f", {duration(self.left)} left"
        news = f"last news {duration(max(self.age, 0))} ago"
        if self.age > QUIET:
            left, news = "", f"{news}: interrupted? The next `mlssl run` resumes it"
        return f"{self.run}: step {self.step:,}{of}, {self.images_per_s:,.0f} img/s{left} ({news})"


def training(study: Study, run: Run) -> Training | None:
    """The state of a run by the last whole line of its log; None if it has no log yet, has ended or has failed."""
    state = study.out / "runs" / run.id / "state"
    log = state / "log.jsonl"
    if study.result(run.id, "pretrain").exists() or (state / "failed.json").exists() or not log.exists():
        return None
    with open(log, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
        lines = file.read().split(b"\n")[:-1]  # what follows the last line end is being written
    if not lines:
        return None
    line, images = json.loads(lines[-1]), study.source.images()[0]
    steps = run.config.steps
    total = run.config.total_steps(images) if images is not None else steps
    news = max(path.stat().st_mtime for path in (log, state / "checkpoint.pt") if path.exists())
    return Training(run.id, line["step"], total, line["images_per_s"], run.config.batch_size, time.time() - news)


@dataclass(frozen=True)
class Evaluating:
    """A transfer whose job has begun: it has a log, but neither a result nor an error at the end of the log."""

    run: str
    stage: str
    age: float
    """Seconds since the log was last written."""
    said: str
    """The last line of the log; empty if there is none yet."""

    def text(self) -> str:
        news = f"last news {duration(max(self.age, 0))} ago"
        if self.age > QUIET:
            news = f"{news}: silent for long, or interrupted; then the next `mlssl run` repeats it"
        return f"{self.run} ({self.stage}): {self.said + ' ' if self.said else ''}({news})"


def evaluating(study: Study) -> list[Evaluating]:
    """The transfers that have begun and have not ended, in the order of the study."""
    found = []
    for stage, runs in study.transfer_runs.items():
        for run in runs:
            log = study.out / "logs" / stage / f"{run}.log"
            if log.exists() and not study.result(run, stage).exists() and not last_error(log):
                age = time.time() - log.stat().st_mtime
                found.append(Evaluating(run, stage, age, textwrap.shorten(last_line(log), SHOWN, placeholder=" …")))
    return found


def last_line(log: Path) -> str:
    """The last line of a log that is not empty; progress bars write theirs with carriage returns."""
    with open(log, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
        lines = re.split(r"[\r\n]+", file.read().decode("utf-8", errors="replace").strip())
    return lines[-1].strip()


def other_failures(study: Study) -> list[str]:
    """`failed: <reason>: tables`, for tables, figures, pictures, search and page that are missing."""
    logs = study.out / "logs"
    made = {"collect": [study.out / "metrics.tsv"], "tables": table_files(study), "figures": figure_files(study)}
    made |= {"page": [study.out / "index.html"], "contact_sheet": [study.out / "figures" / "contact_sheet.png"]}
    if study.search_benchmark:
        made["search_benchmark"] = [study.search_out / "search.json"]
    for method in study.pictured:
        for stage, file in zip(PICTURES, study.picture_files(method), strict=True):
            made[f"{stage}/{method}"] = [file]
    if count_files(study):
        made["histogram_sheet"] = [study.out / "figures" / f"{HISTOGRAMS}.png"]
    found: dict[str, list[str]] = {}
    for name, files in made.items():
        log = logs / f"{name}.log"
        if log.exists() and not all(file.exists() for file in files) and (why := last_error(log)):
            found.setdefault(why, []).append(name)
    return [f"failed: {why}: {some(names)}" for why, names in found.items()]


def failures(study: Study, progress: Progress) -> list[str]:
    """One line for each reason, with the stages of runs that have it."""
    found: dict[str, list[str]] = {}
    for run in study.runs.values():
        for stage in study.stages(run.id):
            if (run.id, stage) not in progress.results and (why := reason(study, run, stage)):
                found.setdefault(why, []).append(f"{run.id} ({stage})")
    return [f"{why}: {some(names)}" for why, names in found.items()]


def report(study: Study) -> str:
    """All of it as text, of a study that has not begun, runs, was interrupted, failed or is finished."""
    progress = Progress(study)
    lines = [progress.status()]
    begun = [found for run in study.runs.values() if (found := training(study, run))]
    if begun:
        lines += ["training:", *(f"  {found.text()}" for found in begun)]
    if running := evaluating(study):
        lines += ["evaluating:", *(f"  {found.text()}" for found in running[:MOST])]
        lines += [f"  and {len(running) - MOST} more"] if len(running) > MOST else []
    lines += failures(study, progress) + other_failures(study)
    cores = os.cpu_count() or 1
    try:
        left = seconds_left(study, cores)
    except ConfigError:
        lines.append("time left: unknown; `mlssl estimate` says which rates are missing")
    else:
        page = study.out / "index.html"
        where = f"; page: {page}" if page.exists() else ""
        done = sum((found.step * found.batch_size / found.images_per_s) for found in begun if found.images_per_s)
        rest = max(left - done / cores, 0.0)
        lines.append(
            f"time left: about {duration(rest)}, by rates measured before{where}" if left else f"finished{where}"
        )
    return "\n".join(lines)
