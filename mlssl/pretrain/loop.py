"""Pretraining: one training loop for every method, on one device or several ranks."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, nn
from tqdm import tqdm

from mlssl.data.loader import Ahead
from mlssl.data.placement import Place
from mlssl.errors import ConfigError
from mlssl.parts.method import Diagnoses, RecordsLabels
from mlssl.pretrain import memory
from mlssl.pretrain.build import prepare_method, set_learning_rate
from mlssl.pretrain.log import NonFiniteLoss, Throughput
from mlssl.pretrain.loggers import Loggers
from mlssl.pretrain.prepare import Run, identified, prepare
from mlssl.pretrain.records import record_steps
from mlssl.pretrain.result import result_of
from mlssl.pretrain.run.folder import DISK, RunFolder, RunWriter, StateNotSaved
from mlssl.pretrain.run.owner import own
from mlssl.pretrain.run.signals import Interrupted, Stop
from mlssl.pretrain.schedule import cosine, score_steps
from mlssl.pretrain.step import step
from mlssl.runtime import distributed
from mlssl.study.identity import about_run
from mlssl.study.settings import Pretrain

PLACES: tuple[Place, ...] = ("device", "mapped")
"""The fastest places of the images that a run tries, one after the other."""

Score = Callable[[nn.Module], float]
"""mAP in percent of a backbone that is being trained; does not change it (`transfer.during.Neighbours`)."""


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
    score: Score | None = None,
) -> None:
    """Train a method on a store's images and write the outputs to `out`; every rank calls it.

    `backbone.pt` is the query encoder's backbone, `checkpoint.pt` the complete final state, `log.jsonl` the
    losses, `pseudo_labels.npz` the pseudo-labels of some steps, `pretrain.json` the cost. `out/state/` has the
    newest state, from which a run resumes, and `failed.json`, the reason if a run failed.

    Does nothing for a run that has ended already, perhaps by another trainer while this one waited for it. If only
    the outputs of a finished run are missing, they are written again from its last state. A run that other code
    started is resumed only with `changed_code`; its result then lists the segments. `score`, which the first rank
    needs where `knn_every` is set, scores the backbone at these steps; its time is no part of the run's.
    Raises ConfigError for invalid settings and for a GPU with too little memory, FileExistsError if `out` has the
    result of another run, NonFiniteLoss for divergence, Interrupted when `stop` is requested, after saving the
    state; RunInUse when another trainer owns this run, TakenOver when another trainer takes it over.
    """
    stop = stop or Stop()
    config = identified(config)
    if config.knn_every is not None and score is None and distributed.is_main():
        raise ConfigError("knn_every: nothing scores the backbone; call with score, or set knn_every to null")
    folder = RunFolder(out, about_run(config, run))
    folder.is_complete()  # refuses another run's result before anything is written or waited for
    with own(folder.state.parent) if distributed.is_main() else nullcontext() as owner:
        writer = RunWriter(folder, owner) if owner else None  # only the first rank writes
        (complete,) = distributed.anyone(distributed.is_main() and folder.is_complete())
        if complete:
            if distributed.is_main():
                print(f"{run}: has ended already; nothing is left to do", file=sys.stderr)
            return
        try:
            train_where_it_fits(
                config,
                store_path,
                folder,
                writer,
                stop,
                device=device,
                progress=progress,
                changed_code=changed_code,
                score=score,
            )
        except NonFiniteLoss as error:
            if writer:
                writer.write_failure(str(error))
            distributed.wait_for_all()  # the launcher ends all ranks as soon as one has ended
            raise NonFiniteLoss(
                f"{error}; lower lr, raise warmup or set precision: fp32, and train it as a new run "
                f"({folder.state.parent} keeps the last state saved before, if any)"
            ) from error
        except OSError as error:
            if error.errno not in DISK:
                raise
            effect = (
                f"resume from the last state saved in {folder.state.parent}"
                if folder.has_state()
                else "start over, because no state was saved"
            )
            raise OSError(
                error.errno,
                f"{error.strerror or error}; check the disk, then run the same command again to {effect}",
            ) from error


def train_where_it_fits(
    config: Pretrain,
    store_path: Path,
    folder: RunFolder,
    writer: RunWriter | None,
    stop: Stop,
    *,
    device: torch.device,
    progress: bool,
    changed_code: bool,
    score: Score | None,
) -> None:
    """Train and finish with the images in GPU memory, or in the page cache if that memory runs out.

    Raises ConfigError if the memory is not enough then either, or was not with as much of it free before.
    """
    run, free, before = folder.about["run"], memory.free_on_gpu(device), folder.too_little_memory()
    why = memory.explanation(config, device)
    if free is not None and before is not None and free <= 1.02 * before:
        raise ConfigError(f"{run}: {why} (it failed with as much free before)")
    try:
        for at_most in PLACES:
            prepared = prepare(
                config, store_path, folder, writer, device=device, changed_code=changed_code, at_most=at_most
            )
            if progress and distributed.is_main():
                print(f"{run}: {prepared.placement}", file=sys.stderr)
            stop.defer()
            work = partial(train, prepared, writer, stop, progress=progress, score=score)
            if not prepared.total or not memory.runs_out_of_memory(work):
                finish(prepared, writer)
                return
            place = prepared.place
            del prepared, work
            # Other ranks are in the middle of a step, and would wait for this one.
            if place == "mapped" or distributed.count() > 1:
                break
            print(
                f"{run}: the memory of {device} is full; the images leave it for the page cache, and training "
                "goes on from the last saved state",
                file=sys.stderr,
            )
        raise torch.OutOfMemoryError
    except torch.OutOfMemoryError as error:
        if writer:
            writer.write_failure(why, gpu_memory_free=free)
        raise ConfigError(f"{run}: {why}") from error


def train(run: Run, writer: RunWriter | None, stop: Stop, *, progress: bool, score: Score | None = None) -> None:
    """The training loop, on every rank.

    Raises Interrupted, after saving the state, when a stop is requested on any rank; NonFiniteLoss for divergence.
    """
    config, training, total = run.config, run.training, run.total
    method = prepare_method(config, run.method, run.device)
    recorded = record_steps(total, config.label_records)
    scored = score_steps(config, len(run.store), total) if score else frozenset()
    views = Ahead(run.views)
    throughput, last_save = Throughput(training.step, config.batch_size), time.monotonic()
    logs = Loggers(config.log_to if writer else (), run.folder.out, run.folder.about, from_step=training.step)
    with logs, progress_bar(run, shown=progress and distributed.is_main()) as bar:
        for at in range(training.step, total):
            lr = cosine(at, total, base=config.lr, warmup=config.warmup)
            set_learning_rate(training.optimizer, lr, config.lr)
            losses = step(method, training.optimizer, views[at], at / total, training.scaler)
            if at + 1 < total:
                views.prepare(at + 1)
            training.losses.add(losses)
            training.step = done = at + 1
            if done in recorded and isinstance(run.method, RecordsLabels):
                training.labels.add(done, run.method.label_record())
            bar.update()

            # Agreed on by all ranks, which must save and stop after the same step.
            save_is_due = time.monotonic() - last_save >= config.checkpoint_seconds
            stopping, saving = distributed.anyone(stop.requested, save_is_due)
            if done % config.log_every == 0 or done == total:
                more = {"lr": lr, "images_per_s": throughput.measure(done)}
                if score and done in scored:
                    value, seconds = timed_score(score, run)
                    throughput.leave_out(seconds)
                    training.watch.started += seconds
                    more |= {"knn_mAP": round(value, 3), "knn_seconds": round(seconds, 3)}
                lines = training.losses.flush(done, diagnostics(run.method), **more)
                if saving or done == total:
                    lines += training.losses.settle()
                if writer:
                    writer.append_log(lines)
                logs.write(lines)
                for line in lines:
                    bar.set_postfix(loss=f"{line['loss']:.3f}", images_s=line["images_per_s"])
                if saving:
                    last_save = time.monotonic()
                    save(run, writer)
            if stopping and done < total:
                interrupt(run, writer, stop)


def diagnostics(method: nn.Module) -> dict[str, Tensor]:
    """What the method measures about its last step, means over the ranks; most methods measure nothing."""
    found = method.diagnostics() if isinstance(method, Diagnoses) else {}
    return distributed.mean(found) if found else {}


def timed_score(score: Score, run: Run) -> tuple[float, float]:
    """The score of the backbone, and the seconds that it took after the device had finished its training steps."""
    if run.device.type == "cuda":
        torch.cuda.synchronize(run.device)
    started = time.monotonic()
    value = score(run.backbone)
    return value, time.monotonic() - started


def progress_bar(run: Run, *, shown: bool) -> tqdm:
    return tqdm(
        total=run.total,
        initial=run.training.step,
        desc=run.name,
        unit="step",
        disable=not shown,
        mininterval=2,
        smoothing=0.05,
    )


def save(run: Run, writer: RunWriter | None) -> None:
    """Save the state during training, which a full disk does not stop."""
    run.training.refuse_non_finite()
    if writer:
        try:
            writer.save_state(run.training)
        except StateNotSaved as error:
            print(f"{run.name}: {error}; training continues, check the disk", file=sys.stderr)


def interrupt(run: Run, writer: RunWriter | None, stop: Stop) -> NoReturn:
    """Save the state, and raise Interrupted with what was saved."""
    lines = run.training.losses.settle()
    run.training.refuse_non_finite()
    outcome = f"its state is saved in {run.folder.state}"
    if writer:
        writer.append_log(lines)
        try:
            writer.save_state(run.training)
        except StateNotSaved as error:
            outcome = str(error)
    distributed.wait_for_all()  # the launcher ends all ranks as soon as one has ended
    raise Interrupted(
        f"{run.name}: stopped by {stop.signal or 'a signal to another rank'} after step {run.training.step} of "
        f"{run.total}; {outcome}; run the same command again to resume"
    )


def finish(run: Run, writer: RunWriter | None) -> None:
    """Write the outputs, and the result last."""
    run.training.refuse_non_finite()
    if writer:
        writer.write_outputs(run.training, run.backbone)
        # The previous result is valid only if nothing was trained now: without a state the run has started over.
        kept = run.folder.load_kept_result() if run.trained_before else None
        writer.write_result(kept or result_of(run))
    distributed.wait_for_all()
