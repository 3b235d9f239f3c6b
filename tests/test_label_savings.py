"""How many labels pretraining saved, by hand."""

import math

import pytest

from mlssl.tables.label_savings import Saving, saving, sentence, table

UNTRAINED = [(10, 20.0), (100, 30.0), (1000, 40.0)]


def test_between_two_shares_it_is_interpolated_over_the_logarithm():
    found = saving([(10, 25.0), (100, 35.0), (1000, 45.0)], UNTRAINED)
    assert (found.labels, found.target) == (1000, 40.0)
    assert found.needed == pytest.approx(10**2.5)  # half way from 35 to 45 is half way from 100 to 1000
    assert not found.at_most


def test_a_pretrained_backbone_that_never_gets_there_saves_nothing():
    found = saving([(10, 5.0), (100, 6.0), (1000, 39.9)], UNTRAINED)
    assert math.isnan(found.needed)
    assert "saved no labels" in sentence("mls", [found])
    assert table({"mls": {0: found}}).iloc[0, -1] == "not reached"


def test_where_the_smallest_share_is_enough_it_is_a_bound():
    found = saving([(10, 41.0), (100, 42.0), (1000, 43.0)], UNTRAINED)
    assert (found.needed, found.at_most) == (10.0, True)
    assert "at most 10" in sentence("mls", [found])


def test_the_first_crossing_counts_where_the_curve_falls_again():
    assert saving([(10, 20.0), (100, 40.0), (1000, 38.0)], UNTRAINED).needed == pytest.approx(100)


def savings(*needed):
    return [Saving(1000, 40.0, value, at_most=False) for value in needed]


def test_the_sentence_says_how_sure_it_is():
    sure = sentence("mls", savings(300.0, 320.0, 280.0))
    assert "300 ± 20 labelled images" in sure
    assert "saved about 70 % of the labels (3 seeds)" in sure
    assert "may be zero" not in sure
    assert "may be zero: add seeds" in sentence("mls", savings(300.0, 990.0))
    assert "in only 1 of 2 seeds" in sentence("mls", savings(300.0, math.nan))
    assert "uncertainty is not known" in sentence("mls", savings(300.0))
    assert "not known yet" in sentence("mls", [])
