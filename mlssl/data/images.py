"""Find images at any depth and decode them to RGB, or reject them with a reason. Imports no torch."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from mlssl.data.signatures import HEIC, signature
from mlssl.errors import DataError

try:
    from pillow_heif import register_heif_opener  # type: ignore[import-not-found,unused-ignore]
except ImportError:
    HEIF = False
else:
    register_heif_opener()
    HEIF = True

MAX_PIXELS = 100_000_000
"""Largest image that is decoded, in pixels; a small file may declare any size (a decompression bomb)."""
MIN_SIDE = 16
"""Minimum side in pixels; smaller images are usually rules, spacers or tracking pixels."""
SUFFIXES: tuple[str, ...] = (".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png")
SUFFIXES += (".ppm", ".tif", ".tiff", ".webp")

# Pillow supports many more formats, some of which run other programs (EPS). Its own size limit is set too.
Image.init()
FORMATS: list[str] = [
    name for name in ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM", "AVIF", "HEIF") if name in Image.OPEN
]
Image.MAX_IMAGE_PIXELS = MAX_PIXELS


class UnusableImage(DataError):
    """An image that cannot be used; `reason` says why, without the file name."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.args[0]}: {self.reason}; remove or replace it"


def find_images(folder: Path | str) -> list[Path]:
    """All images below a folder: the first part of `find_files`, without its others."""
    return find_files(folder)[0]


def find_files(folder: Path | str) -> tuple[list[Path], list[Path]]:
    """All images below a folder, at any depth, and all other files; both sorted by path.

    Images are selected by file suffix (case is ignored). Hidden files and folders are skipped. Links are followed;
    a folder reached by several links or a loop is visited once. Raises DataError if the folder does not exist,
    cannot be listed, or contains no image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; give a folder of images")
    found, others, entered = [], [], set()
    for here, folders, names in os.walk(folder, followlinks=True, onerror=_not_listed):
        status = os.stat(here)
        if (status.st_dev, status.st_ino) in entered:
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        shown = [name for name in names if not name.startswith(".")]
        found += [Path(here, name) for name in shown if name.lower().endswith(SUFFIXES)]
        others += [Path(here, name) for name in shown if not name.lower().endswith(SUFFIXES)]
    if not found:
        there = f", but {by_suffix(sorted(others))}" if others else ""
        raise DataError(
            f"{folder}: contains no image ({', '.join(SUFFIXES)}) at any depth{there}; give a folder of images"
        )
    return sorted(found), sorted(others)


def by_suffix(paths: Sequence[Path]) -> str:
    """Files counted by suffix, the most frequent first, and one of them: `2 .cr2, 1 without suffix (I.CR2)`."""
    counts = Counter(path.suffix.lower() for path in paths).most_common()
    shown = ", ".join(f"{n:,} {suffix or 'without suffix'}" for suffix, n in counts[:5])
    more = f", {sum(n for _, n in counts[5:]):,} others" if counts[5:] else ""
    return f"{shown}{more} ({next(path.name for path in paths if path.suffix.lower() == counts[0][0])})"


def _not_listed(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be listed ({error.strerror}); make it readable or move it away")


def stamp(path: Path, name: str) -> tuple[str, int, int]:
    """Name, size in bytes and modification time in ns; both are -1 if the file does not exist."""
    try:
        status = path.stat()
    except OSError:
        return name, -1, -1
    return name, status.st_size, status.st_mtime_ns


def read_image(path: Path | str, size: tuple[int, int] | None = None) -> np.ndarray:
    """Decode an image to uint8 H x W x 3, whatever its file suffix; of an animation, the first frame.

    Transparent parts become white, 16 bits are scaled to 8. Photos are rotated upright by their EXIF data. With
    `size` (width, height) from an annotation, an image is rotated only if its stored size differs, so that boxes
    and masks fit, and its sides may be shorter than MIN_SIDE. (Pillow always rotates TIFF.)
    Raises UnusableImage, a DataError, if the file is not an image, empty, damaged, not readable, too large or too
    small, or not of the annotated size.
    """
    path = Path(path)
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise UnusableImage(path, "is not a file")
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


def header_size(path: Path) -> tuple[int, int] | None:
    """Width and height of an upright image by its header, without decoding it; None if that cannot be read."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            turned = image.format != "TIFF" and image.getexif().get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            return image.size[::-1] if turned else image.size
    except Exception:  # Reading a damaged file may raise anything; decoding it says what is wrong.
        return None


def nearly_black(pixels: np.ndarray) -> bool:
    """Whether no value of uint8 pixels is above 16 of 255, as of 12 bits in a file of 16."""
    return bool(pixels[::8, ::8].max() <= 16) and bool(pixels.max() <= 16)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert any Pillow mode to RGB: alpha on white, 16-bit grey and float grey from 0 to 1 scaled to 8 bits.

    Raises ValueError for grey values outside this range.
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
    return image if image.mode == "RGB" else image.convert("RGB")  # Pillow would copy all pixels.


def _turned(image: Image.Image, size: tuple[int, int] | None) -> Image.Image:
    """Rotate upright by EXIF, unless the stored image has the requested size."""
    if size is not None and image.size == tuple(size):
        return image
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Damaged EXIF data gives no rotation; the pixels are still usable.
        return image
    return image if orientation == 1 else ImageOps.exif_transpose(image)


def _reason(path: Path, error: Exception) -> str:
    """Short reason why an image could not be read."""
    if isinstance(error, Image.DecompressionBombError):
        return f"has more than {MAX_PIXELS:,} pixels"
    if isinstance(error, UnidentifiedImageError):
        kind = signature(path)
        if kind == HEIC:
            return "is HEIC, and damaged" if HEIF else "is HEIC, which needs `pip install pillow-heif`"
        return "is not an image, or its header is damaged" if kind is None else f"is {kind}"
    if isinstance(error, FileNotFoundError) and path.is_symlink():
        return "is a link to a file that does not exist"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read ({error.strerror})"
    why = " ".join(str(error).split())[:120] or type(error).__name__
    return "is truncated, its end is missing" if "truncated" in why.lower() else f"is damaged ({why})"
