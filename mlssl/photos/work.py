"""Process photos in parallel: read, hide people, write JPEGs without metadata."""

from __future__ import annotations

import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import ExifTags, Image
from tqdm import tqdm

from mlssl.data.images import UnusableImage, header_size, nearly_black, read_image
from mlssl.digest import digest_of
from mlssl.errors import DataError, Resumable
from mlssl.files import write_text
from mlssl.photos.duplicates import perceptual_hash
from mlssl.photos.formats import PhotoLabels
from mlssl.photos.labels import placed
from mlssl.photos.people import find_faces, hide, regions_of

T = TypeVar("T")
QUALITY = 95
JPEG_SIDE = 65_500
"""Maximum side of a JPEG in pixels."""
CHUNK = 16
"""Photos per task of a process; the journal is flushed after each task."""
CHECKED = 256
"""Photos per task where only their labels are checked."""


@dataclass(frozen=True)
class Photo:
    """A photo to import."""

    number: int
    """Position among all photos found, from 1; its image id, and its file name in the dataset."""
    path: Path
    name: str
    """Its path below the folder of photos, with `/`."""
    labels: PhotoLabels | None = None
    people: PhotoLabels | None = None
    """Regions to hide; None: the file of people does not name the photo, or there is no such file."""
    detect_faces: bool = False
    """Whether to hide the faces that a detector finds."""
    made_of: str = ""
    """Digest of what its copy depends on; a copy with the same digest is not made again."""

    @property
    def file(self) -> str:
        return f"{self.number:08d}.jpg"


def digest_of_copy(photo: Photo, stamp: tuple[str, int, int], how: str | None) -> str:
    """A digest of all that the copy of a photo depends on: its file, who is hidden, and its rotation.

    `stamp` is that of its file. Of the labels only the size counts, and beside people whether there are boxes.
    """
    size, people = None if photo.labels is None else photo.labels.size, photo.people
    hidden = None if people is None else (people.size, people.fractions, repr(people.objects), _drawn(photo))
    return digest_of([photo.number, stamp, how, photo.detect_faces, size, hidden])


def check_all(photos: Sequence[Photo], workers: int) -> None:
    """Raise DataError for labels or people that do not fit their photo, before any photo is copied."""
    named = [photo for photo in photos if photo.labels is not None or photo.people is not None]
    chunks = [named[i : i + CHECKED] for i in range(0, len(named), CHECKED)]
    with tqdm(total=len(named), desc="labels", unit="photo", mininterval=0.5, delay=2) as bar:
        for checked in _spread(_check_chunk, chunks, workers):
            bar.update(checked)


def check_photo(photo: Photo) -> None:
    """Raise DataError for labels or people that do not fit the photo.

    Its size is the one that they record, or the one in the file's header. Only if they do not fit that is the photo
    decoded; one that cannot be used is not checked.
    """
    sized = [labels for labels in (photo.labels, photo.people) if labels is not None]
    if not any(found.box for labels in sized for found in labels.objects):
        return
    size = next((labels.size for labels in sized if labels.size), None) or header_size(photo.path)
    if size is None:
        return
    try:
        _fit(photo, *size)
    except DataError:
        try:
            height, width = read_image(photo.path, _size(photo)).shape[:2]
        except UnusableImage:
            return
        _fit(photo, width, height)


def _fit(photo: Photo, width: int, height: int) -> None:
    if photo.labels is not None:
        placed(photo.labels, width, height)
    if photo.people is not None:
        regions_of(photo.people, width, height)


def make(photo: Photo, folder: Path, how: str | None) -> dict[str, Any]:
    """Write `folder/<photo.file>`; returns its size, hash, hidden regions, `dark` if it is, or why it was skipped.

    Raises DataError for people that do not fit the photo.
    """
    try:
        pixels = read_image(photo.path, _size(photo))
        height, width = pixels.shape[:2]
        if max(width, height) > JPEG_SIDE:
            raise UnusableImage(photo.path, f"has {width} x {height} pixels, a side longer than {JPEG_SIDE:,}")
    except UnusableImage as error:
        return {"number": photo.number, "skipped": error.reason}
    dark = {"dark": True} if nearly_black(pixels) else {}
    regions = find_faces(pixels) if photo.detect_faces else []
    if photo.people is not None:
        regions = regions_of(photo.people, width, height)
    if how is not None and regions:
        pixels = hide(pixels, regions, how)
    image = Image.fromarray(np.ascontiguousarray(pixels))  # An array carries no metadata.
    image.save(folder / photo.file, quality=QUALITY)
    return {
        "number": photo.number,
        "made_of": photo.made_of,
        "width": width,
        "height": height,
        "bytes": (folder / photo.file).stat().st_size,
        "hash": perceptual_hash(image),
        "hidden": len(regions),
        **dark,
    }


def make_all(
    photos: Sequence[Photo], part: Path, *, version: int, how: str | None, workers: int
) -> Iterator[list[dict[str, Any]]]:
    """Write the photos to `part/images` and yield their results in order; resumes a killed or refused import.

    `part` is emptied if another `version` of the import made it. The number of pending tasks is bounded, so memory
    does not grow with the number of photos.
    """
    done = resume(part, photos, version)
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


def resume(part: Path, photos: Sequence[Photo], version: int) -> dict[int, dict[str, Any]]:
    """Results, by number, of those photos whose copies are complete and made as they would be now.

    All other copies in `part` are removed. Skipped photos are tried again.
    """
    journal, header, folder = part / "journal.jsonl", json.dumps({"version": version}), part / "images"
    lines = journal.read_text().split("\n")[:-1] if journal.exists() else []
    if not lines or lines[0] != header:
        shutil.rmtree(part, ignore_errors=True)
        lines = [header]
    folder.mkdir(parents=True, exist_ok=True)
    for split in ("train", "val"):  # The import was killed while sorting photos into the splits.
        for path in (part / split).glob("*.jpg"):
            os.replace(path, folder / path.name)
    for made in ("train", "val", "annotations"):
        shutil.rmtree(part / made, ignore_errors=True)
    done: dict[int, dict[str, Any]] = {}
    made_of = {photo.number: photo.made_of for photo in photos}
    for line in lines[1:]:
        try:
            result = json.loads(line)
        except ValueError:  # A power failure cut the line off; its photos are processed again.
            break
        file = folder / Photo(result["number"], Path(), "").file
        same = "skipped" not in result and made_of.get(result["number"]) == result["made_of"]
        if same and file.exists() and file.stat().st_size == result["bytes"]:
            done[result["number"]] = result
    for file in folder.iterdir():
        if not file.stem.isdigit() or int(file.stem) not in done:
            file.unlink()
    write_text(journal, "".join(f"{line}\n" for line in (header, *map(json.dumps, done.values()))))
    return done


def _make_chunk(photos: Sequence[Photo], folder: Path, how: str | None) -> list[dict[str, Any]]:
    return [make(photo, folder, how) for photo in photos]


def _check_chunk(photos: Sequence[Photo]) -> int:
    for photo in photos:
        check_photo(photo)
    return len(photos)


def _spread(work: Callable[[Sequence[Photo]], T], chunks: Sequence[Sequence[Photo]], workers: int) -> Iterator[T]:
    """Run `work` on each chunk in a process pool, in order, with at most 3 pending chunks per process."""
    if workers == 1 or len(chunks) < 2:
        yield from map(work, chunks)
        return
    pool = ProcessPoolExecutor(min(workers, len(chunks)))
    waiting: deque[Future[T]] = deque()
    try:
        for chunk in chunks:
            waiting.append(pool.submit(work, chunk))
            if len(waiting) > 3 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise Resumable(
            "workers: a process was killed, probably out of memory; call again with fewer workers, "
            "the import resumes"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _drawn(photo: Photo) -> bool:
    """Whether its labels have boxes."""
    return photo.labels is not None and any(found.box for found in photo.labels.objects)


def _size(photo: Photo) -> tuple[int, int] | None:
    """Width and height of the image that labels and people refer to, if either file records it.

    Raises UnusableImage if they may refer to differently rotated images; the wrong place would then be hidden.
    """
    labels = None if photo.labels is None else photo.labels.size
    if photo.people is None:
        return labels
    people = photo.people.size
    if labels and people and labels != people:
        shown = " and ".join(f"{w} x {h}" for w, h in (labels, people))
        raise UnusableImage(photo.path, f"has different sizes in its labels and its people: {shown} pixels")
    try:
        with Image.open(photo.path) as image:
            width, height = image.size
            turn = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # `read_image` reports unreadable files; damaged EXIF data is ignored.
        turn = 1
    if turn != 1:
        sideways = turn in (5, 6, 7, 8) and width != height
        if bool(people) != bool(labels) and _drawn(photo):
            raise UnusableImage(photo.path, "is rotated by EXIF, and labels or people do not record the image size")
        if people and not sideways:
            raise UnusableImage(
                photo.path, "is rotated by EXIF to the same size, so the position of its people is ambiguous"
            )
    return people or labels
