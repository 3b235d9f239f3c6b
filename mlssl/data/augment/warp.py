"""Crop and blur: linear maps along rows and columns, so each is two small matrix products per sample."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

BLUR_TAPS = 23
"""Taps of the Gaussian kernel, as in SimCLR at 224 px; fewer where the crop is smaller."""


def crop_resized(image: Tensor, box: tuple[int, int, int, int], size: int) -> Tensor:
    """One image, uint8 H x W x 3, cropped to box (x, y, width, height) -> uint8 1 x 3 x size x size.

    PyTorch's uint8 CPU kernel: bilinear, anti-aliased and, like PIL, rounded to 1/255.
    """
    x, y, w, h = box
    cropped = image[y : y + h, x : x + w].permute(2, 0, 1)[None]
    return F.interpolate(cropped, size=(size, size), mode="bilinear", antialias=True)


def resized_crop(images: Tensor, box: Tensor, size: int) -> Tensor:
    """Crop each image to its box and resize to size x size: bilinear, anti-aliased.

    uint8 B x 3 x H x W (smaller images padded to the right and below), boxes B x 4 -> float B x 3 x S x S in 0..1.
    """
    rows = resize_matrix(box[:, 1], box[:, 3], images.shape[2], size)
    columns = resize_matrix(box[:, 0], box[:, 2], images.shape[3], size)
    return along_both(images.to(rows.dtype), rows / 255, columns).clamp(0, 1)


def resize_matrix(start: Tensor, length: Tensor, extent: int, size: int) -> Tensor:
    """B x size x extent: row i has the weights of the input pixels for output pixel i.

    The triangle filter of PIL and torchvision's `antialias=True`: its support is one output pixel when downscaling,
    one input pixel when upscaling; weights outside the crop are zero and the rest sum to one.
    """
    scale = (length / size)[:, None, None]
    support = scale.clamp(min=1)
    centre = start[:, None, None] + (torch.arange(size, device=start.device)[:, None] + 0.5) * scale
    pixel = torch.arange(extent, device=start.device) + 0.5
    weight = (1 - (pixel - centre).abs() / support).clamp(min=0)
    inside = (pixel > start[:, None, None]) & (pixel < (start + length)[:, None, None])
    weight = weight * inside
    return weight / weight.sum(dim=2, keepdim=True)


def gaussian_blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Blur each sample of B x C x S x S with its own sigma (B, pixels of the crop); borders are mirrored."""
    size = x.shape[-1]
    radius = min(BLUR_TAPS // 2, size - 1)
    matrix = blur_matrix(sigma, size, radius)
    return along_both(F.pad(x, (radius, radius, radius, radius), mode="reflect"), matrix, matrix)


def blur_one(x: Tensor, sigma: float, block: int = 32) -> Tensor:
    """`gaussian_blur` of one large sample, 1 x C x S x S, on a CPU: multiplies only the band of the blur matrix."""
    channels, size = x.shape[1:3]
    # Taps beyond six sigmas are below float32 precision.
    radius, surplus = min(BLUR_TAPS // 2, size - 1, math.ceil(6 * sigma)), -size % block
    padded = F.pad(x, (radius, radius, radius, radius), mode="reflect")
    padded = F.pad(padded, (0, surplus, 0, surplus)) if surplus else padded
    band, side = blur_matrix(torch.tensor([sigma]), block, radius), padded.shape[-1]
    windows = padded.view(-1, side).unfold(1, band.shape[2], block)  # (C side) x blocks x window
    x = windows.transpose(0, 1) @ band.mT
    windows = x.view(-1, side, block).unfold(1, band.shape[2], block).mT  # (blocks C) x blocks x window x block
    x = (band @ windows).unflatten(0, (-1, channels))
    return x.permute(1, 2, 3, 0, 4).reshape(1, channels, size + surplus, -1)[..., :size, :size]


def blur_matrix(sigma: Tensor, size: int, radius: int) -> Tensor:
    """B x size x (size + 2 radius): each sample's Gaussian kernel as a linear map of a padded row."""
    offset = torch.arange(-radius, radius + 1, device=sigma.device)
    kernel = torch.exp(-0.5 * (offset / sigma[:, None]) ** 2)
    # Far taps of a narrow kernel would be denormal numbers, which make CPU matrix products ten times slower.
    kernel = torch.where(kernel > 1e-12, kernel, 0)
    kernel = F.pad(kernel / kernel.sum(dim=1, keepdim=True), (size - 1, size - 1))
    # Row i of the windows starts with size - 1 - i zeros; flipping the rows gives the band matrix.
    return kernel.unfold(1, size + 2 * radius, 1).flip(1)


def along_both(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """rows · x · columns^T for each sample: B x S x H, B x C x H x W, B x T x W -> B x C x S x T."""
    b, c, h, w = x.shape
    x = (x.reshape(b, c * h, w) @ columns.mT).reshape(b, c, h, -1)
    return (x.mT.reshape(b, -1, h) @ rows.mT).reshape(b, c, -1, rows.shape[1]).mT
