"""A study's figures: the main comparison, one per ablation, few labels, and training curves.

Dots are single seeds, diamonds their mean, bars ± one sample standard deviation over seeds. No figure
has bars from zero: score axes start near the lowest score, and a note states it.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from mlssl.analysis.aggregate import Summary, read_metrics, scores_of, summarise
from mlssl.analysis.outputs import (
    CLAIMS,
    GAIN_COST,
    GAINS,
    Score,
    budget,
    figure_names,
    linear_fractions,
    linear_scores,
    stem,
)
from mlssl.claims.evaluate import Samples, evaluate, read_groups
from mlssl.claims.findings import Finding, finding
from mlssl.claims.gains import gains
from mlssl.claims.resolution import BELOW_RESOLUTION, below_resolution
from mlssl.figures.curves import training_curves
from mlssl.figures.forces import label_force
from mlssl.figures.forest import claims
from mlssl.figures.gain_cost import gain_cost
from mlssl.figures.gains import gains as gains_figure
from mlssl.figures.labels import label_quality
from mlssl.figures.style import (
    HOW_TO_READ,
    STYLE,
    WIDTH,
    absent,
    colours,
    dots,
    finish,
    folded,
    note,
    range_near,
    save,
    two_lines,
    untrained,
    widen,
)
from mlssl.study.expand import COMPARE, Study

BASELINE = "moco_v2"
"""The method drawn as the reference in ablations; the untrained backbone, if the study does not compare it."""
LEGEND_WIDTH = 65
"""Characters of two legend entries that fit side by side above an ablation."""


def write_figures(study: Study) -> None:
    """Write `figures/<name>.{png,pdf}` for all of `figure_names(study)` from metrics.tsv and the logs."""
    metrics = read_metrics(study)
    groups = read_groups(study)
    samples = Samples(study, metrics, groups)
    axis_of = {stem(axis): axis for axis in study.axes()}
    with plt.rc_context(STYLE):
        for name in figure_names(study):
            if name == "labels":
                figure = labels(study, metrics)
            elif name == "training_curves":
                figure = training_curves(study)
            elif name == "label_force":
                figure = label_force(study)
            elif name == "label_quality":
                figure = label_quality(study, metrics)
            elif name == GAINS:
                figure = gains_figure(study, gains(samples))
            elif name == GAIN_COST:
                figure = gain_cost(study, gains(samples))
            elif name == CLAIMS:
                figure = claims(study, evaluate(study, metrics, groups))
            elif axis_of[name] == COMPARE:
                figure = main(study, metrics)
            else:
                figure = ablation(study, metrics, finding(samples, axis_of[name]))
            save(figure, study.out / "figures" / name)


def main(study: Study, metrics: pd.DataFrame) -> Figure:
    """Compare the methods: one panel per headline score, one line per method."""
    levels = study.axes()[COMPARE]
    scores = scores_of(study, COMPARE)
    columns = min(4, len(scores))
    rows = -(-len(scores) // columns)
    height = 0.9 + rows * (0.62 + 0.24 * len(levels))
    figure, grid = plt.subplots(rows, columns, figsize=(WIDTH, height), sharey=True, squeeze=False)
    colour, summaries, unresolved = colours(levels), {}, below_resolution(study, metrics)
    for ax, score in zip(grid.flat, scores, strict=False):
        by_level = summaries[score] = summarise(study, metrics, COMPARE, score)
        for place, (level, s) in enumerate(by_level.items()):
            if s.n:
                dots(ax, place, s, colour[level], upright=False)
            else:
                note(ax, place, s, upright=False)
        ax.set_xlabel(two_lines(score) + (f"\n({BELOW_RESOLUTION})" if score in unresolved else ""))
        ax.grid(axis="y", color="0.9")
        ax.margins(x=0.15)
        if score.is_cost:
            ax.set_xlim(left=0)
        else:
            widen(ax, upright=False)
    for ax in list(grid.flat)[len(scores) :]:
        ax.set_axis_off()
    grid[0, 0].set_yticks(range(len(levels)), [folded(level) for level in levels])
    grid[0, 0].set_ylim(len(levels) - 0.5, -0.5)
    finish(figure, "Comparison of methods", f"{budget(study)}. {HOW_TO_READ}", absent(summaries))
    return figure


def ablation(study: Study, metrics: pd.DataFrame, found: Finding) -> Figure:
    """One varied scalar or choice: a score over its levels, and in the title what it shows.

    The score is that of the finding, or the first of the axis if there is none.
    """
    axis = found.axis
    score: Score = found.score or scores_of(study, axis)[0]
    by_level = summarise(study, metrics, axis, score)
    numbers = numeric(list(by_level))
    upright = numbers is not None
    size = (WIDTH * 0.8, 3.2) if upright else (WIDTH, 1.4 + 0.34 * len(by_level))
    figure, ax = plt.subplots(figsize=size)
    colour = colours([])["mls"]
    places = numbers or list(range(len(by_level)))
    if upright:
        means = [(at, s.mean) for at, s in zip(places, by_level.values(), strict=True) if s.n]
        ax.plot(*zip(*means, strict=True) if means else ([], []), color=colour, linewidth=1)
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_locator(FixedLocator(places))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xticks(places, list(by_level))
        # Levels without a value are on the axis too.
        ax.set_xlim(min(places) / 2**0.4, max(places) * 2**0.4)
        ax.set(xlabel=f"{axis} (log scale)", ylabel=two_lines(score))
    else:
        ax.set_yticks(places, [folded(level) for level in by_level])
        ax.set_ylim(len(places) - 0.5, -0.5)
        ax.set(xlabel=score.label, ylabel=axis)
        ax.grid(axis="y", color="0.9")
    for at, s in zip(places, by_level.values(), strict=True):
        dots(ax, at, s, colour, upright=upright)
        note(ax, at, s, upright=upright)
    words = references(study, metrics, score, ax, by_level, upright=upright)
    if not score.is_cost:
        widen(ax, upright=upright)
    notes = ". ".join([budget(study), *words, HOW_TO_READ])
    finish(figure, found.sentence, notes, absent({score: by_level}, f"{axis} = "))
    return figure


def numeric(levels: list[str]) -> list[float] | None:
    """The levels as positive numbers for a log axis, or None if they are names."""
    try:
        values = [float(level) for level in levels]
    except ValueError:
        return None
    return values if all(v > 0 for v in values) and len(values) > 1 else None


def references(
    study: Study, metrics: pd.DataFrame, score: Score, ax: Axes, by_level: dict[str, Summary], *, upright: bool
) -> list[str]:
    """Draw the baseline (line, ± std band) and the untrained backbone (dashed), and return words for the notes.

    The baseline is always drawn; a distant untrained backbone beside it is given as text.
    """
    low, high = range_near([v for s in by_level.values() for v in s.values.values()])
    words = []
    compared = summarise(study, metrics, COMPARE, score)
    has_baseline = BASELINE in compared and compared[BASELINE].n > 0
    for method, s in compared.items():
        bare = method in untrained(study)
        if not s.n or not (bare or method == BASELINE):
            continue
        name = f"{method}, {'untrained' if bare else 'baseline'}"
        value = s.text(usual_n=len(study.seeds))
        if bare and has_baseline and not low <= s.mean <= high:
            words.append(f"Outside the plot: {name}, {value} {score.unit}")
            continue
        line, span = (ax.axhline, ax.axhspan) if upright else (ax.axvline, ax.axvspan)
        line(s.mean, color="0.3", linestyle="--" if bare else "-", linewidth=1, label=f"{name}: {value}")
        if s.n > 1:
            span(s.mean - s.std, s.mean + s.std, color="0.3", alpha=0.12, linewidth=0)
    if names := ax.get_legend_handles_labels()[1]:
        columns = 2 if sum(map(len, names)) <= LEGEND_WIDTH else 1
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns)
    return words


def labels(study: Study, metrics: pd.DataFrame) -> Figure:
    """Linear mAP over the share of the labels, per method of the comparison."""
    figure, ax = plt.subplots(figsize=(WIDTH * 0.8, 3.4))
    scores = linear_scores(study)
    shares = linear_fractions(study)
    results = [summarise(study, metrics, COMPARE, score) for score in scores]
    levels = study.axes()[COMPARE]
    for i, (level, colour) in enumerate(colours(levels).items()):
        # Methods at the same share of labels are drawn side by side.
        aside = 1.1 ** (i - (len(levels) - 1) / 2)
        points = [(100 * f * aside, r[level]) for f, r in zip(shares, results, strict=True)]
        drawn = [(x, s.mean) for x, s in points if s.n]
        ax.plot(*zip(*drawn, strict=True) if drawn else ([], []), color=colour, linewidth=1, label=folded(level))
        for x, s in points:
            dots(ax, x, s, colour)
    ax.set_xscale("log")
    ax.set_xticks([100 * f for f in shares], [f"{100 * f:g}" for f in shares])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set(xlabel="share of labelled training images, % (log scale)", ylabel="linear mAP, %")
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    missing = absent(dict(zip(scores, results, strict=True)))
    notes = f"{budget(study)}. {HOW_TO_READ}{same_images(study, metrics)}"
    finish(figure, "Linear probe with few labels", notes, missing)
    return figure


def same_images(study: Study, metrics: pd.DataFrame) -> str:
    """Which shares of the labels are the same number of images, as the probe uses at least ten; else empty."""
    rows = metrics[metrics["metric"] == "train_images"].groupby("protocol")["value"].min()
    images = {score.protocol: rows.get(score.protocol) for score in linear_scores(study)}
    shares = dict(zip(images, linear_fractions(study), strict=True))
    fewest = min((n for n in images.values() if n is not None), default=None)
    same = [f"{100 * shares[protocol]:g}" for protocol, n in images.items() if n is not None and n == fewest]
    return f". The same {fewest:.0f} images: {', '.join(same)} %" if len(same) > 1 else ""
