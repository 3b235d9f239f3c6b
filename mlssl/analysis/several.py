"""The scores of several result folders, grouped by what makes two scores comparable.

Only `metrics.tsv` is read, and names of levels from `runs.tsv` if it is there: folders of other machines and
commits can be given.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from mlssl.analysis.aggregate import read_metrics_file
from mlssl.analysis.outputs import ACCURACIES, FROZEN, MINUTES, NO_METRIC, Score
from mlssl.errors import ConfigError
from mlssl.study.load import load
from mlssl.study.study import COMPARE

METRICS_FILE, RUNS_FILE = "metrics.tsv", "runs.tsv"
RESULTS = Path("results")
SCORES = dict.fromkeys([*(s.metric for s in FROZEN), *ACCURACIES, "mAP", "AP_bbox", "AP50_bbox", "AP_segm"])
"""The metrics that are shown, all in percent, larger is better; metrics.tsv has more."""


@dataclass(frozen=True, order=True)
class Evaluator:
    """What two scores must have in common to be compared."""

    protocol: str
    head: str
    """Empty for an evaluator that trains none."""
    settings: str
    """Digest of all settings of the evaluator."""
    data: str
    """Fingerprint of its images and annotations; empty where the results do not record it."""
    only: str = ""
    """The study, where the data are not recorded: its scores are compared with no other study's."""

    @property
    def title(self) -> str:
        """`detection, head 2fc`."""
        return self.protocol + (f", head {self.head}" if self.head else "")

    @property
    def about(self) -> str:
        """`head 2fc, settings 52609aad8a81 on data 1ef4a2c579e6`."""
        head = f"head {self.head}, " if self.head else ""
        return f"{head}settings {self.settings} on data {self.data or 'that are not recorded'}"


@dataclass(frozen=True)
class Entry:
    """One method of one study by one evaluator. All its runs have the same settings apart from the seed."""

    study: str
    method: str
    digest: str
    """Of the settings of the pretraining and of its images, without the seed."""
    name: str
    """The compared method, or `mls, k = 5` of an ablation; the method alone without runs.tsv."""
    runs: dict[int, str]
    """Seed -> name of the run."""
    values: dict[str, dict[int, float]]
    """Metric -> seed -> score in percent."""
    absent: tuple[str, ...] = ()
    """Why runs have no score: `missing` or `failed`, one per run."""
    n: tuple[int, ...] = ()
    """Numbers of evaluation images or crops."""
    images_seen: float = math.nan
    """Images seen in one pretraining; NaN if it is not known."""
    minutes: tuple[float, ...] = ()
    """Wall time of each pretraining."""
    devices: tuple[str, ...] = ()
    commits: tuple[str, ...] = ()

    def mean(self, metric: str) -> float:
        """Over seeds; NaN if there are none."""
        values = self.values.get(metric, {}).values()
        return statistics.fmean(values) if values else math.nan

    def std(self, metric: str) -> float:
        """Sample standard deviation over seeds (ddof 1); NaN for fewer than two."""
        values = self.values.get(metric, {}).values()
        return statistics.stdev(values) if len(values) > 1 else math.nan

    @property
    def seeds(self) -> int:
        """The largest number of seeds with a score."""
        return max((len(values) for values in self.values.values()), default=0)


@dataclass(frozen=True)
class Results:
    """What one folder holds."""

    name: str
    folder: Path
    metrics: pd.DataFrame
    entries: dict[Evaluator, list[Entry]] = field(default_factory=dict)


def read(given: Sequence[Path | str]) -> list[Results]:
    """The results of study folders, of folders of studies, or of studies by file or name, in this order.

    Raises ConfigError for what is none of these, and for the same folder twice.
    """
    found = [folder for one in given for folder in folders(Path(one))]
    for folder, count in Counter(folder.resolve() for folder in found).items():
        if count > 1:
            raise ConfigError(f"{folder}: is given twice; give each study once")
    shared = {name for name, count in Counter(folder.name for folder in found).items() if count > 1}
    read_ones = []
    for folder in found:
        name = str(folder) if folder.name in shared else folder.name
        metrics = read_metrics_file(folder / METRICS_FILE, "mlssl collect STUDY")
        read_ones.append(Results(name, folder, metrics, entries(name, metrics, places(folder))))
    return read_ones


def folders(given: Path) -> list[Path]:
    """The folders with a metrics.tsv that an argument means."""
    if given.suffix in (".yaml", ".yml") and given.is_file():
        given = load(given).out
    elif not given.exists() and (RESULTS / given).is_dir():
        given = RESULTS / given
    if given.name == METRICS_FILE and given.is_file():
        return [given.parent]
    if (given / METRICS_FILE).is_file():
        return [given]
    if inside := sorted(path.parent for path in given.glob(f"*/{METRICS_FILE}")):
        return inside
    raise ConfigError(
        f"{given}: has no {METRICS_FILE}, nor has a folder in it; give a folder such as results/demo, or run "
        "`mlssl collect STUDY` first"
    )


def places(folder: Path) -> dict[str, str]:
    """Digest -> its name in the study's tables by runs.tsv, that in the comparison first; {} without the file."""
    path = folder / RUNS_FILE
    if not path.is_file():
        return {}
    runs = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    found: dict[str, str] = {}
    columns = (runs[name] for name in ("axis", "level", "method", "digest"))
    for axis, level, method, digest in zip(*columns, strict=True):
        if axis == COMPARE:
            found[digest] = level
        else:
            found.setdefault(digest, f"{method}, {axis} = {level}")
    return found


def entries(study: str, metrics: pd.DataFrame, names: Mapping[str, str]) -> dict[Evaluator, list[Entry]]:
    """Evaluator -> its methods, in the order of the rows; `names` are those of `places`.

    Raises ConfigError if a study mixes settings or data.
    """
    by_protocol: dict[str, dict[tuple[str, str], list[Any]]] = {}
    lines: Iterable[Any] = metrics.itertuples(index=False)
    for row in lines:
        by_protocol.setdefault(row.protocol, {}).setdefault((row.method, row.digest), []).append(row)
    costs = {digest: cost(rows) for (_, digest), rows in by_protocol.get(MINUTES.protocol, {}).items()}
    found: dict[Evaluator, list[Entry]] = {}
    for protocol, by_method in by_protocol.items():
        scores = {key: [row for row in rows if is_score(row)] for key, rows in by_method.items()}
        if protocol.startswith((MINUTES.protocol, "pseudo_labels")) or not any(scores.values()):
            continue
        evaluator = evaluator_of(study, protocol, [row for rows in scores.values() for row in rows])
        found[evaluator] = [
            entry(study, key, names, rows, scores[key], costs.get(key[1], {})) for key, rows in by_method.items()
        ]
    return found


def is_score(row: Any) -> bool:
    """Whether a row of metrics.tsv has a number of SCORES."""
    return row.metric in SCORES and not math.isnan(row.value)


def evaluator_of(study: str, protocol: str, scores: Sequence[Any]) -> Evaluator:
    """The evaluator of all scores of a protocol."""
    keys = {(row.head, row.config_digest, row.data): row for row in scores}
    found = [Evaluator(protocol, *("" if pd.isna(part) else part for part in key)) for key in keys]
    if len(set(found)) > 1:
        both = " and ".join(evaluator.about for evaluator in found[:2])
        raise ConfigError(f"{study}: {protocol} was measured with {both}; `mlssl collect STUDY` again")
    one = found[0]
    return one if one.data and one.settings else replace(one, only=study)


def entry(
    study: str,
    key: tuple[str, str],
    names: Mapping[str, str],
    rows: Sequence[Any],
    scores: Sequence[Any],
    costs: Mapping[str, Any],
) -> Entry:
    """One method and digest, the `key`, by one evaluator; `costs` are those of its pretraining."""
    method, digest = key
    values: dict[str, dict[int, float]] = {}
    for row in scores:
        values.setdefault(row.metric, {})[row.seed] = row.value
    return Entry(
        study,
        method,
        digest,
        names.get(digest, method),
        runs={row.seed: row.run for row in rows},
        values=values,
        absent=tuple(row.status.split(":")[0] for row in rows if row.metric == NO_METRIC and row.status != "ok"),
        n=tuple(sorted({int(row.n) for row in scores if not math.isnan(row.n)})),
        commits=tuple(sorted({row.commit for row in scores if not pd.isna(row.commit)})),
        **costs,
    )


def cost(rows: Sequence[Any]) -> dict[str, Any]:
    """What the pretrainings of one digest cost, as Entry has it."""
    seen = {row.value for row in rows if row.metric == "images_seen"}
    return {
        "images_seen": seen.pop() if len(seen) == 1 else math.nan,
        "minutes": tuple(row.value for row in rows if row.metric == MINUTES.metric and not math.isnan(row.value)),
        "devices": tuple(sorted({row.device for row in rows if not pd.isna(row.device)})),
    }


def metrics_of(of_evaluator: Iterable[Entry]) -> list[str]:
    """The metrics that at least one entry has, in the order of SCORES."""
    known = {metric for one in of_evaluator for metric in one.values}
    return [metric for metric in SCORES if metric in known]


def labels(of_evaluator: Sequence[Entry]) -> list[str]:
    """The name of each entry, with the start of its digest where a study has the name several times."""
    count = Counter((one.study, one.name) for one in of_evaluator)
    return [one.name + (f" ({one.digest[:8]})" if count[one.study, one.name] > 1 else "") for one in of_evaluator]


def title(metric: str) -> str:
    """A metric with its unit, as a column."""
    return Score("", metric, ACCURACIES.get(metric, metric), "%").label
