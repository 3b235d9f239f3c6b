"""Quality of pseudo-labels over training, evaluated afterwards with categories that training did not use.

A crop shows a category if it contains at least a given share of the box of one of its objects. A pseudo-label
relates a query crop to a dictionary entry, another crop; it is correct if both show a common category.
Only queries that show a category are counted. Imports no torch.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from mlssl.data.coco import read_split
from mlssl.errors import DataError, MissingLabels
from mlssl.study.settings import PseudoLabels
from mlssl.transfer import needs
from mlssl.transfer.crop_categories import Objects, categories_shown, read_objects

PROTOCOL = "pseudo_labels"
COLUMNS = (
    *("step", "query_image", "query_box", "image", "box", "positive", "filled"),
    *("dictionary_image", "dictionary_box"),
)
"""Columns of `pseudo_labels.npz` that the metrics need."""
Measured = dict[str, tuple[float | None, int]]
"""Metric -> (value, number of pairs or queries behind it); the value is None where it is undefined."""


def evaluate(records: Path, store: Path, config: PseudoLabels) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows and notes of a result: the quality of the pseudo-labels that a pretraining recorded.

    `records` is the run's `pseudo_labels.npz` (the format is in ARCHITECTURE.md), `store` the image store it
    trained on. A row is the mean over the last quarter of the records; `notes["series"]` has every record and
    its number of positives (`pairs`).
    Raises MissingLabels without annotations of all training images, and DataError if records, store and dataset
    do not match.
    """
    split = read_split(config.data.root, config.data.train)
    if why := needs.pseudo_labels(split):
        raise MissingLabels(why)
    objects = read_objects(split, store)
    kept = read_records(records, len(objects))
    measured = []
    for r in tqdm(range(len(kept["step"])), desc="pseudo-labels", unit="record", mininterval=1):
        measured.append(
            label_quality(
                **crop_relations(objects, {name: column[r] for name, column in kept.items()}, config.visible)
            )
        )
    steps_per_epoch = len(objects) // kept["query_image"].shape[1]
    series = {"step": kept["step"].tolist(), "epoch": (kept["step"] / steps_per_epoch).round(4).tolist()}
    series |= {"pairs": [record["shared"][1] for record in measured]}
    series |= {name: [rounded(record[name][0]) for record in measured] for name in measured[0]}
    last = measured[len(measured) * 3 // 4 :]
    rows = [{"protocol": PROTOCOL, **mean(name, [record[name] for record in last])} for name in measured[0]]
    explanation = f"mean over the last {len(last)} of {len(measured)} records; series has every record"
    return rows, {"rows": explanation, "series": series}


def mean(metric: str, measured: list[tuple[float | None, int]]) -> dict[str, Any]:
    """A row: the metric, its mean over the records where it is defined, and the number of all pairs or queries."""
    values = [value for value, _ in measured if value is not None]
    value = rounded(sum(values) / len(values)) if values else None
    return {"metric": metric, "value": value, "n": sum(n for _, n in measured)}


def label_quality(
    query: np.ndarray,
    entries: np.ndarray,
    positive: np.ndarray,
    own: np.ndarray,
    sample: np.ndarray,
    filled: int,
) -> Measured:
    """The metrics of one record, in percent except `positives`. Inputs are bool arrays, C categories:

    `query` B x C, `entries` B x K x C (the candidates' categories), `positive` B x K, `own` B x K (a crop of
    the query's image), `sample` S x C (an even sample of the dictionary's `filled` entries).

    shared: positives with a category in common with their query; shared_others: those of other images only.
    chance: the same share among all entries of the dictionary.
    precision, recall: mean over positives of (categories in common) / (categories of the entry, of the query);
    an entry without a category has precision 0.
    found: share of the dictionary's entries with a common category that are positives. Their number is
    extrapolated from the sample, so a small sample can give slightly more than 100.
    own_image: positives that are crops of the query's own image. positives: their number per query.
    """
    seen = query.any(axis=1)
    query, entries, positive, own = query[seen], entries[seen], positive[seen], own[seen]
    common = (entries & query[:, None]).sum(axis=2)[positive]
    shown_by_entry = entries.sum(axis=2)[positive]
    shown_by_query = np.broadcast_to(query.sum(axis=1)[:, None], positive.shape)[positive]
    right, mine = common > 0, own[positive]
    # A product of bool matrices is true where at least one category is common.
    related = query @ sample.T
    findable = related.mean() * filled * len(query) if related.size else 0
    return {
        "shared": percent(right),
        "shared_others": percent(right[~mine]),
        "chance": (percent(related)[0], len(query)),
        "precision": percent(common / np.maximum(shown_by_entry, 1)),
        "recall": percent(common / shown_by_query),
        "found": (100 * float(right.sum() / findable) if findable else None, len(query)),
        "own_image": percent(mine),
        "positives": (float(positive.sum() / len(query)) if len(query) else None, len(query)),
    }


def percent(values: np.ndarray) -> tuple[float | None, int]:
    """The mean of shares in percent, and their number; None if there are none."""
    return (100 * float(values.mean()), values.size) if values.size else (None, 0)


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def crop_relations(objects: Objects, record: dict[str, np.ndarray], visible: float) -> dict[str, Any]:
    """The arguments of `label_quality` for one record: the categories that its crops show."""
    there = record["dictionary_image"] >= 0
    return {
        "query": categories_shown(objects, record["query_image"], record["query_box"], visible),
        "entries": categories_shown(objects, record["image"], record["box"], visible),
        "positive": record["positive"],
        "own": record["image"] == record["query_image"][:, None],
        "sample": categories_shown(
            objects, record["dictionary_image"][there], record["dictionary_box"][there], visible
        ),
        "filled": int(record["filled"]),
    }


def read_records(path: Path, images: int) -> dict[str, np.ndarray]:
    """The columns of a run's `pseudo_labels.npz`; DataError unless they fit a store with `images` images."""
    try:
        with np.load(path) as file:
            kept = {name: file[name] for name in COLUMNS}
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; pretrain a method with pseudo-labels first") from None
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a record of pseudo-labels ({error}); pretrain the run again") from None
    if not len(kept["step"]):
        raise DataError(f"{path}: column 'step' is empty; pretrain with label_records of at least 1")
    highest = max(int(kept[name].max(initial=-1)) for name in ("query_image", "image", "dictionary_image"))
    if highest >= images:
        raise DataError(
            f"{path}: refers to image {highest}, but the store has {images} images; give the run's own store"
        )
    return kept
