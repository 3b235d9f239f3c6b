"""What a study cost: time and memory per method, and of all results together."""

from __future__ import annotations

import pandas as pd

from mlssl.analysis.aggregate import summarise
from mlssl.analysis.names import in_words
from mlssl.analysis.outputs import BASELINE, MINUTES, NONE, Score
from mlssl.cost_benchmark import table as benchmark
from mlssl.page.comparison import cell, runs_of
from mlssl.page.parts import Cell, Fact, Table, named, words
from mlssl.results import read_result
from mlssl.study.study import COMPARE, Study

WALL_TIME = "Means over seeds. Wall time, with all else that the machine did meanwhile. Energy was not measured."
SPEED = Score("pretrain", "images_per_s", "throughput", "images per second", digits=0)


def stages(metrics: pd.DataFrame) -> pd.DataFrame:
    """One row per run and stage with a result: run, method, stage, hours, peak_memory_mb, gpu.

    The protocols of a stage share one result file, whose wall time counts once.
    """
    ok = metrics[metrics["status"] == "ok"]
    stage = {p: Score(p, "", "", "").transfer for p in ok["protocol"].unique()}
    found = ok.assign(
        stage=ok["protocol"].map(stage),
        hours=ok["wall_s"] / 3600,
        gpu=~ok["device"].fillna("cpu").str.startswith("cpu"),
    )
    return found.drop_duplicates(["run", "stage"])


def total(study: Study, metrics: pd.DataFrame) -> tuple[Fact, ...]:
    """The cost of all results that exist, and of one pretraining by the fastest and the slowest compared method."""
    made = stages(metrics)
    facts = [Fact("all results so far", duration(float(made["hours"].sum())) + " of computing")]
    gpu = float(made.loc[made["gpu"], "hours"].sum())
    facts.append(Fact("of it on GPUs", duration(gpu) if gpu else "none"))
    minutes = {
        method: s.mean
        for method, s in summarise(study, metrics, COMPARE, MINUTES).items()
        if s.n and study.runs[study.compared[method]].config.target
    }
    if minutes:
        fast, slow = min(minutes, key=minutes.__getitem__), max(minutes, key=minutes.__getitem__)
        text = f"{minutes[fast]:.1f} minutes ({in_words(fast)})"
        text += f" to {minutes[slow]:.1f} ({in_words(slow)})" if slow != fast else ""
        facts.append(Fact("one pretraining, wall time", text))
    return tuple(facts)


def duration(hours: float) -> str:
    """`3.2 hours`, or minutes if it is less than one."""
    return f"{hours:,.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"


def step_costs(study: Study) -> Table | None:
    """The benchmark of costs, as in its Markdown; None if the study has none, or it has not run yet."""
    if not study.cost_benchmark or not (path := study.cost_out / "cost.tsv").exists():
        return None
    measured = benchmark.read(path).to_dict("index").items()
    found = {str(method): {str(key): value for key, value in row.items()} for method, row in measured}
    header = read_result(path.with_suffix(".json"))
    device = header["header"]["device"] if header else "an unknown device"
    rows = tuple((named(method), *words(benchmark.cells(method, row)[1:])) for method, row in found.items())
    columns = ("method", *benchmark.COLUMNS.values())
    return Table(benchmark.about(study.cost_benchmark, device) + benchmark.before(found), columns, rows)


def cost_table(study: Study, metrics: pd.DataFrame) -> Table:
    """One row per compared method."""
    made = stages(metrics)
    minutes = summarise(study, metrics, COMPARE, MINUTES)
    speeds = summarise(study, metrics, COMPARE, SPEED)
    runs = runs_of(study, COMPARE)
    base = minutes[BASELINE].mean if BASELINE in minutes and minutes[BASELINE].n else None
    rows = []
    for method, s in minutes.items():
        own = made[made["run"].isin([link.text for link in runs[method].values()])]
        memory = own.loc[own["stage"] == "pretrain", "peak_memory_mb"].dropna()
        evaluated = own[own["stage"] != "pretrain"].groupby("run")["hours"].sum() * 60
        relative = s.mean / base if base and s.n else None
        rows.append(
            (
                named(method),
                cell(s, MINUTES, runs[method], best=False),
                Cell(NONE) if relative is None else Cell(f"{relative:.2f} ×", relative),
                cell(speeds[method], SPEED, runs[method], best=False),
                Cell(f"{memory.mean() / 1024:.2f}", memory.mean()) if len(memory) else Cell(NONE),
                Cell(f"{evaluated.mean():.1f}", evaluated.mean()) if len(evaluated) else Cell(NONE),
            )
        )
    columns = (
        "method",
        MINUTES.label,
        f"relative to {in_words(BASELINE)}",
        SPEED.label,
        "peak memory of pretraining, GiB",
        "all transfers of one run, minutes",
    )
    return Table(WALL_TIME, columns, tuple(rows))
