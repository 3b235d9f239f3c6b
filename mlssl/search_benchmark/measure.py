"""Time and recall of the searches of eq. 7, by dictionary size, on a run's own features."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from mlssl.cost.timing import quartiles, seconds
from mlssl.data.store import ImageStore
from mlssl.parts.search import InvertedFile, as_numpy, exact, import_faiss, sampled_slots
from mlssl.pictures.embed import Folder
from mlssl.pretrain.trained import Run
from mlssl.search_benchmark.entries import features, made_note
from mlssl.seeds import seed_of
from mlssl.study.settings import SearchBenchmark

Found = tuple[Tensor, Tensor]
"""Similarity and index, B x k each, as returned by `exact`."""


def benchmark(
    run: Run, images: ImageStore | Folder, config: SearchBenchmark, device: torch.device
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """One row per dictionary size and search, and notes on how they were measured.

    Columns: `size` D; `search`; `recall` of the exact neighbours, %; `cosine` of query and neighbours found, mean;
    `ms`, `ms_q25`, `ms_q75` per batch of queries, median and quartiles; `update_ms` per batch of keys, median;
    `build_s` seconds to build; `step_ms` per training step, with the build time spread over D keys;
    `memory_mb` in addition to the dictionary, MB; `queries` searched. Values that do not apply are NaN.
    """
    count, size = config.batch * config.batches, max(config.sizes)
    queries, entries, width, notes = features(
        run, images, device, queries=count, crops=config.crops, size=size, seed=config.seed
    )
    batches = queries.split(config.batch)
    notes["made"] = made_note(queries, entries, config.crops, config.k)
    notes["faiss"] = metadata.version("faiss-cpu")
    notes["lists"] = {str(size): InvertedFile(size).lists for size in config.sizes}
    rows: list[dict[str, Any]] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(config.seed, "search", "sample"))
        for size in tqdm(config.sizes, desc="search", unit="size"):
            rows += measure(batches, entries[:size], config, width)
    return pd.DataFrame(rows), notes


def measure(
    batches: tuple[Tensor, ...], entries: Tensor, config: SearchBenchmark, width: int | None
) -> Iterator[dict]:
    """All searches at one size; `width` is that of the logits' entries, d_z."""
    size = len(entries)
    truth, taken = timed(partial(exact, entries=entries, k=config.k), batches)
    row = partial(summary, size=size, truth=truth, config=config)
    nearest: Callable[[Tensor], Found]
    extra: dict[str, Any]
    yield row("exact", truth, taken)
    if width:
        yield logits(size, width, batches)
    for sample in config.samples:
        if sample < size:
            nearest = partial(in_sample, entries=entries, sample=sample, k=config.k)
            yield row(f"sample {sample}", *timed(nearest, batches))

    file = InvertedFile(size, refresh=math.inf)
    build_s = seconds(lambda: file.update(entries, size), entries.device)
    steps = range(size + config.batch, size + config.batches * config.batch + 1, config.batch)
    updates = [1000 * seconds(partial(file.update, entries, written), entries.device) for written in steps]
    extra = {"build_s": build_s, "update_ms": float(np.median(updates[1:])), "memory_mb": file.memory / 2**20}
    for probes in config.probes:
        if probes <= file.lists:
            file.probes = probes
            timing = timed(partial(file.nearest, entries=entries, k=config.k), batches)
            yield row(f"ivf {probes}", *timing, **extra)

    if size <= config.graph_up_to:
        nearest, extra = graph(entries, config.k)
        yield row("hnsw", *timed(nearest, batches), **extra)


def timed(nearest: Callable[[Tensor], Found], batches: tuple[Tensor, ...]) -> tuple[Found, list[float]]:
    """The results of all batches, and milliseconds of each except the first, which is a warm-up."""
    results: list[Found] = []

    def search(batch: Tensor) -> None:
        results.append(nearest(batch))

    taken = [1000 * seconds(partial(search, batch), batch.device) for batch in batches]
    similarity, index = (torch.cat(parts) for parts in zip(*results, strict=True))
    return (similarity, index), taken[1:]


def summary(
    search: str,
    found: Found,
    taken: list[float],
    *,
    size: int,
    truth: Found,
    config: SearchBenchmark,
    update_ms: float = 0.0,
    build_s: float = 0.0,
    memory_mb: float = 0.0,
) -> dict[str, Any]:
    """One row of the result. A graph cannot remove entries, so it has no update and step time (NaN)."""
    times = quartiles(taken)
    return {
        "size": size,
        "search": search,
        "recall": 100 * recall(found[1], truth[1]),
        "cosine": found[0].mean().item(),
        **times,
        "update_ms": update_ms,
        "build_s": build_s,
        "step_ms": times["ms"] + update_ms + 1000 * build_s * config.batch / size,
        "memory_mb": memory_mb,
        "queries": len(found[1]),
    }


def recall(found: Tensor, truth: Tensor) -> float:
    """Share of the true neighbours (B x k) that are among those found (B x k), in [0, 1]."""
    return (truth[:, :, None] == found[:, None, :]).any(dim=2).float().mean().item()


def in_sample(queries: Tensor, *, entries: Tensor, sample: int, k: int) -> Found:
    """The neighbours in a new sample, by their index in the full dictionary."""
    rows = sampled_slots(len(entries), sample)
    similarity, index = exact(queries, entries[rows], k)
    return similarity, rows.start + rows.step * index


def logits(size: int, width: int, batches: tuple[Tensor, ...]) -> dict[str, Any]:
    """Time of eq. 8's product with Q_z, which every search needs. It does not depend on the values."""
    device, count = batches[0].device, sum(map(len, batches))
    z, weights = (torch.rand(rows, width, device=device) for rows in (len(batches[0]), size))
    taken = [1000 * seconds(lambda: z @ weights.T, device) for _ in batches][1:]
    times = quartiles(taken)
    return {"size": size, "search": "logits", **times, "step_ms": times["ms"], "queries": count}


def graph(entries: Tensor, k: int) -> tuple[Callable[[Tensor], Found], dict[str, Any]]:
    """HNSW (Malkov and Yashunin, arXiv 1603.09320) by faiss, 32 links, 64 candidates: its search and its cost."""
    faiss = import_faiss()
    index = faiss.IndexHNSWFlat(entries.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efSearch = 64
    build_s = seconds(lambda: index.add(as_numpy(entries)), entries.device)
    memory = 4 * (entries.numel() + index.hnsw.neighbors.size()) / 2**20

    def nearest(queries: Tensor) -> Found:
        similarity, indices = index.search(as_numpy(queries), k)
        return torch.from_numpy(similarity), torch.from_numpy(indices).to(queries.device)

    return nearest, {"build_s": build_s, "memory_mb": memory, "update_ms": math.nan}


def rows_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The table as rows of a result file: metrics like `ivf 16, recall at 65536`, without NaN."""
    long = table.melt(["size", "search", "queries"], var_name="column").dropna(subset="value")
    return [
        {
            "protocol": "search",
            "metric": f"{row['search']}, {row['column']} at {row['size']}",
            "value": round(row["value"], 4),
            "n": int(row["queries"]),
        }
        for row in long.to_dict("records")
    ]
