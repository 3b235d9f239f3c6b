"""What all figures share: size, colour-blind-safe colours, points, labels, title, notes."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from itertools import cycle, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from mlssl.analysis.aggregate import Summary
from mlssl.analysis.names import in_words
from mlssl.analysis.outputs import FIGURE_FORMATS, Score
from mlssl.files import atomic
from mlssl.statistics.paired import difference
from mlssl.study.study import Study

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

DPI = 220
WIDTH = 5.2
"""Inches. In one column of a paper, 89 mm, the smallest text (SMALLEST) is 5 points high."""
SMALLEST = 7.5
"""Points of the smallest text."""
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
FIXED = {"mls": "#0072B2", "moco_v2": "#D55E00", "densecl": "#009E73", "random": "#777777"}
"""A method keeps its colour in every figure."""
MARKERS = "osD^vP*X"
FIXED_MARKERS = {"mls": "D", "moco_v2": "s", "densecl": "^", "random": "o"}
"""A method keeps its shape too, so that figures can be read without colour."""
FEWEST = 3
"""Seeds from which an interval is drawn: that of two is 25 standard deviations wide."""
MOST_MISSING = 4
"""Missing results that a title names one by one."""
TRUNCATED = "Score axes do not start at zero"
LABEL = 20
"""Characters of an axis label on one line: those that fit below one of three panels."""
MIN_SPAN = 2.0
"""Minimum span of a score axis in percentage points, so that noise does not look like a gap."""
NOTE_STYLE: dict[str, Any] = {
    "ha": "center",
    "va": "center",
    "color": "0.4",
    "fontsize": SMALLEST,
    "bbox": {"facecolor": "white", "edgecolor": "none", "pad": 0.5},
}
HOW_TO_READ = (
    f"Dots: seeds; marker: their mean; line: 95 % interval (t) over seeds, from n = {FEWEST} on. {TRUNCATED}"
)
STYLE: dict[RcKeyType, Any] = {
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "xtick.labelsize": SMALLEST,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "figure.constrained_layout.use": True,
    "pdf.fonttype": 42,
}


def colours(names: list[str]) -> dict[str, str]:
    """Name -> colour, in the given order; without names, the colours of the known methods."""
    spare = cycle(c for c in OKABE_ITO if c not in FIXED.values())
    return {name: FIXED.get(name) or next(spare) for name in names} or dict(FIXED)


def markers(names: list[str]) -> dict[str, str]:
    """Name -> shape of its marker, in the given order."""
    spare = cycle(m for m in MARKERS if m not in FIXED_MARKERS.values())
    return {name: FIXED_MARKERS.get(name) or next(spare) for name in names}


def together(text: str) -> str:
    """The same text, in which no line breaks inside `n = 3`."""
    return text.replace("n = ", "n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}")


def finish(figure: Figure, title: str, notes: str, missing: Sequence[str] = ()) -> None:
    """The finding as title, missing results below it, notes at the bottom; all wrapped to the figure's width."""
    wide = figure.get_figwidth()
    head = [line for part in together(title).split("\n") for line in textwrap.wrap(part, int(wide * 14))]
    head += textwrap.wrap(f"Not available: {listed(missing)}", int(wide * 14)) if missing else []
    figure.suptitle("\n".join(head), x=0.01, ha="left", fontsize=8.5)
    # A number stays with its unit.
    below = textwrap.wrap(notes.replace(" %", "\N{NO-BREAK SPACE}%") + ".", int(wide * 16.5))
    # Long texts must not take the room of the panels.
    extra = 0.14 * max(0, len(head) - 2) + 0.12 * max(0, len(below) - 3)
    figure.set_figheight(figure.get_figheight() + extra)
    figure.supxlabel("\n".join(below), x=0.01, ha="left", fontsize=SMALLEST, color="0.35")


def listed(missing: Sequence[str]) -> str:
    """The missing results; of more than MOST_MISSING, their number, as the list would be larger than the figure."""
    if len(missing) > MOST_MISSING:
        return f"{len(missing)} results or sets of seeds, which metrics.tsv lists"
    return "; ".join(missing)


def absent(summaries: dict[Score, dict[str, Summary]], prefix: str = "") -> list[str]:
    """The missing results in words: `mls: missing (1 of 2 seeds)`; empty if all exist.

    Scores are listed if only some of several are missing.
    """
    missing: dict[str, list[Score]] = {}
    for score, by_level in summaries.items():
        for level, s in by_level.items():
            if s.absent:
                missing.setdefault(f"{prefix}{in_words(level)}: {s.status}", []).append(score)
    parts = []
    for text, scores in missing.items():
        # Without its pretraining, a run has no score at all.
        pretrain = any(score.transfer == "pretrain" for score in scores) and "undefined" not in text
        all_missing = len(scores) == len(summaries) or pretrain
        parts.append(text if all_missing else f"{text} in {' and '.join(score.title for score in scores)}")
    return parts


def folded(text: str, width: int = LABEL) -> str:
    """A label on as many lines as it needs: one longer than its axis would run into titles and other panels."""
    lines = textwrap.wrap(text.replace("_", "_ "), width, break_on_hyphens=False)  # a name is cut after its _
    return "\n".join(line.replace("_ ", "_") for line in lines) or text


def two_lines(score: Score) -> str:
    """A score's label with its unit, on two lines or more if it is long."""
    head, comma, tail = score.title.partition(", ")
    return folded(f"{head}, {score.unit}") + (f"\n{folded(tail)}" if comma else "")


def untrained(study: Study) -> set[str]:
    """The methods without a target, but not those whose weights are from a file."""
    return {c.method for c in (run.config for run in study.runs.values()) if not c.target and not c.init_id}


def interval(s: Summary) -> tuple[float, float] | None:
    """The 95 % interval (t) of the mean over seeds; None for fewer than FEWEST."""
    return difference(list(s.values.values())).interval() if s.n >= FEWEST else None


def dots(ax: Axes, at: float, s: Summary, colour: str, marker: str, *, upright: bool = False) -> None:
    """Draw seeds, mean and interval of one level at position `at` of the category axis."""

    def draw(values: Sequence[float], **style: Any) -> None:
        places = [at] * len(values)
        ax.plot(*((places, values) if upright else (values, places)), color=colour, **style)

    if ends := interval(s):
        draw(ends, linewidth=1.3)
    if s.n > 1:
        draw(list(s.values.values()), marker="o", linestyle="", markersize=3, alpha=0.6, markeredgewidth=0)
    if s.n:
        draw([s.mean], marker=marker, markersize=4.5, markerfacecolor="white" if s.n == 1 else colour)


def ends_of(summaries: Iterable[Summary]) -> tuple[float, float]:
    """The lowest and the highest value, or end of an interval; empty (inf, -inf) without values."""
    values = [v for s in summaries for v in (*s.values.values(), *(interval(s) or ()))]
    return min(values, default=math.inf), max(values, default=-math.inf)


def count(summaries: Iterable[Summary]) -> str:
    """`n = 3`, or `n = 1 to 3` seeds where levels have different numbers; empty without results."""
    found = sorted({s.n for s in summaries if s.n})
    return f"n = {found[0]}" + (f" to {found[-1]}" if len(found) > 1 else "") if found else ""


def span(low: float, high: float, width: float) -> tuple[float, float]:
    """Limits of an axis of percentages that is `width` wide around low to high, but not below 0."""
    if low > high:
        return 0.0, width
    start = max((low + high - width) / 2, min(0.0, low) - 0.02 * width)
    return start, start + width


def apart(values: Sequence[float], gap: float) -> list[float]:
    """Positions of labels near these values, at least `gap` apart, in the same order."""
    order = sorted(range(len(values)), key=lambda i: values[i])
    groups: list[list[int]] = [[i] for i in order]
    merged = True
    while merged:
        merged = False
        for left, right in pairwise(groups):
            if centre(values, right) - centre(values, left) < gap * (len(left) + len(right)) / 2 - 1e-9 * gap:
                left.extend(right)
                groups.remove(right)
                merged = True
                break
    places = [0.0] * len(values)
    for group in groups:
        for step, i in enumerate(group):
            places[i] = centre(values, group) + (step - (len(group) - 1) / 2) * gap
    return places


def centre(values: Sequence[float], group: list[int]) -> float:
    """The mean of the values of a group."""
    return sum(values[i] for i in group) / len(group)


def name_lines(figure: Figure, ends: dict[Axes, dict[str, tuple[float, float, str]]]) -> None:
    """Write names beside the right ends (x, y, colour) of lines, moved apart, and make room for them.

    The axes' limits must be final.
    """
    written: list[tuple[Axes, Annotation, float]] = []
    for ax, by_name in ends.items():
        for name, (x, y, colour) in by_name.items():
            if math.isfinite(y):
                style: dict[str, Any] = {"color": colour, "va": "center", "fontsize": SMALLEST}
                style["arrowprops"] = {"arrowstyle": "-", "color": colour, "linewidth": 0.5, "shrinkB": 2}
                style |= {"xytext": (1.04, 0.5), "textcoords": "axes fraction", "annotation_clip": False}
                text = ax.annotate(name, (x, y), **style)
                written.append((ax, text, y))
    figure.draw_without_rendering()  # lays out the panels beside the names
    for ax in ends:
        own = [(text, y) for where, text, y in written if where is ax]
        at = [float(ax.transAxes.inverted().transform(ax.transData.transform((1, y)))[1]) for _, y in own]
        lines = max([text.get_text().count("\n") + 1 for text, _ in own], default=1)
        height = ax.bbox.height / figure.dpi * 72
        for (text, _), place in zip(own, apart(at, 1.2 * lines * SMALLEST / height), strict=True):
            text.set_position((1.04, place))


def note(ax: Axes, at: float, s: Summary) -> None:
    """Say at position `at` of the category axis that an expected value is missing, failed or left out."""
    if s.n or not s.expected:
        return
    words = next((w for w in ("failed", "left out", "undefined") if w in s.status), "missing")
    ax.text(0.5, at, words, transform=ax.get_yaxis_transform(), **NOTE_STYLE)


def save(figure: Figure, path: Path) -> None:
    """Write PNG and PDF without dates, so that the same data give the same bytes; close the figure."""
    for kind in FIGURE_FORMATS:
        metadata = {"CreationDate": None} if kind == "pdf" else {"Software": None}
        with atomic(path.with_name(f"{path.name}.{kind}")) as part:
            figure.savefig(part, format=kind, dpi=DPI, metadata=metadata)
        figure.set_layout_engine("none")  # the second format has the layout of the first
    plt.close(figure)
