"""The paper's claims in a study: every difference with its interval, and the verdicts."""

from __future__ import annotations

import math
import textwrap

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.transforms import blended_transform_factory

from mlssl.analysis.names import label_in_words
from mlssl.analysis.outputs import budget
from mlssl.claims.evaluate import NOT_IN_STUDY, Outcome, Row, by_verdict
from mlssl.figures.style import SMALLEST, WIDTH, finish
from mlssl.study.study import Study

COLOURS = {"supported": "#009E73", "contradicted": "#D55E00", "no difference": "#0072B2"}
"""Start of a verdict -> its colour; others are grey."""
GREY = "0.35"
NAME = 30
"""Characters of a comparison's name on one line; longer ones take two."""
WORDS = 18
"""Characters of a verdict on one line."""
WIDE = 92
"""Characters of a claim's sentence on one line."""
BOX = {"facecolor": "white", "edgecolor": "none", "pad": 1}
"""Behind numbers, so that no mark shows through."""
LEAST = 2.5
"""The axis reaches at least this multiple of the largest δ."""
MOST, FAR = 80, 1.5
"""It also reaches FAR times this percentile of the differences; larger ones are given as numbers at its ends."""


def claims(study: Study, rows: list[Row]) -> Figure:
    """One group per claim: by the evaluator that decides, the differences with 95 % intervals and the margin ±δ.

    Grey dots are the same differences by the other evaluators. Claims without any result are listed in the title.
    """
    shown = [row for row in rows if row.primary and any(o.known for o in row.outcomes)]
    heads = [textwrap.wrap(title(row), WIDE) for row in shown]
    names = [["\n".join(textwrap.wrap(name(o), NAME)) for o in row.outcomes] for row in shown]
    verdicts = [label_in_words(words_of(row)).replace("n = ", "n\u00a0=\u00a0") for row in shown]
    words_beside = [textwrap.wrap(text, WORDS) for text in verdicts]
    # A row is as high as its longest name, and a claim at least as its verdict.
    tall = [[0.25 + 0.75 * (name.count("\n") + 1) for name in own] for own in names]
    rest = [max(0.6, 0.75 * len(w) - sum(rows) + 0.6) for rows, w in zip(tall, words_beside, strict=True)]
    height = sum(len(head) + sum(own) + space for head, own, space in zip(heads, tall, rest, strict=True))
    figure, ax = plt.subplots(figsize=(WIDTH, 1.3 + 0.2 * max(height, 5)))
    limit = reach([o for row in shown for o in row.outcomes])
    place, ticks, labels = 0.0, [], []
    for head, row, own, high, beside, space in zip(heads, shown, names, tall, words_beside, rest, strict=True):
        across = blended_transform_factory(figure.transFigure, ax.transData)
        band = Rectangle((0, place - 0.5), 1, len(head), transform=across, color="0.93", clip_on=False, zorder=3)
        words = ax.text(
            0.01, place + len(head) / 2 - 0.5, "\n".join(head), transform=across, fontsize=SMALLEST, va="center"
        )
        ax.add_patch(band)
        words.set_zorder(4)
        for artist in (band, words):
            artist.set_in_layout(False)
        place += len(head)
        others = [r for r in rows if r.claim == row.claim and not r.primary]
        start = place
        for i, outcome in enumerate(row.outcomes):
            at = place + (high[i] - 1) / 2
            elsewhere = [r.outcomes[i].found for r in others if i < len(r.outcomes)]
            means = [found.mean for found in elsewhere if found and abs(found.mean) < limit]
            ax.plot(means, [at] * len(means), "o", color="0.6", markersize=3, zorder=2)
            draw(ax, at, outcome, limit)
            ticks.append(at)
            labels.append(own[i])
            place += high[i]
        place += space - 0.6
        ax.text(
            1.04,
            (start + place - 1) / 2,
            "\n".join(beside),
            transform=ax.get_yaxis_transform(),
            color=colour(row.verdict),
            va="center",
            fontsize=SMALLEST,
        )
        place += 0.6
    ax.axvline(0, color="0.2", linewidth=0.8)
    ax.set_yticks(ticks, labels, fontsize=SMALLEST)
    ax.set_ylim(max(place, 1) - 0.5, -0.6)
    ax.set_xlim(-limit, limit)
    ax.tick_params(axis="y", length=0, pad=7)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("difference, percentage points")
    if not shown:
        known = any(row.verdict != NOT_IN_STUDY for row in rows)
        none = "No claim of the paper has a result yet." if known else "No claim of the paper is in this study."
        ax.text(0, 0, none, ha="center", backgroundcolor="white")
    absent = [str(r.claim.number) for r in rows if r.verdict == NOT_IN_STUDY and not r.outcomes]
    notes = (
        f"{budget(study)}. Diamonds: mean difference, paired by seed, by the evaluator that decides the claim "
        "(open: one seed); lines: 95 % interval over seeds and evaluation images; grey band: ±δ; grey dots: other "
        "evaluators. How comparisons make up a claim is in tables/claims.tsv"
    )
    missing = [f"claims {', '.join(absent)}, which are not in this study"] if absent else []
    finish(figure, summary(rows), notes, missing)
    return figure


def summary(rows: list[Row]) -> str:
    """The paper's claims by verdict: `1 contradicted (2)`, without those that are not in the study."""
    found = {word: numbers for word, numbers in by_verdict(rows).items() if word != NOT_IN_STUDY}
    parts = [f"{len(numbers)} {word} ({', '.join(map(str, numbers))})" for word, numbers in found.items()]
    return f"The paper's claims in this study: {'; '.join(parts) or 'none'}"


def title(row: Row) -> str:
    """The claim with its evaluator."""
    assert row.score is not None
    return f"{row.claim.number}. {row.claim.sentence} [{row.score.title}]"


def name(outcome: Outcome) -> str:
    """The comparison with its number of seeds."""
    label = label_in_words(outcome.label)
    return f"{label}, n\u00a0=\u00a0{outcome.found.n}" if outcome.found else label


def words_of(row: Row) -> str:
    """The verdict, with the comparison that it rests on if it is one of several. The table says what it takes."""
    word = row.verdict.partition(";")[0]
    return f"{word} ({row.because})" if row.because else word


def colour(verdict: str) -> str:
    return next((c for start, c in COLOURS.items() if verdict.startswith(start)), GREY)


def reach(outcomes: list[Outcome]) -> float:
    """Half the span of the axis."""
    means = [abs(o.found.mean) for o in outcomes if o.found]
    margins = [o.margin for o in outcomes]
    return max(LEAST * max(margins, default=1.0), FAR * float(np.percentile(means, MOST)) if means else 0.0)


def draw(ax: Axes, at: float, outcome: Outcome, limit: float) -> None:
    """One difference, its interval and its margin; where runs are counted instead, the counts."""
    if outcome.counts is not None:
        ax.text(0, at, outcome.note, fontsize=SMALLEST, ha="center", va="center", bbox=BOX)
        return
    ax.fill_betweenx([at - 0.5, at + 0.5], -outcome.margin, outcome.margin, color="0.87", linewidth=0)
    if outcome.found is None:
        ax.text(0, at, "no result yet", fontsize=SMALLEST, ha="center", va="center", color=GREY)
        return
    mean, (low, high) = outcome.found.mean, outcome.found.interval()
    if abs(mean) > limit:
        interval = "" if math.isnan(low) else f" [{low:.1f}, {high:.1f}]"
        side = "left" if mean < 0 else "right"
        arrow = f"◂ {mean:+.1f}{interval}" if mean < 0 else f"{mean:+.1f}{interval} ▸"
        ax.text(math.copysign(limit, mean), at, arrow, ha=side, va="center", fontsize=SMALLEST, bbox=BOX)
        return
    known = not math.isnan(low)
    if known:
        ax.plot([max(low, -limit), min(high, limit)], [at, at], color="black", linewidth=1.2)
        for end, marker in ((low, "<"), (high, ">")):
            if abs(end) > limit:
                ax.plot(math.copysign(limit, end), at, marker, color="black", markersize=4, clip_on=False)
    ax.plot(mean, at, "D", color="black", markersize=4, markerfacecolor="black" if known else "white")
