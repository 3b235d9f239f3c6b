"""A picture of a folder of images: thumbnails on a grid, near to each other where their features are."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

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
NEIGHBOURS = 15
"""Neighbours of an image that UMAP keeps near (its own default); a map by UMAP has more images than that."""
Plane = Callable[[np.ndarray], np.ndarray]
"""From unit vectors N x D to places N x 2."""


def write_map(
    files: list[Path], features: np.ndarray, out: Path, *, by: Literal["pca", "umap"] = "pca", seed: int = 0
) -> int:
    """Write `out` (.png) with a thumbnail per image; returns their number.

    `features` is float N x D, in the order of `files`. Their lengths are made 1, and put on a plane `by` their two
    first principal components, or by UMAP (McInnes et al., arXiv 1802.03426), which shows neighbours better and
    distances worse. The plane's axes are those of the picture (see `places`); no two thumbnails overlap. `seed`
    draws the images where there are more than MOST, and is UMAP's. Raises ConfigError for another ending, or too
    few images for UMAP.
    """
    check(out, by)
    to_plane: Plane = plane if by == "pca" else partial(umap_plane, seed=seed)
    chosen = np.arange(len(files))
    if len(files) > MOST:
        chosen = np.sort(np.random.default_rng(seed).choice(len(files), MOST, replace=False))
    x = features[chosen]
    cells = places(to_plane(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)))
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


def check(out: Path, by: str = "pca") -> None:
    """Raises ConfigError if a map cannot have this name, or UMAP is not installed; FileExistsError if it exists."""
    if by == "umap" and importlib.util.find_spec("umap") is None:
        raise ConfigError("embed: --map-by umap needs umap-learn; pip install 'mlssl[map]', or give pca")
    if out.suffix != ".png":
        raise ConfigError(f"embed: --map {out}: give a file that ends in .png")
    if out.exists():
        raise FileExistsError(f"{out}: exists already; give another file")


def plane(x: np.ndarray) -> np.ndarray:
    """N x 2: principal components of unit vectors, N x D; one image, or equal ones, are at 0."""
    found = np.zeros((len(x), 2))
    count = min(2, *x.shape)
    if len(x) > 1 and np.ptp(x, axis=0).any():
        found[:, :count] = PCA(count, svd_solver="full").fit_transform(x)
    return found


def umap_plane(x: np.ndarray, seed: int) -> np.ndarray:
    """N x 2: UMAP of unit vectors, N x D, by their cosines. Equal for equal seeds, on one thread."""
    if len(x) <= NEIGHBOURS:
        raise ConfigError(f"embed: --map-by umap: {len(x)} images are too few; give more than {NEIGHBOURS}, or pca")
    import umap

    found: np.ndarray = umap.UMAP(
        n_neighbors=NEIGHBOURS, metric="cosine", init="pca", random_state=seed, n_jobs=1
    ).fit_transform(x)
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
