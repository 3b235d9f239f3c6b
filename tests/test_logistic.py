"""Logistic regression: the optimum of its objective, as scikit-learn finds it, from any start and for any shape."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from mlssl.transfer.logistic import basis, fit


def sample(n=120, d=7, classes=4, seed=0):
    rng = torch.Generator().manual_seed(seed)
    x = 3 + 5 * torch.randn(n, d, generator=rng)
    logits = (x - 3) / 3 @ torch.randn(d, classes, generator=rng) / d**0.5
    return x, logits, rng


def objective(probe, x, targets, weights, weight_decay, softmax):
    """Written from the definition, in float64, with gradients for weight and bias."""
    z = (x.double() - x.double().mean(0)) / x.double().std(0, correction=0)
    weight, bias = (p.clone().requires_grad_() for p in (probe.weight, probe.bias))
    total = weight_decay / 2 * weight.square().sum()
    for n in range(len(x)):
        logits = weight @ z[n] + bias
        if softmax:
            loss = -(targets[n] * logits.log_softmax(dim=0)).sum()
        else:
            loss = F.binary_cross_entropy_with_logits(logits, targets[n].double(), reduction="sum")
        total = total + weights[n] / weights.sum() * loss
    return total, torch.autograd.grad(total, (weight, bias))


@pytest.mark.parametrize("weight_decay", [1.0, 1e-3])
@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("d", [7, 150])
def test_the_gradient_vanishes_at_the_solution(softmax, weight_decay, d):
    x, logits, rng = sample(d=d)
    targets = logits.softmax(dim=1) if softmax else torch.rand(logits.shape, generator=rng) < logits.sigmoid()
    weights = torch.rand(len(x), generator=rng).double()
    found = fit(basis(x), targets, weight_decay, softmax=softmax, tolerance=1e-7, iterations=100, weights=weights)
    assert found.converged
    _, gradients = objective(found.probe, x, targets, weights, weight_decay, softmax)
    assert max(float(g.abs().max()) for g in gradients) < 1e-5  # a rotation away from the solver's coordinates


@pytest.mark.parametrize("weight_decay", [0.1, 1e-3])
def test_the_solution_is_that_of_scikit_learn(weight_decay):
    x, logits, rng = sample()
    z = ((x.double() - x.double().mean(0)) / x.double().std(0, correction=0)).numpy()
    own = {"tolerance": 1e-9, "iterations": 100}
    given = {"C": 1 / (weight_decay * len(x)), "tol": 1e-10, "max_iter": 10_000}
    y = torch.rand(logits.shape, generator=rng) < logits.sigmoid()
    binary = fit(basis(x), y, weight_decay, softmax=False, **own).probe
    for c in range(y.shape[1]):
        theirs = LogisticRegression(**given).fit(z, y[:, c].numpy())
        torch.testing.assert_close(binary.weight[c], torch.tensor(theirs.coef_[0]), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(binary.bias[c], torch.tensor(theirs.intercept_[0]), rtol=1e-4, atol=1e-5)
    label = logits.argmax(dim=1)
    joint = fit(basis(x), F.one_hot(label), weight_decay, softmax=True, **own).probe
    theirs = LogisticRegression(**given).fit(z, label.numpy())
    torch.testing.assert_close(joint.weight, torch.tensor(theirs.coef_), rtol=1e-4, atol=1e-5)
    gap = joint.bias - torch.tensor(theirs.intercept_)  # the bias of a softmax is free up to a constant
    torch.testing.assert_close(gap, gap[:1].expand_as(gap), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("softmax", [False, True])
def test_any_start_leads_to_the_same_solution(softmax):
    x, logits, rng = sample()
    of, y = basis(x), F.one_hot(logits.argmax(dim=1))
    found = fit(of, y, 0.01, softmax=softmax, tolerance=1e-9, iterations=100)
    start = torch.randn(found.solution.shape, generator=rng, dtype=torch.float64)
    other = fit(of, y, 0.01, softmax=softmax, tolerance=1e-9, iterations=100, start=start)
    torch.testing.assert_close(found.probe.weight, other.probe.weight, rtol=1e-5, atol=1e-6)


def test_constant_features_do_no_harm():
    x = torch.cat([torch.randn(20, 2, generator=torch.Generator().manual_seed(0)), torch.full((20, 1), 0.1)], dim=1)
    probe = fit(basis(x), x[:, :1] > 0, 0.01, softmax=False, tolerance=1e-6, iterations=50).probe
    far = x.clone()
    far[:, 2] = 1e6
    torch.testing.assert_close(probe.scores(far), probe.scores(x), rtol=1e-3, atol=1e-3)


def test_categories_that_all_or_no_examples_have_get_a_constant_score():
    x, logits, _ = sample()
    y = torch.zeros_like(logits, dtype=torch.bool)
    y[:, 0] = True
    found = fit(basis(x), y, 0.1, softmax=False, tolerance=1e-6, iterations=100)
    assert found.converged
    scores = found.probe.scores(x)
    assert (scores[:, 0] > 5).all()
    assert (scores[:, 1:] < -5).all()


def test_a_fit_that_reaches_the_cap_says_so():
    x, logits, _ = sample()
    found = fit(basis(x), logits > 0, 1e-6, softmax=False, tolerance=1e-8, iterations=1)
    assert not found.converged
    assert found.gradient > 1e-8
