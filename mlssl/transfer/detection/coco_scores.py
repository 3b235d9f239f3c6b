"""COCO's average precision of boxes and masks, by pycocotools."""

from __future__ import annotations

import contextlib
import io
from typing import Any

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mlssl.data.coco import Split

METRICS = ("AP", "AP50", "AP75")
"""The first three of COCOeval's summary, in its order."""
MAX_AREA = 1e9
"""Below COCOeval's limit of 1e10 square pixels, from which on it ignores an object."""


def coco_scores(
    split: Split, count: int, results: list[dict[str, Any]], *, masks: bool = True
) -> dict[str, float | None]:
    """COCO's AP_bbox, AP50_bbox, …, AP75_segm in percent over the first `count` images; no segm without `masks`.

    None where COCO leaves the score undefined: no annotated object is included in the evaluation.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        truth = _coco(split, count)
        scores = {}
        for kind, other in (("bbox", "segmentation"), ("segm", "bbox"))[: 1 + masks]:
            # COCO computes an object's area from its box if it has one, so each kind needs separate results.
            found = [{k: v for k, v in r.items() if k != other} for r in results]
            # loadRes cannot read an empty list.
            detected = truth.loadRes(found) if found else COCO()
            evaluation = COCOeval(truth, detected, kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            for metric, value in zip(METRICS, evaluation.stats, strict=False):
                scores[f"{metric}_{kind}"] = None if value < 0 else 100 * float(value)
    return scores


def _coco(split: Split, count: int) -> COCO:
    truth = COCO()
    images = split.images[:count]
    annotations = [a for image in images for a in split.annotations[image["id"]] if a["has_box"]]
    truth.dataset = {
        "info": {},
        "images": images,
        "categories": split.categories,
        # COCOeval modifies the annotations. It takes a match with id 0 for none, and the area decides only whether
        # an object is within its limits, so neither is the file's own.
        "annotations": [
            {**a, "id": i, "area": min(a["bbox"][2] * a["bbox"][3], MAX_AREA)}
            for i, a in enumerate(annotations, start=1)
        ],
    }
    truth.createIndex()
    return truth
