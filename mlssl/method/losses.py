"""The losses, as pure functions. Equation numbers are those of the MLS paper (arXiv 2308.03286).

Symbols: B batch, D entries of the dictionary, k positives of a query; z1 query, z2 positive key and Q_z
dictionary are L2-normalised; p = z1 Q_z^T (B x D, eq. 8) are cosines, not yet divided by the temperature tau.
The labels y of eq. 9 are given as `positives` (B x k, columns of p), so the B x D matrix y never exists.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(z1: Tensor, z2: Tensor, p: Tensor, tau: float) -> Tensor:
    """Eq. 1: cross entropy of the positive z1·z2 against the D negatives p; mean over the batch."""
    positive = (z1 * z2).sum(dim=1, keepdim=True)
    logits = torch.cat([positive, p], dim=1) / tau
    return (logits.logsumexp(dim=1) - logits[:, 0]).mean()


def bce(p: Tensor, positives: Tensor, tau: float) -> Tensor:
    """Eq. 9, the multi-label loss: D binary cross entropies per query, averaged over D and the batch.

    -[y log s(x) + (1-y) log(1-s(x))] = softplus(x) - y x, so positives only subtract their logits.
    """
    x = p / tau
    return (F.softplus(x).sum(dim=1) - x.gather(1, positives).sum(dim=1)).mean() / p.shape[1]


def bce_pos(p: Tensor, positives: Tensor, tau: float) -> Tensor:
    """Table 6, BCE-pos: only the positive terms of eq. 9, -(1/D) sum over positives of log sigmoid(p/tau)."""
    return F.softplus(-p.gather(1, positives) / tau).sum(dim=1).mean() / p.shape[1]


def knn_softmax(p: Tensor, positives: Tensor, tau: float) -> Tensor:
    """Eq. 2: the mean over the k neighbours of an InfoNCE with that neighbour as the one positive.

    The negatives are the entries that are no neighbour; with none left (k = D) the loss is zero.
    """
    x = p / tau
    neighbours = x.gather(1, positives)
    negatives = x.scatter(1, positives, float("-inf")).logsumexp(dim=1, keepdim=True)
    return (torch.logaddexp(neighbours, negatives) - neighbours).mean()
