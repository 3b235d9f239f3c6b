"""Pretraining: one loop for every method."""

from __future__ import annotations

import importlib
import inspect
import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from mlssl import provenance
from mlssl.config import ConfigError, Pretrain, plain
from mlssl.data.store import ImageStore
from mlssl.data.views import make_view
from mlssl.engine import checkpoint
from mlssl.engine.log import Log, NonFiniteLoss
from mlssl.engine.schedule import cosine
from mlssl.parts.backbone import create_backbone
from mlssl.seeds import seed_of


def pretrain(
    config: Pretrain, store_path: Path, out: Path, *, run: str, device: torch.device, progress: bool = True
) -> None:
    """Train a method on a store's images and leave in `out` what later stages need.

    `backbone.pt` is the query encoder's backbone, `checkpoint.pt` the whole state at the end, `log.jsonl` the
    losses, `pretrain.json` the cost. `out/state/` holds the state of a run that has not ended; a run that
    finds one goes on from it. `failed.json` there says why a run could not go on.

    Raises ConfigError for a batch larger than the dataset or unknown settings, NonFiniteLoss for divergence.
    """
    store = ImageStore(store_path)
    total = config.total_steps(len(store)) if config.target else 0
    if config.batch_size > len(store):
        raise ConfigError(f"batch_size {config.batch_size} is larger than the dataset of {len(store)} images")
    identity = provenance.digest(plain(config))
    run_digest = provenance.digest({k: v for k, v in plain(config).items() if k != "seed"})
    meta = {
        "run": run,
        "method": config.method,
        "seed": config.seed,
        "digest": run_digest,
        "backbone": config.backbone,
        "config": plain(config),
    }
    state_file, log_file = out / "state" / "checkpoint.pt", out / "state" / "log.jsonl"

    torch.manual_seed(seed_of(config.seed, "backbone"))
    backbone = create_backbone(config.backbone)
    torch.manual_seed(seed_of(config.seed, "heads"))
    method = create_method(config, backbone)
    method.to(device, memory_format=torch.channels_last).train()
    bf16 = config.target is not None and wants_bf16(config.precision, device)
    optimizer = torch.optim.SGD(
        [p for p in method.parameters() if p.requires_grad],
        lr=config.lr,
        momentum=config.sgd_momentum,
        weight_decay=config.weight_decay,
    )

    first, seconds_before = 0, 0.0
    if state_file.exists():
        state = checkpoint.load(state_file, config_digest=identity)
        method.load_state_dict(state["method"])
        optimizer.load_state_dict(state["optimizer"])
        checkpoint.set_random_state(state["random"])
        first, seconds_before = state["step"], state["seconds"]
    watch = provenance.Stopwatch(before=seconds_before)

    def state_at(step: int) -> dict[str, Any]:
        return {
            "config_digest": identity,
            "meta": meta,
            "step": step,
            "seconds": watch.seconds(),
            "method": method.state_dict(),
            "optimizer": optimizer.state_dict(),
            "random": checkpoint.random_state(),
        }

    log = Log(log_file, resume_step=first)
    if bf16:
        run_encoders_in_bf16(method, device)
    bar = tqdm(
        total=total, initial=first, desc=run, unit="step", disable=not progress, mininterval=2, smoothing=0.05
    )
    saved_at = logged_at = time.monotonic()
    for step in range(first, total):
        lr = cosine(step, total, base=config.lr, warmup=config.warmup)
        for group in optimizer.param_groups:
            group["lr"] = lr

        index = batch_indices(step, len(store), config.batch_size, config.seed)
        images, sizes = store.batch(index)
        images = images.to(device, non_blocking=True)
        rng = torch.Generator().manual_seed(seed_of(config.seed, "views", step))
        view1 = make_view(images, sizes, index, config.views, rng)
        view2 = make_view(images, sizes, index, config.views, rng)

        parts = method.step(view1, view2, step / total)
        optimizer.zero_grad(set_to_none=True)
        parts["loss"].backward()
        optimizer.step()
        log.add(parts)

        done = step + 1
        bar.update()
        if done % config.log_every == 0 or done == total:
            interval = (done - 1) % config.log_every + 1
            now = time.monotonic()
            try:
                line = log.flush(
                    done, lr=lr, images_per_s=round(interval * config.batch_size / (now - logged_at), 1)
                )
            except NonFiniteLoss as error:
                provenance.write_json(out / "state" / "failed.json", {**meta, "reason": str(error)})
                raise
            bar.set_postfix(loss=f"{line['loss']:.3f}", images_s=line["images_per_s"])
            logged_at = now
            if now - saved_at >= config.checkpoint_seconds:
                checkpoint.save(state_file, state_at(done))
                saved_at = now
    bar.close()

    checkpoint.save(out / "checkpoint.pt", state_at(total))
    weights = {k: v.cpu().contiguous() for k, v in backbone.state_dict().items()}
    checkpoint.save(out / "backbone.pt", {"backbone": weights, "meta": meta})
    os.replace(log_file, out / "log.jsonl")
    seconds = watch.seconds()
    rate = total * config.batch_size / seconds
    cost = {"steps": total, "images_seen": total * config.batch_size, "images_per_s": round(rate, 1)}
    cuda = device.type == "cuda"
    provenance.write_result(
        out / "pretrain.json",
        provenance.result(
            run=run,
            method=config.method,
            seed=config.seed,
            config=plain(config),
            run_digest=run_digest,
            device=device_name(device),
            threads=torch.get_num_threads(),
            watch=watch,
            peak_memory_mb=torch.cuda.max_memory_allocated(device) / 2**20 if cuda else None,
            rows=[
                {"protocol": "pretrain", "metric": name, "value": value, "n": len(store)}
                for name, value in cost.items()
            ],
            notes={"precision": "bf16" if bf16 else "fp32", "scalars": method_scalars(config)},
        ),
    )
    state_file.unlink(missing_ok=True)


def create_method(config: Pretrain, backbone: nn.Module) -> nn.Module:
    """The method named by `config.target`, around the backbone; without a target the bare backbone."""
    if config.target is None:
        return backbone
    cls = method_class(config.target)
    known = inspect.signature(cls).parameters
    for key in config.params:
        if key not in known:
            raise ConfigError(f"params.{key}: {config.target} has no such scalar; it has {', '.join(known)}")
    return cls(backbone, **config.params)


def method_class(target: str) -> type[nn.Module]:
    """Import a method by its dotted path, for example `mlssl.method.mls.MLS`."""
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"target '{target}' cannot be imported: {error}") from error


def method_scalars(config: Pretrain) -> dict[str, Any]:
    """Every scalar the method ran with, its constructor's defaults included."""
    if config.target is None:
        return {}
    parameters = inspect.signature(method_class(config.target)).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}
    return defaults | config.params


def batch_indices(step: int, images: int, batch_size: int, seed: int) -> Tensor:
    """The images of one step, int64 B: a fresh permutation per epoch, the same for every method."""
    per_epoch = images // batch_size
    epoch, place = divmod(step, per_epoch)
    generator = torch.Generator().manual_seed(seed_of(seed, "order", epoch))
    return torch.randperm(images, generator=generator)[place * batch_size : (place + 1) * batch_size]


def wants_bf16(precision: str, device: torch.device) -> bool:
    """Whether encoders run in bfloat16; `auto` does so on a GPU that has it and on a CPU with AMX tiles."""
    if precision == "auto":
        if device.type == "cuda":
            return torch.cuda.is_bf16_supported()
        return torch.cpu._is_amx_tile_supported()
    if precision not in ("fp32", "bf16"):
        raise ConfigError(f"precision: '{precision}' is not known; give fp32, bf16 or auto")
    return precision == "bf16"


def run_encoders_in_bf16(method: nn.Module, device: torch.device) -> None:
    """Wrap the encoders alone: similarities and losses stay in float32."""
    for encoder in (method.encoders.query, method.encoders.key):
        encoder.forward = torch.autocast(device.type, dtype=torch.bfloat16)(encoder.forward)


def device_name(device: torch.device) -> str:
    """What computed: the GPU's name, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
