"""Gain over untrained weights against the time of a training step: which method gives more for the same cost."""

from __future__ import annotations

import math
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mlssl.analysis.names import in_words
from mlssl.analysis.outputs import Score, budget, supervised
from mlssl.claims.gains import Gain
from mlssl.cost_benchmark.table import read, with_first_stage
from mlssl.figures.style import WIDTH, colours, finish, markers, two_lines
from mlssl.study.study import Study

LEGEND_COLUMNS = 3
PANELS = 4
"""Evaluators that are drawn: the first ones of the table of gains."""


def gain_cost(study: Study, found: list[Gain]) -> Figure:
    """One panel per evaluator; a method that is left of and above another is better in both.

    Methods without a result or a cost, and training with labels, are left out.
    """
    notes = f"{budget(study)}. Vertical lines: 95 % interval of the gain, none for one seed"
    path = study.cost_out / "cost.tsv"
    costs = with_first_stage(read(path)) if path.exists() else pd.Series(dtype=float)
    ceilings = supervised(study)
    drawn = [g for g in found if g.found and g.method in costs.index and g.method not in ceilings]
    if not drawn or study.cost_benchmark is None:
        figure, ax = plt.subplots(figsize=(WIDTH, 1.4))
        what = "No evaluator has a result yet." if path.exists() else "The costs have not been measured yet."
        ax.text(0.5, 0.5, what, ha="center")
        ax.set_axis_off()
        finish(figure, "Gain against cost", notes)
        return figure
    scores = list(dict.fromkeys(gain.score for gain in drawn))[:PANELS]
    methods = list(dict.fromkeys(gain.method for gain in drawn))
    columns = min(2, len(scores))
    rows = -(-len(scores) // columns)
    heights = (2.3 * rows, 0.25 * -(-len(methods) // LEGEND_COLUMNS))
    figure = plt.figure(figsize=(WIDTH, 1.2 + sum(heights)))
    parts = figure.add_gridspec(2, 1, height_ratios=heights)
    grid = parts[0].subgridspec(rows, columns).subplots(sharex=True, squeeze=False)
    for ax, score in zip(grid.flat, scores, strict=False):
        panel(ax, score, [gain for gain in drawn if gain.score == score], costs, methods)
    for ax in list(grid.flat)[len(scores) :]:
        ax.set_axis_off()
    relative_to = in_words(study.cost_benchmark.relative_to)
    for column in range(columns):
        below = [ax for ax in grid[:, column] if ax.axison][-1]
        below.set_xlabel(f"time of a step, {relative_to} = 1")
        below.tick_params(labelbottom=True)
    look = zip(methods, colours(methods).values(), markers(methods).values(), strict=True)
    keys = [Line2D([], [], color=c, marker=m, linestyle="", label=in_words(name)) for name, c, m in look]
    beside = figure.add_subplot(parts[1])
    beside.set_axis_off()
    beside.legend(handles=keys, loc="center", ncols=LEGEND_COLUMNS)
    notes += ". Filled: no other method is at least as cheap and as good. Time: median, all methods in turn"
    if staged := [method for method in methods if study.runs[study.compared[method]].first_stage]:
        notes += f"; of {', '.join(map(in_words, staged))} with the training before it"
    finish(figure, "Gain over untrained weights against the time of a training step", notes)
    return figure


def panel(ax: Axes, score: Score, gains: list[Gain], costs: pd.Series, methods: list[str]) -> None:
    """One evaluator."""
    colour, marker = colours(methods), markers(methods)
    ahead = frontier([(costs[g.method], g.found.mean) for g in gains if g.found])
    for gain, first in zip(gains, ahead, strict=True):
        assert gain.found
        at, (low, high), own = costs[gain.method], gain.found.interval(), colour[gain.method]
        if not math.isnan(low):
            ax.plot([at, at], [low, high], color=own, linewidth=1.2)
        style: dict[str, Any] = {"color": own, "markersize": 6, "markerfacecolor": own if first else "white"}
        ax.plot(at, gain.found.mean, marker[gain.method], **style)
    ax.axhline(0, color="0.2", linewidth=0.8)
    ax.set_ylabel(two_lines(score).replace(f", {score.unit}", ", points", 1))
    ax.margins(x=0.15, y=0.15)


def frontier(points: list[tuple[float, float]]) -> list[bool]:
    """Whether no other point has at most the cost and at least the gain, and is better in one (Pareto)."""
    return [not any(c <= cost and g >= gain and (c, g) != (cost, gain) for c, g in points) for cost, gain in points]
