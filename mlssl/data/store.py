"""The image store: a split decoded and resized once, raw uint8 pixels in one memory-mapped file.

Pretraining then reads no JPEG. A store is a folder with `pixels.bin` (the images one after the other, each
H x W x 3) and `index.json` (sizes, file names, and the settings it was made with).
"""

from __future__ import annotations

import json
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from mlssl.config import DataError
from mlssl.data.coco import image_paths, read_image
from mlssl.provenance import write_json

VERSION = 1


def load_resized(path: Path, short_side: int) -> np.ndarray:
    """Decode an image and shrink it so that its short side is `short_side` pixels; smaller ones stay."""
    pixels = read_image(path)
    height, width = pixels.shape[:2]
    if min(height, width) <= short_side:
        return pixels
    scale = short_side / min(height, width)
    size = (max(short_side, round(width * scale)), max(short_side, round(height * scale)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0))


def build_store(folder: Path, out: Path, *, short_side: int, workers: int | None = None) -> None:
    """Decode all images of `folder` into a store at `out`; DataError if one cannot be read.

    The store appears under its name only when it is whole. One that is there already is left as it is;
    DataError if it was made with another `short_side`.
    """
    out = Path(out)
    if (out / "index.json").exists():
        made_with = json.loads((out / "index.json").read_text())["short_side"]
        if made_with != short_side:
            raise DataError(f"{out}: was built with short_side {made_with}, not {short_side}; remove the folder")
        return
    paths = image_paths(folder)
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    part.mkdir(parents=True)
    try:
        sizes = []
        with open(part / "pixels.bin", "wb") as pixels, ProcessPoolExecutor(workers) as pool:
            decoded = pool.map(partial(load_resized, short_side=short_side), paths, chunksize=16)
            for image in tqdm(decoded, total=len(paths), desc="image store", unit="image", mininterval=1):
                pixels.write(image.tobytes())
                sizes.append(image.shape[:2])
        names = [path.name for path in paths]
        index = {"version": VERSION, "short_side": short_side, "sizes": sizes, "names": names}
        write_json(part / "index.json", index)
        if out.exists():
            raise DataError(f"{out}: exists but holds no whole store; remove the folder")
        os.replace(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


class ImageStore:
    """Read access to a store; `batch` gives images by index."""

    def __init__(self, path: Path) -> None:
        path = Path(path)
        try:
            index = json.loads((path / "index.json").read_text())
        except FileNotFoundError:
            raise DataError(f"{path}: no image store there; build it with `mlssl store`") from None
        if index["version"] != VERSION:
            raise DataError(f"{path}: store version {index['version']}, this code reads {VERSION}; rebuild it")
        self.names: list[str] = index["names"]
        self.sizes = torch.tensor(index["sizes"], dtype=torch.int64)
        lengths = self.sizes.prod(dim=1) * 3
        self._ends = lengths.cumsum(0).tolist()
        self._starts = [0, *self._ends[:-1]]
        actual = (path / "pixels.bin").stat().st_size
        if actual != self._ends[-1]:
            raise DataError(f"{path}/pixels.bin: {actual} bytes, the index says {self._ends[-1]}; rebuild it")
        self._pixels = np.memmap(path / "pixels.bin", dtype=np.uint8, mode="r")

    def __len__(self) -> int:
        return len(self.names)

    def image(self, i: int) -> np.ndarray:
        """The i-th image, uint8 H x W x 3."""
        height, width = self.sizes[i].tolist()
        return self._pixels[self._starts[i] : self._ends[i]].reshape(height, width, 3)

    def batch(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 B x 3 x H x W, padded with zeros to the right and below, and the sizes B x 2 (height, width)."""
        sizes = self.sizes[index]
        height, width = sizes.amax(dim=0).tolist()
        canvas = np.zeros((len(index), height, width, 3), dtype=np.uint8)
        for row, i in enumerate(index.tolist()):
            image = self.image(i)
            canvas[row, : image.shape[0], : image.shape[1]] = image
        return torch.from_numpy(canvas).permute(0, 3, 1, 2), sizes
