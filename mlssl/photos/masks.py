"""Recognise masks beside photos: label images of a segmentation, which are no photos."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from mlssl.data.images import SUFFIXES as PHOTO_SUFFIXES
from mlssl.photos.matching import STEM

SUFFIXES = (".bmp", ".gif", ".png", ".tif", ".tiff")
"""Formats without loss, as masks need."""
LOSSY = (".jpg", ".jpeg")
BLACK, BLACK_OR_WHITE = 16, 0.95
"""Farthest value from 0 or 255 of 8 bits that is black or white; least share of them in a mask that is a JPEG."""
MAX_VALUES = 64
"""Most values or colours of a mask; a photo has more."""
PHOTO_MARK = re.compile(r"_leftimg8bit$")
MASK_MARK = re.compile(
    r"[-_. ]((gtfine|gtcoarse)_)?(l|lbl|labels?|label_?(train)?ids?|instance_?ids?|colou?r|color_?mask|masks?"
    r"|seg|segmentation|segm|semantic|instances?|gt|ground_?truth|annotations?|trimap|matte|alpha)([-_ ]?\d+)?$",
    re.IGNORECASE,
)
"""What tools append to a photo's stem."""
MASK_PREFIX = re.compile(r"^(masks?|labels?|seg|gt)[-_]", re.IGNORECASE)
"""What tools write before a photo's stem."""


def unmarked(stem: str) -> str:
    """The stem of a mask's photo: without what tools append or write before it, and without a photo's suffix."""
    base = MASK_PREFIX.sub("", MASK_MARK.sub("", stem))
    return base.rpartition(".")[0] if base.lower().endswith(PHOTO_SUFFIXES) else base


def find_masks(paths: Mapping[str, Path]) -> dict[str, str]:
    """The masks among images, and of each the photo that has its stem; `paths` are by name below the folder.

    A mask is an image in a format without loss with at most MAX_VALUES values or colours, whose stem, with or
    without a mark such as `_mask` or `_labelIds`, is that of another image that has more, and the same ratio of
    its sides. With such a mark, a JPEG that is almost only black and white is a mask too.
    Only images that share their stem with another are opened.
    """
    by_stem: dict[str, list[str]] = defaultdict(list)
    exact: dict[str, str] = {}
    for name in paths:
        exact[name] = PHOTO_MARK.sub("", STEM.key(name))
        by_stem[exact[name]].append(name)
    twins: dict[str, list[str]] = {}
    for name, stem in exact.items():
        base = unmarked(stem)
        if name.lower().endswith(SUFFIXES) or (name.lower().endswith(LOSSY) and base != stem):
            same = [other for other in by_stem[stem] if other != name]
            same += by_stem.get(base, []) if base != stem else []
            if same:
                twins[name] = same
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        few = dict(zip(twins, pool.map(lambda name: has_few_values(paths[name]), twins), strict=True))
    masks = {}
    for name, same in twins.items():
        if few[name]:
            photo = next((other for other in same if not few.get(other) and fits(paths[name], paths[other])), None)
            if photo is not None:
                masks[name] = photo
    return masks


def has_few_values(path: Path) -> bool:
    """Whether an image has at most MAX_VALUES values or colours; False if it cannot be read.

    Compression blurs the edges of a JPEG's values, so that one is recognised if it is black and white.
    """
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image)
    except Exception:  # `read_image` says what is wrong with it.
        return False
    if path.suffix.lower() in LOSSY:
        return bool(((pixels <= BLACK) | (pixels >= 255 - BLACK)).mean() >= BLACK_OR_WHITE)
    if pixels.ndim == 2:
        return len(np.unique(pixels)) <= MAX_VALUES
    colours = pixels.reshape(-1, pixels.shape[2]).astype(np.uint32) @ (
        256 ** np.arange(pixels.shape[2], dtype=np.uint32)
    )
    return len(np.unique(colours)) <= MAX_VALUES


def fits(mask: Path, photo: Path) -> bool:
    """Whether two images have the same ratio of sides, within 2 %, turned or not; False if unreadable."""
    try:
        with Image.open(mask) as one, Image.open(photo) as other:
            (w, h), (width, height) = one.size, other.size
    except Exception:  # `read_image` says what is wrong with it.
        return False
    return any(abs(w * b / (h * a) - 1) <= 0.02 for a, b in ((width, height), (height, width)))
