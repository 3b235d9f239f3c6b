"""Figure 4 of MLS: queries and their nearest entries of the dictionary, each crop as a box on its full image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from mlssl.errors import ConfigError, DataError
from mlssl.figures.style import STYLE, WIDTH, finish, save

if TYPE_CHECKING:
    from mlssl.pictures.embed import Crops

QUERY, NEIGHBOUR = "#D55E00", "#F0E442"
"""The paper's red and yellow, in Okabe and Ito's shades."""
TILE, LINE = 320, 5
"""Pixels of a tile's long side, and of a box's line without its dark rims."""
COLUMN = WIDTH / 5
"""Inches."""
RIGHT = "✓"


Pixels = Callable[[int], np.ndarray]
"""The i-th image, uint8 H x W x 3."""


def write_neighbours(
    queries: Crops,
    dictionary: Crops,
    pixels: Pixels,
    out: Path,
    *,
    rows: int = 4,
    neighbours: int = 4,
    method: str,
    about: str,
    shown: tuple[np.ndarray, np.ndarray] | None = None,
) -> None:
    """Write `out` (PNG) and a PDF beside it: `rows` random queries and the worst query, with their neighbours.

    `queries` are the candidates, in random order. The title names `method`; the notes below start with `about`.
    `shown` are the categories that each query and each entry of the dictionary shows, bool B x C and D x C, where
    they are known: the title then has the share of neighbours that are right, and a mark says which are.
    """
    index, similarity = nearest(queries, dictionary, neighbours)
    chosen = choose(similarity, rows)
    right, title = None, f"{method}: nearest entries of the dictionary"
    if shown is not None:
        right = has_common(*shown)
        title = f"{method}: {share_right(right, index, queries.image, dictionary.image)}"
    with plt.rc_context(STYLE):
        marks = None if right is None else np.take_along_axis(right, index, axis=1)[chosen]
        figure = draw(queries, dictionary, pixels, index[chosen], similarity[chosen], chosen, marks)
        notes = (
            f"{about}, D = {len(dictionary.g)}. Red: the query's crop. Yellow: the crops of its "
            f"{neighbours} nearest entries of the dictionary Q_g, with the cosine of the two backbone features g. "
            "Entries that are crops of the query's own image do not count; of another image there may be several. "
            f"Last row: the worst of {len(queries.g)} queries, the one with the lowest mean over its {neighbours} "
            "nearest. Encoders in eval mode. Cosines are not comparable between methods"
        )
        if right is not None:
            notes += f". {RIGHT}: a category in common with the query's crop"
        finish(figure, title, notes)
        save(figure, Path(out).with_suffix(""))


def has_common(query: np.ndarray, entry: np.ndarray) -> np.ndarray:
    """Whether a query (bool B x C) and an entry (D x C) show a category in common: bool B x D."""
    return np.asarray(query.astype(np.float32) @ entry.T.astype(np.float32) > 0)


def share_right(right: np.ndarray, index: np.ndarray, query_image: np.ndarray, entry_image: np.ndarray) -> str:
    """How many of the neighbours `index` (B x neighbours) are right, and of all entries of other images.

    `right` is bool B x D. A query that shows no category counts too: none of its neighbours is right.
    """
    others = query_image[:, None] != entry_image
    nearest_ones = 100 * np.take_along_axis(right, index, axis=1).mean()
    return (
        f"{nearest_ones:.0f} % of the nearest crops share a category with their query ({len(right)} queries), of "
        f"all crops {100 * right[others].mean():.0f} %"
    )


def scores(
    queries: np.ndarray, entries: np.ndarray, query_image: np.ndarray, entry_image: np.ndarray
) -> np.ndarray:
    """Cosines B x D of normalised rows (B x d, D x d); NaN where an entry is a crop of the query's own image."""
    return np.where(query_image[:, None] == entry_image, np.nan, queries @ entries.T)


def nearest(queries: Crops, dictionary: Crops, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` entries with the highest cosine of g for each query: their index and cosine, B x count each.

    Nearest first, ties by index. Crops of the query's own image are excluded. Raises ConfigError if `count` is
    below one, DataError if a query has fewer than `count` entries of other images.
    """
    if count < 1:
        raise ConfigError(f"neighbours: {count} is too few; give at least 1")
    cosine = scores(queries.g, dictionary.g, queries.image, dictionary.image)
    left = (~np.isnan(cosine)).sum(axis=1).min()
    if left < count:
        raise DataError(
            f"neighbours: {count} are more than the {left} entries of other images that a query has; "
            "give more images or a larger dictionary_size"
        )
    index = np.argsort(-cosine, axis=1, kind="stable")[:, :count]  # NaN sorts last
    return index, np.take_along_axis(cosine, index, axis=1)


def choose(similarity: np.ndarray, rows: int) -> np.ndarray:
    """The candidates to draw: the first `rows` (they are in random order), then the worst.

    `similarity` is B x neighbours; the worst has the lowest mean. It is drawn once: if it is among the
    random rows, the next candidate replaces it there. Raises ConfigError for too few candidates.
    """
    if not 1 <= rows < len(similarity):
        raise ConfigError(
            f"queries: {rows} must be in 1 .. {len(similarity) - 1}, one less than the candidates; "
            "give another number, more candidates or more images"
        )
    worst = similarity.mean(axis=1).argmin()
    return np.append(np.delete(np.arange(len(similarity)), worst)[:rows], worst)


def draw(
    queries: Crops,
    dictionary: Crops,
    pixels: Pixels,
    index: np.ndarray,
    similarity: np.ndarray,
    chosen: np.ndarray,
    right: np.ndarray | None = None,
) -> Figure:
    """One row per chosen query: its image, then those of its neighbours `index` with their `similarity`.

    The neighbours that are `right` (bool, as `index`) have a mark.
    """
    rows, columns = len(chosen), 1 + index.shape[1]
    size = (max(WIDTH, COLUMN * columns), COLUMN * 1.1 * rows + 0.9)
    figure, grid = plt.subplots(rows, columns, figsize=size, squeeze=False)
    for row, (axes, query) in enumerate(zip(grid, chosen, strict=True)):
        name = f"query {row + 1}" if row < rows - 1 else f"worst of {len(queries.g)}"
        show(axes[0], tile(pixels(queries.image[query]), queries.box[query], QUERY))
        axes[0].set(ylabel=name, xlabel=f"mean cosine {similarity[row].mean():.3f}")
        marks = [""] * index.shape[1] if right is None else [f" {RIGHT}" if own else "" for own in right[row]]
        for ax, entry, cosine, mark in zip(axes[1:], index[row], similarity[row], marks, strict=True):
            show(ax, tile(pixels(dictionary.image[entry]), dictionary.box[entry], NEIGHBOUR))
            ax.set_xlabel(f"{cosine:.3f}{mark}")
    grid[0, 0].set_title("query")
    for place, ax in enumerate(grid[0, 1:], start=1):
        ax.set_title(f"neighbour {place}")
    return figure


def tile(pixels: np.ndarray, box: np.ndarray, colour: str) -> Image.Image:
    """An image (uint8 H x W x 3) with TILE pixels on its long side, and a box (x, y, width, height) drawn on it."""
    image = Image.fromarray(pixels)
    scale = TILE / max(image.size)
    image = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.BICUBIC)
    left, top, right, bottom = (round(v * scale) for v in (*box[:2], *(box[:2] + box[2:])))
    frame = ImageDraw.Draw(image)
    # Dark rims keep a bright line visible on a bright background.
    frame.rectangle((left, top, right - 1, bottom - 1), outline="black", width=LINE + 2)
    frame.rectangle((left + 1, top + 1, right - 2, bottom - 2), outline=colour, width=LINE)
    return image


def show(ax: Axes, image: Image.Image) -> None:
    """Draw an image without ticks and frame."""
    ax.imshow(image, interpolation="antialiased")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
