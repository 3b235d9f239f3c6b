"""Pseudo-labels of some steps, kept so that they can be judged afterwards (labels never touch training)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mlssl.files import atomic
from mlssl.runtime import distributed

ABSENT = {"image": -1, "dictionary_image": -1}
"""What stands where an early, shorter record has no entry; 0 or False in all other columns."""


def record_steps(total: int, records: int) -> set[int]:
    """The numbers of done steps after which to keep a record: evenly spread, the last step included."""
    return {round(i * total / records) for i in range(1, records + 1)} - {0} if records else set()


class LabelRecords:
    """The records of a run, one per chosen step, as the method gave them (see MLS.label_record)."""

    def __init__(self, kept: list[dict[str, Tensor]] | None = None) -> None:
        self.kept = kept or []

    def add(self, step: int, record: dict[str, Tensor]) -> None:
        """Keep the record of a step, with the queries of all ranks; reads it back from the device."""
        if record:
            shared = [name for name in record if name.startswith("dictionary_") or name == "filled"]
            whole = {name: v if name in shared else distributed.gather(v) for name, v in record.items()}
            # Copies, because columns may be views of the dictionary.
            copies = {name: value.to("cpu", copy=True) for name, value in whole.items()}
            self.kept.append({"step": torch.tensor(step)} | copies)

    def write(self, path: Path) -> None:
        """Write an .npz of all records stacked, R x …; the format is in ARCHITECTURE.md."""
        columns = {name: stack([r[name].numpy() for r in self.kept], ABSENT.get(name, 0)) for name in self.kept[0]}
        with atomic(path) as part, open(part, "wb") as file:
            np.savez_compressed(file, **columns)


def stack(arrays: list[np.ndarray], absent: int) -> np.ndarray:
    """Stack arrays that may differ in size, padded at their ends; integers become 32 bit wide at most."""
    shape = np.max([a.shape for a in arrays], axis=0).astype(int)
    whole = np.full((len(arrays), *shape), absent, dtype=arrays[0].dtype)
    for i, a in enumerate(arrays):
        whole[(i, *map(slice, a.shape))] = a
    return whole.astype(np.int32) if whole.ndim > 1 and whole.dtype == np.int64 else whole
