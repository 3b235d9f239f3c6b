"""MoCo-v2's augmentation of whole batches, each sample with its own parameters.

Parameters are drawn first (`draw`, on the CPU, from one seed), then applied (`apply`, on the images' device).
Crop, flip and blur are linear maps along rows and columns, so each is two small matrix products per sample;
colours follow torchvision's definitions. The order is MoCo-v2's: crop, jitter, grayscale, blur, flip.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from mlssl.config import Views
from mlssl.parts.view import View

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet's, per RGB channel on a 0..1 scale, as every recipe here uses."""

BLUR_TAPS = 23
"""Taps of the Gaussian kernel, as in SimCLR at 224 px; fewer where the crop is smaller."""


@dataclass(frozen=True)
class Parameters:
    """What happens to each of B samples. Probabilities have been decided: `jitter`, `gray`, `blur` and `flip`."""

    box: Tensor
    """int64 B x 4: x, y, width, height in pixels of the image."""
    flip: Tensor
    jitter: Tensor
    order: Tensor
    """int64 B x 4: a permutation of 0 brightness, 1 contrast, 2 saturation, 3 hue."""
    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    hue: Tensor
    gray: Tensor
    blur: Tensor
    sigma: Tensor

    def to(self, device: torch.device) -> Parameters:
        return Parameters(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def draw(sizes: Tensor, views: Views, generator: torch.Generator) -> Parameters:
    """Draw parameters for images of `sizes` (int64 B x 2: height, width), on the CPU."""
    b = len(sizes)

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(b).uniform_(low, high, generator=generator)

    def happens(p: float) -> Tensor:
        return torch.rand(b, generator=generator) < p

    def factor(strength: float) -> Tensor:
        return uniform(max(0.0, 1 - strength), 1 + strength)

    return Parameters(
        box=crop_boxes(sizes, views.scale, views.ratio, generator),
        flip=happens(views.flip_p),
        jitter=happens(views.jitter_p),
        order=torch.rand(b, 4, generator=generator).argsort(dim=1),
        brightness=factor(views.brightness),
        contrast=factor(views.contrast),
        saturation=factor(views.saturation),
        hue=uniform(-views.hue, views.hue),
        gray=happens(views.grayscale_p),
        blur=happens(views.blur_p),
        sigma=uniform(*views.blur_sigma),
    )


def crop_boxes(
    sizes: Tensor, scale: tuple[float, float], ratio: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """RandomResizedCrop's boxes, int64 B x 4 (x, y, width, height), with torchvision's distribution.

    Of ten tries the first that fits is taken; if none does, the largest central crop within `ratio`.
    """
    b, tries = len(sizes), 10
    height, width = sizes[:, :1].double(), sizes[:, 1:].double()
    rand = torch.rand(4, b, tries, generator=generator, dtype=torch.float64)
    area = height * width * (scale[0] + rand[0] * (scale[1] - scale[0]))
    low, high = torch.tensor(ratio, dtype=torch.float64).log()
    aspect = torch.exp(low + rand[1] * (high - low))
    w, h = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
    x, y = (rand[2] * (width - w + 1)).floor(), (rand[3] * (height - h + 1)).floor()
    first = fits.double().argmax(dim=1, keepdim=True)
    box = torch.stack([t.gather(1, first) for t in (x, y, w, h)], dim=2)[:, 0]

    height, width = height[:, 0], width[:, 0]
    w = torch.where(width / height > ratio[1], (height * ratio[1]).round(), width)
    h = torch.where(width / height < ratio[0], (width / ratio[0]).round(), height)
    central = torch.stack([((width - w) / 2).round(), ((height - h) / 2).round(), w, h], dim=1)
    return torch.where(fits.any(dim=1, keepdim=True), box, central).long()


def apply(images: Tensor, p: Parameters, crop: int) -> Tensor:
    """uint8 B x 3 x H x W (smaller images padded to the right and below) -> normalised float B x 3 x S x S."""
    x = resized_crop(images, p.box, crop)
    x = color_jitter(x, p)
    x = change(x, p.gray, lambda x, _: luminance(x).expand_as(x))
    x = change(x, p.blur, lambda x, i: gaussian_blur(x, p.sigma[i]))
    x = change(x, p.flip, lambda x, _: x.flip(3))
    return x.sub_(x.new_tensor(MEAN)[:, None, None]).div_(x.new_tensor(STD)[:, None, None])


def make_view(images: Tensor, sizes: Tensor, index: Tensor, views: Views, generator: torch.Generator) -> View:
    """One random view of each image: `images` uint8 B x 3 x H x W, `sizes` B x 2, `index` B (CPU tensors)."""
    p = draw(sizes, views, generator).to(images.device)
    return View(apply(images, p, views.crop), index.to(images.device), p.box, p.flip)


def resized_crop(images: Tensor, box: Tensor, size: int) -> Tensor:
    """Crop each image to its box and resize to size x size: bilinear, anti-aliased; float in 0..1."""
    rows = resize_matrix(box[:, 1], box[:, 3], images.shape[2], size)
    columns = resize_matrix(box[:, 0], box[:, 2], images.shape[3], size)
    return along_both(images.to(rows.dtype), rows / 255, columns).clamp(0, 1)


def along_both(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """rows · x · columns^T for each sample: B x S x H, B x C x H x W, B x T x W -> B x C x S x T."""
    b, c, h, w = x.shape
    x = (x.reshape(b, c * h, w) @ columns.mT).reshape(b, c, h, -1)
    return (x.mT.reshape(b, -1, h) @ rows.mT).reshape(b, c, -1, rows.shape[1]).mT


def resize_matrix(start: Tensor, length: Tensor, extent: int, size: int) -> Tensor:
    """B x size x extent: row i holds the weights with which output pixel i gathers the inputs of the crop.

    The triangle filter of PIL and torchvision's `antialias=True`: as wide as an output pixel where the crop
    shrinks, one input pixel where it grows; weights outside the crop are zero and the rest sum to one.
    """
    scale = (length / size)[:, None, None]
    support = scale.clamp(min=1)
    centre = start[:, None, None] + (torch.arange(size, device=start.device)[:, None] + 0.5) * scale
    pixel = torch.arange(extent, device=start.device) + 0.5
    weight = (1 - (pixel - centre).abs() / support).clamp(min=0)
    inside = (pixel > start[:, None, None]) & (pixel < (start + length)[:, None, None])
    weight = weight * inside
    return weight / weight.sum(dim=2, keepdim=True)


def color_jitter(x: Tensor, p: Parameters) -> Tensor:
    """Brightness, contrast, saturation and hue, in each sample's own order; x float B x 3 x S x S in 0..1.

    May write into x, as `change` does.
    """
    steps = (
        lambda x, i: adjust_brightness(x, p.brightness[i]),
        lambda x, i: adjust_contrast(x, p.contrast[i]),
        lambda x, i: adjust_saturation(x, p.saturation[i]),
        lambda x, i: adjust_hue(x, p.hue[i]),
    )
    for turn in range(4):
        for operation, step in enumerate(steps):
            x = change(x, p.jitter & (p.order[:, turn] == operation), step)
    return x


def change(x: Tensor, chosen: Tensor, how: Callable[[Tensor, Tensor | slice], Tensor]) -> Tensor:
    """`x` with `how(x[i], i)` in place of the samples i that are chosen (bool B); may write into x.

    A GPU changes all and selects, since knowing how many are chosen would halt it; a CPU changes only those.
    """
    if x.is_cuda:
        return torch.where(_per_sample(chosen), how(x, slice(None)), x)
    i = chosen.nonzero()[:, 0]
    return x.index_copy_(0, i, how(x[i], i))


def adjust_brightness(x: Tensor, factor: Tensor) -> Tensor:
    return (x * _per_sample(factor)).clamp(0, 1)


def adjust_contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Blend with the mean gray of the image."""
    mean = luminance(x).mean(dim=(1, 2, 3), keepdim=True)
    return mean.lerp(x, _per_sample(factor)).clamp(0, 1)


def adjust_saturation(x: Tensor, factor: Tensor) -> Tensor:
    """Blend with the image's grayscale."""
    return luminance(x).lerp(x, _per_sample(factor)).clamp(0, 1)


def adjust_hue(x: Tensor, shift: Tensor) -> Tensor:
    """Turn the hue by `shift` (in turns, -0.5 .. 0.5), through HSV."""
    value, minimum = x.amax(dim=1), x.amin(dim=1)
    chroma = value - minimum
    r, g, b = x.unbind(dim=1)
    safe = torch.where(chroma > 0, chroma, 1)
    hue = torch.where(value == r, (g - b) / safe, torch.where(value == g, 2 + (b - r) / safe, 4 + (r - g) / safe))
    hue = torch.where(chroma > 0, hue, 0) + 6 * shift[:, None, None]
    # Each channel is value - chroma * clamp(min(k, 4 - k), 0, 1), k = (n + hue) mod 6, n = 5, 3, 1.
    k = (hue[:, None] + hue.new_tensor([5.0, 3.0, 1.0])[:, None, None]) % 6
    return value[:, None] - chroma[:, None] * torch.minimum(k, 4 - k).clamp(0, 1)


def luminance(x: Tensor) -> Tensor:
    """B x 3 x S x S -> B x 1 x S x S, ITU-R 601-2 luma as torchvision takes it."""
    return (0.2989 * x[:, :1]).add_(x[:, 1:2], alpha=0.587).add_(x[:, 2:], alpha=0.114)


def gaussian_blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Blur each sample with its own sigma (pixels of the crop); borders are mirrored."""
    matrix = blur_matrix(sigma, x.shape[-1])
    return along_both(x, matrix, matrix)


def blur_matrix(sigma: Tensor, size: int) -> Tensor:
    """B x size x size: the Gaussian kernel of each sample as a linear map, reflecting at the borders."""
    radius = min(BLUR_TAPS // 2, size - 1)
    offset = torch.arange(-radius, radius + 1, device=sigma.device)
    kernel = torch.exp(-0.5 * (offset / sigma[:, None]) ** 2)
    # Far taps of a narrow kernel would be denormal numbers, which slow a CPU's matrix products tenfold.
    kernel = torch.where(kernel > 1e-12, kernel, 0)
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    source = torch.arange(size, device=sigma.device)[:, None] + offset
    source = source.abs()
    source = torch.where(source >= size, 2 * (size - 1) - source, source)
    matrix = sigma.new_zeros(len(sigma), size, size)
    return matrix.scatter_add_(2, source.expand(len(sigma), -1, -1), kernel[:, None].expand(-1, size, -1))


def _per_sample(values: Tensor) -> Tensor:
    return values[:, None, None, None]
