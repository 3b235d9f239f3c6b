"""Entries to search: a run's features of real crops, and synthetic ones made from them for large dictionaries."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mlssl.data.store import ImageStore
from mlssl.errors import ConfigError
from mlssl.parts.search import exact
from mlssl.pictures.embed import Folder, embed_crops
from mlssl.pretrain.trained import Run
from mlssl.seeds import seed_of

ALONG = (-0.25, 1.25)
"""Range of made entries on the line from one crop (0) to another (1): chosen so that they are as near to queries as
real ones."""


def features(
    run: Run,
    images: ImageStore | Folder,
    device: torch.device,
    *,
    queries: int,
    crops: int,
    size: int,
    seed: int,
) -> tuple[Tensor, Tensor, int | None, dict[str, Any]]:
    """Queries (B x d_g), `size` entries of Q_g (size x d_g), d_z, and notes on both.

    Crops are views with the run's augmentation; queries go through the query encoder, at most `crops` entries
    through the key encoder, and `fill_up` makes the others. d_z is None for a run without a projector.
    Raises ConfigError if entries must be made, but some image has fewer than two crops.
    """
    if size > crops and crops < 2 * len(images):
        raise ConfigError(
            f"crops: {crops} crops show some of {len(images)} images once or never, and entries beyond them are "
            f"made from two crops of an image; give --crops {2 * len(images)} or more, or --sizes up to {crops}"
        )
    counts = {"queries": queries, "entries": min(crops, size)}
    asked, known = (
        embed_crops(encoder, images, n, run.config.views, seed=seed_of(seed, "search", what), what=what)
        for encoder, (what, n) in zip(run.encoders(device), counts.items(), strict=True)
    )
    rng = torch.Generator().manual_seed(seed_of(seed, "search", "made"))
    entries = fill_up(torch.from_numpy(known.g), torch.from_numpy(known.image), size, rng)
    notes = {"crops": counts, "images": len(images), "width": entries.shape[1]}
    width = None if known.z is None else known.z.shape[1]
    return torch.from_numpy(asked.g).to(device), entries.to(device), width, notes


def fill_up(crops: Tensor, image: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """`size` x d entries: the real crops (N x d, of the images `image`, each at least twice), then made ones.

    A made entry is on the line through two crops of one image, between them or up to a quarter of their distance
    beyond, and is normalised (after SMOTE, Chawla et al. 2002, which stays between them; `made_note` compares them
    with real ones).
    """
    if size <= len(crops):
        return crops[:size]
    _, group, count = image.unique(return_inverse=True, return_counts=True)
    order = group.argsort(stable=True)  # the crops of each image are contiguous
    first = count.cumsum(0) - count
    entries = torch.empty(size, crops.shape[1])
    entries[: len(crops)] = crops
    for made in entries[len(crops) :].split(len(crops)):
        one = torch.randint(len(crops), (len(made),), generator=generator)
        of = group[order[one]]
        step = 1 + (torch.rand(len(made), generator=generator) * (count[of] - 1)).long()
        other = first[of] + (one - first[of] + step) % count[of]
        t = torch.empty(len(made), 1).uniform_(*ALONG, generator=generator)
        made.copy_(F.normalize(crops[order[one]].lerp(crops[order[other]], t), dim=1))
    return entries


def made_note(queries: Tensor, entries: Tensor, real: int, k: int) -> str:
    """How entries after the first `real` were made, and their cosine to queries, compared with real entries."""
    made = entries[real : 2 * real]
    if not len(made):
        return "none"
    near = [exact(queries, rows, k)[0].mean().item() for rows in (entries[: len(made)], made)]
    return (
        f"entries after the first {real} are on lines through two crops of one image, {ALONG[0]} to {ALONG[1]} of "
        f"the way; mean cosine of queries and their {k} nearest among {len(made)} entries: {near[0]:.4f} real, "
        f"{near[1]:.4f} made"
    )
