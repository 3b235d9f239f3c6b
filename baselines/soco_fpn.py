"""SoCo with a feature pyramid (Wei, Gao et al., NeurIPS 2021, arXiv 2106.02637): its main variant.

The third view has half the side, so an object may be on another level of the pyramid there. Boxes, their
jitter, the loss of a pair of views, and these names are those of `baselines/soco.py`:

b1, b2, b3  K boxes of an image, as seen in view 1 (some of them jittered), 2 and 3, clipped to the view
p, z'       predictions of the boxes by the online network, and their projections by the target network, R^dim
A           1 for a box that both views of a pair show, in each of them on the level of its size there
xi, theta   weights of target and online network: xi <- m xi + (1 - m) theta, m rising to 1
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead
from torchvision.ops import FeaturePyramidNetwork

from baselines.soco import agreement, found, jittered, random_boxes
from mlssl.parts.backbone import stage_channels, stage_maps
from mlssl.parts.boxes import pooled, to_view
from mlssl.parts.embeddings import random_numbers, spread
from mlssl.parts.heads import mlp, without_autocast
from mlssl.parts.momentum import MomentumPair, ramp
from mlssl.parts.view import View
from mlssl.ranges import Count, Probability

SIDE, LARGEST = 224, (48.0, 96.0, 192.0, 224.0)
"""sqrt(w h) of the largest boxes on P2 to P5, in pixels where the first view has a side of SIDE."""
CELLS, CONVOLUTIONS = 7, 4


def level(size: Tensor) -> Tensor:
    """The level of boxes by sqrt(w h), on the scale of `LARGEST`: 0 is P2, 3 is P5, 4 is none."""
    return torch.stack([size > largest for largest in LARGEST]).sum(dim=0)


class PyramidBoxEncoder(nn.Module):
    """x and boxes -> (z,): RoIAlign of each box on its level of the pyramid, a detector's box head, the projection.

    Pyramid and head are those of the detector that is fine-tuned with `head: 4conv1fc`, which may start from them.
    """

    def __init__(self, backbone: nn.Module, pyramid: int, box_head: int, projector: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.fpn = FeaturePyramidNetwork(stage_channels(backbone), pyramid, norm_layer=nn.BatchNorm2d)
        self.box_head = FastRCNNConvFCHead(
            (pyramid, CELLS, CELLS), [pyramid] * CONVOLUTIONS, [box_head], norm_layer=nn.BatchNorm2d
        )
        self.projector = projector

    def forward(self, pixels: Tensor, boxes: Tensor, levels: Tensor) -> tuple[Tensor]:
        """B x 3 x S x S, boxes B x K x 4 of the view and levels B x K -> float32 B x K x dim, not normalised."""
        maps = self.fpn(OrderedDict((str(i), m) for i, m in enumerate(stage_maps(self.backbone, pixels))))
        # Pooled on all levels, of which each box keeps one, so that shapes do not depend on the boxes.
        regions = torch.stack([pooled(m.float(), boxes, CELLS, samples=2) for m in maps.values()], dim=-1)
        own = torch.stack([levels == i for i in range(len(maps))], dim=-1)
        regions = (regions * own[:, :, None, None, None]).sum(dim=-1)
        z = without_autocast(self.projector, self.box_head(regions.flatten(0, 1)).float())
        return (z.unflatten(0, boxes.shape[:2]),)


class SoCoFPN(nn.Module):
    """Predicts the target's projection of the same box in another view, which may show it at another scale.

    Args:
        backbone: gives the maps of four stages, as a ResNet does.
        proposals: where the boxes come from; those of `selective_search` are found before training, and come with
            the views (`View.proposals`).
        boxes: K, of an image in each step.
        dim: of the projection.
        momentum: of the target network at the start; it rises to 1 (`parts.momentum.ramp`).
        hidden: width of the hidden layers of projector and predictor.
        pyramid: channels of the feature pyramid and of the box head's convolutions.
        box_head: width of the box head's output.
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
        pyramid: Count = 256,
        box_head: Count = 1024,
    ) -> None:
        super().__init__()
        projector = mlp([box_head, hidden, dim])
        self.encoders = MomentumPair(PyramidBoxEncoder(backbone, pyramid, box_head, projector))
        self.predictor = mlp([dim, hidden, dim])
        self.proposals, self.boxes, self.momentum = proposals, boxes, momentum
        self._last: Tensor | None = None

    def step(self, view1: View, view2: View, view3: View, progress: float) -> dict[str, Tensor]:
        """One training step's losses: `loss` with gradient, in [-8, 8], its parts, of two views each, without."""
        views = (view1, view2, view3)
        numbers = random_numbers(len(view1.box), self.boxes, 9, device=view1.pixels.device)
        boxes = random_boxes(view1, view2, numbers[..., :4]) if self.proposals == "random" else found(view1)
        moved = jittered(boxes, numbers[..., 4:])
        inputs, shown = [], []
        for view, of_view in zip(views, (moved, boxes, boxes), strict=True):
            b = to_view(of_view, view).clamp(0, 1)
            sides = b[..., 2:] - b[..., :2]
            pixels = SIDE * view.pixels.shape[-1] / view1.pixels.shape[-1]
            levels = level(sides.prod(dim=2).sqrt() * pixels)
            inputs.append((view.pixels, b, levels))
            shown.append((sides > 0).all(dim=2) & (levels < len(LARGEST)))

        z = [self.encoders.query(*given)[0] for given in inputs]
        p = [self.predictor(one.flatten(0, 1)).unflatten(0, one.shape[:2]) for one in z]
        # With the weights that the last optimiser step left, as in BYOL.
        self.encoders.update(ramp(self.momentum, progress))
        with torch.no_grad():
            targets = [self.encoders.key(*given)[0] for given in inputs]
        pair2, pair3 = (
            agreement(p[0], targets[i], shown[0] & shown[i]) + agreement(p[i], targets[0], shown[0] & shown[i])
            for i in (1, 2)
        )
        loss = pair2 + pair3

        self._last = z[0].detach().mean(dim=1)
        shared = (shown[0] & shown[1]).float().mean()
        parts = {"agreement": pair2.detach(), "agreement_at_half_size": pair3.detach()}
        return {"loss": loss, **parts, "shared": shared}

    def detector_parts(self) -> dict[str, nn.Module]:
        """What a detector may start from beside the backbone (`pretrained_parts` of the transfer)."""
        encoder = cast(PyramidBoxEncoder, self.encoders.query)
        return {"fpn": encoder.fpn, "box_head": encoder.box_head}

    def diagnostics(self) -> dict[str, Tensor]:
        """`spread` of the last step's projections of view 1, mean over boxes (`parts.embeddings.spread`)."""
        return {"spread": spread(self._last)} if self._last is not None else {}
