"""Pickles without their code: the few classes that published checkpoints contain, and stand-ins for the rest.

A pickle names the functions that build its objects, so reading it as usual runs whatever it names. Here no name in
a file is imported: it is looked up in `ALLOWED`, or the file is refused.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch


class Ignored:
    """Placeholder for an object of another library, whose content is not used."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


class IgnoredDict:
    """Replaces a class of dicts: makes an OrderedDict, whatever the arguments."""

    def __new__(cls, *_: Any) -> Any:
        return OrderedDict()


class IgnoredList:
    """Replaces a class of lists: makes a list, whatever the arguments."""

    def __new__(cls, *_: Any) -> Any:
        return []


def _from_buffer(data: Any, dtype: np.dtype, shape: tuple[int, ...], order: Any) -> np.ndarray:
    """What NumPy calls `_frombuffer`."""
    return np.frombuffer(data, dtype=dtype).reshape(shape, order=order)


def _encode(text: str, encoding: str) -> bytes:
    """How a pickle of protocol 2 stores bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes are encoded as {encoding}")
    return text.encode("latin1")


def _numpy() -> Iterator[tuple[str, Any]]:
    yield "numpy.ndarray", np.ndarray
    yield "numpy.dtype", np.dtype
    reconstruct = np.empty(0).__reduce__()[0]
    scalar = cast(Any, np.float64(0).__reduce__())[0]
    for core in ("numpy.core", "numpy._core"):  # the first is the name before NumPy 2
        yield f"{core}.multiarray._reconstruct", reconstruct
        yield f"{core}.multiarray.scalar", scalar
        yield f"{core}.numeric._frombuffer", _from_buffer
    for kind in "?bBhHiIlLqQefdUSO":
        dtype = type(np.dtype(kind))
        yield f"numpy.dtypes.{dtype.__name__}", dtype


LIGHTNING = [f"{root}.utilities.parsing" for root in ("pytorch_lightning", "lightning.pytorch")]
LIGHTNING += ["lightning_fabric.utilities.data", "lightning.fabric.utilities.data"]
OMEGACONF = ["dictconfig.DictConfig", "listconfig.ListConfig", "base.ContainerMetadata", "base.Metadata"]
OMEGACONF += [f"nodes.{name}Node" for name in ("Any", "Integer", "Float", "Boolean", "String")]
TYPES = ["typing.Any", *(f"builtins.{name}" for name in ("dict", "list", "tuple", "int", "float", "bool", "str"))]
"""Types that a settings object names; nothing is made of them."""
PATHS = ["PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"]
CALLBACK = "callbacks.model_checkpoint.ModelCheckpoint"

ALLOWED: dict[str, Any] = {
    **dict(_numpy()),
    **dict.fromkeys(("argparse.Namespace", "datetime.datetime", "datetime.timedelta"), Ignored),
    **dict.fromkeys((f"{module}.{name}" for module in ("pathlib", "pathlib._local") for name in PATHS), Ignored),
    **dict.fromkeys((f"omegaconf.{name}" for name in OMEGACONF), Ignored),
    **dict.fromkeys(TYPES, Ignored),
    **dict.fromkeys((f"{root}.{CALLBACK}" for root in ("pytorch_lightning", "lightning.pytorch")), Ignored),
    "mmengine.logging.history_buffer.HistoryBuffer": Ignored,
    **dict.fromkeys((f"{module}.AttributeDict" for module in LIGHTNING), IgnoredDict),
    **dict.fromkeys(("mmcv.utils.config.ConfigDict", "mmengine.config.config.ConfigDict"), IgnoredDict),
    **dict.fromkeys(("addict.addict.Dict", "yacs.config.CfgNode", "collections.defaultdict"), IgnoredDict),
    "collections.deque": IgnoredList,
}
"""Name in a pickle -> what is used for it, besides what torch itself allows. None of them can run code."""

TENSORS = {
    "collections.OrderedDict": OrderedDict,
    "_codecs.encode": _encode,
    "copyreg._reconstructor": lambda *_: Ignored(),
    "builtins.object": Ignored,
    "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
    "torch._utils._rebuild_parameter": torch._utils._rebuild_parameter,
    "torch.storage._load_from_bytes": lambda data: torch.load(io.BytesIO(data), weights_only=True),
}
"""What a plain pickle of tensors names besides; torch's own `_load_from_bytes` would run code in these bytes."""


def full_name(module: str, name: str) -> str:
    """The name of Python 3 for one in a pickle; protocols up to 2 have those of Python 2."""
    renamed = {"__builtin__": "builtins", "copy_reg": "copyreg"}
    return f"{renamed.get(module, module)}.{name}"


class Foreign(Exception):
    """A name in a pickle that is not allowed."""


class Restricted(pickle.Unpickler):
    """Reads a plain pickle; raises Foreign at the first name that is not allowed."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="latin1")  # how Python 2 wrote arrays

    def find_class(self, module: str, name: str) -> Any:
        full = full_name(module, name)
        found = TENSORS.get(full, ALLOWED.get(full))
        if found is None:
            raise Foreign(full)
        return found


def allowed_in_torch() -> list[Callable | tuple[Callable, str]]:
    """`ALLOWED` as `torch.serialization.safe_globals` takes it."""
    return [(value, name) for name, value in ALLOWED.items()]


# What is in a file that is refused


class Shape(dict):
    """Placeholder for any object: takes items and state, and does nothing with them."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def __setstate__(self, _: Any) -> None:
        pass

    def __call__(self, *_: Any) -> Any:
        return Shape()

    def append(self, _: Any) -> None:
        pass

    def extend(self, _: Any) -> None:
        pass

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)


class Skim(pickle.Unpickler):
    """Reads only the structure of a pickle: every object is a `Shape`; `names` collects what it would call."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="latin1")
        self.names: list[str] = []

    def find_class(self, module: str, name: str) -> Any:
        self.names.append(full_name(module, name))
        return OrderedDict if self.names[-1] == "collections.OrderedDict" else Shape

    def persistent_load(self, reference: Any) -> Any:
        is_class = isinstance(reference, tuple) and reference[:1] == ("module",)
        return Shape if is_class else Shape()


KNOWN_TO_TORCH = ("torch.", "collections.", "_codecs.", "builtins.set", "builtins.complex", "builtins.bytearray")


def skim(path: Path, *, archive: bool, legacy: bool) -> tuple[list[str], list[str]]:
    """The top-level keys of a pickle or of a torch file, and the names in it that are not allowed; runs no code.

    `archive` is torch's format since 1.6, a zip, and `legacy` the one before, in which three pickles precede the
    content. Both lists are empty if the
    structure cannot be read.
    """
    try:
        if archive:
            with zipfile.ZipFile(path) as file:
                inside = next(name for name in file.namelist() if name.endswith("data.pkl"))
                content, names = _structure(io.BytesIO(file.read(inside)), before=0)
        else:
            with open(path, "rb") as pickles:
                content, names = _structure(pickles, before=3 if legacy else 0)
    except Exception:  # The content of a broken pickle may raise any exception; the file is refused anyway.
        return [], []
    foreign = [name for name in dict.fromkeys(names) if name not in ALLOWED and not name.startswith(KNOWN_TO_TORCH)]
    models = [name for name in dict.fromkeys(names) if name.startswith("torch.nn.modules.")]
    return [str(key) for key in content] if isinstance(content, dict) else [], [*foreign, *models]


def _structure(file: BinaryIO, before: int) -> tuple[Any, list[str]]:
    for _ in range(before):
        Skim(file).load()
    last = Skim(file)
    return last.load(), last.names
