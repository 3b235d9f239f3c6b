"""Selective search (Uijlings et al., IJCV 2013) by OpenCV, and the filter of SoCo (arXiv 2106.02637).

Boxes are x, y, width, height in pixels of the image, int n x 4. Imports no torch.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np

from mlssl.errors import ConfigError
from mlssl.study.settings import Proposals

LEAST_SIDE = 1 / 15
"""Of the image's short side: 32 of 480 pixels, as published. Only boxes that the fallbacks keep are as thin."""
RULES = ("size and aspect", "aspect alone", "size alone", "whole image")
"""What an image's boxes were kept by: the first of these rules that leaves any."""


def library() -> ModuleType:
    """OpenCV's module of segmentations; ConfigError, with the remedy, where it is not installed."""
    try:
        import cv2

        return cv2.ximgproc.segmentation
    except (ImportError, AttributeError):  # the wheel without `contrib` has no `ximgproc`
        raise ConfigError(
            "proposals: selective_search needs opencv-contrib-python-headless, which is not installed; "
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

    One segmentation of HSV, whose regions are merged by colour, texture, size and fill (OpenCV's single strategy).
    """
    import cv2

    cv2.setNumThreads(1)
    found = library().createSelectiveSearchSegmentation()
    found.setBaseImage(np.ascontiguousarray(pixels[:, :, ::-1]))
    found.switchToSingleStrategy(config.k, config.sigma)
    return np.unique(found.process().reshape(-1, 4).astype(np.int64), axis=0)


def kept(boxes: np.ndarray, width: int, height: int, config: Proposals) -> tuple[np.ndarray, int]:
    """The boxes that pass the filter in an image of this size, and by which of RULES.

    Where none has both size and aspect, those of the aspect, else those of the size, else one box, the whole image.
    """
    w, h = boxes[:, 2].astype(float), boxes[:, 3].astype(float)
    wide = np.minimum(w, h) >= LEAST_SIDE * min(width, height)
    longest, shortest = np.maximum(w, h), np.maximum(np.minimum(w, h), 1)
    aspect = wide & (longest <= config.aspect * shortest)
    share = np.sqrt(w * h / (width * height))
    size = wide & (share >= config.size[0]) & (share <= config.size[1])
    for rule, passing in enumerate((size & aspect, aspect, size)):
        if passing.any():
            return boxes[passing], rule
    return np.array([[0, 0, width, height]]), len(RULES) - 1
