"""From a run's configuration to a method that can be trained."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mlssl.config import ConfigError, Pretrain
from mlssl.device import gains_from_bf16
from mlssl.engine.initial import load_initial
from mlssl.parts.backbone import create_backbone
from mlssl.seeds import seed_of


def build_method(config: Pretrain, device: torch.device) -> tuple[nn.Module, nn.Module]:
    """The method (with its heads, key encoder and dictionary) and, inside it, the backbone to export.

    The initial backbone follows from the run's seed alone, or is read from `init`, so it is the same for every
    method. Without a target the method is the bare backbone.
    """
    torch.manual_seed(seed_of(config.seed, "backbone"))
    backbone = create_backbone(config.backbone)
    if config.init is not None:
        load_initial(backbone, Path(config.init))
    torch.manual_seed(seed_of(config.seed, "heads"))
    method = backbone
    if config.target is not None:
        cls = method_class(config.target)
        known = inspect.signature(cls).parameters
        for key in config.params:
            if key not in known:
                names = ", ".join(known)
                raise ConfigError(f"params.{key}: {config.target} has no such scalar; it has {names}")
        method = cls(backbone, **config.params)
    method.to(device, memory_format=torch.channels_last).train()
    return method, backbone


def method_class(target: str) -> type[nn.Module]:
    """Import a method by its dotted path, for example `mlssl.method.mls.MLS`."""
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"target '{target}' cannot be imported: {error}") from error


def method_scalars(config: Pretrain) -> dict[str, Any]:
    """Every scalar the method runs with, its constructor's defaults included."""
    if config.target is None:
        return {}
    parameters = inspect.signature(method_class(config.target)).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY} | config.params


def build_optimizer(config: Pretrain, method: nn.Module) -> torch.optim.Optimizer:
    """SGD with momentum on all that takes a gradient, weight decay on everything (MoCo-v2's recipe)."""
    trained = [p for p in method.parameters() if p.requires_grad]
    how = {"momentum": config.sgd_momentum, "weight_decay": config.weight_decay}
    return torch.optim.SGD(trained, lr=config.lr, fused=True, **how)


def precision(config: Pretrain, device: torch.device) -> str:
    """`fp32` or `bf16`: as told, or where `auto` by what the device gains from."""
    if config.precision == "auto":
        return "bf16" if gains_from_bf16(device) else "fp32"
    if config.precision not in ("fp32", "bf16"):
        raise ConfigError(f"precision: '{config.precision}' is not known; give fp32, bf16 or auto")
    return config.precision


def run_encoders_in_bf16(method: nn.Module, device: torch.device) -> None:
    """Wrap the encoders alone: similarities and losses stay in float32."""
    for encoder in (method.encoders.query, method.encoders.key):
        encoder.forward = torch.autocast(device.type, dtype=torch.bfloat16)(encoder.forward)
