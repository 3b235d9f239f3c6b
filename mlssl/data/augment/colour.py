"""Colour operations on float images in 0..1, n x 3 x S x S, as torchvision defines them.

A factor is a number, or a tensor n x 1 x 1 x 1 with one number per sample. No operation changes its input.
"""

from __future__ import annotations

import torch
from torch import Tensor

LUMA = (0.2989, 0.587, 0.114)
"""ITU-R 601-2 weights, rounded as in torchvision."""


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
    channel = x.new_tensor([5 / 6, 3 / 6, 1 / 6])[:, None, None]
    t = (hue / 6 + (shift + 2) + channel).frac_()
    return torch.addcmul(value - 2 * chroma, chroma, t.sub_(1 / 3).abs_().clamp_(1 / 6, 1 / 3), value=6)


def luminance(x: Tensor) -> Tensor:
    """n x 3 x S x S -> n x 1 x S x S."""
    r, g, b = LUMA
    return (r * x[:, :1]).add_(x[:, 1:2], alpha=g).add_(x[:, 2:], alpha=b)
