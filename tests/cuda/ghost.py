"""Tensors on `cuda` without a GPU: shape, dtype, strides and device, but no values. CPU tensors are real.

An operation of a CPU and a CUDA tensor raises, as on a GPU. Everything else is counted (`Trace`). Python's
decisions about values on the device are guessed: see `GhostCuda.guess`. Values, times, NCCL and cuDNN's choices
cannot be known this way.
"""

from __future__ import annotations

import contextlib
import linecache
import sys
import weakref
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch._subclasses.fake_tensor as fake_tensor
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

PROJECT = Path(__file__).parents[2]
OURS = tuple(f"{PROJECT / package}/" for package in ("mlssl", "baselines"))
NO_KERNEL = """
    view _unsafe_view reshape _reshape_alias expand permute transpose t slice select unsqueeze squeeze detach
    alias as_strided split split_with_sizes unbind unfold diagonal narrow chunk flatten unflatten movedim real
    split_dim empty empty_like empty_strided new_empty new_empty_strided lift_fresh set_ resize_ is_pinned
    is_same_size record_stream device layout sym_size sym_stride sym_numel sym_storage_offset
    _local_scalar_dense _has_compatible_shallow_copy_type"""
WITHOUT_KERNEL = set(NO_KERNEL.split())
BATCH_NORMS = ("native_batch_norm", "cudnn_batch_norm", "_native_batch_norm_legit", "batch_norm_with_update")
DATA_DEPENDENT = {"equal", "nonzero", "masked_select", "nms", "bincount", "unique_dim", "_unique2"}


@dataclass
class Trace:
    """What the device was asked to do."""

    launches: Counter[str] = field(default_factory=Counter)
    """Operations that launch a kernel; a fused optimiser or a `_foreach` counts one per 30 tensors."""
    lines: Counter[str] = field(default_factory=Counter)
    """Kernels by the line of the project that asked for them."""
    waits: Counter[str] = field(default_factory=Counter)
    """Where the host waits for the device, `file:line: why`."""
    uploads: int = 0
    """Copies to the device that the host does not wait for."""
    touched: int = 0
    """Bytes of all operands and results on the device."""
    peak: int = 0
    """Most bytes of tensors on the device at once."""
    batch_norms: set[str] = field(default_factory=set)
    """Dtypes of the scales of batch norms."""


def site() -> str:
    """The innermost line of the project that is being executed; `file:line`, with torchvision's if it is inside."""
    frame, inside = sys._getframe(1), ""
    while frame:
        name = frame.f_code.co_filename
        if name.startswith(OURS):
            return f"{Path(name).relative_to(PROJECT)}:{frame.f_lineno}{inside}"
        if "/torchvision/" in name:
            inside = " (torchvision)"
        frame = frame.f_back  # type: ignore[assignment]
    return f"autograd or optimiser{inside}"


def asking_line() -> str:
    """The line of code, outside torch, that asks for a value."""
    frame = sys._getframe(2)
    while frame.f_back and ("/torch/" in frame.f_code.co_filename or frame.f_code.co_filename == __file__):
        frame = frame.f_back
    return linecache.getline(frame.f_code.co_filename, frame.f_lineno)


def on_cuda(x: object) -> bool:
    return isinstance(x, FakeTensor) and x.fake_device.type == "cuda"


class GhostCuda(FakeTensorMode):
    avoid_device_init = True  # of the C++ runtime, which is not there

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.trace = Trace()
        self._live: dict[int, int] = {}
        self._pinned: dict[int, Any] = {}
        self._nested = False

    def begin(self) -> Trace:
        """A new, empty trace; the memory in use is kept."""
        self.trace = Trace(peak=sum(self._live.values()))
        return self.trace

    # Memory

    def _pin(self, x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        self._pinned[storage.data_ptr()] = storage  # kept alive, so that its address is not used again
        return x

    def _is_pinned(self, x: Tensor) -> bool:
        return not isinstance(x, FakeTensor) and x.untyped_storage().data_ptr() in self._pinned

    def _allocated(self, out: object) -> None:
        for x in filter(on_cuda, tree_leaves(out)):
            storage = x.untyped_storage()
            key = storage._cdata
            if key not in self._live:
                self._live[key] = storage.nbytes()
                weakref.finalize(storage, self._live.pop, key, None)
                self.trace.peak = max(self.trace.peak, sum(self._live.values()))

    # Operations

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        leaves, name = tree_leaves((args, kwargs)), func._schema.name.split("::")[1]
        device = kwargs.get("device")
        to_cuda = device is not None and torch.device(device).type == "cuda"
        pinning = kwargs.pop("pin_memory", False)
        if not to_cuda and not any(isinstance(x, FakeTensor) for x in leaves):
            return self._on_host(name, func, args, kwargs, pinning)
        if name in ("_to_copy", "copy_") and (download := self._copied(name, args, kwargs, to_cuda)) is not None:
            return download
        if name == "_local_scalar_dense":
            self._wait("a value is read")
            return self.guess(args[0])
        if name in DATA_DEPENDENT:
            self._wait(name)
            if (found := self._of_unknown_size(name, args, kwargs)) is not None:
                return found
        if name in ("index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_"):
            args = (args[0], [j for i in args[1] for j in self._positions(i)], *args[2:])
        if name.startswith("_fused_sgd"):  # FakeTensorMode does not know it
            assert all(x.is_cuda for x in leaves if isinstance(x, Tensor))
            self._launch(name, 1 + len(args[0]) // 30, [x for x in leaves if on_cuda(x)])
            return None
        out, nested = self._shapes(func, types, args, kwargs)
        if not nested:
            self._count(name, args, leaves, out)
        return out

    def _on_host(self, name: str, func: Any, args: Any, kwargs: Any, pinning: bool) -> Any:
        """An operation of real tensors."""
        if name in ("pin_memory", "_pin_memory"):
            return self._pin(args[0].clone())
        if name == "is_pinned":
            return self._is_pinned(args[0])
        out = func(*args, **kwargs)
        return self._pin(out) if pinning else out

    def _copied(self, name: str, args: Any, kwargs: Any, to_cuda: bool) -> Tensor | None:
        """The result of a copy from the device; a copy to it is counted, and made as any other operation."""
        if name == "copy_":
            source, to = args[1], on_cuda(args[0])
        else:
            source, to = args[0], to_cuda or (kwargs.get("device") is None and on_cuda(args[0]))
        at_once = kwargs.get("non_blocking", False) or (name == "copy_" and args[2:3] == (True,))
        if on_cuda(source) and not to:
            return self._download(name, args, kwargs.get("dtype") or source.dtype, at_once)
        if to and not on_cuda(source):
            self._upload(source, at_once)
        return None

    def _shapes(self, func: Any, types: Any, args: Any, kwargs: Any) -> tuple[Any, bool]:
        """What torch's FakeTensorMode makes of it, and whether it was a part of a decomposition."""

        def as_fake(x: object) -> object:  # FakeTensorMode would compute with small real tensors
            real = isinstance(x, Tensor) and not isinstance(x, FakeTensor)
            return self.fake_tensor_converter.from_real_tensor(self, x) if real else x

        args, kwargs = tree_map(as_fake, (args, kwargs))
        outer, self._nested = self._nested, True
        try:
            return super().__torch_dispatch__(func, types, args, kwargs), outer
        finally:
            self._nested = outer

    def _count(self, name: str, args: Any, leaves: list[Any], out: object) -> None:
        self._allocated(out)
        operands = [x for x in {id(x): x for x in [*leaves, *tree_leaves(out)]}.values() if on_cuda(x)]
        if operands and name not in WITHOUT_KERNEL and any(x.numel() for x in operands):
            self._launch(name, 1 + len(args[0]) // 30 if name.startswith("_foreach") else 1, operands)
        if name in BATCH_NORMS and args[1] is not None:
            self.trace.batch_norms.add(str(args[1].dtype))

    def _launch(self, name: str, kernels: int, operands: list[Tensor]) -> None:
        self.trace.launches[name] += kernels
        self.trace.lines[site()] += kernels
        self.trace.touched += sum(x.numel() * x.element_size() for x in operands)

    def _wait(self, why: str) -> None:
        self.trace.waits[f"{site()}: {why}"] += 1

    def _upload(self, source: Tensor, at_once: bool) -> None:
        if at_once and self._is_pinned(source):
            self.trace.uploads += 1
        else:
            self._wait("upload" if self._is_pinned(source) else "upload from pageable memory")

    def _download(self, name: str, args: Any, dtype: torch.dtype, at_once: bool) -> Tensor:
        if name == "copy_":
            if not (at_once and self._is_pinned(args[0])):
                self._wait("download")
            return args[0].zero_()
        self._wait("download")
        with _disable_current_modes():
            return torch.zeros(tuple(args[0].shape), dtype=dtype)

    # Values that are not there

    def guess(self, x: Tensor) -> float | bool:
        """What Python is given for a value on the device: numbers are 1, flags say that nothing is wrong."""
        if x.dtype == torch.bool:
            return any(word in asking_line() for word in (".all()", "isfinite"))
        return 1.0 if x.dtype.is_floating_point else 1

    def _new(self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        with self:
            return torch.empty(shape, dtype=dtype, device=device)

    def _of_unknown_size(self, name: str, args: Any, kwargs: Any) -> Any:
        """Results whose size depends on values: half of what is possible."""
        x = args[0]
        half = max(1, x.numel() // 2)
        if name == "equal":
            return True
        if name == "nonzero":
            return self._new((half, x.dim()), torch.int64, x.fake_device)
        if name == "masked_select":
            return self._new((half,), x.dtype, x.fake_device)
        if name == "nms":
            return self._new((max(1, len(x) // 2),), torch.int64, x.fake_device)
        return None

    def _positions(self, i: Any) -> list[Any]:
        """An index as FakeTensorMode knows it: a boolean one selects half of its places, which the host awaits."""
        if on_cuda(i) and i.dtype == torch.bool:
            self._wait("boolean index")
            half = max(1, (i.numel() + 1) // 2)
            return [self._new((half,), torch.int64, i.fake_device) for _ in range(i.dim())]
        return [i]


class Event:
    """`torch.cuda.Event`, and a stream in all that the project uses of it."""

    def __init__(self, *args: object, **kwargs: object) -> None: ...

    def record(self, *stream: object) -> None: ...

    def synchronize(self) -> None: ...

    def wait_stream(self, other: object) -> None: ...


@contextlib.contextmanager
def ghost_cuda() -> Iterator[GhostCuda]:
    """Make `cuda` available as far as shapes go; needs the libraries of `runtime`."""
    from mlssl.data.augment import gpu

    def suggested(x: Tensor, weight: Tensor, backend: object) -> torch.memory_format:
        last = any(t.is_contiguous(memory_format=torch.channels_last) and t.dim() == 4 for t in (x, weight))
        return torch.channels_last if last else torch.contiguous_format

    mode = GhostCuda()
    replaced = {
        (fake_tensor, "init_gpu_context"): lambda device: None,
        (torch.cuda.amp.common, "amp_definitely_not_available"): lambda: False,
        (torch.cuda, "is_bf16_supported"): lambda *a, **k: True,
        (torch.cuda, "get_device_capability"): lambda *a: (9, 0),
        (torch.cuda, "get_device_name"): lambda *a: "ghost",
        (torch.cuda, "device"): lambda device: contextlib.nullcontext(),
        (torch.cuda, "Event"): Event,
        (torch.cuda, "Stream"): Event,
        (torch.cuda, "current_stream"): Event,
        (torch.cuda, "stream"): lambda stream: contextlib.nullcontext(),
        (torch.cuda, "_lazy_init"): lambda: None,
        (weakref, "getweakrefs"): lambda x: [],  # which torch keeps of fake tensors, and Module.to refuses
        (torch._C, "_select_conv_backend"): lambda *a, **k: torch._C._ConvBackend.Cudnn,
        (torch._C, "_conv_determine_backend_memory_format"): suggested,
        (torch.cuda, "get_rng_state"): lambda *a: torch.zeros(16, dtype=torch.uint8),
        (torch.cuda, "set_rng_state"): lambda *a: None,
        (gpu, "compiled"): lambda function: function,
        (Tensor, "record_stream"): lambda *a: None,
    }
    with contextlib.ExitStack() as stack:
        for (owner, name), new in replaced.items():
            stack.enter_context(mock.patch.object(owner, name, new))
        stack.enter_context(mode)
        yield mode
