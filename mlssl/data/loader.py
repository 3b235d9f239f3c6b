"""The views of each training step: the same images and crops for every method and any number of ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from mlssl.data.augment.views import make_views
from mlssl.data.store import ImageStore
from mlssl.parts.view import View
from mlssl.seeds import seed_of
from mlssl.study.settings import Pretrain


class Steps:
    """Item i is the pair of views of step i, on `device`; it depends only on the seed and i.

    `part` is this rank's slice of the batch.
    """

    def __init__(
        self, store: ImageStore, config: Pretrain, device: torch.device, part: slice = slice(None)
    ) -> None:
        self.store, self.config, self.device, self.part = store, config, device, part

    def __getitem__(self, step: int) -> list[View]:
        config = self.config
        index = batch_indices(step, len(self.store), config.batch_size, config.seed)
        rng = torch.Generator().manual_seed(seed_of(config.seed, "views", step))
        return make_views(self.store.batch(index), index, config.views, rng, self.device, part=self.part)


def batch_indices(step: int, images: int, batch_size: int, seed: int) -> Tensor:
    """The images of one step, int64 B: a fresh permutation per epoch, the same for every method."""
    epoch, place = divmod(step, images // batch_size)
    generator = torch.Generator().manual_seed(seed_of(seed, "order", epoch))
    return torch.randperm(images, generator=generator)[place * batch_size : (place + 1) * batch_size]
