"""Intervals, tests and verdicts, against slow references and on simulated results with a known true difference."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from mlssl.statistics.paired import (
    ALPHA,
    Difference,
    difference,
    repeat_noise,
    seeds_needed,
    share,
)
from mlssl.statistics.verdict import Evidence, decide, every, of, seeds_to_decide, some, undecided, union, verdict

GROUPS = 50


def simulate(rng, n, mean=0.0, seeds=1.0, images=0.0, both=0.0, groups=GROUPS):
    """Differences of n seeds and the same without each group of images; standard deviations are of one seed's
    difference: of training, of the images that all seeds share, and of seed x image."""
    training = mean + seeds * rng.normal(size=(n, 1))
    image = images * rng.normal(size=(1, groups)) + both * rng.normal(size=(n, groups))
    per_group = training + math.sqrt(groups) * image
    total = per_group.sum(axis=1, keepdims=True)
    return per_group.mean(axis=1), (total - per_group) / (groups - 1)


def covered(found, truth=0.0):
    low, high = found.interval()
    return low <= truth <= high


def test_without_image_groups_it_is_the_paired_t_test():
    first, second = np.array([52.1, 53.0, 51.4, 54.2]), np.array([51.0, 52.2, 51.6, 52.0])
    found = difference(first - second)
    reference = stats.ttest_rel(first, second)
    assert found.interval() == pytest.approx(tuple(reference.confidence_interval()))
    assert found.p_above() == pytest.approx(stats.ttest_rel(first, second, alternative="greater").pvalue)
    assert found.p_below() == pytest.approx(stats.ttest_rel(first, second, alternative="less").pvalue)
    low = stats.ttest_rel(first - second, [-2] * 4, alternative="greater").pvalue
    high = stats.ttest_rel(first - second, [2] * 4, alternative="less").pvalue
    assert found.p_within(2) == pytest.approx(max(low, high))


def test_the_variance_of_images_is_the_jackknifes_less_that_of_seed_by_image():
    rng = np.random.default_rng(1)
    d, out = simulate(rng, 3, images=2, both=1, groups=6)
    (found,) = difference(d, out).images
    mean = out.mean(axis=0)
    assert found.total == pytest.approx(5 / 6 * sum((m - mean.mean()) ** 2 for m in mean))
    pseudo = 6 * d[:, None] - 5 * out
    squares = 0.0
    for s in range(3):
        for g in range(6):
            squares += (pseudo[s, g] - pseudo[s].mean() - pseudo[:, g].mean() + pseudo.mean()) ** 2
    assert found.interaction == pytest.approx(squares / (2 * 5) / (3 * 6))
    assert found.variance == pytest.approx(found.total - found.interaction)


@pytest.mark.parametrize("n", [2, 3, 5])
@pytest.mark.parametrize("noise", [(1, 0, 0), (1, 0.3, 0), (1, 1, 1), (0.1, 1, 1), (0.3, 0.3, 1)])
def test_the_interval_covers_new_trainings_and_new_images(n, noise):
    rng = np.random.default_rng(2)
    hits = sum(covered(difference(*simulate(rng, n, 0, *noise))) for _ in range(1000))
    assert hits >= 1000 * 0.95 - 2.6 * math.sqrt(1000 * 0.95 * 0.05)


def test_what_is_known_of_the_images_never_narrows_the_interval():
    rng = np.random.default_rng(3)
    for _ in range(50):
        d, out = simulate(rng, 2, images=0.5, both=0.5)
        assert difference(d, out).half_width() >= difference(d).half_width()


def bootstrap(rng, d, out, draws):
    """Means of a hierarchical bootstrap: seeds and groups of images drawn with replacement."""
    n, groups = out.shape
    pseudo = groups * d[:, None] - (groups - 1) * out
    rows, columns = rng.integers(n, size=(draws, n)), rng.integers(groups, size=(draws, groups))
    return np.array([pseudo[r][:, c].mean() for r, c in zip(rows, columns, strict=True)])


def test_with_many_seeds_the_hierarchical_bootstrap_agrees():
    rng = np.random.default_rng(4)
    d, out = simulate(rng, 60, 1.0, seeds=1, images=0.2, both=0.3)
    means = bootstrap(rng, d, out, 2000)
    found = difference(d, out)
    assert np.percentile(means, [2.5, 97.5]) == pytest.approx(found.interval(), abs=0.15 * found.half_width())


def test_with_five_seeds_its_percentiles_cover_too_little():
    rng = np.random.default_rng(5)
    hits, ours, studies = 0, 0, 300
    for _ in range(studies):
        d, out = simulate(rng, 5, seeds=1, images=0.1)
        low, high = np.percentile(bootstrap(rng, d, out, 300), [2.5, 97.5])
        hits += low <= 0 <= high
        ours += covered(difference(d, out))
    assert hits / studies < 0.90
    assert ours / studies > 0.92


def test_one_seed_has_no_interval_and_no_verdict():
    found = difference([3.0])
    assert all(math.isnan(end) for end in found.interval())
    assert of(found, 0.5) == Evidence()
    assert verdict(of(found, 0.5), [(found, 0.5)]) == "one seed"


def test_seeds_that_agree_exactly_prove_nothing_but_identity():
    same, apart = difference([0.0, 0.0]), difference([1.0, 1.0])
    assert verdict(of(same, 0.5), [(same, 0.5)]) == "no difference larger than 0.5"
    assert verdict(of(apart, 0.5), [(apart, 0.5)]) == "undecided (needs more evaluation images)"


def test_each_word_on_an_example():
    def word(*values):
        found = difference(values)
        return verdict(of(found, 0.5), [(found, 0.5)])

    assert word(1.9, 2.0, 2.1) == "supported"
    assert word(-1.9, -2.0, -2.1) == "contradicted"
    assert word(-0.1, 0.0, 0.1) == "no difference larger than 0.5"
    assert word(0.5, -0.4, 0.1) == "undecided (needs n = 15)"
    assert word(1.0, -1.0, 0.6) == (
        "undecided; this budget or this number of labelled images cannot show it"  # 72 seeds
    )


@pytest.mark.parametrize(
    ("needed", "word"),
    [
        (5, "undecided (needs n = 5)"),
        (30, "undecided (needs n = 30)"),
        (31, "undecided; this budget or this number of labelled images cannot show it"),
        (619, "undecided; this budget or this number of labelled images cannot show it"),
        (math.inf, "undecided (needs more evaluation images)"),
    ],
)
def test_a_number_of_seeds_is_named_only_where_one_could_train_them(needed, word):
    assert undecided(needed) == word


def test_at_the_seeds_needed_the_interval_is_half_the_margin():
    found = difference([1.0, -1.0, 0.6])
    n = seeds_needed(found, 0.25)
    sd = np.std([1.0, -1.0, 0.6], ddof=1)
    half = [stats.t.ppf(0.975, m - 1) * sd / math.sqrt(m) for m in (n - 1, n)]
    assert half[0] > 0.25 >= half[1]
    rng = np.random.default_rng(6)
    noisy = difference(*simulate(rng, 5, seeds=1, images=1))
    assert verdict(of(noisy, 0.1), [(noisy, 0.1)]) == "undecided (needs more evaluation images)"


def test_comparisons_that_are_decided_need_no_more_seeds():
    wide, clear = difference([7.0, 9.5, 8.2]), difference([-0.3, 0.4, 0.1])
    assert decide(of(wide, 1.0), ALPHA / 2) == "supported"
    alone, both = seeds_to_decide([(clear, 1.0)]), seeds_to_decide([(wide, 1.0), (clear, 1.0)])
    assert alone < both == seeds_needed(clear, 0.5, 0.975)
    assert seeds_to_decide([(wide, 1.0)]) == seeds_needed(wide, 0.5) > both


WRONG = {
    0.0: ("supported", "contradicted"),
    0.5: ("contradicted", "no difference"),
    -0.5: ("supported", "no difference"),
    2.0: ("contradicted", "no difference"),
}
"""True difference, with δ = 0.5 -> the words that are wrong for it."""


@pytest.mark.parametrize("noise", [(0.5, 0.0, 0.0), (0.1, 0.3, 0.2), (0.15, 0.0, 0.0)])
@pytest.mark.parametrize("truth", WRONG)
def test_words_err_at_most_at_the_stated_rate(truth, noise):
    rng, studies = np.random.default_rng(7), 600
    words = []
    for _ in range(studies):
        d, out = simulate(rng, 5, truth, *noise)
        words.append(decide(of(difference(d, out) if noise[1] else difference(d), 0.5)) or "undecided")
    most = studies * ALPHA + 2.6 * math.sqrt(studies * ALPHA)
    for wrong in WRONG[truth]:
        assert sum(word.startswith(wrong) for word in words) <= most, wrong
    if truth == 2.0 and noise[1] == 0:
        assert words.count("supported") > 0.9 * studies  # the words are not cautious by saying nothing
    if truth == 0 and noise[0] == 0.15:
        assert sum(word.startswith("no difference") for word in words) > 0.9 * studies


@pytest.mark.parametrize(
    ("combine", "truth", "wrong"),
    [
        (every, (0.0, 2.0, 2.0), "supported"),
        (every, (0.0, 0.0, 0.0), "contradicted"),
        (every, (0.5, 0.5, 0.5), "no difference"),
        (some, (0.0, 0.0, 0.0), "supported"),
        (some, (0.0, -2.0, -2.0), "contradicted"),
        (some, (0.5, -2.0, -2.0), "no difference"),
    ],
)
def test_combined_words_err_at_most_at_the_stated_rate(combine, truth, wrong):
    rng, studies, count = np.random.default_rng(8), 800, 0
    for _ in range(studies):
        parts = [of(difference(simulate(rng, 5, mean, 0.15)[0]), 0.5) for mean in truth]
        count += (decide(combine(parts)) or "").startswith(wrong)
    assert count <= studies * ALPHA + 2.6 * math.sqrt(studies * ALPHA)


def test_a_decided_part_decides_the_whole():
    up, down, small = (of(difference(v), 0.5) for v in ([1.9, 2.0, 2.1], [-1.9, -2.0, -2.1], [-0.01, 0.0, 0.01]))
    assert decide(every([up, up])) == "supported"
    assert decide(every([up, down])) == "contradicted"
    assert decide(every([up, small])).startswith("no difference")
    assert decide(some([down, up])) == "supported"
    assert decide(some([down, down])) == "contradicted"
    assert decide(some([down, small])).startswith("no difference")


def test_a_union_is_the_smallest_of_holms_p_values():
    for p_values in ([0.02, 0.5, 0.9], [0.4, 0.6], [0.02]):
        assert union(p_values) == pytest.approx(min(multipletests(p_values, method="holm")[1]))


def test_the_detectable_difference_has_the_power_that_it_says():
    d = np.array([1.0, -1.0, 0.6, 0.2, -0.8])
    sd = d.std(ddof=1)
    reference = TTestPower().solve_power(effect_size=None, nobs=5, alpha=0.05, power=0.8)
    assert difference(d).detectable() == pytest.approx(reference * sd, rel=1e-4)
    noisy = Difference(0.0, 5, sd**2 / 5, difference(*simulate(np.random.default_rng(9), 5, images=1)).images)
    assert noisy.detectable() > difference(d).detectable()


def test_a_share_inverts_the_test():
    rng = np.random.default_rng(10)
    whole = 10 + rng.normal(size=5)
    part = 0.3 * whole + 0.5 * rng.normal(size=5)
    centre, low, high, n = share(part, whole)
    assert low < centre < high
    assert n == 5
    for end in (low, high):
        assert abs(difference(part - end * whole).mean) == pytest.approx(
            difference(part - end * whole).half_width()
        )
    assert share(part, whole - whole.mean())[1:3] == (-math.inf, math.inf)
    assert all(math.isnan(end) for end in share(part[:1], whole[:1])[1:3])


def test_a_share_covers_the_true_one():
    rng, hits = np.random.default_rng(11), 0
    for _ in range(300):
        training = rng.normal(size=5)
        _, low, high, _ = share(3 + training + rng.normal(size=5), 10 + training)
        hits += low <= 0.3 <= high
    assert hits >= 300 * 0.95 - 2.6 * math.sqrt(300 * 0.95 * 0.05)


def test_repeats_are_apart_from_seeds():
    rng = np.random.default_rng(12)
    scores = 3.0 * rng.normal(size=(4000, 1)) + 0.5 * rng.normal(size=(4000, 2))
    assert repeat_noise(scores) == pytest.approx((0.5, 3.0), rel=0.05)
    assert repeat_noise([[1.0, 2.0], [2.0, 1.0]])[1] == 0.0
