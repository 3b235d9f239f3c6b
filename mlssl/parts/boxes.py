"""Boxes in a view: carried to the image and to other views through crop and flip, and pooled from a map.

In a view, a box is left, top, right, bottom as shares of the view's sides, left where it is seen; in the image, it
is the same in pixels of the stored image. All are B x n x 4, n boxes for each image of a batch.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import roi_align

from mlssl.parts.view import View


def to_image(boxes: Tensor, view: View) -> Tensor:
    """Boxes of a view in the image. `boxes` may be n x 4, the same for every image."""
    corner, size = _corner_and_size(view)
    return mirrored(boxes.expand(len(view.box), -1, -1), view.flip) * size + corner


def to_view(boxes: Tensor, view: View) -> Tensor:
    """Boxes of the image in a view; what is outside of it has shares below 0 or above 1."""
    corner, size = _corner_and_size(view)
    return mirrored((boxes - corner) / size, view.flip)


def mirrored(boxes: Tensor, flip: Tensor) -> Tensor:
    """Boxes in shares, those of the images with `flip` (bool B) from right to left."""
    left, top, right, bottom = boxes.unbind(-1)
    return torch.where(flip[:, None, None], torch.stack([1 - right, top, 1 - left, bottom], dim=-1), boxes)


def pooled(maps: Tensor, boxes: Tensor, size: int, samples: int) -> Tensor:
    """RoIAlign, aligned: maps B x C x S x S and boxes of the view -> B x n x C x size x size.

    `samples` is the number of samples per bin and direction.
    """
    images, n = boxes.shape[:2]
    number = torch.arange(images, dtype=maps.dtype, device=maps.device).repeat_interleave(n)
    rows = torch.cat([number[:, None], boxes.flatten(0, 1).to(maps.dtype) * maps.shape[-1]], dim=1)
    return roi_align(maps, rows, size, sampling_ratio=samples, aligned=True).unflatten(0, (images, n))


def _corner_and_size(view: View) -> tuple[Tensor, Tensor]:
    """x, y, x, y and w, h, w, h of the crop, B x 1 x 4."""
    corner, size = view.box[:, None, :2].float(), view.box[:, None, 2:].float()
    return torch.cat([corner, corner], dim=2), torch.cat([size, size], dim=2)
