"""Measure what a study's stages cost on this machine, one or two minutes per stage.

Each stage's command is run once, as short as possible, for the time that a job takes before its work. Then the
stage is timed at two lengths; the difference gives the cost per unit. Images are generated, so no data is needed.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from tqdm import tqdm

from mlssl.cost import estimate, rates
from mlssl.cost.speed import measure
from mlssl.data import selective_search
from mlssl.data.store import load_resized
from mlssl.parts.backbone import create_backbone
from mlssl.scenes import write_scenes
from mlssl.study.identity import about_run
from mlssl.study.settings import Classification, Data, Detection, Linear, Pretrain, Segmentation, Transfer
from mlssl.study.study import Study
from mlssl.study.validation import plain
from mlssl.tensors import save
from mlssl.transfer import classification, correspondence, dense, detection, knn, linear, regions, segmentation, svm

FEW, MORE = 24, 96
"""Training images of the two generated datasets; each has half as many validation images."""
STAGES: dict[str, Callable[..., Any]] = {
    "linear": linear.evaluate,
    "knn": knn.evaluate,
    "dense": dense.evaluate,
    "regions": regions.evaluate,
    "correspondence": correspondence.evaluate,
    "svm": svm.evaluate,
    "classification": classification.evaluate,
    "detection": detection.evaluate,
    "segmentation": segmentation.evaluate,
}


def calibrate(study: Study, device: torch.device) -> dict[str, float]:
    """Seconds per unit of work and per job start, with the keys of `rates`; shows progress."""
    wanted = estimate.pretrainings(study)
    found = measure(wanted, device)
    size = getattr(study.transfer_source.settings, "size", estimate.PHOTO)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for images in (FEW, MORE):
            write_scenes(folder / str(images), images=images, val_images=images // 2, size=size, seed=0)
        if study.proposals:
            found[rates.PROPOSALS] = selective_search_time(folder / str(FEW) / "train2017", study)
        if first := next((config for config in wanted.values() if not config.takes_pairs), None):
            found[rates.start("pretrain")] = pretraining_start(first, folder, device)
        transfers: dict[str, Any] = {stage: config for stage, config in study.transfers.items() if stage in STAGES}
        for backbone in sorted({run.config.backbone for run in study.runs.values()}):
            file = untrained(backbone, folder)
            for stage, config in tqdm(transfers.items(), desc=f"measuring {backbone}", unit="transfer"):
                each, start = transfer(stage, config, file, folder, device)
                found[rates.key(stage, backbone, plain(config))] = each
                found[rates.start(stage)] = start
    return found


def pretraining_start(config: Pretrain, folder: Path, device: torch.device) -> float:
    """Seconds of a pretraining with one small step, including the short time to build its store."""
    data, params = Data(str(folder / str(FEW))), {**config.params, **fitting(config)}
    short = dataclasses.replace(config, data=data, init=None, epochs=None, steps=1, batch_size=2, params=params)
    return command_time("pretrain", short, folder, device, ["--out", folder / "run"])


def selective_search_time(images: Path, study: Study) -> float:
    """Seconds of a core per million pixels of the images in a folder. ConfigError where OpenCV lacks the search."""
    selective_search.library()
    config = next(run.config.proposals for run in study.runs.values() if run.config.takes_proposals)
    stored = [load_resized(path, study.data.short_side) for path in sorted(images.iterdir())]
    began = time.process_time()
    for pixels in stored:
        selective_search.search(pixels, config)
    return 1e6 * (time.process_time() - began) / sum(pixels.shape[0] * pixels.shape[1] for pixels in stored)


def fitting(config: Pretrain) -> dict[str, Any]:
    """Settings for a small dictionary, which is full after few steps."""
    size = {"dictionary_size": 16} if "dictionary_size" in config.params else {}
    return size | ({"k": 1} if "k" in config.params else {})


def transfer(stage: str, config: Transfer, file: Path, folder: Path, device: torch.device) -> tuple[float, float]:
    """Seconds per unit of a transfer's work, and seconds before the work."""
    short, long = lengths(config, folder)
    timed(stage, short, file, device)  # warm-up: allocates memory and chooses kernels
    took = [timed(stage, length, file, device) for length in (short, long)]
    work = [units(stage, length) for length in (short, long)]
    each = max(0.0, took[1] - took[0]) / (work[1] - work[0])
    job = command_time(stage, short, folder, device, ["--backbone", file, "--out", folder / f"{stage}.json"])
    return each, max(0.0, job - each * work[0])


def lengths(config: Transfer, folder: Path) -> Sequence[Transfer]:
    """A short and a longer version of a transfer: few images or iterations, in batches that fit on any machine."""
    few, more = (Data(str(folder / str(images))) for images in (FEW, MORE))
    if isinstance(config, Linear):
        fractions = tuple(f for f in config.fractions if f * FEW >= 8) or (1.0,)
        return [dataclasses.replace(config, data=data, fractions=fractions) for data in (few, more)]
    if isinstance(config, Detection | Segmentation):
        short: dict[str, Any] = {"data": few, "batch_size": min(config.batch_size, 4)}
        short |= {"precise_bn": 0} if isinstance(config, Detection) else {}
        return [dataclasses.replace(config, **short, iterations=n, eval_images=n) for n in (2, 8)]
    if isinstance(config, Classification):
        batch = min(config.batch_size, 8)
        return [dataclasses.replace(config, data=data, epochs=1, batch_size=batch) for data in (few, more)]
    return [dataclasses.replace(config, data=data) for data in (few, more)]


def units(stage: str, config: Transfer) -> float:
    images = int(Path(config.data.root).name)
    work = rates.units(stage, plain(config), steps=0, train_images=images, val_images=images // 2)
    assert work is not None
    return work


def timed(stage: str, config: Transfer, file: Path, device: torch.device) -> float:
    began = time.perf_counter()
    STAGES[stage](file, config, seed=0, device=device, progress=False)
    return time.perf_counter() - began


def command_time(stage: str, config: Any, folder: Path, device: torch.device, arguments: list[Any]) -> float:
    """Seconds of the command `python -m mlssl <stage>`, including the start of the process."""
    file = folder / f"{stage}.yaml"
    file.write_text(yaml.safe_dump(plain(config)))
    threads = ["--threads", str(rates.THREADS), "--device", str(device)]
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "mlssl", stage, "--config", file, *arguments, *threads],
        check=True,
        capture_output=True,
    )
    return time.perf_counter() - began


def untrained(backbone: str, folder: Path) -> Path:
    """Write an untrained backbone in the format that pretraining exports."""
    config = Pretrain(Data(str(folder)), "untrained", backbone=backbone)
    weights = {"backbone": create_backbone(backbone).state_dict(), "meta": about_run(config, "calibration")}
    save(folder / f"{backbone}.pt", weights)
    return folder / f"{backbone}.pt"
