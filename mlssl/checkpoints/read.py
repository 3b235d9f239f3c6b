"""Any published file of weights as nested dicts of tensors, read without running code in it."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from mlssl.checkpoints.pickles import Foreign, Restricted, allowed_in_torch, skim
from mlssl.errors import ConfigError
from mlssl.tensors import Damaged, has_checksum, verify

LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""The start of a file of torch before 1.6: its magic number, pickled."""
FOREIGN = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; run `git lfs pull`",
    b"<!": "a web page, not weights; download the file itself",
    b"<ht": "a web page, not weights; download the file itself",
    b"<?": "XML, not weights; download the file itself",
    b"\x89HDF": "an HDF5 file (Keras); give a file of torch or safetensors",
    b"\x1f\x8b": "a gzip archive; unpack it, and give the file in it",
    b"BZh": "a bzip2 archive; unpack it, and give the file in it",
    b"\xfd7zXZ": "an xz archive; unpack it, and give the file in it",
    b"\x93NUMPY": "a single NumPy array; give a checkpoint of named tensors",
    b"GGUF": "a GGUF file of a language model; give a file of torch or safetensors",
}
"""The first bytes of a file -> what it is, and what to do."""
DEPTH = 8
"""Dicts within dicts that are looked into; VISSL's have five levels."""
ALONE = "where the file was made, save the weights alone: torch.save(model.state_dict(), path)"


def read(path: Path, where: str = "init") -> dict[str, Any]:
    """The content of a checkpoint, on the CPU: torch's formats, safetensors or a plain pickle, whatever its suffix.

    `where` names the setting or option that gave the path. Raises ConfigError for a file that is missing, cut off
    or no checkpoint, that mlssl wrote and that was changed, or that names code outside `pickles.ALLOWED`.
    """
    try:
        content = _content(path)
    except FileNotFoundError:
        raise ConfigError(f"{where}: {path}: no such file; check the path") from None
    except IsADirectoryError:
        raise ConfigError(f"{where}: {path}: is a folder; give a file of weights in it") from None
    except Damaged as error:
        raise ConfigError(f"{where}: {error}; give the original file") from None
    except _Refused as error:
        raise ConfigError(f"{where}: {path}: {error}") from None
    if not isinstance(content, dict):
        kind = "single tensor" if isinstance(content, Tensor | np.ndarray) else type(content).__name__
        raise ConfigError(f"{where}: {path}: holds a {kind}; give a checkpoint of named tensors")
    if written_by_mlssl(content) and not has_checksum(path):
        raise ConfigError(
            f"{where}: {path}: was written by mlssl but has no checksum at its end, so it is cut off or changed; "
            "give the original file"
        )
    return content


class _Refused(Exception):
    """What a file is, and the remedy."""


def _content(path: Path) -> Any:
    if has_checksum(path):
        verify(path)
    with open(path, "rb") as file:
        start = file.read(max(len(LEGACY), 64))
    if not start:
        raise _Refused("is empty; fetch it again")
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 32:
        return _safetensors(path)
    for magic, what in FOREIGN.items():
        if start.lstrip().lower().startswith(magic.lower()):
            raise _Refused(f"is {what}")
    if start.startswith(b"PK"):
        _check_archive(path)
    elif not start.startswith(LEGACY) and start[:1] in (b"\x80", b"(", b"}", b"]", b"c"):
        return _pickle(path, start)
    try:
        # A file, not its path: some versions of torch go by the suffix.
        with open(path, "rb") as file, torch.serialization.safe_globals(allowed_in_torch()):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # Unpickling another file may raise any exception.
        raise _refusal(path, error, start) from None


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path, device="cpu")
    except safetensors.SafetensorError as error:
        raise _Refused(f"is a damaged safetensors file ({error}); fetch it again") from None


def _check_archive(path: Path) -> None:
    """Name the zip archives that are no checkpoints of torch."""
    if not zipfile.is_zipfile(path):
        raise _Refused("is cut off: its archive has no end; fetch it again")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any("/code/" in name or name.endswith("constants.pkl") for name in names):
        raise _Refused(f"is a TorchScript program, which is code; {ALONE}")
    if names and all(name.endswith(".npy") for name in names):
        raise _Refused("is a NumPy archive (.npz); give a file of torch or safetensors")
    if not any(name.endswith("data.pkl") for name in names):
        raise _Refused("is a zip archive without weights of torch; unpack it, and give the file in it")


def _pickle(path: Path, start: bytes) -> Any:
    try:
        with open(path, "rb") as file:
            return Restricted(file).load()
    except Exception as error:  # Unpickling another file may raise any exception.
        raise _refusal(path, error, start) from None


def _refusal(path: Path, error: Exception, start: bytes) -> _Refused:
    """Why a pickle was not read; torch's own text is left out, because it advises to run the file's code."""
    keys, names = skim(path, archive=start.startswith(b"PK"), legacy=start.startswith(LEGACY))
    if isinstance(error, Foreign):
        names = [str(error), *(name for name in names if name != str(error))]
    if not names:
        return _Refused(
            f"cannot be read as weights ({type(error).__name__}){listed(keys)}; fetch it again, or {ALONE}"
        )
    named = f"{names[0]}" + (f" and {len(names) - 1} more" if len(names) > 1 else "")
    return _Refused(f"names code ({named}), which is never run, so it is not read{listed(keys)}; {ALONE}")


def listed(keys: Iterable[Any]) -> str:
    """The first eight top-level keys of a file, as a part of a sentence."""
    keys = [str(key) for key in keys]
    shown = ", ".join(keys[:8]) + (f" and {len(keys) - 8} more" if len(keys) > 8 else "")
    return f"; its top-level keys are {shown}" if keys else ""


def written_by_mlssl(content: object) -> bool:
    """Whether mlssl wrote this `backbone.pt` or `checkpoint.pt`; files of other projects may have a `meta` too."""
    meta = content.get("meta") if isinstance(content, dict) else None
    return isinstance(meta, dict) and {"run", "config_digest"} <= meta.keys()


def containers(content: dict[Any, Any]) -> dict[str, dict[str, Tensor]]:
    """Every dict in a checkpoint that holds tensors: the keys that lead to it, with dots -> its tensors by name.

    NumPy arrays become tensors. Names that torch.compile and FSDP put between are left out.
    """
    found: dict[str, dict[str, Tensor]] = {}

    def visit(values: dict[Any, Any], place: tuple[str, ...]) -> None:
        tensors: dict[str, Tensor] = {}
        for name, value in values.items():
            if not isinstance(name, str):
                continue
            if isinstance(value, dict) and len(place) < DEPTH:
                visit(value, (*place, name))
            elif isinstance(value, np.ndarray) and value.dtype.kind in "fiu":
                tensors[name] = torch.from_numpy(np.array(value, dtype=value.dtype.newbyteorder("="), order="C"))
            elif isinstance(value, Tensor):
                tensors[name] = value
        if tensors:
            found[".".join(place)] = unwrapped(tensors)

    visit(content, ())
    return found


WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")


def unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names without what torch.compile, FSDP and checkpointing put between, unless two would be equal."""
    short = {name: unwrapped_name(name) for name in tensors}
    if len(set(short.values())) < len(short):
        return tensors
    return {short[name]: value for name, value in tensors.items()}


def unwrapped_name(name: str) -> str:
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name
