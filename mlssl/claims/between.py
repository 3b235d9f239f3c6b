"""Differences between two studies: the same method by the same evaluator on the same data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mlssl.analysis.aggregate import Summary
from mlssl.analysis.several import Entry, Evaluator, Results
from mlssl.claims.evaluate import IMAGE_GROUPS, Sample, paired_scores
from mlssl.claims.margins import MARGIN
from mlssl.errors import ConfigError
from mlssl.statistics import verdict
from mlssl.statistics.paired import Difference
from mlssl.statistics.unpaired import Unpaired, unpaired

HIGHER, LOWER = "higher", "lower"
WORDS = {verdict.SUPPORTED: HIGHER, verdict.CONTRADICTED: LOWER}


@dataclass(frozen=True)
class Pair:
    """One method in both studies."""

    first: Entry
    second: Entry

    @property
    def settings(self) -> str:
        """`the same`, for settings and images of pretraining, or the digests of both."""
        mine, theirs = self.first.digest, self.second.digest
        return "the same" if mine == theirs else f"{mine[:8]} and {theirs[:8]}"


def common(first: Results, second: Results) -> tuple[list[Evaluator], list[str]]:
    """The evaluators that can be compared, and a sentence for each that cannot, which names both.

    Raises ConfigError, with the first of the sentences, if none can.
    """
    by_protocol = {evaluator.protocol: evaluator for evaluator in second.entries}
    shared: list[Evaluator] = []
    refused: dict[str, list[str]] = {}
    for mine in first.entries:
        theirs = by_protocol.get(mine.protocol)
        if theirs is None:
            continue
        if mine == theirs:
            shared.append(mine)
        else:
            why = f"{first.name} has {mine.about}, {second.name} has {theirs.about}"
            refused.setdefault(why, []).append(mine.protocol)
    sentences = [f"{', '.join(protocols)}: not compared, because {why}" for why, protocols in refused.items()]
    if not shared:
        what = sentences[0] if sentences else f"{first.name} and {second.name} have no evaluator in common"
        raise ConfigError(f"{what}; evaluate both with the same settings on the same data")
    return shared, sentences


def pairs(first: Results, second: Results, evaluator: Evaluator) -> list[Pair]:
    """The methods of both: by their settings where these are equal, else by name where it is unique in both."""
    theirs = {entry.digest: entry for entry in second.entries[evaluator]}
    found, rest = [], []
    for mine in first.entries[evaluator]:
        other = theirs.get(mine.digest)
        if other is not None:
            found.append(Pair(mine, other))
        else:
            rest.append(mine)
    taken = {pair.second.digest for pair in found}
    left = [entry for entry in second.entries[evaluator] if entry.digest not in taken]
    for mine in rest:
        named = [entry for entry in left if entry.name == mine.name]
        if len(named) == 1 and [entry.name for entry in rest].count(mine.name) == 1:
            found.append(Pair(mine, named[0]))
    order = {entry.digest: place for place, entry in enumerate(first.entries[evaluator])}
    return sorted(found, key=lambda pair: order[pair.first.digest])


def groups(results: Results) -> dict[tuple[str, str, str], np.ndarray]:
    """Run, protocol and metric -> the score without each group of images; {} without image_groups.tsv."""
    path = results.folder / IMAGE_GROUPS
    if not path.exists():
        return {}
    frame = pd.read_csv(path, sep="\t", dtype={"digest": str, "run": str}).sort_values("group", kind="stable")
    by_key = frame.groupby(["run", "protocol", "metric"], sort=False)["value"]
    return {(str(r), str(p), str(m)): v.to_numpy(dtype=float) for (r, p, m), v in by_key}


def sample(
    entry: Entry, evaluator: Evaluator, metric: str, known: dict[tuple[str, str, str], np.ndarray]
) -> Sample:
    """The scores of an entry, as the statistics take them."""
    values = entry.values.get(metric, {})
    keys = {seed: (entry.runs[seed], evaluator.protocol, metric) for seed in values}
    out = {seed: known[key] for seed, key in keys.items() if key in known}
    return Sample(values, out, Summary(values, len(entry.runs)))


def difference(first: Sample, second: Sample) -> Difference | Unpaired | None:
    """Second less first: paired within the seeds of both, unpaired without such a seed; None without a score.

    One seed in common is paired only where both have no other.
    """
    if not first.values or not second.values:
        return None
    shared = first.values.keys() & second.values.keys()
    if len(shared) > 1 or first.values.keys() == second.values.keys():
        return paired_scores([((second, first), 1.0)])
    return unpaired(list(second.values.values()), list(first.values.values()))


def word(found: Difference | Unpaired, metric: str) -> str:
    """`higher` or `lower` if the 95 % interval excludes 0, else what the statistics say."""
    if isinstance(found, Unpaired):
        if math.isnan(found.low):
            return verdict.ONE_SEED if min(found.n, found.n_other) < 2 else "undecided"
        return HIGHER if found.low > 0 else LOWER if found.high < 0 else "undecided"
    if found.n > 1 and found.mean == 0 and found.seeds == 0:
        return "the same numbers"
    margin = MARGIN.get(metric)
    if margin is None:
        low, high = found.interval()
        return verdict.ONE_SEED if found.n < 2 else HIGHER if low > 0 else LOWER if high < 0 else "undecided"
    text = verdict.verdict(verdict.of(found, margin), [(found, margin)])
    return WORDS.get(text, text)


def unmatched(first: Results, second: Results, evaluator: Evaluator, found: Sequence[Pair]) -> list[str]:
    """`mls (demo)`: the methods that only one of them has."""
    first_ones, second_ones = {p.first.digest for p in found}, {p.second.digest for p in found}
    return [
        f"{entry.name} ({results.name})"
        for results, taken in ((first, first_ones), (second, second_ones))
        for entry in results.entries[evaluator]
        if entry.digest not in taken
    ]
