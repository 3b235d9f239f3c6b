"""An encoder: backbone and projector, of a pooled feature as in MoCo and MLS, or of each cell of the map."""

from __future__ import annotations

from torch import Tensor, nn

from mlssl.parts.backbone import global_average_pool
from mlssl.parts.heads import without_autocast


class Encoder(nn.Module):
    """x -> (g, z): the pooled backbone feature and its projection (MLS section 3.2)."""

    def __init__(self, backbone: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = projector

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """B x 3 x S x S -> g (B x d_g), z (B x d_z), neither normalised."""
        g = global_average_pool(self.backbone(pixels))
        return g, without_autocast(self.projector, g)


class MapEncoder(nn.Module):
    """x -> (z,): the projection of each cell of the backbone's map, not pooled."""

    def __init__(self, backbone: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = projector

    def forward(self, pixels: Tensor) -> tuple[Tensor]:
        """B x 3 x H x W -> float32 B x d_z x S x S, not normalised."""
        return (without_autocast(self.projector, self.backbone(pixels).float()),)
