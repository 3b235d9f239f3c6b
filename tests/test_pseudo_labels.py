"""Every rule against a slow loop, and the records of what it chose."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mlssl.method import pseudo_labels as rules
from mlssl.parts.search import exact
from mlssl.pretrain.records import LabelRecords, record_steps


@pytest.fixture
def pair():
    generator = torch.Generator().manual_seed(1)
    make = (torch.randn(n, 3, generator=generator, dtype=torch.float64) for n in (6, 20))
    return tuple(F.normalize(x, dim=1) for x in make)


def cosines(queries, entries):
    return [
        [float(sum(a * b for a, b in zip(q, e, strict=True))) for e in entries.tolist()] for q in queries.tolist()
    ]


def chosen(y):
    """The labels of each query, as sets of entries."""
    return [set(i[kept].tolist()) for i, kept in zip(y.index, y.positive, strict=True)]


def test_top_k_is_equation_7(pair):
    y = rules.top_k(*exact(*pair, 3))
    for b, row in enumerate(cosines(*pair)):
        assert y.index[b].tolist() == sorted(range(20), key=lambda i: -row[i])[:3]
    assert y.positive.all()
    assert rules.top_k(*exact(pair[0], pair[1][:2], 3)).index.shape == (6, 2)


def test_threshold_keeps_what_is_similar_enough(pair):
    expected = [{i for i, s in enumerate(row) if s >= 0.6} for row in cosines(*pair)]
    assert chosen(rules.threshold(*exact(*pair, 20), 0.6)) == expected
    assert len({len(labels) for labels in expected}) > 1
    bounded = chosen(rules.threshold(*exact(*pair, 2), 0.6))
    assert [len(labels) for labels in bounded] == [min(2, len(labels)) for labels in expected]


@pytest.mark.parametrize("k", [1, 3])
def test_quantile_keeps_the_most_similar_pairs_of_the_batch(pair, k):
    pairs = sorted(((s, b, i) for b, row in enumerate(cosines(*pair)) for i, s in enumerate(row)), reverse=True)
    expected = [{i for _, at, i in pairs[: 6 * k] if at == b} for b in range(6)]
    y = rules.quantile(*exact(*pair, 20), k)
    assert chosen(y) == expected
    assert y.positive.sum() == 6 * k
    cut = np.quantile(np.array(cosines(*pair)), 1 - k / 20, method="higher")
    assert chosen(y) == chosen(rules.threshold(*exact(*pair, 20), cut))


@pytest.mark.parametrize("k", [1, 4, 19, 20])
def test_mutual_neighbours_choose_each_other(pair, k):
    queries, entries = pair
    among = cosines(entries, entries)
    expected = []
    for row in cosines(queries, entries):
        mine = sorted(range(20), key=lambda i: -row[i])[:k]
        closer = {i: sum(among[i][j] > row[i] for j in range(20) if j != i) for i in mine}
        expected.append({i for i in mine if closer[i] < k})
    assert chosen(rules.mutual(*exact(queries, entries, k), entries)) == expected


@pytest.mark.parametrize("chunk", [1, 30, 100, 10_000])
def test_mutual_neighbours_do_not_depend_on_how_many_are_computed_at_a_time(pair, chunk, monkeypatch):
    found = exact(*pair, 4)
    whole = rules.mutual(*found, pair[1])
    monkeypatch.setattr(rules, "CHUNK", chunk)
    assert chosen(rules.mutual(*found, pair[1])) == chosen(whole)


def test_records_are_evenly_spread_and_end_with_the_run():
    assert record_steps(100, 4) == {25, 50, 75, 100}
    assert record_steps(3, 20) == {1, 2, 3}
    assert record_steps(100, 0) == set()


def test_records_of_different_sizes_are_padded_with_nothing(tmp_path):
    records = LabelRecords()
    for step, k in ((1, 1), (2, 3)):
        positive = torch.ones(2, k).bool()
        records.add(step, {"image": torch.full((2, k), step), "positive": positive, "filled": torch.tensor(10 * k)})
    records.add(3, {})
    records.write(tmp_path / "labels.npz")
    read = np.load(tmp_path / "labels.npz")
    assert read["step"].tolist() == [1, 2]
    assert read["filled"].tolist() == [10, 30]
    assert read["image"].tolist() == [[[1, -1, -1], [1, -1, -1]], [[2, 2, 2], [2, 2, 2]]]
    assert read["positive"].sum(axis=(1, 2)).tolist() == [2, 6]
    assert read["image"].dtype == np.int32
