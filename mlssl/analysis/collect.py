"""Gather a study's result files into `metrics.tsv` (one row per run, protocol and metric) and `runs.tsv`.

What the study wants and is not there has a row of its own, whose status says so.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from mlssl.analysis.outputs import expected_protocols
from mlssl.config import ConfigError, plain
from mlssl.provenance import digest_of, write_text
from mlssl.study import TRANSFERS, Run, Study

METRICS = ["run", "method", "seed", "protocol", "metric", "value", "n", "status", "digest", "config_digest"]
METRICS += ["commit", "device", "threads", "wall_s", "peak_memory_mb", "torch"]
RUNS = ["run", "axis", "level", "method", "seed", "digest", "status"]
HEADER = ("config_digest", "commit", "device", "threads", "wall_s", "peak_memory_mb")
NOTHING = "-"
"""Stands for the metric in the row of a result that is not there."""


def collect(study: Study) -> None:
    """Write `metrics.tsv` and `runs.tsv` under the study's output.

    A result that is not there has one row per protocol, with metric `-`, value `NA`, and a status that says
    `missing` or `failed: <reason>`. Raises ConfigError when two files tell of the same digest, seed and
    protocol, or when a file was made with another configuration than the study's.
    """
    files = read_results(study.out / "runs")
    refuse_duplicates(files)
    rows, status = [], {}
    for run in study.runs.values():
        results = {}
        for name in ("pretrain", *study.transfers):
            path = study.out / "runs" / run.id / f"{name}.json"
            if path in files:
                check(study, run, name, path, files[path]["header"])
                results[name] = files[path]
        found = [row(run, entry, r["header"]) for r in results.values() for entry in r["rows"]]
        absent = [p for p in expected_protocols(study, run.id) if p not in {r["protocol"] for r in found}]
        why = "missing" if "pretrain" in results else failure(study, run) or "missing"
        nothing = {"metric": NOTHING, "value": None, "n": None}
        rows += found + [row(run, {"protocol": p, **nothing}, {}, why) for p in absent]
        status[run.id] = "ok" if not absent else f"missing: {', '.join(absent)}" if why == "missing" else why
    write_tsv(study.out / "metrics.tsv", rows, METRICS)
    cells = [
        {**_identity(study.runs[c.run]), "axis": c.axis, "level": c.level, "status": status[c.run]}
        for c in study.cells
    ]
    write_tsv(study.out / "runs.tsv", cells, RUNS)


def read_results(folder: Path) -> dict[Path, dict[str, Any]]:
    """All result files of all runs, by path; ConfigError names one that cannot be read."""
    results = {}
    for path in sorted(folder.glob("*/*.json")):
        try:
            content = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise ConfigError(f"{path}: not valid JSON ({error}); delete it and run this stage again") from None
        if isinstance(content, dict) and {"header", "rows"} <= content.keys():
            results[path] = content
        elif path.stem in ("pretrain", *TRANSFERS):
            raise ConfigError(f"{path}: keys 'header' and 'rows' are missing; delete it and run this stage again")
    return results


def refuse_duplicates(files: dict[Path, dict[str, Any]]) -> None:
    """A second result for the same digest, seed, protocol and metric is an error that names both files."""
    seen: dict[tuple, Path] = {}
    for path, content in files.items():
        header = content["header"]
        for entry in content["rows"]:
            key = (header["digest"], header["seed"], entry["protocol"], entry["metric"])
            if key in seen:
                raise ConfigError(
                    f"{path} and {seen[key]}: both tell {key[2]} {key[3]} for digest {key[0]}, "
                    f"seed {key[1]}; delete one of them"
                )
            seen[key] = path


def check(study: Study, run: Run, name: str, path: Path, header: dict[str, Any]) -> None:
    """A result must have been made with the study's configuration of that run and stage."""
    config = run.config if name == "pretrain" else study.transfers[name]
    wanted = {"digest": run.digest, "seed": run.config.seed, "config_digest": digest_of(plain(config))}
    for key, value in wanted.items():
        if header[key] != value:
            raise ConfigError(
                f"{path}: {key} is {header[key]}, but {study.path} asks for {value} in run {run.id}; "
                "delete the result or restore the study"
            )


def failure(study: Study, run: Run) -> str | None:
    """`failed: <reason>` when a pretraining left word that it cannot go on."""
    path = study.out / "runs" / run.id / "state" / "failed.json"
    if not path.exists():
        return None
    return "failed: " + " ".join(str(json.loads(path.read_text())["reason"]).split())


def row(run: Run, entry: dict[str, Any], header: dict[str, Any], status: str = "ok") -> dict[str, Any]:
    """One row of metrics.tsv."""
    origin = {key: header.get(key) for key in HEADER}
    return {
        **_identity(run),
        **{key: entry[key] for key in ("protocol", "metric", "value", "n")},
        **origin,
        "torch": header.get("versions", {}).get("torch"),
        "status": status,
    }


def _identity(run: Run) -> dict[str, Any]:
    return {"run": run.id, "method": run.config.method, "seed": run.config.seed, "digest": run.digest}


def write_tsv(path: Path, rows: list[dict[str, Any]], columns: list[str]) -> None:
    """Write rows atomically; what is not there is `NA`, and whole numbers stay whole."""
    frame = pd.DataFrame(rows, columns=columns, dtype=object)
    write_text(path, frame.to_csv(sep="\t", index=False, na_rep="NA", lineterminator="\n"))
