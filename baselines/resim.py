"""ReSim: region similarity representation learning (Xiao et al., ICCV 2021, arXiv 2103.12902), its FPN variant.

q, k        global embeddings of the two views as in MoCo-v2, R^dim; queue: the keys of the last D images
window      a square of a regular grid over view 1, and the same place of the image in view 2
r_q, r_k    a window pooled from the pyramid's map of view 1 and of view 2 (key encoder), L2-normalised
negatives   the pyramid's map of view 2 of all images, averaged over the cells of a window, L2-normalised
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import NonNegativeInt
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork

from mlssl.method.losses import info_nce
from mlssl.parts.backbone import channels, global_average_pool, stage_channels, stage_maps
from mlssl.parts.boxes import pooled, to_image, to_view
from mlssl.parts.dictionary import Dictionary
from mlssl.parts.embeddings import gathered, mean_over_ranks
from mlssl.parts.heads import projector, without_autocast
from mlssl.parts.momentum import MomentumPair
from mlssl.parts.search import sampled_slots
from mlssl.parts.view import View
from mlssl.ranges import Count, Positive, Probability


class Grid(NamedTuple):
    """Windows of one map: `rows` x `rows` squares, in pixels of a view of FRAME pixels."""

    rows: int
    stride: int
    side: int


FRAME = 224
GRIDS = {"c4": Grid(6, 32, 48), "c3": Grid(8, 24, 32)}
WINDOW_CELLS = 3
"""Side of the squares of cells that the negatives are averaged over."""


class PyramidEncoder(nn.Module):
    """x -> (z, p4, p3): global embedding, and the pyramid's maps on C4 and on C3, C5 being its top."""

    def __init__(self, backbone: nn.Module, head: nn.Module, width: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = head
        self.pyramid = FeaturePyramidNetwork(stage_channels(backbone)[1:], width)
        self.pyramid.layer_blocks[-1] = nn.Identity()  # no map of C5 is used

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """B x 3 x S x S -> B x dim, B x width x S/16 x S/16, B x width x S/8 x S/8; float32, none normalised."""
        _, c3, c4, c5 = stage_maps(self.backbone, pixels)
        z = without_autocast(self.projector, global_average_pool(c5))
        maps = self.pyramid({"c3": c3, "c4": c4, "c5": c5})
        return z, maps["c4"].float(), maps["c3"].float()


def windows(grid: Grid, device: torch.device) -> Tensor:
    """The grid's windows, row by row, rows² x 4: left, top, right, bottom as shares of the view's sides."""
    start = torch.arange(grid.rows, device=device) * (grid.stride / FRAME)
    top, left = torch.meshgrid(start, start, indexing="ij")
    corner = torch.stack([left, top], dim=2).flatten(0, 1)
    return torch.cat([corner, corner + grid.side / FRAME], dim=1)


def carried(boxes: Tensor, view: View, other: View) -> tuple[Tensor, Tensor]:
    """Boxes n x 4 of a view at the same place in another: B x n x 4, and bool B x n, whether they are inside."""
    there = to_view(to_image(boxes, view), other)
    return there, (there[..., :2] >= 0).all(dim=2) & (there[..., 2:] < 1).all(dim=2)


def region_loss(q: Tensor, k: Tensor, negatives: Tensor, inside: Tensor, tau: float) -> Tensor:
    """InfoNCE of each window against `negatives`, mean over the windows with `inside`; 0 without any.

    Windows B x n x d of both views, negatives N x d, all L2-normalised; `inside` bool B x n.
    """
    positive = (q * k).sum(dim=2) / tau
    others = ((q / tau) @ negatives.T).logsumexp(dim=2)  # the largest tensor of the step: no copy of it
    each = torch.where(inside, torch.logaddexp(positive, others) - positive, 0)
    count = mean_over_ranks(inside.float().sum())
    return each.sum() / torch.where(count > 0, count, 1)


class ReSim(nn.Module):
    """InfoNCE of images, and of windows of their maps at the same place of two views, at two strides.

    Args:
        backbone: gives the maps of four stages.
        dictionary_size: D, the length of the queue of images.
        dim: of the global embedding.
        tau: temperature of all three losses.
        momentum: of the key encoder.
        hidden: width of the projector's hidden layer; 0 takes the backbone's.
        projector_batch_norm: batch norm in the projector; not in the paper.
        pyramid: channels of the feature pyramid.
        negatives: of more negatives than twice that many per map, about this many are drawn in each step.
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
        pyramid: Count = 256,
        negatives: Count = 16384,
    ) -> None:
        super().__init__()
        head = projector(channels(backbone), dim, hidden=hidden, batch_norm=projector_batch_norm)
        self.encoders = MomentumPair(PyramidEncoder(backbone, head, pyramid))
        self.dictionary = Dictionary(dictionary_size, {"z": (dim, torch.float32)})
        self.tau, self.momentum, self.negatives = tau, momentum, negatives

    def step(self, view1: View, view2: View, progress: float) -> dict[str, Tensor]:
        """One training step's losses: `loss` with gradient, its parts without."""
        q, *maps_q = self.encoders.query(view1.pixels)
        q = F.normalize(q.float(), dim=1)

        self.encoders.update(self.momentum)
        with torch.no_grad():
            k, *maps_k = self.encoders.key(view2.pixels)
            k = F.normalize(k.float(), dim=1)

        parts = {"info_nce": info_nce(q, k, q @ self.dictionary.read()["z"].T, self.tau)}
        for (name, grid), map_q, map_k in zip(GRIDS.items(), maps_q, maps_k, strict=True):
            here = windows(grid, q.device)
            there, inside = carried(here, view1, view2)
            r_q = self._regions(map_q, here.expand_as(there))
            r_k = self._regions(map_k, there)
            parts[name] = region_loss(r_q, r_k, self._negatives(map_k), inside, self.tau)
            parts[f"inside_{name}"] = inside.float().mean()
        loss = parts["info_nce"] + parts["c4"] + parts["c3"]

        self.dictionary.enqueue(z=k)
        return {"loss": loss, **{name: value.detach() for name, value in parts.items()}}

    @staticmethod
    def _regions(maps: Tensor, boxes: Tensor) -> Tensor:
        """The mean of each box, normalised: B x n x width."""
        return F.normalize(pooled(maps, boxes, 1, samples=4).flatten(2), dim=2)

    def _negatives(self, maps: Tensor) -> Tensor:
        """Windows of all cells of all ranks' maps, or a part of them: N x width."""
        cells = F.avg_pool2d(maps, min(WINDOW_CELLS, maps.shape[-1]), stride=1)
        everyone, _ = gathered(F.normalize(cells, dim=1).permute(0, 2, 3, 1).flatten(0, 2))
        return everyone[sampled_slots(len(everyone), self.negatives)]
