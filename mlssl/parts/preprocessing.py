"""Published weights that were trained with another input, or another place of the stride, than this suite's.

Everything here gives a backbone RGB images, normalised with ImageNet's mean and standard deviation. `adapt` makes a
backbone take these and compute what it was trained to compute on its own input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models.resnet import Bottleneck
from torch import Tensor, nn

from mlssl.errors import ConfigError


def adapt(backbone: nn.Module, name: str, preprocessing: Mapping[str, Any] | None) -> None:
    """Change a timm model, in place, for weights that were trained as `preprocessing` says; None changes nothing.

    The keys are those of `Preprocessing` in the settings: `mean`, `std`, `channels`, `pixel_range`,
    `stride_in_1x1`. The input is converted before the first convolution, so that its zero padding is that of the
    training. Raises ConfigError for a model, called `name`, that has no such convolution or no such stride.
    """
    if preprocessing is None:
        return
    if preprocessing["stride_in_1x1"]:
        move_strides(backbone, name)
    reverse, scale, shift = conversion(
        preprocessing["mean"], preprocessing["std"], preprocessing["channels"], preprocessing["pixel_range"]
    )
    if not reverse and scale == [1.0] * 3 and shift == [0.0] * 3:
        return
    first = getattr(backbone, "pretrained_cfg", {}).get("first_conv")
    if not isinstance(first, str) or not first:
        raise ConfigError(f"preprocessing: timm does not say which layer of '{name}' sees the image; leave it out")

    def convert(_: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        (x,) = inputs
        factors, offsets = (torch.tensor(v, dtype=x.dtype, device=x.device)[:, None, None] for v in (scale, shift))
        return (x.flip(-3) if reverse else x) * factors + offsets

    backbone.get_submodule(first).register_forward_pre_hook(convert)


def conversion(
    mean: Sequence[float] | None, std: Sequence[float] | None, channels: str, pixel_range: float
) -> tuple[bool, list[float], list[float]]:
    """Whether to reverse the channels, and then the factor and the offset of each, from this suite's input.

    With a pixel p in [0, 1], ours is x = (p - m) / s and theirs (r p - m') / s' = x r s / s' + (r m - m') / s'.
    """
    reverse = channels == "BGR"
    ours = [(m, s) for m, s in zip(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, strict=True)]
    ours = ours[::-1] if reverse else ours
    means = [pixel_range * m for m, _ in ours] if mean is None else mean
    stds = [pixel_range * s for _, s in ours] if std is None else std
    scale = [pixel_range * s / theirs for (_, s), theirs in zip(ours, stds, strict=True)]
    shift = [(pixel_range * m - own) / theirs for (m, _), own, theirs in zip(ours, means, stds, strict=True)]
    return reverse, scale, shift


def move_strides(backbone: nn.Module, name: str) -> None:
    """Stride in the first 1x1 convolution of each bottleneck in place of its 3x3, as MSRA's and caffe's ResNets."""
    blocks = [module for module in backbone.modules() if isinstance(module, Bottleneck)]
    if not blocks or not all(isinstance(block.aa, nn.Identity) for block in blocks):
        raise ConfigError(f"preprocessing.stride_in_1x1: '{name}' is no ResNet with bottlenecks; leave it out")
    for block in blocks:
        block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride


def stated(preprocessing: Mapping[str, Any] | None) -> dict[str, Any]:
    """Mean, standard deviation, channels and pixel range of an input, with ImageNet's values written out."""
    given = preprocessing or {"mean": None, "std": None, "channels": "RGB", "pixel_range": 1}
    order = slice(None, None, -1 if given["channels"] == "BGR" else 1)
    found: dict[str, Any] = {"channels": given["channels"], "pixel_range": given["pixel_range"]}
    imagenet: dict[str, tuple[float, ...]] = {"mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}
    for key, values in imagenet.items():
        own: Any = given[key]
        found[key] = [given["pixel_range"] * v for v in values[order]] if own is None else list(own)
    return found
