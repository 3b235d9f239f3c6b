"""Training speed of this machine: times a few real steps on random pixels."""

from __future__ import annotations

import statistics
from collections.abc import Mapping

import torch
from tqdm import tqdm

from mlssl.cost.rates import BOXES
from mlssl.cost.timing import seconds
from mlssl.data.augment.proposals import Candidates
from mlssl.data.augment.regions import Regions
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

    Reading the store and logging are not included, and the dictionary is nearly empty.
    """
    batch = config.batch_size
    if device.type == "cpu":
        batch = min(batch, max(2, 2 * CPU_PIXELS // sum(view.crop**2 for view in config.view_set())))
    trainer = Trainer(config, device, batch)
    taken = [trainer.seconds() for _ in range(WARM_UP + steps)]
    return statistics.median(taken[WARM_UP:]) * config.batch_size / batch


class Trainer:
    """A method whose training steps are taken one at a time, on random square images of the size in the store."""

    def __init__(self, config: Pretrain, device: torch.device, batch: int | None = None) -> None:
        """`batch` images per step; None takes the configured number."""
        self.device, self.batch, self._view_set = device, batch or config.batch_size, config.view_set()
        labels = torch.zeros(self.batch, CATEGORIES, dtype=torch.bool) if config.supervised else None
        self.module, self.backbone = build_method(config, device, labels)
        self._optimizer, self._scaler = build_optimizer(config, self.module), build_scaler(config, device)
        self._method = prepare_method(config, self.module, device)
        side = FULL if isinstance(config.data.short_side, str) else config.data.short_side
        self._rng = torch.Generator().manual_seed(config.seed)
        shape = (self.batch, side, side, 3)
        pixels = torch.randint(256, shape, dtype=torch.uint8, generator=self._rng)
        if config.data.short_side != "full":  # a store at full size rarely fits into a GPU's memory
            pixels = pixels.to(device)
        self._images = pixels.unbind()
        # Boxes are squares of half the side.
        self._candidates = self._regions = None
        if config.boxes_with_views:
            corner = torch.rand(self.batch, BOXES, 2, generator=self._rng) * side / 2
            boxes = torch.cat([corner, corner + side / 2], dim=2)
            there = torch.ones(self.batch, BOXES, dtype=torch.bool)
            self._candidates = Candidates(boxes, there, config.boxes_with_views)
        if config.regions != {"crop"}:
            quarter = torch.tensor([side // 4, side // 4, side // 2, side // 2]).expand(self.batch, 4)
            neighbours = self._images if config.takes_pairs else ()
            index = torch.arange(self.batch) if config.takes_pairs else None
            self._regions = Regions(dict.fromkeys(config.regions, quarter), neighbours, index)

    def step(self) -> None:
        """Make the views of a batch and train on them, in the middle of the run's schedules."""
        index = torch.arange(self.batch)
        views = make_views(
            self._images,
            index,
            self._view_set,
            self._rng,
            self.device,
            candidates=self._candidates,
            regions=self._regions,
        )
        step(self._method, self._optimizer, views, 0.5, self._scaler)

    def seconds(self) -> float:
        """Wall time of a step."""
        return seconds(self.step, self.device)
