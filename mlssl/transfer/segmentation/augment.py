"""Random scale, crop, flip and colours of a training image and its mask."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2.functional import adjust_hue

from mlssl.data.augment.parameters import MEAN
from mlssl.data.semantic import IGNORE
from mlssl.study.settings import Segmentation
from mlssl.transfer.load import resize

SCALE = (0.5, 2.0)
"""Range of the random scale in training."""
TRIES = 10
"""Crops drawn to find one in which no class covers too much."""
BRIGHTNESS, CONTRAST, SATURATION, HUE = 32, (0.5, 1.5), (0.5, 1.5), 18
"""Of SSD's photometric distortion: largest change, factors, factors, largest change in half degrees."""


def augment(image: Tensor, mask: Tensor, size: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random scale, crop and horizontal flip, the same for image and mask.

    uint8 3 x H x W and H x W to 3 x size x size and size x size. The image is resized to a square whose
    side is 0.5 to 2 times `size`, then cropped; a smaller one is padded with the mean colour and IGNORE.
    """
    side = round(size * uniform(SCALE, rng))
    image = resize(image, side)
    mask = F.interpolate(mask[None, None], size=(side, side), mode="nearest-exact")[0, 0]
    top, left = (int(torch.randint(abs(side - size) + 1, (), generator=rng)) for _ in range(2))
    if side >= size:
        image, mask = (v[..., top : top + size, left : left + size] for v in (image, mask))
    else:
        image, mask = padded(image, mask, (size, size), (top, left))
    if torch.rand((), generator=rng) < 0.5:
        image, mask = image.flip(-1), mask.flip(-1)
    return image, mask


def augment_within(
    image: Tensor, mask: Tensor, config: Segmentation, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Random scale, crop, flip and colours as mmsegmentation's: the aspect ratio is kept.

    uint8 3 x H x W and H x W to 3 x size x width and size x width (`crop_of`). The image is resized within 0.5 to 2
    times `config.scale`; one that is smaller than the crop is padded below and on the right.
    """
    assert config.scale is not None
    factor = uniform(SCALE, rng)
    image = resize_within(image, (int(config.scale[0] * factor), int(config.scale[1] * factor)))
    mask = F.interpolate(mask[None, None], size=image.shape[1:], mode="nearest")[0, 0]
    height, width = crop_of(config)
    for _ in range(TRIES + 1):
        top, left = (
            int(torch.randint(max(extent - crop, 0) + 1, (), generator=rng))
            for extent, crop in zip(mask.shape, (height, width), strict=True)
        )
        cropped = mask[top : top + height, left : left + width]
        if config.largest_class == 1 or is_mixed(cropped, config.largest_class):
            break
    image = image[:, top : top + height, left : left + width]
    if torch.rand((), generator=rng) < 0.5:
        image, cropped = image.flip(-1), cropped.flip(-1)
    if config.photometric:
        image = distort(image, rng)
    return padded(image, cropped, (height, width), (0, 0))


def crop_of(config: Segmentation) -> tuple[int, int]:
    """Height and width of the training crops."""
    return config.size, config.crop_width or config.size


def resize_within(image: Tensor, sides: tuple[int, int]) -> Tensor:
    """uint8 3 x H x W as large as fits into a long and a short side, the aspect ratio kept; bilinear."""
    height, width = image.shape[1:]
    factor = min(max(sides) / max(height, width), min(sides) / min(height, width))
    size = int(height * factor + 0.5), int(width * factor + 0.5)
    return image if size == (height, width) else F.interpolate(image[None], size=size, mode="bilinear")[0]


def is_mixed(mask: Tensor, largest: float) -> bool:
    """Whether a crop has two classes at least, of which none covers the share `largest` of its labelled pixels."""
    counts = torch.bincount(mask[mask != IGNORE].long())
    return int((counts > 0).sum()) > 1 and bool(counts.max() < largest * counts.sum())


def padded(
    image: Tensor, mask: Tensor, size: tuple[int, int], place: tuple[int, int]
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Image and mask at `place` (top, left) on a ground of `size` with the mean colour and IGNORE."""
    (height, width), (top, left) = mask.shape, place
    colour = (255 * torch.tensor(MEAN)).round().to(torch.uint8)
    canvas = colour[:, None, None].repeat(1, *size)
    labels = torch.full(size, IGNORE, dtype=torch.uint8)
    canvas[:, top : top + height, left : left + width] = image
    labels[top : top + height, left : left + width] = mask
    return canvas, labels


def distort(image: Tensor, rng: torch.Generator) -> Tensor:
    """SSD's photometric distortion (arXiv 1512.02325, section 2.2) of uint8 3 x H x W, as mmsegmentation's.

    Brightness, contrast, saturation and hue change with probability 0.5 each; contrast before the other two or
    after.
    """

    def drawn() -> bool:
        return bool(torch.rand((), generator=rng) < 0.5)

    if drawn():
        image = to_bytes(image + uniform((-BRIGHTNESS, BRIGHTNESS), rng))
    contrast_first = drawn()
    if contrast_first and drawn():
        image = to_bytes(image * uniform(CONTRAST, rng))
    if drawn():
        image = saturate(image, uniform(SATURATION, rng))
    if drawn():
        image = adjust_hue(image, int(torch.randint(-HUE, HUE, (), generator=rng)) / 180)
    if not contrast_first and drawn():
        image = to_bytes(image * uniform(CONTRAST, rng))
    return image


def saturate(image: Tensor, factor: float) -> Tensor:
    """uint8 3 x H x W with the saturation of HSV times `factor`, at most 1; hue and value are kept.

    In HSV the value V is the largest channel and the saturation is 1 - (smallest / V), so each channel's distance
    to V grows with the saturation.
    """
    x = image.float()
    value = x.amax(dim=0)
    saturation = 1 - x.amin(dim=0) / value.clamp_min(1)
    grown = torch.minimum(torch.tensor(factor), 1 / saturation.clamp_min(1e-6))
    return to_bytes(value - grown * (value - x))


def to_bytes(values: Tensor) -> Tensor:
    return values.round().clamp(0, 255).to(torch.uint8)


def uniform(limits: tuple[float, float], rng: torch.Generator) -> float:
    low, high = limits
    return low + (high - low) * float(torch.rand((), generator=rng))
