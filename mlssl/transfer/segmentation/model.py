"""Segmentation networks on a dilated backbone.

FCN (arXiv 1411.4038), PSPNet (arXiv 1612.01105) and PSANet (Zhao et al., ECCV 2018).
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlssl.parts.backbone import channels, stage_maps
from mlssl.study.settings import Segmentation

DROPOUT = 0.1
POOLS = (1, 2, 3, 6)
"""Cells per side of PSPNet's four pooled maps."""
WINDOW = 97
"""Cells per side of the window round a cell in which PSANet weighs the others: all of a map of up to 49 x 49."""
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
    elif config.head == "psa":
        head = PointwiseAttention(inputs, width, classes)
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


def convolution(inputs: int, outputs: int, kernel: int, padding: int | None = None) -> nn.Sequential:
    """A convolution, which keeps the size unless `padding` is given, batch norm and ReLU."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2 if padding is None else padding, bias=False)
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


class PointwiseAttention(nn.Module):
    """The map beside what each cell collects from the others, and what the others distribute to it.

    (PSANet, section 3; widths, the halved map and the padding of `together` as mmsegmentation's PSAHead.)
    """

    def __init__(self, inputs: int, width: int, classes: int) -> None:
        super().__init__()
        self.reduced = nn.ModuleList(convolution(inputs, width, 1) for _ in range(2))
        self.mixed = nn.ModuleList(convolution(width, width, 1) for _ in range(2))
        self.together = convolution(2 * width, inputs, 1, padding=1)
        self.joint = convolution(2 * inputs, width, 3)
        self.classifier = classifier(width, classes)
        initialise_as_mmsegmentation(self)
        # Not among those: mmsegmentation leaves them as torch draws them.
        self.weights = nn.ModuleList(nn.Conv2d(width, WINDOW**2, 1, bias=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        odd = all(side % 2 for side in x.shape[2:])
        half = [(side + odd) // 2 for side in x.shape[2:]]
        found = []
        for i, distribute in enumerate((False, True)):
            small = F.interpolate(self.reduced[i](x), size=half, mode="bilinear", align_corners=odd)
            each = window_weights(self.weights[i](self.mixed[i](small)))  # other x own
            from_to = each.transpose(1, 2) if distribute else each
            found.append((small.flatten(2) @ from_to.softmax(dim=1)).unflatten(2, half))
        context = F.interpolate(
            self.together(torch.cat(found, dim=1)), size=x.shape[2:], mode="bilinear", align_corners=odd
        )
        return self.classifier(self.joint(torch.cat([x, context], dim=1)))


def window_weights(values: Tensor) -> Tensor:
    """The weights of pairs of cells, B x N x N (other, own), of B x W² x h x w, where N = h w, row by row.

    The channels of a cell weigh the cells in a window of W x W round it; a pair beyond has weight 0.
    """
    (height, width), side = values.shape[2:], math.isqrt(values.shape[1])
    row = torch.arange(height, device=values.device).repeat_interleave(width)
    column = torch.arange(width, device=values.device).repeat(height)
    down, right = (place[:, None] - place + side // 2 for place in (row, column))
    inside = (down >= 0) & (down < side) & (right >= 0) & (right < side)
    channel = torch.where(inside, side * down + right, 0)
    return values.flatten(2).gather(1, channel.expand(len(values), -1, -1)) * inside


@torch.no_grad()
def initialise_as_mmsegmentation(head: nn.Module) -> None:
    """Convolutions: normal, with the variance 2 / (outputs x kernel); those to logits: normal, deviation 0.01."""
    for layer in head.modules():
        if isinstance(layer, nn.Conv2d) and layer.bias is None:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(cast(Tensor, layer.bias))
