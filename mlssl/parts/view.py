"""A view: output of the augmentation and input of a method."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class View(NamedTuple):
    """One augmented view of each image of a batch, with its image and crop box."""

    pixels: Tensor
    """float B x 3 x S x S, normalised."""
    image: Tensor
    """int64 B, index of the image in the dataset."""
    box: Tensor
    """int64 B x 4, the crop in pixels of the stored image: x, y, width, height."""
    flip: Tensor
    """bool B, whether flipped horizontally after cropping."""
    proposals: Tensor | None = None
    """float B x K x 4, for a method that trains on proposals: boxes of the image, the same in all its views. Left,
    top, right, bottom in pixels of the stored image (`parts.boxes.to_view`); 0, 0, 0, 0 where there is none."""
