"""Gain over untrained weights against the time of a training step: which method gives more for the same cost."""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mlssl.analysis.names import in_words
from mlssl.analysis.outputs import Score, budget
from mlssl.claims.gains import Gain
from mlssl.cost_benchmark.table import read
from mlssl.figures.style import NOTE_STYLE, WIDTH, colours, finish, two_lines
from mlssl.study.expand import Study

PANELS = 4
"""Evaluators that are drawn: the first ones of the table of gains."""


def gain_cost(study: Study, found: list[Gain]) -> Figure:
    """One panel per evaluator; a method that lies left of and above another is better in both."""
    scores = list(dict.fromkeys(gain.score for gain in found))[:PANELS]
    figure, panels = plt.subplots(1, max(1, len(scores)), figsize=(WIDTH, 3.4), squeeze=False)
    path = study.cost_out / "cost.tsv"
    relative_to = study.cost_benchmark.relative_to if study.cost_benchmark else ""
    notes = f"{budget(study)}. Vertical lines: 95 % interval of the gain, none for one seed"
    if not scores or not path.exists():
        what = "No evaluator has a result yet." if path.exists() else "The costs have not been measured yet."
        panels[0, 0].text(0.5, 0.5, what, ha="center")
        panels[0, 0].set_axis_off()
        finish(figure, "Gain against cost", notes)
        return figure
    costs = read(path)
    for ax, score in zip(panels.flat, scores, strict=True):
        panel(ax, score, [gain for gain in found if gain.score == score], costs)
    figure.supxlabel("")
    title = f"Gain over untrained weights, against the time of a training step ({in_words(relative_to)}: 1)"
    finish(figure, title, f"{notes}. Time of a step: median of rounds in which the methods take turns")
    return figure


def panel(ax: Axes, score: Score, gains: list[Gain], costs: pd.DataFrame) -> None:
    """One evaluator; methods without a result or a cost are left out."""
    drawn = [gain for gain in gains if gain.found and gain.method in costs.index]
    ahead = frontier([(costs.relative[g.method], g.found.mean) for g in drawn if g.found])
    for gain, first in zip(drawn, ahead, strict=True):
        assert gain.found
        at, (low, high) = costs.relative[gain.method], gain.found.interval()
        colour = colours([g.method for g in drawn])[gain.method]
        if not math.isnan(low):
            ax.plot([at, at], [low, high], color=colour, linewidth=1.2)
        ax.plot(at, gain.found.mean, "D", color=colour, markersize=5, markerfacecolor=colour if first else "white")
        ax.annotate(
            in_words(gain.method), (at, gain.found.mean), xytext=(5, 3), textcoords="offset points", fontsize=7
        )
    if not drawn:
        ax.text(0.5, 0.5, "no result", transform=ax.transAxes, **NOTE_STYLE)
    ax.axhline(0, color="0.2", linewidth=0.8)
    ax.set_ylabel(two_lines(score).replace(f", {score.unit}", ", points", 1))
    ax.set_xlabel("time of a step, relative")
    ax.margins(x=0.35, y=0.15)


def frontier(points: list[tuple[float, float]]) -> list[bool]:
    """Whether no other point has at most the cost and at least the gain, and is better in one (Pareto)."""
    return [not any(c <= cost and g >= gain and (c, g) != (cost, gain) for c, g in points) for cost, gain in points]
