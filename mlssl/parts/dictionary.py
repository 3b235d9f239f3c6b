"""The dictionary (MoCo's queue): first in, first out, several columns in one order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mlssl.runtime import distributed


class Dictionary(nn.Module):
    """The last `size` keys, with all that belongs to a key in columns of the same order.

    Args:
        size: D, the number of slots.
        columns: name -> (width, dtype) of each column; a column is a buffer `size x width`.

    Slots that were never written are not part of what is read, so they can be nobody's neighbour. Buffers are
    in the state dict together with the place of the next write.
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

    def __len__(self) -> int:
        """Number of entries, at most `size`."""
        return min(self.written, self.size)

    @property
    def written(self) -> int:
        """Number of keys ever written; the newest lies in slot (written - 1) mod size."""
        self._write()
        return self._written

    def read(self) -> dict[str, Tensor]:
        """All entries, column by column, each `len(self) x width`; row i of every column is the same key.

        These are the buffers themselves, not copies: valid until the first call after the next `enqueue`.
        """
        filled = len(self)
        return {name: getattr(self, name)[:filled] for name in self.columns}

    def enqueue(self, **columns: Tensor) -> None:
        """Add a batch of keys (every column, `B x width`), in place of the oldest; ValueError if B > size.

        With several ranks each gives its part of the batch, and all of it is added, in one order on every rank.

        The rows are written when the dictionary is next used. Until then autograd may still need the old
        ones for the backward pass of this step; waiting spares a copy of the whole dictionary.
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

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        self._write()
        return super().state_dict(*args, **kwargs)
