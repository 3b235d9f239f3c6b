"""kNN-MoCo, NNCLR and MSF: numbers computed by hand, slow loops from the papers, and their traps."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from test_methods import B, make, view

from baselines import knn_moco, msf, nnclr
from baselines.knn_moco import KNNMoCo
from baselines.msf import MSF
from baselines.nnclr import NNCLR
from mlssl.method import losses
from mlssl.method.mls import MLS
from mlssl.method.pseudo_labels import Labels
from mlssl.parts.embeddings import of_all_ranks

E1, E2 = torch.eye(2, dtype=torch.float64)


def vectors(*shape, seed=0, unit=True):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(x, dim=-1) if unit else x


def cosine(a, b):
    a, b = a.detach(), b.detach()
    return float(a @ b) / (float(a @ a) * float(b @ b)) ** 0.5


def moved(method):
    """The method after its online network has moved, as by an optimiser's step."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in method.encoders.query.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return method


def neighbours_of(*rows):
    """Labels of one query per row of indices."""
    index = torch.tensor(rows)
    return Labels(index, torch.zeros(index.shape), torch.ones(index.shape, dtype=torch.bool))


# kNN-MoCo

SCORES = torch.tensor([[1.0, 0.5, 0.0, 0.0]], dtype=torch.float64)
"""Two neighbours and two others; tau is 0.5."""


def test_both_denominators_of_the_neighbours_loss_by_hand():
    y = neighbours_of([0, 1])
    assert losses.knn_softmax(SCORES, y, 0.5).item() == pytest.approx(0.3955, abs=5e-5)  # mean of 0.2395 and 0.5515
    assert knn_moco.knn_softmax_over_all(SCORES, y, 0.5).item() == pytest.approx(0.9938, abs=5e-5)  # 2.4938 - 1.5
    for one in range(4):
        a, b = (f(SCORES, neighbours_of([one]), 0.5) for f in (losses.knn_softmax, knn_moco.knn_softmax_over_all))
        torch.testing.assert_close(a, b)  # with one positive both are InfoNCE


def test_softmax_over_all_entries_is_a_slow_loop():
    s, index = vectors(5, 9) @ vectors(13, 9, seed=1).T, torch.stack([torch.randperm(13)[:4] for _ in range(5)])
    total = 0.0
    for b in range(5):
        log_sum = math.log(sum(math.exp(float(s[b, j]) / 0.2) for j in range(13)))
        total -= sum(float(s[b, i]) / 0.2 - log_sum for i in index[b].tolist()) / 4
    y = Labels(index, torch.zeros(5, 4), torch.ones(5, 4).bool())
    assert knn_moco.knn_softmax_over_all(s, y, 0.2).item() == pytest.approx(total / 5, rel=1e-12)


def test_knn_moco_with_mlss_denominator_is_mls_with_its_softmax():
    ours, mls = make(KNNMoCo, denominator="others", lam=0.5), make(MLS, loss="knn_softmax", lam=0.5)
    for method in (ours, mls):
        for seed in (1, 3):
            method.step(view(seed), view(seed + 1), progress=0.0)
    a, b = (method.step(view(5), view(6), progress=0.0) for method in (ours, mls))
    for part in ("loss", "info_nce", "knn_softmax"):
        assert torch.equal(a[part], b[part]), part


@pytest.mark.parametrize("denominator", ["all", "others"])
def test_neighbours_are_found_by_the_backbone_and_pulled_in_the_embedding_of_the_same_entries(denominator):
    method = make(KNNMoCo, k=3, lam=0.7, denominator=denominator)
    for seed in (1, 3, 5):  # 18 keys through 16 slots: some are about to be overwritten
        method.step(view(seed), view(seed + 1), progress=0.0)
    reference = copy.deepcopy(method)
    q_g, q_z = (reference.dictionary.read()[c].clone() for c in ("g", "z"))
    parts = method.step(view(7), view(8), progress=0.0)

    g1, z1 = reference.encoders.query(view(7).pixels)
    total = 0.0
    for b in range(B):
        near = sorted(range(16), key=lambda i: -cosine(g1[b], q_g[i]))[:3]
        score = [math.exp(cosine(z1[b], q) / 0.2) for q in q_z]
        for i in near:
            others = sum(score) if denominator == "all" else sum(score[j] for j in range(16) if j not in near)
            total -= math.log(score[i] / (others + (0 if denominator == "all" else score[i]))) / 3
    assert parts["knn_softmax"].item() == pytest.approx(total / B, rel=1e-5)
    assert parts["loss"].item() == pytest.approx(parts["info_nce"].item() + 0.7 * total / B, rel=1e-5)
    newest = method.dictionary.read()["g"][(18 % 16) : (18 % 16) + B]
    g2, _ = method.encoders.key(view(8).pixels)
    torch.testing.assert_close(newest, F.normalize(g2, dim=1))


# NNCLR


def test_nnclr_by_hand():
    support, z1 = torch.stack([E1, E2]), F.normalize(torch.tensor([[0.9, 0.1]], dtype=torch.float64), dim=1)
    neighbour = nnclr.nearest(z1, support)
    assert torch.equal(neighbour[0], E1)
    predictions = torch.stack([E1, E2])
    loss = nnclr.neighbour_contrast(torch.stack([E1, E2]), predictions, 0.1)  # both rows alike
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-10)), rel=1e-9)
    assert loss.item() == pytest.approx(4.54e-5, rel=1e-3)


def test_neighbour_contrast_is_a_slow_loop():
    neighbour, p = vectors(5, 7), vectors(5, 7, seed=1)
    total = 0.0
    for i in range(5):
        scores = [math.exp(float(neighbour[i] @ p[k]) / 0.1) for k in range(5)]
        total -= math.log(scores[i] / sum(scores))
    assert nnclr.neighbour_contrast(neighbour, p, 0.1).item() == pytest.approx(total / 5, rel=1e-12)


def test_nearest_is_a_slow_loop_and_with_an_empty_support_set_the_vector_itself():
    z, support = vectors(5, 7), vectors(11, 7, seed=1)
    for i, found in enumerate(nnclr.nearest(z, support)):
        assert torch.equal(found, support[min(range(11), key=lambda j: float((z[i] - support[j]).norm()))])
    shuffled = nnclr.nearest(z, support[torch.randperm(11)])
    assert torch.equal(shuffled, nnclr.nearest(z, support))
    z.requires_grad_()
    assert torch.equal(nnclr.nearest(z, support[:0]), z)
    assert not nnclr.nearest(z, support[:0]).requires_grad
    assert not nnclr.nearest(z, support).requires_grad


def encoded(method, v):
    """Normalised z and p of a view, by NNCLR and SimSiam."""
    z = method.encoders["query"](v.pixels)[1]
    return F.normalize(z, dim=1).detach(), F.normalize(method.predictor(z), dim=1)


def symmetric(n1, n2, p1, p2, tau=0.1):
    own = torch.arange(B)
    return (F.cross_entropy(n1 @ p2.T / tau, own) + F.cross_entropy(n2 @ p1.T / tau, own)) / 2


def test_nnclr_searches_before_it_enqueues_and_keeps_one_view_per_image():
    method = make(NNCLR)
    (z1, p1), (z2, p2) = encoded(copy.deepcopy(method), view(1)), encoded(copy.deepcopy(method), view(2))
    first = method.step(view(1), view(2), progress=0.0)["loss"]
    torch.testing.assert_close(first, symmetric(z1, z2, p1, p2))  # nothing to be found yet: SimCLR with a predictor
    torch.testing.assert_close(method.dictionary.read()["z"], z1)

    (z3, p3), (z4, p4) = encoded(copy.deepcopy(method), view(3)), encoded(copy.deepcopy(method), view(4))
    near = [z1[(z @ z1.T).argmax(dim=1)] for z in (z3, z4)]
    parts = method.step(view(3), view(4), progress=0.0)
    torch.testing.assert_close(parts["loss"], symmetric(*near, p3, p4))
    assert parts["neighbour_cosine"].item() == pytest.approx((near[0] * z3).sum(dim=1).mean().item(), rel=1e-5)
    torch.testing.assert_close(method.dictionary.read()["z"], torch.cat([z1, z3]))


def test_nnclr_with_the_batch_itself_as_support_set_is_symmetric_info_nce():
    method = make(NNCLR)
    (z1, p1), (z2, p2) = encoded(method, view(1)), encoded(method, view(2))
    method.dictionary.enqueue(z=torch.cat([z1, z2]))
    torch.testing.assert_close(method.step(view(1), view(2), progress=0.0)["loss"], symmetric(z1, z2, p1, p2))


def test_nnclrs_gradient_flows_through_the_predictions_only():
    neighbour, p = vectors(B, 7).requires_grad_(), vectors(B, 7, seed=1).requires_grad_()
    method = make(NNCLR)
    method.step(view(1), view(2), progress=0.0)
    with torch.no_grad():
        method.predictor[-1].weight.zero_()  # predictions are constant: nothing reaches the encoder
    method.step(view(3), view(4), progress=0.0)["loss"].backward()
    assert not any(parameter.grad.any() for parameter in method.encoders.parameters())
    nnclr.neighbour_contrast(nnclr.nearest(neighbour, neighbour), p, 0.1).backward()
    assert neighbour.grad is None
    assert p.grad.any()


def test_without_ranks_the_batch_of_all_is_this_one():
    rows = vectors(4, 3)
    everyone, own = of_all_ranks(rows)
    assert torch.equal(everyone, rows)
    assert own.tolist() == [0, 1, 2, 3]


# MSF


def test_msf_with_one_neighbour_is_the_distance_to_the_target():
    method = make(MSF, k=1, momentum=0.9)
    for seed in (1, 3):
        method.step(view(seed), view(seed + 1), progress=0.0)
    reference = copy.deepcopy(method)
    loss = method.step(view(5), view(6), progress=0.0)["loss"]
    v = reference.predictor(reference.encoders.query(view(5).pixels)[1])
    reference.encoders.update(0.9)
    u = reference.encoders.key(view(6).pixels)[1]
    torch.testing.assert_close(loss, (2 - 2 * F.cosine_similarity(v, u)).mean())


def test_msf_is_a_slow_loop_over_a_bank_that_has_the_targets():
    method = make(MSF, k=4, momentum=0.9)
    for seed in (1, 3):
        method.step(view(seed), view(seed + 1), progress=0.5)
    moved(method)
    reference = copy.deepcopy(method)
    before = method.dictionary.read()["z"].clone()
    parts = method.step(view(5), view(6), progress=0.5)
    v = reference.predictor(reference.encoders.query(view(5).pixels)[1])
    reference.encoders.update(0.9)  # in the middle of the run as at its start
    u = F.normalize(reference.encoders.key(view(6).pixels)[1], dim=1)
    bank = method.dictionary.read()["z"]  # 18 targets in 16 slots: the two oldest have made room before the search
    torch.testing.assert_close(bank, torch.cat([u[4:], before[2:], u[:4]]))
    total = similarity = 0.0
    for b in range(B):
        near = sorted(range(16), key=lambda i: -float(u[b] @ bank[i]))[:4]
        torch.testing.assert_close(bank[near[0]], u[b])
        total += sum(2 - 2 * cosine(v[b], bank[i]) for i in near) / 4
        similarity += sum(cosine(u[b], bank[i]) for i in near) / 4
    assert parts["loss"].item() == pytest.approx(total / B, rel=1e-5)
    assert parts["neighbour_cosine"].item() == pytest.approx(similarity / B, rel=1e-5)


def test_more_neighbours_are_further_away_on_average():
    u, bank = vectors(5, 7), vectors(30, 7, seed=1)
    bank = torch.cat([u, bank])
    found = [msf.mean_shift(u, bank[(u @ bank.T).topk(k).indices]).item() for k in range(1, 9)]
    assert found[0] == pytest.approx(0, abs=1e-12)
    assert found == sorted(found)
    assert found[1] > 0


def test_small_views_are_further_queries_of_knn_moco_for_the_same_key():
    method = moved(make(KNNMoCo, k=3, lam=0.7))
    for seed in (1, 3):
        method.step(view(seed), view(seed + 1), progress=0.0)
    small = [view(seed)._replace(pixels=view(seed).pixels[..., :7, :7]) for seed in (7, 8)]
    reference = copy.deepcopy(method)
    parts = method.step(view(5), view(6), *small, progress=0.0)

    entries = reference.dictionary.read()
    queries = [reference.encoders.query(view(5).pixels)]
    g, z = reference.encoders.query(torch.cat([one.pixels for one in small]))  # statistics of all small crops
    queries += [(g[:B], z[:B]), (g[B:], z[B:])]
    reference.encoders.update(method.momentum)
    _, key = reference.encoders.key(view(6).pixels)
    nce = knn = 0.0
    for g, z in queries:
        for b in range(B):
            scores = [cosine(z[b], q) / 0.2 for q in entries["z"]]
            total = math.log(sum(map(math.exp, scores)))
            near = sorted(range(len(scores)), key=lambda i: -cosine(g[b], entries["g"][i]))[:3]
            knn -= sum(scores[i] - total for i in near) / 3 / (3 * B)
            positive = cosine(z[b], key[b]) / 0.2
            nce += math.log(sum(map(math.exp, [positive, *scores]))) / (3 * B) - positive / (3 * B)
    assert parts["info_nce"].item() == pytest.approx(nce, rel=1e-5)
    assert parts["knn_softmax"].item() == pytest.approx(knn, rel=1e-5)
    assert method.dictionary.written == 3 * B  # one key per image
