"""Tables 1 to 5 of the paper as templates: every published row, and the study's values below them.

The status is `no run` if the suite has no protocol for a benchmark or the study does not compare a method.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from mlssl.analysis.aggregate import Summary, origin, summarise
from mlssl.analysis.outputs import NONE, PAPER_TABLES, Score, budget, heads, transfer_budget
from mlssl.study.settings import Classification, Dataset, Detection
from mlssl.study.study import COMPARE, Study

PROTOCOLS: dict[tuple[str, str], tuple[str, tuple[str, ...]] | None] = {
    ("coco_instances", "mask_rcnn_r50_fpn"): ("detection", ("2fc", "4conv1fc")),
    ("coco_instances", "mask_rcnn_r50_c4"): ("detection", ("res5",)),
    ("cityscapes_semantic", "psanet_r50"): ("segmentation", ("fcn", "fcn_d8", "psa")),
    ("cityscapes_semantic", "pspnet_r50"): ("segmentation", ("fcn", "fcn_d8", "psp")),
    ("voc0712_detection", "faster_rcnn_r50_c4"): ("detection", ("res5",)),
    ("classification", "resnet50_finetune"): ("classification", ()),
}
"""Benchmark and architecture of the paper -> the suite's protocol for the same kind of task, if any, and its
heads."""
DATASET = {"cityscapes_semantic": "cityscapes", "voc0712_detection": "voc0712"}
"""Benchmark -> the data set of a study's transfers without which the study does not fill it."""
CLASSIFIED = {
    "voc07_mAP": ("voc2007", "mAP"),
    "cub200_top1": ("cub200", "top1"),
    "flowers_top1": ("flowers102", "top1"),
    "cars_top1": ("stanford_cars", "top1"),
    "aircraft_top1": ("fgvc_aircraft", "top1"),
    "indoor67_top1": ("indoor67", "top1"),
    "pets_top1": ("oxford_pets", "top1"),
    "dtd_top1": ("dtd", "top1"),
}
"""Metric of table 5 -> the data set of a study's transfers, and the metric there. A study fills one column."""
VOC = "voc0712_detection"
"""The benchmark with Pascal VOC's average precision; its metrics AP, AP50 and AP75 are those of boxes."""
NO_RUN = "no run"
NOT_STATED = "not stated"
"""The head of published rows: the paper does not say it, and its rows of one table may differ
(docs/protocols.md)."""
ABSENT = Summary({}, 0)
Measured = dict[tuple[str, ...], Summary]
"""(benchmark, architecture, method, metric) -> the study's value."""
COLUMNS = [
    *("table", "benchmark", "architecture", "method", "pretrain_data", "pretrain_epochs", "metric", "published"),
    *("measured_head", "measured_mean", "measured_std", "measured_n", "status"),
]


@dataclass(frozen=True)
class PaperTable:
    """One table of the paper, filled in by a study."""

    text: str
    """Caption."""
    tidy: pd.DataFrame
    """One row per published number."""
    printed: pd.DataFrame
    """One row per published row, and one per method of the study."""


def paper_tables(study: Study, metrics: pd.DataFrame, published: pd.DataFrame) -> dict[str, PaperTable]:
    """Stem -> table, for tables 1 to 5; `published` contains the paper's numbers as text."""
    found = {}
    for name in PAPER_TABLES:
        rows = published[published["table"] == name.removeprefix("paper_")]
        own = measured(study, metrics, rows)
        found[name] = PaperTable(
            caption(study, metrics, name, rows), numbers(study, rows, own), cells(study, rows, own)
        )
    return found


def protocol_of(study: Study, benchmark: str, architecture: str) -> str | None:
    """The study's protocol for a benchmark of the paper: that of PROTOCOLS, if data, head and metric are the
    same."""
    source, known = study.transfer_source.settings, PROTOCOLS[benchmark, architecture]
    name = source.name if isinstance(source, Dataset) else None
    classified = {data for data, _ in CLASSIFIED.values()}
    if known is None:
        return None
    protocol, of_protocol = known
    config = study.transfers.get(protocol)
    if protocol == "classification":
        return protocol if name in classified and isinstance(config, Classification) and not config.frozen else None
    if name != DATASET.get(benchmark, None if name in {*DATASET.values(), *classified} else name):
        return None
    if protocol in study.transfers and heads(study)[protocol] not in of_protocol:
        return None
    if isinstance(config, Detection) and config.metric != ("voc07" if benchmark == VOC else "coco"):
        return None
    return protocol


def measured(study: Study, metrics: pd.DataFrame, table: pd.DataFrame) -> Measured:
    """The study's values for the metrics of a table of the paper, for all methods that it compares."""
    found: Measured = {}
    source = study.transfer_source.settings
    for benchmark, architecture, metric in table[["benchmark", "architecture", "metric"]].drop_duplicates().values:
        protocol = protocol_of(study, benchmark, architecture)
        if protocol is not None and COMPARE in study.axes():
            own = f"{metric}_bbox" if benchmark == VOC else metric
            if metric in CLASSIFIED:
                data, own = CLASSIFIED[metric]
                if not isinstance(source, Dataset) or source.name != data:
                    continue
            for method, summary in summarise(study, metrics, COMPARE, Score(protocol, own, own, "%")).items():
                found[benchmark, architecture, method, metric] = summary
    return found


def numbers(study: Study, table: pd.DataFrame, found: Measured) -> pd.DataFrame:
    """Tidy: one row per published number, with the study's mean, std, n and status; NA if missing.

    All rows of a method repeat the study's measured value: `pretrain_epochs` describes only the published number.
    """
    tidy = []
    for row in table.replace("", None).to_dict("records"):
        s = found.get((row["benchmark"], row["architecture"], row["method"], row["metric"]), ABSENT)
        tidy.append(
            row
            | {
                "published": row["value"],
                "measured_head": head_of(study, row["benchmark"], row["architecture"]) if s.expected else None,
                "measured_mean": None if math.isnan(s.mean) else round(s.mean, 6),
                "measured_std": None if math.isnan(s.std) else round(s.std, 6),
                "measured_n": s.n,
                "status": s.status if s.expected else NO_RUN,
            }
        )
    return pd.DataFrame(tidy, columns=COLUMNS, dtype=object)


def cells(study: Study, table: pd.DataFrame, found: Measured) -> pd.DataFrame:
    """Formatted for reading: the published rows, then one row with the study's values for each method."""
    keys = ["architecture", "method", "pretrain_data", "pretrain_epochs"]
    metrics = list(dict.fromkeys(table["metric"]))
    rows = []
    for key, group in table.groupby(keys, sort=False):
        values = dict(zip(group["metric"], group["value"], strict=True))
        about = dict(zip(keys, key, strict=True)) | {"head": NOT_STATED}
        rows.append(about | {m: values.get(m, NONE) for m in metrics})
    methods = table[["benchmark", "architecture", "method"]].astype(str).drop_duplicates()
    for benchmark, architecture, method in methods.itertuples(index=False):
        own = {m: found.get((benchmark, architecture, method, m), ABSENT) for m in metrics}
        evaluated = any(s.expected for s in own.values())
        data, epochs = pretraining_of(study, method) if evaluated else (NONE, NONE)
        head = head_of(study, benchmark, architecture) if evaluated else NONE
        row = {"architecture": architecture, "method": f"{method}, this study"}
        row |= {"pretrain_data": data, "pretrain_epochs": epochs, "head": head or NONE}
        rows.append(row | {m: text(summary, len(study.seeds)) for m, summary in own.items()})
    return pd.DataFrame(rows, dtype=object).replace("", NONE)


def head_of(study: Study, benchmark: str, architecture: str) -> str | None:
    """The head of the study's protocol for a benchmark of the paper."""
    return heads(study).get(protocol_of(study, benchmark, architecture) or "")


def pretraining_of(study: Study, method: str) -> tuple[str, str]:
    """Pretraining data and length of a method, in the format of the paper's columns: epochs, or `200 steps`."""
    config = next(run.config for run in study.runs.values() if run.config.method == method)
    if config.target is None:
        return "none", "0"
    return study.name, f"{config.steps:,} steps" if config.steps is not None else f"{config.epochs:g}"


def text(summary: Summary, usual_n: int) -> str:
    """A cell with the study's value: `mean ± std`, the reason why it is missing, or `no run`."""
    return summary.text(usual_n=usual_n) if summary.expected else NO_RUN


def caption(study: Study, metrics: pd.DataFrame, name: str, table: pd.DataFrame) -> str:
    """One line: what the rows contain, and that the study's budget differs from the paper's."""
    about, where = " ".join(study.about.split()).rstrip("."), origin(metrics)
    used = {protocol_of(study, *place) for place in zip(table["benchmark"], table["architecture"], strict=True)}
    return (
        f"Table {name.removeprefix('paper_table')} of the paper, {table['benchmark'].iloc[0]}. Rows named "
        "`this study` have another budget than the published ones: compare the order of methods, not the scores. "
        f"The study: {about}. Pretraining: {budget(study)}. "
        f"Transfer: {transfer_budget(study, used) or 'the study has none of this kind'}. "
        f"Measured cells: mean ± sample standard deviation over seeds; scores in percent. "
        f"{where[0].upper()}{where[1:]}."
    )
