"""PixContrast: contrast of cells, PixPro without its propagation (Xie et al., CVPR 2021, arXiv 2011.10043).

x_i         projection of cell i of a view's map by the online network, R^dim; x'_j that of the target network
A_ij        1 where cells i and j of the two views are less than T cell diagonals apart in the image (eq. 1)
xi, theta   weights of target and online network: xi <- m xi + (1 - m) theta, m rising to 1
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlssl.parts.backbone import channels
from mlssl.parts.cells import pairs_of
from mlssl.parts.embeddings import spread
from mlssl.parts.encoder import MapEncoder
from mlssl.parts.heads import mlp
from mlssl.parts.momentum import MomentumPair, ramp
from mlssl.parts.view import View
from mlssl.ranges import Count, Positive, Probability


def contrast(x: Tensor, target: Tensor, pairs: Tensor, tau: float) -> Tensor:
    """Eq. 2 in one direction: -log of the share of a cell's pairs in the sum of exp(cos(x_i, x'_j) / tau) over j.

    Cells B x d x n and B x d x m, neither normalised, `pairs` bool B x n x m. Mean over the cells of an image that
    have a pair, then over the batch; an image without pairs adds 0.
    """
    logits = F.normalize(x, dim=1).mT @ F.normalize(target, dim=1) / tau
    positive = logits.masked_fill(~pairs, torch.finfo(logits.dtype).min)  # not -inf, whose gradient is NaN
    paired = pairs.any(dim=2)
    each = torch.where(paired, logits.logsumexp(dim=2) - positive.logsumexp(dim=2), 0)
    return (each.sum(dim=1) / paired.sum(dim=1).clamp(min=1)).mean()


class PixContrast(nn.Module):
    """Tells the target's cell at the same place from all other cells of the other view.

    Args:
        backbone: gives a B x d x S x S map.
        dim: of the projection.
        momentum: of the target network at the start; it rises to 1 (`parts.momentum.ramp`).
        hidden: width of the projector's hidden layer.
        tau: temperature.
        threshold: T, the largest distance of a pair in diagonals of a cell.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        dim: Count = 256,
        momentum: Probability = 0.99,
        hidden: Count = 4096,
        tau: Positive = 0.3,
        threshold: Positive = 0.7,
    ) -> None:
        super().__init__()
        head = mlp([channels(backbone), hidden, dim], of_cells=True)
        self.encoders = MomentumPair(MapEncoder(backbone, head))
        self.momentum, self.tau, self.threshold = momentum, tau, threshold
        self._last: Tensor | None = None

    def step(self, view1: View, view2: View, progress: float) -> dict[str, Tensor]:
        """One training step's losses: `loss` with gradient, its parts without."""
        (x1,), (x2,) = self.encoders.query(view1.pixels), self.encoders.query(view2.pixels)

        # With the weights that the last optimiser step left, as in BYOL.
        self.encoders.update(ramp(self.momentum, progress))
        with torch.no_grad():
            (target1,), (target2,) = self.encoders.key(view1.pixels), self.encoders.key(view2.pixels)

        pairs = pairs_of(view1, view2, x1.shape[-1], self.threshold)
        loss1 = contrast(x1.flatten(2), target2.flatten(2), pairs, self.tau)
        loss2 = contrast(x2.flatten(2), target1.flatten(2), pairs.mT, self.tau)
        loss = (loss1 + loss2) / 2

        self._last = x1.detach().mean(dim=(2, 3))
        per_image = pairs.sum(dim=(1, 2)).float()
        return {
            "loss": loss,
            "contrast": loss.detach(),
            "pairs": per_image.mean(),
            "without_pairs": (per_image == 0).float().mean(),
        }

    def diagnostics(self) -> dict[str, Tensor]:
        """`spread` of the last step's projections of view 1, mean over cells (`parts.embeddings.spread`)."""
        return {"spread": spread(self._last)} if self._last is not None else {}
