"""Training examples of a detector: which images, in which batches, with which objects."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor

from mlssl.data.coco import Split
from mlssl.transfer.load import draw, image_of, image_tensor


def learned(split: Split, i: int, *, difficult: bool = False) -> np.ndarray:
    """Which of the i-th image's `instances` are trained on, bool N: no crowds; difficult ones only if wanted.

    VOC's difficult objects are crowds in COCO's layout, which both evaluations count neither for nor against.
    """
    records = [a for a in split.annotations[split.images[i]["id"]] if a["has_box"]]
    return np.array([not a["iscrowd"] or bool(difficult and a.get("difficult")) for a in records], dtype=bool)


def trainable(split: Split, *, difficult: bool = False) -> list[int]:
    """Indices of the images with at least one object to train on (see `learned`) whose box has an area inside."""
    return [i for i in range(len(split)) if learned(split, i, difficult=difficult).any()]


def training_example(
    split: Split, kept: list[int], seed: int, t: int, *, difficult: bool = False
) -> tuple[Tensor, dict[str, Tensor]]:
    """The t-th training sample, flipped with probability 0.5: uint8 3 x H x W and its objects.

    Objects are `boxes` float N x 4 (x1 y1 x2 y2, pixels), `labels` int64 N from 1, `masks` uint8 N x H x W.
    Crowds are excluded.
    """
    position, rng = draw(t, len(kept), seed, "detection")
    i = kept[position]
    image, objects = image_tensor(split, i), split.instances(i)
    single = learned(split, i, difficult=difficult)
    boxes, masks = torch.from_numpy(objects.boxes[single]), torch.from_numpy(objects.masks[single])
    if torch.rand((), generator=rng) < 0.5:
        image, masks = image.flip(-1), masks.flip(-1)
        boxes[:, [0, 2]] = image.shape[-1] - boxes[:, [2, 0]]
    return image, {"boxes": boxes, "labels": torch.from_numpy(objects.labels[single]) + 1, "masks": masks}


def batches_of(
    split: Split, kept: list[int], seed: int, count: int, batch_size: int, *, grouped: bool
) -> np.ndarray:
    """The samples t of `count` batches, int64 count x batch_size: in order from 0.

    `grouped`: a batch has images that are all wider than high, or images that are all not. It is complete when
    enough of its kind have come, so the other kind may wait and comes with a later batch.
    """
    if not grouped:
        return np.arange(count * batch_size).reshape(count, batch_size)
    wide = [split.images[i]["width"] > split.images[i]["height"] for i in kept]
    waiting: tuple[list[int], list[int]] = ([], [])
    complete: list[list[int]] = []
    for t in itertools.count():
        if len(complete) == count:
            return np.array(complete, dtype=np.int64).reshape(count, batch_size)
        group = waiting[wide[image_of(t, len(kept), seed, "detection")]]
        group.append(t)
        if len(group) == batch_size:
            complete.append(group.copy())
            group.clear()
    raise AssertionError("unreachable")


def as_lists(examples: list[tuple]) -> tuple[list, list]:
    first, second = zip(*examples, strict=True)
    return list(first), list(second)
