"""The operations of the augmentation on float images in 0..1, n x 3 x S x S, as torchvision defines them.

A factor is a number, or a tensor n x 1 x 1 x 1 with one number per sample.

In-place writing, in all of `mlssl.data.augment`: a function writes only into tensors that it has created itself and
into an argument named `out`. The images of a store are never written to.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mlssl.data.augment.parameters import MEAN, STD

LUMA = (0.2989, 0.587, 0.114)
"""ITU-R 601-2 weights, rounded as in torchvision."""
BLUR_TAPS = 23
"""Taps of the Gaussian kernel, as in SimCLR at 224 px; fewer where the crop is smaller."""


def adjust_brightness(x: Tensor, factor: float | Tensor) -> Tensor:
    return (x * factor).clamp_(0, 1)


def adjust_contrast(x: Tensor, factor: float | Tensor) -> Tensor:
    """Blend with the mean gray of the image."""
    gray = luminance(x)
    # Expanded to every pixel, because lerp from a broadcast number takes three times as long on a CPU.
    mean = gray.copy_(gray.mean(dim=(1, 2, 3), keepdim=True))
    return mean.lerp(x, factor).clamp_(0, 1)


def adjust_saturation(x: Tensor, factor: float | Tensor) -> Tensor:
    """Blend with the image's grayscale."""
    return luminance(x).lerp(x, factor).clamp_(0, 1)


def adjust_hue(x: Tensor, shift: float | Tensor) -> Tensor:
    """Shift the hue in HSV by `shift` (in turns, -0.5 .. 0.5)."""
    value, minimum = x.amax(dim=1, keepdim=True), x.amin(dim=1, keepdim=True)
    chroma = value - minimum
    r, g, b = x.split(1, dim=1)
    # 0 if r, or g, is the largest, else 1. lerp with these is exact, and ten times faster than where on a CPU.
    not_r, not_g = (value - r).sign_(), (value - g).sign_()
    hue = (g - b).lerp_((b - r).lerp_(r - g, not_g), not_r).div_(chroma.clamp(min=1e-12))  # in sixths of a turn
    hue = hue.add_(not_r * (not_g + 1), alpha=2)
    # Each channel is value - chroma * clamp(min(k, 4 - k), 0, 1), k = (n + hue) mod 6, n = 5, 3, 1: with
    # t = k / 6 a turn, min(k, 4 - k) = 2 - 6 |t - 1/3|. Adding two turns keeps t positive.
    channel = (torch.arange(5, 0, -2, dtype=x.dtype, device=x.device) / 6)[:, None, None]  # 5, 3, 1 sixths
    t = (hue / 6 + (shift + 2) + channel).frac_()
    return torch.addcmul(value - 2 * chroma, chroma, t.sub_(1 / 3).abs_().clamp_(1 / 6, 1 / 3), value=6)


def luminance(x: Tensor) -> Tensor:
    """n x 3 x S x S -> n x 1 x S x S."""
    r, g, b = LUMA
    return (r * x[:, :1]).add_(x[:, 1:2], alpha=g).add_(x[:, 2:], alpha=b)


JITTER = (adjust_brightness, adjust_contrast, adjust_saturation, adjust_hue)
"""The colour jitter's operations; `Parameters.order` and `factors` count them in this order."""


def gaussian_blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Blur each sample of B x C x S x S with its own sigma (B, pixels of the crop); borders are mirrored."""
    size = x.shape[-1]
    radius = min(BLUR_TAPS // 2, size - 1)
    matrix = blur_matrix(sigma, size, radius)
    return along_both(F.pad(x, (radius, radius, radius, radius), mode="reflect"), matrix, matrix)


def blur_matrix(sigma: Tensor, size: int, radius: int) -> Tensor:
    """B x size x (size + 2 radius): each sample's Gaussian kernel as a linear map of a padded row."""
    offset = torch.arange(-radius, radius + 1, device=sigma.device)
    kernel = torch.exp(-0.5 * (offset / sigma[:, None]) ** 2)
    # Far taps of a narrow kernel would be denormal numbers, which make CPU matrix products ten times slower.
    kernel = torch.where(kernel > 1e-12, kernel, 0)
    kernel = F.pad(kernel / kernel.sum(dim=1, keepdim=True), (size - 1, size - 1))
    # Row i of the windows starts with size - 1 - i zeros; flipping the rows gives the band matrix.
    return kernel.unfold(1, size + 2 * radius, 1).flip(1)


def solarise(x: Tensor) -> Tensor:
    """Invert the values of at least 0.5 (BYOL, arXiv 2006.07733, appendix B)."""
    return torch.where(x < 0.5, x, 1 - x)


def normalise(x: Tensor, *, out: Tensor) -> Tensor:
    """Write x, less ImageNet's mean and divided by its standard deviation per channel, to `out`, and return it."""
    mean, std = (per_channel(values, x.dtype, x.device) for values in (MEAN, STD))
    return torch.sub(x, mean, out=out).div_(std)


@functools.cache
def per_channel(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Constants C x 1 x 1 on a device, copied there once, because a GPU is waited for at each such copy."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)[:, None, None]


def per_sample(values: Tensor) -> Tensor:
    """B -> B x 1 x 1 x 1."""
    return values[:, None, None, None]


def along_both(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """rows · x · columns^T for each sample: B x S x H, B x C x H x W, B x T x W -> B x C x S x T."""
    b, c, h, w = x.shape
    x = (x.reshape(b, c * h, w) @ columns.mT).reshape(b, c, h, -1)
    return rows[:, None] @ x


@functools.cache
def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The function compiled by torch.compile; if compiling fails, the uncompiled function and a log warning."""
    fused = torch.compile(function, dynamic=False)
    failed = False

    def call(*args: Tensor) -> Tensor:
        nonlocal failed
        if not failed:
            try:
                return fused(*args)
            except torch._dynamo.exc.TorchDynamoException as error:
                failed = True
                why = str(error).splitlines()[0]
                logging.getLogger(__name__).warning("%s runs uncompiled, slower: %s", function.__name__, why)
        return function(*args)

    return call
