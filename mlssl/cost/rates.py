"""Rates: seconds per step, per image or per run, computed from results. Imports no torch.

The key of a rate is the stage with the settings that change its cost. A rate is valid for one device and number of
threads. Scalars of a method (k, dictionary size, …) are not in the key: they cost little compared to the backbone.
"""

from __future__ import annotations

import csv
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlssl import project
from mlssl.digest import digest_of
from mlssl.errors import ConfigError
from mlssl.files import write_json
from mlssl.study.settings import TRANSFERS, Linear

REFERENCE = project.REFERENCE / "rates.json"
PUBLISHED = project.PUBLISHED / "rates.json"
PUBLISHED_SOURCE = "published rates"
"""Name of the last source: values that others published for one GPU."""
PARAMETERS = {"resnet10t": 4.9e6, "resnet18": 11.2e6, "resnet34": 21.3e6, "resnet50": 23.5e6, "resnet101": 42.5e6}
"""Number of weights of each backbone, without classifier."""
THREADS = 1
"""CPU threads of every job of the workflow."""
PROPOSALS = "proposals"
"""Key of selective search. Seconds per million pixels."""
BOXES = 20
"""Boxes of an image, about those of selective search on a photo."""
START = "start of a job"
"""Key of the time a job takes besides its work: Python, imports, Snakemake. Seconds per job."""
BACKWARD = 3
"""Training on an image costs as much as evaluating three: a backward pass costs about two forward passes."""
DENSE = {
    "detection": ["size", "fpn_channels", "box_head_channels", "mask_head_layers", "proposals", "rois_per_image"],
    "segmentation": ["size", "output_stride", "head_channels"],
    "classification": ["size", "frozen"],
}
"""Settings that change the cost of an image in a transfer that trains all layers."""
HEADS = {"detection": "2fc", "segmentation": "fcn"}
"""The head of rates whose key names none."""
PROBES = {
    "linear": ["size"],
    "knn": ["size"],
    "dense": ["size", "output_stride"],
    "regions": ["size", "output_stride"],
    "correspondence": ["size"],
}
"""The same for frozen backbones."""


def start(stage: str) -> str:
    """The key of the time a job of one stage takes besides its work; START applies to stages without this key."""
    return f"{START}, {stage}"


@dataclass(frozen=True)
class Source:
    """Rates from one place: key -> seconds per unit."""

    name: str
    seconds: dict[str, float]
    device: str
    """Name of the device that they were measured on."""


def key(stage: str, backbone: str, config: Mapping[str, Any]) -> str:
    """The key of a rate; `config` contains the stage's settings as plain values.

    For a stage unknown to this module, the key contains all settings except the data.
    """
    if stage == "pretrain" and config["target"] is None:
        return f"no pretraining, {backbone}"
    if stage == "pretrain":
        crop, batch = mean_crop(config), config["batch_size"]
        return f"pretrain {config['target']}, {backbone}, crop {crop}, batch {batch}, {config['precision']}"
    if stage in (DENSE | PROBES):
        settings = [f"{name} {config[name]}" for name in (DENSE | PROBES)[stage]]
        if config.get("head", HEADS.get(stage)) != HEADS.get(stage):
            settings.append(f"head {config['head']}")
        if config.get("crop_width"):
            settings.append(f"crop_width {config['crop_width']}")
        return ", ".join([stage, backbone, *settings])
    own = {name: value for name, value in config.items() if name != "data"}
    return f"{stage}, {backbone}, settings {digest_of(own)}"


def mean_crop(config: Mapping[str, Any]) -> int:
    """Side of a crop, two of which have as many pixels as all views of an image together."""
    sides = [view.get("crop", config["views"]["crop"]) for view in config.get("each_view", ({}, {}))]
    return round(math.sqrt(sum(side**2 for side in sides) / 2))


def units(
    stage: str, config: Mapping[str, Any], *, steps: int, train_images: int | None, val_images: int | None
) -> float | None:
    """Amount of work: optimiser steps, images, or 1 if only the time of a complete run is known; None if unknown.

    Where all layers are trained, a training image counts as BACKWARD evaluated images.
    """
    if stage == "pretrain":
        return steps or 1
    if stage == "classification":  # tested after every epoch
        if train_images is None or val_images is None:
            return None
        return config["epochs"] * ((1 if config["frozen"] else BACKWARD) * train_images + val_images)
    if stage in (*PROBES, "svm"):
        train = 0 if stage == "correspondence" else at_most(train_images, config.get("train_images"))
        val = at_most(val_images, config.get("eval_images"))
        return None if train is None or val is None else train + val
    if stage in DENSE:
        val = at_most(val_images, config["eval_images"])
        return None if val is None else BACKWARD * config["iterations"] * config["batch_size"] + val
    return 1


def at_most(images: int | None, limit: int | None) -> int | None:
    """The smaller number, where one may be unknown or unlimited; None if both are."""
    known = [n for n in (images, limit) if n is not None]
    return min(known) if known else None


def of_result(stage: str, content: Mapping[str, Any]) -> tuple[str, float]:
    """The rate from one result file: its key, and seconds per unit."""
    header, config = content["header"], content["header"]["config"]
    steps = sum(row["value"] for row in content["rows"] if row["metric"] == "steps")
    train, val = header["notes"].get("train_images"), header["notes"].get("eval_images")
    if stage == "linear":
        share = max(config["fractions"])
        train = round(header["notes"]["protocols"][Linear.protocol(share)]["train_images"] / share)
    amount = units(stage, config, steps=steps, train_images=train, val_images=val)
    return key(stage, header["backbone"], config), header["wall_s"] / amount


def learn(results: Path, *, device: str, threads: int = THREADS) -> dict[str, float]:
    """Median seconds per unit over all results under `results/*/runs/` of this device and number of threads.

    Raises ConfigError, with the file, for a result that cannot be read.
    """
    found: dict[str, list[float]] = defaultdict(list)
    for path in sorted(Path(results).glob("*/runs/*/*.json")):
        stage, out = path.stem.rpartition("-")[0] or path.stem, path.parents[2]
        if stage not in ("pretrain", *TRANSFERS):
            continue
        try:
            content = json.loads(path.read_text())
            header = content["header"]
            if (header["device"], header["threads"]) != (device, threads):
                continue
            name, seconds = of_result(stage, content)
        except (json.JSONDecodeError, KeyError) as error:
            raise ConfigError(
                f"{path}: not a result file ({error}); move it away and run this stage again"
            ) from None
        found[name].append(seconds)
        benchmark = out / "benchmarks" / stage / f"{path.parent.name}.tsv"
        if benchmark.exists():
            # A job that resumed from a checkpoint took less time than the run in total.
            found[START].append(max(0.0, job_seconds(benchmark) - header["wall_s"]))
    return {name: statistics.median(values) for name, values in found.items()}


def job_seconds(benchmark: Path) -> float:
    """Wall time of a job in seconds, from Snakemake's benchmark file."""
    with open(benchmark, newline="") as file:
        return float(next(csv.DictReader(file, delimiter="\t"))["s"])


def save(path: Path, seconds: Mapping[str, float], *, device: str, threads: int = THREADS) -> None:
    """Write rates atomically; existing rates of the same device and threads are kept."""
    old = read(path) if Path(path).exists() else {}
    same = (old.get("device"), old.get("threads")) == (device, threads)
    kept = old["seconds"] if same else {}
    rounded = {name: round(value, 6) for name, value in seconds.items()}
    facts = {"machine": machine(), "device": device, "threads": threads}
    write_json(path, {**facts, "seconds": dict(sorted((kept | rounded).items()))})


def read(path: Path) -> dict[str, Any]:
    """Read rates that `save` wrote; ConfigError if the file has another format."""
    try:
        content = json.loads(Path(path).read_text())
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}: not valid JSON ({error}); delete it and measure again") from None
    missing = {"machine", "device", "threads", "seconds"} - set(content)
    if missing:
        raise ConfigError(f"{path}: key '{min(missing)}' is missing; delete it and measure again")
    return content


def sources(results: Path, *, device: str, reference: Path = REFERENCE) -> tuple[Source, ...]:
    """Sources of rates, the best first: measured here, from results, the reference."""
    found = []
    measured = Path(results) / "rates.json"
    if measured.exists():
        content = read(measured)
        if (content["device"], content["threads"]) == (device, THREADS):
            found.append(Source(f"steps measured on this machine ({measured})", content["seconds"], device))
    found.append(Source(f"results under {results}/ on {device}", learn(results, device=device), device))
    if reference.exists():
        content = read(reference)
        found.append(
            Source(f"rates of {content['machine']}, not of this machine", content["seconds"], content["device"])
        )
        content = read(PUBLISHED)
        found.append(Source(PUBLISHED_SOURCE, content["seconds"], content["device"]))
    return tuple(found)


def published_machine() -> str:
    return read(PUBLISHED)["machine"]


def this_device() -> str:
    """The device that a job would choose, named as in its results; does not import torch."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1") or not shutil.which("nvidia-smi"):
        return "cpu"
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    names = subprocess.run(command, capture_output=True, text=True, check=False)
    return names.stdout.splitlines()[0].strip() if names.returncode == 0 and names.stdout else "cpu"


def machine() -> str:
    """A name for this machine's processor, with its number of cores."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    model = named[0] if named else platform.processor() or platform.machine()
    return f"{model}, {os.cpu_count()} cores"
