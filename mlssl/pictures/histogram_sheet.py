"""One sheet with the score histograms of several runs, on common axes (figure 3 of MLS)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from mlssl.analysis.names import in_words
from mlssl.errors import ConfigError
from mlssl.figures.style import STYLE, WIDTH, colours, finish, markers, save
from mlssl.pictures.histograms import BINS, FORMAT, SPACES

NOT_COMPARABLE = "Cosines of different methods are not comparable: compare shapes, and before with after"
MOMENTS = ("before", "after")
COLUMNS = 3
"""Of the legend."""


def write_histogram_sheet(files: Sequence[Path], out: Path) -> None:
    """Write `out` (PNG) and a PDF beside it from files of `mlssl histograms`."""
    found = [read(file) for file in files]
    with plt.rc_context(STYLE):
        save(draw(found), Path(out).with_suffix(""))


def read(file: Path) -> dict[str, Any]:
    """The content of a file of `mlssl histograms`; ConfigError for a missing or another file."""
    remedy = "write it by `mlssl histograms`"
    try:
        found = json.loads(Path(file).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file; {remedy}") from None
    except ValueError:
        raise ConfigError(f"{file}: is no JSON; {remedy}") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT or "scores" not in found:
        raise ConfigError(f"{file}: holds no histograms of scores of format {FORMAT}; {remedy} again")
    return found


def draw(found: Sequence[dict[str, Any]]) -> Figure:
    """Panels of backbone and projector, before and after training; one line per run, its marker at its mean."""
    spaces = [space for space in SPACES.values() if any(space in run["scores"] for run in found)]
    names = [run["method"] for run in found]
    lines = 0.2 * -(-len(set(names)) // COLUMNS)
    figure = plt.figure(figsize=(WIDTH, 1.4 + lines + 1.75 * len(spaces)))
    parts = figure.add_gridspec(2, 1, height_ratios=[1.75 * len(spaces), lines])
    grid = parts[0].subgridspec(len(spaces), 2).subplots(sharex=True, sharey=True, squeeze=False)
    colour, marker = colours(names), markers(names)
    edges = np.linspace(-1, 1, BINS + 1)
    width = edges[1] - edges[0]
    floor = 50 / max(run["entries"] for run in found)  # half an entry of the largest dictionary, in %
    used = np.zeros(BINS, dtype=bool)
    for row, space in zip(grid, spaces, strict=True):
        for ax, moment in zip(row, MOMENTS, strict=True):
            for run in found:
                if space not in run["scores"]:
                    continue
                one, name = run["scores"][space][moment], run["method"]
                counts = np.array(one["counts"])
                used |= counts > 0
                shares = 100 * counts / counts.sum()
                # Empty bins lie below the axis, which is logarithmic.
                ax.stairs(np.maximum(shares, floor / 100), edges, color=colour[name], linewidth=0.9, baseline=None)
                at = shares[min(int((one["mean"] + 1) / width), BINS - 1)]
                style = {"marker": marker[name], "color": colour[name], "linestyle": "", "markersize": 5}
                ax.plot([one["mean"]], [max(at, floor)], markeredgecolor="white", markeredgewidth=0.5, **style)
            ax.set_title(f"{space}, {moment} training", loc="left")
            ax.grid(color="0.93")
    first, last = np.flatnonzero(used)[[0, -1]]
    grid[0, 0].set(yscale="log", ylim=(floor, 140), xlim=(edges[first] - width, edges[last + 1] + width))
    grid[0, 0].yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    for ax in grid[-1]:
        ax.set_xlabel("cosine of the query with an entry")
    for row in grid:
        row[0].set_ylabel(f"entries per bin of {width:.2f}, %")
    handles = [
        plt.Line2D([], [], color=colour[n], marker=marker[n], markersize=5, linewidth=0.9, label=in_words(n))
        for n in dict.fromkeys(names)
    ]
    beside = figure.add_subplot(parts[1])
    beside.set_axis_off()
    beside.legend(handles=handles, loc="center", ncols=COLUMNS)
    finish(figure, title(found, spaces), notes(found))
    return figure


def title(found: Sequence[dict[str, Any]], spaces: Sequence[str]) -> str:
    """How training changes the spread of the scores, one line per space."""
    lines = []
    for space in spaces:
        trained = [run for run in found if run["trained"] and space in run["scores"]]
        runs = trained or [run for run in found if space in run["scores"]]
        spread = {moment: [run["scores"][space][moment]["std"] for run in runs] for moment in MOMENTS}
        before, after = (extent(spread[moment], runs) for moment in MOMENTS)
        if not trained:
            lines.append(f"Scores of the untrained {space}: standard deviation {after}")
            continue
        steps = [new - old for old, new in zip(spread["before"], spread["after"], strict=True)]
        verb = "widens" if min(steps) > 0 else "narrows" if max(steps) < 0 else "changes"
        lines.append(f"Training {verb} {space} scores: standard deviation {before} before, {after} after")
    return "\n".join(lines)


def extent(values: Sequence[float], runs: Sequence[dict[str, Any]]) -> str:
    """`0.08 (DenseCL) to 0.15 (MLS)`, the lowest and the highest value; one number where they are the same."""
    low, high = int(np.argmin(values)), int(np.argmax(values))
    ends = [f"{values[i]:.2f}" for i in (low, high)]
    if len(runs) == 1 or ends[0] == ends[1]:
        return ends[0]
    return " to ".join(f"{end} ({in_words(runs[i]['method'])})" for end, i in zip(ends, (low, high), strict=True))


def notes(found: Sequence[dict[str, Any]]) -> str:
    """What is drawn, of which images, and what must not be compared."""
    entries = sorted({run["entries"] for run in found})
    size = f"{entries[0]:,}" + (f" to {entries[-1]:,}" if len(entries) > 1 else "")
    text = (
        f"{NOT_COMPARABLE}. Scores: cosines of one query with {size} entries of the dictionary, those of other "
        f"images than its own. {'; '.join(dict.fromkeys(run['about'] for run in found))}. Markers: means. "
        "All panels have the same axes, the vertical one logarithmic. Encoders in eval mode; before: as initialised"
    )
    untrained = [in_words(run["method"]) for run in found if not run["trained"]]
    return text + (f". Not trained, before and after are the same: {', '.join(untrained)}" if untrained else "")
