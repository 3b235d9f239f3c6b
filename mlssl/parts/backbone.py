"""Backbones: any timm model that outputs a B x C x h x w feature map, and one without weights."""

from __future__ import annotations

from typing import Any, cast

import timm
import torch
from torch import Tensor, nn

from mlssl.errors import ConfigError
from mlssl.parts import colour_histogram


def create_backbone(name: str, *, output_stride: int = 32, zero_init_residual: bool = False) -> nn.Module:
    """An untrained timm model without pooling and classifier, or `colour_histogram`; the output is the last map.

    `output_stride` is in input pixels per cell; 8 and 16 replace strides by dilation and use the
    same weights. Norm layers start with scale 1, as in MoCo and DenseCL; `zero_init_residual` keeps timm's zeros
    for the last scale of each residual branch. Raises ConfigError for a name unknown to timm or a model without
    such a map.
    """
    if name == colour_histogram.NAME:
        return colour_histogram.ColourHistogram(output_stride)
    if not timm.is_model(name):
        raise ConfigError(f"backbone: timm knows no model '{name}'; `timm.list_models()` lists them")
    strides: dict[str, Any] = {} if output_stride == 32 else {"output_stride": output_stride}
    backbone = timm.create_model(name, pretrained=False, num_classes=0, global_pool="", **strides)
    if not zero_init_residual:
        set_zero_scales_to_one(backbone)
    with torch.no_grad():
        was_training = backbone.training
        shape = backbone.eval()(torch.zeros(1, 3, 64, 64)).shape
        backbone.train(was_training)
    if len(shape) != 4 or shape[1] != channels(backbone):
        raise ConfigError(
            f"backbone: '{name}' gives features of shape {tuple(shape)}, not batch x channels x height x width; "
            "use a convolutional one such as resnet50"
        )
    return backbone


@torch.no_grad()
def set_zero_scales_to_one(backbone: nn.Module) -> None:
    """Set the scales of all norm layers that start at zero to one."""
    for module in backbone.modules():
        scale = getattr(module, "weight", None)
        if isinstance(scale, nn.Parameter) and scale.dim() == 1 and not scale.any():
            scale.fill_(1.0)


def channels(backbone: nn.Module) -> int:
    """C, the number of channels of the backbone's feature map."""
    return cast(int, backbone.num_features)


def global_average_pool(feature_map: Tensor) -> Tensor:
    """B x C x h x w -> B x C, the mean over cells; at least float32, also of a bfloat16 map."""
    return feature_map.mean(dim=(2, 3), dtype=torch.promote_types(feature_map.dtype, torch.float32))


def stage_maps(backbone: nn.Module, images: Tensor) -> list[Tensor]:
    """The last map of each of the four stages (C2 to C5), finest first."""
    return cast(Any, backbone).forward_intermediates(images, indices=4, intermediates_only=True)
