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

from mlssl.analysis.outputs import budget
from mlssl.claims.evaluate import NOT_IN_STUDY, Outcome, Row
from mlssl.figures.style import WIDTH, finish
from mlssl.study.expand import Study

COLOURS = {"supported": "#009E73", "contradicted": "#D55E00", "no difference": "#0072B2"}
"""Start of a verdict -> its colour; others are grey."""
GREY = "0.35"
WIDE = 135
"""Characters of a claim's sentence on one line."""
LEAST = 2.5
"""The axis reaches at least this multiple of the largest δ."""
MOST, FAR = 80, 1.5
"""It also reaches FAR times this percentile of the differences; larger ones are given as numbers at its ends."""


def claims(study: Study, rows: list[Row]) -> Figure:
    """One group per claim: by the evaluator that decides, the differences with 95 % intervals and the margin ±δ.

    Grey dots are the same differences by the other evaluators. Claims that are not in the study are listed below.
    """
    shown = [row for row in rows if row.primary and row.outcomes]
    heads = [textwrap.wrap(title(row), WIDE) for row in shown]
    height = sum(len(head) + len(row.outcomes) + 0.6 for head, row in zip(heads, shown, strict=True))
    figure, ax = plt.subplots(figsize=(WIDTH, 1.3 + 0.19 * max(height, 5)))
    limit = reach([o for row in shown for o in row.outcomes])
    place, ticks, labels = 0.0, [], []
    for head, row in zip(heads, shown, strict=True):
        across = blended_transform_factory(figure.transFigure, ax.transData)
        band = Rectangle((0, place - 0.5), 1, len(head), transform=across, color="0.93", clip_on=False, zorder=3)
        words = ax.text(
            0.01, place + len(head) / 2 - 0.5, "\n".join(head), transform=across, fontsize=7, va="center"
        )
        ax.add_patch(band)
        words.set_zorder(4)
        for artist in (band, words):
            artist.set_in_layout(False)
        place += len(head)
        others = [r for r in rows if r.claim == row.claim and not r.primary]
        for i, outcome in enumerate(row.outcomes):
            beside = [r.outcomes[i].found for r in others if i < len(r.outcomes)]
            means = [found.mean for found in beside if found and abs(found.mean) < limit]
            ax.plot(means, [place + i] * len(means), "o", color="0.6", markersize=3, zorder=2)
            draw(ax, place + i, outcome, limit)
            ticks.append(place + i)
            labels.append("\n".join(textwrap.wrap(outcome.label, 44)))
        middle = place + (len(row.outcomes) - 1) / 2
        ax.text(
            1.02,
            middle,
            "\n".join(textwrap.wrap(words_of(row), 26)),
            transform=ax.get_yaxis_transform(),
            color=colour(row.verdict),
            va="center",
            fontsize=7,
        )
        place += len(row.outcomes) + 0.6
    ax.axvline(0, color="0.2", linewidth=0.8)
    ax.set_yticks(ticks, labels, fontsize=6.5)
    ax.set_ylim(max(place, 1) - 0.5, -0.6)
    ax.set_xlim(-limit, limit)
    ax.tick_params(axis="y", length=0)
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
    missing = f"claims {', '.join(absent)}, which are not in this study" if absent else ""
    finish(figure, "What the study says about the paper's claims", notes, missing)
    return figure


def title(row: Row) -> str:
    """The claim with its evaluator."""
    assert row.score is not None
    return f"{row.claim.number}. {row.claim.sentence} [{row.score.title}]"


def words_of(row: Row) -> str:
    """The verdict, with the comparison that it rests on if it is one of several."""
    return f"{row.verdict} ({row.because})" if row.because else row.verdict


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
        box = {"facecolor": "white", "edgecolor": "none", "pad": 1}
        ax.text(0, at, outcome.note, fontsize=6.5, ha="center", va="center", bbox=box)
        return
    ax.fill_betweenx([at - 0.5, at + 0.5], -outcome.margin, outcome.margin, color="0.87", linewidth=0)
    if outcome.found is None:
        ax.text(0, at, "no result yet", fontsize=6.5, ha="center", va="center", color=GREY)
        return
    mean, (low, high) = outcome.found.mean, outcome.found.interval()
    if abs(mean) > limit:
        interval = "" if math.isnan(low) else f" [{low:.1f}, {high:.1f}]"
        side = "left" if mean < 0 else "right"
        arrow = f"◂ {mean:+.1f}{interval}" if mean < 0 else f"{mean:+.1f}{interval} ▸"
        ax.text(math.copysign(limit, mean), at, arrow, ha=side, va="center", fontsize=6.5)
        return
    known = not math.isnan(low)
    if known:
        ax.plot([max(low, -limit), min(high, limit)], [at, at], color="black", linewidth=1.2)
        for end, marker in ((low, "<"), (high, ">")):
            if abs(end) > limit:
                ax.plot(math.copysign(limit, end), at, marker, color="black", markersize=4, clip_on=False)
    ax.plot(mean, at, "D", color="black", markersize=4, markerfacecolor="black" if known else "white")
