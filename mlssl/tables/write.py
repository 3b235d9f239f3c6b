"""A study's tables as TSV, Markdown and LaTeX, with the paper's numbers next to the study's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mlssl.analysis.aggregate import Summary, left_out, origin, read_metrics, scores_of, summarise
from mlssl.analysis.outputs import (
    CLAIMS,
    DIFFERENCES,
    GAINS,
    NOISE,
    NONE,
    SAVINGS,
    Score,
    budget,
    has_claims,
    has_gains,
    has_label_savings,
    has_paper_tables,
    heads,
    linear_scores,
    stem,
    transfer_budget,
)
from mlssl.claims.evaluate import read_groups
from mlssl.claims.resolution import MARK, MARKED, below_resolution
from mlssl.files import write_text
from mlssl.study.study import COMPARE, Study
from mlssl.tables.claims import claims_table, noise_table
from mlssl.tables.differences import differences_table
from mlssl.tables.gains import gains_table
from mlssl.tables.label_savings import savings, sentence, table
from mlssl.tables.paper import paper_tables

PAPER = "mls_iccv2023.csv"


@dataclass(frozen=True)
class Published:
    """Where the paper has numbers for the levels of an axis."""

    table: str
    level: str = "{}"
    """The paper's name of a level."""
    epochs: str = "400"


PUBLISHED: dict[str, Published | str] = {
    COMPARE: Published("table1", epochs="800"),
    "k": Published("table8", level="k={}"),
    "loss": Published("table6"),
    "dictionaries": Published("table7"),
    "dictionary_size": "curve only (figure 5a)",
    "lam": "curve only (figure 5b)",
}
"""Axis -> its table in the paper, or the reason why the paper has no numbers."""
PAPER_METRICS = ("AP_bbox", "AP_segm")


def write_tables(study: Study, published: Path) -> None:
    """Write `tables/<axis>.{tsv,md,tex}` from metrics.tsv, and the paper's tables.

    `published` is the folder with the paper's numbers.
    """
    metrics, published_rows = read_metrics(study), read_paper(published)
    unresolved = below_resolution(study, metrics)
    for axis, levels in study.axes().items():
        scores = scores_of(study, axis)
        summaries = {score: summarise(study, metrics, axis, score) for score in scores}
        transferred = any(score.transfer != "pretrain" for score in scores)
        own_heads = {t: head for t, head in heads(study).items() if any(s.transfer == t for s in scores)}
        shown = transferred and not study.own_photos
        paper = paper_columns(axis, levels, published, own_heads.get("detection")) if shown else {}
        text = caption(study, axis, metrics, summaries)
        if reasons := left_out(metrics):
            text += f" {reasons}"
        if unresolved & summaries.keys():
            text += f" {MARKED}"
        tidy = numbers(axis, levels, summaries, paper, own_heads)
        printed = cells(study, axis, levels, summaries, paper, unresolved, own_heads)
        write_table(study, stem(axis), text, tidy, printed)
    if has_gains(study):
        write_table(study, GAINS, *gains_table(study, metrics))
    if has_label_savings(study):
        found = savings(study, metrics, read_groups(study))
        sentences = " ".join(sentence(method, list(seeds.values())) for method, seeds in found.items())
        summaries = {score: summarise(study, metrics, COMPARE, score) for score in linear_scores(study)}
        about = caption(study, COMPARE, metrics, summaries)
        text = f"{sentences} {about} The number of images is interpolated over its logarithm."
        write_table(study, SAVINGS, text, table(found), table(found))
    if has_claims(study):
        write_table(study, CLAIMS, *claims_table(study, metrics, published_rows))
    write_table(study, DIFFERENCES, *differences_table(study, metrics))
    write_table(study, NOISE, *noise_table(study, metrics))
    found_tables = paper_tables(study, metrics, published_rows) if has_paper_tables(study) else {}
    for name, filled in found_tables.items():
        write_table(study, name, filled.text, filled.tidy, filled.printed)


def write_table(study: Study, name: str, text: str, tidy: pd.DataFrame, printed: pd.DataFrame) -> None:
    """Write one table in all formats: `tidy` as TSV, `printed` with the caption `text`."""
    path = study.out / "tables" / name
    write_text(path.with_suffix(".tsv"), tidy.to_csv(sep="\t", index=False, na_rep="NA", lineterminator="\n"))
    write_text(path.with_suffix(".md"), markdown(printed, text))
    write_text(path.with_suffix(".tex"), latex(printed, text, f"tab:{study.name}-{name}"))


def read_paper(folder: Path) -> pd.DataFrame:
    """The paper's numbers, all as strings: table, benchmark, architecture, method, pretrain_*, metric, value."""
    return pd.read_csv(folder / PAPER, dtype=str, keep_default_na=False)


def paper_columns(
    axis: str, levels: list[str], folder: Path, detection_head: str | None = None
) -> dict[str, list[str]]:
    """Column title -> the paper's value for every level, `–` if it has none; no column without a value.

    Empty for an unknown axis, and if detection has the head res5: these are the paper's numbers with an FPN, and
    heads are not compared.
    """
    where = PUBLISHED.get(axis) if detection_head != "res5" else None
    if where is None:
        return {}
    if isinstance(where, str):
        return {"paper": [where] * len(levels)}
    rows = read_paper(folder)
    keys_of_rows = ["table", "pretrain_data", "pretrain_epochs", "method", "metric"]
    known: dict[Any, str] = rows.set_index(keys_of_rows)["value"].to_dict()
    columns: dict[str, list[str]] = {}
    for metric in PAPER_METRICS:
        title = f"paper {metric} (COCO, R50-FPN, {where.epochs} epochs; another budget)"
        keys = [(where.table, "coco", where.epochs, where.level.format(level), metric) for level in levels]
        values = [known.get(key, NONE) for key in keys]
        if set(values) != {NONE}:
            columns[title] = values
    return columns


def caption(study: Study, axis: str, metrics: pd.DataFrame, summaries: dict[Score, dict[str, Summary]]) -> str:
    """One line: what is compared, the data, the budget, the seeds, and where it was computed."""
    what = "Comparison of methods" if axis == COMPARE else f"Ablation of {axis}"
    n, used = len(study.seeds), {score.transfer for score in summaries}
    spread = f"mean ± sample standard deviation over n = {n} seeds unless a cell says otherwise"
    about, where = " ".join(study.about.split()).rstrip("."), origin(metrics)
    return (
        f"{what}. {about}. Pretraining: {budget(study)}. "
        f"Transfer: {transfer_budget(study, used) or 'none'}. "
        f"Cells: {spread if n > 1 else 'one seed'}; scores in percent. {where[0].upper()}{where[1:]}."
    )


def numbers(
    axis: str,
    levels: list[str],
    summaries: dict[Score, dict[str, Summary]],
    paper: dict[str, list[str]],
    heads: dict[str, str],
) -> pd.DataFrame:
    """Machine-readable: separate columns for mean, std, n, expected n and status of every score, and the heads."""
    rows = []
    for i, level in enumerate(levels):
        row: dict[str, object] = {axis: level}
        row |= {f"{transfer}_head": head for transfer, head in heads.items()}
        for score, by_level in summaries.items():
            s, name = by_level[level], f"{score.protocol}_{score.metric}"
            row |= {
                f"{name}_mean": None if math.isnan(s.mean) else round(s.mean, 6),
                f"{name}_std": None if math.isnan(s.std) else round(s.std, 6),
                f"{name}_n": s.n,
                f"{name}_n_expected": s.expected,
                f"{name}_status": s.status if s.expected else "not in the study",
            }
        rows.append(row | {title: values[i] for title, values in paper.items()})
    return pd.DataFrame(rows, dtype=object)


def cells(
    study: Study,
    axis: str,
    levels: list[str],
    summaries: dict[Score, dict[str, Summary]],
    paper: dict[str, list[str]],
    unresolved: set[Score],
    heads: dict[str, str],
) -> pd.DataFrame:
    """Formatted for reading: one row per level, `mean ± std` in each cell; a MARK after scores in `unresolved`."""
    columns = {axis: levels}
    for score, by_level in summaries.items():
        title = score.title if score.unit == "%" else score.label
        texts = {lv: by_level[lv].text(digits=score.digits, usual_n=len(study.seeds)) for lv in levels}
        if score in unresolved:
            texts |= {level: texts[level] + MARK for level, s in by_level.items() if s.n}
        columns[title] = list(texts.values())
    columns |= {f"{transfer} head": [head] * len(levels) for transfer, head in heads.items()}
    return pd.DataFrame(columns | paper, dtype=object)


def markdown(frame: pd.DataFrame, text: str) -> str:
    """A Markdown table with its caption above."""
    escaped = frame.map(lambda cell: str(cell).replace("|", "\\|"))
    return f"{text}\n\n{escaped.to_markdown(index=False, disable_numparse=True)}\n"


def latex(frame: pd.DataFrame, text: str, label: str) -> str:
    """A LaTeX table (booktabs) with its caption, which is also the file's first line, as a comment."""
    escaped = frame.map(lambda cell: escape(str(cell))).rename(columns=escape)
    body = escaped.to_latex(
        index=False, escape=False, caption=escape(text), label=label, column_format="l" * len(frame.columns)
    )
    return f"% {text}\n{body}"


def escape(text: str) -> str:
    """Escape text for LaTeX."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {c: f"\\{c}" for c in "&%$#_{}"} | {"±": r"$\pm$", "–": "--", "×": r"$\times$"}
    special |= {
        "<": r"$<$",
        ">": r"$>$",
        "≤": r"$\leq$",
        "−": "$-$",
        "λ": r"$\lambda$",
        "†": r"\dag{}",
        "‡": r"\ddag{}",
        "δ": r"$\delta$",
    }
    return "".join(special.get(c, c) for c in text)
