"""The views of each training step: the same images and crops for every method and any number of ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from mlssl.data.augment.proposals import Candidates
from mlssl.data.augment.regions import Regions, moved
from mlssl.data.augment.views import make_views
from mlssl.data.pairs import PairFile
from mlssl.data.proposals import ProposalFile
from mlssl.data.store import ImageStore
from mlssl.parts.view import View
from mlssl.seeds import seed_of
from mlssl.study.settings import Pretrain, Region


class Steps:
    """Item i has the views of step i, on `device`; it depends only on the seed and i.

    `part` is this rank's slice of the batch. `proposals` and `pairs` are for a method that trains on boxes.
    """

    def __init__(
        self,
        store: ImageStore,
        config: Pretrain,
        device: torch.device,
        part: slice = slice(None),
        proposals: ProposalFile | None = None,
        pairs: PairFile | None = None,
    ) -> None:
        self.store, self.config, self.device, self.part = store, config, device, part
        self.views, self.proposals, self.pairs = config.view_set(), proposals, pairs
        self.with_boxes = config.regions != {"crop"}

    def __getitem__(self, step: int) -> list[View]:
        config = self.config
        index = batch_indices(step, len(self.store), config.batch_size, config.seed)
        rng = torch.Generator().manual_seed(seed_of(config.seed, "views", step))
        images, candidates = self.store.batch(index), None
        if self.proposals is not None and config.boxes_with_views:
            candidates = Candidates(*self.proposals.batch(index), wanted=config.boxes_with_views)
        return make_views(
            images,
            index,
            self.views,
            rng,
            self.device,
            part=self.part,
            candidates=candidates,
            regions=self.regions(step, index) if self.with_boxes else None,
        )

    def regions(self, step: int, index: Tensor) -> Regions:
        """The boxes of the step's views that are no random crops."""
        assert self.proposals is not None
        rng = torch.Generator().manual_seed(seed_of(self.config.seed, "regions", step))
        number = torch.rand(len(index), generator=rng, dtype=torch.float64)
        box = self.proposals.rows(index, (number * self.proposals.count(index)).long())
        boxes: dict[Region, Tensor] = {"box": box, "moved_box": moved(box, self.store.sizes[index], rng)}
        if self.pairs is None:
            return Regions(boxes)
        pair = self.pairs.draw(index, rng)
        boxes |= {"pair": pair.box, "pair_of_neighbour": pair.neighbour_box}
        return Regions(boxes, self.store.batch(pair.neighbour), pair.neighbour)


class Ahead:
    """The items of `steps`; on a GPU the next one can be made while the current one is trained.

    `prepare` puts it on a second stream of the GPU, where its copies and kernels fill what the training leaves
    unused. On a CPU it does nothing, because no core is idle.
    """

    def __init__(self, steps: Steps) -> None:
        self.steps = steps
        self._stream = torch.cuda.Stream(steps.device) if steps.device.type == "cuda" else None
        self._first, self._step, self._views = True, -1, list[View]()

    def prepare(self, step: int) -> None:
        """Begin the views of a step, on a GPU; to be called after the current step was launched."""
        if self._stream is not None:
            if self._first:  # constants that the first views were made with are on the current stream
                self._stream.wait_stream(torch.cuda.current_stream(self.steps.device))
                self._first = False
            with torch.cuda.stream(self._stream):
                self._step, self._views = step, self.steps[step]

    def __getitem__(self, step: int) -> list[View]:
        """The views of a step: those that were prepared, if it is theirs, else made now."""
        if self._stream is None or step != self._step:
            return self.steps[step]
        current = torch.cuda.current_stream(self.steps.device)
        current.wait_stream(self._stream)
        for tensor in (tensor for view in self._views for tensor in view if tensor is not None):
            tensor.record_stream(current)  # its memory is not used again before the current stream is done with it
        views, self._step, self._views = self._views, -1, []
        return views


def batch_indices(step: int, images: int, batch_size: int, seed: int) -> Tensor:
    """The images of one step, int64 B: a fresh permutation per epoch, the same for every method."""
    epoch, place = divmod(step, images // batch_size)
    generator = torch.Generator().manual_seed(seed_of(seed, "order", epoch))
    return torch.randperm(images, generator=generator)[place * batch_size : (place + 1) * batch_size]
