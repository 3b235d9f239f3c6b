"""Predictions of a detector for a split, in COCO's result format."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from pycocotools import mask as rle
from torch import Tensor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN

from mlssl.data.coco import Split
from mlssl.runtime import distributed
from mlssl.transfer.detection.examples import as_lists
from mlssl.transfer.load import bar, batches, evaluation_order, image_tensor


def coco_results(prediction: dict[str, Tensor], image_id: int, category_ids: list[int]) -> list[dict[str, Any]]:
    """Convert torchvision's prediction for one image to COCO's result format.

    `prediction` holds `boxes` N x 4 (x1 y1 x2 y2), `labels` N (1 + category index), `scores` N and, unless the
    model has no mask head, `masks` N x 1 x H x W in [0, 1], all at the image's original size; masks are thresholded
    at 0.5.
    """
    if len(prediction["labels"]) == 0:
        return []
    boxes = prediction["boxes"].double().cpu()
    boxes[:, 2:] -= boxes[:, :2]
    labels, scores = prediction["labels"].tolist(), prediction["scores"].tolist()
    results = [
        {"image_id": image_id, "category_id": category_ids[label - 1], "score": score, "bbox": box}
        for label, score, box in zip(labels, scores, boxes.tolist(), strict=True)
    ]
    if "masks" in prediction:
        masks = (prediction["masks"][:, 0] > 0.5).to(torch.uint8).permute(1, 2, 0).cpu().numpy()
        for result, code in zip(results, rle.encode(np.asfortranarray(masks)), strict=True):
            result["segmentation"] = code
    return results


@torch.no_grad()
def predict(
    model: GeneralizedRCNN, split: Split, count: int, batch_size: int, *, device: torch.device, progress: bool
) -> list[dict[str, Any]]:
    """COCO results for the first `count` images; RuntimeError when an image was not evaluated exactly once."""
    model.eval()
    category_ids = [c["id"] for c in split.categories]
    results, seen = [], []
    loader = batches(partial(_evaluation_example, split), evaluation_order(count), batch_size, device, as_lists)
    for indices, images in bar(loader, "detection, evaluation", progress):
        predictions = model([image.to(device).float() / 255 for image in images])
        for i, prediction in zip(indices, predictions, strict=True):
            results += coco_results(prediction, split.images[i]["id"], category_ids)
        seen += indices
    seen = distributed.gather_list(seen)
    if sorted(seen) != list(range(count)):
        raise RuntimeError(f"{split.folder}: saw {len(set(seen))} of {count} images, in {len(seen)} reads")
    return distributed.gather_list(results)


def _evaluation_example(split: Split, i: int) -> tuple[int, Tensor]:
    return i, image_tensor(split, i)
