"""Evaluate the paper's claims on a study: the rows behind tables/claims and figures/claims.

Which rows there are follows from the study, except that scores below resolution (`resolution.py`) are left out.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import fisher_exact

from mlssl.analysis.aggregate import Summary, summarise
from mlssl.analysis.outputs import Score, headline, pretrained_and_untrained, supervised
from mlssl.claims.margins import MARGIN
from mlssl.claims.paper import CLAIMS, Claim, Comparison, Failures, Level, Parts
from mlssl.claims.resolution import below_resolution
from mlssl.statistics import paired, verdict
from mlssl.statistics.paired import Difference, Share
from mlssl.statistics.verdict import Evidence
from mlssl.study.study import COMPARE, Study

NOT_IN_STUDY = "not in this study"
NO_RESULT = "no result yet"
IMAGE_GROUPS = "image_groups.tsv"
FEWEST_TO_COUNT = 5
"""Seeds at which Fisher's test can decide: all of one level fail, none of the other (p = 1 / 252)."""


@dataclass(frozen=True)
class Sample:
    """A score of one level, by seed."""

    values: dict[int, float]
    groups: dict[int, np.ndarray]
    """The score without each group of evaluation images; {} if that is not known."""
    summary: Summary


@dataclass(frozen=True)
class Outcome:
    """One comparison of a claim by one evaluator."""

    label: str
    margin: float
    found: Difference | None = None
    """None without a common seed."""
    share: Share | None = None
    """The difference as a share of the way from untrained to supervised weights."""
    note: str = ""
    """Missing or failed runs, or counts."""
    counts: tuple[tuple[int, int], tuple[int, int]] | None = None
    """Runs that failed and that did not, of both levels, where these are compared instead of scores."""

    @property
    def known(self) -> bool:
        """Whether any run has a result."""
        return self.found is not None or any(map(sum, self.counts or ()))


@dataclass(frozen=True)
class Row:
    """A claim by one evaluator."""

    claim: Claim
    verdict: str
    score: Score | None = None
    """None if the study has no evaluator for it."""
    primary: bool = True
    """Whether this evaluator decides the claim."""
    outcomes: tuple[Outcome, ...] = ()
    evidence: Evidence = field(default_factory=Evidence)
    """Of the whole claim, corrected where one of its comparisons is enough."""
    missing: str = ""
    """What the study lacks for it."""
    because: str = ""
    """The comparison that alone is enough for the verdict; empty if all comparisons are needed."""


class Samples:
    """The scores of a study's levels; `groups` has the columns of image_groups.tsv."""

    def __init__(self, study: Study, metrics: pd.DataFrame, groups: pd.DataFrame | None) -> None:
        self.study, self.metrics, self.axes = study, metrics, study.axes()
        first: dict[str, Score] = {}
        for score in headline(study):
            if score.metric in MARGIN:
                first.setdefault(score.protocol, score)
        unresolved = below_resolution(study, metrics)
        self.scores = [score for score in first.values() if score not in unresolved]
        """The first score of each protocol, unless it is below resolution."""
        _, untrained = pretrained_and_untrained(study)
        self.floor = Level(((COMPARE, untrained),)) if untrained else None
        """Untrained weights, if the study compares them."""
        self.ceiling = next((Level(((COMPARE, method),)) for method in supervised(study)), None)
        """The first method that trains with labels, if the study compares one."""
        self._groups: dict[Any, np.ndarray] = {}
        """By run, protocol and metric."""
        if groups is not None and len(groups):
            ordered = groups.sort_values("group", kind="stable")
            by_key = ordered.groupby(["run", "protocol", "metric"], sort=False)["value"]
            self._groups = {key: values.to_numpy(dtype=float) for key, values in by_key}
        self._runs: dict[tuple[str, str], list[str]] = {}
        """By axis and level."""
        for cell in study.cells:
            self._runs.setdefault((cell.axis, cell.level), []).append(cell.run)
        self._summaries = functools.cache(lambda axis, score: summarise(study, metrics, axis, score))

    def score(self, protocol: str) -> Score | None:
        """The score that the study has for a protocol."""
        return next((s for s in self.scores if s.protocol == protocol), None)

    def expected(self, level: Level, score: Score) -> int:
        """Seeds that the study has of a level and score."""
        place = level.place(self.axes)
        return self._summaries(place[0], score)[place[1]].expected if place else 0

    def get(self, level: Level, score: Score) -> Sample:
        """All seeds with a result; a level that the study lacks has none."""
        place = level.place(self.axes)
        if place is None:
            return Sample({}, {}, Summary({}, 0))
        summary, groups = self._summaries(place[0], score)[place[1]], {}
        for run in self._runs[place]:
            key = (run, score.protocol, score.metric)
            if key in self._groups:
                groups[self.study.runs[run].config.seed] = self._groups[key]
        return Sample(summary.values, groups, summary)


def read_groups(study: Study) -> pd.DataFrame | None:
    """image_groups.tsv of a study; None if there is none, so that the evaluation images count as fixed."""
    path = study.out / IMAGE_GROUPS
    return pd.read_csv(path, sep="\t", dtype={"digest": str, "run": str}) if path.exists() else None


def evaluate(study: Study, metrics: pd.DataFrame, groups: pd.DataFrame | None) -> list[Row]:
    """All claims, each by all its evaluators, the one that decides first."""
    samples = Samples(study, metrics, groups)
    return [row for claim in CLAIMS for row in rows(samples, claim)]


def by_verdict(rows: Sequence[Row]) -> dict[str, list[int]]:
    """Verdict without its number -> the claims with it, each by the evaluator that decides it."""
    found: dict[str, list[int]] = {}
    for row in rows:
        if row.primary:
            small = row.verdict.startswith("no difference")
            word = "no difference larger than δ" if small else verdict.short(row.verdict)
            found.setdefault(word, []).append(row.claim.number)
    return found


def rows(samples: Samples, claim: Claim) -> list[Row]:
    """A claim's rows; a single one that says what is missing, if the study cannot evaluate it."""
    tree = claim.tree(samples.axes)
    if tree is None:
        return [Row(claim, NOT_IN_STUDY, missing=claim.needs)]
    levels = list(dict.fromkeys(levels_of(tree)))
    if missing := [level.needed for level in levels if level.place(samples.axes) is None]:
        return [Row(claim, NOT_IN_STUDY, missing=", ".join(missing))]
    seeds: dict[Score, int] = {}
    for protocol in claim.protocols:
        score = samples.score(protocol)
        if score and (fewest := min(samples.expected(level, score) for level in levels)):
            seeds[score] = fewest
    if not seeds:
        return [Row(claim, NOT_IN_STUDY, missing=f"these levels measured by {' or '.join(claim.protocols)}")]
    primary = next((score for score, n in seeds.items() if n > 1), next(iter(seeds)))
    ordered = [primary, *(score for score in seeds if score != primary)]
    return [row(samples, claim, tree, score, primary=score == primary) for score in ordered]


def levels_of(tree: Parts | Comparison | Failures) -> Iterable[Level]:
    """The levels of all comparisons."""
    if isinstance(tree, Parts):
        for part in tree.parts:
            yield from levels_of(part)
    elif isinstance(tree, Failures):
        yield from (tree.level, tree.other, tree.floor)
    else:
        yield from (tree.better, tree.worse)


def row(samples: Samples, claim: Claim, tree: Parts, score: Score, *, primary: bool) -> Row:
    """One claim by one evaluator."""
    outcomes: list[Outcome] = []
    lacking: list[str] = []

    def weigh(node: Parts | Comparison | Failures) -> Evidence | None:
        """The evidence of a part; None if the study cannot evaluate it."""
        if isinstance(node, Failures):
            return failures(samples, node, score, outcomes)
        if isinstance(node, Comparison):
            return comparison(samples, node, score, outcomes, lacking)
        known = [evidence for part in node.parts if (evidence := weigh(part)) is not None]
        combine = verdict.every if node.how == "every" else verdict.some
        return combine(known) if known else None

    evidence = weigh(tree) or Evidence()
    missing = ", ".join(dict.fromkeys(lacking))
    said = words(outcomes, evidence, bool(missing))
    because = alone(outcomes, said) if tree.how == "every" and len(outcomes) > 1 else ""
    return Row(claim, said, score, primary, tuple(outcomes), evidence, missing, because)


def alone(outcomes: Sequence[Outcome], said: str) -> str:
    """The comparison that contradicts the claim or shows no difference, where it takes all to support it."""
    known = [(o, verdict.of(o.found, o.margin)) for o in outcomes if o.found is not None]
    if said == verdict.CONTRADICTED:
        return min(known, key=lambda pair: pair[1].below)[0].label
    if said.startswith(verdict.SMALL.format(0)[:-1]):
        return min(known, key=lambda pair: pair[1].within)[0].label
    return ""


def words(outcomes: Sequence[Outcome], evidence: Evidence, part_missing: bool) -> str:
    """The verdict on these comparisons. Without one of its parts, a claim can be refuted but not supported."""
    known = [(o.found, o.margin) for o in outcomes if o.found is not None]
    decided = verdict.decide(evidence)
    if counts := next((o.counts for o in outcomes if o.counts is not None), None):
        (failed, fine), (others_failed, _) = counts
        more = max(failed + fine + 1, FEWEST_TO_COUNT)
        # Runs that diverged have no score: where one or none is left, their number decides.
        known = [(found, margin) for found, margin in known if found.n > 1] or known
        if failed + fine > 1:
            if not known or known[0][0].n < 2:
                return decided or verdict.undecided(more)
            if decided is None and fine == others_failed == 0:
                return verdict.undecided(min(more, verdict.seeds_to_decide(known)))
    elif len(known) < len(outcomes):
        return NO_RESULT
    if not known:
        return NO_RESULT
    if part_missing and decided in (None, verdict.SUPPORTED):
        return NOT_IN_STUDY
    return verdict.verdict(evidence, known)


def comparison(
    samples: Samples, node: Comparison, score: Score, outcomes: list[Outcome], lacking: list[str]
) -> Evidence | None:
    """The evidence of one comparison, which is added to `outcomes`; None, with a reason, if the study lacks it."""
    pairs = [(score, 1.0)]
    if node.less:
        known = [samples.score(protocol) for protocol in node.less]
        other = next(
            (s for s in known if s and samples.expected(node.better, s) and samples.expected(node.worse, s)), None
        )
        if other is None:
            lacking.append(f"the same levels measured by {' or '.join(node.less)}")
            return None
        pairs.append((other, -1.0))
    names = [level.name(samples.axes) for level in (node.better, node.worse)]
    label = " − ".join(names)
    if node.less:
        label += f", less that by {pairs[1][0].protocol}"
    elif node.metrics:
        label = " − ".join(f"{name} ({metric})" for name, metric in zip(names, node.metrics, strict=True))
    found: list[tuple[Sequence[Sample], float]] = []
    notes: list[str] = []
    for by, sign in pairs:
        metrics = node.metrics or (by.metric, by.metric)
        two = [
            samples.get(level, replace(by, metric=metric))
            for level, metric in zip((node.better, node.worse), metrics, strict=True)
        ]
        found.append((two, sign))
        notes += [f"{name}: {s.summary.status}" for name, s in zip(names, two, strict=True) if s.summary.absent]
    note, margin = "; ".join(dict.fromkeys(notes)), MARGIN[score.metric]
    result = paired_scores(found)
    if result is None:
        outcomes.append(Outcome(label, margin, note=note))
        return Evidence()
    share = None if node.less or node.metrics else share_of_the_way(samples, score, found[0][0])
    outcomes.append(Outcome(label, margin, result, share, note))
    return verdict.of(result, margin)


def paired_scores(pairs: Sequence[tuple[Sequence[Sample], float]]) -> Difference | None:
    """The sum over `pairs` of sign x (first - second), within the seeds that all have; None without such a seed."""
    seeds = sorted(set.intersection(*(set(sample.values) for two, _ in pairs for sample in two)))
    if not seeds:
        return None
    values = sum(sign * (array(two[0], seeds) - array(two[1], seeds)) for two, sign in pairs)
    leave_out = [
        sign * (a - b)
        for two, sign in pairs
        if (a := out(two[0], seeds, two[1])) is not None and (b := out(two[1], seeds, two[0])) is not None
    ]
    return paired.difference(values, *(leave_out if len(leave_out) == len(pairs) else ()))


DIRECTION = {verdict.SUPPORTED: "better", verdict.CONTRADICTED: "worse"}
"""The verdict on `the first is better`, of a difference that no claim is about."""


def verdict_on(found: Difference | None, metric: str) -> str:
    """The verdict on one difference; `no result yet` without one."""
    if found is None:
        return NO_RESULT
    margin = MARGIN[metric]
    return verdict.verdict(verdict.of(found, margin), [(found, margin)])


def word(found: Difference | None, metric: str) -> str:
    """Of a difference that no claim is about: `better`, `worse`, or the verdict."""
    text = verdict_on(found, metric)
    return DIRECTION.get(text, text)


def array(sample: Sample, seeds: Sequence[int]) -> np.ndarray:
    """Its values at these seeds, float n."""
    return np.array([sample.values[seed] for seed in seeds])


def out(sample: Sample, seeds: Sequence[int], *beside: Sample) -> np.ndarray | None:
    """Its values without each group of images, float n x G; None unless all seeds have the groups of `beside`."""
    known = [s.groups.get(seed) for s in (sample, *beside) for seed in seeds]
    if any(g is None for g in known) or len({len(g) for g in known if g is not None}) != 1:
        return None
    return np.array([sample.groups[seed] for seed in seeds])


def share_of_the_way(samples: Samples, score: Score, two: Sequence[Sample]) -> Share | None:
    """The difference of two samples as a share of the way from untrained weights (0) to supervised (1).

    None without both, or without a common seed.
    """
    if samples.floor is None or samples.ceiling is None:
        return None
    floor, ceiling = samples.get(samples.floor, score), samples.get(samples.ceiling, score)
    all_four = (*two, ceiling, floor)
    seeds = sorted(set.intersection(*(set(sample.values) for sample in all_four)))
    if not seeds:
        return None
    a, b, c, d = (array(sample, seeds) for sample in all_four)
    groups = [out(sample, seeds, *all_four) for sample in all_four]
    if any(g is None for g in groups):
        return paired.share(a - b, c - d)
    ga, gb, gc, gd = (g for g in groups if g is not None)
    return paired.share(a - b, c - d, ga - gb, gc - gd)


def failures(samples: Samples, node: Failures, score: Score, outcomes: list[Outcome]) -> Evidence:
    """The evidence that one level fails more often than another; no failure at all does not speak against it."""
    floor = samples.get(node.floor, score).values
    counts = []
    for level in (node.level, node.other):
        sample = samples.get(level, score)
        below = sum(value < floor[seed] for seed, value in sample.values.items() if seed in floor)
        failed = below + sum(why.startswith("failed") for why in sample.summary.absent)
        runs = len(sample.values) + failed - below
        counts.append((failed, runs - failed))
    (failed, fine), (others_failed, others_fine) = counts
    note = f"{failed} of {failed + fine} against {others_failed} of {others_failed + others_fine}"
    label = f"failed runs of {node.level.name(samples.axes)}, against {node.other.name(samples.axes)}"
    outcomes.append(Outcome(label, MARGIN[score.metric], note=note, counts=(counts[0], counts[1])))
    if not failed:
        return Evidence(below=0.0, short=0.0)
    return Evidence(above=float(fisher_exact(counts, alternative="greater").pvalue))
