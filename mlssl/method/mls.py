"""MLS: multi-label self-supervised learning with scene images (Zhu, Fu, Wu, ICCV 2023, arXiv 2308.03286).

phi, f      backbone and projector; phi^m, f^m their momentum (key) copies
v1, v2      two views of each image of the batch (B images)
g1, z1      g1 = phi(v1) in R^d_g, z1 = f(g1) in R^d_z; g2, z2 the same of v2 by the key encoder
Q_g, Q_z    the dictionary: normalised g2 and z2 of the last D keys, always in the same order
y           pseudo-labels, the k entries of Q_g nearest to g1
p           logits z1 · Q_z^T: the entries of Q_z are the weights of D binary classifiers
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlssl.method import losses
from mlssl.method.pseudo_labels import top_k
from mlssl.parts.dictionary import Dictionary
from mlssl.parts.encoder import Encoder
from mlssl.parts.heads import projector
from mlssl.parts.momentum import MomentumPair
from mlssl.parts.view import View

MULTI_LABEL = {"bce": losses.bce, "bce_pos": losses.bce_pos, "knn_softmax": losses.knn_softmax}


class MLS(nn.Module):
    """Multi-label classification of views against a dictionary, beside InfoNCE (eq. 10).

    Args:
        backbone: phi, giving a B x d_g x h x w map.
        k: positives per query.
        dictionary_size: D.
        dim: d_z.
        tau: temperature, shared by InfoNCE and the multi-label loss.
        momentum: of the key encoder.
        lam: lambda, the weight of the multi-label loss.
        loss: `bce` (eq. 9), `bce_pos` or `knn_softmax` (eq. 2), the rows of table 6.
        hidden: width of the projector's hidden layer; 0 takes d_g.
        projector_batch_norm: batch norm in the projector; not in the paper.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        k: int = 20,
        dictionary_size: int = 4096,
        dim: int = 256,
        tau: float = 0.2,
        momentum: float = 0.995,
        lam: float = 0.5,
        loss: str = "bce",
        hidden: int = 0,
        projector_batch_norm: bool = False,
    ) -> None:
        super().__init__()
        if loss not in MULTI_LABEL:
            raise ValueError(f"mls: loss '{loss}' is not known; give one of {', '.join(MULTI_LABEL)}")
        if not 1 <= k <= dictionary_size:
            raise ValueError(f"mls: k = {k} must lie in 1 .. dictionary_size = {dictionary_size}")
        d_g = backbone.num_features
        f = projector(d_g, dim, hidden=hidden, batch_norm=projector_batch_norm)
        self.encoders = MomentumPair(Encoder(backbone, f))
        self.dictionary = Dictionary(
            dictionary_size,
            {
                "g": (d_g, torch.float32),
                "z": (dim, torch.float32),
                "image": (1, torch.int64),
                "box": (4, torch.int64),
                "flip": (1, torch.bool),
            },
        )
        self.k, self.tau, self.momentum, self.lam = k, tau, momentum, lam
        self.loss = loss

    def step(self, view1: View, view2: View, progress: float) -> dict[str, Tensor]:
        """One training step's losses: `loss` with gradient, its parts and diagnostics without."""
        g1, z1 = self.encoders.query(view1.pixels)
        g1, z1 = g1.float(), F.normalize(z1.float(), dim=1)

        self.encoders.update(self.momentum)
        with torch.no_grad():
            g2, z2 = self.encoders.key(view2.pixels)
            g2, z2 = F.normalize(g2.float(), dim=1), F.normalize(z2.float(), dim=1)

        entries = self.dictionary.read()
        p = z1 @ entries["z"].T  # eq. 8
        l_nce = losses.info_nce(z1, z2, p, self.tau)
        if len(self.dictionary) == 0:  # the very first step: nothing to be a label yet
            l_ml = torch.zeros_like(l_nce)
        else:
            y = top_k(g1.detach(), entries["g"], self.k)  # eq. 7
            l_ml = MULTI_LABEL[self.loss](p, y, self.tau)
        loss = l_nce + self.lam * l_ml  # eq. 10

        self.dictionary.enqueue(g=g2, z=z2, image=view2.image[:, None], box=view2.box, flip=view2.flip[:, None])
        return {"loss": loss, "info_nce": l_nce.detach(), self.loss: l_ml.detach()}
