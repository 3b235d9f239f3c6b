"""Views on a GPU, the whole batch at once: crop and blur are two small matrix products per sample.

All operations run on all samples and `torch.where` selects, because counting samples would synchronise the GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate

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
    solarise,
)
from mlssl.data.augment.parameters import Parameters


def augment(pixels: Tensor, p: Parameters, crop: int) -> Tensor:
    """uint8 B x 3 x H x W (see `padded`) -> normalised float B x 3 x S x S, S = `crop`.

    Boxes are those in `pixels`; all on one device. The memory format is channels_last, as in the encoders.
    """
    x = resized_crop(pixels, p.box, crop)
    x = (compiled(recolour) if x.is_cuda else recolour)(x, p.jitter, p.order, p.factors, p.gray)
    with tf32(x.device):
        blurred = gaussian_blur(x, p.sigma)
    x = torch.where(per_sample(p.blur), blurred, x)
    if p.solarise is not None:
        x = torch.where(per_sample(p.solarise), solarise(x), x)
    x = torch.where(per_sample(p.flip), x.flip(3), x)
    return normalise(x, out=torch.empty_like(x, memory_format=torch.channels_last))


def recolour(x: Tensor, jitter: Tensor, order: Tensor, factors: Tensor, gray: Tensor) -> Tensor:
    """Colour jitter, in each sample's own order, and grayscale."""
    for turn in range(len(JITTER)):
        changed = x
        for operation, adjust in enumerate(JITTER):
            chosen = jitter & (order[:, turn] == operation)
            changed = torch.where(per_sample(chosen), adjust(x, per_sample(factors[:, operation])), changed)
        x = changed
    return torch.where(per_sample(gray), luminance(x), x)


def padded(images: Sequence[Tensor], boxes: Sequence[Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    """uint8 images H x W x 3 -> B x 3 x H' x W' on `device`, and the origin of its pixels in the images.

    Of images in host memory, or of different sizes, only the rectangle around all their `boxes` (int64 B x 4 on the
    CPU, one tensor per view) is copied; what is to the right of it and below has any value. The origin is int64
    B x 4 on the CPU: to be subtracted from a box x, y, width, height.
    """
    origin = torch.zeros(len(images), 4, dtype=torch.int64)
    here = images[0].device
    if here.type == device.type and all(image.shape == images[0].shape for image in images):
        return torch.stack(list(images)).permute(0, 3, 1, 2), origin
    origin[:, :2] = torch.stack([box[:, :2] for box in boxes]).amin(dim=0)
    end = torch.stack([box[:, :2] + box[:, 2:] for box in boxes]).amax(dim=0)
    width, height = (end - origin[:, :2]).amax(dim=0).tolist()
    staged = here.type == "cpu" and device.type == "cuda"
    # Not zeroed: the weights of `resize_matrix` outside a box are zero.
    canvas = torch.empty((len(images), height, width, 3), dtype=torch.uint8, device=here, pin_memory=staged)
    for place, image, (x0, y0), (x1, y1) in zip(canvas, images, origin[:, :2].tolist(), end.tolist(), strict=True):
        place[: y1 - y0, : x1 - x0] = image[y0:y1, x0:x1]
    return canvas.to(device, non_blocking=True).permute(0, 3, 1, 2), origin


def upload(tensors: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """CPU tensors on a device, by one copy and without waiting; they share its memory."""
    sizes = [x.numel() * x.element_size() for x in tensors]
    starts = [0, *accumulate(-(-size // 8) * 8 for size in sizes)]  # aligned for every dtype
    packed = torch.empty(starts[-1], dtype=torch.uint8, pin_memory=device.type == "cuda")

    def inside(buffer: Tensor) -> list[Tensor]:
        parts = zip(tensors, sizes, starts, strict=False)
        return [buffer[at : at + size].view(x.dtype).view(x.shape) for x, size, at in parts]

    for place, x in zip(inside(packed), tensors, strict=True):
        place.copy_(x)
    return inside(packed.to(device, non_blocking=True))


@contextmanager
def tf32(device: torch.device) -> Iterator[None]:
    """Let float32 matrix products on a GPU round their factors to 11 bits: bytes of pixels have 8."""
    if device.type != "cuda":
        yield
        return
    matmul = torch.backends.cuda.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, "tf32"
    try:
        yield
    finally:
        matmul.fp32_precision = before


def resized_crop(images: Tensor, box: Tensor, size: int) -> Tensor:
    """Crop each image to its box and resize to size x size: bilinear, anti-aliased.

    uint8 B x 3 x H x W (smaller images padded to the right and below), boxes B x 4 -> float B x 3 x S x S in 0..1.
    """
    rows = resize_matrix(box[:, 1], box[:, 3], images.shape[2], size)
    columns = resize_matrix(box[:, 0], box[:, 2], images.shape[3], size)
    with tf32(images.device):
        return along_both(images.to(rows.dtype), rows / 255, columns).clamp_(0, 1)


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
