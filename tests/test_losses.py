"""Every loss against a slow loop written from the paper."""

import math

import pytest
import torch
import torch.nn.functional as F

from baselines.densecl import match
from mlssl.method import losses
from mlssl.method.losses import MULTI_LABEL
from mlssl.method.pseudo_labels import Labels

TAU = 0.2


@pytest.fixture
def scores():
    generator = torch.Generator().manual_seed(0)
    z1 = F.normalize(torch.randn(5, 8, generator=generator, dtype=torch.float64), dim=1)
    z2 = F.normalize(torch.randn(5, 8, generator=generator, dtype=torch.float64), dim=1)
    q_z = F.normalize(torch.randn(13, 8, generator=generator, dtype=torch.float64), dim=1)
    p = z1 @ q_z.T
    index = torch.stack([torch.randperm(13, generator=generator)[:4] for _ in range(5)])
    similarity = torch.rand(5, 4, generator=generator, dtype=torch.float64).sort(dim=1, descending=True).values
    # As after a threshold: one query keeps all four candidates, one keeps none.
    positive = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]]).bool()
    return z1, z2, q_z, p, Labels(index, similarity, positive)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def labels_of(y, b):
    """Query b's labels: entry -> cosine."""
    kept = zip(y.index[b].tolist(), y.similarity[b].tolist(), y.positive[b].tolist(), strict=True)
    return {i: s for i, s, positive in kept if positive}


def slow(p, y, term):
    """The mean over the batch of (1/D) sum over entries of term(probability, is it a label, cosine)."""
    total = 0.0
    for b in range(len(p)):
        near = labels_of(y, b)
        total += sum(term(sigmoid(float(p[b, i]) / TAU), i in near, near.get(i)) for i in range(p.shape[1]))
    return total / p.numel()


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
    *_, p, y = scores
    expected = slow(p, y, lambda s, label, _: -math.log(s if label else 1 - s))
    assert losses.bce(p, y, TAU).item() == pytest.approx(expected, rel=1e-12)


def test_bce_pos_keeps_only_the_positive_terms(scores):
    *_, p, y = scores
    expected = slow(p, y, lambda s, label, _: -math.log(s) if label else 0)
    assert losses.bce_pos(p, y, TAU).item() == pytest.approx(expected, rel=1e-12)


def test_knn_softmax_is_equation_2(scores):
    *_, p, y = scores
    total = 0.0
    for b in range(5):
        near = labels_of(y, b)
        negatives = sum(math.exp(float(p[b, i]) / TAU) for i in range(13) if i not in near)
        for i in near:
            x = math.exp(float(p[b, i]) / TAU)
            total += -math.log(x / (x + negatives)) / len(near)
    assert losses.knn_softmax(p, y, TAU).item() == pytest.approx(total / 5, rel=1e-12)


def test_soft_labels_are_resslls_softmax_over_its_largest(scores):
    *_, p, y = scores

    def term(s, label, cosine, nearest):
        soft = math.exp(cosine / TAU) / math.exp(nearest / TAU) if label else 0
        return -soft * math.log(s) - (1 - soft) * math.log(1 - s)

    expected = 0.0
    for b in range(5):
        row = Labels(*(column[b : b + 1] for column in y))
        nearest = float(y.similarity[b].max())
        expected += slow(p[b : b + 1], row, lambda s, label, cosine, n=nearest: term(s, label, cosine, n)) / 5
    assert losses.bce_soft(p, y, TAU).item() == pytest.approx(expected, rel=1e-12)


def test_focal_is_lin_et_al_equation_5(scores):
    *_, p, y = scores

    def term(s, label, _):
        p_t, alpha_t = (s, 0.25) if label else (1 - s, 0.75)
        return -alpha_t * (1 - p_t) ** 2 * math.log(p_t)

    assert losses.focal(p, y, TAU).item() == pytest.approx(slow(p, y, term), rel=1e-12)
    plain = losses.focal(p, y, TAU, gamma=0, alpha=0.5).item()
    assert plain == pytest.approx(losses.bce(p, y, TAU).item() / 2, rel=1e-12)


def test_asymmetric_is_ridnik_et_al_equation_7(scores):
    *_, p, y = scores

    def term(s, label, _):
        shifted = max(s - 0.05, 0)
        return -math.log(s) if label else -(shifted**4) * math.log(1 - shifted)

    assert losses.asymmetric(p, y, TAU).item() == pytest.approx(slow(p, y, term), rel=1e-12)
    plain = losses.asymmetric(p, y, TAU, gamma_neg=0, margin=0).item()
    assert plain == pytest.approx(losses.bce(p, y, TAU).item(), rel=1e-12)


@pytest.mark.parametrize("hidden", [1.0, 2.0, 6.0])
def test_positive_unlabelled_is_kiryo_et_al_equation_6(scores, hidden):
    *_, p, y = scores
    pairs = [(sigmoid(float(p[b, i]) / TAU), i in labels_of(y, b)) for b in range(5) for i in range(13)]
    labelled = [s for s, label in pairs if label]
    prior = hidden * len(labelled) / len(pairs)
    as_positive = sum(-math.log(s) for s in labelled) / len(labelled)
    as_negative = sum(-math.log(1 - s) for s in labelled) / len(labelled)
    unlabelled = sum(-math.log(1 - s) for s, _ in pairs) / len(pairs)
    expected = prior * as_positive + max(0, unlabelled - prior * as_negative)
    assert losses.positive_unlabelled(p, y, TAU, hidden=hidden).item() == pytest.approx(expected, rel=1e-12)
    if hidden == 1:
        assert expected == pytest.approx(losses.bce(p, y, TAU).item(), rel=1e-12)
    if hidden == 6:
        assert expected == pytest.approx(prior * as_positive)  # so many hidden ones that no negative is left


@pytest.mark.parametrize("loss", MULTI_LABEL.values(), ids=MULTI_LABEL)
def test_multi_label_losses_have_the_gradient_of_their_values(scores, loss):
    *_, p, y = scores
    assert torch.autograd.gradcheck(lambda p: loss(p, y, TAU), p.clone().requires_grad_())


@pytest.mark.parametrize("loss", MULTI_LABEL.values(), ids=MULTI_LABEL)
def test_losses_stay_finite_at_extreme_scores(scores, loss):
    *_, y = scores
    for sign in (1, -1):
        p = torch.full((5, 13), 1e4 * sign, requires_grad=True)
        value = loss(p, y, TAU)
        value.backward()
        assert value.isfinite()
        assert p.grad.isfinite().all()


def test_knn_softmax_without_negatives_is_zero():
    index = torch.arange(13).expand(5, -1)
    everything = Labels(index, torch.ones(5, 13), torch.ones(5, 13).bool())
    assert losses.knn_softmax(torch.randn(5, 13), everything, TAU) == 0


def test_densecl_matches_each_cell_by_cosine():
    generator = torch.Generator().manual_seed(2)
    f1, f2 = (torch.randn(2, 7, 9, generator=generator) for _ in range(2))
    found = match(f1, f2)
    for b in range(2):
        for i in range(9):
            cosines = [float(f1[b, :, i] @ f2[b, :, j] / f1[b, :, i].norm() / f2[b, :, j].norm()) for j in range(9)]
            assert found[b, i] == max(range(9), key=cosines.__getitem__)


PER_ENTRY = ["bce", "bce_pos", "bce_soft", "focal", "asymmetric"]
"""The losses that are sums of one term per entry."""


def terms(name, s, label, cosine, nearest):
    """The term of one entry of probability s, as a label (with its cosine) or as none."""
    soft = math.exp((cosine - nearest) / TAU) if label else 0
    return {
        "bce": -math.log(s if label else 1 - s),
        "bce_pos": -math.log(s) if label else 0,
        "bce_soft": -soft * math.log(s) - (1 - soft) * math.log(1 - s),
        "focal": -0.25 * (1 - s) ** 2 * math.log(s) if label else -0.75 * s**2 * math.log(1 - s),
        "asymmetric": -math.log(s) if label else -(max(s - 0.05, 0) ** 4) * math.log(1 - max(s - 0.05, 0)),
    }[name]


@pytest.mark.parametrize("name", PER_ENTRY)
@pytest.mark.parametrize("normalise", ["dictionary", "balanced", "positives"])
def test_terms_are_divided_as_named(scores, name, normalise):
    *_, p, y = scores
    k = float(y.positive.sum()) / 5
    positives, negatives = {"dictionary": (13, 13), "positives": (k, k), "balanced": (k, 13 - k)}[normalise]
    expected = 0.0
    for b in range(5):
        near, nearest = labels_of(y, b), float(y.similarity[b].max())
        for i in range(13):
            term = terms(name, sigmoid(float(p[b, i]) / TAU), i in near, near.get(i), nearest)
            expected += term / (positives if i in near else negatives) / 5
    found = MULTI_LABEL[name](p, y, TAU, losses.divisors(y, 13, normalise))
    assert found.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("normalise", ["balanced", "positives"])
def test_a_batch_without_positives_or_without_negatives_has_a_finite_loss(scores, normalise):
    *_, p, _ = scores
    for positive in (torch.zeros(5, 13), torch.ones(5, 13)):
        everything = Labels(torch.arange(13).expand(5, 13), p, positive.bool())
        for name in PER_ENTRY:
            assert MULTI_LABEL[name](p, everything, TAU, losses.divisors(everything, 13, normalise)).isfinite()
