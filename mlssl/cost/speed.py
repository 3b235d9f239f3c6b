"""Training speed of this machine: times a few real steps on random pixels."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping

import torch
from tqdm import tqdm

from mlssl.data.augment.views import make_views
from mlssl.pretrain.build import build_method, build_optimizer, build_scaler, prepare_method
from mlssl.pretrain.step import step
from mlssl.study.settings import Pretrain

FULL = 640
"""Side in pixels assumed for images stored at full size: about COCO's."""
CPU_PIXELS = 2**19
"""Maximum pixels of crops per step on a CPU; the time is then scaled up to the complete batch."""
CATEGORIES = 80
"""Categories of a supervised method, those of COCO; their number hardly changes the time."""
WARM_UP = 2
"""Steps before timing starts: they allocate memory and choose kernels."""


def measure(configs: Mapping[str, Pretrain], device: torch.device, *, steps: int = 5) -> dict[str, float]:
    """Name -> seconds per step of each configuration; shows a progress bar."""
    bar = tqdm(configs.items(), desc="measuring", unit="configuration")
    return {name: seconds_per_step(config, device, steps=steps) for name, config in bar}


def seconds_per_step(config: Pretrain, device: torch.device, *, steps: int = 5) -> float:
    """Median seconds of a training step: views, losses, backward pass, update.

    Images are random, square and of the size in the store. Reading the store and logging are not included, and
    the dictionary is nearly empty.
    """
    labels = torch.zeros(config.batch_size, CATEGORIES, dtype=torch.bool) if config.supervised else None
    module, _ = build_method(config, device, labels)
    optimizer, method = build_optimizer(config, module), prepare_method(config, module, device)
    scaler, side, batch = build_scaler(config, device), config.data.short_side, config.batch_size
    if device.type == "cpu":
        batch = min(batch, max(2, 2 * CPU_PIXELS // sum(view.crop**2 for view in config.view_set())))
    side = FULL if isinstance(side, str) else side
    rng = torch.Generator().manual_seed(config.seed)
    pixels = torch.randint(256, (batch, side, side, 3), dtype=torch.uint8, generator=rng)
    if config.data.short_side != "full":  # a store at full size rarely fits into a GPU's memory
        pixels = pixels.to(device)
    images = pixels.unbind()
    index = torch.arange(batch)
    taken = []
    for at in range(WARM_UP + steps):
        started = time.perf_counter()
        views = make_views(images, index, config.view_set(), rng, device)
        step(method, optimizer, views, at / (WARM_UP + steps), scaler)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[WARM_UP:]) * config.batch_size / batch
