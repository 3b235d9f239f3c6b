"""What all figures share: size, colours that colour-blind readers tell apart, title and notes."""

from __future__ import annotations

import textwrap
from itertools import cycle

from matplotlib.figure import Figure

DPI = 150
WIDTH = 7.6
"""Inches; the width of a README at 150 dpi."""
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
FIXED = {"mls": "#0072B2", "moco_v2": "#D55E00", "densecl": "#009E73", "random": "#777777"}
"""A method keeps its colour in every figure."""
TRUNCATED = "Score axes do not start at zero"
STYLE = {
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
    """Name -> colour, in the order given; with no names, those of the methods we know."""
    spare = cycle(c for c in OKABE_ITO if c not in FIXED.values())
    return {name: FIXED.get(name) or next(spare) for name in names} or dict(FIXED)


def finish(figure: Figure, title: str, notes: str, missing: str = "") -> None:
    """Title on top, missing results right under it, notes at the foot; all wrapped to the figure's width."""
    wide = int(figure.get_figwidth() * 19)
    head = [title, *textwrap.wrap(f"Not there: {missing}", int(wide * 0.72))] if missing else [title]
    figure.suptitle("\n".join(head), x=0.01, ha="left", fontsize=10)
    figure.supxlabel(textwrap.fill(notes + ".", wide), x=0.01, ha="left", fontsize=7, color="0.35")
