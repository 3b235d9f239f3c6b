"""Gather a study's result files into `metrics.tsv`, `runs.tsv` and `image_groups.tsv`.

Every number of a table or of a figure of scores comes from `metrics.tsv`: one row per run, protocol and metric. A
result that the study needs but that is missing has its own row, with the reason in its status.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from mlssl.analysis.failures import reason
from mlssl.analysis.outputs import (
    IMAGE_GROUPS,
    LABEL_FORCE,
    LABEL_RECORD,
    METRICS,
    MINUTES,
    NO_METRIC,
    RUNS,
    expected_protocols,
    protocols_of,
)
from mlssl.files import write_text
from mlssl.results import LEFT_OUT, METRICS_LEFT_OUT
from mlssl.study.progress import Progress, Result, refuse_mixed
from mlssl.study.study import Run, Study

HEADER = ("config_digest", "commit", "device", "threads", "wall_s", "peak_memory_mb")


def collect(study: Study) -> None:
    """Write `metrics.tsv`, `runs.tsv` and `image_groups.tsv` under the study's output.

    A missing result has one row per protocol, with metric `-`, value `NA`, and status `missing`, `failed: <reason>`
    or, for an evaluator that cannot use the data, `left out: <reason>`. A metric that the data do not give has a
    row of its own with such a status. `images` is the fingerprint of the
    pretraining images, `data` that of the transfer data; `other_code` lists the source files that changed since the
    result was made. `image_groups.tsv` has one row per value of a result's `jackknife` (see `results.result`).
    Raises ConfigError when results of one stage were made on different data, or with other settings than those of
    the study.
    """
    progress = Progress(study)
    refuse_mixed(progress.results.values())
    rows: list[dict[str, Any]] = []
    groups: list[dict[str, Any]] = []
    status, other_code = {}, {}
    for run in study.runs.values():
        found = {stage: r for (name, stage), r in progress.results.items() if name == run.id}
        others = {stage: " ".join(progress.other_code.get((run.id, stage), [])) for stage in found}
        ok = [row(run, entry, r, others[r.stage]) for r in found.values() for entry in rows_of(r)]
        groups += [
            group for r in found.values() for entry in r.content["rows"] for group in image_groups(run, entry)
        ]
        absent = [p for p in expected_protocols(study, run.id) if p not in {r["protocol"] for r in ok}]
        stage_of = {p: stage for stage in study.transfers for p in protocols_of(study, stage)} | {
            "pretrain": "pretrain"
        }
        why = {stage: reason(study, run, stage) or "missing" for stage in {stage_of[p] for p in absent}}
        empty = {"metric": NO_METRIC, "value": None, "n": None}
        reasons = left_out(study, found)
        ok += [row(run, entry, None, None, f"left out: {because}") for entry, because in metrics_left_out(found)]
        rows += ok + [
            row(run, {"protocol": p, **empty}, None, None, reasons.get(p, why[stage_of[p]])) for p in absent
        ]
        absent = [p for p in absent if p not in reasons]
        failed = [why[stage_of[p]] for p in absent if why[stage_of[p]] != "missing"]
        status[run.id] = "ok" if not absent else failed[0] if failed else f"missing: {', '.join(absent)}"
        other_code[run.id] = "; ".join(f"{stage}: {files}" for stage, files in others.items() if files)
    write_tsv(study.out / "metrics.tsv", rows, METRICS)
    cells = [
        {
            **_identity(study.runs[c.run]),
            "axis": c.axis,
            "level": c.level,
            "status": status[c.run],
            "other_code": other_code[c.run] or None,
        }
        for c in study.cells
    ]
    write_tsv(study.out / "runs.tsv", cells, RUNS)
    write_tsv(study.out / "image_groups.tsv", groups, IMAGE_GROUPS)


def left_out(study: Study, found: Mapping[str, Result]) -> dict[str, str]:
    """Protocol -> `left out: <reason>`, of the evaluators that cannot use the data."""
    reasons = {stage: r.header["notes"].get(LEFT_OUT) for stage, r in found.items()}
    return {p: f"left out: {why}" for stage, why in reasons.items() if why for p in protocols_of(study, stage)}


def metrics_left_out(found: Mapping[str, Result]) -> Iterator[tuple[dict[str, Any], str]]:
    """A row without value for each metric that an evaluator leaves out, with the reason."""
    for stage, result in found.items():
        for metric, why in result.header["notes"].get(METRICS_LEFT_OUT, {}).items():
            yield {"protocol": stage, "metric": metric, "value": None, "n": None}, why


def rows_of(result: Result) -> list[dict[str, Any]]:
    """The rows of a result, and those for the numbers in its header that tables and figures show.

    These are `minutes` of a pretraining, those of its first stage and of pairing boxes included, and `label_force`
    if it has pseudo-labels; `train_images` of each linear protocol, the number of labelled images; and of each
    record of pseudo-labels `epoch`, `shared` and `chance`, except where they are undefined.
    """
    found = []
    header, notes = result.header, result.header["notes"]
    if result.stage == "pretrain":
        before = notes.get("pairs", {})
        seconds = header["wall_s"] + before.get("seconds", 0) + before.get("run_seconds", 0)
        found.append((MINUTES.protocol, MINUTES.metric, seconds / 60, None))
        means = {entry["metric"]: entry["value"] for entry in result.content["rows"]}
        if means.get("grad_info_nce"):
            force = 100 * means["grad_labels"] / means["grad_info_nce"]
            found.append((LABEL_FORCE.protocol, LABEL_FORCE.metric, force, None))
    elif result.stage == "linear":
        for protocol, facts in notes.get("protocols", {}).items():
            found.append((protocol, "train_images", facts["train_images"], None))
    elif result.stage == "pseudo_labels" and "series" in notes:
        series = notes["series"]
        columns = (series[key] for key in ("step", "epoch", "shared", "chance", "pairs"))
        for step, epoch, shared, chance, pairs in zip(*columns, strict=True):
            protocol = f"{LABEL_RECORD}{step}"
            found.append((protocol, "epoch", epoch, None))
            found += [(protocol, "shared", shared, pairs)] if shared is not None else []
            found += [(protocol, "chance", chance, None)] if chance is not None else []
    names = ("protocol", "metric", "value", "n")
    return [*result.content["rows"], *(dict(zip(names, values, strict=True)) for values in found)]


def image_groups(run: Run, entry: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of image_groups.tsv for one row of a result; none if it has no `jackknife`."""
    about = {**_identity(run), "protocol": entry["protocol"], "metric": entry["metric"]}
    return [{**about, "group": g, "value": value} for g, value in enumerate(entry.get("jackknife", ()))]


def row(
    run: Run, entry: dict[str, Any], result: Result | None, other_code: str | None, status: str = "ok"
) -> dict[str, Any]:
    """One row of metrics.tsv."""
    header = result.header if result else {}
    data = header.get("data", {})
    return {
        **_identity(run),
        **{key: entry[key] for key in ("protocol", "metric", "value", "n")},
        "head": header.get("config", {}).get("head"),
        **{key: header.get(key) for key in HEADER},
        "images": data.get("images") if result and result.stage == "pretrain" else None,
        "data": data.get("all") if result and result.stage != "pretrain" else None,
        "other_code": other_code or None,
        "torch": header.get("versions", {}).get("torch"),
        "status": status,
    }


def _identity(run: Run) -> dict[str, Any]:
    return {"run": run.id, "method": run.config.method, "seed": run.config.seed, "digest": run.digest}


def write_tsv(path: Path, rows: list[dict[str, Any]], columns: list[str]) -> None:
    """Write rows atomically; missing values are `NA`, and integers stay integers."""
    frame = pd.DataFrame(rows, columns=columns, dtype=object)
    write_text(path, frame.to_csv(sep="\t", index=False, na_rep="NA", lineterminator="\n"))
