"""What each method gains over untrained weights: one panel per evaluator, from floor to ceiling."""

from __future__ import annotations

import math

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mlssl.analysis.outputs import Score, budget, supervised
from mlssl.claims.gains import Gain
from mlssl.figures.style import NOTE_STYLE, WIDTH, colours, finish, two_lines
from mlssl.study.expand import Study

CEILING = "0.45"
"""Colour of supervised training."""


def gains(study: Study, found: list[Gain]) -> Figure:
    """Differences to untrained weights, paired by seed, with 95 % intervals, from 0 to supervised training."""
    ceilings = supervised(study)
    methods = [m for m in dict.fromkeys(gain.method for gain in found) if m not in ceilings]
    scores = list(dict.fromkeys(gain.score for gain in found))
    columns = min(4, max(1, len(scores)))
    rows = -(-max(1, len(scores)) // columns)
    height = 0.9 + rows * (0.62 + 0.24 * max(1, len(methods)))
    figure, grid = plt.subplots(rows, columns, figsize=(WIDTH, height), sharey=True, squeeze=False)
    by_place = {(gain.score, gain.method): gain for gain in found}
    for ax, score in zip(grid.flat, scores, strict=False):
        panel(ax, score, {m: by_place[score, m] for m in methods if (score, m) in by_place}, methods)
        for method in ceilings:
            gain = by_place.get((score, method))
            if gain and gain.found:
                ax.axvline(gain.found.mean, color=CEILING, linestyle=(0, (4, 2)), linewidth=1)
    for ax in list(grid.flat)[len(scores) :]:
        ax.set_axis_off()
    grid[0, 0].set_yticks(range(len(methods)), methods)
    grid[0, 0].set_ylim(max(len(methods), 1) - 0.5, -0.5)
    if not scores:
        grid[0, 0].text(0.5, 0, "No evaluator has a result yet.", ha="center")
    notes = (
        f"{budget(study)}. Percentage points, paired by seed; lines: 95 % interval over seeds and evaluation "
        "images (none for one seed, then open); 0: untrained weights; dashed: training with all labels"
    )
    finish(figure, "Gain over untrained weights", notes)
    return figure


def panel(ax: Axes, score: Score, by_method: dict[str, Gain], methods: list[str]) -> None:
    """One evaluator."""
    for method, colour in colours(methods).items():
        gain, at = by_method.get(method), methods.index(method)
        if gain is None or gain.found is None:
            word = "no result" if gain else "not evaluated"
            ax.text(0.5, at, word, transform=ax.get_yaxis_transform(), **NOTE_STYLE)
            continue
        low, high = gain.found.interval()
        known = not math.isnan(low)
        if known:
            ax.plot([low, high], [at, at], color=colour, linewidth=1.4)
        ax.plot(gain.found.mean, at, "D", color=colour, markersize=5, markerfacecolor=colour if known else "white")
    ax.axvline(0, color="0.2", linewidth=0.8)
    ax.set_xlabel(two_lines(score).replace(f", {score.unit}", ", points", 1))
    ax.grid(axis="y", color="0.9")
    ax.margins(x=0.12)
