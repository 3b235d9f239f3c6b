"""PixPro: consistency of pixels and their propagation (Xie et al., CVPR 2021, arXiv 2011.10043).

x_i         projection of cell i of a view's map by the online network, R^dim; x'_j that of the target network
y_i         x after propagation over the cells of the same view (eq. 4)
A_ij        1 where cells i and j of the two views are less than T cell diagonals apart in the image (eq. 1)
xi, theta   weights of target and online network: xi <- m xi + (1 - m) theta, m rising to 1
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from mlssl.parts.backbone import channels
from mlssl.parts.cells import pairs_of
from mlssl.parts.embeddings import spread
from mlssl.parts.encoder import MapEncoder
from mlssl.parts.heads import mlp
from mlssl.parts.momentum import MomentumPair, ramp
from mlssl.parts.view import View
from mlssl.ranges import Count, Positive, Probability


def propagated(x: Tensor, values: Tensor, gamma: float) -> Tensor:
    """Eq. 4 and 5: y_i = sum over all cells j of max(cos(x_i, x_j), 0)^gamma * n(values_j), then normalised.

    Cells B x d x n, neither normalised -> B x d x n.
    """
    x, values = F.normalize(x, dim=1), F.normalize(values, dim=1)
    attention = (x.mT @ x).clamp(min=0) ** gamma
    return F.normalize(values @ attention, dim=1)  # attention is symmetric


def consistency(y: Tensor, target: Tensor, pairs: Tensor) -> Tensor:
    """Eq. 6 in one direction: -2 * mean over the images of the mean of cos(y_i, x'_j) over their pairs, in [-2, 2].

    Cells B x d x n and B x d x m, `pairs` B x n x m; an image without pairs adds 0.
    """
    cosines = F.normalize(y, dim=1).mT @ F.normalize(target, dim=1)
    weight = pairs.to(cosines.dtype)
    return -2 * ((cosines * weight).sum(dim=(1, 2)) / (weight.sum(dim=(1, 2)) + 1e-6)).mean()


class PixPro(nn.Module):
    """Cells of one view, smoothed over the view, predict the target's cells at the same place in the other.

    Args:
        backbone: gives a B x d x S x S map.
        dim: of the projection.
        momentum: of the target network at the start; it rises to 1 (`parts.momentum.ramp`).
        hidden: width of the projector's hidden layer.
        gamma: sharpness of the propagation.
        threshold: T, the largest distance of a pair in diagonals of a cell.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        dim: Count = 256,
        momentum: Probability = 0.99,
        hidden: Count = 4096,
        gamma: Annotated[float, Field(ge=1)] = 2.0,
        threshold: Positive = 0.7,
    ) -> None:
        super().__init__()
        head = mlp([channels(backbone), hidden, dim], of_cells=True)
        self.encoders = MomentumPair(MapEncoder(backbone, head))
        self.transform = nn.Conv2d(dim, dim, 1)
        self.momentum, self.gamma, self.threshold = momentum, gamma, threshold
        self._last: Tensor | None = None

    def step(self, view1: View, view2: View, progress: float) -> dict[str, Tensor]:
        """One training step's losses: `loss` with gradient, its parts without."""
        (x1,), (x2,) = self.encoders.query(view1.pixels), self.encoders.query(view2.pixels)
        y1, y2 = self._propagated(x1), self._propagated(x2)

        # With the weights that the last optimiser step left, as in BYOL.
        self.encoders.update(ramp(self.momentum, progress))
        with torch.no_grad():
            (target1,), (target2,) = self.encoders.key(view1.pixels), self.encoders.key(view2.pixels)

        pairs = pairs_of(view1, view2, x1.shape[-1], self.threshold)
        target1, target2 = target1.flatten(2), target2.flatten(2)
        loss = consistency(y1, target2, pairs) + consistency(y2, target1, pairs.mT)

        self._last = x1.detach().mean(dim=(2, 3))
        per_image = pairs.sum(dim=(1, 2)).float()
        return {
            "loss": loss,
            "consistency": loss.detach(),
            "pairs": per_image.mean(),
            "without_pairs": (per_image == 0).float().mean(),
        }

    def _propagated(self, x: Tensor) -> Tensor:
        """y of a view: B x dim x S x S -> B x dim x S²."""
        return propagated(x.flatten(2), self.transform(x).flatten(2), self.gamma)

    def diagnostics(self) -> dict[str, Tensor]:
        """`spread` of the last step's projections of view 1, mean over cells (`parts.embeddings.spread`)."""
        return {"spread": spread(self._last)} if self._last is not None else {}
