"""Selective search (Uijlings et al., IJCV 2013) by OpenCV, and the filters of SoCo (arXiv 2106.02637) and of ORL
(arXiv 2106.11952).

Boxes are x, y, width, height in pixels of the image, int n x 4. Imports no torch.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np

from mlssl.errors import ConfigError
from mlssl.study.settings import Proposals

RULES = ("size and aspect", "aspect alone", "size alone", "whole image")
"""What an image's boxes were kept by: the first of these rules that leaves any."""


def library() -> ModuleType:
    """OpenCV's module of segmentations; ConfigError, with the remedy, where it is not installed."""
    try:
        import cv2

        return cv2.ximgproc.segmentation
    except (ImportError, AttributeError):  # the wheel without `contrib` has no `ximgproc`
        raise ConfigError(
            "proposals: selective search needs opencv-contrib-python-headless, which is not installed; "
            "`pip uninstall opencv-python-headless`, if that is, and `pip install 'mlssl[proposals]'`"
        ) from None


def check(file: Path) -> None:
    """Raise ConfigError as `library` does if this file of proposals has to be made first."""
    if not file.exists():
        library()


def version() -> str:
    """The version of OpenCV."""
    library()
    import cv2

    return str(cv2.__version__)


def search(pixels: np.ndarray, config: Proposals) -> np.ndarray:
    """All boxes of an image, uint8 H x W x 3 RGB, each once and sorted.

    OpenCV's order, which depends on random numbers without a seed, is not kept.
    """
    import cv2

    cv2.setNumThreads(1)
    found = library().createSelectiveSearchSegmentation()
    found.setBaseImage(np.ascontiguousarray(pixels[:, :, ::-1]))
    if config.strategy == "single":
        found.switchToSingleStrategy(config.k, config.sigma)
    else:
        found.switchToSelectiveSearchFast(config.k, config.k, config.sigma)
    return np.unique(found.process().reshape(-1, 4).astype(np.int64), axis=0)


def kept(boxes: np.ndarray, width: int, height: int, config: Proposals) -> tuple[np.ndarray, int]:
    """The boxes that pass the filter in an image of this size, in their order, and by which of RULES.

    Where none has both size and aspect, those of the aspect, else those of the size, else one box, the whole image.
    """
    w, h = boxes[:, 2].astype(float), boxes[:, 3].astype(float)
    wide = np.minimum(w, h) >= config.least_side * min(width, height)
    longest, shortest = np.maximum(w, h), np.maximum(np.minimum(w, h), 1)
    aspect = wide & (longest <= config.aspect * shortest)
    share = np.sqrt(w * h / (width * height))
    size = wide & (share >= config.size[0]) & (share <= config.size[1])
    for rule, passing in enumerate((size & aspect, aspect, size)):
        if passing.any():
            return boxes[passing][apart(boxes[passing], config.most_overlap, config.at_most)], rule
    return np.array([[0, 0, width, height]]), len(RULES) - 1


def apart(boxes: np.ndarray, most_overlap: float, at_most: int | None) -> np.ndarray:
    """Which boxes to keep, bool n: the smallest first, each if its IoU with all before it is small, up to a number.

    In OpenCV's order small ones come first too, on average: by a region's number of merges times a random number.
    """
    taken: list[int] = []
    for i in np.argsort(boxes[:, 2] * boxes[:, 3], kind="stable"):
        if at_most is not None and len(taken) == at_most:
            break
        if most_overlap == 1 or (overlaps(boxes[i], boxes[taken]) <= most_overlap).all():
            taken.append(i)
    return np.isin(np.arange(len(boxes)), taken)


def overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of a box with each of others, float n."""
    low = np.maximum(box[:2], others[:, :2])
    high = np.minimum(box[:2] + box[2:], others[:, :2] + others[:, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=1)
    return shared / (box[2] * box[3] + others[:, 2] * others[:, 3] - shared)
