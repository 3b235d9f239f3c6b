"""The search of eq. 7 (MLS, arXiv 2308.03286): the k entries of the dictionary nearest to each query.

Exact over all entries, exact over a sample of them, or approximate with an inverted file. Queries and entries
are L2-normalised, so inner products are cosines. No gradient flows. `mlssl search-benchmark` measures the
searches.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from mlssl.errors import ConfigError

PER_LIST = 39
"""Training entries per list: the minimum for faiss's k-means without a warning about poor centroids."""
LLOYD = 5
"""Iterations of k-means; few, because the centroids are only approximate and are retrained regularly."""


@torch.no_grad()
def exact(queries: Tensor, entries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Exact search: queries B x d, entries D x d -> similarity and index, B x min(k, D), nearest first."""
    top = (queries @ entries.T).topk(min(k, len(entries)), dim=1)
    return top.values, top.indices


def sampled_slots(filled: int, sample: int) -> slice:
    """The slots of one step's sample of a dictionary's `filled` entries, ascending: every n-th from a random start.

    n = filled // sample, so every entry is drawn with probability 1/n, and old and new entries are represented in
    proportion. The sample has `sample` entries if that divides `filled`, else fewer than twice that number; a
    smaller dictionary is used completely. A slice of a column is a view without a copy. The random number is
    drawn from torch's global CPU generator, which checkpoints save; it needs no GPU synchronisation.
    """
    if sample < 1:
        raise ConfigError(f"sample: {sample} entries are too few; give at least 1")
    stride = max(1, filled // sample)
    return slice(int(torch.randint(stride, ())), filled, stride)


class InvertedFile(nn.Module):
    """Approximate search: entries are in lists by their nearest centroid, and a query searches a few lists.

    Sivic and Zisserman 2003; faiss's IndexIVFFlat (Douze et al., arXiv 2401.08281), updated slot by slot as
    the first-in-first-out dictionary is overwritten. faiss runs on the CPU: queries on another device are copied
    there, and it stores a second copy of the entries.

    Args:
        size: D, the slots of the dictionary; there are about 4 sqrt(D) lists.
        probes: lists that a query searches; all lists give the exact result.
        refresh: the lists are retrained by k-means every `refresh` x D keys.

    Until there are 39 entries per list, the search is exact. The state dict has the slots in each list in their
    order, but not the vectors, which are in the dictionary. Raises ConfigError without faiss.
    """

    def __init__(self, size: int, *, probes: int = 16, refresh: float = 1.0) -> None:
        super().__init__()
        if probes < 1 or refresh <= 0:
            raise ConfigError(f"inverted file: probes {probes} and refresh {refresh} must be positive")
        self.size, self.probes, self.refresh = size, probes, refresh
        self.lists = max(1, min(round(4 * math.sqrt(size)), size // PER_LIST))
        self._faiss = import_faiss()
        self._index: Any = None
        self._seen = self._trained = 0
        """Keys written to the dictionary at the last update, and at the last training of the lists."""
        self._restored: dict[str, Tensor] = {}

    @torch.no_grad()
    def update(self, entries: Tensor, written: int) -> None:
        """Add all keys written since the last call; must be called before `nearest`.

        `entries` is filled x d, row i is slot i; `written` is the number of keys ever written to the dictionary,
        so the newest is in slot (written - 1) mod D.
        """
        if self._restored:
            self._rebuild(entries)
        if self._index is None:
            due = len(entries) >= min(self.size, PER_LIST * self.lists)
        else:
            due = written - self._trained >= self.refresh * self.size
        if due:
            self._train(entries)
            self._trained = written
        elif self._index is not None:
            fresh = torch.arange(max(self._seen, written - self.size), written) % self.size
            self._write(entries, fresh.sort().values)
        self._seen = written

    @torch.no_grad()
    def nearest(self, queries: Tensor, entries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """As `exact`, from the lists of the nearest centroids. Queries with fewer than k results use `exact`."""
        if self._index is None:
            return exact(queries, entries, k)
        self._index.nprobe = min(self.probes, self.lists)
        results = self._index.search(as_numpy(queries), min(k, len(entries)))
        similarity, index = (torch.from_numpy(values).to(queries.device) for values in results)
        short = (index < 0).any(dim=1)
        if short.any():
            similarity[short], index[short] = exact(queries[short], entries, k)
        return similarity, index

    @property
    def memory(self) -> int:
        """Bytes in addition to the dictionary: a copy of the entries, their slots and positions, the centroids."""
        if self._index is None:
            return 0
        return self._index.ntotal * (self._index.code_size + 8 + 8) + self.lists * self._index.code_size

    def _train(self, entries: Tensor) -> None:
        """Train the centroids by k-means on a fixed sample of the entries, and assign every entry to its list."""
        vectors = as_numpy(entries)
        index = self._empty(vectors.shape[1])
        index.cp.niter, index.cp.max_points_per_centroid = LLOYD, PER_LIST
        index.train(vectors)
        index.set_direct_map_type(self._faiss.DirectMap.Array)
        index.add(vectors)
        self._index = index

    def _write(self, entries: Tensor, slots: Tensor) -> None:
        """Move overwritten slots to their new lists; `slots` are ascending, so new ones are last."""
        vectors = as_numpy(entries[slots.to(entries.device)])
        old = int((slots < self._index.ntotal).sum())
        if old:
            self._index.update_vectors(slots[:old].numpy(), vectors[:old])
        if old < len(slots):
            self._index.add(vectors[old:])

    def _empty(self, dim: int, centroids: Tensor | None = None) -> Any:
        quantizer = self._faiss.IndexFlatIP(dim)
        if centroids is not None:
            quantizer.add(centroids.numpy())
        return self._faiss.IndexIVFFlat(quantizer, dim, self.lists, self._faiss.METRIC_INNER_PRODUCT)

    def _rebuild(self, entries: Tensor) -> None:
        """Rebuild the lists of a restored state. Slots overwritten since then are moved by the next `_write`."""
        centroids, slots, lengths = (self._restored[name] for name in ("centroids", "slots", "lengths"))
        vectors = as_numpy(entries[slots.to(entries.device)])
        index = self._empty(vectors.shape[1], centroids)
        lists = torch.arange(self.lists).repeat_interleave(lengths)
        pointers = (self._faiss.swig_ptr(values) for values in (vectors, slots.numpy(), lists.numpy()))
        index.add_core(len(slots), *pointers)
        index.set_direct_map_type(self._faiss.DirectMap.Array)
        self._index, self._restored = index, {}

    def get_extra_state(self) -> dict[str, Any]:
        state = {"seen": self._seen, "trained": self._trained, "lists": self._restored}
        if self._index is not None:
            inverted, view = self._index.invlists, self._faiss.rev_swig_ptr
            lengths = [inverted.list_size(i) for i in range(self.lists)]
            slots = [torch.from_numpy(view(inverted.get_ids(i), n).copy()) for i, n in enumerate(lengths) if n]
            centroids = torch.from_numpy(self._index.quantizer.reconstruct_n(0, self.lists))
            state["lists"] = {"centroids": centroids, "slots": torch.cat(slots), "lengths": torch.tensor(lengths)}
        return state

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self._seen, self._trained, self._restored = state["seen"], state["trained"], state["lists"]
        self._index = None


def as_numpy(rows: Tensor) -> Any:
    """float32, contiguous, on the CPU, as faiss requires."""
    return rows.float().cpu().contiguous().numpy()


def import_faiss() -> ModuleType:
    """faiss, with torch's number of threads; ConfigError with the install command if it is missing."""
    try:
        import faiss
    except ImportError:
        raise ConfigError("search 'ivf' needs faiss; install it: pip install 'mlssl[search]'") from None
    faiss.omp_set_num_threads(torch.get_num_threads())
    return faiss
