"""Weights that a backbone starts from: our own `backbone.pt`, or a published checkpoint of its architecture."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from mlssl.errors import ConfigError
from mlssl.tensors import has_checksum, read_weights

INSIDE = ("backbone", "state_dict", "model", "method")
"""Under which of these a checkpoint keeps its weights; the outermost first."""


def load_initial(backbone: nn.Module, path: Path) -> str:
    """Load `backbone` from a file of weights, and return the prefix under which the file has them.

    MoCo's, DenseCL's and torchvision's files work as they are: the first prefix (`module.encoder_q.`, …) that
    has every weight of the backbone in its shape is taken, and heads are left out. Nothing in the file is run.
    Raises ConfigError for a file that cannot be read, that lacks a weight of the architecture, or that is our own
    and has lost its checksum.
    """
    remedies = {"missing": "check the path", "broken": "give a checkpoint of tensors"}
    content = read_weights(path, "weights", key="init", **remedies)
    if ours(content) and not has_checksum(path):
        raise ConfigError(
            f"init: {path}: is a file of mlssl without its checksum at the end, so cut off or changed; "
            "give it as it was written"
        )
    for key in INSIDE:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise ConfigError(f"init: {path}: holds a {type(content).__name__}; give a checkpoint of named tensors")
    # A counter of batches, which not every file has and no forward pass reads.
    needed = {k: v for k, v in backbone.state_dict().items() if not k.endswith("num_batches_tracked")}
    first = next(iter(needed))
    prefixes = [name.removesuffix(first) for name in content if name == first or name.endswith(f".{first}")]
    missing = first
    for prefix in prefixes:
        missing = next((k for k, v in needed.items() if not fits(content.get(prefix + k), v)), None)
        if missing is None:
            backbone.load_state_dict({k: content[prefix + k] for k in needed}, strict=False)
            return prefix
    raise ConfigError(
        f"init: {path}: has no weight '{missing}' of shape {tuple(needed[missing].shape)}; "
        "give weights of the backbone that the study names"
    )


def ours(content: object) -> bool:
    """Whether a pretraining has written this `backbone.pt` or `checkpoint.pt`; others' files have a `meta` too."""
    meta = content.get("meta") if isinstance(content, dict) else None
    return isinstance(meta, dict) and {"run", "config_digest"} <= meta.keys()


def fits(found: object, wanted: Tensor) -> bool:
    return isinstance(found, Tensor) and found.shape == wanted.shape
