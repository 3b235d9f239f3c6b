"""DenseCL: dense contrastive learning (Wang et al., CVPR 2021, arXiv 2011.09157).

f1, f2      backbone maps of the two views, B x C x S x S; f2 by the key encoder
q, k        global embeddings, R^dim; q_dense, k_dense one embedding per cell, B x dim x S^2
match       for each query cell the key cell whose *backbone* feature is most similar (section 3.3)
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import NonNegativeInt
from torch import Tensor, nn

from mlssl.method.losses import info_nce
from mlssl.parts.backbone import channels, global_average_pool
from mlssl.parts.dictionary import Dictionary
from mlssl.parts.heads import dense_projector, projector, without_autocast
from mlssl.parts.momentum import MomentumPair
from mlssl.parts.view import View
from mlssl.ranges import Count, Positive, Probability


class DenseEncoder(nn.Module):
    """x -> (backbone map, global embedding, dense embeddings)."""

    def __init__(self, backbone: nn.Module, head: nn.Module, dense_head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = head
        self.dense_projector = dense_head

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """B x 3 x H x W -> B x C x S x S, B x dim, B x dim x S^2; none normalised."""
        feature_map = self.backbone(pixels)
        z = without_autocast(self.projector, global_average_pool(feature_map))
        return feature_map, z, self.dense_projector(feature_map).flatten(2)


@torch.no_grad()
def match(f1: Tensor, f2: Tensor) -> Tensor:
    """For each cell of f1 the most similar cell of f2 by cosine: B x C x S^2 twice -> indices B x S^2."""
    similarity = torch.einsum("bci,bcj->bij", F.normalize(f1, dim=1), F.normalize(f2, dim=1))
    return similarity.argmax(dim=2)


class DenseCL(nn.Module):
    """(1 - lam) * InfoNCE of images + lam * InfoNCE of matched cells.

    Args:
        backbone: gives a B x C x S x S map.
        dictionary_size: D, the length of both queues.
        dim: of both embeddings.
        tau: temperature.
        momentum: of the key encoder.
        lam: the weight of the dense loss (0.5 in the paper).
        hidden: width of both projectors' hidden layers; 0 takes the backbone's.
        projector_batch_norm: batch norm in both projectors; not in the paper.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        dictionary_size: Count = 65536,
        dim: Count = 128,
        tau: Positive = 0.2,
        momentum: Probability = 0.999,
        lam: Probability = 0.5,
        hidden: NonNegativeInt = 0,
        projector_batch_norm: bool = False,
    ) -> None:
        super().__init__()
        d = channels(backbone)
        head = projector(d, dim, hidden=hidden, batch_norm=projector_batch_norm)
        dense_head = dense_projector(d, dim, hidden=hidden, batch_norm=projector_batch_norm)
        self.encoders = MomentumPair(DenseEncoder(backbone, head, dense_head))
        self.dictionary = Dictionary(dictionary_size, {"z": (dim, torch.float32), "dense": (dim, torch.float32)})
        self.tau, self.momentum, self.lam = tau, momentum, lam

    def step(self, view1: View, view2: View, progress: float) -> dict[str, Tensor]:
        """One training step's losses: `loss` with gradient, its parts without."""
        f1, q, q_dense = self.encoders.query(view1.pixels)
        q, q_dense = F.normalize(q.float(), dim=1), F.normalize(q_dense.float(), dim=1)

        self.encoders.update(self.momentum)
        with torch.no_grad():
            f2, k, k_dense = self.encoders.key(view2.pixels)
            # The second queue holds one dense key per image: the mean over its cells, then normalised.
            k_mean = F.normalize(k_dense.float().mean(dim=2), dim=1)
            k, k_dense = F.normalize(k.float(), dim=1), F.normalize(k_dense.float(), dim=1)

        queues = self.dictionary.read()
        l_global = info_nce(q, k, q @ queues["z"].T, self.tau)

        cells = match(f1.flatten(2).float(), f2.flatten(2).float())
        k_matched = k_dense.gather(2, cells[:, None].expand_as(q_dense))
        q_cells, k_cells = (x.transpose(1, 2).flatten(0, 1) for x in (q_dense, k_matched))  # B S^2 x dim
        l_dense = info_nce(q_cells, k_cells, q_cells @ queues["dense"].T, self.tau)
        loss = (1 - self.lam) * l_global + self.lam * l_dense

        self.dictionary.enqueue(z=k, dense=k_mean)
        return {"loss": loss, "info_nce": l_global.detach(), "dense": l_dense.detach()}
