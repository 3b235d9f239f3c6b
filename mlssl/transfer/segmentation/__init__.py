"""Semantic segmentation with an FCN, a PSPNet or a PSANet on the backbone's last map; all layers are trained.

The settings of published protocols are in config/protocols; what is equal to mmsegmentation, and what is not, in
docs/protocols.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mlssl.errors import MissingLabels
from mlssl.seeds import seed_of
from mlssl.study.settings import Segmentation
from mlssl.transfer.dense import label_notes
from mlssl.transfer.load import load_backbone, private_rng, read_splits
from mlssl.transfer.metrics import segmentation_scores
from mlssl.transfer.needs import masks as missing
from mlssl.transfer.segmentation.augment import SCALE, crop_of
from mlssl.transfer.segmentation.model import build_model
from mlssl.transfer.segmentation.predict import confusion
from mlssl.transfer.segmentation.train import POLY_POWER, train


def evaluate(
    backbone_file: Path, config: Segmentation, *, seed: int, device: torch.device, progress: bool = True
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows with mIoU, mAcc and aAcc in percent, after the last iteration, and notes."""
    train_split, val = read_splits(config.data)
    if why := missing(train_split, val):
        raise MissingLabels(why)
    classes = len(val.classes)
    count = min(config.eval_images or len(val), len(val))
    with private_rng(device):
        backbone, _ = load_backbone(backbone_file, output_stride=config.output_stride)
        torch.manual_seed(seed_of(seed, "segmentation", "head"))
        model = build_model(backbone, config, classes).to(device).to(memory_format=torch.channels_last)
        train(model, train_split, config, seed=seed, device=device, progress=progress)
        counts = confusion(model, val, count, config, device=device, progress=progress)
    if not counts.sum():
        raise MissingLabels(
            f"{val.annotation_file}: all pixels of the {count} validation images are of crowds and have no class; "
            "annotate objects"
        )
    rows = [
        {"protocol": "segmentation", "metric": metric, "value": value, "n": count}
        for metric, value in segmentation_scores(counts).items()
    ]
    present = (counts.sum(dim=0) + counts.sum(dim=1)) > 0
    notes = {
        **about(config),
        "parameters": sum(p.numel() for p in model.parameters()),
        "eval_images": count,
        "classes": classes,
        "classes_scored": int(present.sum()),
        **label_notes(val),
    }
    return rows, notes


NETWORKS = {"fcn": "FCN", "fcn_d8": "FCN of two convolutions, concatenated", "psp": "PSPNet", "psa": "PSANet"}
TESTS = {
    "square": "input of {size} x {size}",
    "whole": "input within {scale}",
    "slide": "input within {scale}, crops of {size} every {slide_stride} pixels",
}


def about(config: Segmentation) -> dict[str, Any]:
    """What the notes of a result say of its settings."""
    auxiliary = f", auxiliary head x {config.auxiliary_weight:g}" if config.auxiliary_weight else ""
    floor = f" to {config.lr_floor}" if config.lr_floor else ""
    height, width = crop_of(config)
    crop = f"{height}" if height == width else f"{height} x {width}"
    within = f" of {config.scale[0]} x {config.scale[1]}" if config.scale else ""
    more = ", colours" if config.photometric else ""
    return {
        "head": f"{NETWORKS[config.head]}, {config.head_channels} channels, on the last map of stride "
        f"{config.output_stride}{auxiliary}",
        "schedule": f"{config.iterations} iterations of {config.batch_size}, SGD, lr {config.lr}, "
        f"poly {POLY_POWER}{floor}",
        "augmentation": f"scale {SCALE[0]} to {SCALE[1]}{within}, crop {crop}, horizontal flip{more}",
        "batch_norm": "trained, with the statistics of the whole batch",
        "evaluation": f"{TESTS[config.test].format(**vars(config))}, logits upsampled to each image's size",
    }
