"""Embeddings of a batch: how far apart, how widely spread, and those of all ranks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mlssl.runtime import distributed


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """Cosines of vectors along the last dimension, … x d twice -> …; neither needs to be normalised."""
    return (F.normalize(a, dim=-1) * F.normalize(b, dim=-1)).sum(dim=-1)


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """|a/|a| - b/|b||² = 2 - 2 cos(a, b), in [0, 4] (BYOL, arXiv 2006.07733, eq. 2): … x d twice -> …."""
    return 2 - 2 * cosine(a, b)


COLLAPSED = 0.1
"""A `spread` below this is a collapse: a tenth of that of random directions."""


@torch.no_grad()
def spread(z: Tensor) -> Tensor:
    """`channel_std` of the batch of all ranks times sqrt(d): 1 for random directions, 0 for a collapse.

    `z` is this rank's part of the batch, B x d.
    """
    return channel_std(distributed.gather(z)) * z.shape[1] ** 0.5


def channel_std(z: Tensor) -> Tensor:
    """SimSiam's monitor of a collapse (arXiv 2011.10566, figure 2): B x d -> scalar.

    The standard deviation over the batch of each channel of z / |z|, mean over the channels; 1 / sqrt(d) for random
    directions, 0 for a collapse.
    """
    return F.normalize(z.float(), dim=1).std(dim=0, correction=0).mean()


def mean_over_ranks(values: Tensor) -> Tensor:
    """The mean of the ranks' values, the same on each."""
    return distributed.total(values) / distributed.count()


def random_numbers(images: int, *shape: int, device: torch.device) -> Tensor:
    """Uniform in [0, 1), `images` x `shape`, for this rank's images; the number of ranks changes none of them.

    Drawn from torch's global CPU generator, which has the same state on every rank and is part of a checkpoint.
    """
    everyone = torch.rand(distributed.count() * images, *shape)
    mine = everyone[distributed.part(len(everyone))]
    return (mine.pin_memory() if device.type == "cuda" else mine).to(device, non_blocking=True)


@torch.no_grad()
def gathered(rows: Tensor) -> tuple[Tensor, slice]:
    """The rows of all ranks, without gradient, and where this rank's are among them."""
    everyone = distributed.gather(rows)
    return everyone, distributed.part(len(everyone))


def of_all_ranks(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of all ranks, with gradient, and the places of this rank's among them.

    B x d -> (ranks B) x d, rank 0's first, and int64 B.
    """
    n = distributed.count() * len(rows)
    part = distributed.part(n)
    own = torch.arange(part.start, part.stop, device=rows.device)
    # Adding zeros is exact, and the gradient of the sum reaches the rank that the rows come from.
    return distributed.total(F.pad(rows, (0, 0, part.start, n - part.stop))), own
