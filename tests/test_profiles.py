"""What Snakemake plans with each profile, and with each layout of GPUs."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
import yaml
from support.snakemake import ROOT, snakemake

from mlssl.errors import ConfigError
from mlssl.study.load import load

PROFILES = ROOT / "profiles"
RULES = {
    "scenes",
    "dataset",
    "photos",
    "store",
    "proposals",
    "pairs",
    "pretrain",
    "linear",
    "detection",
    "segmentation",
    "neighbours",
}
RULES |= {"classification", "histograms", "search_benchmark", "cost_benchmark"}


def tiny(cwd, **changes):
    """The tiny study; by 8 GPUs without its dense transfers, whose batches those could not share."""
    values = yaml.safe_load((ROOT / "config" / "tiny.yaml").read_text())
    if changes.get("gpus_per_run") == 8:
        values["transfers"] = {"linear": values["transfers"]["linear"]}
    study = cwd / "study.yaml"
    study.write_text(yaml.safe_dump(values | changes))
    return study


def planned(cwd, study, *arguments):
    """The dry run's job of one pretraining, with its shell command."""
    output = snakemake(cwd, study, "--dry-run", "--printshellcmds", *arguments, cores=8)
    return output.split("\nrule pretrain:")[1].split("\nrule ")[0]


def test_one_gpu_needs_no_launcher(tmp_path):
    job = planned(tmp_path, tiny(tmp_path))
    assert " -m mlssl pretrain " in job
    assert "torch.distributed" not in job
    assert "gpu=1" in job


def test_several_gpus_of_one_machine_are_started_by_torchrun(tmp_path):
    job = planned(tmp_path, tiny(tmp_path, gpus_per_run=2))
    assert "-m torch.distributed.run --standalone --nproc-per-node 2 -m mlssl pretrain" in job
    assert "gpu=2" in job
    assert "threads: 2" in job
    assert "--threads 1 " in job


def test_gpus_of_several_machines_get_a_launcher_on_each(tmp_path):
    job = planned(tmp_path, tiny(tmp_path, gpus_per_run=8, nodes=2))
    assert "srun --nodes 2 --ntasks 2 --ntasks-per-node 1 --gres gpu:4 bash -c " in job
    assert "--nnodes 2 --nproc-per-node 4" in job
    for resource in ("gres=gpu:4", "nodes=2", "mpi=srun", "tasks=2", "tasks_per_gpu=0"):
        assert resource in job
    assert " gpu=" not in job  # would be the job's total, beside the gres per node


def test_jobs_on_gpus_reserve_them_and_share_the_cores(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,3")
    job = planned(tmp_path, tiny(tmp_path))
    assert "-m mlssl.runtime.gpu_slot --gpus 1 -- " in job
    assert "threads: 4" in job  # of 8 cores, for one of two GPUs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"gpus_per_run": 3},
            "pretrain.batch_size of moco_v2: 8 cannot be shared evenly by 3 GPUs; give a multiple",
        ),
        ({"gpus_per_run": 4}, "transfers.detection.batch_size: 2 cannot be shared evenly by 4 GPUs"),
        ({"gpus_per_run": 2, "nodes": 4}, "gpus_per_run 2 cannot be shared evenly by 4 nodes"),
    ],
)
def test_what_cannot_be_shared_is_refused(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        load(tiny(tmp_path, **changes))


def test_the_number_of_gpus_changes_no_run(tmp_path):
    one, two = (load(tiny(tmp_path, gpus_per_run=n)) for n in (1, 2))
    assert one.runs == two.runs


@pytest.mark.parametrize("name", ["slurm", "workstation", "kubernetes"])
def test_a_profile_is_understood(tmp_path, name):
    profile = yaml.safe_load((PROFILES / name / "config.yaml").read_text())
    assert set(profile.get("set-resources", {})) | set(profile.get("set-threads", {})) <= RULES
    plugin = f"snakemake_executor_plugin_{profile.get('executor', '').replace('-', '_')}"
    if "executor" in profile and not importlib.util.find_spec(plugin):
        pytest.skip(f"Snakemake's plugin is not installed: pip install 'mlssl[{name}]'")
    output = snakemake(tmp_path, tiny(tmp_path), "--dry-run", "--profile", str(PROFILES / name))
    assert f"{PROFILES / name} and workflow specific profile {PROFILES / 'default'}" in output
    assert "This was a dry-run" in output


def test_the_default_profile_is_found_without_an_option(tmp_path):
    output = snakemake(tmp_path, tiny(tmp_path), "--dry-run")
    assert f"Using workflow specific profile {PROFILES / 'default'} " in output
    given = yaml.safe_load((PROFILES / "default" / "config.yaml").read_text())
    assert given == {"keep-going": True, "show-failed-logs": True, "rerun-incomplete": True}


def test_a_profile_is_found_by_its_name_from_any_folder(tmp_path):
    output = snakemake(tmp_path, tiny(tmp_path), "--dry-run", "--workflow-profile", "workstation")
    assert f"Using workflow specific profile {PROFILES / 'workstation'} " in output


KUBECTL = """#!/bin/sh
echo "$@" >> "$CALLS"
case $1 in
    create) cat >> "$CALLS"; echo job.batch/mlssl-x7;;
    get) echo "$STATUS";;
    delete) ;;
esac
"""


def kubernetes(tmp_path, *arguments, status="{}", **more):
    """What job.py prints, and the calls and input of a kubectl of ours."""
    kubectl, calls = tmp_path / "kubectl", tmp_path / "calls"
    kubectl.write_text(KUBECTL)
    kubectl.chmod(0o755)
    calls.write_text("")
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CALLS": str(calls), "STATUS": status, **more}
    command = [sys.executable, PROFILES / "kubernetes" / "job.py", *arguments]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip(), calls.read_text()


def test_a_job_of_kubernetes_has_its_gpus_its_time_and_the_shared_volume(tmp_path):
    needs = ["submit", "--gpus", "2", "--memory", "16000", "--cpus", "4", "--minutes", "90", "script.sh"]
    assert "MLSSL_VOLUME, MLSSL_MOUNT: not set" in kubernetes(tmp_path, *needs, MLSSL_IMAGE="image")[0]
    where = {"MLSSL_IMAGE": "image", "MLSSL_VOLUME": "claim", "MLSSL_MOUNT": "/shared"}
    name, calls = kubernetes(tmp_path, *needs, **where)
    assert name == "job.batch/mlssl-x7"
    spec = json.loads(calls.split("\n", 1)[1])["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    assert spec["activeDeadlineSeconds"] == 5400
    assert container["command"] == ["bash", "script.sh"]
    assert container["workingDir"] == str(tmp_path)
    assert container["resources"]["limits"] == {"memory": "16000M", "nvidia.com/gpu": 2}
    assert {"name": "shared", "mountPath": "/shared"} in container["volumeMounts"]


@pytest.mark.parametrize(
    ("status", "word"),
    [({}, "running"), ({"active": 1}, "running"), ({"succeeded": 1}, "success"), ({"failed": 1}, "failed")],
)
def test_the_status_of_a_job_of_kubernetes_in_a_word(tmp_path, status, word):
    answer = json.dumps({"status": status})
    assert kubernetes(tmp_path, "status", "job.batch/mlssl-x7", status=answer)[0] == word
