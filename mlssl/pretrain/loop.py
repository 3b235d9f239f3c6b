"""Pretraining: one training loop for every method, on one device or several ranks."""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from mlssl import results
from mlssl.data.loader import Steps
from mlssl.data.placement import place
from mlssl.data.store import ImageStore
from mlssl.digest import digest_of
from mlssl.errors import ConfigError, DataError
from mlssl.pretrain.build import (
    build_method,
    build_optimizer,
    precision,
    run_encoders_in_bf16,
)
from mlssl.pretrain.labels import image_labels
from mlssl.pretrain.log import Log, NonFiniteLoss
from mlssl.pretrain.records import record_steps
from mlssl.pretrain.run.folder import DISK, RunFolder
from mlssl.pretrain.run.owner import own
from mlssl.pretrain.run.signals import Interrupted, Stop
from mlssl.pretrain.schedule import cosine
from mlssl.pretrain.step import step
from mlssl.pretrain.training import Training
from mlssl.runtime import distributed
from mlssl.runtime.device import facts
from mlssl.runtime.parallel import parallel
from mlssl.study.code import stage_code
from mlssl.study.fingerprint import content_id
from mlssl.study.identity import about_run
from mlssl.study.methods import is_supervised, resolve
from mlssl.study.settings import Pretrain
from mlssl.study.sources import CACHE, by_content, contents
from mlssl.tensors import previous


def pretrain(
    config: Pretrain,
    store_path: Path,
    out: Path,
    *,
    run: str,
    device: torch.device,
    progress: bool = True,
    stop: Stop | None = None,
    changed_code: bool = False,
) -> None:
    """Train a method on a store's images and write the outputs to `out`; every rank calls it.

    `backbone.pt` is the query encoder's backbone, `checkpoint.pt` the complete final state, `log.jsonl` the
    losses, `pseudo_labels.npz` the pseudo-labels of some steps, `pretrain.json` the cost. `out/state/` has the
    newest state, from which a run resumes, and `failed.json`, the reason if a run failed.

    Does nothing for a run that has ended already, perhaps by another trainer while this one waited for it. If only
    the outputs of a finished run are missing, they are written again from its last state. A run that other code
    started is resumed only with `changed_code`; its result then lists the segments.
    Raises ConfigError for invalid settings, FileExistsError if `out` has the result of another run, NonFiniteLoss
    for divergence, Interrupted when `stop` is requested, after saving the state; Busy when another trainer owns
    this run, Taken when another trainer takes it over.
    """
    config = identified(config)
    about = about_run(config, run)
    RunFolder(out, about, None).whole()  # refuses another run's result before anything is written or waited for
    with own(out / "state") if distributed.is_main() else nullcontext() as owner:
        folder = RunFolder(out, about, owner)
        if distributed.anyone(distributed.is_main() and folder.whole())[0]:
            if distributed.is_main():
                print(f"{run}: has ended already; nothing is left to do", file=sys.stderr)
            return
        try:
            train(
                config,
                store_path,
                folder,
                device=device,
                progress=progress,
                stop=stop or Stop(),
                changed_code=changed_code,
            )
        except NonFiniteLoss as error:
            folder.fail(str(error))
            distributed.wait_for_all()  # the launcher ends all ranks as soon as one has ended
            raise NonFiniteLoss(
                f"{error}; lower lr, raise warmup or set precision: fp32, and train it as a new run "
                f"({folder.state.parent} keeps the last state saved before, if any)"
            ) from error
        except OSError as error:
            if error.errno not in DISK:
                raise
            kept = any(path.exists() for path in (folder.state, previous(folder.state)))
            effect = (
                f"resume from the last state saved in {folder.state.parent}"
                if kept
                else "start over, because no state was saved"
            )
            raise OSError(
                error.errno,
                f"{error.strerror or error}; check the disk, then run the same command again to {effect}",
            ) from error


def train(
    config: Pretrain,
    store_path: Path,
    folder: RunFolder,
    *,
    device: torch.device,
    progress: bool,
    stop: Stop,
    changed_code: bool,
) -> None:
    """Run `pretrain` on every rank, after the first rank has become the owner of the run."""
    store, run = ImageStore(store_path), folder.about["run"]
    if store.images_id != config.data.images_id:
        raise DataError(
            f"{store_path}: was built from other images ({store.images_id}) than those of this run "
            f"({config.data.images_id}); move the store away to rebuild it"
        )
    if config.batch_size > len(store):
        raise ConfigError(f"batch_size {config.batch_size} is larger than the dataset of {len(store)} images")
    total = config.total_steps(len(store)) if config.target else 0
    if config.target and not total:
        raise ConfigError(f"epochs {config.epochs:g} of {len(store)} images are 0 optimiser steps; give more")
    mine = distributed.part(config.batch_size)

    labels = image_labels(store, config.data) if config.supervised else None
    method, backbone = build_method(config, device, labels)
    training = Training(method, build_optimizer(config, method))
    made_by = stage_code("pretrain", config.target)
    opened = {"images": f"{store.crc32:08x}", "code": made_by, "total": total, "changed_code": changed_code}
    for turn in (True, False):  # the first rank ensures a complete state before the others read it
        if turn == distributed.is_main() and (state := folder.open(**opened)):
            training.restore(state, device)
        distributed.wait_for_all()
    ended = folder.kept == total
    if ended and distributed.is_main():
        print(
            f"{run}: has been trained; its outputs are written again from {folder.state}",
            file=sys.stderr,
        )
    used_precision = precision(config, device)
    if total and used_precision == "bf16":
        run_encoders_in_bf16(method, device)
    together = parallel(method, config.batch_norm, device) if total else method
    placement = place(store, device, sharers=distributed.on_this_machine())
    progress = progress and distributed.is_main()
    if progress:
        print(f"{run}: {placement}", file=sys.stderr)
    views = Steps(store, config, device, mine)
    with folder.writing():
        log = Log(folder.log if distributed.is_main() else None, resume_step=training.step)
    bar = tqdm(
        total=total,
        initial=training.step,
        desc=run,
        unit="step",
        disable=not progress,
        mininterval=2,
        smoothing=0.05,
    )
    # A method with pseudo-labels returns them for the record (ARCHITECTURE.md, contracts).
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
        stopping, to_save = distributed.anyone(
            stop.requested, time.monotonic() - saved >= config.checkpoint_seconds
        )
        if done in recorded:
            training.labels.add(done, method.label_record())
        if done % config.log_every == 0 or done == total:
            now = time.monotonic()
            rate = (done - counted) * config.batch_size / (now - logged)
            logged, counted = now, done
            about_step = method.diagnostics() if hasattr(method, "diagnostics") else {}
            about_step = about_step and distributed.mean(about_step)
            with folder.writing():
                log.flush(done, about_step, lr=lr, images_per_s=round(rate, 1))
                if to_save or done == total:
                    log.settle()
            training.unlogged.clear()
            if log.last:
                bar.set_postfix(loss=f"{log.last['loss']:.3f}", images_s=log.last["images_per_s"])
            if to_save:
                if unsaved := keep():
                    print(f"{run}: {unsaved}; training continues, check the disk", file=sys.stderr)
                saved = now
        if stopping and done < total:
            with folder.writing():
                log.settle()
            unsaved = folder.kept != done and keep()
            bar.close()
            distributed.wait_for_all()  # the launcher ends all ranks as soon as one has ended
            raise Interrupted(
                f"{run}: stopped by {stop.signal or 'a signal to another rank'} after step {done} of {total}; "
                f"{unsaved or f'its state is saved in {folder.state}'}; run the same command again to resume"
            )
    bar.close()

    training.refuse_non_finite()
    folder.write_outputs(training, backbone)
    seen, seconds = total * config.batch_size, training.watch.seconds()
    cost = {"steps": total, "images_seen": seen, "seconds": seconds, "images_per_s": seen / seconds}
    notes = {
        "precision": used_precision,
        "store": placement,
        "skipped_images": len(store.skipped),
        "ranks": distributed.count(),
    }
    if len(folder.segments) > 1:
        notes["segments"] = [
            {"from_step": s["step"], "commit": s["commit"], "code": digest_of(s["code"])} for s in folder.segments
        ]
    # The previous result is valid only if nothing was trained now: without a state the run has started over.
    result = (folder.result_of_before() if ended else None) or results.result(
        folder.about,
        code=folder.code(),
        data=contents(config.data),
        **facts(device),
        watch=training.watch,
        rows=[
            {"protocol": "pretrain", "metric": name, "value": round(value, 2), "n": len(store)}
            for name, value in cost.items()
        ],
        notes=notes,
    )
    folder.end(result)
    distributed.wait_for_all()


def identified(config: Pretrain) -> Pretrain:
    """The settings with all parameters of the method, and with the identities of images and initial weights.

    Missing identities are computed from the content.
    """
    init = content_id(Path(config.init), CACHE) if config.init and not config.init_id else config.init_id
    params = resolve(config.target, {}, config.params, config.method)
    supervised = is_supervised(config.target)
    return replace(config, data=by_content(config.data), init_id=init, params=params, supervised=supervised)
