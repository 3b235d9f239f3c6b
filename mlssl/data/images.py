"""Images as people have them: found at any depth, decoded to RGB, or refused with a reason. Imports no torch."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from mlssl.errors import DataError

try:
    from pillow_heif import register_heif_opener
except ImportError:
    HEIF = False
else:
    register_heif_opener()
    HEIF = True

MAX_PIXELS = 100_000_000
"""The largest image that is decoded; a small file may claim to be of any size (a decompression bomb)."""
MIN_SIDE = 16
"""Pixels; an image with a shorter side is no picture but a rule, a spacer or a tracking pixel."""
SUFFIXES = (".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif")
SUFFIXES += (".tiff", ".webp")

# Pillow knows many more, some of which run other programs (EPS). Its own guard is told the same limit.
Image.init()
FORMATS = [
    name for name in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF", "HEIF") if name in Image.OPEN
]
Image.MAX_IMAGE_PIXELS = MAX_PIXELS


class UnusableImage(DataError):
    """An image that cannot be used; `reason` says why without naming the file."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.args[0]}: {self.reason}; remove or replace it"


def find_images(folder: Path | str) -> list[Path]:
    """All images below a folder, at any depth, sorted by path; their names' ends decide, in either case.

    Hidden files and folders are left out. Links are followed; a folder that several lead to, or a loop, is entered
    once. Raises DataError if there is no such folder, one cannot be listed, or none holds an image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give one that holds images")
    found, entered = [], set()
    for here, folders, names in os.walk(folder, followlinks=True, onerror=_not_listed):
        status = os.stat(here)
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(here, n) for n in names if n.lower().endswith(SUFFIXES) and not n.startswith(".")]
    if not found:
        raise DataError(f"{folder}: holds no image ({', '.join(SUFFIXES)}), at any depth; give a folder that does")
    return sorted(found)


def _not_listed(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be listed ({error.strerror}); make it readable or move it away")


def read_image(path: Path | str, size: tuple[int, int] | None = None) -> np.ndarray:
    """Decode an image to uint8 H x W x 3, whatever its name ends in; of an animation, the first frame.

    Transparent parts are laid on white, 16 bits are scaled to 8. A photo is turned upright as its EXIF data asks.
    With `size` (width, height), that of an annotation, it is turned only if the stored raster does not have that
    size already, so that boxes and masks fit; an image as small as MIN_SIDE is then allowed. (A TIFF is turned in
    any case, by Pillow.)
    Raises UnusableImage, a DataError, for what is no image, empty, damaged, not readable, too large or too small,
    or not of the annotated size.
    """
    path = Path(path)
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise UnusableImage(path, "is no file")
        if not status.st_size:
            raise UnusableImage(path, "is empty (0 bytes)")
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise UnusableImage(path, f"has {width} x {height} pixels, more than {MAX_PIXELS:,}")
            if min(width, height) < (MIN_SIDE if size is None else 1):
                raise UnusableImage(path, f"has {width} x {height} pixels, a side shorter than {MIN_SIDE}")
            image.load()
            pixels = np.asarray(to_rgb(_turned(image, size)))
    except (UnusableImage, MemoryError):
        raise
    except Exception as error:  # Decoding a damaged file may raise anything.
        raise UnusableImage(path, _reason(path, error)) from None
    if size is not None and pixels.shape[1::-1] != tuple(size):
        is_size = f"{pixels.shape[1]} x {pixels.shape[0]}"
        raise UnusableImage(path, f"is {is_size}, but its annotation says width {size[0]}, height {size[1]}")
    return pixels


def to_rgb(image: Image.Image) -> Image.Image:
    """Any of Pillow's modes as RGB: alpha on white, 16-bit grey and float grey from 0 to 1 scaled to 8 bits.

    Raises ValueError for numbers that say nothing of their range.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image).astype(np.float64)
        top = 1 if image.mode == "F" else 65535
        if not (values.min() >= 0 and values.max() <= top):
            raise ValueError(f"its grey values are not from 0 to {top}, convert it to 8 or 16 bits")
        return Image.fromarray((values * (255 / top)).round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _turned(image: Image.Image, size: tuple[int, int] | None) -> Image.Image:
    """Upright by EXIF, unless the raster as it is has the size asked for."""
    if size is not None and image.size == tuple(size):
        return image
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Damaged EXIF data says nothing of how to turn the photo; its pixels are sound.
        return image
    return image if orientation == 1 else ImageOps.exif_transpose(image)


def _reason(path: Path, error: Exception) -> str:
    """Few words on why an image could not be read."""
    if isinstance(error, Image.DecompressionBombError):
        return f"has more than {MAX_PIXELS:,} pixels"
    if isinstance(error, UnidentifiedImageError):
        heif = path.suffix.lower() in (".heic", ".heif") and not HEIF
        return "is HEIC, which needs `pip install pillow-heif`" if heif else "is no image, or its head is damaged"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read ({error.strerror})"
    why = " ".join(str(error).split())[:120] or type(error).__name__
    return "is truncated, its end is missing" if "truncated" in why.lower() else f"is damaged ({why})"
