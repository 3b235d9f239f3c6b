"""Supervised multi-label classification: the ceiling that the self-supervised methods are measured against.

It trains the same backbone on the same views with the images' labels: what this budget gives when all is labelled.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from mlssl.parts.backbone import channels, global_average_pool
from mlssl.parts.heads import without_autocast
from mlssl.parts.view import View


class Classifier(nn.Module):
    """x -> (g, logits): the pooled backbone feature and a linear layer on it."""

    def __init__(self, backbone: nn.Module, categories: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.linear = nn.Linear(channels(backbone), categories)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """B x 3 x S x S -> g (B x d), logits (B x C)."""
        g = global_average_pool(self.backbone(pixels))
        return g, without_autocast(self.linear, g)


class Supervised(nn.Module):
    """Binary cross entropy of the first view, summed over the C categories, mean over the batch.

    Args:
        backbone: gives a B x d x h x w map.
        labels: bool N x C, the categories that each training image shows; a crop has the labels of its image.
    """

    labels: Tensor

    def __init__(self, backbone: nn.Module, labels: Tensor) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({"query": Classifier(backbone, labels.shape[1])})
        self.register_buffer("labels", labels, persistent=False)

    def step(self, view1: View, view2: View, progress: float) -> dict[str, Tensor]:
        """One training step's losses: `loss` with gradient, its parts without."""
        _, logits = self.encoders["query"](view1.pixels)
        target = self.labels[view1.image].to(logits.dtype)
        loss = F.binary_cross_entropy_with_logits(logits.float(), target.float(), reduction="sum") / len(target)
        return {"loss": loss, "classification": loss.detach()}
