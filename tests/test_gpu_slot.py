"""GPUs of one machine, taken by file locks: never two jobs on one, and never one lost."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import combinations
from pathlib import Path

import pytest

from mlssl.errors import ConfigError
from mlssl.runtime import device, gpu_slot

ROOT = Path(__file__).parents[1]
JOB = """
import json, os, sys, time
began = time.monotonic()
time.sleep(float(sys.argv[2]))
with open(sys.argv[1], "a") as file:
    file.write(json.dumps([os.environ.get("CUDA_VISIBLE_DEVICES"), began, time.monotonic()]) + "\\n")
"""


def start(folder, command, *, gpus=1, visible="0,1"):
    environment = os.environ | {"MLSSL_GPU_SLOTS": str(folder / "slots"), "CUDA_VISIBLE_DEVICES": visible}
    slot = [sys.executable, "-m", "mlssl.runtime.gpu_slot", "--gpus", str(gpus), "--"]
    return subprocess.Popen([*slot, *command], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def job(folder, seconds=0.3, **how):
    return start(folder, [sys.executable, "-c", JOB, str(folder / "jobs"), str(seconds)], **how)


def ended(folder):
    return [json.loads(line) for line in (folder / "jobs").read_text().splitlines()]


def assert_never_two_on_one(jobs):
    for (one, began, end), (other, other_began, other_end) in combinations(jobs, 2):
        if set(one.split(",")) & set(other.split(",")):
            assert end <= other_began or other_end <= began


def test_five_jobs_share_two_gpus(tmp_path):
    running = [job(tmp_path) for _ in range(5)]
    errors = [j.communicate(timeout=60)[1] for j in running]
    assert [j.returncode for j in running] == [0] * 5
    assert {name for name, *_ in ended(tmp_path)} == {"0", "1"}
    assert_never_two_on_one(ended(tmp_path))
    assert any("waiting for 1 of the GPUs 0, 1 to be free" in error for error in errors)


def test_jobs_of_two_gpus_do_not_wait_for_each_other_for_ever(tmp_path):
    running = [job(tmp_path, gpus=2, visible="0,1,2") for _ in range(4)]
    assert [j.wait(timeout=60) for j in running] == [0] * 4
    assert all(len(name.split(",")) == 2 for name, *_ in ended(tmp_path))
    assert_never_two_on_one(ended(tmp_path))


def child_of(wrapper):
    children = Path(f"/proc/{wrapper.pid}/task/{wrapper.pid}/children")
    end = time.monotonic() + 60
    while not (found := children.read_text().split()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return int(found[0])


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_gpu_is_taken_as_long_as_its_job_lives_and_no_longer(tmp_path):
    first = job(tmp_path, seconds=60, visible="0")
    child = child_of(first)
    first.kill()
    first.wait()
    second = job(tmp_path, visible="0")
    time.sleep(1)
    assert second.poll() is None  # the job of the killed wrapper still computes
    os.kill(child, signal.SIGKILL)
    assert second.wait(timeout=60) == 0


def test_exit_codes_and_signals_pass_through(tmp_path):
    assert start(tmp_path, [sys.executable, "-c", "raise SystemExit(75)"]).wait(timeout=60) == 75
    running = start(tmp_path, ["sleep", "60"])
    child_of(running)
    time.sleep(0.3)
    running.send_signal(signal.SIGTERM)
    assert running.wait(timeout=60) == 128 + signal.SIGTERM


def test_without_a_gpu_a_command_runs_as_it_is_and_too_many_are_refused(tmp_path):
    assert job(tmp_path, seconds=0, visible="").wait(timeout=60) == 0
    assert ended(tmp_path)[0][0] == ""
    assert not (tmp_path / "slots").exists()
    greedy = job(tmp_path, gpus=3)
    assert "3 GPUs are requested, this machine has 0, 1" in greedy.communicate(timeout=60)[1]
    assert greedy.returncode == 1


SMI = """#!/bin/sh
case $1 in
    --query-gpu=index) printf '0\\n1\\n';;
    *) printf 'Tesla V100-SXM2-16GB, 535.129.03\\nTesla V100-SXM2-16GB, 535.129.03\\n';;
esac
"""


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """An nvidia-smi that lists two GPUs, which torch cannot use."""
    (tmp_path / "nvidia-smi").write_text(SMI)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path / "nvidia-smi"


def test_the_gpus_of_a_machine_are_those_that_are_listed_or_chosen(smi, monkeypatch):
    assert gpu_slot.visible() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert gpu_slot.visible() == ["1"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    smi.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'; exit 9\n")
    assert gpu_slot.visible() == []


def test_a_gpu_that_torch_cannot_use_stops_a_stage_at_once(smi, monkeypatch):
    message = (
        r"GPU \(Tesla V100-SXM2-16GB, driver 535.129.03\), which PyTorch .* cannot use; install a build for .*docs"
    )
    for name in ("auto", "cuda"):
        with pytest.raises(ConfigError, match=message):
            device.choose(name)
    assert device.choose("cpu").type == "cpu"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert device.choose("auto").type == "cpu"
