"""Verdicts in words that are fixed in advance, from the p-values of one comparison or of several.

A comparison is `better - worse`; a claim says that it is above 0. Each word is given wrongly in at most 2.5 % of
studies (ALPHA), whatever the true differences are; docs/statistics.md has the rules and their reasons.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from mlssl.statistics.paired import ALPHA, LEVEL, Difference, seeds_needed

SUPPORTED = "supported"
CONTRADICTED = "contradicted"
SMALL = "no difference larger than {:g}"
UNDECIDED = "undecided (needs n = {})"
TOO_FEW_IMAGES = "undecided (needs more evaluation images)"
OUT_OF_REACH = "undecided; this budget or this number of labelled images cannot show it"
MOST_SEEDS = 30
"""Of more seeds than this, the number is not named: no study would train that many."""
ONE_SEED = "one seed"


@dataclass(frozen=True)
class Evidence:
    """P-values of a claim, one-sided; all 1 where nothing is known."""

    above: float = 1.0
    """That it is false: a small value supports it."""
    below: float = 1.0
    """That it is not the other way round: a small value contradicts it."""
    within: float = 1.0
    """That the difference is at least the margin in size: a small value shows that there is none that large."""
    short: float = 1.0
    """That the difference is at least the margin in the claim's direction."""


def of(found: Difference, margin: float) -> Evidence:
    """The evidence of one comparison, with the equivalence margin δ in the units of the score."""
    return Evidence(found.p_above(), found.p_below(), found.p_within(margin), found.p_below(margin))


def every(parts: Sequence[Evidence]) -> Evidence:
    """All parts must hold. Supported by an intersection-union test, without correction; one part against it is
    enough to contradict it, or to show that a difference is small, so those are corrected by Holm's method."""
    return Evidence(
        above=max(p.above for p in parts),
        below=union([p.below for p in parts]),
        within=union([p.within for p in parts]),
        short=union([p.short for p in parts]),
    )


def some(parts: Sequence[Evidence]) -> Evidence:
    """One alternative is enough. The mirror image of `every`; `within` says that no alternative is better by δ."""
    return Evidence(
        above=union([p.above for p in parts]),
        below=max(p.below for p in parts),
        within=max(p.short for p in parts),
        short=max(p.short for p in parts),
    )


def union(p_values: Sequence[float]) -> float:
    """P-value that at least one hypothesis is false: the smallest of those corrected by Holm's method."""
    return min(1.0, len(p_values) * min(p_values))


def decide(evidence: Evidence, alpha: float = ALPHA) -> str | None:
    """SUPPORTED, CONTRADICTED or SMALL (without its number); None if undecided."""
    for p, word in ((evidence.above, SUPPORTED), (evidence.below, CONTRADICTED), (evidence.within, SMALL)):
        if p <= alpha:
            return word
    return None


def verdict(evidence: Evidence, comparisons: Sequence[tuple[Difference, float]]) -> str:
    """The words for a claim that rests on these comparisons, each a difference and its margin δ.

    The margin in words is the largest of them.
    """
    if any(found.n < 2 for found, _ in comparisons):
        return ONE_SEED
    word = decide(evidence)
    if word:
        return word.format(max(margin for _, margin in comparisons))
    return undecided(seeds_to_decide(comparisons))


def seeds_to_decide(comparisons: Sequence[tuple[Difference, float]]) -> float:
    """Seeds at which every comparison is decided whatever its mean, as `seeds_needed`.

    A 95 % interval (for m comparisons 1 - 0.05 / m) with a half-width of at most δ / 2 excludes 0 or is inside ±δ.
    Comparisons that are decided at this level already do not count, unless all are.
    """
    m = len(comparisons)
    still_open = [(found, margin) for found, margin in comparisons if decide(of(found, margin), ALPHA / m) is None]
    level = 1 - (1 - LEVEL) / m
    return max(seeds_needed(found, margin / 2, level) for found, margin in still_open or comparisons)


def undecided(needed: float) -> str:
    """The words where nothing is decided and this many seeds would be needed, infinite if no number is enough."""
    if math.isinf(needed):
        return TOO_FEW_IMAGES
    return OUT_OF_REACH if needed > MOST_SEEDS else UNDECIDED.format(needed)


def short(word: str) -> str:
    """A verdict without what follows it: `undecided`."""
    return re.split(r" \(|; ", word)[0]
