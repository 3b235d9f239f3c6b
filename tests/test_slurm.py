"""The workflow on a real Slurm: a study to its tables, and what it survives."""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from support import slurm_cluster
from support.slurm_cluster import run, until

from mlssl.pretrain import loop as engine
from mlssl.study.load import load

ROOT = Path(__file__).parents[1]
STEPS = 400
LONG = {"steps": STEPS, "log_every": 5, "checkpoint_seconds": 0.0}
WHY = slurm_cluster.missing()
if not importlib.util.find_spec("snakemake_executor_plugin_slurm"):
    WHY = "Snakemake's plugin is not installed: pip install 'mlssl[slurm]'"
pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.skipif(bool(WHY), reason=WHY)]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with slurm_cluster.cluster(tmp_path_factory.mktemp("slurm") / "state") as environment:
        more = {
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache")),
        }
        yield environment | more


def command(cwd, *arguments):
    """Snakemake with the profile, in a folder of its own, asking Slurm more often than one should."""
    quick = ["--slurm-init-seconds-before-status-checks", "1", "--seconds-between-status-checks", "1"]
    small = ["--set-threads", "scenes=2", "store=2", "pretrain=1", "linear=1", "--latency-wait", "5"]
    where = ["--snakefile", ROOT / "Snakefile", "--profile", ROOT / "profiles" / "slurm"]
    study = ["--config", f"study={cwd / 'study.yaml'}"]
    return [sys.executable, "-m", "snakemake", *where, *arguments, *quick, *small, *study]


def begin(cwd, slurm, *arguments):
    """Snakemake started, under a watchdog: the plugin can wait for ever."""
    watched = ["timeout", "-k", "5", "-s", "INT", "600", *command(cwd, *arguments)]
    with open(cwd / "snakemake.log", "a") as log:
        return subprocess.Popen(watched, cwd=cwd, env=slurm, stdout=log, stderr=log, start_new_session=True)


def driver_log(cwd):
    logs = [cwd / "snakemake.log", *cwd.glob("results/*/logs/**/*.log"), *cwd.rglob("slurm_logs/**/*.log")]
    return "\n".join(f"--- {log}\n{log.read_text()[-3000:]}" for log in logs)


def write_study(cwd, **changes):
    values = yaml.safe_load((ROOT / "config" / "tiny.yaml").read_text())
    del values["pictures"], values["search_benchmark"]
    values["pretrain"]["precision"] = "fp32"  # in bfloat16 two ranks' losses agree to two digits only
    values["pretrain"]["zero_init_residual"] = True  # then differences of rounding grow slowly
    values["data"]["scenes"] |= {"images": 24, "val_images": 12}
    values |= {"compare": ["mls"], "ablations": {}, "transfers": {"linear": values["transfers"]["linear"]}}
    values["pretrain"] |= changes.pop("pretrain", {})
    values |= changes
    (cwd / "study.yaml").write_text(yaml.safe_dump(values))
    return load(cwd / "study.yaml")


def test_a_study_goes_through_slurm_to_its_tables(slurm, finished):
    cwd, study = finished
    assert (cwd / "results" / "tiny" / "tables" / "main.md").stat().st_size
    mine = [run(["scontrol", "show", "-d", "job", job], slurm) for job in jobs_of(cwd, slurm)]
    rules = {re.search(r"Comment=rule_(\w+?)(?:_wildcards|\s)", text)[1]: text for text in mine}
    assert {"scenes", "store", "pretrain", "linear", "collect", "tables", "figures"} <= set(rules)
    assert not {"resolve_run", "resolve_transfer", "all"} & set(rules)
    for rule, text in rules.items():
        on_gpu = rule in ("pretrain", "linear")
        assert ("Partition=gpu" in text) == on_gpu, rule
        assert ("gres/gpu" in text or "gpu:" in text) == on_gpu, rule
    assert study.runs


def jobs_of(cwd, slurm):
    """Every job that was submitted from a folder."""
    jobs = [line.split() for line in run(["squeue", "-h", "-t", "all", "-o", "%i %Z"], slurm).splitlines()]
    return [job for job, folder in jobs if folder == str(cwd)]


@pytest.fixture(scope="module")
def finished(slurm, tmp_path_factory):
    cwd = tmp_path_factory.mktemp("study")
    study = write_study(cwd, compare=["mls", "random"])
    assert begin(cwd, slurm).wait() == 0, driver_log(cwd)
    return cwd, study


def test_a_run_is_shared_by_ranks_on_two_nodes(slurm, finished, tmp_path):
    study = write_study(tmp_path, gpus_per_run=2, nodes=2)
    shutil.copytree(finished[0] / "results" / "data", tmp_path / "results" / "data")
    (run_id,) = study.runs
    result = study.out / "runs" / run_id / "pretrain.json"
    assert begin(tmp_path, slurm, result).wait() == 0, driver_log(tmp_path)
    assert json.loads((tmp_path / result).read_text())["header"]["notes"]["ranks"] == 2
    (job,) = jobs_of(tmp_path, slurm)
    assert "NodeList=gpu[1-2]\n" in run(["scontrol", "show", "job", job], slurm)
    (alone,) = (finished[0] / study.out / "runs").glob("mls-*")
    for one, shared in zip(losses(alone), losses((tmp_path / result).parent), strict=True):
        assert shared.pop("diagnostics", {}) == pytest.approx(one.pop("diagnostics", {}), rel=0.01, abs=0.001)
        assert shared == pytest.approx(one, rel=1e-3)


@pytest.fixture
def training(finished, slurm, tmp_path):
    """A study whose one long pretraining is under way: Snakemake, its folder, its run's folder, Slurm's job."""
    study = write_study(tmp_path, pretrain=LONG)
    shutil.copytree(finished[0] / "results" / "data", tmp_path / "results" / "data")
    (run_id,) = study.runs
    folder = tmp_path / study.out / "runs" / run_id
    result = folder.relative_to(tmp_path) / "pretrain.json"
    driver = begin(tmp_path, slurm, result)
    until(lambda: (folder / "state" / "checkpoint.pt").exists() or driver.poll() is not None, "a state", 300)
    assert driver.poll() is None, driver_log(tmp_path)
    jobs = run(["squeue", "-h", "-t", "R", "-p", "gpu", "-o", "%i %N %Z"], slurm).splitlines()
    (job,) = [job.split()[:2] for job in jobs if job.endswith(str(tmp_path))]
    yield driver, tmp_path, folder, job
    if driver.poll() is None:
        os.killpg(driver.pid, signal.SIGKILL)
    run(["scancel", "--user", "root"], slurm)


@pytest.fixture(scope="module")
def whole(finished, tmp_path_factory):
    """The same run in this process, uninterrupted: its losses."""
    cwd = tmp_path_factory.mktemp("whole")
    study = write_study(cwd, pretrain=LONG)
    ((run_id, planned),) = study.runs.items()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    engine.pretrain(
        planned.config,
        finished[0] / study.store,
        cwd / run_id,
        run=run_id,
        device=torch.device("cpu"),
        progress=False,
    )
    torch.set_num_threads(threads)
    return losses(cwd / run_id)


def losses(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "images_per_s"} for line in lines]


def resumed_at(cwd, folder):
    """The step from which the last attempt went on, as its progress bar begins."""
    log = cwd / "results" / "tiny" / "logs" / "pretrain" / f"{folder.name}.log"
    return int(re.search(rf"(\d+)/{STEPS} ", log.read_text())[1])


def assert_went_on(cwd, folder, whole):
    assert resumed_at(cwd, folder) > 0, driver_log(cwd)
    assert losses(folder) == whole
    assert [path.name for path in (folder / "state").glob("*.pt")] == ["checkpoint.pt"]


def test_a_cancelled_job_is_started_again_and_goes_on(slurm, training, whole):
    driver, cwd, folder, (job, _) = training
    run(["scancel", job], slurm)
    assert driver.wait() == 0, driver_log(cwd)
    assert f"'{job}' failed, SLURM status is: 'CANCELLED'" in (cwd / "snakemake.log").read_text()
    assert_went_on(cwd, folder, whole)


def test_a_preempted_job_is_requeued_and_goes_on(slurm, training, whole):
    driver, cwd, folder, (job, _) = training
    run(["scontrol", "requeue", job], slurm)
    assert driver.wait() == 0, driver_log(cwd)
    assert "Restarts=1" in run(["scontrol", "show", "job", job], slurm)
    assert_went_on(cwd, folder, whole)


def test_a_second_snakemake_says_that_the_first_has_the_study_and_harms_nothing(slurm, training, whole):
    driver, cwd, folder, _ = training
    second = subprocess.run(
        command(cwd), cwd=cwd, env=slurm, capture_output=True, text=True, timeout=300, check=False
    )
    assert second.returncode == 1
    assert "cannot be locked" in second.stdout + second.stderr
    assert driver.wait() == 0, driver_log(cwd)
    assert resumed_at(cwd, folder) == 0
    assert losses(folder) == whole


def test_after_kill_9_of_snakemake_its_job_ends_and_nothing_is_trained_twice(slurm, training, whole):
    driver, cwd, folder, (job, _) = training
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    result = (folder / "pretrain.json").relative_to(cwd)
    locked = begin(cwd, slurm, result)
    assert locked.wait() == 1
    assert "cannot be locked" in (cwd / "snakemake.log").read_text()
    assert begin(cwd, slurm, "--unlock").wait() == 0
    assert begin(cwd, slurm, result).wait() == 0, driver_log(cwd)
    assert losses(folder) == whole
    attempts = jobs_of(cwd, slurm)
    # Its result is taken as it is, before or after the second trainer starts, or that one goes on from its state.
    taken_or_went_on = "has ended already; nothing is left to do" in driver_log(cwd) or resumed_at(cwd, folder) > 0
    assert attempts == [job] or taken_or_went_on, driver_log(cwd)


def test_a_lost_node_s_job_is_requeued_on_another_and_goes_on(slurm, training, whole):
    driver, cwd, folder, (job, node) = training
    slurm_cluster.lose_node(Path(slurm[slurm_cluster.MARK]), node, job)
    assert driver.wait() == 0, driver_log(cwd)
    shown = run(["scontrol", "show", "job", job], slurm)
    assert "Restarts=1" in shown
    assert f"NodeList={node}\n" not in shown
    assert_went_on(cwd, folder, whole)
    slurm_cluster.start_node(node, slurm)
