"""The proposals of a store's images: found once, kept in one file, and read by every run that trains on boxes.

The file is an NPZ of `boxes` (uint16 n x 4: x, y, width, height in pixels of the stored image), `count` (int32, the
boxes of each image in the order of the store), and `about`, JSON on how it was made and what it cost.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from mlssl.data import selective_search
from mlssl.data.arrays import checksum, read_arrays, remedy, write_arrays
from mlssl.data.store import ImageStore
from mlssl.digest import digest_of
from mlssl.errors import DataError
from mlssl.files import write_text
from mlssl.study.code import stage_code
from mlssl.study.identity import experiment
from mlssl.study.settings import Proposals

VERSION = 1
CHUNK = 64
"""Images per line of the journal: at most this many are searched again when a killed search resumes."""
KIND = "proposals"
ARRAYS = ("boxes", "count")

Found = tuple[list[list[int]], int, float]
"""Boxes of an image, the rule that kept them, and seconds of processor time."""


def find_proposals(store: ImageStore, out: Path, config: Proposals, *, workers: int | None = None) -> None:
    """Search all images of a store by `workers` processes (all cores if None) and write the boxes to `out`.

    `out` appears only when it is complete; a killed search resumes from a journal beside it. An existing file of
    the same images and settings is left unchanged. Raises ConfigError where OpenCV lacks selective search, and
    DataError for an existing file of other images or settings.
    """
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(out.with_name(f".{out.name}.lock")):
        if out.exists():
            ProposalFile(out, store, config)
            return
        selective_search.library()  # refuses before anything is read
        write(store, out, config, workers=(os.cpu_count() or 1) if workers is None else workers)


def write(store: ImageStore, out: Path, config: Proposals, *, workers: int) -> None:
    """`find_proposals` of a file that does not exist, without the lock."""
    journal = out.with_name(f".{out.name}.journal")
    made_of = digest_of([VERSION, described(config), store.crc32, selective_search.version()])
    lines = resume(journal, made_of)
    found: list[Found] = [image for line in lines for image in line["images"]]
    before = sum(line["seconds"] for line in lines)
    rest = Searched(store, config, start=len(found))
    began = last = time.monotonic()
    bar = tqdm(total=len(store), initial=len(found), desc="selective search", unit="image", mininterval=1)
    with open(journal, "a") as file, bar:
        for chunk in DataLoader(rest, batch_size=CHUNK, collate_fn=list, num_workers=workers):
            now = time.monotonic()
            file.write(json.dumps({"images": chunk, "seconds": now - last}) + "\n")
            file.flush()
            found += chunk
            last = now
            bar.update(len(chunk))
    boxes = np.array([box for image in found for box in image[0]], dtype=np.uint16)
    count = np.array([len(image[0]) for image in found], dtype=np.int32)
    rules = [image[1] for image in found]
    about = {
        "version": VERSION,
        "settings": described(config),
        "images": len(store),
        "images_id": store.images_id,
        "store_crc32": store.crc32,
        "boxes": len(boxes),
        "kept_by": {name: rules.count(i) for i, name in enumerate(selective_search.RULES)},
        "crc32": checksum(count, boxes),
        "seconds": round(before + time.monotonic() - began, 3),
        "core_seconds": round(sum(image[2] for image in found), 3),
        "workers": workers,
        "bytes": boxes.nbytes + count.nbytes,
        "opencv": selective_search.version(),
        "code": stage_code("proposals"),
    }
    write_arrays(out, {"boxes": boxes, "count": count}, about)
    journal.unlink()
    print(f"{out}: {summary(about)}", file=sys.stderr)


def described(config: Proposals) -> dict[str, Any]:
    """The settings in a file's header."""
    return {"search": f"selective_search, {config.strategy} strategy", **experiment(config)}


def summary(about: dict[str, Any]) -> str:
    """What a file has and what it cost, in words."""
    each = about["boxes"] / about["images"]
    return (
        f"{about['boxes']:,} boxes of {about['images']:,} images ({each:.1f} of each), found in "
        f"{about['seconds']:.1f} s by {about['workers']} processes, {about['bytes'] / 1e6:.3g} MB"
    )


def resume(journal: Path, made_of: str) -> list[dict[str, Any]]:
    """The complete lines of a search of these images and settings; a new journal if there are none."""
    header = json.dumps({"made_of": made_of})
    lines = journal.read_text().split("\n")[:-1] if journal.exists() else []  # the last one may be cut off
    lines = lines if lines and lines[0] == header else [header]
    write_text(journal, "".join(line + "\n" for line in lines))
    return [json.loads(line) for line in lines[1:]]


class Searched(Dataset):
    """The proposals of a store's images from number `start` on, with the time that each took."""

    def __init__(self, store: ImageStore, config: Proposals, start: int = 0) -> None:
        self.store, self.config, self.start = store, config, start

    def __len__(self) -> int:
        return len(self.store) - self.start

    def __getitem__(self, i: int) -> Found:
        began = time.process_time()
        pixels = self.store.image(self.start + i).numpy()
        height, width = pixels.shape[:2]
        boxes, rule = selective_search.kept(
            selective_search.search(pixels, self.config), width, height, self.config
        )
        return boxes.tolist(), rule, round(time.process_time() - began, 5)


def read_about(path: Path) -> dict[str, Any]:
    """How a file of proposals was made. Raises DataError for a file of another kind."""
    return read_arrays(path, ARRAYS, KIND)[1]


class ProposalFile:
    """Read access to the boxes of a store's images; `batch` gives those of some images."""

    def __init__(self, path: Path, store: ImageStore, config: Proposals | None = None) -> None:
        """Raises DataError for a damaged file, or one of other images or, if `config` is given, settings."""
        (boxes, count), self.about = read_arrays(path, ARRAYS, KIND)
        if self.about["version"] != VERSION:
            raise DataError(f"{path}: version {self.about['version']}, this code reads {VERSION}; {remedy(KIND)}")
        if self.about["store_crc32"] != store.crc32 or len(count) != len(store):
            raise DataError(f"{path}: has the proposals of other images than those of {store.path}; {remedy(KIND)}")
        if config is not None and self.about["settings"] != (wanted := described(config)):
            raise DataError(f"{path}: was made with {self.about['settings']}, not {wanted}; {remedy(KIND)}")
        written = self.about["crc32"] == checksum(count, boxes)
        if len(boxes) != count.sum() or count.min() < 1 or not written:
            raise DataError(f"{path}: its boxes are not those that were written; {remedy(KIND)}")
        self.path = Path(path)
        corners = torch.from_numpy(boxes.astype(np.int32))
        corners[:, 2:] += corners[:, :2]
        self._boxes, self._count = corners, torch.from_numpy(count.astype(np.int64))
        self._first = self._count.cumsum(0) - self._count

    def count(self, index: Tensor) -> Tensor:
        """The numbers of boxes of some images (int64 B): int64 B."""
        return self._count[index]

    def rows(self, index: Tensor, row: Tensor) -> Tensor:
        """One box of each image of an index, by its place among theirs (int64 B twice).

        int64 B x 4: x, y, width, height.
        """
        corners = self._boxes[self._first[index] + row].long()
        return torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], dim=1)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The proposals of some images (int64 B): float B x M x 4 and bool B x M, which of them there are.

        A box is left, top, right, bottom in pixels of the stored image; M is the largest number of an image.
        """
        count = self._count[index]
        place = torch.arange(int(count.max()))
        there = place < count[:, None]
        row = self._first[index][:, None] + torch.where(there, place, 0)
        return self._boxes[row].float(), there

    def __str__(self) -> str:
        return f"{self.path}: {summary(self.about)}"

    def note(self) -> dict[str, Any]:
        """For the result of a run: where its boxes come from and what they cost."""
        keys = ("settings", "boxes", "kept_by", "crc32", "seconds", "core_seconds", "workers", "opencv")
        return {"file": str(self.path), "bytes": self.path.stat().st_size, **{k: self.about[k] for k in keys}}
