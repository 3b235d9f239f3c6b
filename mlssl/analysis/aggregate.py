"""Aggregate result rows over seeds: every level of an axis, every score, and missing results."""

from __future__ import annotations

import math
import statistics
import textwrap
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from mlssl.analysis.outputs import LABEL_FORCE, METRICS, NO_METRIC, Score, headline, runs_with
from mlssl.errors import ConfigError
from mlssl.study.study import COMPARE, Study

LEFT_OUT = "left out"
"""Start of the status of an evaluator that cannot use the data."""
OTHER_CODE = "†"
"""Marks a cell with a result that other code than the current code made."""
LONGEST = 120
"""Characters of a reason in a cell; metrics.tsv has all of it."""
NUMBERS = ("value", "n", "wall_s", "peak_memory_mb")


@dataclass(frozen=True)
class Summary:
    """One cell of a table: a score of one level over its seeds."""

    values: dict[int, float]
    """By seed."""
    expected: int
    """Number of seeds in the study; 0 if this level is not evaluated with the protocol."""
    absent: tuple[str, ...] = ()
    """Why the other seeds have no value: `missing`, `undefined` or `failed: <reason>`, one per seed."""
    other_code: bool = False
    """Whether other code than the current code made one of the results."""

    @property
    def n(self) -> int:
        return len(self.values)

    @property
    def mean(self) -> float:
        """Over seeds; NaN if there are none."""
        return statistics.fmean(self.values.values()) if self.values else math.nan

    @property
    def std(self) -> float:
        """Sample standard deviation over seeds (ddof 1); NaN for fewer than two."""
        return statistics.stdev(self.values.values()) if self.n > 1 else math.nan

    @property
    def status(self) -> str:
        """`ok`, or why seeds have no value: `missing (1 of 2 seeds)`."""
        counts = Counter(self.absent)
        word = "seed" if self.expected == 1 else "seeds"
        return ", ".join(f"{why} ({c} of {self.expected} {word})" for why, c in counts.items()) or "ok"

    def text(self, *, digits: int = 2, usual_n: int = 1) -> str:
        """`mean ± std`; with n if it is 1 or differs from `usual_n`, and with the status of missing seeds."""
        if not self.expected:
            return "–"
        parts = []
        if self.n:
            count = "" if self.n == usual_n > 1 else f" (n = {self.n})"
            spread = f" ± {self.std:.{digits}f}" if self.n > 1 else ""
            mark = f" {OTHER_CODE}" if self.other_code else ""
            parts.append(f"{self.mean:.{digits}f}{spread}{count}{mark}")
        if self.absent:
            parts.append(self.status)
        return "; ".join(parts)


def read_metrics(study: Study) -> pd.DataFrame:
    """Read `metrics.tsv` of a study; ConfigError, with the command to run, if it does not exist."""
    return read_metrics_file(study.out / "metrics.tsv", f"mlssl collect --study {study.path}")


def read_metrics_file(path: Path, command: str) -> pd.DataFrame:
    """Read a `metrics.tsv`; ConfigError, with the command that writes it, if it cannot be used."""
    if not path.exists():
        raise ConfigError(f"{path}: no such file; run `{command}` first")
    # Digests such as 12e4… would be read as numbers, and a method named `null` as NA.
    frame = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, na_values=["NA"])
    if missing := [column for column in METRICS if column not in frame]:
        raise ConfigError(
            f"{path}: has no column {', '.join(missing)}, because it was written by another version; "
            f"run `{command}`"
        )
    frame[list(NUMBERS)] = frame[list(NUMBERS)].astype(float)
    return frame.astype({"seed": int})


def summarise(study: Study, metrics: pd.DataFrame, axis: str, score: Score) -> dict[str, Summary]:
    """Level -> Summary of a score, for all levels of an axis in the study's order."""
    cells: dict[str, list[str]] = {level: [] for level in study.axes()[axis]}
    runs_of_score = set(runs_with(study, score))
    for cell in study.cells:
        if cell.axis == axis and cell.run in runs_of_score:
            cells[cell.level].append(cell.run)
    wanted = {run for runs in cells.values() for run in runs}
    rows = metrics[(metrics["protocol"] == score.protocol) & metrics["run"].isin(wanted)]
    by_run: dict[str, list[Line]] = {}
    columns = (rows["metric"], rows["value"], rows["status"], rows["other_code"].notna())
    for run, *line in zip(rows["run"], *columns, strict=True):
        by_run.setdefault(run, []).append(Line(*line))
    summaries = {}
    for level, runs in cells.items():
        values, absent, other_code = {}, [], False
        for run in runs:
            value = _value(by_run.get(run), score)
            if isinstance(value, str):
                absent.append(value)
            else:
                values[study.runs[run].config.seed] = value
                other_code = other_code or any(line.other_code for line in by_run[run])
        summaries[level] = Summary(values, len(runs), tuple(absent), other_code)
    return summaries


class Line(NamedTuple):
    """A row of metrics.tsv, of one run and protocol."""

    metric: str
    value: float
    status: str
    other_code: bool


def _value(lines: list[Line] | None, score: Score) -> float | str:
    if lines is None:
        return "missing"
    bad = [line.status for line in lines if line.status != "ok" and line.metric in (NO_METRIC, score.metric)]
    if bad:
        # The losses in parentheses and the reason for a left-out evaluator do not fit into a table cell.
        status = textwrap.shorten(bad[0].split(" (")[0], LONGEST, placeholder=" …")
        return LEFT_OUT if status.startswith(LEFT_OUT) else status
    value = next((line.value for line in lines if line.metric == score.metric), math.nan)
    return float(value) if math.isfinite(value) else "undefined"


def scores_of(study: Study, axis: str) -> list[Score]:
    """The scores that get a column: those with at least two levels of the axis (or its only level).

    Ablations also have the strength of their labels.
    """
    levels = study.axes()[axis]
    found = []
    for score in [*headline(study), *([] if axis == COMPARE else [LABEL_FORCE])]:
        runs = runs_with(study, score)
        through = {c.level for c in study.cells if c.axis == axis and c.run in runs}
        if len(through) >= min(2, len(levels)):
            found.append(score)
    return found


def origin(metrics: pd.DataFrame) -> str:
    """Where the numbers come from: device, threads, torch and commit of all results, without full stop."""
    ok = metrics[metrics["status"] == "ok"]
    if ok.empty:
        return "no results yet"
    parts = []
    for column, one, many in (
        ("device", "{}", "devices"),
        ("threads", "{} threads", "thread counts"),
        ("torch", "torch {}", "torch versions"),
        ("commit", "commit {}", "commits"),
    ):
        known = sorted(ok[column].dropna().unique())
        parts.append(one.format(" and ".join(known)) if len(known) < 3 else f"{len(known)} {many}")
    if ok["other_code"].notna().any():
        parts.append(f"{OTHER_CODE} made by other code than there is now (runs.tsv lists the sources)")
    return "computed on " + ", ".join(parts)


def left_out(metrics: pd.DataFrame) -> str:
    """The evaluators that cannot use the data, and their metrics that the data do not give, with the reason.

    One sentence; empty if there are none.
    """
    rows = metrics[metrics["status"].str.startswith(LEFT_OUT)].drop_duplicates(["protocol", "metric", "status"])
    reasons: dict[str, list[str]] = {}
    for protocol, metric, status in zip(rows["protocol"], rows["metric"], rows["status"], strict=True):
        name = protocol if metric == NO_METRIC else f"{protocol} {metric}"
        reasons.setdefault(status.removeprefix(f"{LEFT_OUT}: "), []).append(name)
    parts = [f"{', '.join(protocols)} ({why})" for why, protocols in reasons.items()]
    return f"Left out: {'; '.join(parts)}." if parts else ""
