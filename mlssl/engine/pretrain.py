"""Pretraining: one loop for every method, on one device or by several ranks."""

from __future__ import annotations

import inspect
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from mlssl import provenance, ranks
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
from mlssl.engine.owner import own
from mlssl.engine.parallel import parallel
from mlssl.engine.records import record_steps
from mlssl.engine.run_folder import DISK, RunFolder
from mlssl.engine.schedule import cosine
from mlssl.engine.step import step
from mlssl.engine.training import Training


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
    """Train a method on a store's images and leave in `out` what later stages need; every rank calls it.

    `backbone.pt` is the query encoder's backbone, `checkpoint.pt` the whole state at the end, `log.jsonl` the
    losses, `pseudo_labels.npz` some steps' pseudo-labels, `pretrain.json` the cost. `out/state/` holds the newest
    state; a run that finds one goes on from it. `failed.json` there says why it could not.

    Does nothing for a run that has ended already, perhaps by another trainer while this one waited for it, and
    trains nothing where only what it left is gone: that is written again from its last state.
    Raises ConfigError for settings that cannot work, FileExistsError where another run's result lies in `out`,
    NonFiniteLoss for divergence, Interrupted when `stop` asks for it, with the state saved; Busy when another
    trainer has this run, Taken when one takes it over.
    """
    meta = describe(config, run)
    RunFolder(out, meta, None).whole()  # refuses another run's result before anything is touched or waited for
    with own(out / "state") if ranks.is_main() else nullcontext() as owner:
        folder = RunFolder(out, meta, owner)
        if ranks.anyone(ranks.is_main() and folder.whole())[0]:
            if ranks.is_main():
                print(f"{run}: has ended already; nothing is left to do", file=sys.stderr)
            return
        try:
            train(config, store_path, folder, device=device, progress=progress, stop=stop or Stop())
        except NonFiniteLoss as error:
            folder.fail(str(error))
            ranks.wait_for_all()  # the launcher ends all ranks as soon as one has ended
            raise NonFiniteLoss(
                f"{error}; lower lr, raise warmup or set precision: fp32, and train it as a new run "
                f"({folder.state.parent} keeps the last state before, if there was one)"
            ) from error
        except OSError as error:
            if error.errno not in DISK:
                raise
            kept = any(path.exists() for path in (folder.state, checkpoint.previous(folder.state)))
            again = (
                f"go on from the last state saved in {folder.state.parent}"
                if kept
                else "begin anew, as no state was saved"
            )
            raise OSError(
                error.errno,
                f"{error.strerror or error}; see to the disk, then run the same command again to {again}",
            ) from error


def train(
    config: Pretrain, store_path: Path, folder: RunFolder, *, device: torch.device, progress: bool, stop: Stop
) -> None:
    """`pretrain`, by the one who owns the run, and its other ranks."""
    store, run = ImageStore(store_path), folder.meta["run"]
    if config.batch_size > len(store):
        raise ConfigError(f"batch_size {config.batch_size} is larger than the dataset of {len(store)} images")
    total = config.total_steps(len(store)) if config.target else 0
    mine = ranks.part(config.batch_size)

    method, backbone = build_method(config, device)
    training = Training(method, build_optimizer(config, method))
    sources = provenance.code_digest(Path(inspect.getfile(type(method))))
    made_of = {"images": f"{store.crc32:08x}", "sources": sources}
    for turn in (True, False):  # the first rank sees to it that there is one whole state, before the others look
        if turn == ranks.is_main() and (state := folder.open(made_of, total)):
            training.restore(state, device)
        ranks.wait_for_all()
    if folder.kept == total and ranks.is_main():
        print(
            f"{run}: has been trained; what it leaves is written again from {folder.state} "
            f"(remove {folder.out} to train it again)",
            file=sys.stderr,
        )
    used_precision = precision(config, device)
    if total and used_precision == "bf16":
        run_encoders_in_bf16(method, device)
    together = parallel(method, config.batch_norm, device) if total else method
    lies = place(store, device, sharers=ranks.on_this_machine())
    progress = progress and ranks.is_main()
    if progress:
        print(f"{run}: {lies}", file=sys.stderr)
    views = Steps(store, config, device, mine)
    with folder.writing():
        log = Log(folder.log if ranks.is_main() else None, resume_step=training.step)
    bar = tqdm(
        total=total,
        initial=training.step,
        desc=run,
        unit="step",
        disable=not progress,
        mininterval=2,
        smoothing=0.05,
    )
    # A method with pseudo-labels says which it gave (ARCHITECTURE.md, contracts).
    recorded = record_steps(total, config.label_records) if hasattr(method, "label_record") else set()
    for parts in training.unlogged:
        log.add(parts)
    saved, logged, counted = time.monotonic(), time.monotonic(), training.step

    def keep() -> str:
        training.refuse_non_finite()
        return folder.keep(training)

    stop.defer()
    for at in range(training.step, total):
        lr = cosine(at, total, base=config.lr, warmup=config.warmup)
        for group in training.optimizer.param_groups:
            group["lr"] = lr

        losses = step(together, training.optimizer, views[at], at / total)
        training.unlogged.append({name: value.detach() for name, value in losses.items()})
        log.add(losses)
        bar.update()

        done = training.step = at + 1
        stopping, to_save = ranks.anyone(stop.requested, time.monotonic() - saved >= config.checkpoint_seconds)
        if done in recorded:
            training.labels.add(done, method.label_record())
        if done % config.log_every == 0 or done == total:
            now = time.monotonic()
            rate = (done - counted) * config.batch_size / (now - logged)
            logged, counted = now, done
            with folder.writing():
                log.flush(done, lr=lr, images_per_s=round(rate, 1))
                if to_save or done == total:
                    log.settle()
            training.unlogged.clear()
            if log.last:
                bar.set_postfix(loss=f"{log.last['loss']:.3f}", images_s=log.last["images_per_s"])
            if to_save:
                if unsaved := keep():
                    print(f"{run}: {unsaved}; training goes on, see to the disk", file=sys.stderr)
                saved = now
        if stopping and done < total:
            with folder.writing():
                log.settle()
            unsaved = folder.kept != done and keep()
            bar.close()
            ranks.wait_for_all()  # the launcher ends all ranks as soon as one has ended
            raise Interrupted(
                f"{run}: stopped by {stop.signal or 'a signal to another rank'} after step {done} of {total}; "
                f"{unsaved or f'its state is saved in {folder.state}'}; run the same command again to go on"
            )
    bar.close()

    training.refuse_non_finite()
    folder.write_outputs(training, backbone)
    seen, seconds = total * config.batch_size, training.watch.seconds()
    cost = {"steps": total, "images_seen": seen, "seconds": seconds, "images_per_s": seen / seconds}
    notes = {
        "precision": used_precision,
        "scalars": method_scalars(config),
        "store": lies,
        "skipped_images": len(store.skipped),
        "ranks": ranks.count(),
    }
    result = provenance.result(
        **folder.meta,
        **facts(device),
        watch=training.watch,
        rows=[
            {"protocol": "pretrain", "metric": name, "value": round(value, 2), "n": len(store)}
            for name, value in cost.items()
        ],
        notes=notes,
    )
    folder.end(result)
    ranks.wait_for_all()


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
