"""What torchvision's detectors lack: box losses with a chosen beta, the Res5 head, detectron2's initial weights."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork

from mlssl.transfer.load import autocast


def box_losses(
    scores: Tensor, deltas: Tensor, labels: Tensor, targets: Tensor, beta: float
) -> tuple[Tensor, Tensor]:
    """Fast R-CNN's two losses (arXiv 1504.08083, equation 1) of N regions.

    `scores` N x (1 + C) logits, `deltas` N x 4 (1 + C), `labels` int64 N (0: background), `targets` N x 4, the
    deltas of each region's object. Cross entropy, and smooth L1 of the own class's deltas, both as a mean over all
    N regions.
    """
    found = torch.where(labels > 0)[0]
    own = deltas.reshape(len(labels), -1, 4)[found, labels[found]]
    error = F.smooth_l1_loss(own, targets[found], beta=beta, reduction="sum")
    return F.cross_entropy(scores, labels), error / labels.numel()


class ProposalNetwork(RegionProposalNetwork):
    """torchvision's region proposal network with smooth L1 of the given beta; 0 is L1."""

    def __init__(self, *arguments: Any, beta: float, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.beta = beta

    def compute_loss(
        self, objectness: Tensor, pred_bbox_deltas: Tensor, labels: list[Tensor], regression_targets: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Binary cross entropy, and smooth L1 of the objects' anchors, as a mean over all sampled anchors."""
        objects, others = (torch.where(torch.cat(chosen))[0] for chosen in self.fg_bg_sampler(labels))
        sampled = torch.cat([objects, others])
        truth, targets = torch.cat(labels), torch.cat(regression_targets)
        error = F.smooth_l1_loss(pred_bbox_deltas[objects], targets[objects], beta=self.beta, reduction="sum")
        logits = objectness.flatten()[sampled]
        return F.binary_cross_entropy_with_logits(logits, truth[sampled]), error / sampled.numel()


class Heads(RoIHeads):
    """torchvision's box and mask heads with smooth L1 of the given beta.

    If `mask_head` is `box_head` (Res5), the masks of training are predicted from the box head's own features of the
    same regions, as in detectron2; at test from those of the boxes that were found.
    """

    def __init__(self, *arguments: Any, beta: float, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.beta = beta

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        if not self.training:
            return super().forward(features, proposals, image_shapes, targets)
        assert targets is not None
        regions, matched, labels, wanted = self.select_training_samples(proposals, targets)
        box_features = self.box_head(self.box_roi_pool(features, regions, image_shapes))
        scores, deltas = self.box_predictor(box_features)
        classes, boxes = box_losses(scores, deltas, torch.cat(labels), torch.cat(wanted), self.beta)
        losses = {"loss_classifier": classes, "loss_box_reg": boxes}
        if self.has_mask():
            found = [torch.where(own > 0)[0] for own in labels]
            with_object = [region[i] for region, i in zip(regions, found, strict=True)]
            if self.mask_head is self.box_head:
                mask_features = box_features[torch.cat(labels) > 0]
            else:
                mask_features = self.mask_head(self.mask_roi_pool(features, with_object, image_shapes))
            losses["loss_mask"] = maskrcnn_loss(
                self.mask_predictor(mask_features),
                with_object,
                [target["masks"] for target in targets],
                [target["labels"] for target in targets],
                [own[i] for own, i in zip(matched, found, strict=True)],
            )
        return [], losses


class Res5(nn.Module):
    """The backbone's last stage and a batch norm of its channels: regions N x C4 x S x S to N x C5 x S/2 x S/2."""

    def __init__(self, stage: nn.Module, channels: int) -> None:
        super().__init__()
        self.stage, self.norm = stage, nn.BatchNorm2d(channels)

    def forward(self, regions: Tensor) -> Tensor:
        # As the rest of the backbone, in bfloat16 where the device gains from it.
        with autocast(regions.device):
            maps = self.norm(self.stage(regions.contiguous(memory_format=torch.channels_last)))
        return maps.float()


class MeanPredictor(FastRCNNPredictor):
    """Scores and deltas of the mean over each region's cells."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return super().forward(x.mean(dim=(2, 3)))


@torch.no_grad()
def initialise_as_detectron2(heads: RoIHeads) -> None:
    """Draw the weights that detectron2 draws otherwise than torchvision.

    Hidden layers: uniform, with the variance 1 / inputs. Scores: normal, deviation 0.01; deltas and mask logits
    0.001; all biases 0.
    """
    for layer in cast(nn.Module, heads.box_head).modules():
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)
    predictor = cast(FastRCNNPredictor, heads.box_predictor)
    last: list[tuple[nn.Linear | nn.Conv2d, float]] = [(predictor.cls_score, 0.01), (predictor.bbox_pred, 0.001)]
    if heads.has_mask():
        logits = cast(MaskRCNNPredictor, heads.mask_predictor).mask_fcn_logits
        last.append((cast(nn.Conv2d, logits), 0.001))
    for output, deviation in last:
        nn.init.normal_(output.weight, std=deviation)
        assert output.bias is not None
        nn.init.zeros_(output.bias)
