"""Figure 3 of MLS: scores of one query against all entries of the dictionary, before and after training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mlssl.errors import DataError
from mlssl.figures.style import OKABE_ITO, STYLE, WIDTH, finish, save
from mlssl.pictures.neighbours import QUERY, Pixels, scores, show, tile

if TYPE_CHECKING:
    from mlssl.pictures.embed import Crops

BINS = 50
COLOURS = {"g": OKABE_ITO[0], "z": OKABE_ITO[2]}
SPACES = {"g": "backbone, $g \\cdot Q_g^T$", "z": "projector, $z \\cdot Q_z^T$"}


def write_histograms(
    before: tuple[Crops, Crops], after: tuple[Crops, Crops], pixels: Pixels, out: Path, *, method: str, about: str
) -> None:
    """Write `out` (PNG) and a PDF beside it: the scores of the first query, before and after training.

    `before` and `after` are queries and dictionary of the same crops. Without a projector there is no row for
    z. The title names `method`; the notes below start with `about`. Raises DataError for fewer than two entries of
    other images.
    """
    query, dictionary = after
    with plt.rc_context(STYLE):
        figure = draw(before, after, pixels)
        own = int((dictionary.image == query.image[0]).sum())
        notes = (
            f"{about}, D = {len(dictionary.g)}, less {own} of the query's own image. Cosines of one query with all "
            "entries; line: the normal distribution of the same mean and standard deviation (std). Every panel has "
            "axes of its own. Encoders in eval mode; before: as initialised"
        )
        if query.z is None:
            notes += ". This run has no projector, so no z, and is not trained: before and after are the same"
        finish(figure, f"{method}: scores of one query against the dictionary", notes)
        save(figure, Path(out).with_suffix(""))


def draw(before: tuple[Crops, Crops], after: tuple[Crops, Crops], pixels: Pixels) -> Figure:
    """The query's image with its crop, and one panel per space (g, z) and moment (before, after)."""
    queries = after[0]
    spaces = ["g"] if queries.z is None else ["g", "z"]
    figure, panels = plt.subplot_mosaic(
        [["query", f"{space} before", f"{space} after"] for space in spaces],
        figsize=(WIDTH, 1.0 + 2.3 * len(spaces)),
        width_ratios=[0.62, 1, 1],
    )
    show(panels["query"], tile(pixels(queries.image[0]), queries.box[0], QUERY))
    panels["query"].set_title("query")
    for moment, (asked, entries) in {"before": before, "after": after}.items():
        for space in spaces:
            values = first_scores(asked, entries, space)
            histogram(panels[f"{space} {moment}"], values, COLOURS[space])
            title = f"{moment} training: mean {values.mean():.3f}, std {values.std():.3f}"
            panels[f"{space} {moment}"].set_title(title, loc="left", fontsize="medium")
            panels[f"{space} {moment}"].set_xlabel(f"cosine: {SPACES[space]}")
    for space in spaces:
        panels[f"{space} before"].set_ylabel("density")
    return figure


def first_scores(queries: Crops, dictionary: Crops, space: str) -> np.ndarray:
    """Cosines of the first query with the entries of other images, in the space `g` or `z`; at most D of them."""
    query, entries = getattr(queries, space)[:1], getattr(dictionary, space)
    values = scores(query, entries, queries.image[:1], dictionary.image)[0]
    values = values[~np.isnan(values)].astype(np.float64)
    if len(values) < 2:
        raise DataError(
            f"histograms: the dictionary has {len(values)} entries of other images than the query's; "
            "give more images or a larger dictionary_size"
        )
    return values


def histogram(ax: Axes, values: np.ndarray, colour: str) -> None:
    """A histogram as a density, and the normal distribution fitted to it (maximum likelihood)."""
    mean, std = values.mean(), values.std()
    ax.hist(values, bins=BINS, density=True, color=colour, alpha=0.55)
    at = np.linspace(min(values.min(), mean - 3 * std), max(values.max(), mean + 3 * std), 200)
    fit = np.exp(-0.5 * ((at - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi))
    ax.plot(at, fit, color="black", linewidth=1)
