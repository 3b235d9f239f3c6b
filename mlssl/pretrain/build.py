"""Build the method, its backbone and the optimiser from a run's configuration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from timm.optim import Lars
from torch import Tensor, nn

from mlssl.checkpoints.load import load
from mlssl.errors import ConfigError
from mlssl.parts.backbone import create_backbone
from mlssl.parts.method import Method
from mlssl.runtime.device import set_float32_products
from mlssl.runtime.parallel import parallel
from mlssl.runtime.precision import REDUCED, effective, run_under_autocast
from mlssl.seeds import seed_of
from mlssl.study.methods import load_class, resolve
from mlssl.study.settings import Pretrain
from mlssl.study.validation import plain


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
    backbone = initial_backbone(config, notes)
    torch.manual_seed(seed_of(config.seed, "heads"))
    method: nn.Module = backbone
    if config.target is not None:
        cls = load_class(config.target)
        params = resolve(config.target, {}, config.params, config.method)
        method = cls(backbone, *([labels] if config.supervised else []), **params)
    method.to(device).to(memory_format=torch.channels_last).train()
    return method, backbone


def initial_backbone(
    config: Pretrain,
    notes: dict[str, Any] | None = None,
    where: str = "init",
    prefix_setting: str = "init_prefix",
) -> nn.Module:
    """The backbone that a run starts from: random, or from the file `init`; see `build_method` for `notes`.

    Errors call the settings of the file and of the network in it `where` and `prefix_setting`.
    Raises ConfigError if mlssl wrote that file for weights with another preprocessing than the run's.
    """
    preprocessing = plain(config.init_preprocessing)
    backbone = create_backbone(
        config.backbone, zero_init_residual=config.zero_init_residual, preprocessing=preprocessing
    )
    if config.init is None:
        return backbone
    loaded = load(backbone, Path(config.init), config.init_prefix, where=where, prefix_setting=prefix_setting)
    if loaded.own is not None and (theirs := loaded.own["config"].get("init_preprocessing")) != preprocessing:
        raise ConfigError(
            f"{where}: {config.init}: was written for preprocessing {_words(theirs)}, but the run has "
            f"{_words(preprocessing)}; give what the file was written for"
        )
    if notes is not None:
        notes["init"] = str(loaded)
        notes["init_preprocessing"] = preprocessing
    return backbone


def _words(preprocessing: dict[str, Any] | None) -> str:
    return json.dumps(preprocessing) if preprocessing else "null, this suite's own"


def build_optimizer(config: Pretrain, method: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of all trainable parameters: by default SGD with momentum and weight decay (MoCo-v2's recipe).

    Raises ConfigError for settings of a predictor with a method that has none.
    """
    groups = parameter_groups(config, method)
    shared: dict[str, Any] = {"lr": config.lr, "momentum": config.sgd_momentum, "weight_decay": config.weight_decay}
    if config.optimiser == "lars":  # timm's does not adapt the rate of a group without weight decay
        return Lars(groups, **shared, trust_coeff=config.trust)
    return torch.optim.SGD(groups, **shared, fused=True)


def parameter_groups(config: Pretrain, method: nn.Module) -> list[dict[str, Any]]:
    """The trainable parameters by weight decay and learning rate; one group, perhaps empty, if all have the same.

    A group of the predictor has `lr_factor` and `constant`, which `set_learning_rate` reads.
    """
    of_predictor = config.predictor_lr != 1 or config.predictor_schedule == "constant"
    if of_predictor and not any(name == "predictor" for name, _ in method.named_children()):
        raise ConfigError(
            f"predictor_lr and predictor_schedule: {type(method).__name__} has no predictor; leave both out for it"
        )
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in method.named_parameters():
        if parameter.requires_grad:
            own_rate = of_predictor and name.startswith("predictor.")
            decayed = config.decay_norm_and_bias or parameter.dim() > 1
            groups.setdefault((own_rate, decayed), []).append(parameter)
    rate = {"lr_factor": config.predictor_lr, "constant": config.predictor_schedule == "constant"}
    return [
        {"params": members, **(rate if own_rate else {}), **({} if decayed else {"weight_decay": 0.0})}
        for (own_rate, decayed), members in groups.items()
    ] or [{"params": []}]


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float, peak: float) -> None:
    """Set the rate of all groups of `build_optimizer`; `lr` is that of the schedule, `peak` its largest value."""
    for group in optimizer.param_groups:
        group["lr"] = group.get("lr_factor", 1) * (peak if group.get("constant") else lr)


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
