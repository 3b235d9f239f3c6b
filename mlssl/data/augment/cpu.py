"""Views on a CPU, in pieces that fit into its cache: large crops one by one, several small crops at a time.

Crops are made by PyTorch's uint8 kernel. A sample gets only the operations that were drawn for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mlssl.data.augment.operations import (
    BLUR_TAPS,
    JITTER,
    blur_matrix,
    compiled,
    gaussian_blur,
    luminance,
    normalise,
    per_sample,
    solarise,
)
from mlssl.data.augment.parameters import Parameters

CHUNK = 2**18
"""Pixels per chunk, so that the crops stay in the cache."""
MIN_PER_CHUNK = 8
"""If fewer crops than this fit into a chunk, they are processed one by one."""


def augment(images: Sequence[Tensor], p: Parameters, crop: int) -> Tensor:
    """uint8 images H x W x 3, each of its own size -> normalised float B x 3 x S x S, S = `crop`."""
    return in_chunks(images, p, crop) if MIN_PER_CHUNK * crop**2 <= CHUNK else one_by_one(images, p, crop)


def one_by_one(images: Sequence[Tensor], p: Parameters, crop: int) -> Tensor:
    """`augment` for large crops: each image is finished while it is in the cache."""
    out = torch.empty(len(images), 3, crop, crop)
    drawn = {name: column.tolist() for name, column in p.columns().items()}
    solarised = drawn.get("solarise", [False] * len(images))
    adjust = [compiled(operation) for operation in JITTER]
    with torch.inference_mode():
        for i, image in enumerate(images):
            x = crop_resized(image, drawn["box"][i], crop).float().div_(255)
            for operation in drawn["order"][i] if drawn["jitter"][i] else ():
                x = adjust[operation](x, p.factors[i : i + 1, operation, None, None, None])
            if drawn["gray"][i]:
                x = luminance(x).expand_as(x)
            if drawn["blur"][i]:
                x = blur_one(x, drawn["sigma"][i])
            if solarised[i]:
                x = solarise(x)
            if drawn["flip"][i]:
                x = x.flip(3)
            normalise(x, out=out[i : i + 1])
    return out


def in_chunks(images: Sequence[Tensor], p: Parameters, crop: int) -> Tensor:
    """`augment` for small crops: the images of a chunk share each operation, which saves calls."""
    out = torch.empty(len(images), 3, crop, crop)
    boxes, size = p.box.tolist(), CHUNK // crop**2
    with torch.inference_mode():
        for first in range(0, len(images), size):
            chunk = slice(first, first + size)
            pairs = zip(images[chunk], boxes[chunk], strict=True)
            x = torch.cat([crop_resized(image, box, crop) for image, box in pairs]).float().div_(255)
            drawn = p.part(chunk)
            for operation, chosen in jitter_turns(drawn):
                replace(chosen, JITTER[operation], per_sample(drawn.factors[:, operation]), out=x)
            replace(indices(drawn.gray), lambda x: luminance(x).expand_as(x), out=x)
            replace(indices(drawn.blur), gaussian_blur, drawn.sigma, out=x)
            if drawn.solarise is not None:
                replace(indices(drawn.solarise), solarise, out=x)
            replace(indices(drawn.flip), lambda x: x.flip(3), out=x)
            normalise(x, out=out[chunk])
    return out


def jitter_turns(p: Parameters) -> Iterator[tuple[int, list[int]]]:
    """The colour jitter as a sequence of (operation, samples that get it next)."""
    jittered, order = indices(p.jitter), p.order.tolist()
    for turn in range(len(JITTER)):
        for operation in range(len(JITTER)):
            yield operation, [i for i in jittered if order[i][turn] == operation]


def indices(flags: Tensor) -> list[int]:
    return [i for i, flag in enumerate(flags.tolist()) if flag]


def replace(chosen: list[int], operation: Callable[..., Tensor], *arguments: Tensor, out: Tensor) -> None:
    """Replace the samples i in `chosen` of `out` by `operation(out[i], argument[i], ...)`."""
    if len(chosen) == len(out):
        out.copy_(operation(out, *arguments))
    elif chosen:
        i = torch.tensor(chosen)
        out.index_copy_(0, i, operation(out[i], *(argument[i] for argument in arguments)))


def crop_resized(image: Tensor, box: tuple[int, int, int, int], size: int) -> Tensor:
    """One image, uint8 H x W x 3, cropped to box (x, y, width, height) -> uint8 1 x 3 x size x size.

    PyTorch's uint8 CPU kernel: bilinear, anti-aliased and, like PIL, rounded to 1/255.
    """
    x, y, w, h = box
    cropped = image[y : y + h, x : x + w].permute(2, 0, 1)[None]
    return F.interpolate(cropped, size=(size, size), mode="bilinear", antialias=True)


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
