"""Build the method, its backbone and the optimiser from a run's configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mlssl.checkpoints.load import load
from mlssl.parts.backbone import create_backbone
from mlssl.parts.method import Method
from mlssl.runtime.device import set_float32_products
from mlssl.runtime.parallel import parallel
from mlssl.runtime.precision import REDUCED, effective, run_under_autocast
from mlssl.seeds import seed_of
from mlssl.study.methods import load_class, resolve
from mlssl.study.settings import Pretrain


def build_method(
    config: Pretrain,
    device: torch.device,
    labels: Tensor | None = None,
    notes: dict[str, Any] | None = None,
) -> tuple[nn.Module, nn.Module]:
    """The method (with its heads, key encoder and dictionary) and, inside it, the backbone to export.

    The initial backbone depends on the run's seed only, or is read from `init`, so it is the same for every
    method. Without a target the method is the backbone itself. A supervised method is given the image labels,
    bool N x C. `notes` receives `init`: which network of that file was loaded, and why.
    """
    torch.manual_seed(seed_of(config.seed, "backbone"))
    backbone = create_backbone(config.backbone, zero_init_residual=config.zero_init_residual)
    if config.init is not None:
        loaded = load(backbone, Path(config.init), config.init_prefix)
        if notes is not None:
            notes["init"] = str(loaded)
    torch.manual_seed(seed_of(config.seed, "heads"))
    method: nn.Module = backbone
    if config.target is not None:
        cls = load_class(config.target)
        params = resolve(config.target, {}, config.params, config.method)
        method = cls(backbone, *([labels] if config.supervised else []), **params)
    method.to(device).to(memory_format=torch.channels_last).train()
    return method, backbone


def build_optimizer(config: Pretrain, method: nn.Module) -> torch.optim.Optimizer:
    """SGD with momentum and weight decay on all trainable parameters (MoCo-v2's recipe)."""
    trained = [p for p in method.parameters() if p.requires_grad]
    groups = [{"params": trained}]  # the list may be empty: a backbone without weights
    return torch.optim.SGD(
        groups, lr=config.lr, momentum=config.sgd_momentum, weight_decay=config.weight_decay, fused=True
    )


def precision(config: Pretrain, device: torch.device) -> str:
    """The precision of a run on this device: `fp32`, `tf32`, `bf16` or `fp16` (see `runtime.precision`)."""
    return effective(config.precision, device)[0]


def build_scaler(config: Pretrain, device: torch.device) -> torch.amp.GradScaler | None:
    """For `fp16`, whose gradients would underflow: scales the loss. None for other precisions."""
    return torch.amp.GradScaler(device.type) if precision(config, device) == "fp16" else None


def prepare_method(config: Pretrain, method: nn.Module, device: torch.device) -> Method:
    """The method as the training step calls it: encoders in the run's precision, the batch shared by the ranks.

    Similarities and losses stay in float32, whose products on a GPU are set for this process: exact, or TF32 with
    `tf32`. Raises ConfigError for a class that is no method.
    """
    chosen = precision(config, device)
    set_float32_products(tf32=chosen == "tf32")
    if chosen in REDUCED:
        for encoder in method.get_submodule("encoders").children():
            run_under_autocast(encoder, device, REDUCED[chosen])
    return parallel(method, config.batch_norm, device)
