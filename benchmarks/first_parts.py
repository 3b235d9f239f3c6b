"""The parts of `first_hour`: each measures one thing on a GPU, or goes through it at toy size on any device."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import torch
import yaml

from benchmarks import measure
from benchmarks.cases import DICTIONARIES, GPU, LARGE, METHODS, PHOTO, Case
from benchmarks.inputs import absent, open_store
from mlssl import results
from mlssl.cost.timing import seconds
from mlssl.data import placement
from mlssl.data.loader import Ahead, Steps
from mlssl.data.store import build_store
from mlssl.parts.method import Method
from mlssl.pretrain import loop
from mlssl.pretrain.prepare import identified
from mlssl.pretrain.step import step
from mlssl.runtime import gpu_slot
from mlssl.runtime.precision import effective
from mlssl.scenes import write_scenes
from mlssl.study.settings import Data, Pretrain, Views
from mlssl.study.validation import plain

ROOT = Path(__file__).parents[1]
TOY = Case("resnet10t", 32, 4, 64)
Found = dict[str, Any]


@dataclass(frozen=True)
class Bench:
    """What all parts share: the device, a folder for their files, and whether sizes are those of a test."""

    device: torch.device
    scratch: Path
    toy: bool

    def case(self, i: int) -> Case:
        return TOY if self.toy else GPU[i]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Numbers of entries of a dictionary."""
        return (64, 128) if self.toy else (*DICTIONARIES, LARGE)

    def photos(self) -> Path:
        """A folder of drawn JPEGs."""
        size, images = ((64, 64), 64) if self.toy else (PHOTO, 512)
        if not (self.scratch / "scenes").exists():
            write_scenes(self.scratch / "scenes", images=images, val_images=1, size=size, seed=0)
        return self.scratch / "scenes" / "train2017"

    def store(self, case: Case) -> Path:
        """An image store of the JPEGs."""
        open_store(case, self.photos(), torch.device("cpu"))
        return self.photos().parent / f"store-{case.short_side}"

    def config(self, case: Case, steps: int) -> Pretrain:
        """Settings of a pretraining of MoCo-v2 on the JPEGs."""
        return Pretrain(
            Data(str(self.scratch / "scenes"), short_side=case.short_side, images_id=None),
            method="moco_v2",
            target=METHODS["moco_v2"][0],
            backbone=case.backbone,
            epochs=None,
            steps=steps,
            batch_size=case.batch,
            views=Views(crop=case.crop),
            params={"dictionary_size": self.sizes[0], "dim": 128},
            log_every=1,
        )


def environment(bench: Bench) -> Found:
    """GPU, driver, versions, precision, and the memory that placement sees."""
    shm = Path("/dev/shm")
    found: Found = {
        "gpus": gpu_slot.listed("name", "driver_version", "memory.total"),
        "cuda": torch.version.cuda,
        "cores": len(os.sched_getaffinity(0)),
        "host_memory_free_gb": placement.host_memory_free() / 1e9,
        "machine_memory_gb": psutil.virtual_memory().total / 1e9,
        "shared_memory_gb": shutil.disk_usage(shm).free / 1e9 if shm.exists() else None,
        "auto": effective("auto", bench.device),
    }
    if bench.device.type == "cuda":
        found["capability"] = torch.cuda.get_device_capability(bench.device)
        found["cudnn"] = torch.backends.cudnn.version()
    return found


def tests(bench: Bench) -> Found:
    """The tests of what a GPU is asked to do, and those of GPUs, devices and memory."""
    chosen = ["tests/test_precision.py", "-k", "gpu"] if bench.toy else ["tests/cuda", "tests/test_memory.py"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return {"exit_code": done.returncode, "end": done.stdout.splitlines()[-15:]}


def waits(bench: Bench) -> Found:
    """Views and step of each method, where every wait of the host for the GPU is an error."""
    found, case = Found(), bench.case(0)
    for name in ("moco_v2", "densecl", "mls"):
        train = partial(train_on_views, trainable(bench, name, case), views_of(bench, case))
        train(range(3))  # constants are copied once
        try:
            with errors_at_waits(bench.device):
                train(range(3, 6))
            found[name] = "no wait" if bench.device.type == "cuda" else "not measured: no GPU"
        except RuntimeError as error:
            found[name] = str(error).splitlines()[0]
    return found


@contextmanager
def errors_at_waits(device: torch.device) -> Iterator[None]:
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def profile(bench: Bench) -> Found:
    """Kernels of views and step by time, and the share of the time in which none ran."""
    gpu, count, found = bench.device.type == "cuda", 2 if bench.toy else 20, Found()
    activities = [torch.profiler.ProfilerActivity.CPU] + [torch.profiler.ProfilerActivity.CUDA] * gpu
    for case in dict.fromkeys((bench.case(0), bench.case(1))):
        train = partial(train_on_views, trainable(bench, "moco_v2", case), views_of(bench, case))
        train(range(count))
        with torch.profiler.profile(activities=activities) as profiler:
            taken = seconds(partial(train, range(count, 2 * count)), bench.device)
        kernels = [e.time_range for e in profiler.events() if e.device_type == torch.autograd.DeviceType.CUDA]
        busy = union((span.start, span.end) for span in kernels) / 1e6
        order = "self_device_time_total" if gpu else "self_cpu_time_total"
        found[case.name] = {
            "ms_per_step": 1000 * taken / count,
            "gpu_idle_share": 1 - busy / taken if gpu else None,
            "table": profiler.key_averages().table(sort_by=order, row_limit=15).splitlines(),
        }
    return found


def trainable(bench: Bench, name: str, case: Case) -> tuple[Method, torch.optim.Optimizer]:
    return measure.trainable(case, name, bench.sizes[0], bench.device, filled=True)


def views_of(bench: Bench, case: Case) -> Ahead:
    """The views of a pretraining on the JPEGs."""
    store = open_store(case, bench.photos(), bench.device)
    return Ahead(Steps(store, bench.config(case, 1), bench.device))


def train_on_views(trained: tuple[Method, torch.optim.Optimizer], views: Ahead, at: Iterable[int]) -> None:
    for i in at:
        step(*trained, views[i], 0.0)
        views.prepare(i + 1)


def union(spans: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def training(bench: Bench, i: int) -> Found:
    """Training with the suite's input, lightly's and torchvision's, and without input: in turns."""
    repeats, least = (1, 0.01) if bench.toy else (3, 8.0)
    how: dict[str, Any] = {"skip": absent(bench.device), "repeats": repeats, "least": least}
    return {"rows": list(measure.training([bench.case(i)], bench.photos(), bench.device, **how))}


def steps(bench: Bench, i: int) -> Found:
    """Steps of each method with dictionaries of 4,096, 65,536 and a million entries."""
    repeats, count = (1, 1) if bench.toy else (3, 20)
    how: dict[str, Any] = {"skip": absent(bench.device), "repeats": repeats, "count": count}
    return {"rows": list(measure.steps([bench.case(i)], bench.sizes, bench.device, **how))}


def peaks(bench: Bench, i: int) -> Found:
    """Peak memory of the steps."""
    return {"rows": list(measure.memory(bench.case(i), bench.sizes, bench.device, skip=absent(bench.device)))}


def two_jobs(bench: Bench) -> Found:
    """Two pretrainings at once on one GPU: the speed of each, and where its images are."""
    case, _ = bench.case(0), bench.photos()
    settings = plain(bench.config(case, 3 if bench.toy else 300))
    (bench.scratch / "run.yaml").write_text(yaml.safe_dump(settings))
    outs, jobs, found = [bench.scratch / f"job-{i}" for i in range(2)], [], []
    for out in outs:
        command = [sys.executable, "-m", "mlssl", "pretrain", "--config", str(bench.scratch / "run.yaml")]
        where = ["--out", str(out), "--store", str(bench.scratch / "two-jobs"), "--device", str(bench.device)]
        jobs.append(subprocess.Popen([*command, *where], cwd=ROOT))
    codes = [job.wait() for job in jobs]
    if any(codes):
        raise RuntimeError(f"the pretrainings ended with {codes}")
    for out in outs:
        if result := results.read_result(out / "pretrain.json"):
            speed = next(row["value"] for row in result["rows"] if row["metric"] == "images_per_s")
            found.append({"images_per_s": speed, "store": result["header"]["notes"]["store"]})
    return {"jobs": found}


def out_of_memory(bench: Bench) -> Found:
    """The losses of a training, and of one that runs out of memory in its second step and moves its images."""
    case, photos, calls = bench.case(0), bench.photos(), list[float]()
    config = identified(bench.config(case, 3))
    store = bench.scratch / "out-of-memory"
    build_store(photos, store, short_side=case.short_side, images_id=config.data.images_id)

    def failing(*args: Any) -> Any:
        calls.append(args[3])
        if len(calls) == 2:
            if bench.device.type == "cuda":
                torch.empty(2**50, dtype=torch.uint8, device=bench.device)
            raise torch.OutOfMemoryError("as a GPU's allocator would")
        return step(*args)

    found, plenty = Found(), placement.FreeMemory(10**12, 10**12)
    with mock.patch.object(placement, "free_memory", return_value=plenty):
        for name, trained in (("undisturbed", step), ("out of memory", failing)):
            with mock.patch.object(loop, "step", trained):
                loop.pretrain(config, store, bench.scratch / name, run=name, device=bench.device, progress=False)
            log = (bench.scratch / name / "log.jsonl").read_text().splitlines()
            header = (results.read_result(bench.scratch / name / "pretrain.json") or {})["header"]
            losses = [json.loads(line)["loss"] for line in log]
            found[name] = {"store": header["notes"]["store"].split(" (")[0], "losses": losses}
    return found


def study(bench: Bench) -> Found:
    """`config/gpu.yaml` to its page, and how busy the GPU was; what a call has not finished, the next one does."""
    chosen = ["study=config/tiny.yaml", "--dry-run"] if bench.toy else ["study=config/gpu.yaml"]
    command = [sys.executable, "-m", "snakemake", "--cores", "all", "--config", *chosen]
    busy = [sys.executable, "-m", "benchmarks.busy", *command]
    done = subprocess.run(busy, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"snakemake ended with {done.returncode}: {done.stderr[-2000:]}")
    return {"end": done.stderr.splitlines()[-5:]}


PARTS: dict[str, Callable[[Bench], Found]] = {
    "environment": environment,
    "tests": tests,
    "waits": waits,
    "profile": profile,
    "training-small": partial(training, i=0),
    "training-large": partial(training, i=1),
    "steps-small": partial(steps, i=0),
    "steps-large": partial(steps, i=1),
    "memory-small": partial(peaks, i=0),
    "memory-large": partial(peaks, i=1),
    "two-jobs": two_jobs,
    "out-of-memory": out_of_memory,
    "study": study,
}
"""In the order in which they are measured; small is ResNet-18 at 96 px, large ResNet-50 at 224 px."""


def what(name: str) -> str:
    """What a part measures, in a line."""
    part = PARTS[name]
    text = (part.func if isinstance(part, partial) else part).__doc__
    assert text
    return text.splitlines()[0]
