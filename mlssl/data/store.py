"""The image store: a split decoded and resized once, raw uint8 pixels in one memory-mapped file.

Pretraining then reads no JPEG. A store is a folder with `pixels.bin` (the images one after the other, each
H x W x 3) and `index.json` (sizes, file names, checksum, and the settings it was made with).
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from mlssl.data.images import UnusableImage, find_images, read_image
from mlssl.digest import digest_of
from mlssl.errors import DataError
from mlssl.files import write_json, write_text
from mlssl.study.code import stage_code

VERSION = 4
CHUNK = 64
"""Images between two lines of the journal: so many are decoded again at most when a build goes on."""
MAX_SKIPPED = 0.05
"""Share of unusable images from which on a build stops."""


def load_resized(path: Path, short_side: int | str) -> np.ndarray:
    """Decode an image and shrink it so that its short side is `short_side` pixels; smaller ones stay.

    `full` keeps all as they are.
    """
    pixels = read_image(path)
    height, width = pixels.shape[:2]
    if short_side == "full" or min(height, width) <= short_side:
        return pixels
    scale = short_side / min(height, width)
    size = (max(short_side, round(width * scale)), max(short_side, round(height * scale)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0))


def build_store(
    folder: Path,
    out: Path,
    *,
    short_side: int | str,
    images_id: str | None = None,
    workers: int | None = None,
    max_skipped: float = MAX_SKIPPED,
) -> None:
    """Decode all images below `folder` into a store at `out`, by `workers` processes (all cores if None).

    An image that cannot be used is skipped, and named with the reason in the index; more than a share `max_skipped`
    of them stops the build. The store appears under its name only when it is whole; a build that was killed goes on
    where it was. One that is there already is left as it is. `images_id` is the identity of the images (see
    `study.sources`), to be found again in the store. Raises DataError for too many unusable images, a full disk, or
    if the store that is there was made with another `short_side` or of other images.
    """
    folder, out = Path(folder), Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(out.with_name(f".{out.name}.lock")):
        if (out / "index.json").exists():
            made = json.loads((out / "index.json").read_text())
            asked = {"version": VERSION, "short_side": short_side, "images_id": images_id}
            for key, value in asked.items():
                if made.get(key) != value:
                    raise DataError(
                        f"{out}: was built with {key} {made.get(key)}, not {value}; move the folder away, "
                        "it is built again"
                    )
            return
        if out.exists():
            raise DataError(f"{out}: exists but holds no whole store; remove the folder")
        part, workers = out.with_name(f".{out.name}.part"), (os.cpu_count() or 1) if workers is None else workers
        try:
            skipped = fill(part, folder, find_images(folder), short_side, images_id, workers, max_skipped)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise DataError(f"{part}: the disk is full; make room and call again, it goes on there") from None
        os.replace(part, out)
    if skipped:
        first = "; ".join(f"{name} {reason}" for name, reason in skipped[:3])
        print(f"{out}: {len(skipped)} images cannot be used ({first}); index.json names all", file=sys.stderr)


def fill(
    part: Path,
    folder: Path,
    paths: list[Path],
    short_side: int | str,
    images_id: str | None,
    workers: int,
    max_skipped: float,
) -> list[tuple[str, str]]:
    """Write the store into the folder `part`, going on with what a killed build has left there.

    Returns the images that cannot be used, with the reasons.
    """
    names = [path.relative_to(folder).as_posix() for path in paths]
    stats = ((name, path.stat()) for name, path in zip(names, paths, strict=True))
    made_of = digest_of([short_side, *((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)])
    done = resume(part, made_of)
    # One entry an image: its height and width, or why it cannot be used.
    entries = [entry for line in done for entry in line["entries"]]
    length, crc = (done[-1]["length"], done[-1]["crc32"]) if done else (0, 0)
    left = DataLoader(
        Decoded(paths[len(entries) :], short_side), batch_size=CHUNK, collate_fn=list, num_workers=workers
    )
    bar = tqdm(total=len(paths), initial=len(entries), desc="image store", unit="image", mininterval=1)
    with open(part / "pixels.bin", "ab") as pixels, open(part / "journal.jsonl", "a") as journal, bar:
        pixels.truncate(length)
        for chunk in left:
            for image in chunk:
                if not isinstance(image, str):
                    pixels.write(image)
                    crc = zlib.crc32(image, crc)
            pixels.flush()
            os.fsync(pixels.fileno())
            new = [image if isinstance(image, str) else list(image.shape[:2]) for image in chunk]
            journal.write(json.dumps({"entries": new, "length": pixels.tell(), "crc32": crc}) + "\n")
            journal.flush()
            entries += new
            bar.update(len(chunk))
    told = list(zip(names, entries, strict=True))
    skipped = [(name, entry) for name, entry in told if isinstance(entry, str)]
    if len(skipped) > max_skipped * len(told) or len(skipped) == len(told):
        first = "; ".join(f"{name} {reason}" for name, reason in skipped[:3])
        raise DataError(
            f"{folder}: {len(skipped)} of {len(told)} images cannot be used, more than {max_skipped:.0%} "
            f"({first}); remove or replace them, or allow more"
        )
    used = [(name, entry) for name, entry in told if not isinstance(entry, str)]
    index = {
        "version": VERSION,
        "short_side": short_side,
        "images_id": images_id,
        "code": stage_code("store"),
        "crc32": crc,
        "sizes": [size for _, size in used],
        "names": [name for name, _ in used],
        "skipped": skipped,
    }
    write_json(part / "index.json", index)
    (part / "journal.jsonl").unlink()
    return skipped


def resume(part: Path, made_of: str) -> list[dict[str, Any]]:
    """The journal's lines on chunks that stand, for a store of these images and settings; a new `part` if none.

    A line follows its pixels to the disk: the last may be cut off, but none tells of pixels that are not there.
    """
    journal, header = part / "journal.jsonl", json.dumps({"made_of": made_of})
    told = journal.read_text().split("\n")[:-1] if journal.exists() else []
    if not told or told[0] != header:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        told = [header]
    write_text(journal, "".join(line + "\n" for line in told))
    return [json.loads(line) for line in told[1:]]


class Decoded(Dataset):
    """Images, uint8 H x W x 3; in place of one that cannot be used, the reason.

    Not the exception: DataLoader would hide its words in a traceback. Not tensors: workers would send each
    through a shared-memory file of its own.
    """

    def __init__(self, paths: list[Path], short_side: int | str) -> None:
        self.paths, self.short_side = paths, short_side

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> np.ndarray | str:
        try:
            return np.ascontiguousarray(load_resized(self.paths[i], self.short_side))
        except UnusableImage as error:
            return error.reason


class ImageStore:
    """Read access to a store; `batch` gives images by index."""

    def __init__(self, path: Path) -> None:
        path = Path(path)
        try:
            index = json.loads((path / "index.json").read_text())
        except FileNotFoundError:
            raise DataError(f"{path}: no image store there; build it with `mlssl store`") from None
        if index["version"] != VERSION:
            raise DataError(f"{path}: store version {index['version']}, this code reads {VERSION}; move it away")
        self.path = path
        self.names: list[str] = index["names"]
        """Paths below the folder of images, with `/`."""
        self.skipped: list[tuple[str, str]] = [(name, reason) for name, reason in index["skipped"]]
        """Images that cannot be used, with the reasons."""
        self.images_id: str | None = index["images_id"]
        """Identity of the images (see `study.sources`)."""
        self.crc32: int = index["crc32"]
        self.sizes = torch.tensor(index["sizes"], dtype=torch.int64)
        self._ends = (self.sizes.prod(dim=1) * 3).cumsum(0).tolist()
        self._starts = [0, *self._ends[:-1]]
        actual = (path / "pixels.bin").stat().st_size
        if actual != self._ends[-1]:
            raise DataError(f"{path}/pixels.bin: {actual} bytes, the index says {self._ends[-1]}; rebuild it")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            self.pixels = torch.from_numpy(np.memmap(path / "pixels.bin", dtype=np.uint8, mode="r"))

    def __len__(self) -> int:
        return len(self.names)

    def image(self, i: int) -> Tensor:
        """The i-th image, uint8 H x W x 3; a part of the file or of the memory it lies in, not to be written to."""
        height, width = self.sizes[i].tolist()
        return self.pixels[self._starts[i] : self._ends[i]].view(height, width, 3)

    def batch(self, index: Tensor) -> list[Tensor]:
        """The images of an index (int64 B), each of its own size."""
        return [self.image(i) for i in index.tolist()]

    def verify(self) -> None:
        """Read all pixels; DataError if they are not what was written."""
        crc = 0
        for chunk in tqdm(
            self.pixels.split(2**24), desc="checking the store", unit_scale=16, unit="MiB", mininterval=1
        ):
            crc = zlib.crc32(chunk.numpy(), crc)
        if crc != self.crc32:
            raise DataError(
                f"{self.path}/pixels.bin: checksum {crc:08x}, the index says {self.crc32:08x}; rebuild it"
            )
