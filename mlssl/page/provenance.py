"""Where the numbers come from: data, configuration, versions, code, runs, files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mlssl.analysis.aggregate import left_out, origin
from mlssl.analysis.outputs import (
    NO_METRIC,
    NONE,
    figure_files,
    picture_files,
    table_files,
    trained_on,
    transfer_budget,
)
from mlssl.page.comparison import run_link
from mlssl.page.images import links, relative
from mlssl.page.parts import Cell, Fact, Link, Table
from mlssl.study.study import Study

MOST = 20
"""Reasons that the page lists; metrics.tsv has all."""
DATA_FILES = ("metrics.tsv", "runs.tsv", "image_groups.tsv", "study.json", "check.txt")


def state(metrics: pd.DataFrame) -> str:
    """How many results exist: `132 of 140 results; 6 missing, 2 failed`."""
    pairs = metrics.drop_duplicates(["run", "protocol"])
    bad = metrics[(metrics["metric"] == NO_METRIC) & (metrics["status"] != "ok")]
    count = Counter(status.split(":")[0].split(" (")[0] for status in bad["status"])
    rest = ", ".join(f"{n} {word}" for word, n in count.items())
    return f"{len(pairs) - len(bad)} of {len(pairs)} results" + (f"; {rest}" if rest else "")


def absent(metrics: pd.DataFrame) -> tuple[Fact, ...]:
    """What is missing or failed, by reason, with the runs."""
    bad = metrics[(metrics["metric"] == NO_METRIC) & (metrics["status"] != "ok")]
    facts = []
    for status, rows in bad.groupby("status", sort=False):
        names = [f"{run} ({protocol})" for run, protocol in zip(rows["run"], rows["protocol"], strict=True)]
        more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
        facts.append(Fact(str(status), ", ".join(names[:MOST]) + more))
    rest = len(facts) - MOST
    return (*facts[:MOST], *([Fact("more reasons", f"{rest}, in metrics.tsv")] if rest > 0 else []))


def data_facts(study: Study, metrics: pd.DataFrame) -> tuple[Fact, ...]:
    """The images, how many, what was skipped, and what they lack for the transfers."""
    facts = [Fact("images", study.about), Fact("pretraining reads", trained_on(study, counted=True))]
    train, val = study.transfer_source.images()
    if study.transfers and train is not None and val is not None:
        facts.append(Fact("transfers read", f"{train:,} training and {val:,} evaluation images"))
    if why := left_out(metrics):
        facts.append(Fact("left out", why))
    for path in (Path(study.data.root) / "summary.txt", study.out / "check.txt"):
        if path.exists():
            text = path.read_text(encoding="utf-8").strip()
            facts.append(Fact("import" if path.stem == "summary" else "check", text, block=True))
    return tuple(facts)


def provenance(study: Study, metrics: pd.DataFrame, headers: Sequence[Mapping[str, Any]]) -> tuple[Fact, ...]:
    """Configuration, versions, commits, fingerprints and the command; `headers` are those of the result files."""
    ok = metrics[metrics["status"] == "ok"]
    facts = [
        Fact("to make it again", f"mlssl run {study.path}", block=True),
        Fact("origin", origin(metrics)),
        Fact("transfers", transfer_budget(study) or "none"),
    ]
    columns = (("commits", "commit"), ("images (fingerprint)", "images"), ("annotations (fingerprint)", "data"))
    for term, column in columns:
        known = sorted(ok[column].dropna().unique())
        facts.append(Fact(term, ", ".join(known) or NONE))
    versions: dict[str, set[str]] = {}
    for header in headers:
        for library, version in header["versions"].items():
            versions.setdefault(library, set()).add(version)
    facts += [Fact(library, ", ".join(sorted(found))) for library, found in versions.items()]
    if study.overrides:
        facts.append(Fact("set on the command line", " ".join(study.overrides)))
    if study.path.is_file():
        facts.append(Fact("configuration", study.path.read_text(encoding="utf-8").rstrip(), block=True))
    return tuple(facts)


def runs_table(study: Study, metrics: pd.DataFrame) -> Table:
    """Every run with its place, digest and status."""
    bad = metrics[(metrics["metric"] == NO_METRIC) & (metrics["status"] != "ok")]
    status = {run: "; ".join(dict.fromkeys(rows)) for run, rows in bad.groupby("run")["status"]}
    places: dict[str, list[str]] = {}
    for cell in study.cells:
        places.setdefault(cell.run, []).append(f"{cell.axis} = {cell.level}")
    for later, first in study.first_stages.items():
        places.setdefault(first, []).append(f"first stage of {later}")
    rows = []
    for run in study.runs.values():
        link = run_link(study, run.id)
        name = Cell(run.id, links=(link,))
        seed = Cell(str(run.config.seed), run.config.seed)
        rows.append((name, Cell(", ".join(places[run.id])), seed, Cell(run.digest), Cell(status.get(run.id, "ok"))))
    return Table("", ("run", "place in tables", "seed", "digest", "status"), tuple(rows))


def downloads(study: Study) -> tuple[tuple[str, tuple[Link, ...]], ...]:
    """Name -> the files of it that exist."""
    found: list[tuple[str, tuple[Link, ...]]] = []
    files = (study.out / name for name in DATA_FILES)
    found.append(("data", tuple(Link(f.name, relative(study, f)) for f in files if f.exists())))
    for kind, of_kind in (("table", table_files(study)), ("figure", figure_files(study) + picture_files(study))):
        by_name: dict[str, list[Path]] = {}
        for path in of_kind:
            by_name.setdefault(path.stem, []).append(path)
        found += [(f"{kind} {name}", links(study, paths)) for name, paths in by_name.items()]
    return tuple((name, files) for name, files in found if files)
