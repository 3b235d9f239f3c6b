"""What all figures share: size, colour-blind-safe colours, dots, labels, title, notes."""

from __future__ import annotations

import math
import textwrap
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mlssl.analysis.aggregate import Summary
from mlssl.analysis.outputs import FIGURE_FORMATS, Score
from mlssl.files import atomic
from mlssl.study.expand import Study

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

DPI = 150
WIDTH = 7.6
"""Inches; the width of a README at 150 dpi."""
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
FIXED = {"mls": "#0072B2", "moco_v2": "#D55E00", "densecl": "#009E73", "random": "#777777"}
"""A method keeps its colour in every figure."""
TRUNCATED = "Score axes do not start at zero"
LABEL = 24
"""Characters of an axis label on one line: those that fit below one of four panels, and beside a low one."""
MAX_DISTANCE = 1.0
"""A value further away than this multiple of the others' range is given as text, to keep the axis readable."""
MIN_SPAN = 2.0
"""Minimum span of a score axis in percentage points, so that noise does not look like a gap."""
NOTE_STYLE: dict[str, Any] = {
    "ha": "center",
    "va": "center",
    "color": "0.4",
    "fontsize": 7,
    "backgroundcolor": "white",
}
HOW_TO_READ = f"Dots: seeds; diamonds and bars: mean ± sample standard deviation. {TRUNCATED}"
STYLE: dict[RcKeyType, Any] = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
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


def finish(figure: Figure, title: str, notes: str, missing: str = "") -> None:
    """Title at the top, missing results below it, notes at the bottom; all wrapped to the figure's width."""
    wide = int(figure.get_figwidth() * 18)
    head = textwrap.wrap(title, int(wide * 0.72))
    head += textwrap.wrap(f"Not available: {missing}", int(wide * 0.72)) if missing else []
    figure.suptitle("\n".join(head), x=0.01, ha="left", fontsize=10)
    figure.supxlabel(textwrap.fill(notes + ".", wide), x=0.01, ha="left", fontsize=7, color="0.35")


def absent(summaries: dict[Score, dict[str, Summary]], prefix: str = "") -> str:
    """The missing results as text: `mls: missing (1 of 2 seeds)`; empty if all exist.

    Scores are listed if only some of several are missing.
    """
    missing: dict[str, list[Score]] = {}
    for score, by_level in summaries.items():
        for level, s in by_level.items():
            if s.absent:
                missing.setdefault(f"{prefix}{level}: {s.status}", []).append(score)
    parts = []
    for text, scores in missing.items():
        # Without its pretraining, a run has no score at all.
        all_missing = len(scores) == len(summaries) or any(score.transfer == "pretrain" for score in scores)
        parts.append(text if all_missing else f"{text} in {' and '.join(score.title for score in scores)}")
    return "; ".join(parts)


def folded(text: str) -> str:
    """A label on as many lines as it needs: one longer than its axis would run into titles and other panels."""
    lines = textwrap.wrap(text.replace("_", "_ "), LABEL, break_on_hyphens=False)  # a name is cut after its _
    return "\n".join(line.replace("_ ", "_") for line in lines) or text


def two_lines(score: Score) -> str:
    """A score's label with its unit, on two lines or more if it is long."""
    head, comma, tail = score.title.partition(", ")
    return folded(f"{head}, {score.unit}") + (f"\n{folded(tail)}" if comma else "")


def untrained(study: Study) -> set[str]:
    """The methods without a target, but not those whose weights are from a file."""
    return {c.method for c in (run.config for run in study.runs.values()) if not c.target and not c.init_id}


def range_near(values: list[float]) -> tuple[float, float]:
    """The range in which a reference is drawn next to these values; empty (inf, -inf) without values."""
    if not values:
        return math.inf, -math.inf
    margin = MAX_DISTANCE * max(max(values) - min(values), 0.5)
    return min(values) - margin, max(values) + margin


def dots(ax: Axes, at: float, s: Summary, colour: str, *, upright: bool = True) -> None:
    """Draw seeds, mean and ± std of one level at position `at` of the category axis."""

    def xy(values: list[float]) -> tuple[list[float], list[float]]:
        places = [at] * len(values)
        return (places, values) if upright else (values, places)

    ax.plot(*xy(list(s.values.values())), "o", color=colour, markersize=3, alpha=0.6, markeredgewidth=0)
    if s.n:
        spread = None if s.n < 2 else s.std
        x_error, y_error = (None, spread) if upright else (spread, None)
        marker: dict[str, Any] = {"fmt": "D", "markersize": 5.5, "markerfacecolor": "none"}
        ax.errorbar(*xy([s.mean]), xerr=x_error, yerr=y_error, color=colour, capsize=3, **marker)


def note(ax: Axes, at: float, s: Summary, *, upright: bool = True) -> None:
    """Say at position `at` of the category axis that an expected value is missing, failed or left out."""
    if s.n or not s.expected:
        return
    words = next((w for w in ("failed", "left out", "undefined") if w in s.status), "missing")
    if upright:
        ax.text(at, 0.5, words, transform=ax.get_xaxis_transform(), rotation=90, **NOTE_STYLE)
    else:
        ax.text(0.5, at, words, transform=ax.get_yaxis_transform(), **NOTE_STYLE)


def widen(ax: Axes, *, upright: bool = True) -> None:
    """Make the score axis span at least MIN_SPAN, centred on what is drawn."""
    low, high = ax.get_ylim() if upright else ax.get_xlim()
    if high - low < MIN_SPAN:
        middle = (low + high) / 2
        (ax.set_ylim if upright else ax.set_xlim)(middle - MIN_SPAN / 2, middle + MIN_SPAN / 2)


def save(figure: Figure, path: Path) -> None:
    """Write PNG and PDF without dates, so that the same data give the same bytes; close the figure."""
    for kind in FIGURE_FORMATS:
        metadata = {"CreationDate": None} if kind == "pdf" else {"Software": None}
        with atomic(path.with_name(f"{path.name}.{kind}")) as part:
            figure.savefig(part, format=kind, dpi=DPI, metadata=metadata)
    plt.close(figure)
