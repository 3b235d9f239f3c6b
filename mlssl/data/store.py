"""The image store: a split decoded and resized once, as raw uint8 pixels in one memory-mapped file.

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

from mlssl.data.images import UnusableImage, find_images, nearly_black, read_image, stamp
from mlssl.digest import digest_of
from mlssl.errors import DataError
from mlssl.files import write_json, write_text
from mlssl.study.code import stage_code

VERSION = 4
CHUNK = 64
"""Images per line of the journal: at most this many are decoded again when a build resumes."""
MAX_SKIPPED = 0.05
"""Share of unusable images above which a build stops."""


def load_resized(path: Path, short_side: int | str) -> np.ndarray:
    """Decode an image and shrink it so that its short side is `short_side` pixels; smaller images keep
    their size. `full` keeps the size of all images.
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

    An unusable image is skipped, and listed with the reason in the index; the build stops if their share exceeds
    `max_skipped`. `out` appears only when it is complete; a killed build resumes; an existing store is left
    unchanged. `images_id` is the identity of the images (see `study.sources`), and is saved in the store. Raises
    DataError for too many unusable images, a full disk, or an existing store with another `short_side` or images.
    """
    folder, out = Path(folder), Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(out.with_name(f".{out.name}.lock")):
        if (out / "index.json").exists():
            made = json.loads((out / "index.json").read_text())
            expected = {"version": VERSION, "short_side": short_side, "images_id": images_id}
            for key, value in expected.items():
                if made.get(key) != value:
                    raise DataError(
                        f"{out}: was built with {key} {made.get(key)}, not {value}; move the folder away "
                        "to build it again"
                    )
            return
        if out.exists():
            raise DataError(
                f"{out}: is no complete image store; give another folder, or remove it if an earlier call left it"
            )
        part, workers = out.with_name(f".{out.name}.part"), (os.cpu_count() or 1) if workers is None else workers
        try:
            skipped = fill(part, folder, find_images(folder), short_side, images_id, workers, max_skipped)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise DataError(f"{part}: the disk is full; make room and call again, the build resumes") from None
        os.replace(part, out)
    if skipped:
        first = "; ".join(f"{name} {reason}" for name, reason in skipped[:3])
        print(f"{out}: {len(skipped)} images cannot be used ({first}); index.json lists all", file=sys.stderr)


def fill(
    part: Path,
    folder: Path,
    paths: list[Path],
    short_side: int | str,
    images_id: str | None,
    workers: int,
    max_skipped: float,
) -> list[tuple[str, str]]:
    """Write the store to the folder `part`; resumes a killed build.

    Returns the unusable images, with the reasons.
    """
    names = [path.relative_to(folder).as_posix() for path in paths]
    made_of = digest_of([short_side, *(stamp(path, name) for name, path in zip(names, paths, strict=True))])
    done = resume(part, made_of)
    # One entry per image: its height and width, or why it cannot be used.
    entries = [entry for line in done for entry in line["entries"]]
    length, crc = (done[-1]["length"], done[-1]["crc32"]) if done else (0, 0)
    left = DataLoader(
        Decoded(paths[len(entries) :], short_side), batch_size=CHUNK, collate_fn=list, num_workers=workers
    )
    dark: list[str] = []
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
            start = len(entries)
            dark += [
                names[start + i]
                for i, image in enumerate(chunk)
                if not isinstance(image, str) and nearly_black(image)
            ]
            new = [image if isinstance(image, str) else list(image.shape[:2]) for image in chunk]
            journal.write(json.dumps({"entries": new, "length": pixels.tell(), "crc32": crc}) + "\n")
            journal.flush()
            entries += new
            bar.update(len(chunk))
    if dark:
        print(
            f"{folder}: {len(dark):,} images are nearly black ({dark[0]}); if they hold 12 bits in 16, multiply "
            "their values by 16",
            file=sys.stderr,
        )
    named = list(zip(names, entries, strict=True))
    skipped = [(name, entry) for name, entry in named if isinstance(entry, str)]
    if len(skipped) > max_skipped * len(named) or len(skipped) == len(named):
        first = "; ".join(f"{name} {reason}" for name, reason in skipped[:3])
        raise DataError(
            f"{folder}: {len(skipped)} of {len(named)} images cannot be used, more than {max_skipped:.0%} "
            f"({first}); remove or replace them, or raise max_skipped"
        )
    used = [(name, entry) for name, entry in named if not isinstance(entry, str)]
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
    """The journal's complete lines, for a store of these images and settings; a new `part` if there are none.

    A line is written after its pixels: the last line may be cut off, but no line lacks its pixels.
    """
    journal, header = part / "journal.jsonl", json.dumps({"made_of": made_of})
    lines = journal.read_text().split("\n")[:-1] if journal.exists() else []
    if not lines or lines[0] != header:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        lines = [header]
    write_text(journal, "".join(line + "\n" for line in lines))
    return [json.loads(line) for line in lines[1:]]


class Decoded(Dataset):
    """Images, uint8 H x W x 3; for an unusable image, the reason.

    It returns no exceptions, because DataLoader would hide the message in a traceback, and no tensors, because
    workers would send each through its own shared-memory file.
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
            raise DataError(f"{path}: no image store here; build it with `mlssl store`") from None
        if index["version"] != VERSION:
            raise DataError(
                f"{path}: store version {index['version']}, this code reads {VERSION}; move it away and rebuild it"
            )
        self.path = path
        self.names: list[str] = index["names"]
        """Paths below the folder of images, with `/`."""
        self.skipped: list[tuple[str, str]] = [(name, reason) for name, reason in index["skipped"]]
        """Unusable images, with the reasons."""
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
        """The i-th image, uint8 H x W x 3; a view of the store; do not write to it."""
        height, width = self.sizes[i].tolist()
        return self.pixels[self._starts[i] : self._ends[i]].view(height, width, 3)

    def batch(self, index: Tensor) -> list[Tensor]:
        """The images of an index (int64 B), each of its own size."""
        return [self.image(i) for i in index.tolist()]

    def verify(self) -> None:
        """Read all pixels; DataError if their checksum differs from the index."""
        crc = 0
        for chunk in tqdm(
            self.pixels.split(2**24), desc="checking the store", unit_scale=16, unit="MiB", mininterval=1
        ):
            crc = zlib.crc32(chunk.numpy(), crc)
        if crc != self.crc32:
            raise DataError(
                f"{self.path}/pixels.bin: checksum {crc:08x}, the index says {self.crc32:08x}; rebuild it"
            )
