"""NNCLR: the nearest neighbour of a view as its positive (Dwibedi et al., ICCV 2021, arXiv 2104.14548).

z1, z2      projections of the two views by the one encoder there is; p1, p2 = predictor(z1), predictor(z2)
Q           the support set: projections of the last D images, L2-normalised
NN(z, Q)    the entry of Q nearest to z, without gradient
n           images of the batch, of all ranks: their predictions are the candidates, so negatives are from the batch
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlssl.parts.backbone import channels
from mlssl.parts.dictionary import Dictionary
from mlssl.parts.embeddings import of_all_ranks, spread
from mlssl.parts.encoder import Encoder
from mlssl.parts.heads import mlp
from mlssl.parts.search import exact
from mlssl.parts.view import View
from mlssl.ranges import Count, Positive


@torch.no_grad()
def nearest(z: Tensor, support: Tensor) -> Tensor:
    """Eq. 4, NN(z, Q): B x d and D x d, both L2-normalised -> B x d. With an empty support set, z itself."""
    if len(support) == 0:
        return z.detach()
    _, index = exact(z, support, 1)
    return support[index[:, 0]]


def neighbour_contrast(neighbour: Tensor, p: Tensor, tau: float) -> Tensor:
    """Eq. 3: -log [ exp(NN(z_i) · p_i / tau) / sum over the batch of exp(NN(z_i) · p_k / tau) ], mean over i.

    `neighbour` and `p` are this rank's B x d, L2-normalised; the sum is over the batch of all ranks.
    """
    candidates, own = of_all_ranks(p)
    return F.cross_entropy(neighbour @ candidates.T / tau, own)


class NNCLR(nn.Module):
    """Symmetric InfoNCE between the neighbour of one view and the prediction of the other.

    Args:
        backbone: gives a B x d x h x w map.
        dictionary_size: D, entries of the support set.
        dim: of the projection.
        tau: temperature.
        hidden: width of the projector's two hidden layers.
        predictor_hidden: width of the predictor's hidden layer.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        dictionary_size: Count = 98304,
        dim: Count = 256,
        tau: Positive = 0.1,
        hidden: Count = 2048,
        predictor_hidden: Count = 4096,
    ) -> None:
        super().__init__()
        head = mlp([channels(backbone), hidden, hidden, dim], last_norm="affine")
        self.encoders = nn.ModuleDict({"query": Encoder(backbone, head)})
        self.predictor = mlp([dim, predictor_hidden, dim])
        self.dictionary = Dictionary(dictionary_size, {"z": (dim, torch.float32)})
        self.tau = tau
        self._last: Tensor | None = None

    def step(self, view1: View, view2: View, progress: float) -> dict[str, Tensor]:
        """One training step's losses: `loss` with gradient, its parts without."""
        (z1, p1), (z2, p2) = self._encoded(view1), self._encoded(view2)

        support = self.dictionary.read()["z"]
        nn1, nn2 = nearest(z1, support), nearest(z2, support)
        loss = (neighbour_contrast(nn1, p2, self.tau) + neighbour_contrast(nn2, p1, self.tau)) / 2

        # After the search, or every view would be its own neighbour. One view per image.
        self.dictionary.enqueue(z=z1)
        self._last = z1.detach()
        cosine = (nn1 * z1.detach()).sum(dim=1).mean()
        return {"loss": loss, "neighbour_contrast": loss.detach(), "neighbour_cosine": cosine}

    def _encoded(self, view: View) -> tuple[Tensor, Tensor]:
        """z and p of a view, B x dim each, L2-normalised."""
        _, z = self.encoders["query"](view.pixels)
        return F.normalize(z.float(), dim=1), F.normalize(self.predictor(z.float()), dim=1)

    def diagnostics(self) -> dict[str, Tensor]:
        """`spread` of the last step's projections of view 1 (`parts.embeddings.spread`), for the log."""
        return {"spread": spread(self._last)} if self._last is not None else {}
