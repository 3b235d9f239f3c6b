"""Pseudo-labels: which entries of the dictionary count as positives of a query."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def top_k(queries: Tensor, dictionary: Tensor, k: int) -> Tensor:
    """Eq. 7, y = IsTopK(g1 · Q_g^T): the k nearest entries of each query, as indices B x k, nearest first.

    `queries` is B x d (its length does not change the ranking), `dictionary` D x d, L2-normalised. While the
    dictionary holds fewer than k entries, all of them are returned. No gradient flows.
    """
    similarity = queries.to(dictionary.dtype) @ dictionary.T
    return similarity.topk(min(k, len(dictionary)), dim=1).indices
