"""A finished pretraining, read from its checkpoint: the method with all its networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mlssl.errors import ConfigError
from mlssl.parts.backbone import global_average_pool
from mlssl.pretrain.build import build_method
from mlssl.study.settings import Pretrain
from mlssl.study.validation import build
from mlssl.tensors import read_own


@dataclass(frozen=True)
class Run:
    """A pretraining run, read from its checkpoint."""

    path: Path
    name: str
    config: Pretrain
    weights: Mapping[str, Tensor]
    seconds: float
    """That its training took."""

    def method(self, device: torch.device, *, trained: bool = True) -> nn.Module:
        """The run's method in eval mode: with its trained weights, or as initialised.

        Raises ConfigError if the checkpoint does not fit the method's code, and for a supervised method, which has
        no key encoder.
        """
        if self.config.supervised:
            raise ConfigError(
                f"{self.path}: {self.config.method} is supervised and has no key encoder; give another run"
            )
        method, _ = build_method(self.config, device)
        if trained:
            try:
                method.load_state_dict(self.weights)
            except (RuntimeError, KeyError) as error:  # KeyError: extra state of an older version
                why = " ".join(str(error).split())[:200]
                what = self.config.target or self.config.backbone
                raise ConfigError(f"{self.path}: does not fit {what} ({why}); pretrain the run again") from None
        return method.eval()

    def encoders(self, device: torch.device, *, trained: bool = True) -> tuple[nn.Module, nn.Module]:
        """The query and the key encoder of `method`; the query encoder as both for a method without a key encoder.

        A run without a target has its backbone as both.
        """
        method = self.method(device, trained=trained)
        if self.config.target is None:
            return method, method
        pair: Any = method.encoders
        return pair.query, getattr(pair, "key", pair.query)

    def about(self) -> str:
        """Name, method and k, for a caption."""
        params = self.config.params
        k = f", k = {params['k']}" if "k" in params else ""
        return f"Run {self.name}, method {self.config.method}{k}"


def read_run(path: Path) -> Run:
    """Read the `checkpoint.pt` of a pretraining; ConfigError if it is missing or another file."""
    remedies = {"missing": "pretrain the run first", "broken": "pretrain the run again"}
    state = read_own(path, "the checkpoint.pt of a pretraining", {"method", "meta", "seconds"}, **remedies)
    meta = state["meta"]
    if "experiment" not in meta:
        raise ConfigError(f"{path}: was written by an earlier version of mlssl; pretrain the run again")
    config = build(Pretrain, meta["config"], f"{path}: meta.config")
    return Run(Path(path), meta["run"], config, state["method"], state["seconds"])


def features(encoder: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
    """B x 3 x S x S -> g (B x d_g) and z (B x d_z, or None); the encoder's first output is g or its feature map."""
    out = encoder(pixels)
    g, z = (out, None) if isinstance(out, Tensor) else out[:2]
    return (global_average_pool(g) if g.ndim == 4 else g), z
