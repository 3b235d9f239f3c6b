"""The random parameters of the augmentation: per image, drawn on the CPU from one seed, for every device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mlssl.study.settings import Views

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet's mean and standard deviation per RGB channel, on a 0..1 scale; views and transfers use them."""


@dataclass(frozen=True)
class Parameters:
    """Augmentation parameters of B samples; `jitter`, `gray`, `blur`, `solarise`, `flip` (bool B): whether to."""

    box: Tensor
    """int64 B x 4: x, y, width, height in pixels of the image."""
    flip: Tensor
    jitter: Tensor
    order: Tensor
    """int64 B x 4: a permutation of the jitter's operations, as `operations.JITTER` lists them."""
    factors: Tensor
    """float B x 4: the factor of each of these operations."""
    gray: Tensor
    blur: Tensor
    sigma: Tensor
    """float B: of the blur, in pixels of the crop."""
    solarise: Tensor | None = None
    """None where the view never is."""

    def columns(self) -> dict[str, Tensor]:
        """The parameters that there are, by name."""
        return {name: column for name, column in vars(self).items() if column is not None}

    def part(self, samples: slice) -> Parameters:
        """The parameters of a slice of the samples."""
        return Parameters(**{name: column[samples] for name, column in self.columns().items()})


def draw(sizes: Tensor, views: Views, generator: torch.Generator, earlier: Sequence[Parameters] = ()) -> Parameters:
    """Draw parameters for images of `sizes` (int64 B x 2: height, width), on the CPU.

    `earlier` are those of the views before, which `views.overlap` may refer to. The order in which parameters are
    drawn is part of the experiment: another order gives other views for a seed.
    """
    b = len(sizes)

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(b).uniform_(low, high, generator=generator)

    def happens(p: float) -> Tensor:
        return torch.rand(b, generator=generator) < p

    def factor(strength: float) -> Tensor:
        return uniform(max(0.0, 1 - strength), 1 + strength)

    box = crops(sizes, views, generator, earlier)
    flip, jitter = happens(views.flip_p), happens(views.jitter_p)
    order = torch.rand(b, 4, generator=generator).argsort(dim=1)
    brightness, contrast = factor(views.brightness), factor(views.contrast)
    saturation, hue = factor(views.saturation), uniform(-views.hue, views.hue)
    factors = torch.stack([brightness, contrast, saturation, hue], dim=1)
    gray, blur = happens(views.grayscale_p), happens(views.blur_p)
    sigma = uniform(*views.blur_sigma)
    solarise = happens(views.solarise_p) if views.solarise_p else None
    return Parameters(box, flip, jitter, order, factors, gray, blur, sigma, solarise)


def crops(sizes: Tensor, views: Views, generator: torch.Generator, earlier: Sequence[Parameters] = ()) -> Tensor:
    """The crops alone that `draw` begins with: int64 B x 4, x, y, width, height."""
    box = crop_boxes(sizes, views.scale, views.ratio, generator)
    if views.overlap:
        box = overlapping(box, earlier[views.overlap_view - 1].box, sizes, views, generator)
    return box


def overlapping(
    box: Tensor, other: Tensor, sizes: Tensor, views: Views, generator: torch.Generator, tries: int = 10
) -> Tensor:
    """The boxes, int64 B x 4, redrawn until a share `views.overlap` of the area lies in `other`, its view's boxes.

    The eleventh is taken as it is, as in SlotCon (arXiv 2205.15288) and the constrained crops of kNN-MoCo
    (arXiv 2106.05967).
    """
    for _ in range(tries):
        again = crop_boxes(sizes, views.scale, views.ratio, generator)
        enough = intersection(box, other) >= views.overlap * box[:, 2] * box[:, 3]
        box = torch.where(enough[:, None], box, again)
    return box


def intersection(a: Tensor, b: Tensor) -> Tensor:
    """Area in which boxes (x, y, width, height) overlap: … x 4 twice -> …."""
    low = torch.maximum(a[..., :2], b[..., :2])
    high = torch.minimum(a[..., :2] + a[..., 2:], b[..., :2] + b[..., 2:])
    return (high - low).clamp(min=0).prod(dim=-1)


def crop_boxes(
    sizes: Tensor, scale: tuple[float, float], ratio: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """RandomResizedCrop's boxes, int64 B x 4 (x, y, width, height), with torchvision's distribution.

    The first of ten tries that fits is used; if none fits, the largest central crop within `ratio`.
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
