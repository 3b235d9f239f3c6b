"""MSF: mean shift for self-supervised learning (Koohpayegani, Tejankar, Pirsiavash, ICCV 2021, arXiv 2105.07269).

v           prediction of view 1: predictor, projector and backbone, trained by gradient
u           target of view 2 by the momentum encoder, without predictor; L2-normalised
bank        the targets of the last D images, with those of this batch
NN_j(u)     the j-th nearest entry of the bank; NN_1(u) is u itself, so k = 1 is one-sided BYOL
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlssl.parts.backbone import channels
from mlssl.parts.dictionary import Dictionary
from mlssl.parts.embeddings import spread, squared_distance
from mlssl.parts.encoder import Encoder
from mlssl.parts.heads import mlp
from mlssl.parts.momentum import MomentumPair
from mlssl.parts.search import exact
from mlssl.parts.view import View
from mlssl.ranges import Count, Probability


def mean_shift(v: Tensor, neighbours: Tensor) -> Tensor:
    """Section 3: |v/|v| - NN_j(u)|², mean over the batch and the k neighbours.

    `v` is B x d, not normalised; `neighbours` is B x k x d.
    """
    return squared_distance(v[:, None], neighbours).mean()


class MSF(nn.Module):
    """Predicts the mean of the target's neighbourhood.

    Args:
        backbone: gives a B x d x h x w map.
        k: neighbours, the target itself among them.
        dictionary_size: D, entries of the bank.
        dim: of the projection.
        momentum: of the target encoder, the same all along.
        hidden: width of the hidden layers of projector and predictor.
    """

    REQUIRES = ("k <= dictionary_size",)

    def __init__(
        self,
        backbone: nn.Module,
        *,
        k: Count = 5,
        dictionary_size: Count = 128000,
        dim: Count = 512,
        momentum: Probability = 0.99,
        hidden: Count = 4096,
    ) -> None:
        super().__init__()
        self.encoders = MomentumPair(Encoder(backbone, mlp([channels(backbone), hidden, dim])))
        self.predictor = mlp([dim, hidden, dim])
        self.dictionary = Dictionary(dictionary_size, {"z": (dim, torch.float32)})
        self.k, self.momentum = k, momentum
        self._last: Tensor | None = None

    def step(self, view1: View, view2: View, progress: float) -> dict[str, Tensor]:
        """One training step's losses: `loss` with gradient, its parts without."""
        _, z = self.encoders.query(view1.pixels)
        v = self.predictor(z.float())

        self.encoders.update(self.momentum)
        with torch.no_grad():
            _, u = self.encoders.key(view2.pixels)
            u = F.normalize(u.float(), dim=1)

        # The target enters the bank before the search. Earlier entries are in no graph, so they may be overwritten.
        self.dictionary.enqueue(z=u)
        bank = self.dictionary.read()["z"]
        similarity, index = exact(u, bank, self.k)
        loss = mean_shift(v, bank[index])

        self._last = z.detach()
        return {"loss": loss, "mean_shift": loss.detach(), "neighbour_cosine": similarity.mean()}

    def diagnostics(self) -> dict[str, Tensor]:
        """`spread` of the last step's projections of view 1 (`parts.embeddings.spread`), for the log."""
        return {"spread": spread(self._last)} if self._last is not None else {}
