"""What all evaluators load: the pretrained backbone, and images in an order that the seed alone decides."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from mlssl.data.augment.views import MEAN, STD
from mlssl.data.coco import Split, read_split
from mlssl.errors import ConfigError, DataError
from mlssl.parts.backbone import create_backbone
from mlssl.runtime import distributed
from mlssl.runtime.batch_norm import synchronise
from mlssl.runtime.device import gains_from_bf16
from mlssl.seeds import seed_of
from mlssl.study.settings import Data
from mlssl.tensors import read_own


def load_backbone(path: Path, *, output_stride: int = 32) -> tuple[nn.Module, dict[str, Any]]:
    """The backbone in a file written by a pretraining, and the file's meta (run, method, seed, digest, …).

    `output_stride` is in input pixels per cell of the last map. Raises ConfigError when the file cannot be
    read, or when its keys and those of the named model are not exactly the same.
    """
    remedies = {"missing": "pretrain and export a backbone first", "broken": "export it again"}
    content = read_own(path, "a backbone.pt", {"backbone", "meta"}, **remedies)
    weights, meta = content["backbone"], content["meta"]
    if "backbone" not in meta:
        raise ConfigError(f"{path}: meta has no 'backbone', the model's name; export it again")
    backbone = create_backbone(meta["backbone"], output_stride=output_stride)
    expected = backbone.state_dict()
    shared = expected.keys() & weights.keys()
    wrong = {
        "missing": sorted(expected.keys() - shared),
        "unexpected": sorted(weights.keys() - shared),
        "of another shape": sorted(k for k in shared if expected[k].shape != weights[k].shape),
    }
    if any(wrong.values()):
        parts = [f"{len(keys)} keys {how}: {', '.join(keys[:3])}" for how, keys in wrong.items() if keys]
        raise ConfigError(
            f"{path}: does not fit timm's {meta['backbone']} ({'; '.join(parts)}); "
            "export the bare backbone, with timm's own key names and without head or prefix"
        )
    backbone.load_state_dict(weights, strict=True)
    return backbone, meta


def read_splits(data: Data) -> tuple[Split, Split]:
    """The training and the validation split; DataError when their categories differ."""
    train, val = read_split(data.root, data.train), read_split(data.root, data.val)
    if [(c["id"], c["name"]) for c in train.categories] != [(c["id"], c["name"]) for c in val.categories]:
        raise DataError(
            f"{val.annotation_file}: key 'categories' is not that of {train.annotation_file}; make them equal"
        )
    return train, val


def image_tensor(split: Split, i: int) -> Tensor:
    """The i-th image, uint8 3 x H x W."""
    return torch.from_numpy(split.pixels(i).copy()).permute(2, 0, 1)


def resize(image: Tensor, size: int) -> Tensor:
    """uint8 3 x H x W to 3 x size x size: bilinear, antialiased; the aspect ratio is not kept."""
    if image.shape[1:] == (size, size):
        return image
    return F.interpolate(image[None], size=(size, size), mode="bilinear", antialias=True)[0]


def normalise(images: Tensor) -> Tensor:
    """uint8 B x 3 x H x W to float32 with ImageNet's mean and standard deviation per channel taken out."""
    mean, std = (images.new_tensor(v, dtype=torch.float32)[:, None, None] for v in (MEAN, STD))
    return (images.float() / 255 - mean) / std


@lru_cache(maxsize=2)
def _permutation(count: int, seed: int) -> list[int]:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()


def draw(t: int, count: int, seed: int, protocol: str) -> tuple[int, torch.Generator]:
    """Which of `count` images is the t-th training sample, and the random numbers of its augmentation.

    Every epoch goes through all images in a new order. Both follow from seed, protocol and t alone, so that
    every pretraining method is finetuned on the same samples.
    """
    epoch, place = divmod(t, count)
    i = _permutation(count, seed_of(seed, protocol, "order", epoch))[place]
    return i, torch.Generator().manual_seed(seed_of(seed, protocol, "augment", t))


class Examples(Dataset):
    """What `read` gives for each of `order`; what `read` holds is sent to worker processes."""

    def __init__(self, read: Callable[[int], Any], order: Sequence[int] | np.ndarray) -> None:
        self.read, self.order = read, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, i: int) -> Any:
        return self.read(int(self.order[i]))


def training_order(iterations: int, batch_size: int) -> np.ndarray:
    """The training samples, from 0, of this rank: its part of every global batch, in order."""
    return (
        np.arange(iterations * batch_size).reshape(iterations, batch_size)[:, distributed.part(batch_size)].ravel()
    )


def evaluation_order(count: int) -> range:
    """Those of `count` images that this rank judges."""
    return range(distributed.own(), count, distributed.count())


def batches(
    read: Callable[[int], Any],
    order: Sequence[int] | np.ndarray,
    batch_size: int,
    device: torch.device,
    collate: Callable | None = None,
) -> DataLoader:
    """`read` of each of `order`, in batches; `batch_size` is that of one rank.

    Read by this process on a CPU, which has no time to spare, and by one worker per core for a GPU.
    """
    cuda = device.type == "cuda"
    return DataLoader(
        Examples(read, order),
        batch_size,
        collate_fn=collate,
        num_workers=len(os.sched_getaffinity(0)) // distributed.on_this_machine() if cuda else 0,
        pin_memory=cuda and collate is None,
        # Its own generator: otherwise a loader draws from, and so changes, torch's global one.
        generator=torch.Generator(),
    )


def bar(steps: Iterable, what: str, progress: bool) -> tqdm:
    """The first rank's progress bar with rate and time left; few lines where the output is not a terminal."""
    shown = progress and distributed.is_main()
    return tqdm(steps, desc=what, disable=not shown, mininterval=0.2 if sys.stderr.isatty() else 5.0)


def by_all_ranks(model: nn.Module, device: torch.device) -> nn.Module:
    """What trains in place of `model`: gradients are averaged over ranks, and batch norm sees all of them."""
    if distributed.count() == 1:
        return model
    return distributed.averaged(synchronise(model, device))


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 where the device gains from it, float32 elsewhere."""
    return torch.autocast(device.type, torch.bfloat16, enabled=gains_from_bf16(device))


def private_rng(device: torch.device) -> Any:
    """A context in which torch's global random numbers may be seeded; they are put back afterwards."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
