"""Pretraining: one loop for every method."""

from __future__ import annotations

import errno
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
from mlssl.engine.interrupt import Interrupted, Stop
from mlssl.engine.log import Log, NonFiniteLoss
from mlssl.engine.owner import Owner, own
from mlssl.engine.records import LabelRecords, record_steps
from mlssl.engine.schedule import cosine
from mlssl.engine.step import step

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
"""A checkpoint that fails for one of these is tried again later, while training goes on."""

OUTPUTS = ("checkpoint.pt", "backbone.pt", "log.jsonl", "pseudo_labels.npz")
"""What a run leaves, beside the result that is written last."""


def pretrain(
    config: Pretrain,
    store_path: Path,
    out: Path,
    *,
    run: str,
    device: torch.device,
    progress: bool = True,
    stop: Stop | None = None,
) -> None:
    """Train a method on a store's images and leave in `out` what later stages need.

    `backbone.pt` is the query encoder's backbone, `checkpoint.pt` the whole state at the end, `log.jsonl` the
    losses, `pseudo_labels.npz` some steps' pseudo-labels, `pretrain.json` the cost. `out/state/` holds the state
    of a run that has not ended; a run that finds one goes on from it. `failed.json` there says why it could not.

    Raises ConfigError for settings that cannot work, FileExistsError for a run that has ended already,
    NonFiniteLoss for divergence, Interrupted when `stop` asks for it, with the state saved; Busy when another
    trainer has this run, Taken when one takes it over.
    """
    provenance.refuse_existing(out / "pretrain.json")
    with own(out / "state") as owner:
        try:
            train(
                config, store_path, out, run=run, device=device, progress=progress, stop=stop or Stop(), owner=owner
            )
        except NonFiniteLoss as error:
            with owner.writing():
                for name in OUTPUTS:
                    (out / name).unlink(missing_ok=True)
                failed = {**describe(config, run), "reason": str(error)}
                provenance.write_json(out / "state" / "failed.json", failed)
            raise NonFiniteLoss(
                f"{error}; lower lr, raise warmup or set precision: fp32, and train it as a new run "
                f"({out / 'state'} keeps the last state before, if there was one)"
            ) from error
        except OSError as error:
            if error.errno not in DISK:
                raise
            state = out / "state" / "checkpoint.pt"
            kept = any(path.exists() for path in (state, checkpoint.previous(state)))
            again = (
                f"go on from the last state saved in {state.parent}"
                if kept
                else "begin anew, as no state was saved"
            )
            raise OSError(
                error.errno,
                f"{error.strerror or error}; see to the disk, then run the same command again to {again}",
            ) from error


def train(
    config: Pretrain,
    store_path: Path,
    out: Path,
    *,
    run: str,
    device: torch.device,
    progress: bool,
    stop: Stop,
    owner: Owner,
) -> None:
    """`pretrain`, by the one who owns the run."""
    provenance.refuse_existing(out / "pretrain.json")  # who had it before us may have ended it
    with owner.writing():
        for folder in (out, state_folder := out / "state"):
            checkpoint.sweep(folder)
    store = ImageStore(store_path)
    if config.batch_size > len(store):
        raise ConfigError(f"batch_size {config.batch_size} is larger than the dataset of {len(store)} images")
    total = config.total_steps(len(store)) if config.target else 0
    meta = describe(config, run)
    state_file, log_file, failed_file = (state_folder / n for n in ("checkpoint.pt", "log.jsonl", "failed.json"))

    method, backbone = build_method(config, device)
    optimizer = build_optimizer(config, method)
    first, seconds, labels = 0, 0.0, LabelRecords()
    # The parts of the losses since the last line of the log: of them its next one is made.
    unlogged: list[dict[str, torch.Tensor]] = []
    if state := checkpoint.load_newest(state_file, config=meta["config"]):
        method.load_state_dict(state["method"])
        optimizer.load_state_dict(state["optimizer"])
        checkpoint.set_random_state(state["random"])
        first, seconds, labels = state["step"], state["seconds"], LabelRecords(state["labels"])
        unlogged = [{name: value.to(device) for name, value in parts.items()} for parts in state["unlogged"]]
        with owner.writing():
            provenance.write_text(log_file, state["log"])
    kept = first
    watch = provenance.Stopwatch(before=seconds)

    def save(path: Path, step: int) -> None:
        if not finite(method):
            raise NonFiniteLoss(f"step {step}: the weights are not finite after its update")
        state = {
            "meta": meta,
            "step": step,
            "seconds": watch.seconds(),
            "method": method.state_dict(),
            "optimizer": optimizer.state_dict(),
            "random": checkpoint.random_state(),
            "labels": labels.kept,
        }
        to_go_on = path == state_file
        if to_go_on:
            state["unlogged"] = [{name: value.cpu() for name, value in parts.items()} for parts in unlogged]
            state["log"] = log_file.read_text()
        checkpoint.save(path, state, keep_previous=to_go_on, writing=owner.writing)

    def save_if_the_disk_allows(step: int) -> str:
        nonlocal kept
        try:
            save(state_file, step)
        except OSError as error:
            if error.errno not in DISK:
                raise
            before = f"that of step {kept} is kept" if kept else "there is none before it"
            return f"{state_file}: the state of step {step} could not be saved ({error}), {before}"
        kept = step
        return ""

    used_precision = precision(config, device)
    if total and used_precision == "bf16":
        run_encoders_in_bf16(method, device)
    lies = place(store, device)
    if progress:
        print(f"{run}: {lies}", file=sys.stderr)
    views = Steps(store, config, device)
    with owner.writing():
        log = Log(log_file, resume_step=first)
    bar = tqdm(
        total=total, initial=first, desc=run, unit="step", disable=not progress, mininterval=2, smoothing=0.05
    )
    # A method with pseudo-labels says which it gave (ARCHITECTURE.md, contracts).
    recorded = record_steps(total, config.label_records) if hasattr(method, "label_record") else set()
    for parts in unlogged:
        log.add(parts)
    saved, logged, counted = time.monotonic(), time.monotonic(), first
    stop.defer()
    for at in range(first, total):
        lr = cosine(at, total, base=config.lr, warmup=config.warmup)
        for group in optimizer.param_groups:
            group["lr"] = lr

        losses = step(method, optimizer, views[at], at / total)
        unlogged.append({name: value.detach() for name, value in losses.items()})
        log.add(losses)
        bar.update()

        done = at + 1
        if done in recorded:
            labels.add(done, method.label_record())
        if done % config.log_every == 0 or done == total:
            now = time.monotonic()
            rate = (done - counted) * config.batch_size / (now - logged)
            logged, counted = now, done
            to_save = now - saved >= config.checkpoint_seconds
            with owner.writing():
                log.flush(done, lr=lr, images_per_s=round(rate, 1))
                if to_save or done == total:
                    log.settle()
            unlogged.clear()
            if log.last:
                bar.set_postfix(loss=f"{log.last['loss']:.3f}", images_s=log.last["images_per_s"])
            if to_save:
                if unsaved := save_if_the_disk_allows(done):
                    print(f"{run}: {unsaved}; training goes on, see to the disk", file=sys.stderr)
                saved = now
        if stop.requested and done < total:
            with owner.writing():
                log.settle()
            unsaved = kept != done and save_if_the_disk_allows(done)
            bar.close()
            raise Interrupted(
                f"{run}: stopped by {stop.signal} after step {done} of {total}; "
                f"{unsaved or f'its state is saved in {state_file}'}; run the same command again to go on"
            )
    bar.close()

    save(out / "checkpoint.pt", total)
    weights = {k: v.cpu().contiguous() for k, v in backbone.state_dict().items()}
    checkpoint.save(out / "backbone.pt", {"backbone": weights, "meta": meta}, writing=owner.writing)
    with owner.writing():
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
    with owner.writing():
        provenance.write_result(out / "pretrain.json", result)
        # Only now: a run that is killed before its result stands goes on from its state and log.
        for path in (*checkpoint.all_of(state_file), log_file, failed_file):
            path.unlink(missing_ok=True)


def finite(method: torch.nn.Module) -> bool:
    """Whether all weights are; waits for the device once."""
    return bool(torch.stack([p.detach().isfinite().all() for p in method.parameters()]).all())


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
