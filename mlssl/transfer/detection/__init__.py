"""Object detection and instance segmentation: Mask R-CNN on a pretrained backbone, all layers trained.

The settings of published protocols are in config/protocols; what is equal to detectron2, and what is not, in
docs/protocols.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mlssl.data.coco import Split
from mlssl.errors import MissingLabels
from mlssl.results import METRICS_LEFT_OUT
from mlssl.seeds import seed_of
from mlssl.study.settings import Detection
from mlssl.transfer import needs
from mlssl.transfer.detection.coco_scores import METRICS, coco_scores
from mlssl.transfer.detection.examples import trainable
from mlssl.transfer.detection.model import build_model, load_parts
from mlssl.transfer.detection.predict import predict
from mlssl.transfer.detection.train import train
from mlssl.transfer.detection.voc_ap import voc_scores
from mlssl.transfer.load import load_backbone, private_rng, read_splits
from mlssl.transfer.needs import boxes as missing


def evaluate(
    backbone_file: Path, config: Detection, *, seed: int, device: torch.device, progress: bool = True
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows with AP, AP50 and AP75 of boxes and masks in percent, after the last iteration, and notes.

    A score that the metric leaves undefined has no row; the notes list it. Unless every object has a mask, boxes
    alone are trained and scored, and the notes have the reason. Raises MissingLabels with the sentence of
    `missing`.
    """
    train_split, val = read_splits(config.data)
    if why := missing(train_split, val):
        raise MissingLabels(why)
    unmasked = why_no_masks(config, train_split, val)
    masks = unmasked is None
    count = min(config.eval_images or len(val), len(val))
    with private_rng(device):
        backbone, _ = load_backbone(backbone_file)
        torch.manual_seed(seed_of(seed, "detection", "heads"))
        model = build_model(backbone, config, len(val.categories), masks=masks)
        parts = load_parts(model, backbone_file) if config.pretrained_parts else []
        model.to(device, memory_format=torch.channels_last)
        train(model, train_split, config, seed=seed, device=device, progress=progress)
        at_once = config.test_batch_size or config.batch_size
        results = predict(model, val, count, at_once, device=device, progress=progress)
    if config.metric == "coco":
        scores = coco_scores(val, count, results, masks=masks)
    else:
        scores = voc_scores(val, count, results, points=config.metric == "voc07")
    rows = [
        {"protocol": "detection", "metric": metric, "value": value, "n": count}
        for metric, value in scores.items()
        if value is not None
    ]
    with_objects = len(trainable(train_split, difficult=config.train_difficult))
    notes = {
        **about(config, masks=masks),
        "parameters": sum(p.numel() for p in model.parameters()),
        "anchors": [round(size, 1) for sizes in model.rpn.anchor_generator.sizes for size in sizes],
        "train_images": with_objects,
        "train_images_without_object": len(train_split) - with_objects,
        "eval_images": count,
        "detections": len(results),
        "undefined": [metric for metric, value in scores.items() if value is None],
    }
    if config.pretrained_parts:
        notes["pretrained"] = ["backbone", *parts]
    if unmasked is not None:
        notes[METRICS_LEFT_OUT] = {f"{metric}_segm": unmasked for metric in METRICS}
    return rows, notes


def why_no_masks(config: Detection, train_split: Split, val: Split) -> str | None:
    """Why masks are neither trained nor scored; None if they are."""
    if not config.masks:
        return "detection.masks is false"
    if config.metric != "coco":
        return f"detection.metric {config.metric} scores boxes"
    return needs.unmasked(train_split) or needs.unmasked(val)


HEADS = {
    "2fc": "FPN of {fpn_channels} channels, box head of 2 x {box_head_channels}",
    "4conv1fc": "FPN of {fpn_channels} channels, box head of 4 convolutions, batch norm and {box_head_channels}",
    "res5": "C4, box head res5 with a batch norm",
}


def about(config: Detection, *, masks: bool) -> dict[str, Any]:
    """What the notes of a result say of its settings."""
    milestones = ", ".join(str(round(m * config.iterations)) for m in config.milestones)
    layers = 0 if config.head == "res5" else config.mask_head_layers
    sizes = f", short sides {', '.join(map(str, config.train_sizes))}" if config.train_sizes else ""
    precise = f"; recomputed over {config.precise_bn} batches before the test" if config.precise_bn else ""
    return {
        "head": f"{'Mask' if masks else 'Faster'} R-CNN, {HEADS[config.head].format(**vars(config))}, "
        + (f"mask head of {layers} layers" if masks else "no mask head"),
        "schedule": f"{config.iterations} iterations of {config.batch_size}, SGD, lr {config.lr} after "
        f"{config.warmup_iterations} of warm-up, a tenth from {milestones}",
        "augmentation": f"horizontal flip{sizes}",
        "batch_norm": f"trained in the backbone and {'its last stage' if config.head == 'res5' else 'FPN'}, "
        f"with the statistics of the whole batch{precise}",
        "size": config.size,
        "metric": config.metric,
    }
