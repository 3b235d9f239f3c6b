"""Initial weights of a backbone: mlssl's own `backbone.pt`, or a published checkpoint of its architecture."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from mlssl.errors import ConfigError
from mlssl.tensors import has_checksum, read_weights

INSIDE = ("backbone", "state_dict", "model", "method")
"""Keys under which a checkpoint may store its weights, outermost first."""


def load_initial(backbone: nn.Module, path: Path) -> str:
    """Load `backbone` from a file of weights, and return the prefix of their names in the file.

    MoCo's, DenseCL's and torchvision's files work unchanged: the first prefix (`module.encoder_q.`, …) under which
    every weight of the backbone has its shape is used; heads are ignored. No code in the file is run.
    Raises ConfigError for a file that cannot be read, that lacks a weight of the architecture, or that mlssl wrote
    and that has lost its checksum.
    """
    content = read_weights(
        path, "weights", key="init", missing="check the path", broken="give a checkpoint of tensors"
    )
    if written_by_mlssl(content) and not has_checksum(path):
        raise ConfigError(
            f"init: {path}: was written by mlssl but has no checksum at its end, so it is cut off or changed; "
            "give the original file"
        )
    for key in INSIDE:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise ConfigError(f"init: {path}: holds a {type(content).__name__}; give a checkpoint of named tensors")
    # Some files lack the batch counters, and no forward pass reads them.
    needed = {k: v for k, v in backbone.state_dict().items() if not k.endswith("num_batches_tracked")}
    first = next(iter(needed))
    prefixes = [name.removesuffix(first) for name in content if name == first or name.endswith(f".{first}")]
    missing = [first]
    for prefix in prefixes:
        missing = [k for k, v in needed.items() if not fits(content.get(prefix + k), v)]
        if not missing:
            backbone.load_state_dict({k: content[prefix + k] for k in needed}, strict=False)
            return prefix
    raise ConfigError(
        f"init: {path}: has no weight '{missing[0]}' of shape {tuple(needed[missing[0]].shape)}; "
        "give weights of the backbone that the study names"
    )


def written_by_mlssl(content: object) -> bool:
    """Whether mlssl wrote this `backbone.pt` or `checkpoint.pt`; files of other projects may have a `meta` too."""
    meta = content.get("meta") if isinstance(content, dict) else None
    return isinstance(meta, dict) and {"run", "config_digest"} <= meta.keys()


def fits(value: object, wanted: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == wanted.shape
