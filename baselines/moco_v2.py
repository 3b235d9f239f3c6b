"""MoCo-v2: improved baselines with momentum contrastive learning (Chen et al. 2020, arXiv 2003.04297).

q, k_pos    query and positive key of the same image, L2-normalised, R^dim
queue       the keys of the last D images: the negatives
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import NonNegativeInt
from torch import Tensor, nn

from mlssl.method.losses import info_nce
from mlssl.parts.backbone import channels
from mlssl.parts.dictionary import Dictionary
from mlssl.parts.encoder import Encoder
from mlssl.parts.heads import projector
from mlssl.parts.momentum import MomentumPair
from mlssl.parts.view import View
from mlssl.ranges import Count, Positive, Probability


class MoCoV2(nn.Module):
    """InfoNCE of a query against the key of the other view and a queue of earlier keys.

    Args:
        backbone: gives a B x d x h x w map.
        dictionary_size: D, the queue's length.
        dim: of the embedding.
        tau: temperature.
        momentum: of the key encoder.
        hidden: width of the projector's hidden layer; 0 takes the backbone's.
        projector_batch_norm: batch norm in the projector; not in the paper.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        dictionary_size: Count = 65536,
        dim: Count = 128,
        tau: Positive = 0.2,
        momentum: Probability = 0.999,
        hidden: NonNegativeInt = 0,
        projector_batch_norm: bool = False,
    ) -> None:
        super().__init__()
        head = projector(channels(backbone), dim, hidden=hidden, batch_norm=projector_batch_norm)
        self.encoders = MomentumPair(Encoder(backbone, head))
        self.dictionary = Dictionary(dictionary_size, {"z": (dim, torch.float32)})
        self.tau, self.momentum = tau, momentum

    def step(self, view1: View, view2: View, progress: float) -> dict[str, Tensor]:
        """One training step's losses: `loss` with gradient, its parts without."""
        _, q = self.encoders.query(view1.pixels)
        q = F.normalize(q.float(), dim=1)

        self.encoders.update(self.momentum)
        with torch.no_grad():
            _, k_pos = self.encoders.key(view2.pixels)
            k_pos = F.normalize(k_pos.float(), dim=1)

        loss = info_nce(q, k_pos, q @ self.dictionary.read()["z"].T, self.tau)

        self.dictionary.enqueue(z=k_pos)
        return {"loss": loss, "info_nce": loss.detach()}
