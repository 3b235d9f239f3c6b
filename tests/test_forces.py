"""The gradients at the query embedding, against the formulas written down by hand."""

import pytest
import torch
import torch.nn.functional as F

from mlssl.method import losses
from mlssl.method.forces import forces, gradient
from mlssl.method.mls import MLS
from mlssl.method.pseudo_labels import Labels
from mlssl.parts.backbone import create_backbone
from mlssl.parts.view import View

TAU, LAM, D, K = 0.2, 0.5, 40, 3


@pytest.fixture
def batch():
    rng = torch.Generator().manual_seed(0)
    z1, z2, q = (F.normalize(torch.randn(n, 8, generator=rng, dtype=torch.float64), dim=1) for n in (6, 6, D))
    similarity, index = (z1 @ q.T).topk(K, dim=1)
    return z1, z2, q, Labels(index, similarity, torch.ones_like(index, dtype=torch.bool))


def tangent(vector, z):
    return vector - (vector @ z) * z


def of_loss(batch, name="bce", normalise="dictionary"):
    z1, z2, q, y = batch
    by = losses.divisors(y, D, normalise)
    return forces(
        lambda z: losses.info_nce(z, z2, z @ q.T, TAU),
        lambda z, labels: LAM * getattr(losses, name)(z @ q.T, labels, TAU, by),
        z1,
        y,
    )


def test_the_label_part_of_equation_9_pulls_to_the_positives_alone(batch):
    z1, _, q, y = batch
    found = of_loss(batch)
    pulls = [tangent(-LAM / (TAU * D) * q[y.index[b]].sum(dim=0), z1[b]) for b in range(6)]
    assert found["grad_labels"].item() == pytest.approx(sum(float(p.norm()) for p in pulls) / 6, rel=1e-9)


def test_the_whole_gradient_of_equation_9_has_the_push_from_the_dictionary_too(batch):
    z1, _, q, y = batch
    expected = 0.0
    for b in range(6):
        push = sum(torch.sigmoid(z1[b] @ entry / TAU) * entry for entry in q)
        pull = q[y.index[b]].sum(dim=0)
        expected += float(tangent(LAM / (TAU * D) * (push - pull), z1[b]).norm()) / 6
    assert of_loss(batch)["grad_multi_label"].item() == pytest.approx(expected, rel=1e-9)


def test_balanced_labels_pull_by_the_mean_of_the_positives(batch):
    """-lambda / tau [(1 - s) / k + s / (D - k)], summed over the positives q."""
    z1, _, q, y = batch
    expected = 0.0
    for b in range(6):
        total = torch.zeros(8, dtype=torch.float64)
        for i in y.index[b].tolist():
            s = torch.sigmoid(z1[b] @ q[i] / TAU)
            total -= LAM / TAU * ((1 - s) / K + s / (D - K)) * q[i]
        expected += float(tangent(total, z1[b]).norm()) / 6
    assert of_loss(batch, normalise="balanced")["grad_labels"].item() == pytest.approx(expected, rel=1e-9)


def test_all_of_bce_pos_is_labels(batch):
    found = of_loss(batch, "bce_pos")
    assert found["grad_labels"].item() == found["grad_multi_label"].item() > 0


def test_the_gradient_is_per_query_and_orthogonal_to_z(batch):
    z1, z2, q, _ = batch
    found = gradient(lambda z: losses.info_nce(z, z2, z @ q.T, TAU), z1)
    one = gradient(lambda z: losses.info_nce(z, z2[2:3], z @ q.T, TAU), z1[2:3])
    assert torch.allclose(found[2], one[0], rtol=1e-12)
    assert (found * z1).sum(dim=1).abs().max() < 1e-12


def views(rng):
    index = torch.arange(4)
    box = torch.zeros(4, 4, dtype=torch.int64)
    return [View(torch.randn(4, 3, 32, 32, generator=rng), index, box, torch.zeros(4).bool()) for _ in range(2)]


@pytest.mark.parametrize("loss", ["bce", "bce_pos", "knn_softmax", "positive_unlabelled"])
def test_diagnostics_are_of_the_last_step_and_change_nothing(loss):
    rng = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    mls = MLS(create_backbone("test_resnet"), k=2, dictionary_size=8, dim=8, loss=loss)
    assert mls.diagnostics() == {}
    mls.step(*views(rng), 0.0)
    assert mls.diagnostics() == {}  # the dictionary was empty
    parts = mls.step(*views(rng), 0.5)
    before = [value.clone() for value in (*mls.parameters(), *mls.buffers())]
    found = mls.diagnostics()
    assert all(map(torch.equal, before, (*mls.parameters(), *mls.buffers())))
    assert set(found) == {"grad_info_nce", "grad_multi_label", "grad_labels", "cos_labels"}
    assert found["grad_labels"] > 0
    assert -1 <= found["cos_labels"] <= 1
    assert all(p.grad is None for p in mls.parameters())
    parts["loss"].backward()


def test_a_loss_that_does_not_train_yet_has_no_force():
    rng = torch.Generator().manual_seed(0)
    mls = MLS(create_backbone("test_resnet"), k=2, dictionary_size=8, dim=8, ml_from=0.5)
    for _ in range(2):
        mls.step(*views(rng), 0.0)
    found = mls.diagnostics()
    assert found["grad_labels"] == found["grad_multi_label"] == 0 < found["grad_info_nce"]
