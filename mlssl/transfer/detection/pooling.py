"""RoIAlign as in detectron2: each region from the map of its size (arXiv 1612.03144, equation 1)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

CANONICAL_SIZE = 224
"""Side in pixels of the regions that are read from the map of stride CANONICAL_STRIDE."""
CANONICAL_STRIDE = 16


class RegionPool(nn.Module):
    """RoIAlign, aligned (half a cell shifted), from maps of known strides, each twice the one before.

    torchvision's MultiScaleRoIAlign cannot align, and takes the strides from the sizes of maps and images.
    `samples` is the number of samples per bin and direction; 0 takes one per cell of the map that the bin covers.
    """

    def __init__(self, strides: Sequence[int], output_size: int, samples: int) -> None:
        super().__init__()
        self.strides, self.output_size, self.samples = list(strides), output_size, samples

    def forward(
        self, features: Mapping[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> Tensor:
        """N x C x output_size x output_size of all boxes (x1 y1 x2 y2 in pixels, a tensor per image), in order."""
        maps = list(features.values())[: len(self.strides)]
        image = torch.cat([b.new_full((len(b), 1), i) for i, b in enumerate(boxes)])
        regions = torch.cat([image, torch.cat(boxes)], dim=1)
        levels = level_of(regions[:, 1:], self.strides)
        pooled = maps[0].new_zeros(len(regions), maps[0].shape[1], self.output_size, self.output_size)
        for level, (stride, values) in enumerate(zip(self.strides, maps, strict=True)):
            chosen = torch.where(levels == level)[0]
            here = roi_align(
                values, regions[chosen], self.output_size, 1 / stride, sampling_ratio=self.samples, aligned=True
            )
            pooled = pooled.index_copy(0, chosen, here.to(pooled.dtype))
        return pooled


def level_of(boxes: Tensor, strides: Sequence[int]) -> Tensor:
    """Which of the maps each box is read from, int64 N: one level coarser for each doubling of its side.

    Boxes of 224 to 448 pixels (square root of the area) have stride 16; small and large ones the nearest.
    """
    side = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).clamp_min(0).sqrt()
    steps = torch.floor(torch.log2(side / CANONICAL_SIZE + 1e-8))
    first = math.log2(CANONICAL_STRIDE / strides[0])
    return (steps + first).clamp(0, len(strides) - 1).long()
