"""What the suite needs of a machine, checked one by one, with a remedy for each thing that it lacks."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

PYTHON = (3, 11, 4)
SHARED_MEMORY = 64 * 2**20
"""Bytes of /dev/shm that Docker gives by default; torch.distributed and workers want more."""
DISK = 5e9
"""Bytes: the checkpoints, store and pictures of a study of a few dozen ResNet-18 runs."""


@dataclass(frozen=True)
class Check:
    """One thing that was checked."""

    what: str
    state: Literal["ok", "warning", "fails"]
    text: str
    remedy: str = ""


def checks() -> list[Check]:
    """All of them, in the order in which they are to be repaired. None raises."""
    every: list[Callable[[], Check]] = [
        python,
        torch_,
        gpu,
        shared_memory,
        disk,
        writable,
        cores,
        compiler,
        snakemake,
    ]
    return [check() for check in every]


def python() -> Check:
    text = f"{platform.python_version()} ({sys.executable})"
    if sys.version_info < PYTHON:
        return Check("python", "fails", text, f"install Python {'.'.join(map(str, PYTHON))} or later")
    return Check("python", "ok", text)


def torch_() -> Check:
    try:
        import torch
        import torchvision
    except (ImportError, RuntimeError, OSError) as error:
        why = str(error).splitlines()[0]
        return Check("torch", "fails", why, "pip install torch torchvision, of versions that belong together")
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    return Check("torch", "ok", f"{torch.__version__} ({built}), torchvision {torchvision.__version__}")


def gpu(nvidia_smi: str = "nvidia-smi") -> Check:
    """The GPUs that torch sees, beside the driver's own list."""
    driver = driver_of(nvidia_smi)
    try:
        import torch
    except (ImportError, RuntimeError, OSError):
        return Check("gpu", "warning", "unknown without torch")
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if names:
        return Check("gpu", "ok", f"{', '.join(names)}; driver {driver or 'unknown'}")
    if driver is None:
        return Check("gpu", "ok", "none; everything runs on the CPU, pretraining much slower")
    if torch.version.cuda is None:
        return Check(
            "gpu", "warning", f"driver {driver}, but torch is built for the CPU", "install torch with CUDA"
        )
    remedy = f"update the driver to one for CUDA {torch.version.cuda}, or install torch for the driver's CUDA"
    return Check("gpu", "warning", f"driver {driver}, but torch sees no GPU", remedy)


def driver_of(nvidia_smi: str) -> str | None:
    """The version of the NVIDIA driver; None if there is none, or if it does not answer."""
    if not shutil.which(nvidia_smi):
        return None
    command = [nvidia_smi, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (subprocess.TimeoutExpired, OSError):
        return None
    return done.stdout.split()[0] if done.returncode == 0 and done.stdout.split() else None


def shared_memory(path: Path = Path("/dev/shm")) -> Check:
    if not path.is_dir():
        return Check("shared memory", "warning", f"no {path}", "not needed for one process; mount a tmpfs there")
    free = shutil.disk_usage(path).total
    if free <= SHARED_MEMORY:
        remedy = "start the container with --shm-size=2g; several ranks exchange tensors there"
        return Check("shared memory", "warning", f"{path} has {free / 2**20:.0f} MiB", remedy)
    return Check("shared memory", "ok", f"{path} has {free / 2**30:.1f} GiB")


def disk(folder: Path | None = None) -> Check:
    free = shutil.disk_usage(folder or Path.cwd()).free
    text = f"{free / 1e9:,.1f} GB free here; `mlssl estimate STUDY` says what a study needs"
    if free < DISK:
        return Check("disk", "warning", text, "free some, or work in a folder of a larger disk")
    return Check("disk", "ok", text)


def writable(folder: Path | None = None) -> Check:
    """Whether files can be made where a study writes: results/ and .snakemake/ in the working directory."""
    folder = folder or Path.cwd()
    for path in (folder, folder / "results", folder / ".snakemake"):
        if path.exists():
            try:
                with tempfile.TemporaryFile(dir=path):
                    pass
            except OSError as error:
                remedy = "work in a folder of your own, or repair its owner and mode"
                return Check("write access", "fails", f"{path}: {error.strerror}", remedy)
    return Check("write access", "ok", f"{folder} can be written to")


def cores() -> Check:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    return Check("cores", "ok", f"{usable} of {os.cpu_count()} usable; OMP_NUM_THREADS {threads}")


def compiler() -> Check:
    """A C compiler, which only torch.compile and packages without a wheel need."""
    found = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    if found is None:
        return Check("compiler", "ok", "none; it is needed only where a package has no wheel")
    return Check("compiler", "ok", str(shutil.which(found)))


def snakemake() -> Check:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return Check("snakemake", "ok", version("snakemake"))
    except PackageNotFoundError:
        return Check("snakemake", "fails", "is not installed", "pip install mlssl with its dependencies")
