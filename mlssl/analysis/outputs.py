"""The files that the analysis of a study writes, and the text that its captions share.

Depends only on the study and does not import pandas, matplotlib or torch, because the Snakefile calls this in a
dry run.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from mlssl.study.images import own_photos
from mlssl.study.settings import (
    TRANSFERS,
    Classification,
    Detection,
    Linear,
    PseudoLabels,
    Segmentation,
    Svm,
)
from mlssl.study.study import COMPARE, Study, has_pseudo_labels

METRICS = ["run", "method", "seed", "protocol", "head", "metric", "value", "n", "status", "digest", "config_digest"]
METRICS += ["images", "data", "other_code", "commit", "device", "threads", "wall_s", "peak_memory_mb", "torch"]
"""Columns of metrics.tsv."""
RUNS = ["run", "axis", "level", "method", "seed", "digest", "status", "other_code"]
"""Columns of runs.tsv."""
IMAGE_GROUPS = ["run", "method", "seed", "digest", "protocol", "metric", "group", "value"]
"""Columns of image_groups.tsv."""
TABLE_FORMATS = ("tsv", "md", "tex")
FIGURE_FORMATS = ("png", "pdf")
PAPER_TABLES = tuple(f"paper_table{i}" for i in range(1, 6))
"""File stems of the paper's tables; see `has_paper_tables`."""
CLAIMS, NOISE = "claims", "noise"
"""File stems of what the study says about the paper's claims, and of the noise of its evaluators."""
GAINS = "gains"
"""File stem of the table and the figure of gains over untrained weights."""
DIFFERENCES = "differences"
"""File stem of the table of differences within each axis."""
GAIN_COST = "gain_cost"
"""File stem of the figure of gains against the time of a training step."""
BASELINE = "moco_v2"
"""The method with which titles and ablations compare, and whose pretraining time is 1."""
HISTOGRAMS = "histograms"
"""File stem of the sheet of score histograms."""
SAVINGS = "label_savings"
"""File stem of the table of labels saved by pretraining."""
NONE = "–"
"""Text of an empty cell."""


@dataclass(frozen=True)
class Score:
    """One column of a table: a metric of a protocol."""

    protocol: str
    metric: str
    title: str
    unit: str
    digits: int = 2
    """Decimal places in tables."""
    is_cost: bool = False
    """Whether it is a cost instead of a quality: its axis starts at zero."""

    @property
    def transfer(self) -> str:
        """The stage whose result file contains it; `dense_c4` is a protocol of the stage `dense`."""
        return next((t for t in TRANSFERS if f"{self.protocol}_".startswith(f"{t}_")), self.protocol)

    @property
    def label(self) -> str:
        """Title with unit, for an axis or a column."""
        return f"{self.title}, {self.unit}"


MINUTES = Score("pretrain", "minutes", "pretraining", "minutes", digits=1, is_cost=True)
"""Wall time of a pretraining."""
LABEL_FORCE = Score("pretrain", "label_force", "gradient of the labels, of InfoNCE's", "%")
"""How strongly pseudo-labels pull at the query embedding, mean over a run (docs/faithfulness.md)."""
FROZEN = (
    Score("knn", "mAP", "mAP, nearest neighbours", "%"),
    Score("dense", "mIoU", "mIoU, linear segmentation", "%"),
    Score("dense_c4", "mIoU", "mIoU, linear segmentation on C4", "%"),
    Score("regions", "mAcc", "accuracy, regions", "%"),
    Score("regions_c4", "mAcc", "accuracy, regions on C4", "%"),
    Score("correspondence", "accuracy", "accuracy, matched cells", "%"),
    Score("correspondence_retrieval", "precision_at_1", "precision, retrieved regions", "%"),
)
"""Scores of frozen features beside the linear probe's: of the last map, and of C4, the map before it."""
ACCURACIES = {"top1": "top-1 accuracy", "mAcc": "mean per-class accuracy"}
"""Metric -> title; of linear probe and neighbours, where each image has exactly one category."""
DENSE = (
    Score("detection", "AP_bbox", "box AP", "%"),
    Score("detection", "AP50_bbox", "box AP50", "%"),
    Score("detection", "AP_segm", "mask AP", "%"),
    Score("segmentation", "mIoU", "mIoU", "%"),
)
LABELS = (
    Score("pseudo_labels", "shared", "labels that share a category", "%"),
    Score("pseudo_labels", "chance", "of random entries", "%"),
    Score("pseudo_labels", "positives", "labels per query", "number"),
)
"""Scores of pseudo-labels, over the last quarter of the records of a run."""
NO_METRIC = "-"
"""The metric in the row of a result that is missing."""
LABEL_RECORD = "pseudo_labels_step_"
"""Start of the protocol of one record of pseudo-labels; the step follows. Metrics: epoch, shared, chance."""


def linear_fractions(study: Study) -> list[float]:
    """The shares of the labels that linear probes use, largest first; empty without a linear transfer."""
    linear = study.transfers.get("linear")
    return sorted(linear.fractions, reverse=True) if isinstance(linear, Linear) else []


def linear_scores(study: Study) -> list[Score]:
    """Linear mAP at each of `linear_fractions`."""
    return [
        Score(Linear.protocol(f), "mAP", f"linear mAP, {100 * f:g} % of labels", "%")
        for f in linear_fractions(study)
    ]


def accuracy_scores(study: Study) -> list[Score]:
    """Accuracies of the linear probe with most labels and of neighbours, if the study's images have one category.

    A folder in COCO's layout is not read for this, so its accuracies are only in metrics.tsv.
    """
    protocols = {score.protocol: "linear" for score in linear_scores(study)[:1]}
    if "knn" in study.transfers:
        protocols["knn"] = "nearest neighbours"
    return [
        Score(protocol, metric, f"{title}, {by}", "%")
        for protocol, by in protocols.items()
        for metric, title in ACCURACIES.items()
        if study.transfer_source.exclusive
    ]


def svm_scores(study: Study) -> list[Score]:
    """The mAP of each protocol of SVMs; with few labels, the cost is chosen on the training images."""
    svm = study.transfers.get("svm")
    if not isinstance(svm, Svm):
        return []

    def title(protocol: str) -> str:
        layer, shots = re.fullmatch(r"svm(?:_(c\d))?(?:_k(\d+))?", protocol).groups()  # type: ignore[union-attr]
        return "mAP, SVM" + (f" on {layer}" if layer else "") + (f", {shots} images per category" if shots else "")

    return [Score(protocol, "mAP", title(protocol), "%") for protocol in svm.protocols()]


def classification_scores(study: Study) -> list[Score]:
    """The scores of fine-tuned classification after its last epoch; that of the best epoch is in metrics.tsv."""
    config = study.transfers.get("classification")
    if not isinstance(config, Classification):
        return []
    how = "linear layer" if config.frozen else "fine-tuned"
    metrics = {"mAP": "mAP"} | (ACCURACIES if study.transfer_source.exclusive else {})
    return [Score("classification", metric, f"{title}, {how}", "%") for metric, title in metrics.items()]


def headline(study: Study) -> list[Score]:
    """The scores of the main comparison, in the order of its columns."""
    others = [score for score in (*FROZEN, *DENSE, *LABELS) if score.transfer in study.transfers]
    whole = [*accuracy_scores(study), *svm_scores(study), *classification_scores(study)]
    return [*linear_scores(study), *others, *whole, MINUTES]


def heads(study: Study) -> dict[str, str]:
    """Transfer -> its head, of those that train one; scores of different heads are different protocols' scores."""
    return {name: t.head for name, t in study.transfers.items() if isinstance(t, Detection | Segmentation)}


def runs_with(study: Study, score: Score) -> Collection[str]:
    """The runs of the study that have this score."""
    if score == LABEL_FORCE:
        return [run.id for run in study.runs.values() if has_pseudo_labels(run.config)]
    return study.runs if score.transfer == "pretrain" else study.transfer_runs.get(score.transfer, ())


def expected_protocols(study: Study, run: str) -> list[str]:
    """All protocols that the study needs for a run, `pretrain` first."""
    protocols = ["pretrain"]
    for transfer, runs in study.transfer_runs.items():
        if run in runs:
            protocols += protocols_of(study, transfer)
    return protocols


def protocols_of(study: Study, transfer: str) -> list[str]:
    """All protocols that a transfer measures."""
    if transfer == "linear":
        return [score.protocol for score in linear_scores(study)]
    if transfer in ("svm", "classification"):
        scores = svm_scores(study) if transfer == "svm" else classification_scores(study)
        return list(dict.fromkeys(score.protocol for score in scores))
    known = dict.fromkeys(score.protocol for score in (*FROZEN, *DENSE, *LABELS))
    return [protocol for protocol in known if f"{protocol}_".startswith(f"{transfer}_")]


def stem(axis: str) -> str:
    """File stem of an axis's table and figure."""
    return "main" if axis == COMPARE else axis


def table_names(study: Study) -> list[str]:
    """File stems under `tables/`, one per axis; each is written in all TABLE_FORMATS."""
    return [stem(axis) for axis in study.axes()]


def figure_names(study: Study) -> list[str]:
    """File stems under `figures/`; each is written in all FIGURE_FORMATS."""
    names = table_names(study)
    if has_gains(study):
        names.append(GAINS)
    if has_gains(study) and study.cost_benchmark:
        names.append(GAIN_COST)
    if len(linear_scores(study)) > 1:
        names.append("labels")
    if any(study.runs[c.run].config.target for c in study.cells if c.axis == COMPARE):
        names.append("training_curves")
    if force_axes(study):
        names.append("label_force")
    if label_axes(study):
        names.append("label_quality")
    if has_claims(study):
        names.append(CLAIMS)
    return names


def label_axes(study: Study) -> dict[str, dict[str, list[str]]]:
    """Axis -> level -> runs whose pseudo-labels are evaluated, for axes with at least two such levels."""
    axes = _axes_of(study, study.transfer_runs.get("pseudo_labels", ()))
    return {axis: levels for axis, levels in axes.items() if len(levels) > 1}


def force_axes(study: Study) -> dict[str, dict[str, list[str]]]:
    """Axis -> level -> runs with pseudo-labels: the compared methods, and axes with at least two such levels."""
    axes = _axes_of(study, runs_with(study, LABEL_FORCE))
    return {axis: levels for axis, levels in axes.items() if axis == COMPARE or len(levels) > 1}


def _axes_of(study: Study, runs: Collection[str]) -> dict[str, dict[str, list[str]]]:
    """Axis -> level -> those of its runs that are among `runs`."""
    found: dict[str, dict[str, list[str]]] = {}
    for cell in study.cells:
        if cell.run in runs:
            found.setdefault(cell.axis, {}).setdefault(cell.level, []).append(cell.run)
    return found


def pretrained_and_untrained(study: Study) -> tuple[list[str], str | None]:
    """The compared methods that train without labels or have `weights`, and the one with their backbone untrained.

    Untrained means as the trained methods start; None if none is compared.
    """
    configs = {method: study.runs[run].config for method, run in study.compared.items()}
    starts = {(c.backbone, c.init_id) for c in configs.values() if c.target}
    starts = starts or {(c.backbone, None) for c in configs.values() if c.init_id}
    untrained = next(
        (m for m, c in configs.items() if c.target is None and (c.backbone, c.init_id) in starts), None
    )
    pretrained = [m for m, c in configs.items() if m != untrained and not c.supervised and (c.target or c.init_id)]
    return pretrained, untrained


def supervised(study: Study) -> list[str]:
    """The compared methods that train with labels."""
    return [method for method, run in study.compared.items() if study.runs[run].config.supervised]


def has_gains(study: Study) -> bool:
    """Whether the study compares trained methods with untrained weights, by any transfer."""
    pretrained, untrained = pretrained_and_untrained(study)
    return bool(pretrained and untrained and study.transfers)


def has_label_savings(study: Study) -> bool:
    """Whether the study can compute how many labels pretraining saves: it needs an untrained method."""
    pretrained, untrained = pretrained_and_untrained(study)
    return bool(pretrained and untrained) and len(linear_scores(study)) > 1


def has_paper_tables(study: Study) -> bool:
    """Whether the study fills in the paper's tables: not on own photos, nor on a folder without detection."""
    return not study.own_photos and (study.source.kind != "root" or "detection" in study.transfers)


def has_claims(study: Study) -> bool:
    """Whether the study says something about the paper's claims: not on own photos, of which the paper has none."""
    return not study.own_photos


def table_files(study: Study) -> list[Path]:
    """All files that `write_tables` writes."""
    names = [*table_names(study), *([GAINS] if has_gains(study) else [])]
    names += [*([SAVINGS] if has_label_savings(study) else []), *([CLAIMS] if has_claims(study) else [])]
    names += [DIFFERENCES, NOISE]
    names += PAPER_TABLES if has_paper_tables(study) else ()
    return [study.out / "tables" / f"{name}.{f}" for name in names for f in TABLE_FORMATS]


def figure_files(study: Study) -> list[Path]:
    """All files that `write_figures` writes."""
    return [study.out / "figures" / f"{name}.{f}" for name in figure_names(study) for f in FIGURE_FORMATS]


AXIS_TITLES = {
    "main": COMPARE,
    "labels": "number of labels",
    GAINS: "gain over untrained weights",
    GAIN_COST: "gain against cost",
    SAVINGS: "labels saved by pretraining",
    DIFFERENCES: "differences within each axis",
}
"""File stem -> its axis in the report, for stems that are not the name of an axis."""
TRAINING_TITLES = {
    "training_curves": "training loss",
    "label_force": "gradient of pseudo-labels",
    "label_quality": "quality of pseudo-labels",
}
"""File stem -> title in the report, for the figures of what happens during training."""


def report_labels(file: Path) -> dict[str, str]:
    """Labels of a table or figure in the menu of the HTML report, which shows each key as a column."""
    if file.stem in PAPER_TABLES:
        return {"table of the paper": file.stem.removeprefix("paper_table")}
    if file.stem in TRAINING_TITLES:
        return {"figure": TRAINING_TITLES[file.stem]}
    kind = "figure" if file.suffix.removeprefix(".") in FIGURE_FORMATS else "table"
    return {"axis": AXIS_TITLES.get(file.stem, file.stem.replace("_", " ")), "kind": kind}


def picture_files(study: Study) -> list[Path]:
    """Neighbours of each compared method, and the sheet of all score histograms, if any are counted."""
    neighbours = [study.picture_files(method)[0] for method in study.pictured]
    return [*neighbours, *([study.out / "figures" / f"{HISTOGRAMS}.png"] if count_files(study) else [])]


def count_files(study: Study) -> list[Path]:
    """The counts of scores that the sheet of histograms shows."""
    files = [study.picture_files(method)[1] for method in study.pictured]
    return [file for file in files if file.suffix == ".json"]


def budget(study: Study, *, counted: bool = True) -> str:
    """The budget of every pretraining of the study: backbone, crop, length, batch, seeds; without full stop.

    `counted` counts the images on disk. What Snakemake compares between two calls must not: they are there only in
    the second.
    """
    configs = [run.config for run in study.runs.values()]
    config = next((c for c in configs if c.target), configs[0])
    images = trained_on(study, counted)
    length = f"{config.steps:,} steps over {images}" if config.steps else f"{config.epochs:g} epochs of {images}"
    return (
        f"{config.backbone} backbone, {config.views.crop} px crops, {length}, batch {config.batch_size}; "
        f"{seeds(study)}"
    )


def trained_on(study: Study, counted: bool) -> str:
    """The images that pretraining reads, in words: `1,183 of 1,577 photos`, the others being for validation."""
    source = study.source
    drawn = getattr(source.settings, "images", None)
    if drawn:
        return f"{drawn:,} images"
    train, val = source.images() if counted else (None, None)
    if train is None or val is None:
        return f"{source.data.train}'s images"
    if own_photos(source):
        return f"{train:,} of {train + val:,} photos"
    return f"{train:,} images of {source.data.train}"


def seeds(study: Study) -> str:
    """The seeds of the study, and which transfers ran with fewer: `seeds 0, 1 (detection: 0)`."""
    fewer = []
    for transfer, runs in study.transfer_runs.items():
        own = sorted({study.runs[run].config.seed for run in runs})
        if own != study.seeds:
            fewer.append(f"{transfer}: {_list(own) or 'none'}")
    word = "seed" if len(study.seeds) == 1 else "seeds"
    return f"{word} {_list(study.seeds)}" + (f" ({'; '.join(fewer)})" if fewer else "")


def transfer_budget(study: Study, used: Collection[str | None] | None = None) -> str:
    """The budget of the study's transfers, all or those in `used`, without full stop."""
    parts = []
    for name, t in study.transfers.items():
        if used is not None and name not in used:
            continue
        if isinstance(t, PseudoLabels):
            parts.append(f"a crop shows a category with {100 * t.visible:g} % of one of its boxes inside")
        elif isinstance(t, Detection | Segmentation):
            coco = not isinstance(t, Detection) or t.metric == "coco"
            voc = "" if coco else ", average precision of Pascal VOC"
            parts.append(
                f"{name} {t.iterations:,} iterations of {t.batch_size} images at {t.size} px, head {t.head}{voc}"
            )
        elif isinstance(t, Classification):
            trained = "linear layer" if t.frozen else "all layers"
            parts.append(f"{name} {t.epochs} epochs of {trained} at {t.size} px")
        else:
            parts.append(f"{'linear probe' if name == 'linear' else name} on frozen features at {t.size} px")
    return "; ".join(parts)


def _list(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))
