"""The dictionary (MoCo's queue): first in, first out, with several columns per key."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mlssl.runtime import distributed


class Dictionary(nn.Module):
    """The last `size` keys; every column stores one property of the keys, in the same order.

    Args:
        size: D, the number of slots.
        columns: name -> (width, dtype) of each column; a column is a buffer `size x width`.

    Slots that were never written are not read, so they are never a neighbour. The buffers and the position of the
    next write are in the state dict.
    """

    def __init__(self, size: int, columns: dict[str, tuple[int, torch.dtype]]) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"dictionary size {size} is too small; give at least 1")
        self.size = size
        self.columns = tuple(columns)
        for name, (width, dtype) in columns.items():
            self.register_buffer(name, torch.zeros(size, width, dtype=dtype))
        self._written = 0
        self._staged: dict[str, Tensor] = {}
        self.register_state_dict_pre_hook(_write_staged)

    def __len__(self) -> int:
        """Number of entries, at most `size`."""
        return min(self.written, self.size)

    @property
    def written(self) -> int:
        """Number of keys ever written; the newest is in slot (written - 1) mod size."""
        self._write()
        return self._written

    def read(self) -> dict[str, Tensor]:
        """All entries as columns `len(self) x width`; row i of every column belongs to the same key.

        These are the buffers themselves, not copies: valid until the first call after the next `enqueue`.
        """
        filled = len(self)
        return {name: getattr(self, name)[:filled] for name in self.columns}

    def enqueue(self, **columns: Tensor) -> None:
        """Replace the oldest keys by a batch of keys (every column, `B x width`); ValueError if B > size.

        With several ranks each passes its part of the batch; the full batch is added in the same order on each.

        The rows are written when the dictionary is next used, because until then autograd may need the old
        rows for the backward pass of this step. This avoids a copy of the dictionary.
        """
        self._write()
        if set(columns) != set(self.columns):
            raise ValueError(f"dictionary has the columns {self.columns}, got {tuple(columns)}")
        batch = distributed.count() * len(next(iter(columns.values())))
        if batch > self.size:
            raise ValueError(
                f"batch of {batch} does not fit into a dictionary of {self.size}; "
                "raise dictionary_size or lower batch_size"
            )
        self._staged = {name: distributed.gather(value.detach()) for name, value in columns.items()}

    @torch.no_grad()
    def _write(self) -> None:
        if not self._staged:
            return
        staged, self._staged = self._staged, {}
        for name, rows in staged.items():
            column = getattr(self, name)
            rows = rows.to(column.dtype)
            first = self._written % self.size
            until_end = min(len(rows), self.size - first)
            column[first : first + until_end] = rows[:until_end]
            column[: len(rows) - until_end] = rows[until_end:]
        self._written += len(rows)

    def get_extra_state(self) -> dict[str, int]:
        return {"written": self._written}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self._written = state["written"]


def _write_staged(dictionary: Dictionary, prefix: str, keep_vars: bool) -> None:
    dictionary._write()
