"""Anonymise people: in regions from a file, or in faces that a detector finds."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from mlssl.data.coco import decode
from mlssl.errors import ConfigError, DataError
from mlssl.photos.formats import PhotoLabels
from mlssl.photos.labels import placed

FACES = "faces"
WAYS = ("blur", "pixelate")
BLUR = 1 / 3
"""Standard deviation of the blur, as a fraction of the region's longer side."""
BLOCKS, BLOCK = 8, 8
"""Maximum blocks along the longer side; minimum side of a block in pixels."""
MARGIN = 0.25
"""Share of its side by which a detected face box grows on each side; the detector cuts off chin and hair."""


MIN_HIDDEN = 0.1
"""Minimum share of its box that a region hides, unless it is the mask of a crowd. Masks of persons in COCO cover
13 % of their box or more (343 persons)."""


class Region(NamedTuple):
    """A region to hide."""

    box: tuple[int, int, int, int]
    """x1, y1, x2, y2 in integer pixels."""
    mask: np.ndarray | None = None
    """bool H x W, of the image's size; None: the entire box."""


def regions_of(labels: PhotoLabels, width: int, height: int) -> list[Region]:
    """The regions of a photo, rounded outwards to integer pixels.

    Raises DataError as `placed` does, and for a region that hides nothing or less than MIN_HIDDEN of its box.
    """
    regions = []
    for i, found in enumerate(labels.objects, start=1):
        where = f"{labels.where}: region {i} of {len(labels.objects)}"
        people = placed(replace(labels, objects=[found]), width, height)
        given = _pixels(found.box, labels, width, height)
        if not people or min(given[2:]) < 1:
            raise DataError(
                f"{where} hides nothing, its box has {given[2]:g} x {given[3]:g} pixels; "
                "give its box in pixels, or remove it"
            )
        (person,) = people
        x, y, w, h = person["bbox"]
        box = _outwards(x, y, w, h, width, height)
        mask, hidden = None, w * h
        if person["segmentation"]:
            mask = _mask(person["segmentation"], height, width, labels.where)
            if mask.any():  # A mask may extend beyond its box; hide all of it.
                hidden = float(mask[box[1] : box[3], box[0] : box[2]].sum())
                ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
                box = (int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1)
            else:
                mask = None
        scattered = found.crowd and mask is not None
        if hidden < MIN_HIDDEN * given[2] * given[3] and not scattered:
            what = "the image has" if mask is None else "its mask hides"
            raise DataError(
                f"{where}: {what} {100 * hidden / (given[2] * given[3]):.1f} % of its box of {given[2]:g} x "
                f"{given[3]:g} pixels; correct it, or give the box without a mask, to hide all of it"
            )
        regions.append(Region(box, mask))
    return regions


def hide(pixels: np.ndarray, regions: Iterable[Region], how: str) -> np.ndarray:
    """A copy of an image, uint8 H x W x 3, with the regions anonymised; `how` is one of WAYS.

    `pixelate` keeps the means of at most 8 x 8 blocks, each at least 8 pixels wide. `blur` also blurs these blocks,
    with a standard deviation of a third of the region's longer side, which removes more detail.
    """
    pixels = pixels.copy()
    for (x1, y1, x2, y2), mask in regions:
        crop = Image.fromarray(pixels[y1:y2, x1:x2])
        longer = max(crop.size)
        block = max(BLOCK, math.ceil(longer / BLOCKS))
        few = (max(1, crop.width // block), max(1, crop.height // block))
        hidden = crop.resize(few, Image.Resampling.BOX).resize(crop.size, Image.Resampling.NEAREST)
        if how == "blur":
            hidden = hidden.filter(ImageFilter.GaussianBlur(max(BLUR * longer, BLOCK / 2)))
        inside = np.ones((y2 - y1, x2 - x1), dtype=bool) if mask is None else mask[y1:y2, x1:x2]
        pixels[y1:y2, x1:x2][inside] = np.asarray(hidden)[inside]
    return pixels


def find_faces(pixels: np.ndarray) -> list[Region]:
    """Faces found by OpenCV's Haar cascades (Viola and Jones 2001), frontal and both profiles.

    They detect upright faces of 20 pixels or more, and miss some. Raises ConfigError as `check_detector` does.
    """
    import cv2

    frontal, profile = _cascades()
    grey = cv2.equalizeHist(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))
    height, width = grey.shape
    boxes = [tuple(box) for box in frontal.detectMultiScale(grey, 1.1, 4, minSize=(20, 20))]
    boxes += [tuple(box) for box in profile.detectMultiScale(grey, 1.1, 4, minSize=(20, 20))]
    flipped = profile.detectMultiScale(np.ascontiguousarray(grey[:, ::-1]), 1.1, 4, minSize=(20, 20))
    boxes += [(width - x - w, y, w, h) for x, y, w, h in flipped]
    grown = []
    for x, y, w, h in boxes:
        dx, dy = math.ceil(MARGIN * w), math.ceil(MARGIN * h)
        grown.append(Region((max(x - dx, 0), max(y - dy, 0), min(x + w + dx, width), min(y + h + dy, height))))
    return grown


def check_detector() -> None:
    """Raise ConfigError, with the remedy, if no face detector is installed."""
    try:
        import cv2

        cv2.CascadeClassifier  # noqa: B018 (OpenCV 5 removed it)
        found = Path(cv2.data.haarcascades, "haarcascade_frontalface_default.xml").is_file()
    except (ImportError, AttributeError):
        found = False
    if not found:
        raise ConfigError(
            "people: 'faces' needs the detector that ships in opencv-python-headless 4; "
            "`pip install 'opencv-python-headless>=4.9,<5'`, or give a file of regions"
        )


def read_deny(path: Path | str, names: Iterable[str]) -> dict[str, str]:
    """The photos on a deny list, each with the line that matched it.

    A line is a file name, a path below the folder of photos, or a pattern of either with *, ? and [ ]; case is
    ignored, as are empty lines and lines that start with #. Raises DataError for a line that matches no photo,
    because a typo would let a photo through.
    """
    path, names = Path(path), list(names)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); give a readable text file of file names as deny"
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    denied: dict[str, str] = {}
    for i, line in enumerate(map(str.strip, lines), start=1):
        if not line or line.startswith("#"):
            continue
        pattern = line.replace("\\", "/").removeprefix("./").lower()
        low = ((name, name.lower()) for name in names)
        hits = [
            name
            for name, small in low
            if pattern in (small, small.rpartition("/")[2])
            or fnmatch.fnmatchcase(small, pattern)
            or fnmatch.fnmatchcase(small.rpartition("/")[2], pattern)
        ]
        if not hits:
            raise DataError(
                f"{path}: line {i}: '{line}' matches no photo; correct it, or remove it if the photo is gone"
            )
        denied.update(dict.fromkeys(hits, line))
    return denied


@cache
def _cascades() -> tuple[Any, Any]:
    import cv2

    check_detector()
    cv2.setNumThreads(1)
    folder = Path(cv2.data.haarcascades)
    kinds = ("haarcascade_frontalface_default.xml", "haarcascade_profileface.xml")
    frontal, profile = (cv2.CascadeClassifier(str(folder / kind)) for kind in kinds)
    return frontal, profile


def _pixels(
    box: tuple[float, float, float, float] | None, labels: PhotoLabels, width: int, height: int
) -> tuple[float, float, float, float]:
    """A region's box as given, x, y, width, height in pixels; None is the entire image."""
    if box is None:
        return 0, 0, width, height
    x, y, w, h = box
    return (x * width, y * height, w * width, h * height) if labels.fractions else box


def _outwards(x: float, y: float, w: float, h: float, width: int, height: int) -> tuple[int, int, int, int]:
    """x1, y1, x2, y2 of a box in an image, rounded outwards."""
    return math.floor(x), math.floor(y), min(math.ceil(x + w), width), min(math.ceil(y + h), height)


def _mask(segmentation: Any, height: int, width: int, where: str) -> np.ndarray:
    try:
        return decode(segmentation, height, width).astype(bool)
    except Exception as error:  # pycocotools may raise any exception.
        raise DataError(f"{where}: a segmentation cannot be decoded ({error}); correct or remove it") from None
