"""The study that `mlssl run --images FOLDER` writes and runs: config/photos.yaml for a folder. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from mlssl.errors import ConfigError, did_you_mean
from mlssl.files import write_text
from mlssl.project import PROJECT
from mlssl.study.yaml_files import read_yaml

BASE = PROJECT / "config" / "photos.yaml"
UNTRAINED = "random"
"""The method of BASE that is not trained; the gain is measured over it."""
LONGEST = 800
"""Epochs of the paper's longest training (table 1); a budget is not spent on more."""
FEWEST = {False: 0.95, True: 0.7}
"""Share of the photos that training has at least, without and with labels: an import may skip 5 %, and validates on
a quarter of those with labels unless it has official splits."""
UNITS = {"min": 60, "h": 3600, "d": 86400}


def values(
    folder: Path, labels: Path | None, method: str | None, epochs: int | None = None, images: int | None = None
) -> dict[str, Any]:
    """What the study file says: whatever is not given is as in BASE.

    `images`: number of photos in the folder. If they may not fill a batch of BASE, the batch is smaller, and the
    learning rate in proportion.
    """
    if not folder.is_dir():
        raise ConfigError(f"--images: {folder}: no such folder; give a folder of photos")
    if labels is not None and not labels.exists():
        raise ConfigError(f"--labels: {labels}: no such file or folder; check the path")
    name = re.sub("[^a-z0-9]+", "-", folder.resolve().name.lower()).strip("-") or "photos"
    photos = {"folder": str(folder.resolve()), "labels": str(labels.resolve()) if labels else None}
    found: dict[str, Any] = {"extends": str(BASE), "name": name, "data": {"photos": photos}}
    if method is not None:
        known = [other for other in read_yaml(BASE)["methods"] if other != UNTRAINED]
        if method not in known:
            like = did_you_mean(method, known)
            raise ConfigError(f"--method: '{method}' is not known{like}; give one of {', '.join(known)}")
        found["compare"] = [UNTRAINED, method]
    pretrain: dict[str, Any] = {} if epochs is None else {"epochs": epochs}
    usual = read_yaml(BASE)["pretrain"]
    size, rate = usual["batch_size"], usual["lr"]
    if images is not None and (batch := batch_size(images, size, labels is not None)) < size:
        pretrain |= {"batch_size": batch, "lr": rate * batch / size}
    return found | ({"pretrain": pretrain} if pretrain else {})


def batch_size(images: int, usual: int, labelled: bool) -> int:
    """`usual`, or the largest half, quarter, … of it, at least 2, that the photos for training fill.

    Some of the `images` may be unusable, and some for validation if there are labels: FEWEST counts on both.
    """
    size = usual
    while size > 2 and size > images * FEWEST[labelled]:
        size //= 2
    return size


def write(content: dict[str, Any]) -> Path:
    """Write the study to `<name>.yaml` in the working directory; another file of that name is not replaced."""
    path = Path(f"{content['name']}.yaml")
    if path.exists() and read_yaml(path) != content:
        raise ConfigError(
            f"{path}: exists already and has other settings; run it by `mlssl run {path}`, or move it away"
        )
    write_text(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    return path


def seconds_of(budget: str) -> float:
    """`30min`, `2h` or `1d` in seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(min|h|d)", budget)
    if not found or not float(found[1]):
        raise ConfigError(f"--budget: '{budget}' is not allowed; give a time such as 30min, 2h or 1d")
    return float(found[1]) * UNITS[found[2]]


def epochs_within(budget: float, seconds: Callable[[int], float]) -> int:
    """The most epochs, 1 to LONGEST, that end within `budget` seconds; `seconds` grows with its epochs.

    Raises ConfigError if one epoch does not.
    """
    if seconds(1) > budget:
        least = seconds(1) / 60
        raise ConfigError(f"--budget: one epoch and its evaluation take about {least:.0f} min; give more")
    low, high = 1, LONGEST
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if seconds(middle) <= budget else (low, middle - 1)
    return low
