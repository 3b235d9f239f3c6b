"""Pretraining: one loop for every method."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from mlssl import provenance
from mlssl.config import ConfigError, Pretrain, plain
from mlssl.data.placement import place
from mlssl.data.steps import Steps
from mlssl.data.store import ImageStore
from mlssl.device import facts
from mlssl.engine import checkpoint
from mlssl.engine.build import (
    build_method,
    build_optimizer,
    method_scalars,
    precision,
    run_encoders_in_bf16,
)
from mlssl.engine.log import Log, NonFiniteLoss
from mlssl.engine.records import LabelRecords, record_steps
from mlssl.engine.schedule import cosine
from mlssl.engine.step import step


def pretrain(
    config: Pretrain, store_path: Path, out: Path, *, run: str, device: torch.device, progress: bool = True
) -> None:
    """Train a method on a store's images and leave in `out` what later stages need.

    `backbone.pt` is the query encoder's backbone, `checkpoint.pt` the whole state at the end, `log.jsonl` the
    losses, `pseudo_labels.npz` some steps' pseudo-labels, `pretrain.json` the cost. `out/state/` holds the state
    of a run that has not ended; a run that finds one goes on from it. `failed.json` there says why it could not.

    Raises ConfigError for settings that cannot work, FileExistsError for a run that has ended already,
    NonFiniteLoss for divergence.
    """
    provenance.refuse_existing(out / "pretrain.json")
    store = ImageStore(store_path)
    if config.batch_size > len(store):
        raise ConfigError(f"batch_size {config.batch_size} is larger than the dataset of {len(store)} images")
    total = config.total_steps(len(store)) if config.target else 0
    meta = describe(config, run)
    state_file, log_file = out / "state" / "checkpoint.pt", out / "state" / "log.jsonl"

    method, backbone = build_method(config, device)
    optimizer = build_optimizer(config, method)
    first, seconds, labels = 0, 0.0, LabelRecords()
    if state_file.exists():
        state = checkpoint.load(state_file, config=meta["config"])
        method.load_state_dict(state["method"])
        optimizer.load_state_dict(state["optimizer"])
        checkpoint.set_random_state(state["random"])
        first, seconds, labels = state["step"], state["seconds"], LabelRecords(state["labels"])
    watch = provenance.Stopwatch(before=seconds)

    def save(path: Path, step: int) -> None:
        state = {
            "meta": meta,
            "step": step,
            "seconds": watch.seconds(),
            "method": method.state_dict(),
            "optimizer": optimizer.state_dict(),
            "random": checkpoint.random_state(),
            "labels": labels.kept,
        }
        checkpoint.save(path, state)

    used_precision = precision(config, device)
    if total and used_precision == "bf16":
        run_encoders_in_bf16(method, device)
    lies = place(store, device)
    if progress:
        print(f"{run}: {lies}", file=sys.stderr)
    views, log = Steps(store, config, device), Log(log_file, resume_step=first)
    bar = tqdm(
        total=total, initial=first, desc=run, unit="step", disable=not progress, mininterval=2, smoothing=0.05
    )
    # A method with pseudo-labels says which it gave (ARCHITECTURE.md, contracts).
    recorded = record_steps(total, config.label_records) if hasattr(method, "label_record") else set()
    saved = logged = time.monotonic()
    for at in range(first, total):
        lr = cosine(at, total, base=config.lr, warmup=config.warmup)
        for group in optimizer.param_groups:
            group["lr"] = lr

        log.add(step(method, optimizer, views[at], at / total))
        bar.update()

        done = at + 1
        if done in recorded:
            labels.add(done, method.label_record())
        if done % config.log_every == 0 or done == total:
            now = time.monotonic()
            rate = log.pending * config.batch_size / (now - logged)
            logged = now
            to_save = now - saved >= config.checkpoint_seconds
            try:
                log.flush(done, lr=lr, images_per_s=round(rate, 1))
                if to_save or done == total:
                    log.settle()
            except NonFiniteLoss as error:
                provenance.write_json(out / "state" / "failed.json", {**meta, "reason": str(error)})
                raise
            if log.last:
                bar.set_postfix(loss=f"{log.last['loss']:.3f}", images_s=log.last["images_per_s"])
            if to_save:
                save(state_file, done)
                saved = now
    bar.close()

    save(out / "checkpoint.pt", total)
    weights = {k: v.cpu().contiguous() for k, v in backbone.state_dict().items()}
    checkpoint.save(out / "backbone.pt", {"backbone": weights, "meta": meta})
    provenance.write_text(out / "log.jsonl", log_file.read_text())
    if labels.kept:
        labels.write(out / "pseudo_labels.npz")
    seen, seconds = total * config.batch_size, watch.seconds()
    cost = {"steps": total, "images_seen": seen, "seconds": seconds, "images_per_s": seen / seconds}
    result = provenance.result(
        **meta,
        **facts(device),
        watch=watch,
        rows=[
            {"protocol": "pretrain", "metric": name, "value": round(value, 2), "n": len(store)}
            for name, value in cost.items()
        ],
        notes={"precision": used_precision, "scalars": method_scalars(config), "store": lies},
    )
    provenance.write_result(out / "pretrain.json", result)
    # Only now: a run that is killed before its result stands goes on from its state and log.
    state_file.unlink(missing_ok=True)
    log_file.unlink()


def describe(config: Pretrain, run: str) -> dict[str, Any]:
    """What every file of a run says about it: its name, method, seed, digest (without the seed) and settings."""
    values = plain(config)
    digest = provenance.digest_of({k: v for k, v in values.items() if k != "seed"})
    return {
        "run": run,
        "method": config.method,
        "seed": config.seed,
        "digest": digest,
        "backbone": config.backbone,
        "config": values,
    }
