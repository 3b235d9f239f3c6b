"""What all evaluators load: the pretrained backbone, and images in an order that depends only on the seed."""

from __future__ import annotations

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

from mlssl.data.augment.operations import per_channel
from mlssl.data.augment.parameters import MEAN, STD
from mlssl.data.coco import Split
from mlssl.data.coco import read_splits as read_splits
from mlssl.errors import ConfigError
from mlssl.parts.backbone import create_backbone
from mlssl.runtime import distributed
from mlssl.runtime.device import gains_from_bf16
from mlssl.seeds import seed_of
from mlssl.tensors import read_own
from mlssl.transfer import workers


def load_backbone(path: Path, *, output_stride: int = 32) -> tuple[nn.Module, dict[str, Any]]:
    """Load the backbone from a file that pretraining wrote, and the file's meta (run, method, seed, digest, …).

    `output_stride` is in input pixels per cell of the last map. Raises ConfigError when the file cannot be
    read, or when its keys differ from those of the named model.
    """
    remedies = {"missing": "pretrain and export a backbone first", "broken": "export it again"}
    content = read_own(path, "a backbone.pt", {"backbone", "meta"}, **remedies)
    weights, meta = content["backbone"], content["meta"]
    if "backbone" not in meta:
        raise ConfigError(f"{path}: meta has no 'backbone', the model's name; export it again")
    preprocessing = meta.get("config", {}).get("init_preprocessing")
    backbone = create_backbone(meta["backbone"], output_stride=output_stride, preprocessing=preprocessing)
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


def image_tensor(split: Split, i: int) -> Tensor:
    """The i-th image, uint8 3 x H x W."""
    return torch.from_numpy(split.pixels(i).copy()).permute(2, 0, 1)


def resize(image: Tensor, size: int) -> Tensor:
    """uint8 3 x H x W to 3 x size x size: bilinear, antialiased; the aspect ratio is not kept."""
    if image.shape[1:] == (size, size):
        return image
    return F.interpolate(image[None], size=(size, size), mode="bilinear", antialias=True)[0]


def resize_short(image: Tensor, side: int) -> Tensor:
    """uint8 3 x H x W with `side` pixels on its short side: bilinear, antialiased; the aspect ratio is kept."""
    scale = side / min(image.shape[1:])
    height, width = (round(scale * length) for length in image.shape[1:])
    if (height, width) == image.shape[1:]:
        return image
    return F.interpolate(image[None], size=(height, width), mode="bilinear", antialias=True)[0]


def normalise(images: Tensor) -> Tensor:
    """uint8 B x 3 x H x W to float32 normalised with ImageNet's mean and standard deviation per channel."""
    mean, std = (per_channel(values, torch.float32, images.device) for values in (MEAN, STD))
    return (images.float() / 255 - mean) / std


def random_order(count: int, seed: int) -> Tensor:
    """The indices of `count` images in a random order, int64, that depends only on the seed."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


@lru_cache(maxsize=2)
def _epoch(count: int, seed: int) -> list[int]:
    return random_order(count, seed).tolist()


def draw(t: int, count: int, seed: int, protocol: str) -> tuple[int, torch.Generator]:
    """The index of the t-th training sample among `count` images, and the random generator of its augmentation.

    Every epoch visits all images in a new order. Both depend only on seed, protocol and t, so all pretraining
    methods are finetuned on the same samples.
    """
    i = image_of(t, count, seed, protocol)
    return i, torch.Generator().manual_seed(seed_of(seed, protocol, "augment", t))


def image_of(t: int, count: int, seed: int, protocol: str) -> int:
    """The index of the t-th training sample among `count` images."""
    epoch, place = divmod(t, count)
    return _epoch(count, seed_of(seed, protocol, "order", epoch))[place]


class Examples(Dataset):
    """`read(i)` for each i of `order`; `read` is pickled and sent to worker processes."""

    def __init__(self, read: Callable[[int], Any], order: Sequence[int] | np.ndarray) -> None:
        self.read, self.order = read, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, i: int) -> Any:
        return self.read(int(self.order[i]))


def training_order(samples: np.ndarray) -> np.ndarray:
    """The training samples of this rank, in order: its part of every global batch, the rows of `samples`."""
    return samples[:, distributed.part(samples.shape[1])].ravel()


def evaluation_order(count: int) -> range:
    """The indices, out of `count` images, that this rank evaluates."""
    return range(distributed.own(), count, distributed.count())


def batches(
    read: Callable[[int], Any],
    order: Sequence[int] | np.ndarray,
    batch_size: int,
    device: torch.device,
    collate: Callable | None = None,
) -> DataLoader:
    """`read(i)` for each i of `order`, in batches; `batch_size` is per rank.

    On a CPU this process reads the examples, because no core is idle; for a GPU worker processes do (`workers`).
    """
    cuda = device.type == "cuda"
    processes = workers.count(read(int(order[0])), batch_size) if cuda and len(order) else 0
    return DataLoader(
        Examples(read, order),
        batch_size,
        collate_fn=collate,
        num_workers=processes,
        multiprocessing_context=workers.context() if processes else None,
        pin_memory=cuda,
        # A separate generator: otherwise the loader would draw from torch's global generator and change its state.
        generator=torch.Generator(),
    )


def bar(steps: Iterable, what: str, progress: bool) -> tqdm:
    """Progress bar of the first rank, with rate and time left; updates less often if stderr is not a terminal."""
    shown = progress and distributed.is_main()
    return tqdm(steps, desc=what, disable=not shown, mininterval=0.2 if sys.stderr.isatty() else 5.0)


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 where the device gains from it, float32 elsewhere."""
    return torch.autocast(device.type, torch.bfloat16, enabled=gains_from_bf16(device))


def private_rng(device: torch.device) -> Any:
    """Context manager that restores the state of torch's global random generator on exit."""
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
