"""How many labels pretraining saved, by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from mlssl.tables.label_savings import Saving, decide, saving, sentence, table

UNTRAINED = [(10, 20.0), (100, 30.0), (1000, 40.0)]


def test_between_two_shares_it_is_interpolated_over_the_logarithm():
    found = saving([(10, 25.0), (100, 35.0), (1000, 45.0)], UNTRAINED)
    assert (found.labels, found.target) == (1000, 40.0)
    assert found.needed == pytest.approx(10**2.5)  # half way from 35 to 45 is half way from 100 to 1000
    assert not found.at_most


def test_a_pretrained_backbone_that_never_gets_there_saves_nothing():
    found = saving([(10, 5.0), (100, 6.0), (1000, 39.9)], UNTRAINED)
    assert math.isnan(found.needed)
    assert "never reached in one seed, which gives no interval and no verdict" in sentence("mls", [found])
    assert table({"mls": {0: found}}).iloc[0, -1] == "not reached"


def test_where_the_smallest_share_is_enough_it_is_a_bound():
    found = saving([(10, 41.0), (100, 42.0), (1000, 43.0)], UNTRAINED)
    assert (found.needed, found.at_most) == (10.0, True)
    assert "reached with at most 10 in one seed" in sentence("mls", [found])


def test_the_first_crossing_counts_where_the_curve_falls_again():
    assert saving([(10, 20.0), (100, 40.0), (1000, 38.0)], UNTRAINED).needed == pytest.approx(100)


def savings(*needed):
    return [Saving(1000, 40.0, value, at_most=False) for value in needed]


def test_the_sentence_has_the_interval_of_the_logarithm():
    needed = [300.0, 320.0, 280.0]
    text = sentence("mls", savings(*needed))
    logs = np.log(needed)
    half = stats.t.ppf(0.975, 2) * logs.std(ddof=1) / math.sqrt(3)
    low, mean, high = (round(math.exp(logs.mean() + x)) for x in (-half, 0, half))
    assert f"labels saved: supported. With pretraining, {mean} images [{low}, {high}]" in text
    assert "70 % of the labels saved [" in text
    assert "n = 3" in text


def test_noise_of_the_evaluation_images_widens_the_interval():
    found = savings(300.0, 320.0, 280.0)
    noisy = [replace(s, without=tuple(replace(s, needed=s.needed * f) for f in (0.9, 1.1, 1.0))) for s in found]
    assert decide(noisy)[1].half_width() > decide(found)[1].half_width()
    assert "n = 3 seeds and the images" in sentence("mls", noisy)
    never = replace(noisy[0], without=(replace(found[0], needed=math.nan), *noisy[0].without[1:]))
    assert decide([never, *noisy[1:]]) == decide(found)


def test_two_seeds_that_disagree_claim_nothing():
    word = "undecided; this budget or this number of labelled images cannot show it"
    assert f"labels saved: {word}. " in sentence("mls", savings(660.0, 320.0))


@pytest.mark.parametrize(
    ("needed", "words"),
    [
        ([300.0, 320.0, 280.0], "% of the labels saved [65, 75] (geometric mean, 95 % interval over n = 3 seeds)."),
        (
            [400.0, 900.0, 700.0],
            "allows anything from 77 % more labels needed to 77 % of them saved, so it does not say",
        ),
        ([990.0, 1000.0, 1010.0], "from 3 % more labels needed to 2 % of them saved, so it does not say"),
        ([1000.0, 1000.0, 1000.0], "from 0 % more labels needed to 0 % of them saved, so it does not say"),
        ([math.nan, 300.0, 300.0], "This does not say that pretraining saves labels."),
        ([math.nan] * 3, "This does not say that pretraining saves labels."),
    ],
)
def test_the_sentence_says_no_more_than_the_interval_allows(needed, words):
    assert words in sentence("mls", savings(*needed))


def test_more_labels_needed_are_no_negative_saving():
    text = sentence("mls", savings(1500.0, 1600.0, 1550.0))
    assert "(40.0 %): 55 % more labels needed [43, 68] (" in text
    assert "allows to say that none are saved: 43 % to 68 % more are needed." in text


def test_bounds_alone_are_said_of_the_seeds_that_there_are():
    bounds = [Saving(1000, 40.0, needed, at_most=True) for needed in (10.0, 100.0, 50.0)]
    assert "Each of these seeds saves at least 90 % of the labels; for others there is no bound." in sentence(
        "mls", bounds
    )
    assert "Each of these" not in sentence("mls", [*bounds, Saving(1000, 40.0, 1200.0, at_most=False)])


def test_a_saving_below_the_margin_is_none():
    assert "labels saved: no difference larger than 10 %" in sentence("mls", savings(1000.0, 1000.0, 970.0, 1000.0))


def test_where_seeds_are_bounds_they_are_counted():
    never = sentence("mls", savings(*[math.nan] * 6))
    assert "labels saved: contradicted. With pretraining, 0 of 6 seeds reach" in never
    assert "undecided (needs n = 6). With pretraining, 1 of 2 seeds reach" in sentence(
        "mls", savings(300.0, math.nan)
    )
    bounds = [Saving(1000, 40.0, 10.0, at_most=True)] * 6
    assert "supported. With pretraining, 6 of 6 seeds" in sentence("mls", bounds)


def test_one_seed_or_none_claims_nothing():
    assert "reached with 300 in one seed, which gives no interval" in sentence("mls", savings(300.0))
    assert "not known yet" in sentence("mls", [])


def test_the_words_err_at_most_at_the_stated_rate():
    rng, studies, wrong = np.random.default_rng(0), 400, 0
    for _ in range(studies):  # no saving at all: the images needed are those that there are, up to noise
        found = [Saving(1000, 40.0, 1000 * math.exp(x), at_most=False) for x in 0.3 * rng.normal(size=5)]
        wrong += decide(found)[0] in ("supported", "contradicted")
    assert wrong <= 0.05 * studies + 2.6 * math.sqrt(0.05 * studies)
