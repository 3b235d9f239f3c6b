"""Self-EMD: earth mover's distance of two maps (Liu, Li, Sun 2020, arXiv 2011.13677). Our reading: no code exists.

p, z'       predictions of the online network's cells, and projections of the target's, R^dim each
c_ij        1 - cos(p_i, z'_j), the cost of moving cell i to cell j
r, c        weights of the cells: how similar each is to the mean cell of the other view
pi          the transport plan between r and c with the least cost, smoothed by its entropy (Sinkhorn)
xi, theta   weights of target and online network: xi <- m xi + (1 - m) theta, m rising to 1
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mlssl.parts.backbone import channels
from mlssl.parts.embeddings import spread
from mlssl.parts.encoder import MapEncoder
from mlssl.parts.heads import mlp
from mlssl.parts.momentum import MomentumPair, ramp
from mlssl.parts.view import View
from mlssl.ranges import Count, Probability

FLOOR = 1e-5
"""Added to each cell's weight, so that no sum of weights is zero (DeepEMD, arXiv 2003.06777)."""


@torch.no_grad()
def weights(x: Tensor, y: Tensor) -> Tensor:
    """r_i = max(x_i · mean of y, 0), divided by its sum: cells B x d x n and B x d x m -> B x n."""
    r = (x * y.mean(dim=2, keepdim=True)).sum(dim=1).clamp(min=0) + FLOOR
    return r / r.sum(dim=1, keepdim=True)


@torch.no_grad()
def transport(cost: Tensor, r: Tensor, c: Tensor, eps: float, iterations: int) -> Tensor:
    """Sinkhorn-Knopp: the plan B x n x m with column sums `c` and, once converged, row sums `r`; no gradient.

    Costs B x n x m; r and c sum to 1. `eps` weighs the entropy: towards 0 the plan is the cheapest there is.
    """
    kernel = torch.exp(-cost / eps)
    v = torch.ones_like(c)[:, :, None]
    for _ in range(iterations):
        u = r[:, :, None] / (kernel @ v)
        v = c[:, :, None] / (kernel.mT @ u)
    return u * kernel * v.mT


def emd_similarity(p: Tensor, z: Tensor, eps: float, iterations: int) -> Tensor:
    """sum over all pairs of pi_ij cos(p_i, z_j), one per image, in [-1, 1]; gradient through the cosines alone.

    Cells B x d x n and B x d x m, not normalised -> B.
    """
    p, z = F.normalize(p, dim=1), F.normalize(z, dim=1)
    cosines = p.mT @ z
    plan = transport(1 - cosines, weights(p, z), weights(z, p), eps, iterations)
    return (plan * cosines).sum(dim=(1, 2))


class SelfEMD(nn.Module):
    """BYOL without pooling: a view's cells predict those of the other, matched by optimal transport.

    Args:
        backbone: gives a B x d x S x S map.
        dim: of the projection.
        momentum: of the target network at the start; it rises to 1 (`parts.momentum.ramp`).
        hidden: width of the hidden layers of projector and predictor.
        eps: weight of the plan's entropy; from 0.03 on, float32 holds exp(-2 / eps).
        iterations: of Sinkhorn's algorithm.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        dim: Count = 256,
        momentum: Probability = 0.99,
        hidden: Count = 4096,
        eps: Annotated[float, Field(ge=0.03)] = 0.05,
        iterations: Count = 10,
    ) -> None:
        super().__init__()
        head = mlp([channels(backbone), hidden, dim], last_bias=False, of_cells=True)
        self.encoders = MomentumPair(MapEncoder(backbone, head))
        self.predictor = mlp([dim, hidden, dim], last_bias=False, of_cells=True)
        self.momentum, self.eps, self.iterations = momentum, eps, iterations
        self._last: Tensor | None = None

    def step(self, view1: View, view2: View, progress: float) -> dict[str, Tensor]:
        """One training step's losses: `loss` with gradient, its parts without."""
        (z1,), (z2,) = self.encoders.query(view1.pixels), self.encoders.query(view2.pixels)
        p1, p2 = self.predictor(z1).flatten(2), self.predictor(z2).flatten(2)

        # With the weights that the last optimiser step left, as in BYOL.
        self.encoders.update(ramp(self.momentum, progress))
        with torch.no_grad():
            (target1,), (target2,) = self.encoders.key(view1.pixels), self.encoders.key(view2.pixels)
        s12 = emd_similarity(p1, target2.flatten(2), self.eps, self.iterations)
        s21 = emd_similarity(p2, target1.flatten(2), self.eps, self.iterations)
        loss = (4 - 2 * s12 - 2 * s21).mean()  # BYOL's scale, in [0, 8]

        self._last = z1.detach().mean(dim=(2, 3))
        return {"loss": loss, "transport": loss.detach()}

    def diagnostics(self) -> dict[str, Tensor]:
        """`spread` of the last step's projections of view 1, mean over cells (`parts.embeddings.spread`)."""
        return {"spread": spread(self._last)} if self._last is not None else {}
