"""Pascal VOC's average precision at COCO's ten overlaps, as detectron2's PascalVOCDetectionEvaluator computes it.

Devkit of VOC 2007 and 2010 (`VOCevaldet.m`): pixels are counted with both edges, a box must overlap an object by
more than the threshold, and difficult objects count neither for nor against.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mlssl.data.coco import Split
from mlssl.transfer.metrics import area_under_envelope

OVERLAPS = tuple(percent / 100 for percent in range(50, 100, 5))
POINTS = 11


def average_precision(recall: np.ndarray, precision: np.ndarray, *, points: bool) -> float:
    """Area under the curve of precision over recall, in [0, 1]; both N, after each detection, best score first.

    With `points` (VOC 2007) the mean, over recalls 0, 0.1, …, 1, of the highest precision at that recall or a
    higher one; otherwise (from VOC 2010 on) the area below that envelope.
    """
    if points:
        reached = [precision[recall >= i / (POINTS - 1) - 1e-12] for i in range(POINTS)]
        return float(np.mean([p.max(initial=0.0) for p in reached]))
    return area_under_envelope(recall, precision)


def overlaps(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of a box and N x 4 others, x1 y1 x2 y2 as indices of the first and the last pixel."""
    sides = (np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2]) + 1).clip(0)
    common = sides.prod(axis=1)
    areas = (others[:, 2:] - others[:, :2] + 1).prod(axis=1)
    return common / (areas + (box[2:] - box[:2] + 1).prod() - common)


def curve(
    objects: Mapping[int, tuple[np.ndarray, np.ndarray]], detections: Sequence[tuple[int, float, np.ndarray]],
    overlap: float,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Recall and precision of one category after each detection, by falling score.

    `objects`: image id -> boxes N x 4, and which of them are difficult, bool N. `detections`: image id, score, box.
    A detection belongs to the object that it overlaps most. It is right if that overlap is above the threshold and
    the object has no better scored detection; it is left out if the object is difficult.
    """
    found = {image: np.zeros(len(boxes), dtype=bool) for image, (boxes, _) in objects.items()}
    total = sum(int((~difficult).sum()) for _, difficult in objects.values())
    right, wrong = [], []
    for image, _, box in sorted(detections, key=lambda d: -d[1]):
        boxes, difficult = objects.get(image, (np.zeros((0, 4)), np.zeros(0, dtype=bool)))
        shared = overlaps(box, boxes)
        best = int(shared.argmax()) if len(shared) else -1
        hit = best >= 0 and shared[best] > overlap
        counts = not (hit and difficult[best])
        first = hit and counts and not found[image][best]
        if first:
            found[image][best] = True
        right.append(first)
        wrong.append(counts and not first)
    hits, misses = np.cumsum(right, dtype=float), np.cumsum(wrong, dtype=float)
    return hits / total, hits / np.maximum(hits + misses, np.finfo(float).eps)


def voc_scores(
    split: Split, count: int, results: Sequence[Mapping[str, Any]], *, points: bool
) -> dict[str, float | None]:
    """AP, AP50 and AP75 of boxes in percent over the first `count` images; means over categories.

    `results` are COCO's. Objects marked difficult, and crowds, are the devkit's difficult ones. AP is the mean over
    the ten overlaps. Categories without another object are left out; without any, the scores are None.
    """
    by_category: dict[int, list[tuple[int, float, np.ndarray]]] = {c["id"]: [] for c in split.categories}
    for r in results:
        by_category[r["category_id"]].append((r["image_id"], r["score"], pixels(r["bbox"])))
    scores = []
    for category, detections in by_category.items():
        objects = annotated(split, count, category)
        if any((~difficult).any() for _, difficult in objects.values()):
            curves = [curve(objects, detections, overlap) for overlap in OVERLAPS]
            scores.append([100 * average_precision(*found, points=points) for found in curves])
    if not scores:
        return dict.fromkeys(("AP_bbox", "AP50_bbox", "AP75_bbox"))
    means = np.mean(scores, axis=0)
    return {"AP_bbox": float(means.mean()), "AP50_bbox": float(means[0]), "AP75_bbox": float(means[5])}


def annotated(split: Split, count: int, category: int) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """The objects of a category in the first `count` images, as `curve` takes them."""
    objects = {}
    for image in split.images[:count]:
        own = [a for a in split.annotations[image["id"]] if a["has_box"] and a["category_id"] == category]
        if own:
            boxes = np.stack([pixels(a["bbox"]) for a in own])
            objects[image["id"]] = boxes, np.array([bool(a["iscrowd"] or a.get("difficult")) for a in own])
    return objects


def pixels(box: Sequence[float]) -> np.ndarray:
    """COCO's x, y, width, height (from 0) as the devkit's first and last pixel (from 1)."""
    x, y, width, height = box
    return np.array([x + 1, y + 1, x + width, y + height], dtype=float)
