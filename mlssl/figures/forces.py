"""How strongly pseudo-labels pull, over training: one panel per axis, one line per level, from the logs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mlssl.analysis.outputs import budget, force_axes
from mlssl.figures.curves import read_log
from mlssl.figures.labels import MARKERS
from mlssl.figures.style import OKABE_ITO, WIDTH, finish
from mlssl.study.expand import Study

Share = dict[int, float]
"""Step -> norm of the labels' gradient at the query embedding, in % of InfoNCE's."""


def label_force(study: Study) -> Figure:
    """The gradient of the labels in % of InfoNCE's, over the steps (docs/faithfulness.md).

    Thick lines are means over seeds, thin lines single seeds.
    """
    axes = force_axes(study)
    columns = min(2, len(axes))
    rows = -(-len(axes) // columns)
    size = (WIDTH, 0.9 + 2.4 * rows)
    figure, grid = plt.subplots(rows, columns, figsize=size, sharex=True, sharey=True, squeeze=False)
    missing = []
    for ax, (axis, levels) in zip(grid.flat, axes.items(), strict=False):
        for i, (level, runs) in enumerate(levels.items()):
            found = [share for run in runs if (share := shares(read_log(study.out / "runs" / run)))]
            if len(found) < len(runs):
                missing.append(f"{axis} = {level}: {len(runs) - len(found)} of {len(runs)} seeds")
            if found:
                draw(ax, found, level, OKABE_ITO[i % len(OKABE_ITO)], MARKERS[i % len(MARKERS)])
        ax.set(title=axis, yscale="log")
        if ax.lines:
            ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), handlelength=1.6)
    for ax in list(grid.flat)[len(axes) :]:
        ax.set_axis_off()
    for column in range(columns):
        below = [ax for ax in grid[:, column] if ax.axison][-1]
        below.set_xlabel("step")
        below.tick_params(labelbottom=True)
    figure.supylabel("gradient of the labels,\n% of InfoNCE's (log scale)", fontsize=9)
    notes = (
        f"{budget(study)}. Norms at the query embedding, of the part of the weighted multi-label loss that depends "
        "on the labels and of InfoNCE. Thick: mean over seeds; thin: seeds"
    )
    finish(figure, "How strongly the labels pull, over training", notes, "; ".join(missing))
    return figure


def shares(log: Sequence[Mapping[str, Any]]) -> Share:
    """The share at each line of the log that has one; lines without InfoNCE's gradient have none."""
    found = {line["step"]: line["diagnostics"] for line in log if "grad_labels" in line.get("diagnostics", {})}
    return {
        step: 100 * d["grad_labels"] / d["grad_info_nce"]
        for step, d in found.items()
        if d["grad_info_nce"] and d["grad_labels"]
    }


def draw(ax: Axes, found: Sequence[Share], level: str, colour: str, marker: str) -> None:
    """Draw one level: its seeds, and their mean at the steps that all seeds have."""
    for share in found:
        ax.plot(list(share), list(share.values()), color=colour, linewidth=0.5, alpha=0.5)
    steps = sorted(set.intersection(*map(set, found)))
    mean = np.array([[share[step] for step in steps] for share in found]).mean(axis=0)
    markers: dict[str, Any] = {"marker": marker, "markersize": 3.5, "markevery": max(1, len(steps) // 5)}
    ax.plot(steps, mean, color=colour, linewidth=1.6, label=level, **markers)
