"""Checkpoints: all that a killed run needs to end as if it had never been interrupted."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mlssl.config import ConfigError
from mlssl.provenance import atomic


def random_state() -> dict[str, Any]:
    """The state of every global random number generator: torch (CPU and CUDA), numpy, python."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002 - the global one is meant
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all(),
        "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, gauss),
        "python": random.getstate(),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put back what `random_state` gave; CUDA's only where there are as many devices as then."""
    torch.set_rng_state(state["torch"])
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    random.setstate(state["python"])


def save(path: Path, values: dict[str, Any]) -> None:
    """Write a checkpoint atomically."""
    with atomic(path) as part:
        torch.save(values, part)


def load(path: Path, *, config: dict[str, Any]) -> dict[str, Any]:
    """Read a checkpoint to the CPU without running any code from it.

    Raises ConfigError when it was written by a run with another configuration, naming what differs.
    """
    values = torch.load(path, map_location="cpu", weights_only=True)
    theirs = values["meta"]["config"]
    if theirs != config:
        differing = [key for key in config if theirs.get(key) != config[key]]
        raise ConfigError(
            f"{path}: belongs to a run with another {', '.join(differing)}; "
            "give another --out, or remove the folder to begin anew"
        )
    return values
