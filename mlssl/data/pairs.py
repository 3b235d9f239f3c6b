"""Boxes of an image, paired with boxes of its nearest neighbours: the file, and what is drawn of it.

The file is an NPZ of `neighbours` (int32 n x K, indices of images), `count` (int32 n x K, the pairs of an image and
a neighbour), `rows` (uint16 P x 2, in this order: places of a pair's boxes among the proposals of the image and of
the neighbour), and `about`, JSON on how it was made and what it cost. `mlssl.pretrain.pairs` makes it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mlssl.data.arrays import checksum, read_arrays, remedy, write_arrays
from mlssl.data.proposals import ProposalFile
from mlssl.errors import DataError
from mlssl.study.identity import experiment
from mlssl.study.settings import Pretrain

VERSION = 1
KIND = "pairs"
ARRAYS = ("neighbours", "count", "rows")


class Drawn(NamedTuple):
    """A random pair of each of some images."""

    box: Tensor
    """int64 B x 4 in pixels of the image: x, y, width, height."""
    neighbour: Tensor
    """int64 B: index of the neighbour."""
    neighbour_box: Tensor
    """int64 B x 4, in pixels of the neighbour."""


def write_pairs(
    out: Path, neighbours: np.ndarray, count: np.ndarray, rows: np.ndarray, about: dict[str, Any]
) -> None:
    """Write the arrays of a file, and `about` with their numbers and checksum."""
    arrays: list[np.ndarray] = [neighbours.astype(np.int32), count.astype(np.int32), rows.astype(np.uint16)]
    about = {"version": VERSION, **about, "pairs": len(rows), "crc32": checksum(*arrays)}
    write_arrays(out, dict(zip(ARRAYS, arrays, strict=True)), about)


def described(config: Pretrain, proposals: ProposalFile) -> dict[str, Any]:
    """What the pairs of a run depend on: settings, the network, and the boxes."""
    return {
        "settings": experiment(config.pairs),
        "network": config.pairs_id,
        "seed": config.seed,
        "proposals_crc32": proposals.about["crc32"],
        "store_crc32": proposals.about["store_crc32"],
    }


def read_pairs_about(path: Path) -> dict[str, Any]:
    """How a file of pairs was made. Raises DataError for a file of another kind."""
    return read_arrays(path, ARRAYS, KIND)[1]


class PairFile:
    """Read access to the pairs of a store's images; `draw` gives a random one of some images."""

    def __init__(self, path: Path, config: Pretrain, proposals: ProposalFile) -> None:
        """Raises DataError for a damaged file, or one of another network, of other boxes or settings."""
        arrays, self.about = read_arrays(path, ARRAYS, KIND)
        if self.about["version"] != VERSION:
            raise DataError(f"{path}: version {self.about['version']}, this code reads {VERSION}; {remedy(KIND)}")
        for key, wanted in described(config, proposals).items():
            if self.about[key] != wanted:
                raise DataError(f"{path}: was made with {key} {self.about[key]}, not {wanted}; {remedy(KIND)}")
        if self.about["crc32"] != checksum(*arrays):
            raise DataError(f"{path}: its pairs are not those that were written; {remedy(KIND)}")
        self.path, self.proposals = Path(path), proposals
        self._neighbours, self._count, self._rows = (torch.from_numpy(a.astype(np.int64)) for a in arrays)
        self._first = (self._count.flatten().cumsum(0) - self._count.flatten()).view_as(self._count)

    def draw(self, index: Tensor, rng: torch.Generator) -> Drawn:
        """A random pair of a random neighbour of each of some images (int64 B)."""
        numbers = torch.rand(2, len(index), generator=rng, dtype=torch.float64)
        which = (numbers[0] * self._neighbours.shape[1]).long()
        other = self._neighbours[index, which]
        row = self._first[index, which] + (numbers[1] * self._count[index, which]).long()
        mine, theirs = self._rows[row].unbind(1)
        return Drawn(self.proposals.rows(index, mine), other, self.proposals.rows(other, theirs))

    def __str__(self) -> str:
        return f"{self.path}: {summary(self.about)}"

    def note(self) -> dict[str, Any]:
        """For the result of a run: where its pairs come from and what they cost."""
        keys = ("run", "run_seconds", "network", "settings", "pairs", "crc32", "seconds", "device")
        return {"file": str(self.path), "bytes": self.path.stat().st_size, **{k: self.about[k] for k in keys}}


def summary(about: dict[str, Any]) -> str:
    """What a file has and what it cost, in words."""
    return (
        f"{about['pairs']:,} pairs of boxes of {about['images']:,} images and their "
        f"{about['settings']['neighbours']} neighbours, by {about['run']} in {about['seconds']:.1f} s"
    )
