"""A study's figures: the main comparison, one per ablation, few labels, and training curves.

Dots are single seeds, markers their mean, lines 95 % intervals over seeds. Titles state the finding. Score axes
start near the lowest score, and a note states it.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from mlssl.analysis.aggregate import read_metrics, scores_of, summarise
from mlssl.analysis.names import in_words
from mlssl.analysis.outputs import (
    BASELINE,
    CLAIMS,
    GAIN_COST,
    GAINS,
    Score,
    budget,
    figure_names,
    linear_fractions,
    linear_scores,
    pretrained_and_untrained,
    stem,
    supervised,
)
from mlssl.claims.evaluate import Samples, evaluate, read_groups
from mlssl.claims.findings import Finding, contrast, finding
from mlssl.claims.gains import Gain, gains
from mlssl.claims.resolution import BELOW_RESOLUTION, below_resolution
from mlssl.figures.curves import training_curves
from mlssl.figures.forces import label_force
from mlssl.figures.forest import claims
from mlssl.figures.gain_cost import gain_cost
from mlssl.figures.gains import gain_title
from mlssl.figures.gains import gains as gains_figure
from mlssl.figures.labels import label_quality
from mlssl.figures.style import (
    HOW_TO_READ,
    MIN_SPAN,
    SMALLEST,
    STYLE,
    WIDTH,
    absent,
    colours,
    count,
    dots,
    ends_of,
    finish,
    folded,
    markers,
    name_lines,
    note,
    save,
    span,
    two_lines,
)
from mlssl.study.study import COMPARE, Study

ROW = 34
"""Characters of a row's label in an ablation on one line."""
MOST_LINES = 3
"""Of the title of the main comparison."""


def write_figures(study: Study) -> None:
    """Write `figures/<name>.{png,pdf}` for all of `figure_names(study)` from metrics.tsv and the logs."""
    metrics = read_metrics(study)
    groups = read_groups(study)
    samples = Samples(study, metrics, groups)
    found_gains = gains(samples)
    axis_of = {stem(axis): axis for axis in study.axes()}
    with plt.rc_context(STYLE):
        for name in figure_names(study):
            if name == "labels":
                figure = labels(study, metrics, found_gains)
            elif name == "training_curves":
                figure = training_curves(study)
            elif name == "label_force":
                figure = label_force(study, metrics)
            elif name == "label_quality":
                figure = label_quality(study, metrics)
            elif name == GAINS:
                figure = gains_figure(study, found_gains)
            elif name == GAIN_COST:
                figure = gain_cost(study, found_gains)
            elif name == CLAIMS:
                figure = claims(study, evaluate(study, metrics, groups))
            elif axis_of[name] == COMPARE:
                figure = main(study, metrics, samples)
            else:
                figure = ablation(study, metrics, finding(samples, axis_of[name]))
            save(figure, study.out / "figures" / name)


def main(study: Study, metrics: pd.DataFrame, samples: Samples) -> Figure:
    """Compare the methods: one panel per headline score, one line per method; all panels of points have one scale.

    Scores below resolution are left out. The title says how methods differ from the baseline.
    """
    levels = study.axes()[COMPARE]
    unresolved = below_resolution(study, metrics)
    scores = [score for score in scores_of(study, COMPARE) if score not in unresolved]
    found = {score: summarise(study, metrics, COMPARE, score) for score in scores}
    columns = min(3, max(1, len(scores)))
    rows = -(-max(1, len(scores)) // columns)
    height = 0.9 + rows * (0.62 + 0.2 * len(levels))
    figure, grid = plt.subplots(rows, columns, figsize=(WIDTH, height), sharey=True, squeeze=False)
    colour, marker = colours(levels), markers(levels)
    ends = {score: ends_of(found[score].values()) for score in scores if not score.is_cost}
    width = max([1.12 * (high - low) for low, high in ends.values() if high >= low] + [MIN_SPAN])
    for ax, score in zip(grid.flat, scores, strict=False):
        for place, (level, s) in enumerate(found[score].items()):
            dots(ax, place, s, colour[level], marker[level])
            note(ax, place, s)
        n = count(found[score].values())
        ax.set_xlabel(two_lines(score) + (f"\n({n})" if n else ""))
        ax.grid(axis="y", color="0.9")
        if score.is_cost:
            ax.margins(x=0.1)
            ax.set_xlim(left=0)
        else:
            ax.set_xlim(span(*ends[score], width))
            for at in (found[score][m].mean for m in bounds(samples) if found[score][m].n):
                ax.axvline(at, color="0.6", linestyle=":", linewidth=0.8, zorder=0)
    for ax in list(grid.flat)[len(scores) :]:
        ax.set_axis_off()
    grid[0, 0].set_yticks(range(len(levels)), [folded(in_words(level)) for level in levels])
    grid[0, 0].set_ylim(len(levels) - 0.5, -0.5)
    notes = [budget(study), HOW_TO_READ, "All panels in % have the same scale"]
    if words := [in_words(name) for name in bounds(samples)]:
        notes.append(f"Dotted: {' and '.join(words)}")
    if unresolved:
        names = [score.title for score in scores_of(study, COMPARE) if score in unresolved]
        notes.append(f"Left out, {BELOW_RESOLUTION}: {'; '.join(names)}")
    finish(figure, title(study, samples), ". ".join(notes), absent(found))
    return figure


def title(study: Study, samples: Samples) -> str:
    """How methods that train without labels differ from the baseline, one line each; at most MOST_LINES."""
    pretrained, _ = pretrained_and_untrained(study)
    if BASELINE not in pretrained:
        return finding(samples, COMPARE).sentence
    lines = [line for m in pretrained if m != BASELINE and (line := contrast(samples, m, BASELINE))]
    left = len(lines) - MOST_LINES
    more = [f"and {left} more method{'s' if left > 1 else ''}"] if left > 0 else []
    return "\n".join(lines[:MOST_LINES] + more) or "Comparison of methods: no result yet"


def bounds(samples: Samples) -> list[str]:
    """Floor and ceiling among the compared methods: untrained weights, and training with labels."""
    return [level.places[0][1] for level in (samples.floor, samples.ceiling) if level]


def ablation(study: Study, metrics: pd.DataFrame, found: Finding) -> Figure:
    """One varied scalar or choice: a score of each level, below it methods to compare with. The title: the finding.

    The score is that of the finding, or the first of the axis if there is none. To compare with: untrained weights,
    the baseline, and training with labels.
    """
    axis = found.axis
    score: Score = found.score or scores_of(study, axis)[0]
    by_level = summarise(study, metrics, axis, score)
    compared = summarise(study, metrics, COMPARE, score)
    beside = {m: compared[m] for m in references(study) if m in compared and compared[m].n}
    lines = max(folded(in_words(name), ROW).count("\n") + 1 for name in (*by_level, *beside))
    height = 1.3 + (0.1 + 0.14 * lines) * (len(by_level) + len(beside))
    figure, ax = plt.subplots(figsize=(WIDTH, height))
    own = colours([])["mls"]
    rows = [(folded(in_words(level), ROW), s, own, "D") for level, s in by_level.items()]
    colour, marker = colours(list(compared)), markers(list(compared))
    rows += [(folded(in_words(m), ROW), s, colour[m], marker[m]) for m, s in beside.items()]
    places = [*range(len(by_level)), *(len(by_level) + 0.4 + i for i in range(len(beside)))]
    for at, (_, s, ink, shape) in zip(places, rows, strict=True):
        dots(ax, at, s, ink, shape)
        note(ax, at, s)
        if s.n:
            ax.text(1.01, at, f"n = {s.n}", transform=ax.get_yaxis_transform(), va="center", fontsize=SMALLEST)
    for m, s in beside.items():
        ax.axvline(s.mean, color=colour[m], linestyle=":", linewidth=0.9, zorder=0, label=f"{in_words(m)}")
    if beside:
        ax.axhline(len(by_level) - 0.3, color="0.6", linewidth=0.6)
    ax.set_yticks(places, [name for name, *_ in rows])
    ax.set_ylim(places[-1] + 0.6, -0.6)
    ax.set(xlabel=score.label, ylabel=in_words(axis))
    ax.grid(axis="y", color="0.93")
    low, high = ends_of([*by_level.values(), *beside.values()])
    if score.is_cost:
        ax.set_xlim(left=0)
    else:
        ax.set_xlim(span(low, high, max(MIN_SPAN, 1.1 * (high - low))))
    notes = [budget(study), HOW_TO_READ]
    if beside:
        notes.append(f"Dotted: {', '.join(in_words(m) for m in beside)}")
    finish(figure, found.sentence, ". ".join(notes), absent({score: by_level}, f"{in_words(axis)} = "))
    return figure


def references(study: Study) -> list[str]:
    """The compared methods that stand below an ablation: untrained weights, the baseline, training with labels."""
    _, floor = pretrained_and_untrained(study)
    return list(dict.fromkeys(name for name in (floor, BASELINE, *supervised(study)[:1]) if name))


def labels(study: Study, metrics: pd.DataFrame, found: list[Gain]) -> Figure:
    """Linear mAP over the number of labelled images, per method; shares that are the same images are one point."""
    images = label_counts(study, metrics)
    known = all(score in images for score in linear_scores(study))
    points = {images[s] if known else 100 * f: s for s, f in reversed(dict_of_shares(study))}
    results = {x: summarise(study, metrics, COMPARE, score) for x, score in points.items()}
    figure, ax = plt.subplots(figsize=(WIDTH, 3.4))
    levels = study.axes()[COMPARE]
    colour, marker, ends = colours(levels), markers(levels), {}
    for i, level in enumerate(levels):
        # Methods at the same number of labels are drawn side by side.
        aside = 1.06 ** (i - (len(levels) - 1) / 2)
        drawn = [(x * aside, by_level[level]) for x, by_level in results.items() if by_level[level].n]
        if len(drawn) > 1:
            ax.plot(
                [x for x, _ in drawn], [s.mean for _, s in drawn], color=colour[level], linewidth=0.7, alpha=0.6
            )
        for x, s in drawn:
            dots(ax, x, s, colour[level], marker[level], upright=True)
        if drawn:
            ends[folded(in_words(level))] = (drawn[-1][0], drawn[-1][1].mean, colour[level])
    ax.set_xscale("log")
    ax.set_xticks(list(points), [f"{x:,.0f}" if known else f"{x:g}" for x in points])
    ax.xaxis.set_minor_locator(NullLocator())
    unit = "number of labelled images" if known else "share of labelled training images, %"
    n = count(s for by_level in results.values() for s in by_level.values())
    ax.set(xlabel=f"{unit} (log scale)", ylabel="linear mAP, %")
    low, high = ends_of(s for by_level in results.values() for s in by_level.values())
    ax.set_ylim(span(low, high, max(MIN_SPAN, 1.08 * (high - low))))
    missing = absent(dict(zip(points.values(), results.values(), strict=True)))
    notes = f"{budget(study)}. {HOW_TO_READ}{same_images(study, metrics)}" + (f". {n} seeds" if n else "")
    fewest = next(iter(points.items()))
    finish(figure, few_labels(study, found, *fewest, known=known), notes, missing)
    name_lines(figure, {ax: ends})
    return figure


def dict_of_shares(study: Study) -> list[tuple[Score, float]]:
    """Each linear score with its share of the labels, largest first."""
    return list(zip(linear_scores(study), linear_fractions(study), strict=True))


def few_labels(study: Study, found: list[Gain], x: float, score: Score, *, known: bool) -> str:
    """The gains over untrained weights with the fewest labels."""
    where = f"{x:,.0f} labelled images" if known else f"{x:g} % of labels"
    text = gain_title(study, [gain for gain in found if gain.score == score])
    return f"With {where}, {text[0].lower()}{text[1:]}" if text else "Linear probe with few labels"


def label_counts(study: Study, metrics: pd.DataFrame) -> dict[Score, float]:
    """The number of labelled images of each linear score that has one in metrics.tsv."""
    rows = metrics[metrics["metric"] == "train_images"].groupby("protocol")["value"].min()
    return {score: float(rows[score.protocol]) for score in linear_scores(study) if score.protocol in rows}


def same_images(study: Study, metrics: pd.DataFrame) -> str:
    """Which shares of the labels are the same number of images, as the probe uses at least ten; else empty."""
    images = label_counts(study, metrics)
    fewest = min(images.values(), default=None)
    same = [f"{100 * share:g}" for score, share in dict_of_shares(study) if images.get(score, -1) == fewest]
    return f". The same {fewest:.0f} images: {', '.join(same)} %" if len(same) > 1 else ""
