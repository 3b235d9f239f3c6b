"""Where the images are in memory, what limits it, and what a run does when a GPU's memory is not enough."""

import json
import multiprocessing
import os
import time
from collections import namedtuple
from itertools import pairwise

import pytest
import torch
from test_engine import CPU, assert_same, engine, make_settings, store, train  # noqa: F401 - a fixture
from torch import nn

from mlssl.data import placement
from mlssl.data.placement import FreeMemory
from mlssl.data.store import ImageStore
from mlssl.errors import ConfigError
from mlssl.pretrain import memory
from mlssl.runtime import gpu_slot, machine_lock

GB = 10**9


@pytest.mark.parametrize(
    ("place", "on_gpu", "training"),
    [
        ("mapped", None, 0),
        ("device", 139, 30),
        ("mapped", 20, 0),
        ("mapped", 59, 0),
        ("device", 61, 30),
        ("mapped", 61, 32),
    ],
)
def test_images_are_in_gpu_memory_if_they_take_half_of_it_and_leave_room_for_training(place, on_gpu, training):
    free = FreeMemory(500 * GB, on_gpu and on_gpu * GB)
    assert placement.choose_place(30 * GB, free, training=training * GB) == place


def test_the_place_of_the_images_is_described():
    found = placement.describe(30 * GB, "device", FreeMemory(500 * GB, 139 * GB), training=20 * GB)
    assert found == (
        "store of 30.0 GB in GPU memory (139.0 GB of GPU memory free, at most 50% of it to be used and 20.0 GB "
        "left for training; 500.0 GB of host memory free)"
    )
    found = placement.describe(30 * GB, "mapped", FreeMemory(16 * GB, None))
    assert found == (
        "store of 30.0 GB in the page cache (16.0 GB of host memory free; images are read from the disk again in "
        "every epoch)"
    )


def test_moved_images_are_equal_and_mapped_ones_are_not_copied(monkeypatch):
    pixels = torch.arange(10, dtype=torch.uint8)
    monkeypatch.setattr(placement, "CHUNK", 4)
    copy = placement.moved(pixels, "device", CPU)
    assert torch.equal(copy, pixels)
    assert copy.data_ptr() != pixels.data_ptr()
    assert placement.moved(pixels, "mapped", CPU) is pixels


V2, V1 = ("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")


def cgroup(folder, names, limit, used, **statistics):
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names, (limit, used), strict=True):
        (folder / name).write_text(f"{value}\n")
    if statistics:
        (folder / "memory.stat").write_text("".join(f"{k} {v}\n" for k, v in statistics.items()))


def free(tmp_path, lines, machine=10_000):
    (tmp_path / "cgroup").write_text(lines)
    return placement.host_memory_free(tmp_path / "cgroup", tmp_path / "fs", machine)


def test_the_limit_of_slurms_job_counts_above_that_of_the_process(tmp_path):
    """Version 2: no limit on the task, 1000 on the step, 700 on the job, more on the node's slice."""
    job = tmp_path / "fs/system.slice/slurmstepd.scope/job_7"
    cgroup(job / "step_0/user/task_0", V2, "max", 300)
    cgroup(job / "step_0", V2, 1000, 300)
    cgroup(job, V2, 700, 500, inactive_file=150)  # of 500 used, the page cache can give back 150
    cgroup(tmp_path / "fs/system.slice", V2, 9000, 600)
    assert free(tmp_path, "0::/system.slice/slurmstepd.scope/job_7/step_0/user/task_0\n") == 350
    assert free(tmp_path, "0::/elsewhere\n") == 10_000
    assert free(tmp_path, "0::/system.slice\n", machine=50) == 50


def test_the_limits_of_version_1_count(tmp_path):
    unlimited = 9223372036854771712
    job = tmp_path / "fs/memory/slurm/uid_0/job_7"
    cgroup(job / "step_0", V1, unlimited, 100)
    cgroup(job, V1, 600, 100, total_inactive_file=40)
    lines = "5:cpu,cpuacct:/\n4:memory:/slurm/uid_0/job_7/step_0\n1:name=systemd:/x\n"
    assert free(tmp_path, lines) == 540


def test_in_a_container_the_limit_is_at_the_root_whatever_the_path_says(tmp_path):
    cgroup(tmp_path / "fs", V2, 800, 900)
    assert free(tmp_path, "0::/docker/0123456789ab\n") == 0


def test_without_cgroups_the_machines_memory_counts(tmp_path):
    assert placement.host_memory_free(tmp_path / "none") > 10**6


def inside(name, log):
    with machine_lock.alone(name):
        began = time.monotonic()
        time.sleep(0.1)
        with open(log, "a") as file:
            file.write(json.dumps([began, time.monotonic()]) + "\n")


def test_two_jobs_do_not_measure_and_allocate_on_one_gpu_at_once(tmp_path, monkeypatch):
    monkeypatch.setenv("MLSSL_GPU_SLOTS", str(tmp_path / "locks"))
    context = multiprocessing.get_context("fork")
    jobs = [context.Process(target=inside, args=("images-GPU-0", tmp_path / "log")) for _ in range(3)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(timeout=60)
    times = sorted(json.loads(line) for line in (tmp_path / "log").read_text().splitlines())
    assert len(times) == 3
    assert all(one[1] <= other[0] for one, other in pairwise(times))


def test_images_are_placed_under_the_lock_of_their_gpu_and_stay_if_they_do_not_fit(tmp_path, monkeypatch):
    monkeypatch.setenv("MLSSL_GPU_SLOTS", str(tmp_path / "locks"))
    monkeypatch.setattr(memory, "gpu_id", lambda device: "GPU-1")
    held = []

    def measured(device, *, sharers):
        held.append(machine_lock.locked(tmp_path / "locks" / "images-GPU-1") is None)
        return FreeMemory(10**6, 10**6)

    def full(pixels, place, device):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(placement, "free_memory", measured)
    monkeypatch.setattr(placement, "moved", full)
    images = namedtuple("Images", "pixels")(torch.zeros(9, dtype=torch.uint8))
    place, described = memory.put_images(images, torch.device("cuda:0"), training=0)
    assert (place, held) == ("mapped", [True])
    assert described.startswith("store of 0.0 GB in the page cache")


def test_the_lock_file_of_another_user_is_opened_without_creating_it(tmp_path, monkeypatch, capsys):
    """In a sticky folder that all can write to, Linux refuses O_CREAT for a file of another user."""
    (tmp_path / "0").touch()
    opened, refused = os.open, os.open

    def protected(path, flags, *mode):
        if flags & os.O_CREAT and os.path.exists(path):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, flags, *mode)

    monkeypatch.setattr(os, "open", protected)
    file = machine_lock.locked(tmp_path / "0")
    assert file is not None
    assert machine_lock.locked(tmp_path / "0") is None
    os.close(file)
    os.close(machine_lock.locked(tmp_path / "1"))
    assert (tmp_path / "1").stat().st_mode & 0o777 == 0o666

    def unreadable(path, flags, *mode):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", unreadable)
    with pytest.raises(ConfigError, match=r"belongs to another user.*MLSSL_GPU_SLOTS"):
        machine_lock.locked(tmp_path / "0")
    monkeypatch.setattr(gpu_slot, "visible", lambda: ["0"])
    monkeypatch.setenv("MLSSL_GPU_SLOTS", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["gpu_slot", "--", "true"])
    assert gpu_slot.main() == 1
    assert "belongs to another user" in capsys.readouterr().err
    assert refused is opened


def test_what_training_needs_is_counted_from_the_layers():
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 32))
    method = nn.ModuleDict({"query": backbone})
    settings = make_settings(batch_size=2, views={"crop": 32})
    outputs = 2 * (3 * 4 * 32 * 32 + 2)  # images x (three maps of 4 channels, one of 2 cells)
    weights = (3 * 4 * 9 + 4) + 8 + (4 * 2 * 1024 + 2)
    views = 2 * 2 * (2 * 3 * 32 * 32)  # those of this step and the next
    for precision, size in (("fp32", 4), ("bf16", 2)):
        expected = 2 * 4 * weights + 4 * views + 2 * size * outputs
        assert memory.training_bytes(settings, method, backbone, precision) == expected
    assert next(backbone.parameters()).device == CPU


@pytest.fixture
def on_a_gpu(monkeypatch):
    """A CPU whose memory is divided as a GPU's: images are copied if they are to be in GPU memory."""
    monkeypatch.setattr(placement, "free_memory", lambda device, *, sharers: FreeMemory(10**12, 10**12))
    monkeypatch.setattr(memory, "free_on_gpu", lambda device: 1000)


def test_a_run_out_of_memory_goes_on_to_the_same_numbers_with_its_images_elsewhere(
    store,  # noqa: F811
    tmp_path,
    monkeypatch,
    on_a_gpu,
    capsys,
):
    settings, step, failures = make_settings("moco_v2", steps=5), engine.step, []
    expected = train(settings, store, tmp_path / "expected")

    def too_much(method, optimizer, views, progress, scaler):
        if not failures and progress == 3 / 5:
            failures.append(method.step(*views, progress))  # the dictionary and batch norms have changed already
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(method, optimizer, views, progress, scaler)

    monkeypatch.setattr(engine, "step", too_much)
    found = train(settings, store, tmp_path / "found")
    assert failures
    for values in (expected, found):
        values.pop("seconds")
        values.pop("log")  # it has the speed
    assert_same(expected, found)
    notes = json.loads((tmp_path / "found" / "pretrain.json").read_text())["header"]["notes"]
    assert "in the page cache" in notes["store"]
    assert "the images leave it for the page cache" in capsys.readouterr().err


def test_a_run_that_never_fits_says_so_in_a_line_and_is_not_tried_again_alike(
    store,  # noqa: F811
    tmp_path,
    monkeypatch,
    on_a_gpu,
):
    tried = []

    def too_much(*args):
        tried.append(args)
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "step", too_much)
        message = r"^run: the memory of cpu is not enough to train test_resnet at 32 px with batch_size 4; lower"
        with pytest.raises(ConfigError, match=message):
            train(make_settings(), store, tmp_path)
        assert len(tried) == 2  # with the images in GPU memory, and without
        with pytest.raises(ConfigError, match="it failed with as much free before"):
            train(make_settings(), store, tmp_path)
        assert len(tried) == 2
    monkeypatch.setattr(memory, "free_on_gpu", lambda device: 2000)
    train(make_settings(), store, tmp_path)
    assert not (tmp_path / "state" / "failed.json").exists()
    assert len(ImageStore(store)) == 20
