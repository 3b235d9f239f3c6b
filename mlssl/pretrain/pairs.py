"""Pairs of boxes that look alike to a trained network, over the nearest neighbours of each image.

The second stage of ORL (Xie et al., NeurIPS 2021, arXiv 2106.11952).

Images are neighbours by the cosine of their projections, boxes look alike by that of their pooled backbone
features. Both are embedded by the query encoder in eval mode, resized to the size of the run's first view.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import Tensor, nn
from torchvision.transforms.v2.functional import resized_crop
from tqdm import tqdm

from mlssl.data.augment.operations import normalise
from mlssl.data.pairs import PairFile, described, summary, write_pairs
from mlssl.data.proposals import ProposalFile
from mlssl.data.store import ImageStore
from mlssl.errors import ConfigError
from mlssl.pretrain.trained import Run, features
from mlssl.runtime.device import facts
from mlssl.study.code import stage_code
from mlssl.study.identity import run_digest
from mlssl.study.settings import Pretrain

BATCH = 64
"""Images or boxes per forward pass; it changes nothing but memory and speed."""
BLOCK = 1024
"""Images whose similarities to all others are computed at a time."""
CENTRE = 224 / 256
"""Side of an image's central square that is embedded, as a share of its short side."""


def find_pairs(
    run: Run, store: ImageStore, proposals: ProposalFile, config: Pretrain, device: torch.device
) -> None:
    """Write the file of pairs `config.pairs_file`, found by the network of a finished pretraining.

    The file appears only when it is complete; an existing file of the same network, boxes and settings is left
    unchanged. Raises ConfigError for settings without pairs, the run of another experiment or seed, a method
    without a projector and fewer images than neighbours; DataError for an existing file of something else.
    """
    pairs, size = config.pairs, run.config.view_set()[0].crop
    if pairs is None or config.pairs_file is None:
        raise ConfigError(
            f"pretrain.pairs: {config.method} has none, so there is nothing to find; give another run"
        )
    if (run_digest(run.config), run.config.seed) != (config.pairs_id, config.seed):
        raise ConfigError(
            f"{run.path}: is {run.name}, not the run of {pairs.method} with seed {config.seed} that pairs the boxes"
        )
    if len(store) <= pairs.neighbours:
        raise ConfigError(
            f"pretrain.pairs.neighbours: {pairs.neighbours} of {len(store)} images are too many; give less"
        )
    out = Path(config.pairs_file)
    out.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(out.with_name(f".{out.name}.lock")):
        if out.exists():
            PairFile(out, config, proposals)
            return
        began, encoder = time.monotonic(), run.encoders(device)[0]
        numbers = proposals.count(torch.arange(len(store)))
        images, boxes, each = len(store), int(numbers.sum()), boxes_of(store, proposals)
        z = [*embedded(encoder, centres(store), store, size, device, what="images", total=images, of="z")]
        neighbours = nearest(torch.cat(z), pairs.neighbours)
        g = embedded(encoder, each, store, size, device, what="boxes", total=boxes, of="g")
        with tempfile.TemporaryFile(dir=out.parent) as file:
            count, rows = paired(on_disk(file, g, boxes), numbers, neighbours, pairs.share)
        about = {
            **described(config, proposals),
            "run": run.name,
            "run_seconds": round(run.seconds, 3),
            "images": len(store),
            "seconds": round(time.monotonic() - began, 3),
            "device": facts(device)["device"],
            "code": stage_code("pairs"),
        }
        write_pairs(out, neighbours.numpy(), count, rows, about)
        print(f"{out}: {summary({**about, 'pairs': len(rows)})}", file=sys.stderr)


def on_disk(file: BinaryIO, batches: Iterator[Tensor], rows: int) -> Tensor:
    """All rows in a file, as half floats: the boxes of COCO have tens of gigabytes of features."""
    written: np.ndarray | None = None
    first = 0
    for batch in batches:
        if written is None:
            written = np.memmap(file, dtype=np.float16, mode="w+", shape=(rows, batch.shape[1]))
        written[first : first + len(batch)] = batch.half().numpy()
        first += len(batch)
    assert written is not None
    return torch.from_numpy(written)


Cut = tuple[int, list[int]]
"""Index of an image, and a box in its pixels: x, y, width, height."""


def centres(store: ImageStore) -> Iterator[Cut]:
    """The central square of each image."""
    for i, (height, width) in enumerate(store.sizes.tolist()):
        side = round(CENTRE * min(height, width))
        yield i, [(width - side) // 2, (height - side) // 2, side, side]


def boxes_of(store: ImageStore, proposals: ProposalFile) -> Iterator[Cut]:
    """All proposals of each image, in the order of the file."""
    for i in range(len(store)):
        places = torch.arange(int(proposals.count(torch.tensor([i]))))
        for box in proposals.rows(torch.full_like(places, i), places).tolist():
            yield i, box


@torch.no_grad()
def embedded(
    encoder: nn.Module,
    cuts: Iterator[Cut],
    store: ImageStore,
    size: int,
    device: torch.device,
    *,
    what: str,
    total: int,
    of: Literal["g", "z"],
) -> Iterator[Tensor]:
    """Pooled features g or projections z of boxes, L2-normalised float32 rows on the CPU, batch after batch."""
    with tqdm(total=total, desc=f"embed {what}", unit="crop", mininterval=1) as bar:
        while part := list(islice(cuts, BATCH)):
            pixels = torch.stack([cut(store.image(i), box, size) for i, box in part]).to(device)
            pixels = pixels.float() / 255
            g, z = features(encoder, normalise(pixels, out=pixels))
            if of == "z" and z is None:
                raise ConfigError("pretrain.pairs.method: has no projector, whose embeddings give the neighbours")
            rows = F.normalize((g if of == "g" or z is None else z).float(), dim=1)
            if not rows.isfinite().all():
                raise FloatingPointError("embeddings are not finite; the run has diverged, lower its lr")
            yield rows.cpu()
            bar.update(len(part))


def cut(image: Tensor, box: Sequence[int], size: int) -> Tensor:
    """A box of an image (uint8 H x W x 3) resized to a square, without keeping its aspect: uint8 3 x S x S."""
    x, y, width, height = box
    return resized_crop(image.permute(2, 0, 1), y, x, height, width, [size, size], antialias=True)


def nearest(z: Tensor, k: int) -> Tensor:
    """The k rows with the highest cosine to each of n normalised rows, itself left out: int64 n x k, best first."""
    found = []
    for first in range(0, len(z), BLOCK):
        similar = z[first : first + BLOCK] @ z.T
        own = torch.arange(len(similar))
        similar[own, own + first] = -math.inf
        found.append(similar.topk(k, dim=1).indices)
    return torch.cat(found)


def paired(g: Tensor, count: Tensor, neighbours: Tensor, share: float) -> tuple[np.ndarray, np.ndarray]:
    """The most similar pairs of boxes of each image and each of its neighbours.

    `g` has a normalised row for each of the `count` (int64 n) boxes of the images, one image after the other;
    `neighbours` are int64 n x K. Of B boxes of an image, the max(1, floor(share B)) best of all its pairs with a
    neighbour are kept, at most all. Returns the number of pairs, n x K, and their places, P x 2.
    """
    first = (count.cumsum(0) - count).tolist()
    numbers, rows = np.zeros(neighbours.shape, dtype=np.int64), []
    for i, others in enumerate(tqdm(neighbours.tolist(), desc="pair boxes", unit="image", mininterval=1)):
        mine = g[first[i] : first[i] + int(count[i])].float()
        for place, other in enumerate(others):
            theirs = g[first[other] : first[other] + int(count[other])].float()
            similar = mine @ theirs.T
            best = similar.flatten().topk(min(max(1, math.floor(share * len(mine))), similar.numel())).indices
            rows.append(torch.stack([best // len(theirs), best % len(theirs)], dim=1))
            numbers[i, place] = len(best)
    return numbers, torch.cat(rows).numpy()
