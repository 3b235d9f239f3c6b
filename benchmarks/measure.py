"""The measurements: contenders alternate, several times, so that a slow phase of the machine affects all."""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from benchmarks.cases import LARGE, METHODS, Case
from benchmarks.inputs import INPUT, TRAINING, Pairs, limit
from mlssl.cost.timing import seconds
from mlssl.data.store import build_store
from mlssl.parts.dictionary import Dictionary
from mlssl.parts.method import Method
from mlssl.parts.view import View
from mlssl.pretrain.build import build_method, build_optimizer, prepare_method
from mlssl.pretrain.loop import pretrain
from mlssl.pretrain.step import step
from mlssl.runtime import device as devices
from mlssl.study.methods import constructor
from mlssl.study.settings import Data, Pretrain, Views

WARM_UP = 3
"""Batches before timing starts."""
Row = dict[str, Any]


def inputs(
    cases: Iterable[Case], photos: Path, device: torch.device, *, skip: set[str], repeats: int, least: float
) -> Iterator[Row]:
    """Images per second of the input pipeline alone; an image is one photo with both its views."""
    for case in cases:
        contenders = {name: feed for name, feed in INPUT.items() if name not in skip}
        for repeat, (name, feed) in turns(contenders, repeats, f"input {case.views}"):
            rate = images_per_s(feed(case, photos, device), lambda _: None, case.batch, device, least)
            yield row("input", case.views, name, repeat, images_per_s=rate)


def training(
    cases: Iterable[Case], photos: Path, device: torch.device, *, skip: set[str], repeats: int, least: float
) -> Iterator[Row]:
    """Images per second of MoCo-v2's training with each input pipeline; `limit` is the training alone."""
    for case in cases:
        method, optimizer = trainable(case, "moco_v2", 4096, device, filled=False)
        contenders = {name: feed for name, feed in TRAINING.items() if name not in skip}
        for repeat, (name, feed) in turns(contenders, repeats, f"end to end {case.name}"):
            use = partial(train_on, method, optimizer)
            rate = images_per_s(feed(case, photos, device), use, case.batch, device, least)
            yield row("end to end", case.name, name, repeat, images_per_s=rate, peak_memory_mb=gpu_peak(device))


def train_on(method: Method, optimizer: torch.optim.Optimizer, pair: tuple[Tensor, Tensor]) -> None:
    step(method, optimizer, as_views(pair), 0.0)


def steps(
    cases: Iterable[Case], sizes: Iterable[int], device: torch.device, *, skip: set[str], repeats: int, count: int
) -> Iterator[Row]:
    """Milliseconds of a training step of each method with a full dictionary, on the same random views."""
    for case in cases:
        views = as_views(next(limit(case, Path(), device)))
        for size in sizes:
            trained = {name: trainable(case, name, size, device, filled=True) for name in methods(size, skip)}
            for method, optimizer in trained.values():
                step(method, optimizer, views, 0.0)
            label = f"{case.backbone}, {case.crop} px, D {size}"
            for repeat, (name, (method, optimizer)) in turns(trained, repeats * count, f"step {label}"):
                taken = seconds(partial(step, method, optimizer, views, 0.0), device)
                yield row("step", label, name, repeat, ms=1000 * taken)


def methods(size: int, skip: set[str]) -> list[str]:
    """The methods that are measured with a dictionary of `size` entries."""
    return [name for name in METHODS if name not in skip and (size < LARGE or name.startswith("mls"))]


def memory(case: Case, sizes: Iterable[int], device: torch.device, *, skip: set[str]) -> Iterator[Row]:
    """Peak memory of a few steps, each in a separate process: of the GPU, or of the process on a CPU."""
    for size in sizes:
        for name in methods(size, skip):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                peak = pool.apply(peak_of, (case, name, size, str(device), torch.get_num_threads()))
            yield row("memory", f"{case.backbone}, {case.crop} px, D {size}", name, 0, peak_memory_mb=peak)


def peak_of(case: Case, name: str, size: int, device_name: str, threads: int) -> float:
    device = devices.choose(device_name)
    devices.set_up(device, threads)
    method, optimizer = trainable(case, name, size, device, filled=True)
    for pair in islice(limit(case, Path(), device), 3):
        train_on(method, optimizer, pair)
    return gpu_peak(device) or process_peak()


def process_peak() -> float:
    """Peak memory of this process in MB. (ru_maxrss would start with the parent's value.)"""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # macOS counts in bytes
    kilobytes = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(kilobytes) / 1024


def store(photos: Path, folder: Path) -> Iterator[Row]:
    """Images per second of building the store, with all cores."""
    for short_side in (128, 256):
        started = time.perf_counter()
        build_store(photos, folder / f"build-{short_side}", short_side=short_side)
        rate = len(list(photos.iterdir())) / (time.perf_counter() - started)
        yield row("store", f"short side {short_side}", "ours", 0, images_per_s=rate)


def cost(photos: Path, folder: Path, device: torch.device) -> Iterator[Row]:
    """Seconds of complete pretrainings over images and epochs: the fixed and the growing part of the cost."""
    case = Case("resnet18", 64, 16, 128)
    names = sorted(photos.iterdir())
    for share in (0.25, 0.5, 1.0):
        part = folder / f"photos-{share:g}"
        part.mkdir(exist_ok=True)
        for path in names[: int(share * len(names))]:
            (part / path.name).symlink_to(path)
        data = Data(str(part), short_side=case.short_side, images_id=part.name, data_id=part.name)
        stored = folder / f"cost-{share:g}"
        build_store(part, stored, short_side=data.short_side, images_id=data.images_id)
        for epochs in (1, 2):
            config = Pretrain(
                data,
                method="mls",
                target=METHODS["mls"][0],
                backbone=case.backbone,
                epochs=float(epochs),
                batch_size=case.batch,
                views=Views(crop=case.crop),
                params={"dictionary_size": 1024},
            )
            out, images = folder / f"run-{share:g}-{epochs}", int(share * len(names))
            taken = seconds(partial(pretrain, config, stored, out, run="cost", device=device), device)
            yield row("cost", case.name, f"{images} images, epochs: {epochs}", 0, seconds=taken)


def images_per_s(
    pairs: Pairs, use: Callable[[tuple[Tensor, Tensor]], None], batch: int, device: torch.device, least: float
) -> float:
    """Images per second over at least `least` seconds and three batches, after WARM_UP batches."""
    for pair in islice(pairs, WARM_UP):
        use(pair)
    taken, batches = 0.0, 3
    while taken < least:

        def several(n: int = batches) -> None:
            for pair in islice(pairs, n):
                use(pair)

        taken = seconds(several, device)
        rate = batches * batch / taken
        batches = max(batches + 1, int(1.2 * least * rate / batch))
    pairs.close()
    return rate


def turns(contenders: dict[str, Any], repeats: int, label: str) -> Iterator[tuple[int, tuple[str, Any]]]:
    """Yield (repeat, contender): all contenders once, then all again."""
    everyone = [(repeat, entry) for repeat in range(repeats) for entry in contenders.items()]
    yield from tqdm(everyone, desc=label, unit="measurement")


def trainable(
    case: Case, name: str, size: int, device: torch.device, *, filled: bool
) -> tuple[Method, torch.optim.Optimizer]:
    """A method and its optimiser; with `filled`, the dictionary is full, as after its first D keys."""
    target, scalars = METHODS[name]
    shared = {"dictionary_size": size, "dim": 128}
    config = Pretrain(
        Data("-"),
        method=name,
        target=target,
        backbone=case.backbone,
        batch_size=case.batch,
        params={key: value for key, value in shared.items() if key in constructor(target).types} | scalars,
    )
    module, _ = build_method(config, device)
    if filled:
        fill(module)
    return prepare_method(config, module, device), build_optimizer(config, module)


def fill(method: nn.Module) -> None:
    """Fill the dictionary with random unit vectors."""
    for dictionary in method.modules():
        if isinstance(dictionary, Dictionary):
            for name in dictionary.columns:
                column = getattr(dictionary, name)
                if column.is_floating_point():
                    column.copy_(F.normalize(torch.randn_like(column), dim=1))
            dictionary.set_extra_state({"written": dictionary.size})


def as_views(pair: tuple[Tensor, Tensor]) -> list[View]:
    batch, device = len(pair[0]), pair[0].device
    index = torch.zeros(batch, dtype=torch.int64, device=device)
    box = torch.tensor([0, 0, *pair[0].shape[:1:-1]], device=device).expand(batch, 4)  # the same crop twice
    return [View(pixels, index, box, index.bool()) for pixels in pair]


def gpu_peak(device: torch.device) -> float | None:
    """Peak GPU memory in MB since the last call; None on a CPU."""
    if device.type != "cuda":
        return None
    peak = torch.cuda.max_memory_allocated(device) / 2**20
    torch.cuda.reset_peak_memory_stats(device)
    return peak


def row(group: str, case: str, contender: str, repeat: int, **values: float | None) -> Row:
    found = {name: value for name, value in values.items() if value is not None}
    return {"group": group, "case": case, "contender": contender, "repeat": repeat, **found}
