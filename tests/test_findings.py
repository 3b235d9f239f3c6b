"""One sentence per axis: which levels differ, corrected for the number of pairs, and how often it is wrong."""

import math

import numpy as np
import pytest

from mlssl.analysis.outputs import Score
from mlssl.claims.findings import DIFFERENT, Pair, weigh
from mlssl.statistics.paired import difference

MAP = Score("linear", "mAP", "linear mAP", "%")


def pairs_of(scores):
    """All pairs of levels, the better one first; scores: level -> one value per seed."""
    names, found = list(scores), []
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            d = np.asarray(scores[a]) - np.asarray(scores[b])
            found.append(Pair(a, b, difference(d)) if d.mean() >= 0 else Pair(b, a, difference(-d)))
    return found


def test_the_clearest_pair_is_named_better_level_first():
    found = weigh("k", MAP, pairs_of({"1": [50, 51, 52], "5": [53, 54.1, 55.2], "20": [50.2, 51.1, 52.2]}))
    assert (found.word, found.pair.better, found.pair.worse) == (DIFFERENT, "5", "1")
    low, high = found.interval
    assert 0 < low < 3.1 < high
    assert found.sentence == f"K: 5 against 1: +3.1 points of linear mAP, 95 % CI [{low:.1f}, {high:.1f}], n = 3"


def test_levels_within_the_margin_show_no_difference():
    found = weigh("k", MAP, pairs_of({"1": [50, 51, 52], "5": [50.1, 51.0, 52.1], "20": [50.05, 51.1, 52.0]}))
    assert found.word == "no difference larger than 1"
    assert found.sentence.startswith("K: no difference larger than 1; largest, ")


@pytest.mark.parametrize(
    ("scores", "word"),
    [
        ({"1": [50], "5": [53]}, "one seed"),
        ({"1": [50, 53], "5": [53, 51], "20": [52, 52]}, "undecided"),
        ({"1": []}, "no result yet"),
    ],
)
def test_too_little_for_a_finding(scores, word):
    found = weigh("k", MAP, pairs_of(scores))
    assert found.word.startswith(word)
    assert word in found.sentence
    if word == "one seed":
        assert math.isnan(found.interval[0])
        assert "[" not in found.sentence


@pytest.mark.parametrize("levels", [2, 4])
@pytest.mark.parametrize("n", [3, 5])
def test_levels_that_are_equal_are_called_different_in_at_most_five_percent_of_studies(levels, n):
    rng, studies = np.random.default_rng(levels * 10 + n), 400
    wrong = 0
    for _ in range(studies):
        common = rng.normal(size=n)
        scores = {str(i): common + rng.normal(size=n) for i in range(levels)}
        wrong += weigh("k", MAP, pairs_of(scores)).word == DIFFERENT
    # 5 %, and three standard errors of a simulation of this size.
    assert wrong / studies <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / studies)
