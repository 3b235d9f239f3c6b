"""SimSiam: simple siamese networks (Chen, He, CVPR 2021, arXiv 2011.10566).

z1, z2      projections of the two views by the one encoder there is, R^dim
p1, p2      predictor(z1), predictor(z2)
D(p, z)     negative cosine similarity (eq. 1)
"""

from __future__ import annotations

from torch import Tensor, nn

from mlssl.parts.backbone import channels
from mlssl.parts.embeddings import cosine, spread
from mlssl.parts.encoder import Encoder
from mlssl.parts.heads import mlp
from mlssl.parts.view import View
from mlssl.ranges import Count


def symmetric_cosine(p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
    """Eq. 4: D(p1, stopgrad(z2)) / 2 + D(p2, stopgrad(z1)) / 2, mean over the batch, in [-1, 1]; all B x d."""
    return -(cosine(p1, z2.detach()) + cosine(p2, z1.detach())).mean() / 2


class SimSiam(nn.Module):
    """Predicts the projection of the other view, which gets no gradient.

    Args:
        backbone: gives a B x d x h x w map.
        dim: of the projection, and the width of the projector's two hidden layers.
        predictor_hidden: width of the predictor's hidden layer, a bottleneck: a quarter of `dim` in the paper.
    """

    def __init__(self, backbone: nn.Module, *, dim: Count = 2048, predictor_hidden: Count = 512) -> None:
        super().__init__()
        # The batch norm after the last layer subtracts its bias, so that layer has none.
        head = mlp([channels(backbone), dim, dim, dim], bias=False, last_bias=False, last_norm="plain")
        self.encoders = nn.ModuleDict({"query": Encoder(backbone, head)})
        self.predictor = mlp([dim, predictor_hidden, dim], bias=False)
        self._last: Tensor | None = None

    def step(self, view1: View, view2: View, progress: float) -> dict[str, Tensor]:
        """One training step's losses: `loss` with gradient, its parts without."""
        (z1, p1), (z2, p2) = self._encoded(view1), self._encoded(view2)
        loss = symmetric_cosine(p1, p2, z1, z2)
        self._last = z1.detach()
        return {"loss": loss, "negative_cosine": loss.detach()}

    def _encoded(self, view: View) -> tuple[Tensor, Tensor]:
        """z and p of a view, B x dim each, not normalised."""
        _, z = self.encoders["query"](view.pixels)
        return z.float(), self.predictor(z.float())

    def diagnostics(self) -> dict[str, Tensor]:
        """`spread` of the last step's projections of view 1 (`parts.embeddings.spread`), for the log."""
        return {"spread": spread(self._last)} if self._last is not None else {}
