"""Backbones: any timm model that outputs a B x C x h x w feature map, vision transformers, one without weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import timm
import torch
from timm.models import VisionTransformer
from torch import Tensor, nn

from mlssl.errors import ConfigError
from mlssl.parts import colour_histogram
from mlssl.parts.preprocessing import adapt

TRANSFORMERS = ("vision_transformer", "deit")
"""timm's modules of the vision transformers that evaluators of frozen features read."""


def create_backbone(
    name: str,
    *,
    output_stride: int = 32,
    zero_init_residual: bool = False,
    preprocessing: Mapping[str, Any] | None = None,
) -> nn.Module:
    """An untrained timm model without pooling and classifier, or `colour_histogram`; the output is the last map.

    `output_stride` is in input pixels per cell; 8 and 16 replace strides by dilation and use the
    same weights. Norm layers start with scale 1, as in MoCo and DenseCL; `zero_init_residual` keeps timm's zeros
    for the last scale of each residual branch. `preprocessing` is that of the weights that the model will have (see
    `adapt`). A vision transformer, whose output is its tokens, has one cell per patch whatever `output_stride` is:
    `image_features` and `stage_maps` read it, pretraining and fine-tuning do not.
    Raises ConfigError for a name unknown to timm or a model without such a map.
    """
    if name == colour_histogram.NAME:
        return colour_histogram.ColourHistogram(output_stride)
    if not timm.is_model(name):
        raise ConfigError(f"backbone: timm knows no model '{name}'; `timm.list_models()` lists them")
    if timm.models.is_model_in_modules(name.split(".")[0], TRANSFORMERS):
        backbone = timm.create_model(name, pretrained=False, num_classes=0, global_pool="", dynamic_img_size=True)
        adapt(backbone, name, preprocessing)
        return backbone
    strides: dict[str, Any] = {} if output_stride == 32 else {"output_stride": output_stride}
    backbone = timm.create_model(name, pretrained=False, num_classes=0, global_pool="", **strides)
    if not zero_init_residual:
        set_zero_scales_to_one(backbone)
    adapt(backbone, name, preprocessing)
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


def image_features(backbone: nn.Module, images: Tensor) -> Tensor:
    """B x C, one vector per image: the mean over the cells of the last map; of a vision transformer, the class
    token, which its papers evaluate, or the mean over its patches if it has none."""
    found = backbone(images)
    if not isinstance(backbone, VisionTransformer):
        return global_average_pool(found.float())
    if backbone.cls_token is not None:
        return found[:, 0].float()
    return found[:, backbone.num_prefix_tokens :].float().mean(dim=1)


def stage_channels(backbone: nn.Module) -> list[int]:
    """The channels of the maps of `stage_maps`, finest first. Raises ConfigError for a model that has no stages."""
    was_training = backbone.training
    try:
        with torch.no_grad():
            maps = stage_maps(backbone.eval(), torch.zeros(1, 3, 64, 64))
    except AttributeError:
        raise ConfigError(
            f"backbone: {type(backbone).__name__} does not give the maps of its stages; use one such as resnet50"
        ) from None
    finally:
        backbone.train(was_training)
    return [values.shape[1] for values in maps]


def stage_maps(backbone: nn.Module, images: Tensor) -> list[Tensor]:
    """The last map of each of the four stages (C2 to C5), finest first.

    Of a vision transformer, the patches after each of its last four blocks, normalised as its output is.
    """
    norm: dict[str, Any] = {"norm": True} if isinstance(backbone, VisionTransformer) else {}
    return cast(Any, backbone).forward_intermediates(images, indices=4, intermediates_only=True, **norm)
