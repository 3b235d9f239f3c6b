"""A complete tiny workflow through Snakemake, to its report; what re-runs after a change; a job that is killed."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from support.finished import AXES, METHODS, copied, with_data
from support.snakemake import ROOT, jobs, small, snakemake, write

from mlssl.analysis.outputs import report_labels
from mlssl.study.load import load

COCO_MINI = ROOT.parent / "shared" / "data" / "coco_mini"


@pytest.mark.slow
def test_everything_is_compiled(finished):
    out = finished / "results" / "tiny"
    metrics = pd.read_csv(out / "metrics.tsv", sep="\t")
    needed = ["run", "method", "seed", "protocol", "metric", "value", "n", "digest", "commit", "device"]
    assert set(needed) <= set(metrics.columns)
    assert metrics.value.notna().all()
    assert set(metrics.method) == {*METHODS, "moco_v2"}
    assert {"linear", "linear_25pct", "detection", "segmentation", "pseudo_labels"} <= set(metrics.protocol)
    assert set(metrics[metrics.protocol == "linear"].metric) >= {"mAP", "train_images"}
    runs = pd.read_csv(out / "runs.tsv", sep="\t")
    assert set(runs.axis) == {"method", *AXES}
    assert runs.run.nunique() == 4
    for name in ("main", *AXES, "paper_table1", "paper_table5"):
        for kind in ("tsv", "md", "tex"):
            assert (out / "tables" / f"{name}.{kind}").stat().st_size
    pictures = ["histograms", *(f"neighbours_{method}" for method in METHODS)]
    for name in ("main", "k", "loss", "labels", "training_curves", "label_quality", "contact_sheet", *pictures):
        for kind in ("png", "pdf"):
            assert (out / "figures" / f"{name}.{kind}").stat().st_size
    assert "40.1" in (out / "tables" / "loss.md").read_text()  # the paper's AP beside ours
    assert "no run" in (out / "tables" / "paper_table5.md").read_text()
    searched = next((out / "search").glob("*/search.tsv"))
    assert set(pd.read_csv(searched, sep="\t")["size"]) == {64, 128}


@pytest.mark.slow
def test_the_report_holds_tables_figures_and_captions(finished, tmp_path):
    cwd = copied(finished, tmp_path)
    snakemake(cwd, "study.yaml", "--report", "report.html")
    report = (cwd / "report.html").read_text()
    assert "smoke test whose numbers mean nothing" in report
    assert len(report) > 500_000
    for name in ("Comparisons", "Tables of the paper", "Training", "Embeddings", "Nearest neighbours", "Search"):
        assert f'"{name}": ' in report
    for label in ("training loss", "quality of pseudo-labels", "number of labels", "labels saved by pretraining"):
        assert label in report


@pytest.mark.slow
def test_a_second_call_does_nothing(finished, tmp_path):
    assert jobs(copied(finished, tmp_path), "study.yaml") == {}


@pytest.mark.slow
@pytest.mark.long
def test_what_was_compiled_in_between_is_compiled_again(finished, tmp_path):
    """Also if the missing results are copied here with their old times."""
    work = copied(finished, tmp_path)
    (out,) = (path.parent for path in work.glob("results/*/metrics.tsv"))
    missing = next(out.glob("runs/*/linear-*.json"))
    kept = missing.rename(tmp_path / missing.name)
    shutil.rmtree(work / ".snakemake" / "metadata")  # as in a study that has never been finished
    snakemake(work, "study.yaml", "--", "compile")
    assert pd.read_csv(out / "metrics.tsv", sep="\t").status.str.startswith("missing").any()
    kept.rename(missing)
    assert {"collect", "tables", "figures", "page"} <= jobs(work, "study.yaml").keys()


@pytest.mark.slow
@pytest.mark.long
def test_the_tiny_study_that_ships_runs_to_its_end(tmp_path):
    output = snakemake(tmp_path, ROOT / "config" / "tiny.yaml")
    steps = re.search(r"^\d+ of \d+ steps \(100%\) done$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert steps
    assert steps[0] in output
    metrics = pd.read_csv(tmp_path / "results" / "tiny" / "metrics.tsv", sep="\t")
    assert set(metrics.method) == {"random", "moco_v2", "densecl", "mls"}
    assert metrics.value.notna().all()


@pytest.mark.long
def test_a_killed_job_goes_on_from_its_checkpoint(finished, tmp_path):
    with_data(finished, tmp_path)
    values = small(compare=["mls"], pictures=None)
    values["pretrain"] |= {"steps": 60, "log_every": 1, "checkpoint_seconds": 0.0}
    del values["transfers"]["pseudo_labels"]
    study = write(tmp_path / "study.yaml", values)
    (tmp_path / "bin").mkdir()

    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--cores", "2",
               "--config", f"study={study}"]  # fmt: skip
    with open(tmp_path / "first.log", "w") as log:
        first = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=subprocess.STDOUT)
        deadline = time.monotonic() + 300
        while not (state := list(tmp_path.glob("results/tiny/runs/mls-*/state/checkpoint.pt"))):
            assert time.monotonic() < deadline, (tmp_path / "first.log").read_text()
            assert first.poll() is None, (tmp_path / "first.log").read_text()
            time.sleep(0.05)
        trainers = subprocess.run(
            ["pgrep", "-f", f"mlssl pretrain .*{state[0].parents[1].name}"], capture_output=True, text=True
        )
        mine = [p for p in map(int, trainers.stdout.split()) if os.readlink(f"/proc/{p}/cwd") == str(tmp_path)]
        for process in mine:
            os.kill(process, signal.SIGKILL)
        assert first.wait(timeout=300) != 0
    assert mine
    run = state[0].parents[1]
    assert not (run / "backbone.pt").exists()
    logged = (run / "state" / "log.jsonl").read_text()
    # Tables are made of the existing results; the missing run is marked.
    metrics = (tmp_path / "results" / "tiny" / "metrics.tsv").read_text()
    assert "missing" in metrics

    snakemake(tmp_path, study)
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 61))
    kept = [json.loads(line) for line in logged.splitlines()]
    assert lines[0] == kept[0]  # images/s included: these steps were not done again
    assert "missing" not in (tmp_path / "results" / "tiny" / "metrics.tsv").read_text()


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.skipif(not COCO_MINI.is_dir(), reason="the real COCO photos (shared/data/coco_mini) are not here")
def test_real_coco_photos_take_only_other_paths_and_sizes(tmp_path):
    values = yaml.safe_load((ROOT / "config" / "tiny.yaml").read_text())
    values |= {"name": "photos", "data": {"root": str(COCO_MINI), "short_side": 64}}
    values |= {"compare": ["random", "mls"], "ablations": {}}
    del values["search_benchmark"], values["pictures"]
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(values))
    snakemake(tmp_path, study)
    metrics = pd.read_csv(tmp_path / "results" / "photos" / "metrics.tsv", sep="\t")
    assert metrics.value.notna().all()
    images = metrics[(metrics.protocol == "linear") & (metrics.metric == "mAP")].n
    assert images.tolist() == [66, 66]
    assert {"linear", "detection", "segmentation"} <= set(metrics.protocol)


def test_a_dry_run_takes_few_seconds_of_a_processor(tmp_path):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    jobs(tmp_path, ROOT / "config" / "demo.yaml")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # 2 on an idle machine. Not by the clock: other work beside it takes time, hardly any of the process's own.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 10


ESTIMATE = "not counted: making or storing the images, tables and figures"


@pytest.mark.parametrize(
    "arguments",
    [
        ["-n"],
        ["--printshellcmds", "-n", "-k"],
        *(
            pytest.param(words, marks=pytest.mark.long)
            for words in (["-np"], ["-pn"], ["--dryrun"], ["--dry-run", "--quiet", "rules"])
        ),
    ],
    ids=" ".join,
)
def test_a_dry_run_estimates_the_cost(tmp_path, arguments):
    output = snakemake(tmp_path, ROOT / "config" / "tiny.yaml", *arguments)
    assert " jobs of Snakemake: 47 of them are in the estimate" in output.splitlines()[-1]
    assert output.count(ESTIMATE) == 1
    assert not (tmp_path / "results" / "tiny").exists()


def test_the_readme_has_the_number_of_steps_of_the_tiny_study(tmp_path):
    planned = re.search(r"^total +(\d+)$", snakemake(tmp_path, ROOT / "config" / "tiny.yaml", "-n"), re.MULTILINE)
    shown = re.search(r"^(\d+) of \1 steps \(100%\) done$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert planned.group(1) == shown.group(1)


def test_an_axis_is_a_target_that_makes_its_runs_alone(tmp_path):
    study = load(ROOT / "config" / "tiny.yaml")
    output = snakemake(tmp_path, ROOT / "config" / "tiny.yaml", "-n", "--quiet", "rules", "--", "axis_k")
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", output, re.MULTILINE))
    runs = {cell.run for cell in study.cells if cell.axis == "k"}
    assert int(jobs["pretrain"]) == len(runs) < len(study.runs)
    assert {"axis_k", "linear"} <= jobs.keys()
    assert not {"all", "collect", "page"} & jobs.keys()
    priced = output.splitlines()[-2:]
    assert priced[0].startswith(f"axis k: {len(runs)} runs, ")
    assert priced[1].startswith(f"{jobs['total']} jobs of")
    refused = snakemake(tmp_path, ROOT / "config" / "tiny.yaml", "-n", "--", "axis_kk", check=False)
    assert refused.endswith("tiny.yaml has no axis 'kk' (did you mean 'k'?); it has method, k, loss, rule\n")


def test_the_estimate_is_a_target(tmp_path):
    study = ROOT / "config" / "tiny.yaml"
    planned = snakemake(tmp_path, study, "--list-target-rules")
    assert "estimate" in planned
    assert ESTIMATE not in planned
    output = snakemake(tmp_path, study, "--", "estimate")
    assert output.count(ESTIMATE) == 1
    assert "6 runs" in output
    assert not (tmp_path / "results" / "data").exists()


@pytest.mark.parametrize(
    ("file", "labels"),
    [
        ("tables/main.md", {"axis": "method", "kind": "table"}),
        ("figures/dictionary_size.png", {"axis": "dictionary size", "kind": "figure"}),
        ("tables/label_savings.md", {"axis": "labels saved by pretraining", "kind": "table"}),
        ("figures/labels.png", {"axis": "number of labels", "kind": "figure"}),
        ("figures/training_curves.png", {"figure": "training loss"}),
        ("tables/paper_table3.md", {"table of the paper": "3"}),
    ],
)
def test_tables_and_figures_have_labels_in_words(file, labels):
    assert report_labels(Path(file)) == labels


def test_a_study_with_an_unknown_key_is_refused_before_anything_runs(tmp_path):
    values = yaml.safe_load((ROOT / "config" / "tiny.yaml").read_text())
    values["pretrain"]["epoch"] = 3
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(values))
    output = snakemake(tmp_path, tmp_path / "study.yaml", check=False)
    assert "study.yaml: pretrain" in output
    assert "'epoch'" in output
    assert not (tmp_path / "results").exists()


SMALL = {
    "pretrain": {"backbone": "test_resnet", "epochs": None, "steps": 4, "batch_size": 8, "log_every": 2,
                 "checkpoint_seconds": 60.0, "views": {"crop": 32, "blur_sigma": [0.1, 0.3]}},
    "transfers": {"linear": {"size": 32, "fractions": [1.0, 0.5], "weight_decays": [0.01, 1.0], "iterations": 10}},
    "pictures": None,
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.skipif(not COCO_MINI.is_dir(), reason="the real COCO photos (shared/data/coco_mini) are not here")
def test_coco_goes_through_the_papers_protocol_with_a_small_override(tmp_path):
    own = {"params": {"dictionary_size": 64, "dim": 8}, "pretrain": None}
    gone = dict.fromkeys(("dictionaries", "k", "dictionary_size", "lam"))
    detection = {"runs": "compare", "size": 64, "iterations": 2, "batch_size": 2, "warmup_iterations": 1,
                 "fpn_channels": 16, "box_head_channels": 16, "mask_head_layers": 1, "proposals": 20,
                 "rois_per_image": 8, "eval_images": 4}  # fmt: skip
    values = SMALL | {
        "extends": str(ROOT / "config" / "coco.yaml"),
        "name": "coco-mini",
        "data": {"short_side": 64, "dataset": {"source": str(COCO_MINI)}},
        "common": {"dictionary_size": 64, "dim": 8},
        "methods": {"mls": {"pretrain": None}, "moco_v2": own, "densecl": own},
        "compare": ["random", "moco_v2", "mls_400"],
        "ablations": gone,
        "transfers": SMALL["transfers"] | {"detection": detection, "segmentation": None, "pseudo_labels": None},
    }
    study = tmp_path / "mini.yaml"
    study.write_text(yaml.safe_dump(values))
    output = snakemake(tmp_path, study, "--dry-run")
    assert "118,287" not in output  # of the photos that are there, once they are; of the published ones, before
    snakemake(tmp_path, study)
    out = tmp_path / "results" / "coco-mini"
    metrics = pd.read_csv(out / "metrics.tsv", sep="\t")
    assert set(metrics.protocol) == {"pretrain", "linear", "linear_50pct", "detection"}
    assert set(metrics.method) == {"random", "moco_v2", "mls_400", "moco_v2_400"}
    assert metrics.value.notna().all()
    assert "38.5" in (out / "tables" / "main.md").read_text()  # the paper's MoCo-v2
    prepared = json.loads(next((tmp_path / "results" / "data").glob("coco2017-*/prepared.json")).read_text())
    assert prepared["splits"]["train2017"]["images"] == 92


@pytest.mark.long
@pytest.mark.slow
def test_a_folder_of_good_and_bad_photos_is_imported_trained_on_and_reported(tmp_path):
    photos, rng = tmp_path / "photos", np.random.default_rng(0)
    lines = []
    for i in range(40):
        folder = photos / f"shelf {i % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        low = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        image = Image.fromarray(low).resize((64, 48), Image.Resampling.BICUBIC)
        mode, suffix = (("RGB", "jpg"), ("P", "png"), ("CMYK", "tiff"), ("L", "webp"))[i % 4]
        image.convert(mode).save(folder / f"{i}.{suffix}")
        lines.append(f"shelf {i % 3}/{i}.{suffix},{('milk', 'bread;milk', 'bread')[i % 3]}")
    (photos / "empty.jpg").touch()
    (photos / "text.png").write_text("no image")
    (tmp_path / "labels.csv").write_text("\n".join(lines[:30]))
    values = SMALL | {
        "extends": str(ROOT / "config" / "photos.yaml"),
        "name": "shop",
        "data": {"photos": {"folder": str(photos), "labels": str(tmp_path / "labels.csv")}, "short_side": 32},
        "seeds": [0],
        "common": {"dictionary_size": 16, "dim": 8},
        "compare": ["random", "moco_v2"],
    }
    study = tmp_path / "shop.yaml"
    study.write_text(yaml.safe_dump(values))
    snakemake(tmp_path, study)
    snakemake(tmp_path, study, "--report", "report.html")
    data = next((tmp_path / "results" / "data").glob("photos-*"))
    summary = (data / "summary.txt").read_text()
    assert "42 found" in summary
    assert "used        40" in summary
    skipped = (data / "skipped.tsv").read_text()
    assert "empty.jpg\tis empty (0 bytes)" in skipped
    assert "text.png\tis not an image" in skipped
    savings = (tmp_path / "results" / "shop" / "tables" / "label_savings.md").read_text()
    assert savings.startswith("moco_v2: ")
    assert "labelled images" in savings
    assert "skipped.tsv" in (tmp_path / "report.html").read_text()
    assert jobs(tmp_path, study) == {}
