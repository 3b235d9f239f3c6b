"""Pseudo-labels of some steps, recorded for evaluation after training (true labels are never used in training)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mlssl.files import atomic
from mlssl.runtime import distributed

ABSENT = {"image": -1, "dictionary_image": -1}
"""Padding of shorter, early records in these columns; all other columns are padded with 0 or False."""


def record_steps(total: int, records: int) -> set[int]:
    """The steps (counted from 1) after which a record is kept: evenly spaced, including the last step."""
    return {round(i * total / records) for i in range(1, records + 1)} - {0} if records else set()


class LabelRecords:
    """The records of a run, one per chosen step, as returned by the method (see `parts.method.RecordsLabels`)."""

    def __init__(self, kept: list[dict[str, Tensor]] | None = None) -> None:
        self.kept = kept or []

    def add(self, step: int, record: dict[str, Tensor]) -> None:
        """Keep the record of a step, with the queries of all ranks; copies it to the CPU."""
        if record:
            shared = [name for name in record if name.startswith("dictionary_") or name == "filled"]
            gathered = {name: v if name in shared else distributed.gather(v) for name, v in record.items()}
            # Copied, because columns may be views of the dictionary.
            copies = {name: value.to("cpu", copy=True) for name, value in gathered.items()}
            self.kept.append({"step": torch.tensor(step)} | copies)

    def write(self, path: Path) -> None:
        """Write an .npz of all records stacked, R x …; the format is in ARCHITECTURE.md."""
        columns: dict[str, Any] = {
            name: stack([r[name].numpy() for r in self.kept], ABSENT.get(name, 0)) for name in self.kept[0]
        }
        with atomic(path) as part, open(part, "wb") as file:
            np.savez_compressed(file, **columns)


def stack(arrays: list[np.ndarray], absent: int) -> np.ndarray:
    """Stack arrays of different sizes, padded at their ends; arrays of int64 become int32."""
    shape = np.max([a.shape for a in arrays], axis=0).astype(int)
    stacked = np.full((len(arrays), *shape), absent, dtype=arrays[0].dtype)
    for i, a in enumerate(arrays):
        part: tuple[int | slice, ...] = (i, *(slice(n) for n in a.shape))
        stacked[part] = a
    return stacked.astype(np.int32) if stacked.ndim > 1 and stacked.dtype == np.int64 else stacked
