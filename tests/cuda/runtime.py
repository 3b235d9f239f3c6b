"""A CUDA runtime with one device and nothing behind it: what autograd asks for before a backward pass."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

RUNTIME = """
int cudaGetDeviceCount(int *n) { *n = 1; return 0; }
int cudaGetDevice(int *device) { *device = 0; return 0; }
int cudaSetDevice(int device) { return 0; }
int cudaDeviceGetStreamPriorityRange(int *least, int *greatest) { *least = *greatest = 0; return 0; }
int cudaStreamIsCapturing(void *stream, int *status) { *status = 0; return 0; }
int cudaGetLastError(void) { return 0; }
"""
DRIVER = """
int cuInit(unsigned flags) { return 0; }
int cuDeviceGetCount(int *n) { *n = 1; return 0; }
int cuDriverGetVersion(int *version) { *version = 13020; return 0; }
int cuDevicePrimaryCtxGetState(int device, unsigned *flags, int *active) { *flags = *active = 0; return 0; }
"""
LIBRARIES = {"libghost.so": RUNTIME, "libcuda.so.1": DRIVER}


def compiler() -> str | None:
    """Path of a C compiler, None without one."""
    return shutil.which("gcc") or shutil.which("cc")


def build(folder: Path) -> dict[str, str]:
    """Compile both libraries into `folder`; returns the variables that load them into a process."""
    for name, source in LIBRARIES.items():
        command = [str(compiler()), "-x", "c", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", folder / name, "-"]
        subprocess.run(command, input=source, text=True, check=True)
    return {"LD_PRELOAD": str(folder / "libghost.so"), "LD_LIBRARY_PATH": str(folder)}


def run_with_ghost(script: Path, arguments: list[str], folder: Path) -> str:
    """Standard output of a Python script in a process with the libraries; its errors if it fails."""
    project = str(Path(__file__).parents[2])
    paths = os.pathsep.join([project, os.environ.get("PYTHONPATH", "")])
    env = os.environ | build(folder) | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "0"}
    done = subprocess.run([sys.executable, script, *arguments], env=env, text=True, capture_output=True)
    if done.returncode:
        raise RuntimeError(f"{script.name} {' '.join(arguments)} failed:\n{done.stderr[-6000:]}")
    return done.stdout
