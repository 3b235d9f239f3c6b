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
"""First word of a search -> colour; markers distinguish the searches of a family."""
MARKERS = "osD^v<>"


def write_search_figure(table: pd.DataFrame, header: Mapping[str, Any], out: Path) -> None:
    """Write PNG and PDF (`out` is the path of one) of the benchmark's table and its result file's header."""
    with plt.rc_context(STYLE):
        about = f"run {header['run']}, method {header['method']}"
        save(search_figure(table, about=about, notes=caption(header)), Path(out).with_suffix(""))


def caption(header: Mapping[str, Any]) -> str:
    """What was measured, on which data and device, and how to read it."""
    config, notes = header["config"], header["notes"]
    crops = notes["crops"]["entries"]
    made = f"; entries beyond {crops:,} made from them" if max(config["sizes"]) > crops else ""
    return (
        f"k = {config['k']}, {config['batch']} queries per batch; {notes['width']}-d features of {crops:,} "
        f"crops of {notes['images']:,} images{made}. Device {header['device']}, threads {header['threads']}. "
        f"Median and quartiles of {config['batches'] - 1} batches. Dotted: the product of the logits, "
        "needed by every search. sample n: n entries sampled in each step. ivf p: p lists of an inverted file, "
        "including its updates and k-means. hnsw: a graph, which cannot remove entries, without its build time"
    )


def search_figure(table: pd.DataFrame, *, about: str, notes: str) -> Figure:
    """Left: milliseconds per step of search and upkeep. Right: recall of the exact neighbours, %.

    Upkeep is the update with a batch of keys and a share of the next build; a graph has none, so only its search is
    drawn. Error bars are the quartiles of the search. Raises KeyError for a missing column.
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
    """Search, such as `ivf 16` -> line style: families in their order, fewest entries or lists first."""
    families = list(FAMILIES)
    parts = {search: (search.split()[0], int([*search.split(), "0"][1])) for search in searches}
    ordered = sorted(searches, key=lambda search: (families.index(parts[search][0]), parts[search][1]))
    styles: dict[str, dict[str, Any]] = {}
    for search in ordered:
        family = parts[search][0]
        place = sum(parts[other][0] == family for other in styles)
        line = {"linestyle": ":" if family == "logits" else "-", "linewidth": 1.2, "markersize": 4}
        styles[search] = {"color": FAMILIES[family], "marker": MARKERS[place], "label": search, **line}
    return styles


def sizes_axis(ax: Axes, sizes: list[int]) -> None:
    """A logarithmic axis of dictionary sizes, with a tick at each: 4k, 64k, 1M, in steps of 1024."""
    ax.set(xscale="log", xlabel="entries of the dictionary, D")
    ax.xaxis.set_major_locator(FixedLocator(sizes))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(round(value))))


def short(size: int) -> str:
    """4096 -> 4k, 1048576 -> 1M; other sizes that are not a multiple of 1024 unchanged."""
    if size >= 2**20 and size % 2**20 == 0:
        return f"{size >> 20}M"
    return f"{size >> 10}k" if size >= 2**10 and size % 2**10 == 0 else str(size)
