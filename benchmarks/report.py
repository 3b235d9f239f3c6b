"""Format the measurements as tables, with the targets."""

from __future__ import annotations

import pandas as pd

from benchmarks.cases import TARGETS, Target

UNITS = {"images_per_s": "images/s", "ms": "ms", "peak_memory_mb": "MB", "seconds": "s"}
REFERENCE = {"input": "lightly", "end to end": "limit", "step": "moco_v2"}
"""Contender that the others of a group are divided by."""


def markdown(rows: pd.DataFrame, device: str, about: str) -> str:
    """All tables, then the targets; `device` is `cpu` or `cuda`."""
    parts = [about]
    for (group, case), found in rows.groupby(["group", "case"], sort=False):
        unit = unit_of(found)
        table = pd.DataFrame(
            {name: summary(values[unit], unit) for name, values in found.groupby("contender", sort=False)}
        ).T
        reference = REFERENCE.get(str(group), "")
        if reference in table.index and len(table) > 1:
            table[f"per {reference}"] = [f"{ratio(found, name, reference, unit):.2f}" for name in table.index]
        parts.append(f"### {group}: {case}\n\n{table.to_markdown(disable_numparse=True)}")
    parts.append(f"### Targets\n\n{targets(rows, device).to_markdown(index=False, disable_numparse=True)}")
    return "\n\n".join(parts) + "\n"


def unit_of(rows: pd.DataFrame) -> str:
    """The column with the values of a group."""
    return next(name for name in UNITS if name in rows and rows[name].notna().any())


def summary(values: pd.Series, unit: str) -> dict[str, str]:
    digits = 0 if values.median() >= 100 else 2
    low, middle, high = (f"{v:,.{digits}f}" for v in (values.min(), values.median(), values.max()))
    return {f"{UNITS[unit]}, median": middle, "least to most": f"{low} to {high}", "n": str(len(values))}


def ratio(rows: pd.DataFrame, name: str, reference: str, unit: str) -> float:
    """The median over repetitions of one contender's value divided by the other's."""
    wide = rows.pivot(index="repeat", columns="contender", values=unit)
    return (wide[name] / wide[reference]).median()


def targets(rows: pd.DataFrame, device: str) -> pd.DataFrame:
    """Every target with the measured value, including targets of another device."""
    return pd.DataFrame([outcome(target, rows, device) for target in TARGETS])


def outcome(target: Target, rows: pd.DataFrame, device: str) -> dict[str, str]:
    """A row of the table of targets."""
    found = rows[(rows.group == target.group) & (rows.case == target.case)]
    there = set(found.contender)
    verdict, value = "not measured", "–"
    if device == target.device and {target.what, target.per or target.what} <= there:
        unit = unit_of(found)
        if target.per:
            measured = ratio(found, target.what, target.per, unit)
        else:
            measured = found[found.contender == target.what][unit].median()
        value, verdict = f"{measured:,.3g}", "met" if target.met(measured) else "MISSED"
    what = f"{target.what} / {target.per}" if target.per else f"{target.what}, images/s"
    return {
        "device": {"cuda": "GPU", "cpu": "CPU"}[target.device],
        "measurement": f"{target.group}, {target.case}: {what}",
        "target": target.bound,
        "measured": value,
        "": verdict,
    }
