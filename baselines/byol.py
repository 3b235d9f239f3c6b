"""BYOL: bootstrap your own latent (Grill et al., NeurIPS 2020, arXiv 2006.07733).

z, z'       projections of a view by the online and by the target network, R^dim
q(z)        the prediction of the target's projection of the *other* view; the target has no predictor
xi, theta   weights of target and online network: xi <- m xi + (1 - m) theta (eq. 1), m rising to 1
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mlssl.parts.backbone import channels
from mlssl.parts.embeddings import spread, squared_distance
from mlssl.parts.encoder import Encoder
from mlssl.parts.heads import mlp
from mlssl.parts.momentum import MomentumPair, ramp
from mlssl.parts.view import View
from mlssl.ranges import Count, Probability


def regression(p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
    """Eq. 2 in both directions, mean over the batch: |n(p1) - n(z'2)|² + |n(p2) - n(z'1)|², in [0, 8].

    Predictions and target projections B x d, not normalised; 4 for orthogonal pairs.
    """
    return (squared_distance(p1, z2) + squared_distance(p2, z1)).mean()


class BYOL(nn.Module):
    """Predicts the target network's projection of the other view.

    Args:
        backbone: gives a B x d x h x w map.
        dim: of the projection.
        momentum: of the target network at the start; it rises to 1 (`parts.momentum.ramp`).
        hidden: width of the hidden layers of projector and predictor.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        dim: Count = 256,
        momentum: Probability = 0.99,
        hidden: Count = 4096,
    ) -> None:
        super().__init__()
        self.encoders = MomentumPair(Encoder(backbone, mlp([channels(backbone), hidden, dim], last_bias=False)))
        self.predictor = mlp([dim, hidden, dim], last_bias=False)
        self.momentum = momentum
        self._last: Tensor | None = None

    def step(self, view1: View, view2: View, progress: float) -> dict[str, Tensor]:
        """One training step's losses: `loss` with gradient, its parts without."""
        _, z1 = self.encoders.query(view1.pixels)
        _, z2 = self.encoders.query(view2.pixels)
        p1, p2 = self.predictor(z1.float()), self.predictor(z2.float())

        # Eq. 1 follows the optimiser's step: here that of the step before, so at the first step it changes nothing.
        self.encoders.update(ramp(self.momentum, progress))
        with torch.no_grad():
            _, target1 = self.encoders.key(view1.pixels)
            _, target2 = self.encoders.key(view2.pixels)
        loss = regression(p1, p2, target1.float(), target2.float())

        self._last = z1.detach()
        return {"loss": loss, "regression": loss.detach()}

    def diagnostics(self) -> dict[str, Tensor]:
        """`spread` of the last step's projections of view 1 (`parts.embeddings.spread`), for the log."""
        return {"spread": spread(self._last)} if self._last is not None else {}
