"""Segmentation networks on a dilated backbone: FCN (arXiv 1411.4038) and PSPNet (arXiv 1612.01105)."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlssl.parts.backbone import channels, stage_maps
from mlssl.study.settings import Segmentation

DROPOUT = 0.1
POOLS = (1, 2, 3, 6)
"""Cells per side of PSPNet's four pooled maps."""
AUXILIARY_CHANNELS = 256


class Segmenter(nn.Module):
    """The backbone and a head on its last map; in training also an auxiliary head, if given, on the map before."""

    def __init__(self, backbone: nn.Module, head: nn.Module, auxiliary: nn.Module | None = None) -> None:
        super().__init__()
        self.backbone, self.head, self.auxiliary = backbone, head, auxiliary

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Normalised float B x 3 x H x W to logits B x C x h x w, at the size of the backbone's last map.

        With an auxiliary head in training, its logits too.
        """
        if self.auxiliary is None or not self.training:
            return self.head(self.backbone(images))
        *_, before, last = stage_maps(self.backbone, images)
        return self.head(last), self.auxiliary(before)


def build_model(backbone: nn.Module, config: Segmentation, classes: int) -> Segmenter:
    """The network of the settings, with new heads."""
    inputs, width = channels(backbone), config.head_channels
    if config.head == "psp":
        head: nn.Module = PyramidPooling(inputs, width, classes, align_corners=config.align_corners)
    elif config.head == "fcn_d8":
        head = ConcatenatedFCN(inputs, width, classes)
    else:
        head = nn.Sequential(*convolution(inputs, width, 3), *classifier(width, classes))
    if not config.auxiliary_weight:
        return Segmenter(backbone, head)
    before = channels_before(backbone)
    auxiliary = nn.Sequential(*convolution(before, AUXILIARY_CHANNELS, 3), *classifier(AUXILIARY_CHANNELS, classes))
    initialise_as_mmsegmentation(auxiliary)
    return Segmenter(backbone, head, auxiliary)


def channels_before(backbone: nn.Module) -> int:
    """Channels of the map of the third stage."""
    was_training = backbone.training
    with torch.no_grad():
        *_, before, _ = stage_maps(backbone.eval(), torch.zeros(1, 3, 64, 64))
    backbone.train(was_training)
    return before.shape[1]


def convolution(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """A convolution that keeps the size, batch norm and ReLU."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


def classifier(inputs: int, classes: int) -> nn.Sequential:
    """Dropout and a 1x1 convolution to logits."""
    return nn.Sequential(nn.Dropout(DROPOUT), nn.Conv2d(inputs, classes, 1))


class ConcatenatedFCN(nn.Module):
    """Two 3x3 convolutions; a third takes their output beside the input (mmsegmentation's FCNHead)."""

    def __init__(self, inputs: int, width: int, classes: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(convolution(inputs, width, 3), convolution(width, width, 3))
        self.joint = convolution(inputs + width, width, 3)
        self.classifier = classifier(width, classes)
        initialise_as_mmsegmentation(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.joint(torch.cat([x, self.convolutions(x)], dim=1)))


class PyramidPooling(nn.Module):
    """The map beside its means over 1, 2 x 2, 3 x 3 and 6 x 6 parts, each put through a 1x1 convolution.

    (arXiv 1612.01105, section 3.2; widths as mmsegmentation's PSPHead.)
    """

    def __init__(self, inputs: int, width: int, classes: int, *, align_corners: bool) -> None:
        super().__init__()
        self.align_corners = align_corners
        self.pooled = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(side), convolution(inputs, width, 1)) for side in POOLS
        )
        self.joint = convolution(inputs + len(POOLS) * width, width, 3)
        self.classifier = classifier(width, classes)
        initialise_as_mmsegmentation(self)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-2:]
        context = [
            F.interpolate(part(x), size=size, mode="bilinear", align_corners=self.align_corners)
            for part in self.pooled
        ]
        return self.classifier(self.joint(torch.cat([x, *context], dim=1)))


@torch.no_grad()
def initialise_as_mmsegmentation(head: nn.Module) -> None:
    """Convolutions: normal, with the variance 2 / (outputs x kernel); those to logits: normal, deviation 0.01."""
    for layer in head.modules():
        if isinstance(layer, nn.Conv2d) and layer.bias is None:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(cast(Tensor, layer.bias))
