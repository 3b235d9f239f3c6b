"""How strongly pseudo-labels pull, over training: one panel per axis, one line per level, from the logs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mlssl.analysis.aggregate import summarise
from mlssl.analysis.names import in_words
from mlssl.analysis.outputs import LABEL_FORCE, budget, force_axes
from mlssl.figures.curves import read_log
from mlssl.figures.style import FEWEST, MARKERS, OKABE_ITO, WIDTH, finish, folded, name_lines
from mlssl.statistics.paired import difference
from mlssl.statistics.verdict import ONE_SEED
from mlssl.study.study import COMPARE, Study

Share = dict[int, float]
"""Step -> norm of the labels' gradient at the query embedding, in % of InfoNCE's."""


def label_force(study: Study, metrics: pd.DataFrame) -> Figure:
    """The gradient of the labels in % of InfoNCE's, over the steps (docs/faithfulness.md).

    Thick lines are means over seeds, thin lines single seeds.
    """
    logs = {axis: read_shares(study, levels) for axis, levels in force_axes(study).items()}
    # An axis with one level so far would draw the line of another panel again.
    axes = {axis: by for axis, by in logs.items() if axis == COMPARE or sum(map(any, by.values())) > 1}
    axes = axes or logs
    columns = min(2, len(axes))
    rows = -(-len(axes) // columns)
    size = (WIDTH, 0.9 + 2.4 * rows)
    figure, grid = plt.subplots(rows, columns, figsize=size, sharex=True, sharey=True, squeeze=False)
    missing = [
        f"{in_words(axis)} = {in_words(level)}: {runs.count({})} of {len(runs)} seeds"
        for axis, levels in logs.items()
        for level, runs in levels.items()
        if {} in runs
    ]
    ends: dict[Axes, dict[str, tuple[float, float, str]]] = {}
    for ax, (axis, levels) in zip(grid.flat, axes.items(), strict=False):
        for i, (level, runs) in enumerate(levels.items()):
            if found := [share for share in runs if share]:
                colour = OKABE_ITO[i % len(OKABE_ITO)]
                last = draw(ax, found, colour, MARKERS[i % len(MARKERS)])
                ends.setdefault(ax, {})[f"{folded(in_words(level))} (n = {len(found)})"] = (*last, colour)
        ax.set(yscale="log")
        ax.set_title(folded(in_words(axis), 24), loc="left")
    for ax in list(grid.flat)[len(axes) :]:
        ax.set_axis_off()
    for column in range(columns):
        below = [ax for ax in grid[:, column] if ax.axison][-1]
        below.set_xlabel("step")
        below.tick_params(labelbottom=True)
    figure.supylabel("gradient of the labels,\n% of InfoNCE's (log scale)", fontsize=8)
    notes = (
        f"{budget(study)}. Norms at the query embedding, of the part of the weighted multi-label loss that depends "
        "on the labels and of InfoNCE. Thick: mean over seeds; thin: seeds"
    )
    finish(figure, title(study, metrics), notes, missing)
    name_lines(figure, ends)
    return figure


def title(study: Study, metrics: pd.DataFrame) -> str:
    """The share of each compared method with pseudo-labels, mean over its runs, from metrics.tsv."""
    parts = []
    for method, s in summarise(study, metrics, COMPARE, LABEL_FORCE).items():
        if s.n:
            low, high = difference(list(s.values.values())).interval()
            interval = f", 95 % CI [{low:.2g}, {high:.2g}]" if s.n >= FEWEST else ""
            n = f"n = {s.n}" if s.n > 1 else ONE_SEED
            parts.append(f"{in_words(method)} {s.mean:.2g} %{interval}, {n}")
    head = "Gradient of the pseudo-labels, of InfoNCE's"
    return f"{head}: {'; '.join(parts)}" if parts else f"{head}, over training"


def read_shares(study: Study, levels: Mapping[str, Sequence[str]]) -> dict[str, list[Share]]:
    """Level -> the share over the steps of each of its runs; empty for a run without one."""
    return {level: [shares(read_log(study.out / "runs" / run)) for run in runs] for level, runs in levels.items()}


def shares(log: Sequence[Mapping[str, Any]]) -> Share:
    """The share at each line of the log that has one; lines without InfoNCE's gradient have none."""
    found = {line["step"]: line["diagnostics"] for line in log if "grad_labels" in line.get("diagnostics", {})}
    return {
        step: 100 * d["grad_labels"] / d["grad_info_nce"]
        for step, d in found.items()
        if d["grad_info_nce"] and d["grad_labels"]
    }


def draw(ax: Axes, found: Sequence[Share], colour: str, marker: str) -> tuple[float, float]:
    """Draw one level: its seeds, and their mean at the steps that all seeds have; returns where the mean ends."""
    for share in found:
        ax.plot(list(share), list(share.values()), color=colour, linewidth=0.5, alpha=0.5)
    steps = sorted(set.intersection(*map(set, found)))
    mean = np.array([[share[step] for step in steps] for share in found]).mean(axis=0)
    style: dict[str, Any] = {"marker": marker, "markersize": 3.5, "markevery": max(1, len(steps) // 5)}
    ax.plot(steps, mean, color=colour, linewidth=1.4, **style)
    return (steps[-1], float(mean[-1])) if steps else (np.nan, np.nan)
