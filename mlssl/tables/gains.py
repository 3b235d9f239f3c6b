"""The table of what each method gains over untrained weights."""

from __future__ import annotations

import math

import pandas as pd

from mlssl.analysis.outputs import NONE
from mlssl.claims.evaluate import Samples, read_groups
from mlssl.claims.gains import Gain, gains
from mlssl.statistics.paired import Share
from mlssl.study.study import Study
from mlssl.tables.claims import numbers, shares, statistics_caption


def gains_table(study: Study, metrics: pd.DataFrame) -> tuple[str, pd.DataFrame, pd.DataFrame]:
    """Caption, one row per evaluator and method, and one row per evaluator for reading."""
    found = gains(Samples(study, metrics, read_groups(study)))
    text = statistics_caption(
        study,
        metrics,
        "Gain over untrained weights",
        "Cells: gain in percentage points, paired by seed, with its 95 % interval over seeds and evaluation "
        "images; share of the way from untrained to supervised weights, with its 95 % interval.",
    )
    rows: dict[str, dict[str, str]] = {}
    for gain in found:
        label = gain.score.label
        rows.setdefault(label, {"evaluator": label})[gain.method] = cell(gain)
    printed = pd.DataFrame(list(rows.values()), columns=None if rows else ["evaluator"], dtype=object).fillna(NONE)
    return text, pd.DataFrame([line(gain) for gain in found], dtype=object), printed


def line(gain: Gain) -> dict[str, object]:
    """Machine-readable; NA where it is not known."""
    return {
        "method": gain.method,
        "protocol": gain.score.protocol,
        "metric": gain.score.metric,
        **numbers(gain.found),
        **shares(gain.share),
    }


def cell(gain: Gain) -> str:
    """`+4.91 [3.12, 6.70], n = 5; 41 % [30, 52]`; a share of fewer seeds has their number.

    A gain of one seed has no interval. A share without bounds, because supervised training is not different from
    untrained weights, is left out.
    """
    if gain.found is None:
        return NONE
    text = f"{gain.found.mean:+.2f}{ends(*gain.found.interval())}, n = {gain.found.n}"
    if gain.share_percent is None:
        return text
    return f"{text}; {share_text(gain.share_percent, gain.found.n)}"


def share_text(percent: Share, n: int) -> str:
    """`41 % [30, 52]`; where it has other seeds than the n of its gain, `41 % (n = 1)`."""
    seeds = "" if percent.n == n else f" (n = {percent.n})"
    return f"{percent.mean:.0f} %{ends(percent.low, percent.high, digits=0)}{seeds}"


def ends(low: float, high: float, digits: int = 2) -> str:
    """An interval in brackets; empty if it is not known."""
    return "" if math.isnan(low) else f" [{low:.{digits}f}, {high:.{digits}f}]"
