"""What each method gains over untrained weights: one panel per evaluator, from floor to ceiling."""

from __future__ import annotations

import math
from collections import Counter

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mlssl.analysis.names import in_words
from mlssl.analysis.outputs import Score, budget, pretrained_and_untrained, supervised
from mlssl.claims.gains import Gain, deciding
from mlssl.figures.style import NOTE_STYLE, WIDTH, colours, finish, folded, markers, two_lines
from mlssl.statistics.verdict import short
from mlssl.study.study import Study

MOST = 3
"""Methods that a title names."""
CEILING = "0.45"
"""Colour of supervised training."""


def gains(study: Study, found: list[Gain]) -> Figure:
    """Differences to untrained weights, paired by seed, with 95 % intervals, from 0 to supervised training."""
    ceilings = supervised(study)
    methods = [m for m in dict.fromkeys(gain.method for gain in found) if m not in ceilings]
    scores = list(dict.fromkeys(gain.score for gain in found))
    columns = min(3, max(1, len(scores)))
    rows = -(-max(1, len(scores)) // columns)
    height = 1.1 + rows * (0.62 + 0.22 * max(1, len(methods)))
    size = (WIDTH, height)
    figure, grid = plt.subplots(rows, columns, figsize=size, sharex=True, sharey=True, squeeze=False)
    by_place = {(gain.score, gain.method): gain for gain in found}
    drawn = False
    for ax, score in zip(grid.flat, scores, strict=False):
        panel(ax, score, {m: by_place[score, m] for m in methods if (score, m) in by_place}, methods)
        for method in ceilings:
            gain = by_place.get((score, method))
            if gain and gain.found:
                ax.axvline(gain.found.mean, color=CEILING, linestyle=(0, (4, 2)), linewidth=1)
                drawn = True
    for ax in list(grid.flat)[len(scores) :]:
        ax.set_axis_off()
    grid[0, 0].set_yticks(range(len(methods)), [folded(in_words(method)) for method in methods])
    grid[0, 0].set_ylim(max(len(methods), 1) - 0.5, -0.5)
    if not scores:
        grid[0, 0].text(0.5, 0, "No evaluator has a result yet.", ha="center")
    notes = (
        f"{budget(study)}. Percentage points on one axis, paired by seed; lines: 95 % interval over seeds and "
        "evaluation images (none for one seed, then open); 0: untrained weights"
    )
    notes += "; dashed: training with all labels" if drawn else ""
    finish(figure, gain_title(study, found) or "Gain over untrained weights: no result yet", notes)
    return figure


def gain_title(study: Study, found: list[Gain]) -> str:
    """The gains of methods that train without labels in a sentence, by the evaluator that decides; empty without.

    More than MOST methods are counted by verdict.
    """
    pretrained, _ = pretrained_and_untrained(study)
    own = [gain for gain in found if gain.method in pretrained and gain.found]
    if not own:
        return ""
    score = deciding(own)
    own = [gain for gain in own if gain.score == score]
    head = f"Gain over untrained weights, points of {score.title}"
    if len(own) > MOST:
        count = Counter(short(gain.word) for gain in own)
        return f"{head}: " + ", ".join(f"{n} of {len(own)} methods {word}" for word, n in count.items())
    return f"{head}: " + "; ".join(map(in_a_phrase, own))


def in_a_phrase(gain: Gain) -> str:
    """`MLS +2.6, 95 % CI [0.3, 4.8], n = 3, supported`."""
    assert gain.found is not None
    low, high = gain.found.interval()
    interval = "" if math.isnan(low) else f", 95 % CI [{low:.1f}, {high:.1f}]"
    return f"{in_words(gain.method)} {gain.found.mean:+.1f}{interval}, n = {gain.found.n}, {gain.word}"


def panel(ax: Axes, score: Score, by_method: dict[str, Gain], methods: list[str]) -> None:
    """One evaluator."""
    marker, counts = markers(methods), sorted({g.found.n for g in by_method.values() if g.found})
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
        ax.plot(
            gain.found.mean,
            at,
            marker[method],
            color=colour,
            markersize=5,
            markerfacecolor=colour if known else "white",
        )
    ax.axvline(0, color="0.2", linewidth=0.8)
    seeds = f"\n(n = {' to '.join(map(str, counts[:1] + counts[1:][-1:]))})" if counts else ""
    ax.set_xlabel(two_lines(score).replace(f", {score.unit}", ", points", 1) + seeds)
    ax.tick_params(labelbottom=True)
    ax.grid(axis="y", color="0.9")
    ax.margins(x=0.12)
