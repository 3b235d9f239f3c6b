"""kNN-MoCo: MoCo with neighbours as further positives (Van Gansbeke et al., NeurIPS 2021, arXiv 2106.05967).

MLS's direct parent: it has the same two dictionaries in one order, and a softmax where MLS has D classifiers.

g1, z1      backbone feature and embedding of the queries, L2-normalised; z2 the key of view 2
Q_g, Q_z    the dictionary: backbone features and embeddings of the last D keys
M           the k entries of Q_g nearest to g1
s           similarities z1 · Q_z^T
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import NonNegativeInt
from torch import Tensor, nn

from mlssl.method.losses import info_nce, knn_softmax
from mlssl.method.pseudo_labels import Labels, top_k
from mlssl.parts.backbone import channels
from mlssl.parts.dictionary import Dictionary
from mlssl.parts.encoder import Encoder
from mlssl.parts.heads import projector
from mlssl.parts.momentum import MomentumPair
from mlssl.parts.search import exact
from mlssl.parts.view import View
from mlssl.ranges import Count, NotNegative, Positive, Probability


def knn_softmax_over_all(s: Tensor, y: Labels, tau: float) -> Tensor:
    """-(1/k) sum over M of [ s_i/tau - log sum over all j of exp(s_j/tau) ], mean over the batch; s is B x D.

    The form of supervised contrastive learning (arXiv 2004.11362, eq. 2): the other neighbours are in the
    denominator too, so the k neighbours compete. All candidates of `y` are neighbours.
    """
    x = s / tau
    return (x.logsumexp(dim=1) - x.gather(1, y.index).mean(dim=1)).mean()


class KNNMoCo(nn.Module):
    """InfoNCE + lam * softmax loss of the neighbours, which the backbone finds and the projector is trained on.

    Args:
        backbone: gives a B x d_g x h x w map.
        k: neighbours per query.
        dictionary_size: D.
        dim: of the embedding.
        tau: temperature of both losses.
        momentum: of the key encoder.
        lam: weight of the neighbours' loss.
        denominator: `all`, softmax over all entries (the paper's code); `others`, over a neighbour and the entries
            that are no neighbours (MLS, arXiv 2308.03286, eq. 2 and table 6).
        hidden: width of the projector's hidden layer; 0 takes d_g.
        projector_batch_norm: batch norm in the projector; not in the paper.
    """

    REQUIRES = ("k <= dictionary_size",)

    def __init__(
        self,
        backbone: nn.Module,
        *,
        k: Count = 20,
        dictionary_size: Count = 65536,
        dim: Count = 128,
        tau: Positive = 0.2,
        momentum: Probability = 0.995,
        lam: NotNegative = 0.4,
        denominator: Literal["all", "others"] = "all",
        hidden: NonNegativeInt = 0,
        projector_batch_norm: bool = False,
    ) -> None:
        super().__init__()
        d_g = channels(backbone)
        head = projector(d_g, dim, hidden=hidden, batch_norm=projector_batch_norm)
        self.encoders = MomentumPair(Encoder(backbone, head))
        self.dictionary = Dictionary(dictionary_size, {"g": (d_g, torch.float32), "z": (dim, torch.float32)})
        self.k, self.tau, self.momentum, self.lam = k, tau, momentum, lam
        self.neighbours_loss = knn_softmax_over_all if denominator == "all" else knn_softmax

    def step(self, view1: View, view2: View, *small: View, progress: float) -> dict[str, Tensor]:
        """One training step's losses: `loss` with gradient, its parts without.

        `small` views, all of one size, are further queries for the key of view 2 (multi-crop).
        """
        g1, z1 = self.encoders.query(view1.pixels)
        if small:
            g, z = self.encoders.query(torch.cat([view.pixels for view in small]))
            g1, z1 = torch.cat([g1, g]), torch.cat([z1, z])
        g1, z1 = F.normalize(g1.detach().float(), dim=1), F.normalize(z1.float(), dim=1)

        self.encoders.update(self.momentum)
        with torch.no_grad():
            g2, z2 = self.encoders.key(view2.pixels)
            g2, z2 = F.normalize(g2.float(), dim=1), F.normalize(z2.float(), dim=1)

        # Searched and scored in the same state, before the image's own key is in it.
        entries = self.dictionary.read()
        s = z1 @ entries["z"].T
        l_nce = info_nce(z1, z2.repeat(1 + len(small), 1), s, self.tau)
        l_knn = torch.zeros_like(l_nce)
        if len(self.dictionary):  # not at the very first step: no neighbour yet
            neighbours = top_k(*exact(g1, entries["g"], self.k))
            l_knn = self.neighbours_loss(s, neighbours, self.tau)
        loss = l_nce + self.lam * l_knn

        self.dictionary.enqueue(g=g2, z=z2)
        return {"loss": loss, "info_nce": l_nce.detach(), "knn_softmax": l_knn.detach()}
