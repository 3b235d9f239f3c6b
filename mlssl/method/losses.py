"""The losses, as pure functions. Equation numbers are those of the MLS paper (arXiv 2308.03286).

Symbols: B batch, D entries of the dictionary; z1 query, z2 positive key and Q_z dictionary are L2-normalised;
p = z1 Q_z^T (B x D, eq. 8) are cosines, not yet divided by the temperature tau. The labels y of eq. 9 are given
as candidates and which of them are positive (B x K each), so the B x D matrix y never exists. Where a loss treats
all negatives alike, it sums over all D and takes the positives' share out again.

The losses made of one term per entry divide these terms by a `Divisors`: eq. 9 divides all by D, which leaves the k
labels little weight (docs/faithfulness.md).
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mlssl.method.pseudo_labels import Labels

Normalise = Literal["dictionary", "balanced", "positives"]


class Divisors(NamedTuple):
    """Entries per query by which the terms of positives and of negatives are divided, scalars."""

    positives: Tensor
    negatives: Tensor


def divisors(y: Labels, dictionary_size: int, normalise: Normalise = "dictionary") -> Divisors:
    """By what a loss divides its terms.

    `dictionary`: all by D (eq. 9). `positives`: all by k, the mean number of positives per query of the batch.
    `balanced`: those of positives by k, those of negatives by D - k, so that both sides are means. Counts are at
    least 1, for batches without a positive, or without a negative.
    """
    k = y.positive.sum(dim=1).to(y.similarity.dtype).mean()
    d = torch.full_like(k, dictionary_size)
    if normalise == "dictionary":
        return Divisors(d, d)
    if normalise == "positives":
        k = k.clamp(min=1)
        return Divisors(k, k)
    return Divisors(k.clamp(min=1), (d - k).clamp(min=1))


def info_nce(z1: Tensor, z2: Tensor, p: Tensor, tau: float) -> Tensor:
    """Eq. 1: cross entropy of the positive z1·z2 against the D negatives p; mean over the batch."""
    positive = (z1 * z2).sum(dim=1, keepdim=True)
    logits = torch.cat([positive, p], dim=1) / tau
    return (logits.logsumexp(dim=1) - logits[:, 0]).mean()


def bce(p: Tensor, y: Labels, tau: float, by: Divisors | None = None) -> Tensor:
    """Eq. 9, the multi-label loss: D binary cross entropies per query, averaged over D and the batch.

    -[y log s(x) + (1-y) log(1-s(x))] = softplus(x) - y x, so positives only subtract their logits.
    """
    x = p / tau
    near = x.gather(1, y.index)
    return mean_of_terms(F.softplus(x), F.softplus(-near), -near, y, by)


def bce_pos(p: Tensor, y: Labels, tau: float, by: Divisors | None = None) -> Tensor:
    """Table 6, BCE-pos: only the positive terms of eq. 9, -(1/D) sum over positives of log sigmoid(p/tau)."""
    by = by or divisors(y, p.shape[1])
    return over(y, F.softplus(-p.gather(1, y.index) / tau)).mean() / by.positives


def knn_softmax(p: Tensor, y: Labels, tau: float, by: Divisors | None = None) -> Tensor:
    """Eq. 2: the mean over a query's neighbours of an InfoNCE with that neighbour as the one positive.

    The negatives are the entries that are no neighbour; with none left (k = D) the loss is zero, and a query
    without neighbours adds nothing. `by` is not used: the mean is over the neighbours.
    """
    x = p / tau
    candidates = x.gather(1, y.index)
    without = candidates.masked_fill(y.positive, float("-inf"))
    negatives = x.scatter(1, y.index, without).logsumexp(dim=1, keepdim=True)
    each = torch.logaddexp(candidates, negatives) - candidates
    return (over(y, each) / y.positive.sum(dim=1).clamp(min=1)).mean()


def bce_soft(p: Tensor, y: Labels, tau: float, by: Divisors | None = None) -> Tensor:
    """Eq. 9 with labels in (0, 1]: exp((s_i - s_max) / tau) of the similarities s, 1 for the nearest.

    ReSSL's softmax over similarities (Zheng et al. 2021, arXiv 2107.09282, eq. 3), scaled so that its
    largest is 1, because the D classifiers do not compete.
    """
    x = p / tau
    near = x.gather(1, y.index)
    nearest = y.similarity.amax(dim=1, keepdim=True)
    soft = ((y.similarity - nearest) / tau).exp()
    return mean_of_terms(F.softplus(x), F.softplus(near) - soft * near, -(soft * near), y, by)


def focal(
    p: Tensor, y: Labels, tau: float, by: Divisors | None = None, *, gamma: float = 2.0, alpha: float = 0.25
) -> Tensor:
    """Focal loss (Lin et al. 2017, arXiv 1708.02002, eq. 5): easy entries count less, by (1 - p_t)^gamma.

    `alpha` weighs the positives, 1 - alpha the negatives; both default to the source's values.
    """
    x = p / tau

    def negative(x: Tensor) -> Tensor:
        return (1 - alpha) * x.sigmoid() ** gamma * F.softplus(x)

    near = x.gather(1, y.index)
    positive = alpha * (-near).sigmoid() ** gamma * F.softplus(-near)
    return mean_of_terms(negative(x), positive, positive - negative(near), y, by)


def asymmetric(
    p: Tensor,
    y: Labels,
    tau: float,
    by: Divisors | None = None,
    *,
    gamma_pos: float = 0.0,
    gamma_neg: float = 4.0,
    margin: float = 0.05,
) -> Tensor:
    """ASL (Ridnik et al. 2021, arXiv 2009.14119, eq. 7): negatives fade by gamma_neg, below `margin` to nothing.

    A negative of very low probability is dropped; one of high probability, a label likely missing, is kept
    in check by the margin's shift. The defaults are the source's.
    """
    x = p / tau

    def negative(x: Tensor) -> Tensor:
        shifted = (x.sigmoid() - margin).clamp(min=0)
        return -(shifted**gamma_neg) * torch.log1p(-shifted)

    near = x.gather(1, y.index)
    positive = (-near).sigmoid() ** gamma_pos * F.softplus(-near)
    return mean_of_terms(negative(x), positive, positive - negative(near), y, by)


def positive_unlabelled(
    p: Tensor, y: Labels, tau: float, by: Divisors | None = None, *, hidden: float = 2.0
) -> Tensor:
    """Non-negative PU risk (Kiryo et al. 2017, arXiv 1703.00593, eq. 6): what is no neighbour is unlabelled.

    pi R+(positives) + max(0, R-(all) - pi R-(positives)), with the class prior pi = `hidden` x (mean number of
    positives) / D: of so many true positives per labelled one. `hidden` = 1 is eq. 9 itself. `by` is not used: the
    class prior weighs the terms.
    """
    x = p / tau
    near = x.gather(1, y.index)
    weight = hidden / p.numel()  # pi / number of labelled pairs
    labelled = weight * over(y, F.softplus(-near)).sum()
    return labelled + (F.softplus(x).mean() - weight * over(y, F.softplus(near)).sum()).clamp(min=0)


def mean_of_terms(negative: Tensor, positive: Tensor, change: Tensor, y: Labels, by: Divisors | None) -> Tensor:
    """Mean over the batch of the terms of all entries, divided by `by`; None divides by D.

    `negative` (B x D) has each entry's term as a negative, `positive` (B x K) each candidate's as a positive, and
    `change` (B x K) is the second minus the first of a candidate.
    """
    by = by or divisors(y, negative.shape[1])
    if by.positives is by.negatives:
        return (negative.sum(dim=1) + over(y, change)).mean() / by.negatives
    rest = negative.sum(dim=1) - over(y, positive - change)
    return over(y, positive).mean() / by.positives + rest.mean() / by.negatives


def over(y: Labels, values: Tensor) -> Tensor:
    """Sum of `values` (B x K, one per candidate) over each query's positives: B."""
    return torch.where(y.positive, values, 0).sum(dim=1)


MULTI_LABEL = {
    "bce": bce,
    "bce_pos": bce_pos,
    "knn_softmax": knn_softmax,
    "bce_soft": bce_soft,
    "focal": focal,
    "asymmetric": asymmetric,
    "positive_unlabelled": positive_unlabelled,
}
"""The values of the parameter `loss`; each takes logits p (B x D), labels, tau and a Divisors."""
