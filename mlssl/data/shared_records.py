"""Records in one file that several processes read, each record unpickled when it is asked for. Imports no torch."""

from __future__ import annotations

import pickle
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np


class SharedRecords(Mapping[int, Any]):
    """A read-only copy of a mapping from integers to records, in a temporary file.

    Pickling it sends the file's path. The file is in the page cache once for all processes, and is removed with the
    object that made it, which must outlive its copies in other processes.
    """

    def __init__(self, records: Mapping[int, Any]) -> None:
        keys = sorted(records)
        self._keys, self._ends = np.array(keys, dtype=np.int64), np.zeros(len(keys), dtype=np.int64)
        with tempfile.NamedTemporaryFile(prefix="mlssl-records-", delete=False) as file:
            self._path = Path(file.name)
            weakref.finalize(self, self._path.unlink, missing_ok=True)
            for i, key in enumerate(keys):
                file.write(pickle.dumps(records[key], protocol=pickle.HIGHEST_PROTOCOL))
                self._ends[i] = file.tell()
        self._bytes: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_bytes": None}

    def __getitem__(self, key: int) -> Any:
        i = int(np.searchsorted(self._keys, key))
        if i == len(self._keys) or self._keys[i] != key:
            raise KeyError(key)
        if self._bytes is None:  # the file has at least one record
            self._bytes = np.memmap(self._path, dtype=np.uint8, mode="r")
        start = self._ends[i - 1] if i else 0
        return pickle.loads(self._bytes[start : self._ends[i]].tobytes())

    def __iter__(self) -> Iterator[int]:
        return iter(self._keys.tolist())

    def __len__(self) -> int:
        return len(self._keys)
