"""A query encoder and its momentum (key) encoder."""

from __future__ import annotations

import copy
import math

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


def ramp(start: float, progress: float) -> float:
    """BYOL's momentum (arXiv 2006.07733, section 3.3): from `start` to 1 along a half cosine.

    1 - (1 - start) (cos(pi t) + 1) / 2 at t = `progress`, the share of the run that is done, in [0, 1].
    """
    return 1 - (1 - start) * (math.cos(math.pi * progress) + 1) / 2
