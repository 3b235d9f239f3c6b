"""What a study says about one axis, in a sentence: which levels differ, or that none does by more than δ."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

from mlssl.analysis.names import in_words
from mlssl.analysis.outputs import Score, pretrained_and_untrained
from mlssl.claims.evaluate import NO_RESULT, Samples, paired_scores, word
from mlssl.claims.margins import MARGIN
from mlssl.claims.paper import Level
from mlssl.statistics import verdict
from mlssl.statistics.paired import ALPHA, LEVEL, Difference
from mlssl.statistics.verdict import union
from mlssl.study.study import COMPARE


@dataclass(frozen=True)
class Pair:
    """Two levels, the better one first."""

    better: str
    worse: str
    found: Difference


@dataclass(frozen=True)
class Finding:
    """Of one axis by one evaluator."""

    axis: str
    score: Score | None
    """None without an evaluator that has two levels or more."""
    pair: Pair | None
    """The two levels that differ most clearly; None without two levels that share a seed."""
    pairs: int
    """Number of pairs of levels, for which the interval and the p-values are corrected."""
    word: str
    """`different`, `no difference larger than δ`, or why there is neither."""

    @property
    def interval(self) -> tuple[float, float]:
        """Of the pair, with 95 % for all pairs together (Bonferroni); NaN for one seed."""
        if self.pair is None:
            return math.nan, math.nan
        return self.pair.found.interval(1 - (1 - LEVEL) / self.pairs)

    @property
    def pair_text(self) -> str:
        """The pair with difference, interval and n; empty without a pair."""
        if self.score is None or self.pair is None:
            return ""
        low, high = self.interval
        interval = "" if math.isnan(low) else f", 95 % CI [{low:.1f}, {high:.1f}]"
        numbers = f"{self.pair.found.mean:+.1f} points of {self.score.title}{interval}, n = {self.pair.found.n}"
        return f"{in_words(self.pair.better)} against {in_words(self.pair.worse)}: {numbers}"

    @property
    def text(self) -> str:
        """The finding, without its axis."""
        if not self.pair_text:
            return self.word
        return self.pair_text if self.word == DIFFERENT else f"{self.word}; largest, {self.pair_text}"

    @property
    def sentence(self) -> str:
        """The axis and its finding."""
        return f"{in_words(self.axis)}: {self.text}"


DIFFERENT = "different"


def finding(samples: Samples, axis: str) -> Finding:
    """Compare all pairs of levels of an axis by the first evaluator that the study has for two of them.

    `different` needs one pair whose two-sided p-value, corrected by Holm's method for all pairs, is at most 5 %;
    `no difference` needs every pair to be within ±δ, each by TOST (no correction: all must hold). Of methods,
    those that train without labels are compared (`choices`).
    """
    levels = {name: Level(((axis, name),)) for name in choices(samples, axis)}
    for score in samples.scores:
        known = {
            name: samples.get(level, score) for name, level in levels.items() if samples.expected(level, score)
        }
        if len(known) < 2:
            continue
        pairs = []
        for a, b in combinations(known, 2):
            found = paired_scores([((known[a], known[b]), 1.0)])
            if found is not None and found.mean < 0:
                a, b, found = b, a, paired_scores([((known[b], known[a]), 1.0)])
            if found is not None:
                pairs.append(Pair(a, b, found))
        return weigh(axis, score, pairs)
    return Finding(axis, None, None, 0, NO_RESULT)


def choices(samples: Samples, axis: str) -> list[str]:
    """The levels of an axis that one may choose; of the compared methods, those that train without labels.

    If there is one such method alone, all compared methods.
    """
    levels = samples.axes[axis]
    if axis != COMPARE:
        return levels
    pretrained, _ = pretrained_and_untrained(samples.study)
    return pretrained if len(pretrained) > 1 else levels


def weigh(axis: str, score: Score, pairs: list[Pair]) -> Finding:
    """The words for these pairs of levels, each with its better level first."""
    if not pairs:
        return Finding(axis, score, None, 0, NO_RESULT)
    margin, m = MARGIN[score.metric], len(pairs)
    largest = max(pairs, key=lambda pair: pair.found.mean)
    if any(pair.found.n < 2 for pair in pairs):
        return Finding(axis, score, largest, m, verdict.ONE_SEED)
    clearest = min(pairs, key=lambda pair: pair.found.p_above())
    # The better level is chosen after the fact, so its one-sided p-value is that of a two-sided test at 2 ALPHA.
    if union([pair.found.p_above() for pair in pairs]) <= ALPHA:
        return Finding(axis, score, clearest, m, DIFFERENT)
    if max(pair.found.p_within(margin) for pair in pairs) <= ALPHA:
        return Finding(axis, score, largest, m, verdict.SMALL.format(margin))
    needed = verdict.seeds_to_decide([(pair.found, margin) for pair in pairs])
    return Finding(axis, score, largest, m, verdict.undecided(needed))


def contrast(samples: Samples, method: str, other: str) -> str:
    """A method less another in a sentence, by the first evaluator that has both; empty without a common seed.

    `MLS − MoCo-v2: no difference larger than 1; -0.1 points of linear mAP, 95 % CI [-0.6, 0.4], n = 5`.
    """
    two = [Level(((COMPARE, name),)) for name in (method, other)]
    for score in samples.scores:
        a, b = (samples.get(level, score) for level in two)
        found = paired_scores([((a, b), 1.0)])
        if found is None:
            continue
        low, high = found.interval()
        interval = "" if math.isnan(low) else f", 95 % CI [{low:.1f}, {high:.1f}]"
        return (
            f"{in_words(method)} − {in_words(other)}: {word(found, score.metric)}; "
            f"{found.mean:+.1f} points of {score.title}{interval}, n = {found.n}"
        )
    return ""
