"""Choice and set-up of the device, and its description for result files."""

from __future__ import annotations

import ctypes
import functools
import platform
from typing import Any

import torch

from mlssl.errors import ConfigError
from mlssl.runtime import gpu_slot


def choose(name: str = "auto") -> torch.device:
    """The device called `name`; `auto` is CUDA if available, else the CPU.

    Raises ConfigError if there is none of that name, or a GPU that PyTorch cannot use, unless the name is `cpu`.
    """
    if name != "cpu" and not torch.cuda.is_available() and (why := unusable_gpu()):
        raise ConfigError(why)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"--device: '{name}' is no device; give auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        build = "" if torch.version.cuda else ", and this torch is built without CUDA"
        remedy = (
            "give auto or cpu" if not count else f"give cuda:0 to cuda:{count - 1}" if count > 1 else "give cuda"
        )
        raise ConfigError(f"--device: '{name}' is not there: torch sees {count} GPUs{build}; {remedy}")
    if device.type == "cuda" and device.index is None and torch.cuda.is_available():
        device = torch.device("cuda", torch.cuda.current_device())  # as tensors name it
    return device


def unusable_gpu() -> str | None:
    """Why PyTorch cannot use a GPU that this machine has; None without a GPU.

    Usually the driver is older than the CUDA version of PyTorch. Training would take days on a CPU.
    """
    found = gpu_slot.listed("name", "driver_version") if gpu_slot.visible() else []
    if not found:
        return None
    gpu, driver = found[0]
    cuda = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    return (
        f"this machine has a GPU ({gpu}, driver {driver}), which PyTorch {torch.__version__} {cuda} cannot use; "
        "install a build for this driver (table in docs/cluster.md), or compute on the CPU: give --device cpu, or "
        "set CUDA_VISIBLE_DEVICES to nothing"
    )


def set_up(device: torch.device, threads: int | None = None) -> None:
    """Make a GPU the current one, with exact float32 products; set the number of CPU threads.

    With None, torch chooses the number.

    For training on the CPU, also set glibc's malloc options.
    """
    set_float32_products(tf32=False)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # streams and events are those of the current device
    if threads:
        torch.set_num_threads(threads)
    if device.type == "cpu":
        keep_freed_memory()


@functools.cache
def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next tensor instead of returning it to the system.

    Otherwise every activation is mapped and zeroed again: a ResNet-18 step at 64 px takes 5 to 20 % longer.
    """
    if platform.libc_ver()[0] == "glibc":
        mmap_threshold, trim_threshold = -3, -1  # malloc.h: M_MMAP_THRESHOLD, M_TRIM_THRESHOLD
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 2**30)
        libc.mallopt(trim_threshold, 2**31 - 1)


def set_float32_products(tf32: bool) -> None:
    """Let a GPU compute float32 convolutions and matrix products in TF32, or else in float32, in this process.

    PyTorch's own default is TF32 for convolutions and float32 for matrix products.
    """
    # The newer `fp32_precision` leaves these flags in a state that torch.compile refuses to read.
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32


def float32_products() -> dict[str, str]:
    """For the header of a result: `ieee` or `tf32`, for a GPU's convolutions and matrix products of float32."""
    flags = {"convolution": torch.backends.cudnn.allow_tf32, "matmul": torch.backends.cuda.matmul.allow_tf32}
    return {name: "tf32" if tf32 else "ieee" for name, tf32 in flags.items()}


def facts(device: torch.device) -> dict[str, Any]:
    """For the header of a result: the device's name and CPU threads.

    Of a GPU also its peak memory in MB, and how it computes float32 products.
    """
    record: dict[str, Any] = {"device": "cpu", "threads": torch.get_num_threads()}
    if device.type == "cuda":
        record["device"] = torch.cuda.get_device_name(device)
        record["peak_memory_mb"] = torch.cuda.max_memory_allocated(device) / 2**20
        record["float32_products"] = float32_products()
    return record


def gains_from_bf16(device: torch.device) -> bool:
    """Whether the device has hardware for bfloat16 matrix products: a GPU's tensor cores, a CPU's AMX tiles."""
    if device.type == "cuda":
        with torch.cuda.device(device):  # emulation is slower than float32
            return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_amx_tile_supported()
