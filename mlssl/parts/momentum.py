"""A query encoder and its momentum (key) encoder."""

from __future__ import annotations

import copy

import torch
from torch import nn


class MomentumPair(nn.Module):
    """A query encoder trained by gradient and a key encoder that follows it (MoCo, arXiv 1911.05722, eq. 2).

    The key encoder starts as a copy, gets no gradient and has its own batch norm statistics.
    """

    def __init__(self, query: nn.Module) -> None:
        super().__init__()
        self.query = query
        self.key = copy.deepcopy(query).requires_grad_(False)

    @torch.no_grad()
    def update(self, momentum: float) -> None:
        """key <- momentum * key + (1 - momentum) * query, for every parameter; momentum in [0, 1]."""
        torch._foreach_lerp_(list(self.key.parameters()), list(self.query.parameters()), 1 - momentum)
