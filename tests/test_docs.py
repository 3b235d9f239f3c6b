"""The documents: every link and every path that they name is there."""

import re

import pandas as pd
import pytest
from support.snakemake import ROOT

from mlssl.analysis.outputs import METRICS, RUNS
from mlssl.study.expand import load

DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "baselines" / "README.md"]
DOCUMENTS += [ROOT / "results" / "reference" / "README.md"]


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


@pytest.mark.parametrize(("folder", "study"), [("demo", "demo"), ("demo_fp32", "demo"), ("ablations", "ablations")])
def test_reference_results_are_of_the_runs_that_the_studies_have_now(folder, study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # no data set is there, as in a fresh clone
    runs = load(ROOT / "config" / f"{study}.yaml").runs
    for name in ("metrics.tsv", "runs.tsv"):
        found = pd.read_csv(REFERENCE / folder / name, sep="\t", dtype=str)
        assert set(found.run) == set(runs)
        assert set(found.digest) == {run.digest for run in runs.values()}
