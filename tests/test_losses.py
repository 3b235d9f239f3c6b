"""Every loss against a slow loop written from the paper."""

import math

import pytest
import torch
import torch.nn.functional as F

from baselines.densecl import match
from mlssl.method import losses
from mlssl.method.pseudo_labels import top_k

TAU = 0.2


@pytest.fixture
def scores():
    generator = torch.Generator().manual_seed(0)
    z1 = F.normalize(torch.randn(5, 8, generator=generator, dtype=torch.float64), dim=1)
    z2 = F.normalize(torch.randn(5, 8, generator=generator, dtype=torch.float64), dim=1)
    q_z = F.normalize(torch.randn(13, 8, generator=generator, dtype=torch.float64), dim=1)
    p = z1 @ q_z.T
    positives = torch.stack([torch.randperm(13, generator=generator)[:4] for _ in range(5)])
    return z1, z2, q_z, p, positives


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_info_nce_is_equation_1(scores):
    z1, z2, q_z, p, _ = scores
    total = 0.0
    for b in range(5):
        positive = math.exp(float(z1[b] @ z2[b]) / TAU)
        negatives = sum(math.exp(float(z1[b] @ q_z[i]) / TAU) for i in range(13))
        total += -math.log(positive / (positive + negatives))
    assert losses.info_nce(z1, z2, p, TAU).item() == pytest.approx(total / 5, rel=1e-12)


def test_info_nce_of_equal_scores_is_log_of_d_plus_1():
    z = F.normalize(torch.ones(3, 4), dim=1)
    assert losses.info_nce(z, z, z @ z[:1].expand(7, -1).T, TAU).item() == pytest.approx(math.log(8))


def test_bce_is_equation_9(scores):
    *_, p, positives = scores
    total = 0.0
    for b in range(5):
        for i in range(13):
            y, s = i in positives[b].tolist(), sigmoid(float(p[b, i]) / TAU)
            total += -(math.log(s) if y else math.log(1 - s)) / 13
    assert losses.bce(p, positives, TAU).item() == pytest.approx(total / 5, rel=1e-12)


def test_bce_pos_keeps_only_the_positive_terms(scores):
    *_, p, positives = scores
    total = sum(-math.log(sigmoid(float(p[b, i]) / TAU)) / 13 for b in range(5) for i in positives[b].tolist())
    assert losses.bce_pos(p, positives, TAU).item() == pytest.approx(total / 5, rel=1e-12)


def test_knn_softmax_is_equation_2(scores):
    *_, p, positives = scores
    total = 0.0
    for b in range(5):
        near = positives[b].tolist()
        negatives = sum(math.exp(float(p[b, i]) / TAU) for i in range(13) if i not in near)
        for i in near:
            x = math.exp(float(p[b, i]) / TAU)
            total += -math.log(x / (x + negatives)) / len(near)
    assert losses.knn_softmax(p, positives, TAU).item() == pytest.approx(total / 5, rel=1e-12)


@pytest.mark.parametrize("loss", [losses.bce, losses.bce_pos, losses.knn_softmax])
def test_multi_label_losses_have_the_gradient_of_their_values(scores, loss):
    *_, p, positives = scores
    assert torch.autograd.gradcheck(lambda p: loss(p, positives, TAU), p.clone().requires_grad_())


def test_losses_stay_finite_at_extreme_scores(scores):
    *_, positives = scores
    p = torch.full((5, 13), 1e4)
    for loss in (losses.bce, losses.bce_pos, losses.knn_softmax):
        assert loss(p, positives, TAU).isfinite()
        assert loss(-p, positives, TAU).isfinite()
    assert losses.knn_softmax(p, torch.arange(13).expand(5, -1), TAU) == 0  # all neighbours, no negatives


def test_top_k_agrees_with_sorting_each_row():
    generator = torch.Generator().manual_seed(1)
    queries, entries = (
        torch.randn(6, 5, generator=generator),
        F.normalize(torch.randn(20, 5, generator=generator), dim=1),
    )
    found = top_k(queries, entries, 3)
    for b in range(6):
        cosines = [(float(queries[b] @ entries[i] / queries[b].norm()), i) for i in range(20)]
        assert found[b].tolist() == [i for _, i in sorted(cosines, reverse=True)[:3]]
    assert top_k(queries, entries[:2], 3).shape == (6, 2)


def test_densecl_matches_each_cell_by_cosine():
    generator = torch.Generator().manual_seed(2)
    f1, f2 = (torch.randn(2, 7, 9, generator=generator) for _ in range(2))
    found = match(f1, f2)
    for b in range(2):
        for i in range(9):
            cosines = [float(f1[b, :, i] @ f2[b, :, j] / f1[b, :, i].norm() / f2[b, :, j].norm()) for j in range(9)]
            assert found[b, i] == max(range(9), key=cosines.__getitem__)
