"""A picture of a folder of images: thumbnails on a grid, near to each other where their features are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.optimize import linear_sum_assignment
from sklearn.decomposition import PCA

from mlssl.data.images import read_image
from mlssl.errors import ConfigError
from mlssl.files import atomic

TILE = 64
"""Pixels of a thumbnail's side."""
MOST = 1600
"""Images on a map; of more, this number is drawn at random."""


def write_map(files: list[Path], features: np.ndarray, out: Path, *, seed: int = 0) -> int:
    """Write `out` (.png) with a thumbnail per image; returns their number.

    `features` is float N x D, in the order of `files`. Their lengths are made 1, and their two first principal
    components are the horizontal and the vertical axis (see `places`). No two thumbnails overlap. `seed` draws the
    images where there are more than MOST. Raises ConfigError for another ending.
    """
    check(out)
    chosen = np.arange(len(files))
    if len(files) > MOST:
        chosen = np.sort(np.random.default_rng(seed).choice(len(files), MOST, replace=False))
    cells = places(plane(features[chosen]))
    columns, rows = (cells.max(axis=0) + 1).tolist()
    sheet = Image.new("RGB", (columns * TILE, rows * TILE), "white")
    for i, (column, row) in zip(chosen, cells, strict=True):
        picture = Image.fromarray(read_image(files[i]))
        picture.thumbnail((TILE - 2, TILE - 2))
        left, top = (TILE - picture.width) // 2, (TILE - picture.height) // 2
        sheet.paste(picture, (int(column) * TILE + left, int(row) * TILE + top))
    with atomic(out) as part:
        sheet.save(part, format="PNG")
    return len(chosen)


def check(out: Path) -> None:
    """Raises ConfigError if a map cannot have this name, FileExistsError if it exists."""
    if out.suffix != ".png":
        raise ConfigError(f"embed: --map {out}: give a file that ends in .png")
    if out.exists():
        raise FileExistsError(f"{out}: exists already; give another file")


def plane(features: np.ndarray) -> np.ndarray:
    """N x 2: principal components of the directions of `features`, N x D; one image, or equal ones, are at 0."""
    x = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    found = np.zeros((len(x), 2))
    count = min(2, *x.shape)
    if len(x) > 1 and np.ptp(x, axis=0).any():
        found[:, :count] = PCA(count, svd_solver="full").fit_transform(x)
    return found


def places(points: np.ndarray) -> np.ndarray:
    """int N x 2: column and row of each point N x 2 on the smallest square grid, every cell at most once.

    Both axes are stretched to the grid; the sum of squared distances to the cells is the least possible
    (linear assignment).
    """
    side = int(np.ceil(np.sqrt(len(points))))
    low, span = points.min(axis=0), np.ptp(points, axis=0)
    scaled = (points - low) / np.where(span > 0, span, 1) * (side - 1)
    cells = np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2)
    cost = ((scaled[:, None] - cells[None]) ** 2).sum(axis=-1)
    _, chosen = linear_sum_assignment(cost)
    return cells[chosen]
