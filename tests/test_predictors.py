"""Methods with a predictor: BYOL's and SimSiam's numbers, loops and traps; heads, collapse and training of all."""

import copy

import pytest
import torch
from test_methods import B, SmallBackbone, make, view
from test_relatives import E1, E2, cosine, moved, neighbours_of, vectors

from baselines import byol, knn_moco, msf, nnclr, simsiam
from baselines.byol import BYOL
from baselines.knn_moco import KNNMoCo
from baselines.msf import MSF
from baselines.nnclr import NNCLR
from baselines.simsiam import SimSiam
from mlssl.errors import ConfigError
from mlssl.parts.embeddings import channel_std, spread
from mlssl.parts.heads import mlp
from mlssl.parts.momentum import ramp
from mlssl.parts.view import View
from mlssl.study.methods import resolve

# BYOL


@pytest.mark.parametrize(("sign", "expected"), [(1, 0), (-1, 8)])
def test_regression_of_equal_and_opposite_vectors(sign, expected):
    p1, p2 = vectors(4, 6), vectors(4, 6, seed=1)
    assert byol.regression(p1, p2, sign * p2, sign * p1).item() == pytest.approx(expected, abs=1e-12)


def test_regression_of_orthogonal_vectors_and_its_scale():
    p, z = E1.expand(3, 2), E2.expand(3, 2)
    assert byol.regression(p, p, z, z).item() == 4
    p1, p2, z1, z2 = (vectors(4, 6, seed=seed, unit=False) for seed in range(4))
    expected = byol.regression(p1, p2, z1, z2)
    torch.testing.assert_close(byol.regression(3 * p1, 3 * p2, z1, z2), expected)
    slow = 0.0
    for b in range(4):
        for p, z in ((p1[b], z2[b]), (p2[b], z1[b])):
            slow += float((p / p.norm() - z / z.norm()).square().sum())
    assert expected.item() == pytest.approx(slow / 4, rel=1e-12)
    negative_cosine = simsiam.symmetric_cosine(p1, p2, z1, z2)
    torch.testing.assert_close(expected, 4 + 4 * negative_cosine)


def test_byol_of_two_equal_views_without_a_predictor_is_at_its_minimum():
    method = make(BYOL)
    method.predictor = torch.nn.Identity()
    method.step(view(1), view(1), progress=0.0)["loss"].backward()
    assert method.step(view(1), view(1), progress=0.0)["loss"].item() == pytest.approx(0, abs=1e-5)
    assert all(p.grad.abs().max() < 1e-5 for p in method.encoders.query.parameters())


def test_the_momentum_rises_from_its_start_to_one():
    assert ramp(0.99, 0.0) == 0.99
    assert ramp(0.99, 0.5) == pytest.approx(0.995)
    assert ramp(0.99, 1.0) == 1
    assert [ramp(0.9, t / 9) for t in range(10)] == sorted(ramp(0.9, t / 9) for t in range(10))


@pytest.mark.parametrize("progress", [0.0, 0.5, 1.0])
def test_byols_target_follows_before_it_is_the_target_by_the_momentum_of_the_moment(progress):
    method = moved(make(BYOL, momentum=0.6))
    reference = copy.deepcopy(method)
    before = copy.deepcopy(method.encoders.key.state_dict())
    parts = method.step(view(1), view(2), progress=progress)
    p1, p2 = (reference.predictor(reference.encoders.query(view(seed).pixels)[1]) for seed in (1, 2))
    reference.encoders.update({0.0: 0.6, 0.5: 0.8, 1.0: 1.0}[progress])
    z1, z2 = (reference.encoders.key(view(seed).pixels)[1] for seed in (1, 2))
    torch.testing.assert_close(parts["loss"], byol.regression(p1, p2, z1, z2))
    unchanged = [torch.equal(p, before[name]) for name, p in method.encoders.key.named_parameters()]
    assert all(unchanged) if progress == 1 else not any(unchanged)


def test_byols_target_has_statistics_of_its_own_and_no_predictor():
    method = moved(make(BYOL, momentum=1.0))
    method.step(view(1), view(2), progress=0.0)
    online, target = method.encoders.query.backbone.norm, method.encoders.key.backbone.norm
    assert (online.num_batches_tracked, target.num_batches_tracked) == (2, 2)
    assert not torch.allclose(online.running_mean, target.running_mean)
    means = [method.encoders.key.backbone.conv(view(seed).pixels).mean(dim=(0, 2, 3)) for seed in (1, 2)]
    torch.testing.assert_close(target.running_mean, 0.09 * means[0] + 0.1 * means[1])
    assert not any("predictor" in name for name, _ in method.encoders.named_modules())


@pytest.mark.parametrize("cls", [BYOL, SimSiam])
def test_the_order_of_the_two_views_is_of_no_consequence(cls):
    one, other = moved(make(cls)), moved(make(cls))
    a, b = one.step(view(1), view(2), progress=0.3), other.step(view(2), view(1), progress=0.3)
    torch.testing.assert_close(a["loss"], b["loss"])


# SimSiam


def test_simsiam_is_at_its_minimum_where_prediction_and_projection_are_equal():
    p1, p2 = vectors(4, 6), vectors(4, 6, seed=1)
    assert simsiam.symmetric_cosine(p1, p2, p2, p1).item() == pytest.approx(-1)


def test_simsiam_is_a_slow_loop_and_projections_get_no_gradient_as_targets():
    p1, p2, z1, z2 = (vectors(4, 6, seed=seed, unit=False).requires_grad_() for seed in range(4))
    loss = simsiam.symmetric_cosine(p1, p2, z1, z2)
    slow = sum(-cosine(p1[b], z2[b]) / 2 - cosine(p2[b], z1[b]) / 2 for b in range(4))
    assert loss.item() == pytest.approx(slow / 4, rel=1e-12)
    loss.backward()
    assert z1.grad is None
    assert z2.grad is None
    assert p1.grad.any()
    assert p2.grad.any()


def test_simsiams_step_stops_the_gradient():
    """With constant predictions, only a gradient of the targets could reach the encoder."""
    method = make(SimSiam)
    with torch.no_grad():
        method.predictor[-1].weight.zero_()
    method.step(view(1), view(2), progress=0.0)["loss"].backward()
    assert method.predictor[-1].bias.grad.any()
    assert not any(p.grad.any() for p in method.encoders.parameters())


# Heads and the monitor of a collapse


def described(head):
    names = {"Linear": "linear", "BatchNorm1d": "norm", "ReLU": "relu"}
    layers = []
    for layer in head:
        name = names[type(layer).__name__]
        if name == "linear":
            name += f" {layer.in_features} {layer.out_features}{'' if layer.bias is not None else ' no bias'}"
        elif name == "norm":
            name += "" if layer.affine else " plain"
        layers.append(name)
    return layers


def test_heads_are_those_of_the_papers():
    backbone = SmallBackbone()
    backbone.num_features = 2048
    hidden = ["norm", "relu"]
    small = {NNCLR: {"dictionary_size": 4}, MSF: {"dictionary_size": 5}}
    found = {cls: cls(copy.deepcopy(backbone), **small.get(cls, {})) for cls in (BYOL, SimSiam, NNCLR, MSF)}
    heads = {cls: (described(m.encoders.query.projector), described(m.predictor)) for cls, m in found.items()}
    assert heads[BYOL] == (
        ["linear 2048 4096", *hidden, "linear 4096 256 no bias"],
        ["linear 256 4096", *hidden, "linear 4096 256 no bias"],
    )
    one = ["linear 2048 2048 no bias", *hidden]
    assert heads[SimSiam] == (
        [*one, *one, "linear 2048 2048 no bias", "norm plain"],
        ["linear 2048 512 no bias", *hidden, "linear 512 2048"],
    )
    one = ["linear 2048 2048", *hidden]
    assert heads[NNCLR] == (
        [*one, *one, "linear 2048 256", "norm"],
        ["linear 256 4096", *hidden, "linear 4096 256"],
    )
    assert heads[MSF] == (
        ["linear 2048 4096", *hidden, "linear 4096 512"],
        ["linear 512 4096", *hidden, "linear 4096 512"],
    )
    assert described(mlp([3, 2])) == ["linear 3 2"]


def test_the_spread_is_one_for_random_directions_and_zero_for_a_collapse():
    z = vectors(4096, 2048, unit=False)
    assert channel_std(z).item() == pytest.approx(1 / 2048**0.5, rel=0.02)
    assert spread(z).item() == pytest.approx(1, rel=0.02)
    assert spread(z[:1] * torch.rand(64, 1)).item() == pytest.approx(0, abs=1e-6)
    small = vectors(5, 3, unit=False)
    rows = [(row / row.norm()).tolist() for row in small]
    slow = 0.0
    for c in range(3):
        mean = sum(row[c] for row in rows) / 5
        slow += (sum((row[c] - mean) ** 2 for row in rows) / 5) ** 0.5 / 3
    assert channel_std(small).item() == pytest.approx(slow, rel=1e-5)


@pytest.mark.parametrize("cls", [NNCLR, MSF, BYOL, SimSiam])
def test_the_log_gets_the_spread_of_the_last_step(cls):
    method = make(cls)
    assert method.diagnostics() == {}
    z = copy.deepcopy(method).encoders.query(view(1).pixels)[1]
    method.step(view(1), view(2), progress=0.0)
    torch.testing.assert_close(method.diagnostics()["spread"], spread(z.detach()))
    assert not method.diagnostics()["spread"].requires_grad


# All of them

Z1, Z2 = vectors(3, 4, seed=8, unit=False), vectors(3, 4, seed=9, unit=False)
GRADIENTS = {
    "knn_moco": lambda s, _: knn_moco.knn_softmax_over_all(s, neighbours_of([0, 2], [1, 2], [3, 0]), 0.5),
    "nnclr": lambda p, _: nnclr.neighbour_contrast(Z1, p, 0.5),
    "msf": lambda v, _: msf.mean_shift(v, torch.stack([Z1, Z2], dim=1)),
    "byol": lambda p1, p2: byol.regression(p1, p2, Z1, Z2),
    "simsiam": lambda p1, p2: simsiam.symmetric_cosine(p1, p2, Z1, Z2),
}


@pytest.mark.parametrize("loss", GRADIENTS.values(), ids=GRADIENTS)
def test_gradients_are_finite_differences(loss):
    assert torch.autograd.gradcheck(loss, [vectors(3, 4, seed=s, unit=False).requires_grad_() for s in (10, 11)])


@pytest.mark.parametrize(
    ("target", "params", "words"),
    [
        ("knn_moco.KNNMoCo", {"denominator": "none"}, "denominator: 'none' is not allowed; give 'all' or 'others'"),
        ("knn_moco.KNNMoCo", {"k": 17, "dictionary_size": 16}, "k <= dictionary_size must hold, but k is 17"),
        ("knn_moco.KNNMoCo", {"lam": -1.0}, "lam: -1.0 is not allowed; give at least 0"),
        ("msf.MSF", {"k": 9, "dictionary_size": 8}, "k <= dictionary_size must hold, but k is 9"),
        ("msf.MSF", {"momentum": 1.5}, "momentum: 1.5 is not allowed; give at most 1"),
        ("nnclr.NNCLR", {"tau": 0.0}, "tau: 0.0 is not allowed; give more than 0"),
        ("nnclr.NNCLR", {"hidden": 0}, "hidden: 0 is not allowed; give at least 1"),
        ("byol.BYOL", {"dictionary_size": 4}, "BYOL has no such parameter; it has dim, momentum, hidden"),
        ("simsiam.SimSiam", {"predictor_hidden": 0.5}, "predictor_hidden: 0.5 is not allowed; give a whole number"),
    ],
)  # fmt: skip
def test_parameters_that_cannot_work_are_refused(target, params, words):
    with pytest.raises(ConfigError, match=words):
        resolve(f"baselines.{target}", {}, params, "methods.x")


def scene_views(at):
    """Two noisy views of 6 of 24 images."""
    generator = torch.Generator().manual_seed(at)
    images = torch.randn(24, 3, 9, 9, generator=torch.Generator().manual_seed(100))
    index = torch.randperm(24, generator=generator)[:B]
    pixels = [images[index] + 0.3 * torch.randn(B, 3, 9, 9, generator=generator) for _ in range(2)]
    return [View(x, index, torch.zeros(B, 4), torch.zeros(B).bool()) for x in pixels]


STARTS = {NNCLR: (1.5, 5.0), MSF: (1.4, 2.6), BYOL: (2.8, 5.2), SimSiam: (-0.3, 0.3)}
"""The loss of random projections: above log B, 2, 4, 0."""


@pytest.mark.parametrize("cls", [KNNMoCo, *STARTS])
def test_the_loss_falls_from_its_known_start(cls):
    method = make(cls, **({"k": 1} if cls is MSF else {}), **({"dim": 32} if cls in STARTS else {}))
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.05, momentum=0.9)
    found = []
    for at in range(200):
        parts = method.step(*scene_views(at), progress=at / 200)
        optimizer.zero_grad()
        parts["loss"].backward()
        optimizer.step()
        found.append(parts["loss"].item())
    start, end = sum(found[3:8]) / 5, sum(found[-20:]) / 20
    if cls in STARTS:
        low, high = STARTS[cls]
        assert low < found[0] < high
    assert end < start - 0.2
