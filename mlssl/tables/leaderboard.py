"""Methods of several studies, ranked: one table per evaluator, its settings, its head and its data."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mlssl.analysis.outputs import NONE
from mlssl.analysis.several import Entry, Evaluator, Results, labels, metrics_of, title
from mlssl.files import write_text

RULES = (
    "Scores in percent: mean ± sample standard deviation over seeds, ordered by the mean of the first. All rows of "
    "a table have the same evaluator, with the same settings and data; they may differ in pretraining, whose "
    "images seen are listed. An order within the spread is no finding: `mlssl page A B` has the intervals of "
    "differences."
)


def ranked(results: Sequence[Results]) -> dict[Evaluator, list[Entry]]:
    """Evaluator -> the entries of all studies, the largest mean of the first metric first, those without one last.

    Methods that have not run are left out. The evaluators that most studies share come first.
    """
    found: dict[Evaluator, list[Entry]] = {}
    for one in results:
        for evaluator, entries in one.entries.items():
            known = [entry for entry in entries if entry.values or "failed" in entry.absent]
            found.setdefault(evaluator, []).extend(known)
    for entries in found.values():
        first = metrics_of(entries)[0]
        entries.sort(key=lambda entry: (math.isnan(entry.mean(first)), -entry.mean(first)))
    shared = sorted(found, key=lambda evaluator: -len({entry.study for entry in found[evaluator]}))
    return {evaluator: found[evaluator] for evaluator in shared}


def tidy(boards: dict[Evaluator, list[Entry]]) -> pd.DataFrame:
    """One row per evaluator, metric, method and study."""
    rows = [
        {
            "protocol": evaluator.protocol,
            "head": evaluator.head or None,
            "settings": evaluator.settings or None,
            "data": evaluator.data or None,
            "metric": metric,
            "method": entry.method,
            "digest": entry.digest,
            "study": entry.study,
            "mean": entry.mean(metric),
            "sd": entry.std(metric),
            "n": len(entry.values.get(metric, {})),
            "absent": absent(entry) or None,
            "images_seen": entry.images_seen,
            "commit": " ".join(entry.commits) or None,
        }
        for evaluator, entries in boards.items()
        for metric in metrics_of(entries)
        for entry in entries
    ]
    return pd.DataFrame(rows, dtype=object)


def printed(entries: Sequence[Entry]) -> pd.DataFrame:
    """One table for reading: a row per method and study."""
    metrics = metrics_of(entries)
    rows = []
    for label, entry in zip(labels(entries), entries, strict=True):
        row = {"method": label, "study": entry.study}
        row |= {title(metric): score(entry, metric) for metric in metrics}
        seeds = str(entry.seeds) + (f" ({absent(entry)})" if entry.absent else "")
        rows.append(row | {"seeds": seeds, "images seen": count(entry.images_seen)})
    return pd.DataFrame(rows, dtype=object)


def score(entry: Entry, metric: str) -> str:
    """`43.00 ± 3.61`; without a spread for one seed."""
    mean, std = entry.mean(metric), entry.std(metric)
    return NONE if math.isnan(mean) else f"{mean:.2f}" + ("" if math.isnan(std) else f" ± {std:.2f}")


def absent(entry: Entry) -> str:
    """`1 failed, 2 missing`: the runs that the mean does not have; empty if there are none."""
    return ", ".join(f"{entry.absent.count(why)} {why}" for why in dict.fromkeys(entry.absent))


def count(number: float) -> str:
    return NONE if math.isnan(number) else f"{number:,.0f}"


def write_leaderboard(boards: dict[Evaluator, list[Entry]], folder: Path) -> None:
    """Write `leaderboard.tsv` and `leaderboard.md` into a folder."""
    text = tidy(boards).to_csv(sep="\t", index=False, na_rep="NA", lineterminator="\n")
    write_text(folder / "leaderboard.tsv", text)
    parts = ["# Leaderboard", RULES]
    for evaluator, entries in boards.items():
        table = printed(entries).map(lambda text: html.escape(text, quote=False).replace("|", r"\|"))
        body = table.to_markdown(index=False, disable_numparse=True)
        parts += [f"## {evaluator.title}", f"{about(evaluator)}.", body]
    write_text(folder / "leaderboard.md", "\n\n".join(parts) + "\n")


def about(evaluator: Evaluator) -> str:
    """Settings and data, as a sentence without its full stop."""
    text = evaluator.about[0].upper() + evaluator.about[1:]
    return text + (f"; of {evaluator.only} alone" if evaluator.only else "")
