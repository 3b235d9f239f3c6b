"""Quality of the pseudo-labels over training: one panel per axis, one line per level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mlssl.analysis.outputs import LABEL_RECORD, budget, label_axes
from mlssl.figures.style import OKABE_ITO, TRUNCATED, WIDTH, finish, folded
from mlssl.study.expand import Study

MARKERS = "osD^vP*X"
MIN_LABELS = 10
"""A share of fewer labels than this is not drawn: a strict threshold can leave one or two in a batch."""
SAME_CHANCE = 1.0
"""Levels whose chance differs by at most this many percentage points share one grey line for it."""


def label_quality(study: Study, metrics: pd.DataFrame) -> Figure:
    """Share of pseudo-labels that have a category in common with their query, over the epochs of training.

    Thick lines are means over seeds, thin lines single seeds. Dashed lines are the share for labels drawn at
    random from the dictionary, in grey where it is the same for all levels.
    """
    axes, records = label_axes(study), read_records(metrics)
    columns = min(2, len(axes))
    rows = -(-len(axes) // columns)
    size = (WIDTH, 0.9 + 2.4 * rows)
    figure, grid = plt.subplots(rows, columns, figsize=size, sharex=True, sharey=True, squeeze=False)
    missing = []
    for ax, (axis, levels) in zip(grid.flat, axes.items(), strict=False):
        chances = []
        for i, (level, runs) in enumerate(levels.items()):
            found = [records[run] for run in runs if run in records]
            if len(found) < len(runs):
                missing.append(f"{axis} = {level}: {len(runs) - len(found)} of {len(runs)} seeds")
            if found:
                colour = OKABE_ITO[i % len(OKABE_ITO)]
                draw(ax, found, level, colour, MARKERS[i % len(MARKERS)])
                chances.append((colour, *common(found, "chance")))
        draw_chance(ax, chances)
        ax.set_title(axis)
        if ax.lines:
            ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=1.6)
    for ax in list(grid.flat)[len(axes) :]:
        ax.set_axis_off()
    for column in range(columns):
        below = [ax for ax in grid[:, column] if ax.axison][-1]
        below.set_xlabel("epoch")
        below.tick_params(labelbottom=True)
    figure.supylabel("labels that share a\ncategory with their query, %", fontsize=9)
    notes = (
        f"{budget(study)}. Thick: mean over seeds; thin: seeds; dashed: entries drawn at random, grey where it "
        f"is the same for all levels. A point is one step's batch; points with fewer than {MIN_LABELS} labels are "
        "omitted"
    )
    if grid[0, 0].get_ylim()[0] > 0:
        notes += f". {TRUNCATED}"
    finish(figure, "Quality of the pseudo-labels over training", notes, "; ".join(missing))
    return figure


def read_records(metrics: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Run -> its records of pseudo-labels, by epoch: `shared` and `chance` in %, and `labels`, their number.

    A share is NaN where it is undefined.
    """
    rows = metrics[metrics["protocol"].str.startswith(LABEL_RECORD)]
    found = {}
    for run, own in rows.groupby("run", sort=False):
        table = own.pivot(index="protocol", columns="metric", values="value").reindex(
            columns=["epoch", "shared", "chance"]
        )
        table["labels"] = own[own["metric"] == "shared"].set_index("protocol")["n"]
        found[str(run)] = table.set_index("epoch")
    return found


def draw(ax: Axes, found: Sequence[pd.DataFrame], level: str, colour: str, marker: str) -> None:
    """Draw one level: its seeds and their mean."""
    epoch, shared = common(found, "shared")
    _, labels = common(found, "labels")
    shared = np.where(labels < MIN_LABELS, np.nan, shared)
    for values in shared:
        ax.plot(epoch, values, color=colour, linewidth=0.5, alpha=0.5)
    markers: dict[str, Any] = {"marker": marker, "markersize": 3.5, "markevery": max(1, len(epoch) // 5)}
    ax.plot(epoch, shared.mean(axis=0), color=colour, linewidth=1.6, label=folded(level), **markers)


def draw_chance(ax: Axes, chances: Sequence[tuple[str, list[float], np.ndarray]]) -> None:
    """Draw every level's (colour, epochs, chance: seeds x epochs), dashed; one grey line if all are similar."""
    lines = [(colour, epoch, chance.mean(axis=0)) for colour, epoch, chance in chances]
    epochs = [epoch for _, epoch, _ in lines]
    if lines and all(epoch == epochs[0] for epoch in epochs):
        values = np.array([chance for _, _, chance in lines])
        if not np.any(np.ptp(values, axis=0) > SAME_CHANCE):
            lines = [("0.5", epochs[0], values.mean(axis=0))]
    for colour, epoch, chance in lines:
        ax.plot(epoch, chance, color=colour, linewidth=0.8, linestyle="--")


def common(found: Sequence[pd.DataFrame], metric: str) -> tuple[list[float], np.ndarray]:
    """The epochs that all seeds have, and a metric at these epochs, seeds x epochs; NaN where undefined."""
    table = pd.concat([seed[metric] for seed in found], axis=1, join="inner").sort_index()
    return table.index.tolist(), table.to_numpy(dtype=float).T
