"""The documents: every link and every path that they name is there."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from support.snakemake import ROOT, small, write
from support.tiny_coco import write_coco

from mlssl.analysis.names import in_words
from mlssl.analysis.outputs import METRICS, RUNS
from mlssl.cost import estimate
from mlssl.data.store import build_store
from mlssl.errors import ConfigError
from mlssl.pretrain.loop import pretrain
from mlssl.study.load import load

DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
DOCUMENTS += [ROOT / folder / "README.md" for folder in ("baselines", "config", "results/reference")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_and_paths_lead_somewhere(document):
    text = document.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if "://" not in target:
            assert (document.parent / target).exists(), target
    for path in re.findall(r"`((?:mlssl|workflow|baselines|config|docs|tests)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path


REFERENCE = ROOT / "results" / "reference"


@pytest.mark.parametrize("folder", sorted(path.parent.name for path in REFERENCE.glob("*/metrics.tsv")))
def test_reference_results_have_the_columns_that_are_written_now(folder):
    for name, columns in (("metrics.tsv", METRICS), ("runs.tsv", RUNS)):
        assert list(pd.read_csv(REFERENCE / folder / name, sep="\t").columns) == columns


@pytest.mark.parametrize(
    ("folder", "study"),
    [
        ("demo", "demo"),
        ("pilot_lr", "pilot_lr"),
        ("ablations", "ablations"),
        ("study", "reference"),
        ("competitors", "competitors"),
        ("competitors_proposals", "competitors_proposals"),
        ("pilot_recipes", "pilot_recipes"),
    ],
)
def test_reference_results_are_of_the_runs_that_the_studies_have_now(folder, study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # no data set is there, as in a fresh clone
    shutil.copytree(ROOT / "config", "config")
    # Version 0.1 computed the ablations; its backbones started with scale 0 at the end of residual branches.
    older = {"pretrain": {"zero_init_residual": True}} if study == "ablations" else {}
    runs = load(write(Path("config/study.yaml"), {"extends": f"{study}.yaml", **older})).runs
    for name in ("metrics.tsv", "runs.tsv"):
        found = pd.read_csv(REFERENCE / folder / name, sep="\t", dtype=str)
        assert set(found.run) == set(runs)
        assert set(found.digest) == {run.digest for run in runs.values()}


@pytest.mark.long
@pytest.mark.parametrize(
    ("folder", "study", "more"),
    [
        ("study", "reference", []),
        ("competitors", "competitors", ["--runs", "study"]),
        ("competitors_proposals", "competitors_proposals", ["--runs", "study", "competitors"]),
    ],
)
def test_reference_tables_are_made_of_the_runs_beside_them(folder, study, more, tmp_path):
    shutil.copytree(ROOT / "config", tmp_path / "config")
    copied = tmp_path / "results" / "reference"
    shutil.copytree(REFERENCE, copied)
    study = tmp_path / "config" / f"{study}.yaml"
    command = [sys.executable, copied / "update.py", study, folder, "--no-figures", *more]
    subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    for path in (REFERENCE / folder / "tables").iterdir():
        assert (copied / folder / "tables" / path.name).read_text() == path.read_text(), path.name


def test_the_method_in_the_readme_trains(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    example = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL).group(1)
    (tmp_path / "my_method.py").write_text(example)
    root = write_coco(tmp_path / "coco")
    methods = {"ours": {"target": "my_method.BatchContrast", "params": {"dim": 8}}}
    values = small(data={"root": str(root), "short_side": 32}, methods=methods, compare=["ours"], common={})
    study = load(write(tmp_path / "study.yaml", values))
    (run,) = study.runs.values()
    build_store(root / "train2017", study.store, short_side=32, images_id=study.data.images_id, workers=0)
    pretrain(run.config, study.store, tmp_path / "run", run=run.id, device=torch.device("cpu"), progress=False)
    rows = json.loads((tmp_path / "run" / "pretrain.json").read_text())["rows"]
    assert {row["metric"]: row["value"] for row in rows}["steps"] == 4
    values["methods"]["ours"]["params"] = {"tau": 0}
    with pytest.raises(ConfigError, match=r"methods\.ours\.params\.tau: 0 is not allowed; give more than 0"):
        load(write(tmp_path / "study.yaml", values))


QUOTES = [
    ("docs/reference_results.md", "## The reference study", "## Competitors", "study"),
    ("docs/reference_results.md", "## The default study", "## Every ablation", "demo"),
    ("README.md", "The reference study", "[All verdicts", "study"),
    ("README.md", "[All verdicts", "## Your own images", "demo"),
]
"""Document, start and end of what quotes a folder of reference results."""


@pytest.mark.parametrize(("document", "start", "end", "folder"), QUOTES)
def test_every_interval_that_is_quoted_is_in_the_tables(document, start, end, folder):
    text = (ROOT / document).read_text(encoding="utf-8")
    text = " ".join(text[text.index(start) : text.index(end)].split())
    tables = [
        pd.read_csv(REFERENCE / folder / "tables" / f"{name}.tsv", sep="\t")
        for name in ("gains", "claims", "differences")
    ]
    rows = pd.concat([table[["difference", "low", "high"]] for table in tables]).dropna()
    known = {tuple(f"{value:.2f}" for value in row) for row in rows.itertuples(index=False)}
    savings = (REFERENCE / folder / "tables" / "label_savings.md").read_text(encoding="utf-8")
    known |= set(re.findall(r"With pretraining, (\d+) images \[(\d+), (\d+)\] give", savings))
    shares = tables[0][["share_of_the_way", "share_low", "share_high"]].dropna()
    known |= {tuple(f"{100 * value:.0f}" for value in row) for row in shares.itertuples(index=False)}
    quoted = re.findall(r"([-+]?[\d.]+)(?: points| %)?(?: of \S+)*(?: by \S+)? \[(-?[\d.]+), (-?[\d.]+)\]", text)
    assert quoted
    assert len(quoted) == text.count("]") - text.count("](")
    assert {(difference.lstrip("+"), low, high) for difference, low, high in quoted} <= known


def test_the_scores_of_competitors_are_those_of_the_files():
    text = (ROOT / "docs" / "reference_results.md").read_text(encoding="utf-8")
    lines = text[text.index("## Competitors") : text.index("## The default study")].splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ")][2:]
    columns = [["competitors_pilot"], ["pilot_recipes"], ["competitors", "competitors_proposals"]]
    for place, folders in enumerate(columns, start=1):
        found = pd.concat([pd.read_csv(REFERENCE / folder / "metrics.tsv", sep="\t") for folder in folders])
        found = found[(found.seed == 0) & (found.status == "ok")]
        wide = found.pivot_table(index="method", columns=["protocol", "metric"], values="value")
        scores = wide[[("linear", "mAP"), ("regions", "mAcc")]].dropna()
        expected = {in_words(method): f"{mAP:.2f} / {mAcc:.2f}" for method, mAP, mAcc in scores.itertuples()}
        shown = {row[0]: row[place] for row in rows if row[place] != "–"}
        assert shown == {name: expected[name] for name in shown}
        assert expected.keys() - shown.keys() <= {in_words("mls_balanced")}


def test_the_noise_that_is_quoted_is_that_of_the_table():
    text = (ROOT / "docs" / "reference_results.md").read_text(encoding="utf-8")
    known = pd.read_csv(REFERENCE / "study" / "tables" / "noise.tsv", sep="\t").set_index("protocol")
    for start, column in (("Scores of one method vary", "sd_seeds"), ("Two methods have to differ", "detectable")):
        sentence = " ".join(text[text.index(start) :].split()).split(" points of linear segmentation")[0]
        linear, regions, dense = re.search(
            r"([\d.]+) points of linear mAP, ([\d.]+) on regions and ([\d.]+)$", sentence
        ).groups()
        shown = [known.loc[protocol, column] for protocol in ("linear", "regions", "dense")]
        assert [linear, regions, dense] == [f"{value:.2f}" for value in shown]


@pytest.mark.parametrize("document", ["README.md", "docs/reference_results.md", "results/reference/README.md"])
def test_the_number_of_finished_runs_is_that_of_the_folder(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    finished, planned = re.search(r"(\d+) of (\d+) runs", text).groups()
    assert int(finished) == len(list((REFERENCE / "study" / "runs").iterdir()))
    assert int(planned) == len(load(ROOT / "config" / "reference.yaml").runs)


def test_costs_of_methods_are_those_of_the_benchmark():
    text = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    text = text[text.index("## What each method costs") : text.index("## What a GPU is asked to do")]
    tables = [part for part in text.split("\n\n") if part.startswith("| method")]
    for table, (name, fewest) in zip(tables, (("costs", 9), ("costs_proposals", 5)), strict=True):
        costs = pd.read_csv(REFERENCE / "benchmarks" / f"{name}.tsv", sep="\t", index_col="method")
        costs = costs.rename(index=in_words)
        rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
        assert len(rows) >= fewest
        for method, time, gflop, lines in rows:
            row = costs.loc[method]
            assert time == f"{row.relative:.2f} [{row.relative_low:.2f}, {row.relative_high:.2f}]"
            assert (gflop, lines) == (f"{row.gflop:.2f}", f"{row.code_lines:.0f}")


def test_the_estimate_that_is_shown_is_what_the_command_prints(tmp_path):
    text = (ROOT / "docs" / "cluster.md").read_text(encoding="utf-8")
    shown = text[text.index("config/coco.yaml: 22 runs") : text.index("`snakemake --cores 8 estimate")]
    printed = estimate.report(load(ROOT / "config" / "coco.yaml"), 1, gpus=8, results=tmp_path).splitlines()
    printed[0] = printed[0].replace(f"{ROOT}/", "")
    lines = [line for line in shown.splitlines() if line not in ("```", "…", "")]
    assert len(lines) > 8
    assert [line for line in lines if line not in printed] == []
