"""What people want to know of a study's images: whether they are there, whose they are, what to call them.

Apart from `sources`, because none of it changes a result. Imports no torch.
"""

from __future__ import annotations

from pathlib import Path

from mlssl.datasets.counts import BY_HAND
from mlssl.study.settings import Dataset, Photos, Scenes
from mlssl.study.sources import Source


def own_photos(*sources: Source) -> bool:
    """Whether one of them is the user's own: numbers that others published say nothing about it."""
    return any(isinstance(source.settings, Photos) for source in sources)


def about_images(source: Source) -> str:
    """What it is, in words for a caption."""
    s = source.settings
    if isinstance(s, Scenes):
        return f"{s.images:,} drawn scenes"
    if isinstance(s, Dataset):
        return f"The data set {s.name}"
    if isinstance(s, Photos):
        labels = f"labels of {Path(s.labels).name}" if s.labels else "without labels"
        return f"Own photos ({Path(s.folder).name}), {labels}"
    return f"The images of {source.data.root}"


def absent_images(source: Source, where: str) -> list[str]:
    """One sentence for each file or folder of the user that is named but is not there; empty if none is needed.

    `where` (file and section) opens every sentence.
    """
    s, missing = source.settings, "no such folder; check the path"
    if s is None:
        return [] if Path(source.data.root).is_dir() else [f"{where}.root: {source.data.root}: {missing}"]
    if source.ready.exists():
        return []
    if isinstance(s, Dataset):
        there = s.source is None or s.download or Path(s.source).exists()
        how = "download its archives by hand (docs/data.md)" if s.name in BY_HAND else "set download to true"
        return [] if there else [f"{where}.dataset.source: {s.source}: {missing}, or {how}"]
    if not isinstance(s, Photos):
        return []
    found = [] if Path(s.folder).is_dir() else [f"{where}.photos.folder: {s.folder}: {missing}"]
    for key in ("labels", "people", "deny"):
        path = getattr(s, key)
        if path not in (None, "faces") and not Path(path).exists():
            found.append(f"{where}.photos.{key}: {path}: no such file or folder; check the path")
    return found
