"""SoCo: aligning pretraining for detection via object proposals (Wei, Gao et al., NeurIPS 2021, arXiv 2106.02637).

Its C4 variant with two views. Boxes are proposals of selective search, or random ones that pass its filter.

b1, b2      K boxes of an image, as seen in view 1 (some of them jittered) and in view 2, clipped to the view
p, z'       predictions of the boxes by the online network, and their projections by the target network, R^dim
A           1 for a box that both views show
xi, theta   weights of target and online network: xi <- m xi + (1 - m) theta, m rising to 1
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from mlssl.parts.backbone import channels, global_average_pool, last_stage, third_stage
from mlssl.parts.boxes import pooled, to_view
from mlssl.parts.cells import shared_rectangle
from mlssl.parts.embeddings import cosine, random_numbers, spread
from mlssl.parts.heads import mlp, without_autocast
from mlssl.parts.momentum import MomentumPair, ramp
from mlssl.parts.view import View
from mlssl.ranges import Count, Probability

SIZES, ASPECT = (0.3, 0.8), 3.0
"""The filter: sqrt(w h) / sqrt(W H) of a box is within SIZES, w / h between 1 / ASPECT and ASPECT."""
JITTER, JITTERED = 0.1, 0.5
"""Largest shift and change of size, in shares of the box's sides, and how often."""


class BoxEncoder(nn.Module):
    """x and boxes -> (z,): C4 of the image, RoIAlign, the last stage on each box, the projection of its mean."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        last_stage(backbone)  # refuses one without
        self.backbone = backbone
        self.projector = head

    def forward(self, pixels: Tensor, boxes: Tensor) -> tuple[Tensor]:
        """B x 3 x S x S and boxes B x K x 4 of the view -> float32 B x K x dim, not normalised."""
        c4 = third_stage(self.backbone, pixels)
        # As many cells per box as C4 has, 14 x 14 of 224 pixels. bfloat16 cannot represent the places of boxes.
        regions = pooled(c4.float(), boxes, c4.shape[-1], samples=2).flatten(0, 1)
        z = without_autocast(self.projector, global_average_pool(last_stage(self.backbone)(regions)))
        return (z.unflatten(0, boxes.shape[:2]),)


def random_boxes(view: View, other: View, numbers: Tensor) -> Tensor:
    """Boxes of the image that pass the filter, with their centres in what both views show: B x K x 4 in pixels.

    Where they share nothing, centres are at the edge of the first view. That view is what the filter takes for the
    image, and no box leaves it. `numbers`, B x K x 4 in [0, 1), give size, aspect (of its logarithm), and centre.
    """
    low, high = view.box[:, None, :2].float(), view.box[:, None, :2].float() + view.box[:, None, 2:].float()
    whole = high - low
    size = whole.prod(dim=2, keepdim=True).sqrt() * (SIZES[0] + (SIZES[1] - SIZES[0]) * numbers[..., :1])
    root = torch.exp((numbers[..., 1:2] - 0.5) * math.log(ASPECT))  # of the aspect
    sides = torch.cat([size * root, size / root], dim=2)
    # A side longer than the image's is cut, and the other one lengthened, so that the size stays.
    sides = torch.minimum(torch.minimum(sides, whole).reciprocal().flip(2) * size**2, whole)
    start, end = (corner[:, None] for corner in shared_rectangle(view, other))
    centre = start + (end - start).clamp(min=0) * numbers[..., 2:]
    corner = torch.minimum(torch.maximum(centre - sides / 2, low), high - sides)
    return torch.cat([corner, corner + sides], dim=2)


def found(view: View) -> Tensor:
    """The boxes of selective search that the loader has chosen: B x K x 4 in pixels of the image."""
    if view.proposals is None:
        raise ValueError("proposals: selective_search needs views with proposals; give the loader a file of them")
    return view.proposals


def jittered(boxes: Tensor, numbers: Tensor) -> Tensor:
    """Half of the boxes moved and resized, by up to a tenth of their sides: B x K x 4, numbers B x K x 5."""
    sides = boxes[..., 2:] - boxes[..., :2]
    shift, growth = ((numbers[..., a : a + 2] * 2 - 1) * JITTER * sides for a in (0, 2))
    moved = torch.cat([boxes[..., :2] + shift - growth / 2, boxes[..., 2:] + shift + growth / 2], dim=2)
    return torch.where(numbers[..., 4:] < JITTERED, moved, boxes)


def agreement(p: Tensor, z: Tensor, shared: Tensor) -> Tensor:
    """-2 * mean over images of the mean of cos(p, z') over their shared boxes, in [-2, 2]; an image without adds 0.

    Boxes B x K x d twice, not normalised; `shared` bool B x K.
    """
    weight = shared.to(p.dtype)
    return -2 * ((cosine(p, z) * weight).sum(dim=1) / (weight.sum(dim=1) + 1e-6)).mean()


class SoCo(nn.Module):
    """Predicts the target's projection of the same box in the other view.

    Args:
        backbone: a ResNet.
        proposals: where the boxes come from; those of `selective_search` are found before training, and come with
            the views (`View.proposals`).
        boxes: K, of an image in each step.
        dim: of the projection.
        momentum: of the target network at the start; it rises to 1 (`parts.momentum.ramp`).
        hidden: width of the hidden layers of projector and predictor.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        proposals: Literal["random", "selective_search"] = "random",
        boxes: Count = 4,
        dim: Count = 256,
        momentum: Probability = 0.99,
        hidden: Count = 4096,
    ) -> None:
        super().__init__()
        self.encoders = MomentumPair(BoxEncoder(backbone, mlp([channels(backbone), hidden, dim])))
        self.predictor = mlp([dim, hidden, dim])
        self.proposals, self.boxes, self.momentum = proposals, boxes, momentum
        self._last: Tensor | None = None

    def step(self, view1: View, view2: View, progress: float) -> dict[str, Tensor]:
        """One training step's losses: `loss` with gradient, its parts without."""
        numbers = random_numbers(len(view1.box), self.boxes, 9, device=view1.pixels.device)
        boxes = random_boxes(view1, view2, numbers[..., :4]) if self.proposals == "random" else found(view1)
        b1 = to_view(jittered(boxes, numbers[..., 4:]), view1).clamp(0, 1)
        b2 = to_view(boxes, view2).clamp(0, 1)
        shared = (b1[..., 2:] > b1[..., :2]).all(dim=2) & (b2[..., 2:] > b2[..., :2]).all(dim=2)

        (z1,), (z2,) = self.encoders.query(view1.pixels, b1), self.encoders.query(view2.pixels, b2)
        p1, p2 = self._predicted(z1), self._predicted(z2)
        # With the weights that the last optimiser step left, as in BYOL.
        self.encoders.update(ramp(self.momentum, progress))
        with torch.no_grad():
            (target1,), (target2,) = self.encoders.key(view1.pixels, b1), self.encoders.key(view2.pixels, b2)
        loss = agreement(p1, target2, shared) + agreement(p2, target1, shared)

        self._last = z1.detach().mean(dim=1)
        return {"loss": loss, "agreement": loss.detach(), "shared": shared.float().mean()}

    def _predicted(self, z: Tensor) -> Tensor:
        return self.predictor(z.flatten(0, 1)).unflatten(0, z.shape[:2])

    def diagnostics(self) -> dict[str, Tensor]:
        """`spread` of the last step's projections of view 1, mean over boxes (`parts.embeddings.spread`)."""
        return {"spread": spread(self._last)} if self._last is not None else {}
