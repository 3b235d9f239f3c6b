"""Figure of the search benchmark: time and recall of each search over the size of the dictionary."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from mlssl.figures.style import STYLE, WIDTH, finish, save

FAMILIES = {"exact": "#000000", "sample": "#E69F00", "ivf": "#0072B2", "hnsw": "#CC79A7", "logits": "#777777"}
"""First word of a search -> colour; markers tell the searches of a family apart."""
MARKERS = "osD^v<>"


def write_search_figure(table: pd.DataFrame, header: Mapping[str, Any], out: Path) -> None:
    """Write PNG and PDF (`out` is the path of one) of the benchmark's table and its result file's header."""
    with plt.style.context(STYLE):
        about = f"run {header['run']}, method {header['method']}"
        save(search_figure(table, about=about, notes=caption(header)), Path(out).with_suffix(""))


def caption(header: Mapping[str, Any]) -> str:
    """What was measured, on what, and how to read it."""
    told, notes = header["config"], header["notes"]
    crops = notes["crops"]["entries"]
    made = f"; entries beyond {crops:,} made from them" if max(told["sizes"]) > crops else ""
    return (
        f"k = {told['k']}, {told['batch']} queries per batch; {notes['width']} wide features of {crops:,} crops of "
        f"{notes['images']:,} images{made}. Device {header['device']}, threads {header['threads']}. Median and "
        f"quartiles of {told['batches'] - 1} batches. Dotted: the product of the logits, which no search saves. "
        "sample n: n entries drawn anew each step. ivf p: p lists of an inverted file, its updates and k-means "
        "included. hnsw: a graph, which cannot forget, its building left out"
    )


def search_figure(table: pd.DataFrame, *, about: str, notes: str) -> Figure:
    """Left: milliseconds of a step's search with its upkeep. Right: recall of the exact neighbours, %.

    Upkeep is the update with a batch of keys and the building, spread over the keys until it is due again; a graph,
    which has none, is drawn by its search alone. Bars are the quartiles of the search. KeyError for a table that
    lacks a column.
    """
    figure, (time, recall) = plt.subplots(1, 2, figsize=(WIDTH, 3.9))
    for search, look in looks(list(table["search"].unique())).items():
        rows = table[table["search"] == search]
        spread = [rows["ms"] - rows["ms_q25"], rows["ms_q75"] - rows["ms"]]
        time.errorbar(
            rows["size"], rows["step_ms"].fillna(rows["ms"]), yerr=spread, capsize=2, elinewidth=0.8, **look
        )
        known = rows.dropna(subset="recall")
        recall.plot(known["size"], known["recall"], **look)
    time.set(yscale="log", ylabel="milliseconds per step: search and upkeep")
    recall.set(ylim=(0, 103), ylabel="recall of the exact neighbours, %")
    time.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    for ax in (time, recall):
        sizes_axis(ax, sorted(table["size"].unique()))
        ax.grid(axis="y", color="0.9", linewidth=0.6)
    figure.legend(*time.get_legend_handles_labels(), loc="outside right center")
    finish(figure, f"Search of the neighbours: {about}", notes)
    return figure


def looks(searches: list[str]) -> dict[str, dict[str, Any]]:
    """Search, as in `ivf 16`, -> how its line looks: families in their order, fewest entries or lists first."""
    families = list(FAMILIES)
    parts = {search: (search.split()[0], int([*search.split(), "0"][1])) for search in searches}
    ordered = sorted(searches, key=lambda search: (families.index(parts[search][0]), parts[search][1]))
    found = {}
    for search in ordered:
        family = parts[search][0]
        place = sum(parts[other][0] == family for other in found)
        line = {"linestyle": ":" if family == "logits" else "-", "linewidth": 1.2, "markersize": 4}
        found[search] = {"color": FAMILIES[family], "marker": MARKERS[place], "label": search, **line}
    return found


def sizes_axis(ax: Axes, sizes: list[int]) -> None:
    """A logarithmic axis of dictionary sizes, with a tick at each: 4k, 64k, 1M, in steps of 1024."""
    ax.set(xscale="log", xlabel="entries of the dictionary, D")
    ax.xaxis.set_major_locator(FixedLocator(sizes))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(round(value))))


def short(size: int) -> str:
    """4096 -> 4k, 1048576 -> 1M; a size that is no multiple of 1024 in full."""
    if size >= 2**20 and size % 2**20 == 0:
        return f"{size >> 20}M"
    return f"{size >> 10}k" if size >= 2**10 and size % 2**10 == 0 else str(size)
