"""Views on a GPU, the whole batch at once: crop and blur are two small matrix products per sample.

All operations run on all samples and `torch.where` selects, because counting samples would synchronise the GPU.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mlssl.data.augment.operations import (
    JITTER,
    along_both,
    compiled,
    gaussian_blur,
    luminance,
    normalise,
    per_sample,
)
from mlssl.data.augment.parameters import Parameters


def augment(pixels: Tensor, p: Parameters, crop: int) -> Tensor:
    """uint8 B x 3 x H x W (see `padded`) -> normalised float B x 3 x S x S, S = `crop`; all on one device."""
    x = resized_crop(pixels, p.box, crop)
    x = (compiled(recolour) if x.is_cuda else recolour)(x, p.jitter, p.order, p.factors, p.gray)
    x = torch.where(per_sample(p.blur), gaussian_blur(x, p.sigma), x)
    x = torch.where(per_sample(p.flip), x.flip(3), x)
    return normalise(x, out=x)


def recolour(x: Tensor, jitter: Tensor, order: Tensor, factors: Tensor, gray: Tensor) -> Tensor:
    """Colour jitter, in each sample's own order, and grayscale."""
    for turn in range(len(JITTER)):
        changed = x
        for operation, adjust in enumerate(JITTER):
            chosen = jitter & (order[:, turn] == operation)
            changed = torch.where(per_sample(chosen), adjust(x, per_sample(factors[:, operation])), changed)
        x = changed
    return torch.where(per_sample(gray), luminance(x), x)


def padded(images: Sequence[Tensor], device: torch.device) -> Tensor:
    """uint8 images H x W x 3 -> B x 3 x H x W on `device`, smaller ones padded to the right and below."""
    if all(image.shape == images[0].shape for image in images) and images[0].device == device:
        return torch.stack(list(images)).permute(0, 3, 1, 2)
    height, width = (max(image.shape[side] for image in images) for side in (0, 1))
    staged = images[0].device.type == "cpu" and device.type == "cuda"
    shape, here = (len(images), height, width, 3), images[0].device
    canvas = torch.zeros(shape, dtype=torch.uint8, device=here, pin_memory=staged)
    for place, image in zip(canvas, images, strict=True):
        place[: image.shape[0], : image.shape[1]] = image
    return canvas.to(device, non_blocking=True).permute(0, 3, 1, 2)


def parameters_on(p: Parameters, device: torch.device) -> Parameters:
    """Copy parameters to a device, without synchronising."""
    return Parameters(**{name: upload(column, device) for name, column in vars(p).items()})


def upload(x: Tensor, device: torch.device) -> Tensor:
    """`x` on a device, without synchronising."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


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
