"""A backbone without weights: local colour histograms, the baseline that any learned feature should beat."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NAME = "colour_histogram"
"""The name under which a study gives it as `backbone`."""
EDGES = (-1.0, 0.0, 1.0)
"""Edges of the four bins of each channel, in standard deviations of normalised pixels."""
STRIDES = (4, 8, 16, 32)
"""Input pixels per cell of the four maps, as in a ResNet's stages."""


class ColourHistogram(nn.Module):
    """Joint RGB histogram of 4 x 4 x 4 bins over square cells; pooled, the histogram of the whole image.

    Args:
        output_stride: input pixels per cell of the last map, 8, 16 or 32.
    """

    num_features = 64
    edges: Tensor

    def __init__(self, output_stride: int = 32) -> None:
        super().__init__()
        self.output_stride = output_stride
        self.register_buffer("edges", torch.tensor(EDGES), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalised B x 3 x H x W -> B x 64 x h x w; the bins of a cell sum to 1."""
        return self._maps(pixels, (self.output_stride,))[0]

    def forward_intermediates(
        self, pixels: Tensor, indices: int = 4, intermediates_only: bool = True
    ) -> list[Tensor]:
        """The maps of the last `indices` of the four stages, finest first, as timm's models give them."""
        strides = [min(stride, self.output_stride) for stride in STRIDES]
        return self._maps(pixels, strides[-indices:])

    def _maps(self, pixels: Tensor, strides: tuple[int, ...] | list[int]) -> list[Tensor]:
        levels = torch.bucketize(pixels.float().contiguous(), self.edges)
        bins = F.one_hot(16 * levels[:, 0] + 4 * levels[:, 1] + levels[:, 2], self.num_features)
        one_hot = bins.movedim(-1, 1).float()
        return [F.avg_pool2d(one_hot, s, ceil_mode=True, count_include_pad=False) for s in strides]
