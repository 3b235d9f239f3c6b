"""What a file that is not a readable image is, by its first bytes. Imports no torch."""

from __future__ import annotations

from pathlib import Path

HEIC = "HEIC"
BRANDS = {
    b"heic": HEIC, b"heix": HEIC, b"hevc": HEIC, b"heim": HEIC, b"heis": HEIC, b"mif1": HEIC, b"msf1": HEIC,
    b"avif": "AVIF, which this Pillow cannot read", b"avis": "AVIF, which this Pillow cannot read",
    b"crx ": "a raw file of a camera, not developed",
}  # fmt: skip
"""Brands of ISO's base media file format (ISO/IEC 14496-12), in bytes 8 to 12; others are videos."""
FIRST = (
    (b"version https://git-lfs", "a pointer of Git LFS, not the image; run `git lfs pull`"),
    (b"%PDF", "a PDF"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\xff\x0a", "JPEG XL, which this Pillow cannot read"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL, which this Pillow cannot read"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000, convert it to JPEG or PNG"),
    (b"\xff\x4f\xff\x51", "JPEG 2000, convert it to JPEG or PNG"),
    (b"8BPS", "a Photoshop file"),
    (b"%!PS", "PostScript"),
    (b"FUJIFILMCCD-RAW", "a raw file of a camera, not developed"),
    (b"IIRO", "a raw file of a camera, not developed"),
    (b"\x1a\x45\xdf\xa3", "a video"),
    (b"SIMPLE  =", "a FITS file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"DICM", "a DICOM file"),
)
TEXT: tuple[tuple[str, str], ...] = (
    ("<!doctype html", "a web page"),
    ("<html", "a web page"),
    ("<svg", "an SVG drawing"),
    ("<?xml", "XML"),
)
TEXT += (("{", "JSON"),)


def signature(path: Path) -> str | None:
    """What the file is, as the end of a sentence `… is`; None if its first bytes say nothing, or cannot be read."""
    try:
        with open(path, "rb") as handle:
            head = handle.read(512)
    except OSError:
        return None
    if head[4:8] == b"ftyp":
        return BRANDS.get(head[8:12], "a video")
    if head[128:132] == b"DICM":
        return "a DICOM file"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "a video"
    found = next((name for mark, name in FIRST if head.startswith(mark)), None)
    if found is not None:
        return found
    text = head.decode(errors="ignore").lstrip("\ufeff \t\r\n").lower()
    return next((name for mark, name in TEXT if text.startswith(mark)), None)
