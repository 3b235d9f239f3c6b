"""A folder in COCO's layout with coloured rectangles on grey, small enough to learn in seconds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mlssl import tensors
from mlssl.parts.backbone import create_backbone
from mlssl.study.identity import about_run
from mlssl.study.settings import Data, Pretrain

IDENTIFIED = {"images_id": "images", "data_id": "data"}
"""Identities of some data, given so that nobody looks at their content."""
CATEGORIES = ({"id": 3, "name": "red"}, {"id": 7, "name": "green"}, {"id": 8, "name": "blue"})
"""With gaps between the ids, as in COCO."""
COLOURS = ((220, 30, 30), (30, 200, 40), (40, 60, 230))
SPLITS = {"train2017": 12, "val2017": 6}


def write_coco(root: Path, *, size: int = 64, splits: dict[str, int] = SPLITS, seed: int = 0) -> Path:
    """Write the folder and return it.

    Every image has one or two rectangles that do not overlap, one in each half, but the last one of a split
    has none, and the last but one also has a crowd, on ground of its own.
    """
    rng = np.random.default_rng(seed)
    (root / "annotations").mkdir(parents=True)
    for split, count in splits.items():
        (root / split).mkdir()
        images, annotations = [], []
        for i in range(count):
            # Ids fall while file names rise: nobody may rely on their order.
            record = {"id": 1000 - i, "file_name": f"{i:04d}.png", "height": size, "width": size}
            pixels = rng.integers(100, 140, (size, size, 3)).astype(np.uint8)
            halves = [] if i == count - 1 else [0, 1][: 1 + i % 2]
            for half in halves:
                kind = int(rng.integers(len(CATEGORIES)))
                w, h = (int(v) for v in rng.integers(size // 4, size // 2 - 2, 2))
                x = half * size // 2 + int(rng.integers(0, size // 2 - w))
                y = int(rng.integers(0, size - h - size // 8))
                pixels[y : y + h, x : x + w] = COLOURS[kind]
                annotations.append(_annotation(len(annotations), record["id"], CATEGORIES[kind]["id"], x, y, w, h))
            if i == count - 2:
                crowd = np.zeros((size, size), dtype=np.uint8)
                crowd[-size // 8 :] = 1
                annotations.append(_crowd(len(annotations), record["id"], CATEGORIES[0]["id"], crowd))
            Image.fromarray(pixels).save(root / split / record["file_name"])
            images.append(record)
        content = {"images": images, "annotations": annotations, "categories": list(CATEGORIES)}
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def _annotation(i: int, image_id: int, category_id: int, x: int, y: int, w: int, h: int) -> dict:
    polygon = [x, y, x + w, y, x + w, y + h, x, y + h]
    values = {"id": i + 1, "image_id": image_id, "category_id": category_id, "iscrowd": 0}
    return {**values, "bbox": [x, y, w, h], "area": w * h, "segmentation": [polygon]}


def _crowd(i: int, image_id: int, category_id: int, mask: np.ndarray) -> dict:
    """A crowd with COCO's uncompressed run lengths, which start with zeros and go down the columns."""
    flat = mask.T.ravel()
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *changes, flat.size]).tolist()
    ys, xs = np.nonzero(mask)
    box = [int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1]
    values = {"id": i + 1, "image_id": image_id, "category_id": category_id, "iscrowd": 1}
    return {
        **values,
        "bbox": box,
        "area": int(flat.sum()),
        "segmentation": {"size": list(mask.shape), "counts": counts},
    }


def write_backbone(path: Path, *, name: str = "resnet10t", seed: int = 0, **changes) -> Path:
    """An untrained backbone in the engine's file format, with `changes` made to its weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        weights = {**create_backbone(name).state_dict(), **changes}
    config = Pretrain(Data("unused", **IDENTIFIED), method="none", seed=seed, backbone=name)
    kept = {k: v for k, v in weights.items() if v is not None}
    tensors.save(path, {"backbone": kept, "meta": about_run(config, "tiny")})
    return path
