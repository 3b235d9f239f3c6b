"""Mask R-CNN (arXiv 1703.06870) on a pretrained backbone, from torchvision's modules and those in `heads`."""

from __future__ import annotations

import math
from collections import OrderedDict
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from mlssl.data.augment.parameters import MEAN, STD
from mlssl.errors import ConfigError
from mlssl.parts.backbone import stage_channels, stage_maps, third_stage
from mlssl.study.settings import Detection
from mlssl.tensors import read_own
from mlssl.transfer.detection.heads import Heads, MeanPredictor, ProposalNetwork, Res5, initialise_as_detectron2
from mlssl.transfer.detection.pooling import RegionPool
from mlssl.transfer.load import autocast

COCO_SIZE = 800
"""Short side, in pixels, for which COCO's anchor sizes are designed."""
ANCHORS = (32, 64, 128, 256, 512)
ASPECT_RATIOS = (0.5, 1.0, 2.0)
PYRAMID = (4, 8, 16, 32)
"""Strides of the maps that regions are read from; the fifth map of an FPN has only anchors."""
C4 = (16,)
SCORE_THRESHOLD = 0.05
DETECTIONS_PER_IMAGE = 100
CONVOLUTIONS = 4
"""Of the box head `4conv1fc`."""
MASK_CHANNELS = 256
"""Channels of the deconvolution that predicts masks on Res5."""


class Pyramid(nn.Module):
    """The backbone's four stages and an FPN: five maps of `out_channels` channels, highest resolution first."""

    def __init__(self, backbone: nn.Module, out_channels: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.out_channels = out_channels
        # Batch norm in the FPN as in MoCo's COCO recipe, which MLS and its peers use.
        self.fpn = FeaturePyramidNetwork(
            stage_channels(backbone), out_channels, LastLevelMaxPool(), norm_layer=nn.BatchNorm2d
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        # Only this part runs in bfloat16 (on a GPU), which cannot represent box coordinates to the pixel.
        with autocast(images.device):
            maps = stage_maps(self.backbone, images.contiguous(memory_format=torch.channels_last))
            pyramid = self.fpn(OrderedDict((str(i), m) for i, m in enumerate(maps)))
        return OrderedDict((name, m.float()) for name, m in pyramid.items())


class ThirdStage(nn.Module):
    """The backbone up to its third stage: one map of stride 16, C4."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.out_channels = stage_channels(backbone)[2]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        with autocast(images.device):
            x = images.contiguous(memory_format=torch.channels_last)
            c4 = third_stage(self.backbone, x)
        return OrderedDict([("0", c4.float())])


def build_model(backbone: nn.Module, config: Detection, categories: int, *, masks: bool = True) -> GeneralizedRCNN:
    """Mask R-CNN with an FPN (arXiv 1612.03144), or on C4 with `config.head` res5; class 0 is background.

    Without `masks` it has no mask head, which is Faster R-CNN (arXiv 1506.01497).

    Anchors are COCO's for a short side of 800 pixels, scaled with the square root of `config.size`: in small
    images objects shrink but the strides of the maps do not, so the maps would be too coarse to separate
    anchors that shrink as much as the objects.

    Raises ConfigError if a backbone has no last stage that can be taken out for res5.
    """
    # Parts are made in a fixed order, in which torch's generator draws their initial weights.
    classes, zoom = 1 + categories, math.sqrt(config.size / COCO_SIZE)
    sizes = [s * zoom for s in ANCHORS]
    features: Pyramid | ThirdStage
    if config.head == "res5":
        features, parts = on_c4(backbone, config, classes)
        anchors = AnchorGenerator((tuple(sizes),), (ASPECT_RATIOS,))
    else:
        features, parts = on_pyramid(backbone, config, classes)
        anchors = AnchorGenerator(tuple((s,) for s in sizes), (ASPECT_RATIOS,) * len(sizes))
    best = config.candidates or (2 * config.proposals, config.proposals)
    rpn = ProposalNetwork(
        anchors,
        RPNHead(features.out_channels, anchors.num_anchors_per_location()[0]),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n={"training": best[0], "testing": best[1]},
        post_nms_top_n={"training": config.proposals, "testing": config.test_proposals or config.proposals},
        nms_thresh=0.7,
        beta=config.smooth_l1_beta,
    )
    heads = Heads(
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=config.rois_per_image,
        positive_fraction=0.25,
        bbox_reg_weights=(10.0, 10.0, 5.0, 5.0),
        score_thresh=SCORE_THRESHOLD,
        nms_thresh=0.5,
        detections_per_img=DETECTIONS_PER_IMAGE,
        beta=config.smooth_l1_beta,
        **{name: part for name, part in parts.items() if masks or not name.startswith("mask")},
    )
    if config.initial_heads == "detectron2":
        initialise_as_detectron2(heads)
    # The last size is that of the test.
    shapes = [*(s for s in config.train_sizes if s != config.size), config.size]
    transform = GeneralizedRCNNTransform(shapes, int(config.size * 5 / 3), list(MEAN), list(STD))
    return GeneralizedRCNN(features, rpn, heads, transform)


def load_parts(model: GeneralizedRCNN, backbone_file: Path) -> list[str]:
    """Load the pyramid and the box head that the method trained beside the backbone; names those that it did.

    Raises ConfigError if they have other widths than those of the model.
    """
    content = read_own(
        backbone_file, "a backbone.pt", {"backbone", "meta"}, missing="pretrain first", broken="train again"
    )
    found = content.get("detector", {})
    homes = {"fpn": model.backbone.fpn, "box_head": model.roi_heads.box_head}
    for name, weights in found.items():
        expected = {key: value.shape for key, value in homes[name].state_dict().items()}
        if {key: value.shape for key, value in weights.items()} != expected:
            raise ConfigError(
                f"{backbone_file}: its {name} has other layers or widths than the detector's; "
                "give fpn_channels and box_head_channels of transfers.detection the method's pyramid and box_head"
            )
        homes[name].load_state_dict(weights)
    return [*found]


def on_pyramid(backbone: nn.Module, config: Detection, classes: int) -> tuple[Pyramid, dict[str, nn.Module]]:
    """The maps of an FPN, and its heads: `2fc` without norm, `4conv1fc` with batch norm after convolutions."""
    channels, width = config.fpn_channels, config.box_head_channels
    norm = nn.BatchNorm2d if config.head == "4conv1fc" else None
    features = Pyramid(backbone, channels)
    if norm:
        box_head: nn.Module = FastRCNNConvFCHead((channels, 7, 7), [channels] * CONVOLUTIONS, [width], norm)
    else:
        box_head = TwoMLPHead(channels * 7 * 7, width)
    return features, {
        "box_roi_pool": pool(config, PYRAMID, 7),
        "box_head": box_head,
        "box_predictor": FastRCNNPredictor(width, classes),
        "mask_roi_pool": pool(config, PYRAMID, 14),
        "mask_head": MaskRCNNHeads(channels, (channels,) * config.mask_head_layers, 1, norm),
        "mask_predictor": MaskRCNNPredictor(channels, channels, classes),
    }


def on_c4(backbone: nn.Module, config: Detection, classes: int) -> tuple[ThirdStage, dict[str, nn.Module]]:
    """The map C4, and the head Res5, which boxes and masks share."""
    stage = getattr(backbone, "layer4", None)
    if not isinstance(stage, nn.Module):
        raise ConfigError(
            "transfers.detection.head: 'res5' needs a ResNet, whose last stage is `layer4`, and the backbone is a "
            f"{type(backbone).__name__}; give 2fc or 4conv1fc"
        )
    features = ThirdStage(backbone)
    channels = cast(int, backbone.num_features)
    backbone.layer4 = nn.Identity()
    res5 = Res5(stage, channels)
    return features, {
        "box_roi_pool": pool(config, C4, 14),
        "box_head": res5,
        "box_predictor": MeanPredictor(channels, classes),
        "mask_roi_pool": pool(config, C4, 14),
        "mask_head": res5,
        "mask_predictor": MaskRCNNPredictor(channels, MASK_CHANNELS, classes),
    }


def pool(config: Detection, strides: tuple[int, ...], output_size: int) -> nn.Module:
    """RoIAlign from the maps of these strides, as the settings want it."""
    if config.roi_aligned:
        return RegionPool(strides, output_size, config.roi_samples)
    names = [str(i) for i in range(len(strides))]
    return MultiScaleRoIAlign(names, output_size, config.roi_samples)
