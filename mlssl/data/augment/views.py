"""MoCo-v2's augmentation from raw pixels, each sample with its own parameters.

Parameters are drawn first, on the CPU, from one seed, for every device. Then a CPU processes large views one by one
(`one_by_one`) and small views in chunks (`in_chunks`), so that they stay in its cache; a GPU processes the entire
batch at once (`batched`). The order is MoCo-v2's: crop, jitter, grayscale, blur, flip.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mlssl.data.augment import colour, warp
from mlssl.parts.view import View
from mlssl.study.settings import Views

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""ImageNet's mean and standard deviation per RGB channel, on a 0..1 scale; all configs use them."""

CHUNK = 2**18
"""Pixels per chunk on a CPU, so that the crops stay in its cache."""
TOGETHER = 8
"""If fewer crops than this fit into a chunk, they are processed one by one."""

JITTER = (colour.adjust_brightness, colour.adjust_contrast, colour.adjust_saturation, colour.adjust_hue)
"""The colour jitter's operations; `Parameters.order` and `factors` count them in this order."""


@dataclass(frozen=True)
class Parameters:
    """Augmentation parameters of B samples; `jitter`, `gray`, `blur` and `flip` (bool B): whether to apply it."""

    box: Tensor
    """int64 B x 4: x, y, width, height in pixels of the image."""
    flip: Tensor
    jitter: Tensor
    order: Tensor
    """int64 B x 4: a permutation of JITTER's operations."""
    factors: Tensor
    """B x 4: the factor of each of JITTER's operations."""
    gray: Tensor
    blur: Tensor
    sigma: Tensor

    def part(self, some: slice) -> Parameters:
        """The parameters of a slice of the samples."""
        return Parameters(**{name: column[some] for name, column in vars(self).items()})

    def to(self, device: torch.device) -> Parameters:
        """Copy to a device, without synchronising."""
        return Parameters(**{name: upload(column, device) for name, column in vars(self).items()})


def draw(sizes: Tensor, views: Views, generator: torch.Generator) -> Parameters:
    """Draw parameters for images of `sizes` (int64 B x 2: height, width), on the CPU."""
    b = len(sizes)

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(b).uniform_(low, high, generator=generator)

    def happens(p: float) -> Tensor:
        return torch.rand(b, generator=generator) < p

    def factor(strength: float) -> Tensor:
        return uniform(max(0.0, 1 - strength), 1 + strength)

    box, flip, jitter = (
        crop_boxes(sizes, views.scale, views.ratio, generator),
        happens(views.flip_p),
        happens(views.jitter_p),
    )
    order = torch.rand(b, 4, generator=generator).argsort(dim=1)
    factors = [factor(views.brightness), factor(views.contrast), factor(views.saturation)]
    factors = torch.stack([*factors, uniform(-views.hue, views.hue)], dim=1)
    gray, blur = happens(views.grayscale_p), happens(views.blur_p)
    return Parameters(box, flip, jitter, order, factors, gray, blur, sigma=uniform(*views.blur_sigma))


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


def make_views(
    images: Sequence[Tensor],
    index: Tensor,
    views: Views,
    rng: torch.Generator,
    device: torch.device,
    *,
    count: int = 2,
    part: slice = slice(None),
) -> list[View]:
    """`count` random views of each image, on `device`; a `part` gets the same views as in the full batch.

    `images` are uint8 H x W x 3, each of its own size; `index` (int64 B) has their indices in the dataset.
    """
    sizes = torch.tensor([image.shape[:2] for image in images])
    drawn = [draw(sizes, views, rng).part(part) for _ in range(count)]
    images, index = images[part], index[part]
    if device.type == "cpu":
        on_cpu = in_chunks if TOGETHER * views.crop**2 <= CHUNK else one_by_one
        return [View(on_cpu(images, p, views.crop), index, p.box, p.flip) for p in drawn]
    pixels, index = padded(images, device), upload(index, device)
    drawn = [p.to(device) for p in drawn]
    return [View(batched(pixels, p, views.crop), index, p.box, p.flip) for p in drawn]


def one_by_one(images: Sequence[Tensor], p: Parameters, crop: int) -> Tensor:
    """uint8 images H x W x 3 -> normalised float B x 3 x S x S, for large crops on a CPU.

    Each image is finished while it is in the cache, and gets only the operations that were drawn for it.
    """
    out = torch.empty(len(images), 3, crop, crop)
    drawn = {name: column.tolist() for name, column in vars(p).items()}
    adjust = [compiled(operation) for operation in JITTER]
    with torch.inference_mode():
        mean, std = out.new_tensor(MEAN)[:, None, None], out.new_tensor(STD)[:, None, None]
        for i, image in enumerate(images):
            x = warp.crop_resized(image, drawn["box"][i], crop).float().div_(255)
            for operation in drawn["order"][i] if drawn["jitter"][i] else ():
                x = adjust[operation](x, p.factors[i : i + 1, operation, None, None, None])
            if drawn["gray"][i]:
                x = colour.luminance(x).expand_as(x)
            if drawn["blur"][i]:
                x = warp.blur_one(x, drawn["sigma"][i])
            if drawn["flip"][i]:
                x = x.flip(3)
            torch.sub(x, mean, out=out[i : i + 1]).div_(std)
    return out


def in_chunks(images: Sequence[Tensor], p: Parameters, crop: int) -> Tensor:
    """uint8 images H x W x 3 -> normalised float B x 3 x S x S, for small crops on a CPU.

    Several images share each operation, which saves calls.
    """
    out = torch.empty(len(images), 3, crop, crop)
    boxes, size = p.box.tolist(), CHUNK // crop**2
    with torch.inference_mode():
        for first in range(0, len(images), size):
            chunk = slice(first, first + size)
            some = zip(images[chunk], boxes[chunk], strict=True)
            x = torch.cat([warp.crop_resized(image, box, crop) for image, box in some]).float().div_(255)
            finish(out[chunk], x, p.part(chunk))
    return out


def finish(out: Tensor, x: Tensor, p: Parameters) -> None:
    """Jitter, grayscale, blur, flip and normalise the crops, n x 3 x S x S, and write them to `out`."""
    for operation, chosen in jitters(p):
        x = change(x, chosen, lambda x, i, o=operation: JITTER[o](x, per_sample(p.factors[i, o])))
    x = change(x, where(p.gray), lambda x, _: colour.luminance(x).repeat(1, 3, 1, 1))
    x = change(x, where(p.blur), lambda x, i: warp.gaussian_blur(x, p.sigma[i]))
    x = change(x, where(p.flip), lambda x, _: x.flip(3))
    torch.sub(x, x.new_tensor(MEAN)[:, None, None], out=out).div_(x.new_tensor(STD)[:, None, None])


def jitters(p: Parameters) -> Iterator[tuple[int, list[int]]]:
    """The colour jitter as a sequence of (operation, samples that get it next)."""
    jittered, order = where(p.jitter), p.order.tolist()
    for turn in range(len(JITTER)):
        for operation in range(len(JITTER)):
            yield operation, [i for i in jittered if order[i][turn] == operation]


def where(chosen: Tensor) -> list[int]:
    return [i for i, yes in enumerate(chosen.tolist()) if yes]


def change(x: Tensor, chosen: list[int], how: Callable[[Tensor, Tensor | slice], Tensor]) -> Tensor:
    """`x` with the samples i in `chosen` replaced by `how(x[i], i)`; may change x in place."""
    if len(chosen) == len(x):
        return how(x, slice(None))
    if not chosen:
        return x
    i = torch.tensor(chosen)
    return x.index_copy_(0, i, how(x[i], i))


def batched(pixels: Tensor, p: Parameters, crop: int) -> Tensor:
    """uint8 B x 3 x H x W (smaller images padded to the right and below) -> normalised float B x 3 x S x S.

    All operations run on all samples and `where` selects, because counting the samples would synchronise the GPU.
    """
    x = warp.resized_crop(pixels, p.box, crop)
    x = (compiled(recolour) if x.is_cuda else recolour)(x, p.jitter, p.order, p.factors, p.gray)
    x = torch.where(per_sample(p.blur), warp.gaussian_blur(x, p.sigma), x)
    x = torch.where(per_sample(p.flip), x.flip(3), x)
    return x.sub_(x.new_tensor(MEAN)[:, None, None]).div_(x.new_tensor(STD)[:, None, None])


def recolour(x: Tensor, jitter: Tensor, order: Tensor, factors: Tensor, gray: Tensor) -> Tensor:
    """Colour jitter, in each sample's own order, and grayscale."""
    for turn in range(len(JITTER)):
        changed = x
        for operation, adjust in enumerate(JITTER):
            chosen = jitter & (order[:, turn] == operation)
            changed = torch.where(per_sample(chosen), adjust(x, per_sample(factors[:, operation])), changed)
        x = changed
    return torch.where(per_sample(gray), colour.luminance(x), x)


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


def upload(x: Tensor, device: torch.device) -> Tensor:
    """`x` on a device, without synchronising."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


def per_sample(values: Tensor) -> Tensor:
    """B -> B x 1 x 1 x 1."""
    return values[:, None, None, None]


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
