"""The paper's claims in a study: every difference with its interval, and the verdicts."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.transforms import blended_transform_factory

from mlssl.analysis.names import label_in_words
from mlssl.analysis.outputs import budget
from mlssl.claims.evaluate import NOT_IN_STUDY, Outcome, Row, by_verdict
from mlssl.figures.style import SMALLEST, WIDTH, finish, together
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
GAP = 0.6
"""Between claims, in lines."""
BOX = {"facecolor": "white", "edgecolor": "none", "pad": 1}
"""Behind numbers, so that no mark shows through."""
LEAST = 2.5
"""The axis reaches at least this multiple of the largest δ."""
MOST, FAR = 80, 1.5
"""It also reaches FAR times this percentile of the differences; larger ones are given as numbers at its ends."""


@dataclass(frozen=True)
class Group:
    """How a claim is drawn: its sentence, the comparisons below it, the verdict beside them; heights in lines."""

    row: Row
    head: list[str]
    """Lines of the sentence."""
    names: list[str]
    """Of the comparisons."""
    heights: list[float]
    """Of the comparisons, as high as their names."""
    verdict: list[str]
    """Lines of the verdict."""

    @property
    def space(self) -> float:
        """Below the comparisons, so that the verdict has room beside them."""
        return max(GAP, 0.75 * len(self.verdict) - sum(self.heights) + GAP)

    @property
    def height(self) -> float:
        return len(self.head) + sum(self.heights) + self.space


def group(row: Row) -> Group:
    """The lines of a claim."""
    names = ["\n".join(textwrap.wrap(name(outcome), NAME)) for outcome in row.outcomes]
    said = together(label_in_words(words_of(row)))
    heights = [0.25 + 0.75 * (text.count("\n") + 1) for text in names]
    return Group(row, textwrap.wrap(title(row), WIDE), names, heights, textwrap.wrap(said, WORDS))


def claims(study: Study, rows: list[Row]) -> Figure:
    """One group per claim: by the evaluator that decides, the differences with 95 % intervals and the margin ±δ.

    Grey dots are the same differences by the other evaluators. Claims without any result are listed in the title.
    """
    groups = [group(row) for row in rows if row.primary and any(o.known for o in row.outcomes)]
    figure, ax = plt.subplots(figsize=(WIDTH, 1.3 + 0.2 * max(sum(g.height for g in groups), 5)))
    limit = reach([o for g in groups for o in g.row.outcomes])
    place, ticks = 0.0, list[float]()
    for one in groups:
        heading(ax, place, one.head)
        others = [row for row in rows if row.claim == one.row.claim and not row.primary]
        at = start = place + len(one.head)
        for i, (outcome, height) in enumerate(zip(one.row.outcomes, one.heights, strict=True)):
            ticks.append(at + (height - 1) / 2)
            elsewhere = [row.outcomes[i].found for row in others if i < len(row.outcomes)]
            means = [found.mean for found in elsewhere if found and abs(found.mean) < limit]
            ax.plot(means, [ticks[-1]] * len(means), "o", color="0.6", markersize=3, zorder=2)
            draw(ax, ticks[-1], outcome, limit)
            at += height
        place += one.height
        beside(ax, (start + place - GAP - 1) / 2, one)
    ax.axvline(0, color="0.2", linewidth=0.8)
    ax.set_yticks(ticks, [text for one in groups for text in one.names], fontsize=SMALLEST)
    ax.set_ylim(max(place, 1) - 0.5, -0.6)
    ax.set_xlim(-limit, limit)
    ax.tick_params(axis="y", length=0, pad=7)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("difference, percentage points")
    if not groups:
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


def heading(ax: Axes, place: float, lines: list[str]) -> None:
    """The claim on a grey band across the figure."""
    figure = ax.get_figure()
    assert isinstance(figure, Figure)
    across = blended_transform_factory(figure.transFigure, ax.transData)
    band = Rectangle((0, place - 0.5), 1, len(lines), transform=across, color="0.93", clip_on=False, zorder=3)
    middle = place + len(lines) / 2 - 0.5
    words = ax.text(0.01, middle, "\n".join(lines), transform=across, fontsize=SMALLEST, va="center", zorder=4)
    ax.add_patch(band)
    for artist in (band, words):
        artist.set_in_layout(False)


def beside(ax: Axes, place: float, one: Group) -> None:
    """The verdict, to the right of the comparisons."""
    ax.text(
        1.04,
        place,
        "\n".join(one.verdict),
        transform=ax.get_yaxis_transform(),
        color=colour(one.row.verdict),
        va="center",
        fontsize=SMALLEST,
    )


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
    return together(f"{label}, n = {outcome.found.n}") if outcome.found else label


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
