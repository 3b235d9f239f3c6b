"""Input pipelines for training: each yields endless pairs of normalised batches, B x 3 x S x S, on the device."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

from benchmarks.cases import Case
from mlssl.data import placement
from mlssl.data.augment.gpu import padded
from mlssl.data.augment.parameters import MEAN, STD
from mlssl.data.loader import Ahead, Steps
from mlssl.data.store import ImageStore, build_store
from mlssl.study.settings import Data, Pretrain, Views

if TYPE_CHECKING:
    from lightly.data import LightlyDataset

Pairs = Generator[tuple[Tensor, Tensor], None, None]
ENDLESS = 10**9


def limit(case: Case, photos: Path, device: torch.device) -> Pairs:
    """Yield the same random tensors repeatedly: no data loading."""
    view1, view2 = (torch.randn(case.batch, 3, case.crop, case.crop, device=device) for _ in range(2))
    while True:
        yield view1, view2


def ours(case: Case, photos: Path, device: torch.device) -> Pairs:
    """The suite's store and views, as pretraining uses them."""
    store = open_store(case, photos, device)
    config = Pretrain(
        Data(str(photos)), method="", seed=0, batch_size=case.batch, views=Views(crop=case.crop), epochs=1.0
    )
    steps, step = Ahead(Steps(store, config, device)), 0
    while True:
        view1, view2 = steps[step]
        yield view1.pixels, view2.pixels
        step += 1
        steps.prepare(step)


def lightly(case: Case, photos: Path, device: torch.device) -> Pairs:
    """lightly's dataset and MoCo-v2 transform in a PyTorch DataLoader, one worker per core."""
    from lightly.data import LightlyDataset
    from lightly.transforms import MoCoV2Transform

    data = LightlyDataset(str(photos), transform=MoCoV2Transform(input_size=case.crop))
    for (view1, view2), _, _ in loader(data, case, device):
        yield view1.to(device, non_blocking=True), view2.to(device, non_blocking=True)


def torchvision(case: Case, photos: Path, device: torch.device) -> Pairs:
    """torchvision's v2 transforms on uint8 tensors in a DataLoader, one worker per core."""
    for view1, view2 in loader(Decoded(photos, case.crop), case, device):
        yield view1.to(device, non_blocking=True), view2.to(device, non_blocking=True)


def kornia(case: Case, photos: Path, device: torch.device) -> Pairs:
    """kornia's batch augmentation on our store: no anti-aliasing, one order of colour operations per batch."""
    import kornia.augmentation as K

    store, size, jitter = open_store(case, photos, device), (case.crop, case.crop), (0.4, 0.4, 0.4, 0.1)
    augment = torch.nn.Sequential(
        K.RandomResizedCrop(size, scale=(0.2, 1.0)),
        K.ColorJitter(*jitter, p=0.8),
        K.RandomGrayscale(p=0.2),
        K.RandomGaussianBlur((23, 23) if case.crop > 23 else (3, 3), (0.1, 2.0), p=0.5),
        K.RandomHorizontalFlip(),
        K.Normalize(MEAN, STD),
    )
    while True:
        index = torch.randint(len(store), (case.batch,))
        whole = torch.cat([torch.zeros_like(store.sizes[index]), store.sizes[index].flip(1)], dim=1)
        images = padded(store.batch(index), [whole], device)[0].float() / 255
        yield augment(images), augment(images)


class Decoded(Dataset):
    """Dataset that decodes a JPEG and applies torchvision's transforms twice, for two views."""

    def __init__(self, photos: Path, crop: int) -> None:
        from torchvision.transforms import v2

        self.paths = sorted(photos.iterdir())
        self.transform = v2.Compose(
            [
                v2.RandomResizedCrop(crop, scale=(0.2, 1.0), antialias=True),
                v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
                v2.RandomGrayscale(0.2),
                v2.RandomApply([v2.GaussianBlur(23, (0.1, 2.0))], p=0.5),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        from torchvision.io import ImageReadMode, decode_image

        image = decode_image(self.paths[i], ImageReadMode.RGB)
        return self.transform(image), self.transform(image)


def loader(data: LightlyDataset | Decoded, case: Case, device: torch.device) -> DataLoader:
    sampler = RandomSampler(data, replacement=True, num_samples=ENDLESS)
    return DataLoader(
        data, case.batch, sampler=sampler, num_workers=os.cpu_count() or 1, pin_memory=device.type == "cuda"
    )


def open_store(case: Case, photos: Path, device: torch.device) -> ImageStore:
    """The photos as an image store, with its pixels where pretraining keeps them."""
    path = photos.parent / f"store-{case.short_side}"
    build_store(photos, path, short_side=case.short_side)
    store = ImageStore(path)
    place = placement.choose_place(store.pixels.numel(), placement.free_memory(device))
    store.pixels = placement.moved(store.pixels, place, device)
    return store


TRAINING: dict[str, Callable[[Case, Path, torch.device], Pairs]] = {
    "limit": limit,
    "ours": ours,
    "lightly": lightly,
    "torchvision": torchvision,
}
INPUT = {name: TRAINING[name] for name in ("ours", "lightly", "torchvision")} | {"kornia": kornia}
PEERS = ("lightly", "kornia")
"""Other libraries: skipped, with a message, if they are not installed."""


def absent(device: torch.device) -> set[str]:
    """The contenders that cannot be measured here, with a message for each."""
    skip = {peer for peer in PEERS if importlib.util.find_spec(peer) is None}
    for peer in sorted(skip):
        print(f"{peer} is not installed and is skipped; pip install 'mlssl[bench]'", file=sys.stderr)
    if device.type == "cuda" or importlib.util.find_spec("faiss") is None:
        skip.add("mls, ivf")
        print("MLS with an inverted file is skipped: it needs a CPU and faiss", file=sys.stderr)
    return skip
