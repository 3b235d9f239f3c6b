"""Methods on the cells of maps: PixPro, SlotCon, Self-EMD; their geometry, hand-computed numbers and slow loops."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from test_methods import B, make, view

from baselines import pixcontrast, pixpro, self_emd, slotcon
from baselines.pixcontrast import PixContrast
from baselines.pixpro import PixPro
from baselines.self_emd import SelfEMD
from baselines.slotcon import SlotCon
from mlssl.errors import ConfigError
from mlssl.parts.cells import cell_diagonal, centres, overlap_in, pairs_of
from mlssl.parts.embeddings import spread
from mlssl.parts.view import View
from mlssl.pretrain.step import step
from mlssl.pretrain.training import Training
from mlssl.study.methods import resolve

METHODS = pytest.mark.parametrize("cls", [PixPro, PixContrast, SlotCon, SelfEMD])


def build(cls, **scalars):
    return make(cls, **({"prototypes": 5} if cls is SlotCon else {}) | scalars)


def boxes(*rows, flips=None):
    """Views without pixels."""
    box = torch.tensor(rows)
    flip = torch.zeros(len(box)).bool() if flips is None else torch.tensor(flips)
    return View(torch.empty(len(box), 0), torch.arange(len(box)), box, flip)


def placed(seed):
    """A view of B images, whose crops overlap with those of other seeds but for the last image's."""
    at = torch.arange(B)
    box = torch.stack([at + seed, 2 * at, 40 + at + 3 * seed, 50 - at - seed], dim=1)
    box[-1] = torch.tensor([100 * seed, 0, 30, 30])
    return view(seed)._replace(box=box)


def moved(method):
    with torch.no_grad():
        for p in method.encoders.query.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return method


def cells(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Geometry

WHOLE, LEFT, QUARTER = (0, 0, 224, 224), (0, 0, 112, 224), (0, 0, 112, 112)


@pytest.mark.parametrize(
    ("box", "other", "threshold", "expected"),
    [
        (WHOLE, WHOLE, 0.7, 49),  # neighbours are 1 / sqrt(2) = 0.7071 of the diagonal away
        (WHOLE, WHOLE, 0.71, 217),
        (WHOLE, LEFT, 0.7, 91),
        (WHOLE, QUARTER, 0.7, 133),
        (LEFT, (500, 0, 112, 224), 0.7, 0),
    ],
)
def test_pairs_of_cells_by_hand(box, other, threshold, expected):
    pairs = pairs_of(boxes(box), boxes(other), 7, threshold)
    assert pairs.sum() == expected
    assert pairs_of(boxes(other), boxes(box), 7, threshold).mT.equal(pairs)
    if expected == 49:
        assert torch.equal(pairs[0], torch.eye(49).bool())


def test_a_flipped_view_pairs_with_the_mirrored_cell():
    pairs = pairs_of(boxes(WHOLE), boxes(WHOLE, flips=[True]), 7, 0.7)[0]
    assert pairs.nonzero().tolist() == [[7 * r + c, 7 * r + 6 - c] for r in range(7) for c in range(7)]
    both = pairs_of(boxes(WHOLE, flips=[True]), boxes(WHOLE, flips=[True]), 7, 0.7)[0]
    assert torch.equal(both, torch.eye(49).bool())


def test_centres_and_diagonals_are_a_slow_loop():
    one = boxes((10, 20, 30, 60), (5, 7, 8, 4), flips=[False, True])
    found, diagonal = centres(one, 3), cell_diagonal(one, 3)
    for b in range(2):
        x, y, w, h = one.box[b].tolist()
        for r in range(3):
            for c in range(3):
                column = 2 - c if one.flip[b] else c
                expected = (x + (column + 0.5) * w / 3, y + (r + 0.5) * h / 3)
                assert found[b, 3 * r + c].tolist() == pytest.approx(expected, rel=1e-6)
        assert diagonal[b].item() == pytest.approx(math.hypot(w / 3, h / 3))


def test_the_shared_rectangle_by_hand():
    one, other = boxes((0, 0, 100, 100)), boxes((50, 20, 100, 40))
    assert overlap_in(one, other).flatten().tolist() == pytest.approx([0.5, 0.2, 1, 0.6])
    assert overlap_in(other, one).flatten().tolist() == pytest.approx([0, 0, 0.5, 1])
    flipped = boxes((0, 0, 100, 100), flips=[True])
    assert overlap_in(flipped, other).flatten().tolist() == pytest.approx([0, 0.2, 0.5, 0.6])
    assert overlap_in(flipped, flipped).flatten().tolist() == [0, 0, 1, 1]
    left, _, right, _ = overlap_in(one, boxes((200, 0, 10, 10)))[0].tolist()
    assert right <= left


# PixPro


def test_propagation_of_equal_and_of_orthogonal_cells():
    x, values = cells(2, 6, 1).expand(2, 6, 5), cells(2, 6, 5, seed=1)
    mean = F.normalize(F.normalize(values, dim=1).sum(dim=2), dim=1)
    torch.testing.assert_close(pixpro.propagated(x, values, 2.0), mean[:, :, None].expand(2, 6, 5))
    orthonormal = torch.eye(6, dtype=torch.float64)[None]
    values = cells(1, 6, 6, seed=2)
    torch.testing.assert_close(pixpro.propagated(orthonormal, values, 2.0), F.normalize(values, dim=1))


def test_pixpro_is_a_slow_loop():
    x, values, target = cells(3, 4, 6), cells(3, 4, 6, seed=1), cells(3, 4, 5, seed=2)
    pairs = cells(3, 6, 5, seed=3) > 0.3
    pairs[2] = False
    loss = pixpro.consistency(pixpro.propagated(x, values, 3.0), target, pairs)
    total = 0.0
    for b in range(3):
        near, count = 0.0, int(pairs[b].sum())
        for i in range(6):
            y = torch.zeros(4, dtype=torch.float64)
            for j in range(6):
                alike = max(F.cosine_similarity(x[b, :, i], x[b, :, j], dim=0).item(), 0) ** 3
                y += alike * values[b, :, j] / values[b, :, j].norm()
            for j in range(5):
                if pairs[b, i, j]:
                    near += F.cosine_similarity(y, target[b, :, j], dim=0).item()
        total -= 2 * near / (count + 1e-6) / 3
    assert loss.item() == pytest.approx(total, rel=1e-9)


def test_pixpro_is_minus_4_for_a_perfect_prediction_and_0_without_pairs():
    y, pairs = cells(2, 4, 9), torch.eye(9).bool().expand(2, 9, 9)
    both = pixpro.consistency(y, 3 * y, pairs) + pixpro.consistency(y, y, pairs.mT)
    assert both.item() == pytest.approx(-4, abs=1e-6)
    none = pixpro.consistency(y.requires_grad_(), y.detach(), torch.zeros(2, 9, 9).bool())
    none.backward()
    assert none.item() == 0
    assert not y.grad.any()


def test_pixpros_step_is_its_equations():
    method = moved(build(PixPro, momentum=0.6, gamma=3.0, threshold=0.9))
    reference = copy.deepcopy(method)
    parts = method.step(placed(1), placed(2), progress=0.5)
    x = [reference.encoders.query(placed(s).pixels)[0] for s in (1, 2)]
    reference.encoders.update(0.8)
    target = [reference.encoders.key(placed(s).pixels)[0].flatten(2) for s in (1, 2)]
    pairs = pairs_of(placed(1), placed(2), 4, 0.9)
    y = [pixpro.propagated(m.flatten(2), reference.transform(m).flatten(2), 3.0) for m in x]
    expected = pixpro.consistency(y[0], target[1], pairs) + pixpro.consistency(y[1], target[0], pairs.mT)
    torch.testing.assert_close(parts["loss"], expected)
    assert parts["without_pairs"].item() == pytest.approx(1 / B)
    assert parts["pairs"].item() == pytest.approx(pairs.sum().item() / B)


# PixContrast


def test_pixcontrast_is_a_slow_loop():
    x, target = cells(3, 4, 6), cells(3, 4, 5, seed=2)
    pairs = cells(3, 6, 5, seed=3) > 0.3
    pairs[0, 1], pairs[2] = False, False
    total = 0.0
    for b in range(3):
        terms = []
        for i in range(6):
            near = [math.exp(F.cosine_similarity(x[b, :, i], target[b, :, j], dim=0) / 0.3) for j in range(5)]
            positive = sum(value for j, value in enumerate(near) if pairs[b, i, j])
            terms += [-math.log(positive / sum(near))] if positive else []
        total += sum(terms) / len(terms) / 3 if terms else 0
    x.requires_grad_()
    found = pixcontrast.contrast(x, target, pairs, 0.3)
    assert found.item() == pytest.approx(total, rel=1e-9)
    found.backward()
    assert x.grad.isfinite().all()
    tells_apart = pairs.any(dim=2) & ~pairs.all(dim=2)
    assert torch.equal(x.grad.norm(dim=1) > 1e-9, tells_apart)


def test_pixcontrast_by_hand():
    """Of n cells that are all alike, of which one is positive, log n; of orthonormal ones, as below."""
    alike, own = torch.ones(2, 3, 9).double(), torch.eye(9).bool().expand(2, 9, 9)
    assert pixcontrast.contrast(alike, alike, own, 0.3).item() == pytest.approx(math.log(9))
    assert pixcontrast.contrast(alike, alike, torch.ones(2, 9, 9).bool(), 0.3).item() == pytest.approx(0)
    apart = torch.eye(9).double().expand(2, 9, 9)
    expected = math.log(1 + 8 * math.exp(-1 / 0.3))  # 0.2516
    assert pixcontrast.contrast(apart, apart, own, 0.3).item() == pytest.approx(expected)
    assert pixcontrast.contrast(apart, apart, torch.zeros(2, 9, 9).bool(), 0.3).item() == 0


def test_pixcontrasts_step_is_its_equation():
    method = moved(build(PixContrast, momentum=0.6, tau=0.5, threshold=0.9))
    reference = copy.deepcopy(method)
    parts = method.step(placed(1), placed(2), progress=0.5)
    x = [reference.encoders.query(placed(s).pixels)[0].flatten(2) for s in (1, 2)]
    reference.encoders.update(0.8)
    target = [reference.encoders.key(placed(s).pixels)[0].flatten(2) for s in (1, 2)]
    pairs = pairs_of(placed(1), placed(2), 4, 0.9)
    both = pixcontrast.contrast(x[0], target[1], pairs, 0.5), pixcontrast.contrast(x[1], target[0], pairs.mT, 0.5)
    torch.testing.assert_close(parts["loss"], sum(both) / 2)
    assert parts["without_pairs"].item() == pytest.approx(1 / B)


# Self-EMD

SWAP = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]], dtype=torch.float64)


def test_transport_by_hand():
    half = torch.full((1, 2), 0.5, dtype=torch.float64)
    plan = self_emd.transport(SWAP, half, half, 0.5, 10)
    assert plan[0, 0, 0].item() == pytest.approx(0.5 / (1 + math.exp(-2)), rel=1e-9)  # 0.4404
    assert (plan * SWAP).sum().item() == pytest.approx(0.1192, abs=5e-5)
    assert (self_emd.transport(SWAP, half, half, 0.05, 10) * SWAP).sum().item() == pytest.approx(0, abs=1e-8)
    r, c = (torch.tensor([w], dtype=torch.float64) for w in ((0.75, 0.25), (0.25, 0.75)))
    plan = self_emd.transport(SWAP, r, c, 0.05, 500)  # slow, because a place in the plan is 0
    torch.testing.assert_close(plan[0], torch.tensor([[0.25, 0.5], [0.0, 0.25]]).double(), atol=1e-6, rtol=0)
    assert (plan * SWAP).sum().item() == pytest.approx(0.5, abs=1e-6)  # as linear programming


def test_the_plan_has_the_weights_of_both_views_and_no_gradient():
    p, z = (F.normalize(cells(4, 8, 9, seed=s), dim=1).requires_grad_() for s in (0, 1))
    r, c = self_emd.weights(p, z), self_emd.weights(z, p)
    plan = self_emd.transport(1 - p.mT @ z, r, c, 0.05, 200)
    assert not plan.requires_grad
    torch.testing.assert_close(plan.sum(dim=(1, 2)), torch.ones(4).double())
    torch.testing.assert_close(plan.sum(dim=1), c, atol=1e-9, rtol=0)  # the last that was normalised
    torch.testing.assert_close(plan.sum(dim=2), r, atol=1e-3, rtol=0)
    few = self_emd.transport(1 - p.mT @ z, r, c, 0.05, 10)
    torch.testing.assert_close(few.sum(dim=1), c, atol=1e-9, rtol=0)
    gradient = torch.autograd.grad(self_emd.emd_similarity(p, z.detach(), 0.05, 10).sum(), p)[0]
    few = few.detach()  # of p on the unit sphere, the gradient with the plan held fixed
    cosines = F.normalize(p, dim=1).mT @ F.normalize(z.detach(), dim=1)
    torch.testing.assert_close(gradient, torch.autograd.grad((few * cosines).sum(), p)[0])


def test_weights_of_cells_are_a_slow_loop():
    x, y = cells(2, 3, 4), cells(2, 3, 5, seed=1)
    for b in range(2):
        mean = sum(y[b, :, j] for j in range(5)) / 5
        found = [max(float(x[b, :, i] @ mean), 0) + 1e-5 for i in range(4)]
        assert self_emd.weights(x, y)[b].tolist() == pytest.approx([w / sum(found) for w in found])
    opposite = self_emd.weights(x[:1], -x[:1].mean(dim=2, keepdim=True) * 100)
    assert opposite.sum().item() == pytest.approx(1)


def test_self_emd_finds_moved_cells_where_cell_by_cell_does_not():
    x = torch.eye(6, dtype=torch.float64)[None] + 0.1
    shuffled = x[:, :, torch.tensor([3, 0, 5, 1, 4, 2])]
    assert self_emd.emd_similarity(x, shuffled, 0.01, 50).item() == pytest.approx(1, abs=1e-3)
    assert F.cosine_similarity(x, shuffled, dim=1).mean().item() < 0.6
    assert self_emd.emd_similarity(x, x, 0.01, 50).item() == pytest.approx(1, abs=1e-3)


def test_self_emds_step_is_byols_with_transport():
    method = moved(build(SelfEMD, momentum=0.6))
    reference = copy.deepcopy(method)
    parts = method.step(placed(1), placed(2), progress=0.5)
    p = [reference.predictor(reference.encoders.query(placed(s).pixels)[0]).flatten(2) for s in (1, 2)]
    reference.encoders.update(0.8)
    z = [reference.encoders.key(placed(s).pixels)[0].flatten(2) for s in (1, 2)]
    similarity = sum(self_emd.emd_similarity(p[i], z[1 - i], 0.05, 10).mean() for i in (0, 1))
    torch.testing.assert_close(parts["loss"], 4 - 2 * similarity)


# SlotCon


def test_groups_and_slots_are_a_slow_loop():
    z, prototypes = cells(2, 4, 3, 3), cells(5, 4, seed=1)
    scores, slots = slotcon.grouped(z, prototypes, 0.3)
    for b in range(2):
        flat = z[b].flatten(1)
        cosines = [
            [F.cosine_similarity(prototypes[k], flat[:, i], dim=0).item() for i in range(9)] for k in range(5)
        ]
        torch.testing.assert_close(scores[b].flatten(1), torch.tensor(cosines).double())
        share = []
        for k in range(5):
            row = []
            for i in range(9):
                total = sum(math.exp(cosines[m][i] / 0.3) for m in range(5))
                row.append(math.exp(cosines[k][i] / 0.3) / total + 1e-6)
            share.append(row)
        for k in range(5):
            expected = sum(share[k][i] * flat[:, i] for i in range(9)) / sum(share[k])
            torch.testing.assert_close(slots[b, k], expected)


def test_maps_of_equal_crops_are_aligned_already():
    scores = cells(2, 5, 7, 7).float()
    one = boxes(WHOLE, WHOLE)
    found, shared = slotcon.aligned(scores, one, one)
    torch.testing.assert_close(found, scores)
    assert shared.tolist() == [True, True]
    flipped = boxes(WHOLE, WHOLE, flips=[True, False])
    found, _ = slotcon.aligned(scores, flipped, one)
    torch.testing.assert_close(found, torch.stack([scores[0].flip(2), scores[1]]))
    _, shared = slotcon.aligned(scores, one, boxes(WHOLE, (300, 0, 9, 9)))
    assert shared.tolist() == [True, False]


@pytest.mark.parametrize("flips", [(False, False), (True, False), (False, True), (True, True)])
def test_aligned_maps_show_the_same_place(flips):
    """Scores that say where a cell is: away from borders, both aligned maps have the same values."""
    one, other = boxes((0, 0, 70, 70), flips=[flips[0]]), boxes((20, 10, 70, 70), flips=[flips[1]])
    maps = [
        slotcon.aligned(centres(v, 7).mT.unflatten(2, (7, 7)), v, o)[0] for v, o in ((one, other), (other, one))
    ]
    inner = slice(1, -1)
    torch.testing.assert_close(maps[0][..., inner, inner], maps[1][..., inner, inner], atol=1e-3, rtol=0)
    step_x = maps[0][0, 0, 3, 3] - maps[0][0, 0, 3, 2]
    assert step_x.item() == pytest.approx(50 / 7, rel=1e-4)  # 50 shared pixels over 7 cells, from left to right


def test_distillation_is_a_slow_loop_and_leaves_out_images_without_overlap():
    student, teacher = cells(3, 4, 2, 2), cells(3, 4, 2, 2, seed=1)
    total = 0.0
    for b in (0, 2):
        for r in range(2):
            for c in range(2):
                q, k = student[b, :, r, c].tolist(), teacher[b, :, r, c].tolist()
                lq, lk = (math.log(sum(map(math.exp, x))) for x in (q, k))
                total -= sum(math.exp(k[i] - lk) * (q[i] - lq) for i in range(4)) / (2 * 4)
    found = slotcon.distillation(student, teacher, torch.tensor([True, False, True]))
    assert found.item() == pytest.approx(total, rel=1e-6)
    assert slotcon.distillation(student, teacher, torch.zeros(3).bool()).item() == 0
    uniform = torch.zeros(1, 4, 2, 2)
    assert slotcon.distillation(uniform, uniform, torch.ones(1).bool()).item() == pytest.approx(math.log(4))


def test_equal_cells_have_one_active_slot():
    z, prototypes = cells(1, 4, 1, 1).expand(2, 4, 7, 7), cells(5, 4, seed=1)
    scores, _ = slotcon.grouped(z, prototypes, 0.07)
    assert slotcon.active(scores).sum(dim=1).tolist() == [1, 1]
    scores, _ = slotcon.grouped(cells(2, 4, 7, 7), prototypes, 0.07)
    expected = [sorted(set(row.tolist())) for row in scores.flatten(2).argmax(dim=1)]
    assert [row.nonzero().flatten().tolist() for row in slotcon.active(scores)] == expected


def test_slots_are_told_apart_as_in_a_slow_loop():
    method = build(SlotCon)
    scores, teacher_scores = cells(B, 5, 4, 4).float(), cells(B, 5, 4, 4, seed=1).float()
    scores[:, 1], teacher_scores[:, 2] = -9, -9  # never active
    q, k = cells(B, 5, 8, seed=2).float(), cells(B, 5, 8, seed=3).float()
    loss = method._told_apart((scores, q), (teacher_scores, k))
    mine, there = ([set(s[b].flatten(1).argmax(0).tolist()) for b in range(B)] for s in (scores, teacher_scores))
    keys = [(b, i) for b in range(B) for i in range(5) if i in there[b]]
    queries = [(b, i) for b, i in keys if i in mine[b]]
    p = method.predictor(torch.stack([q[at] for at in queries]))
    total = 0.0
    for row, at in zip(p, queries, strict=True):
        logits = torch.stack([F.cosine_similarity(row, k[key], dim=0) / 0.2 for key in keys])
        total += (logits.logsumexp(0) - logits[keys.index(at)]).item() / len(queries)
    assert loss.item() == pytest.approx(2 * 0.2 * total, rel=1e-4)
    alone = torch.full_like(scores, -1.0)
    alone[:, 3] = 1
    other = torch.full_like(scores, -1.0)
    other[:, 4] = 1
    nothing = method._told_apart((alone, q), (other, k))  # no prototype is active in both
    nothing.backward()
    assert nothing.item() == 0


def test_slotcons_step_is_its_losses_and_the_centre_follows_after_them():
    method = moved(build(SlotCon, momentum=0.6, lam=0.3))
    method.centre.copy_(torch.linspace(-0.2, 0.2, 5))
    reference = copy.deepcopy(method)
    parts = method.step(placed(1), placed(2), progress=0.5)
    views = placed(1), placed(2)
    q = [
        slotcon.grouped(reference.encoders.query(v.pixels)[0], reference.encoders.query.prototypes, 0.07)
        for v in views
    ]
    reference.encoders.update(0.8)  # prototypes too
    k = [
        slotcon.grouped(reference.encoders.key(v.pixels)[0], reference.encoders.key.prototypes, 0.07) for v in views
    ]
    groups = 0.0
    for i, j in ((0, 1), (1, 0)):
        student, shared = slotcon.aligned(q[i][0], views[i], views[j])
        teacher, _ = slotcon.aligned(k[j][0], views[j], views[i])
        centred = (teacher - reference.centre[:, None, None]) / 0.07
        groups = groups + slotcon.distillation(student / 0.1, centred, shared)
    assert shared.tolist() == [True] * (B - 1) + [False]
    slots = reference._told_apart(q[0], k[1]) + reference._told_apart(q[1], k[0])
    torch.testing.assert_close(parts["loss"], 0.3 * groups + 0.7 * slots)
    mean = torch.cat([k[0][0], k[1][0]]).mean(dim=(0, 2, 3))
    torch.testing.assert_close(method.centre, 0.9 * reference.centre + 0.1 * mean)


# All of them: the contract


@METHODS
def test_gradient_reaches_all_that_is_trained_and_nothing_else(cls):
    method = moved(build(cls))
    parts = method.step(placed(1), placed(2), progress=0.0)
    parts["loss"].backward()
    assert all((p.grad is not None) == p.requires_grad for p in method.parameters())
    assert all(p.grad.any() for p in method.encoders.query.backbone.conv.parameters())
    assert all(p.grad is None for p in method.encoders.key.parameters())
    assert all(not v.requires_grad for name, v in parts.items() if name != "loss")


@METHODS
def test_the_target_follows_by_the_momentum_of_the_moment_and_has_statistics_of_its_own(cls):
    method = moved(build(cls, momentum=0.6))
    before = copy.deepcopy(method.encoders)
    method.step(placed(1), placed(2), progress=0.5)
    for (name, new), old in zip(method.encoders.key.named_parameters(), before.key.parameters(), strict=True):
        online = before.query.get_parameter(name)
        torch.testing.assert_close(new, 0.8 * old + 0.2 * online, msg=name)
    norm = method.encoders.key.backbone.norm
    assert norm.num_batches_tracked == 2
    assert not torch.allclose(norm.running_mean, method.encoders.query.backbone.norm.running_mean)


@METHODS
def test_the_order_of_the_images_and_of_the_views_is_of_no_consequence(cls):
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    found = moved(build(cls)).step(placed(3), placed(4), progress=0.0)
    permuted = [View(*(column[order] for column in v[:4])) for v in (placed(3), placed(4))]
    again = moved(build(cls)).step(*permuted, progress=0.0)
    swapped = moved(build(cls)).step(placed(4), placed(3), progress=0.0)
    for other in (again, swapped):
        torch.testing.assert_close(other["loss"], found["loss"], rtol=1e-4, atol=1e-5)


@METHODS
def test_the_log_gets_the_spread_of_the_last_step(cls):
    method = build(cls)
    assert method.diagnostics() == {}
    z = copy.deepcopy(method).encoders.query(placed(1).pixels)[0].mean(dim=(2, 3))
    method.step(placed(1), placed(2), progress=0.0)
    torch.testing.assert_close(method.diagnostics()["spread"], spread(z.detach()))


@METHODS
def test_a_resumed_training_is_the_same_to_the_bit(cls):
    def begin():
        method = build(cls)
        trained = [p for p in method.parameters() if p.requires_grad]
        return Training(method, torch.optim.SGD(trained, lr=0.05, momentum=0.9), images="", segments=[])

    def train(training, steps):
        for at in range(training.step, training.step + steps):
            step(training.method, training.optimizer, (placed(at), placed(at + 1)), at / 6)
            training.step = at + 1

    whole, first, second = begin(), begin(), begin()
    train(whole, 6)
    train(first, 3)
    second.restore(first.state(), torch.device("cpu"))
    train(second, 3)
    for (name, a), b in zip(whole.method.state_dict().items(), second.method.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


@METHODS
def test_the_loss_falls(cls):
    method, images = build(cls, dim=16), torch.randn(24, 3, 9, 9, generator=torch.Generator().manual_seed(100))
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.05, momentum=0.9)
    found = []
    for at in range(60):
        generator = torch.Generator().manual_seed(at)
        index = torch.randperm(24, generator=generator)[:B]
        views = [images[index] + 0.3 * torch.randn(B, 3, 9, 9, generator=generator) for _ in range(2)]
        box = torch.tensor([[0, 0, 90, 90]]).expand(B, 4)
        pair = [View(x, index, box, torch.zeros(B).bool()) for x in views]
        found.append(step(method, optimizer, pair, at / 60)["loss"].item())
    assert sum(found[-20:]) / 20 < sum(found[3:8]) / 5 - 0.1
    assert all(map(math.isfinite, found))


@pytest.mark.parametrize(
    ("target", "params", "words"),
    [
        ("pixpro.PixPro", {"gamma": 0.5}, "gamma: 0.5 is not allowed; give at least 1"),
        ("pixpro.PixPro", {"threshold": 0.0}, "threshold: 0.0 is not allowed; give more than 0"),
        ("pixcontrast.PixContrast", {"tau": 0.0}, "tau: 0.0 is not allowed; give more than 0"),
        ("self_emd.SelfEMD", {"eps": 0.01}, "eps: 0.01 is not allowed; give at least 0.03"),
        ("slotcon.SlotCon", {"prototypes": 0}, "prototypes: 0 is not allowed; give at least 1"),
    ],
)
def test_parameters_that_cannot_work_are_refused(target, params, words):
    with pytest.raises(ConfigError, match=words):
        resolve(f"baselines.{target}", {}, params, "methods.x")
