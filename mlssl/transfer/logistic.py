"""Logistic regression with an L2 penalty, solved to a stated tolerance: independent categories, or one softmax.

The solver is Newton's method whose linear systems are solved by preconditioned conjugate gradients (truncated
Newton, Nocedal and Wright, Numerical Optimization, 2nd ed., algorithm 7.1). It works on the principal components
of the standardised features, in which the diagonal of the Hessian is a good preconditioner. Gradients are
float64; conjugate gradients run in float32, because a direction only has to be good enough.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

RANK = 1e-10
"""Principal components with less than this share of the largest variance are left out."""
CG_STEPS = 200
"""Largest number of conjugate gradient steps per Newton step."""
HALVINGS = 40
"""Largest number of times that a Newton step is halved."""


class Basis(NamedTuple):
    """Features N x D, standardised and rotated to their R principal components; R is their rank."""

    mean: Tensor
    """float64 D."""
    scale: Tensor
    """float64 D, standard deviation of the features; 1 where they are constant."""
    rotation: Tensor
    """float64 D x R."""
    inputs: Tensor
    """float64 N x (R + 1); the last column is 1, for the bias."""


class Fit(NamedTuple):
    """A solution, and how the solver got there. D features, C outputs."""

    probe: Probe
    solution: Tensor
    """float64 C x (R + 1), in the coordinates of the basis: a start for another penalty."""
    gradient: float
    """Largest absolute entry of the objective's gradient, in the coordinates of the basis."""
    converged: bool
    """Whether `gradient` is below the tolerance."""


class Probe(NamedTuple):
    """One linear layer on standardised features: D features, C outputs."""

    mean: Tensor
    """float64 D."""
    scale: Tensor
    """float64 D, standard deviation of the features; 1 where they are constant."""
    weight: Tensor
    """float64 C x D."""
    bias: Tensor
    """float64 C."""

    def scores(self, features: Tensor) -> Tensor:
        """Logits, float64 N x C, of features N x D."""
        return F.linear((features.double() - self.mean) / self.scale, self.weight, self.bias)


def basis(features: Tensor) -> Basis:
    """The principal components of features, float N x D; the optimum of `fit` is in their span."""
    x = features.double()
    mean, scale = x.mean(dim=0), x.std(dim=0, correction=0)
    # Rounding gives constant features a deviation that is not exactly 0.
    scale = torch.where(scale > 1e-7 * mean.abs(), scale, 1.0)
    x = (x - mean) / scale
    few = len(x) < x.shape[1]
    values, vectors = torch.linalg.eigh(x @ x.T if few else x.T @ x)
    kept = values > RANK * values[-1]
    rotation = vectors[:, kept]
    if few:
        rotation = x.T @ rotation / values[kept].sqrt()
    return Basis(mean, scale, rotation, torch.cat([x @ rotation, x.new_ones(len(x), 1)], dim=1))


def fit(
    of: Basis,
    targets: Tensor,
    weight_decay: float,
    *,
    softmax: bool,
    tolerance: float,
    iterations: int,
    weights: Tensor | None = None,
    start: Tensor | None = None,
) -> Fit:
    """Minimise, over W and b, sum_n v_n l(W x_n + b, y_n) + weight_decay / 2 ||W||^2, with sum_n v_n = 1.

    With `softmax`, l is the cross entropy to the distribution y_n over C classes; without, the sum over
    categories of the binary cross entropy. `targets` N x C, bool or float in [0, 1]; `weights` float N >= 0,
    equal if not given. Stops when no entry of the gradient exceeds `tolerance`, at the latest after `iterations`
    Newton steps; starts from `start`, else from W = 0 and the b of the observed frequencies. Deterministic.
    """
    x, y = of.inputs, targets.double()
    v = x.new_full((len(x), 1), 1 / len(x)) if weights is None else weights.double()[:, None] / weights.sum()
    penalty = torch.full_like(x[0], weight_decay)
    penalty[-1] = 0
    solution = _frequencies(x, y * v, softmax) if start is None else start.clone()
    gradients = torch.full_like(solution[:, 0], torch.inf)
    low = (x.float(), x.float().square(), v.float(), penalty.float())
    # The categories of independent problems leave the work when they have converged.
    rows = torch.arange(len(solution), device=x.device)
    for step in range(iterations + 1):
        w, target = solution[rows], y[:, rows]
        logits = x @ w.T
        slope = ((_probability(logits, softmax) - target) * v).T @ x + penalty * w
        gradients[rows] = slope.abs().amax(dim=1)
        left = gradients[rows] > tolerance
        if not left.any() or step == iterations:
            break
        if not softmax and not left.all():
            rows, w, target, slope, logits = rows[left], w[left], target[:, left], slope[left], logits[:, left]
        direction = _direction(low, _probability(logits, softmax).float(), slope.float(), softmax).double()
        solution[rows] = w + _step(x, v, penalty, w, direction, target, logits, slope, softmax) * direction
    found = Probe(of.mean, of.scale, solution[:, :-1] @ of.rotation.T, solution[:, -1])
    return Fit(found, solution, float(gradients.max()), bool(gradients.max() <= tolerance))


def _frequencies(x: Tensor, weighted: Tensor, softmax: bool) -> Tensor:
    """W = 0 and the bias that gives each output its observed frequency (kept away from 0 and 1)."""
    share = weighted.sum(dim=0)
    share = (share * len(x) + 0.5) / (len(x) + 1)
    start = x.new_zeros(len(share), x.shape[1])
    start[:, -1] = share.log() if softmax else share.logit()
    return start


def _probability(logits: Tensor, softmax: bool) -> Tensor:
    return logits.softmax(dim=1) if softmax else logits.sigmoid()


def _inner(a: Tensor, b: Tensor, softmax: bool) -> Tensor:
    """Inner products of C x R: one for a softmax (1 x 1), one per category for independent ones (C x 1)."""
    return (a * b).sum(dim=(0, 1) if softmax else 1, keepdim=True)


def _direction(low: tuple[Tensor, ...], p: Tensor, slope: Tensor, softmax: bool) -> Tensor:
    """Solve H d = -slope by conjugate gradients, to a residual of min(0.1, sqrt |slope|) |slope|; float32 C x R."""
    x, squares, v, penalty = low
    s = p * (1 - p) * v
    diagonal = s.T @ squares + penalty
    diagonal = torch.where(diagonal > 0, diagonal, 1.0)
    d, r = torch.zeros_like(slope), -slope
    z = r / diagonal
    q, rz = z, _inner(r, z, softmax)
    size = _inner(r, r, softmax).sqrt()
    goal = size * size.sqrt().clamp_max(0.1)
    for _ in range(CG_STEPS):
        u = x @ q.T
        u = (u - (p * u).sum(dim=1, keepdim=True)) * p * v if softmax else s * u
        h = u.T @ x + penalty * q
        curvature = _inner(q, h, softmax)
        going = (size > goal) & (curvature > 0)
        if not going.any():
            break
        alpha = torch.where(going, rz / curvature, 0.0)
        d, r = d + alpha * q, r - alpha * h
        size = torch.where(going, _inner(r, r, softmax).sqrt(), size)
        z = r / diagonal
        new = _inner(r, z, softmax)
        q, rz = z + torch.where(rz > 0, new / rz, 0.0) * q, new
    # Without curvature in float32, or by rounding, the direction may not fall: then take the preconditioned slope.
    return torch.where(_inner(d, slope, softmax) < 0, d, -slope / diagonal)


def _losses(logits: Tensor, w: Tensor, target: Tensor, v: Tensor, penalty: Tensor, softmax: bool) -> Tensor:
    """The objective: 1 x 1 for a softmax, C x 1, one per category, for independent ones."""
    if softmax:
        data = ((logits.logsumexp(dim=1) - (target * logits).sum(dim=1)) * v[:, 0]).sum()[None, None]
    else:
        data = (F.binary_cross_entropy_with_logits(logits, target, reduction="none") * v).sum(dim=0)[:, None]
    return data + _inner(penalty * w, w, softmax) / 2


def _step(
    x: Tensor,
    v: Tensor,
    penalty: Tensor,
    w: Tensor,
    direction: Tensor,
    target: Tensor,
    logits: Tensor,
    slope: Tensor,
    softmax: bool,
) -> Tensor:
    """Length of the step, 1 x 1 or C x 1: 1, halved until the objective falls enough (Armijo, 1e-4)."""
    old = _losses(logits, w, target, v, penalty, softmax)
    change = x @ direction.T
    fall = _inner(slope, direction, softmax)
    length = torch.ones_like(old)
    for _ in range(HALVINGS):
        moved = logits + change * length.T
        new = _losses(moved, w + length * direction, target, v, penalty, softmax)
        # Near the optimum the fall is below the rounding of the objective.
        enough = new <= old + 1e-4 * length * fall + 1e-14 * old.abs()
        if enough.all():
            break
        length = torch.where(enough, length, length / 2)
    return length
