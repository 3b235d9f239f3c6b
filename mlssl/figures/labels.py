"""Quality of the pseudo-labels at the start and end of training: one panel per axis, one row per level."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mlssl.analysis.aggregate import Summary, summarise
from mlssl.analysis.names import in_words
from mlssl.analysis.outputs import LABEL_RECORD, LABELS, budget, label_axes
from mlssl.figures.style import FEWEST, OKABE_ITO, TRUNCATED, WIDTH, absent, count, dots, finish, folded
from mlssl.statistics.paired import Difference, difference
from mlssl.statistics.verdict import ONE_SEED
from mlssl.study.study import Study

COLOUR = OKABE_ITO[0]
MIN_LABELS = 10
"""A share of fewer labels than this is not drawn: a strict threshold can leave one or two in a batch."""


def label_quality(study: Study, metrics: pd.DataFrame) -> Figure:
    """Share of pseudo-labels that have a category in common with their query, at the start and end of training.

    One panel per axis and one row per level: the mean over the last quarter of training with its seeds, and the
    share of entries drawn at random, both as in the tables; and the first quarter, from the records.
    """
    records, every = read_records(metrics), label_axes(study)
    scores = {axis: [summarise(study, metrics, axis, score) for score in LABELS[:2]] for axis in every}
    axes = with_two_levels(every, {axis: last for axis, (last, _) in scores.items()})
    columns = min(2, len(axes))
    rows = -(-len(axes) // columns)
    most = max(map(len, axes.values()))
    size = (WIDTH, 1.3 + rows * (0.5 + 0.25 * most))
    figure, grid = plt.subplots(rows, columns, figsize=size, sharex=True, squeeze=False)
    missing = [
        text
        for axis, (last, _) in scores.items()
        for text in absent({LABELS[0]: {level: last[level] for level in every[axis]}}, f"{in_words(axis)} = ")
    ]
    seeds, first = [], False
    for ax, (axis, levels) in zip(grid.flat, axes.items(), strict=False):
        last, chance = scores[axis]
        for at, (level, runs) in enumerate(levels.items()):
            if last[level].n:
                seeds.append(last[level])
                started = [quarter(records[run]) for run in runs if run in records]
                first = draw(ax, at, started, last[level], chance[level]) or first
        ax.set_yticks(range(len(levels)), [folded(in_words(level)) for level in levels])
        ax.set_ylim(most - 0.5, -0.6)
        ax.set_title(folded(in_words(axis), 24), loc="left")
        ax.grid(axis="y", color="0.93")
        ax.tick_params(axis="y", length=0)
    for ax in list(grid.flat)[len(axes) :]:
        ax.set_axis_off()
    for column in range(columns):
        below = [ax for ax in grid[:, column] if ax.axison][-1]
        below.set_xlabel("share a category\nwith their query, %")
        below.tick_params(labelbottom=True)
    notes = [f"{budget(study)}. Diamonds: mean over the last quarter of training ({count(seeds)}); dots: its seeds"]
    notes.append(f"lines: 95 % interval (t) over seeds, from n = {FEWEST} on")
    notes.append("ticks: entries drawn at random, in the same quarter")
    if first:
        notes.append(f"open: the first quarter, without steps of fewer than {MIN_LABELS} labels")
    text = "; ".join(notes) + (f". {TRUNCATED}" if grid[0, 0].get_xlim()[0] > 0 else "")
    finish(figure, title(study, metrics), text, missing)
    return figure


def with_two_levels(
    axes: dict[str, dict[str, list[str]]], last: dict[str, dict[str, Summary]]
) -> dict[str, dict[str, list[str]]]:
    """The axes with two levels that have a result, as one alone compares nothing; all of them if there is none."""
    found = {axis: levels for axis, levels in axes.items() if sum(last[axis][level].n > 0 for level in levels) > 1}
    return found or axes


def title(study: Study, metrics: pd.DataFrame) -> str:
    """How much more often pseudo-labels share a category with their query than random entries do.

    Of all levels, those with the smallest and the largest difference, each with its interval over seeds.
    """
    shared, chance, *_ = LABELS
    found = {}
    for axis, levels in label_axes(study).items():
        good, random = (summarise(study, metrics, axis, score) for score in (shared, chance))
        for level in levels:
            seeds = sorted(good[level].values.keys() & random[level].values.keys())
            if seeds:
                less = difference([good[level].values[seed] - random[level].values[seed] for seed in seeds])
                found[f"{in_words(axis)} {in_words(level)}"] = less
    if not found:
        return "Pseudo-labels at the start and the end of training"
    ranked = sorted(found, key=lambda name: found[name].mean)
    ends = dict.fromkeys((ranked[0], ranked[-1]))
    parts = [f"{name} {found[name].mean:+.1f} points{ends_text(found[name])}" for name in ends]
    return f"Pseudo-labels that share a category, less random entries: from {' to '.join(parts)}"


def ends_text(found: Difference) -> str:
    """`, 95 % CI [1.0, 2.0], n = 3`; `, one seed`."""
    if found.n < FEWEST:
        return f", n = {found.n}" if found.n > 1 else f", {ONE_SEED}"
    low, high = found.interval()
    return f", 95 % CI [{low:.1f}, {high:.1f}], n = {found.n}"


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


def draw(ax: Axes, at: float, first: Sequence[float], last: Summary, chance: Summary) -> bool:
    """One level: the first quarter of training, the last, and random entries; whether the first is drawn."""
    start = mean_of(np.array(first))
    if not math.isnan(start):
        ax.plot([start, last.mean], [at, at], color=COLOUR, linewidth=0.6, linestyle=":")
        ax.plot(start, at, "o", color=COLOUR, markersize=4.5, markerfacecolor="white")
    dots(ax, at, last, COLOUR, "D")
    if chance.n:
        ax.plot(chance.mean, at, "|", color="0.3", markersize=9, markeredgewidth=1.5)
    return not math.isnan(start)


def quarter(seed: pd.DataFrame) -> float:
    """The mean share over the records of the first quarter of training with MIN_LABELS labels or more.

    NaN without such a record.
    """
    ordered = seed.sort_index()
    early = ordered.iloc[: math.ceil(len(ordered) / 4)]
    return mean_of(early["shared"][early["labels"] >= MIN_LABELS].to_numpy(dtype=float))


def mean_of(values: np.ndarray) -> float:
    """The mean of those that are defined; NaN if none is."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else math.nan
