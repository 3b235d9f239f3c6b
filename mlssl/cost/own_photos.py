"""Own photos before their import: whether they are there, and how many. Imports no torch."""

from __future__ import annotations

from mlssl.errors import DataError
from mlssl.study.settings import Photos
from mlssl.study.sources import Source
from mlssl.study.study import Study


def found(source: Source) -> int | None:
    """Number of image files that an import would look at; None for other data, and where they cannot be listed."""
    if not isinstance(source.settings, Photos):
        return None
    from mlssl.data.images import find_images  # with numpy and Pillow: not for every dry run

    try:
        return len(find_images(source.settings.folder))
    except DataError:
        return None


def images(source: Source) -> tuple[int | None, int | None]:
    """Training and validation images, as `Source.images`; of photos before their import the most that there can be.

    Their number in the folder is that of the training images, as if few had labels; the share for validation counts
    as if all had labels.
    """
    train, val = source.images()
    if train is None and isinstance(s := source.settings, Photos):
        train = found(source)
        val = None if train is None else round(s.val_share * train) if s.labels else 0
    return train, val


def report(study: Study) -> list[str]:
    """Lines on the data of a study: what is not there, and how many photos were found."""
    lines = study.absent()
    for source in dict.fromkeys((study.source, study.transfer_source)):
        if not isinstance(s := source.settings, Photos):
            continue
        train, val = source.images()
        if train is not None and val is not None:
            lines.append(f"photos: {train:,} for training and {val:,} for validation, imported from {s.folder}")
        elif count := found(source):
            lines.append(f"photos: {count:,} found in {s.folder}, not imported yet; times are for all of them")
            largest = max((run.config.batch_size for run in study.runs.values() if run.config.target), default=0)
            if source is study.source and largest > count:
                lines.append(f"{study.path}: pretrain.batch_size: {largest} is more than these; give less")
        elif not study.absent():
            lines.append(f"photos: none found in {s.folder}; check the path")
    return lines
