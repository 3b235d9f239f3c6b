"""Pseudo-labels: which entries of the dictionary count as positives of a query.

A search gives every query its K nearest entries, the candidates (`similarity` and `index`, B x K, nearest
first); a rule keeps some of them. So the B x D matrix of labels y never exists. No gradient flows.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

CHUNK = 2**28
"""Similarities that `mutual` computes at a time: 1 GB in float32."""


class Labels(NamedTuple):
    """The candidates of each of B queries, and which of them are labels."""

    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    """int64 B x K, entries of the dictionary, nearest first."""
    similarity: Tensor
    """float B x K, cosine of query and entry."""
    positive: Tensor
    """bool B x K."""


def top_k(similarity: Tensor, index: Tensor) -> Labels:
    """Eq. 7, y = IsTopK(g1 · Q_g^T): all candidates, K = k."""
    return Labels(index, similarity, torch.ones_like(index, dtype=torch.bool))


def threshold(similarity: Tensor, index: Tensor, at_least: float) -> Labels:
    """The candidates whose cosine is `at_least` so much; K bounds their number."""
    return Labels(index, similarity, similarity >= at_least)


def quantile(similarity: Tensor, index: Tensor, k: int) -> Labels:
    """The k B most similar pairs of the batch: a threshold at the 1 - k/D quantile of all its similarities.

    A query has k positives on average, more where its surroundings are dense; K bounds their number.
    """
    b, candidates = similarity.shape
    kept = similarity.flatten().topk(min(k, candidates) * b).values[-1]
    return Labels(index, similarity, similarity >= kept)


def mutual(similarity: Tensor, index: Tensor, entries: Tensor) -> Labels:
    """The candidates that would count the query among their own K nearest, were it in the dictionary.

    Reciprocal neighbours (Qin et al., CVPR 2011). `entries` is D x d, L2-normalised. An entry's neighbours
    are the other entries, so the K-th of them is place K + 1 of its ranking, which it leads itself.
    """
    b, k = index.shape
    place = min(k + 1, len(entries))
    parts = index.flatten().split(max(1, CHUNK // len(entries)))
    reach = torch.cat([(entries[part] @ entries.T).topk(place, dim=1).values[:, -1] for part in parts])
    # With at most K others, any query would be among the nearest.
    everyone = len(entries) <= k
    return Labels(index, similarity, (similarity >= reach.view(b, k)) | everyone)
