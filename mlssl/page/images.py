"""Figures of a study as `data:` addresses, so that the page is one file."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from mlssl.analysis.outputs import FIGURE_FORMATS
from mlssl.page.parts import Link, Picture
from mlssl.study.study import Study

QUALITY = 82
"""Of photographs, as lossy WebP. Charts are lossless."""
WIDEST = 1400
"""Pixels of a photograph's longer side; the files on disk are larger."""


def picture(study: Study, name: str, title: str, alt: str, note: str = "", *, photographs: bool = False) -> Picture:
    """The figure `figures/<name>.png` of a study; without the file, a Picture without source."""
    path = study.out / "figures" / f"{name}.png"
    files = [path.with_name(f"{name}.{kind}") for kind in FIGURE_FORMATS]
    if not path.exists():
        return Picture(title, alt, note, wide=photographs)
    source, (width, height) = embedded(path, photographs=photographs)
    return Picture(title, alt, note, source, width, height, links(study, files), photographs)


def embedded(path: Path, *, photographs: bool) -> tuple[str, tuple[int, int]]:
    """A PNG as a `data:` address of a WebP, with width and height in pixels."""
    with Image.open(path) as file:
        image = file.convert("RGB")
    if photographs:
        image.thumbnail((WIDEST, WIDEST), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    image.save(data, "WEBP", lossless=not photographs, quality=QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(data.getvalue()).decode("ascii"), image.size


def links(study: Study, files: Iterable[Path]) -> tuple[Link, ...]:
    """Links to those of a study's files that exist, relative to its folder."""
    return tuple(Link(file.suffix.removeprefix("."), relative(study, file)) for file in files if file.exists())


def relative(study: Study, file: Path) -> str:
    """The address of a file or folder in a study's output, relative to it; `/` and letters are not quoted."""
    return quote(file.relative_to(study.out).as_posix()) + ("/" if file.is_dir() else "")
