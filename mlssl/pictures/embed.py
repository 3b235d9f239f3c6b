"""Crops of images embedded by a run's encoders: input of the neighbours and histograms figures.

As in training (MLS section 3.2), a query goes through the query encoder and an entry of the dictionary through the
key encoder, each crop is a random view with the run's own augmentation. Unlike in training the encoders are in
eval mode: batch norm uses its running statistics, so that a crop's embedding does not depend on its batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from mlssl.data.augment.views import make_views
from mlssl.data.images import find_images
from mlssl.data.store import ImageStore, load_resized
from mlssl.pictures.size import sizes
from mlssl.pretrain.trained import Run, features
from mlssl.seeds import seed_of
from mlssl.study.settings import Pictures, Views

BATCH = 64
"""Crops per forward pass. The views depend on it: another value draws other crops."""


@dataclass(frozen=True)
class Crops:
    """N crops: image, box and embeddings."""

    g: np.ndarray
    """float32 N x d_g: pooled backbone features, L2-normalised."""
    z: np.ndarray | None
    """float32 N x d_z: projector outputs, L2-normalised; None for a run without a projector."""
    image: np.ndarray
    """int64 N, index of the image."""
    box: np.ndarray
    """int64 N x 4, in pixels of the stored image: x, y, width, height."""


class Folder:
    """A folder of images, decoded on access; used like an `ImageStore`."""

    def __init__(self, path: Path, short_side: int | str) -> None:
        self.paths = find_images(path)
        self.names = [p.relative_to(path).as_posix() for p in self.paths]
        self.short_side = short_side

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, i: int) -> Tensor:
        """The i-th image by name, uint8 H x W x 3, resized as in a store."""
        return torch.tensor(load_resized(self.paths[i], self.short_side))

    def batch(self, index: Tensor) -> list[Tensor]:
        """The images of an index (int64 B), each of its own size."""
        return [self.image(i) for i in index.tolist()]


def embed(
    run: Run, images: ImageStore | Folder, config: Pictures, device: torch.device, *, trained: bool = True
) -> tuple[Crops, Crops]:
    """The candidate queries and the dictionary's entries, both sampled from `images`.

    The candidates are crops of `config.candidates` images, or of all if there are fewer. The dictionary has one
    crop of every image before a second crop of any, at most CROPS_OF_AN_IMAGE of each. Images and crops depend only
    on `config.seed` and the augmentation, so runs with the same augmentation get the same crops, trained or not.

    Raises FloatingPointError for embeddings that are not finite.
    """
    encoders = run.encoders(device, trained=trained)
    queries, dictionary = (
        embed_crops(encoder, images, size, run.config.views, seed=seed_of(config.seed, "pictures", what), what=what)
        for encoder, (what, size) in zip(encoders, sizes(config, len(images)).items(), strict=True)
    )
    return queries, dictionary


@torch.no_grad()
def embed_crops(
    encoder: nn.Module, images: ImageStore | Folder, count: int, views: Views, *, seed: int, what: str
) -> Crops:
    """One view of each of `count` sampled images, through an encoder in eval mode, in the order of sampling."""
    rng = torch.Generator().manual_seed(seed)
    device = next(encoder.parameters()).device
    passes = -(-count // len(images))
    index = torch.cat([torch.randperm(len(images), generator=rng) for _ in range(passes)])[:count]
    all_g: list[Tensor] = []
    all_z: list[Tensor] = []
    boxes: list[Tensor] = []
    for part in tqdm(index.split(BATCH), desc=f"embed {what}", unit="batch"):
        (view,) = make_views(images.batch(part), part, [views], rng, device)
        g, z = features(encoder, view.pixels)
        all_g.append(g)
        if z is not None:
            all_z.append(z)
        boxes.append(view.box)
    return Crops(
        g=_normalised(all_g, what),
        z=_normalised(all_z, what) if all_z else None,
        image=index.numpy(),
        box=torch.cat(boxes).cpu().numpy(),
    )


def _normalised(batches: list[Tensor], what: str) -> np.ndarray:
    rows = F.normalize(torch.cat(batches).float(), dim=1)
    if not torch.isfinite(rows).all():
        raise FloatingPointError(f"{what}: embeddings are not finite; the run has diverged, lower its lr")
    return rows.cpu().numpy()
