"""The table of what each level of an axis changes, paired by seed."""

from __future__ import annotations

import pandas as pd

from mlssl.analysis.outputs import NONE
from mlssl.claims.differences import LevelDifference, differences
from mlssl.claims.evaluate import DIRECTION, Samples, read_groups
from mlssl.study.study import Study
from mlssl.tables.claims import numbers, statistics_caption
from mlssl.tables.gains import ends

DIFFERENT, SMALL = " *", " ="
"""Marks of a difference whose interval excludes 0, and of one that is not larger than δ."""
MARKS = "*: the interval excludes 0; =: it is inside ±δ. No correction for the number of differences."


def differences_table(study: Study, metrics: pd.DataFrame) -> tuple[str, pd.DataFrame, pd.DataFrame]:
    """Caption, one row per axis, level and evaluator, and one row per axis and level for reading."""
    found = differences(Samples(study, metrics, read_groups(study)))
    text = statistics_caption(
        study,
        metrics,
        "Differences within each axis",
        "Cells: level less the level in the third column, in percentage points, paired by seed, with its 95 % "
        f"interval over seeds and evaluation images. {MARKS}",
    )
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for one in found:
        row = rows.setdefault((one.axis, one.level), {"axis": one.axis, "level": one.level, "less": one.less})
        row[one.score.label] = cell(one)
    printed = pd.DataFrame(list(rows.values()), columns=None if rows else ["axis"], dtype=object).fillna(NONE)
    return text, pd.DataFrame([line(one) for one in found], dtype=object), printed


def line(one: LevelDifference) -> dict[str, object]:
    """Machine-readable; NA where it is not known."""
    about = {"axis": one.axis, "level": one.level, "less": one.less}
    about |= {"protocol": one.score.protocol, "metric": one.score.metric}
    return about | numbers(one.found) | {"verdict": one.word}


def cell(one: LevelDifference) -> str:
    """`+4.91 [3.12, 6.70] *, n = 5`; without an interval for one seed."""
    if one.found is None:
        return NONE
    mark = DIFFERENT if one.word in DIRECTION.values() else SMALL if one.word.startswith("no difference") else ""
    return f"{one.found.mean:+.2f}{ends(*one.found.interval())}{mark}, n = {one.found.n}"
