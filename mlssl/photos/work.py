"""One photo made: read, people hidden, written as a JPEG without metadata. Many by several processes."""

from __future__ import annotations

import json
import os
import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from mlssl.data.images import UnusableImage, read_image
from mlssl.errors import DataError
from mlssl.files import write_text
from mlssl.photos.duplicates import perceptual_hash
from mlssl.photos.formats import Labelled
from mlssl.photos.labels import placed
from mlssl.photos.people import FACES, find_faces, hide, regions_of

QUALITY = 95
JPEG_SIDE = 65_500
"""Pixels; a JPEG's side cannot be longer."""
CHUNK = 16
"""Photos that a process takes at once, and between two lines of the journal."""


@dataclass(frozen=True)
class Photo:
    """A photo to be imported."""

    number: int
    """Its place among all that were found, from 1: its id and the name of its file in the dataset."""
    path: Path
    name: str
    """Its path below the folder of photos, with `/`."""
    labels: Labelled | None = None
    people: Labelled | str | None = None
    """The regions to hide; FACES: those a detector finds; None: no file names this photo, or nothing is hidden."""

    @property
    def file(self) -> str:
        return f"{self.number:08d}.jpg"


def make(photo: Photo, folder: Path, how: str | None) -> dict[str, Any]:
    """Write `folder/<photo.file>`; what became of it: its size and hash, or why it was skipped.

    Raises DataError for a label that does not fit the photo.
    """
    try:
        pixels = read_image(photo.path, _size(photo))
        height, width = pixels.shape[:2]
        if max(width, height) > JPEG_SIDE:
            raise UnusableImage(photo.path, f"has {width} x {height} pixels, a side longer than {JPEG_SIDE:,}")
    except UnusableImage as error:
        return {"number": photo.number, "skipped": error.reason}
    if photo.labels is not None:
        placed(photo.labels, width, height)
    hidden = 0
    if how is not None and photo.people is not None:
        regions = find_faces(pixels) if photo.people == FACES else regions_of(photo.people, width, height)
        pixels, hidden = hide(pixels, regions, how), len(regions)
    # An array knows nothing of where, when and with what it was taken.
    Image.fromarray(np.ascontiguousarray(pixels)).save(folder / photo.file, quality=QUALITY)
    return {
        "number": photo.number,
        "width": width,
        "height": height,
        "bytes": (folder / photo.file).stat().st_size,
        "hash": perceptual_hash(pixels),
        "hidden": hidden,
    }


def make_all(
    photos: Sequence[Photo], part: Path, *, made_of: str, how: str | None, workers: int
) -> Iterator[list[dict[str, Any]]]:
    """Make the photos into `part/images`, yielding what became of them, in order; a killed import is gone on with.

    `made_of` names photos and settings; what another import has left in `part` is removed. As many photos are in
    work as the processes need, however many there are.
    """
    done = resume(part, made_of)
    folder = part / "images"
    left = [photo for photo in photos if photo.number not in done]
    yield list(done.values())
    work = partial(_make_chunk, folder=folder, how=how)
    chunks = [left[i : i + CHUNK] for i in range(0, len(left), CHUNK)]
    with open(part / "journal.jsonl", "a") as journal:
        for results in _spread(work, chunks, workers):
            journal.writelines(json.dumps(result) + "\n" for result in results)
            journal.flush()
            yield results


def resume(part: Path, made_of: str) -> dict[int, dict[str, Any]]:
    """What the journal tells of photos that are there, whole; a new `part` if it is of another import.

    Skipped photos are tried again.
    """
    journal, header, folder = part / "journal.jsonl", json.dumps({"made_of": made_of}), part / "images"
    told = journal.read_text().split("\n")[:-1] if journal.exists() else []
    if not told or told[0] != header:
        shutil.rmtree(part, ignore_errors=True)
        told = [header]
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "val"):  # It was killed while they were sorted into the splits.
        for path in (part / split).glob("*.jpg"):
            os.replace(path, folder / path.name)
    for made in ("train", "val", "annotations"):
        shutil.rmtree(part / made, ignore_errors=True)
    done = {}
    for line in told[1:]:
        try:
            result = json.loads(line)
        except ValueError:  # The power went off while it was written; its photos are made again.
            break
        file = folder / Photo(result["number"], Path(), "").file
        if "skipped" not in result and file.exists() and file.stat().st_size == result["bytes"]:
            done[result["number"]] = result
    write_text(journal, "".join(f"{line}\n" for line in (header, *map(json.dumps, done.values()))))
    return done


def _make_chunk(photos: Sequence[Photo], folder: Path, how: str | None) -> list[dict[str, Any]]:
    return [make(photo, folder, how) for photo in photos]


def _spread(work: partial, chunks: Sequence[Sequence[Photo]], workers: int) -> Iterator[list[dict[str, Any]]]:
    """`work` on each chunk, in order, by processes that are never more than a few chunks ahead."""
    if workers == 1 or len(chunks) < 2:
        yield from map(work, chunks)
        return
    pool, waiting = ProcessPoolExecutor(min(workers, len(chunks))), deque()
    try:
        for chunk in chunks:
            waiting.append(pool.submit(work, chunk))
            if len(waiting) > 3 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise DataError(
            "workers: a process was killed, likely for want of memory; call again with fewer workers, "
            "it goes on where it was"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _size(photo: Photo) -> tuple[int, int] | None:
    """The size of the raster on which labels and people are drawn, if one is told.

    Raises UnusableImage where it is not certain that both are drawn on the same one: of people, the wrong place
    would be hidden.
    """
    labels = None if photo.labels is None else photo.labels.size
    if not isinstance(photo.people, Labelled):
        return labels
    people = photo.people.size
    if labels and people and labels != people:
        shown = " and ".join(f"{w} x {h}" for w, h in (labels, people))
        raise UnusableImage(photo.path, f"is {shown} pixels by its labels and by its people")
    drawn = None if photo.labels is None else any(thing.box for thing in photo.labels.things)
    try:
        with Image.open(photo.path) as image:
            width, height = image.size
            turn = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # It cannot be opened, and `read_image` will say why; or its damaged EXIF data turns nothing.
        turn = 1
    if turn != 1:
        sideways = turn in (5, 6, 7, 8) and width != height
        if bool(people) != bool(labels) and drawn is True:
            raise UnusableImage(photo.path, "is turned by EXIF, and not both labels and people say on which size")
        if people and not sideways:
            raise UnusableImage(
                photo.path, "is turned by EXIF to the same size, so where its people are is not certain"
            )
    return people or labels
