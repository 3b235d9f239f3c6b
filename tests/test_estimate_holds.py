"""The calibration's promise: what it says a small study costs is what the study then costs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support.snakemake import ROOT, snakemake

from mlssl.cost import estimate, rates
from mlssl.study.load import load

STUDY = {
    "name": "promise",
    "about": "Drawn scenes.",
    "data": {"scenes": {"images": 96, "val_images": 32, "size": [96, 96], "seed": 0}, "short_side": 96},
    "seeds": [0],
    "pretrain": {"backbone": "resnet10t", "epochs": None, "steps": 40, "batch_size": 32, "views": {"crop": 64}},
    "common": {"dictionary_size": 64},
    "methods": {
        "mls": {"target": "mlssl.method.mls.MLS", "params": {"k": 5}},
        "moco_v2": {"target": "baselines.moco_v2.MoCoV2"},
    },
    "compare": ["moco_v2", "mls"],
    "transfers": {
        "linear": {"size": 64, "fractions": [1.0], "iterations": 30},
        "segmentation": {"size": 64, "iterations": 30, "batch_size": 8, "head_channels": 32, "runs": "compare"},
    },
}


@pytest.mark.slow
@pytest.mark.alone
def test_a_measured_estimate_comes_true_within_30_percent(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(STUDY, sort_keys=False))
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "mlssl", "estimate", "--study", str(file), "--measure"]
    estimated = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert estimated.returncode == 0, estimated.stderr
    assert "unknown" not in estimated.stdout.replace("weights unknown", "")
    assert "6 jobs by steps measured on this machine" in estimated.stdout

    study = load(file)
    expected = estimate.jobs(study, rates.sources(Path("results"), device="cpu", reference=Path("nowhere.json")))
    snakemake(tmp_path, file, cores=1)
    took = sum(rates.job_seconds(study.out / "benchmarks" / job.stage / f"{job.run}.tsv") for job in expected)
    assert estimate.total(expected) == pytest.approx(took, rel=0.3)
