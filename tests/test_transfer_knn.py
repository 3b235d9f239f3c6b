"""Nearest neighbours: the vote, the choice of k, and what perfect and constant features reach."""

import pytest
import torch
from sklearn.neighbors import KNeighborsClassifier
from support.tiny_coco import write_backbone, write_coco
from torch.nn import functional as F

from mlssl.study.settings import Data, Knn
from mlssl.transfer import knn, linear

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Data:
    return Data(
        str(write_coco(tmp_path_factory.mktemp("knn") / "coco", size=40, splits={"train2017": 40, "val2017": 20}))
    )


@pytest.fixture(scope="module")
def backbone_file(tmp_path_factory):
    return write_backbone(tmp_path_factory.mktemp("backbone") / "backbone.pt")


def features(n, d, seed):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_the_vote_is_that_of_a_slow_loop(monkeypatch):
    monkeypatch.setattr(knn, "CHUNK", 3)
    queries, keys = features(10, 5, 0), features(30, 5, 1)
    targets = features(30, 4, 2) > 0
    for k, found in zip((3, 50), knn.vote(queries, keys, targets, (3, 50), 0.1), strict=True):
        for q in range(10):
            similarity = torch.stack([F.cosine_similarity(queries[q], key, dim=0) for key in keys])
            nearest = sorted(range(30), key=lambda i: -float(similarity[i]))[:k]
            weight = torch.exp(similarity[nearest] / 0.1) / torch.exp(similarity[nearest] / 0.1).sum()
            expected = sum(w * targets[i].float() for w, i in zip(weight, nearest, strict=True))
            torch.testing.assert_close(found[q], expected, rtol=1e-4, atol=1e-5)


def test_a_flat_vote_is_that_of_scikit_learn():
    queries, keys, label = features(20, 5, 0), features(60, 5, 1), torch.arange(60) % 3
    theirs = (
        KNeighborsClassifier(7, metric="cosine").fit(keys.numpy(), label.numpy()).predict_proba(queries.numpy())
    )
    (found,) = knn.vote(queries, keys, F.one_hot(label), [7], 1e6)
    torch.testing.assert_close(found, torch.tensor(theirs).float(), rtol=1e-4, atol=1e-4)


def run(monkeypatch, data, backbone_file, make, **settings):
    monkeypatch.setattr(linear, "extract", lambda backbone, split, **_: make(split))
    return knn.evaluate(backbone_file, Knn(data, **settings), seed=0, device=CPU, progress=False)


def test_perfect_features_reach_100_and_constant_ones_the_prevalence(monkeypatch, data, backbone_file):
    (row,), notes = run(
        monkeypatch, data, backbone_file, lambda s: 0.01 + torch.from_numpy(s.labels()).float(), neighbours=(1,)
    )
    assert row["value"] == pytest.approx(100)
    assert len(row["jackknife"]) == 20
    (row,), notes = run(monkeypatch, data, backbone_file, lambda s: torch.ones(len(s), 4))
    assert row["value"] == pytest.approx(notes["constant_mAP"])


def test_the_reported_split_does_not_choose_the_neighbours(monkeypatch, data, backbone_file):
    def noisy(scale):
        return lambda s: (
            torch.from_numpy(s.labels()).float()
            + (scale if s.folder.name == "val2017" else 1.0) * features(len(s), 3, len(s))
        )

    (one,), notes = run(monkeypatch, data, backbone_file, noisy(0.1))
    (other,), other_notes = run(monkeypatch, data, backbone_file, noisy(5.0))
    assert one["value"] != other["value"]
    assert notes == other_notes
    assert notes["selection_mAP"][str(notes["neighbours"])] == max(notes["selection_mAP"].values())


def test_it_runs_end_to_end_and_repeats_itself(data, backbone_file):
    before = backbone_file.read_bytes()
    (row,), notes = knn.evaluate(backbone_file, Knn(data, size=32), seed=0, device=CPU, progress=False)
    assert knn.evaluate(backbone_file, Knn(data, size=32), seed=0, device=CPU, progress=False)[0] == [row]
    assert row["value"] > notes["constant_mAP"]
    assert backbone_file.read_bytes() == before
