"""The metrics that evaluators report, as pure functions of tensors. All scores are in percent, 0 to 100."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def average_precision(scores: Tensor, targets: Tensor) -> float:
    """Area under the steps of the precision-recall curve, sum_k (R_k - R_{k-1}) P_k, in percent.

    `scores` float N, `targets` bool N. Equal scores are one threshold, so the order of ties does not
    matter and a constant score gives the prevalence; no interpolation (scikit-learn's definition). Raises
    ValueError without a positive example (the area is undefined) and for scores that are not finite.
    """
    if not targets.any():
        raise ValueError("average precision is undefined without a positive example")
    return float(_average_precisions(scores[:, None], targets[:, None])[0])


def area_under_envelope(recall: np.ndarray, precision: np.ndarray) -> float:
    """VOC's average precision from 2010 on, in [0, 1]: the precision at a recall is the highest at it or above.

    `recall` and `precision` float N, after each example, best score first; recall does not fall.
    """
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall, prepend=0.0) * envelope).sum())


def mean_average_precision(scores: Tensor, targets: Tensor) -> tuple[float, int]:
    """Mean of `average_precision` over the categories that can be scored, and their number.

    `scores` float N x C, `targets` bool N x C. A category can be scored when it has at least one positive
    and one negative example. Raises ValueError when there is none.
    """
    scored = scorable(targets)
    if not scored.any():
        raise ValueError("no category has both a positive and a negative example")
    values = _average_precisions(scores[:, scored], targets[:, scored])
    return float(values.mean()), int(scored.sum())


def scorable(targets: Tensor) -> Tensor:
    """bool C: which columns of `targets`, bool N x C, have both a positive and a negative example."""
    return targets.any(dim=0) & ~targets.all(dim=0)


def single_label_scores(scores: Tensor, targets: Tensor) -> dict[str, float]:
    """Top-1 accuracy (`top1`) and the mean over classes of their accuracy (`mAcc`), in percent.

    `scores` float N x C, `targets` bool N x C with exactly one class per row. The predicted class has the highest
    score; on ties, the lowest index. Classes without an example do not count in mAcc. Raises ValueError for rows
    with another number of classes, and for scores that are not finite.
    """
    if not len(targets) or not (targets.sum(dim=1) == 1).all():
        raise ValueError("each example needs exactly one class")
    if not torch.isfinite(scores).all():
        raise ValueError("scores are not all finite")
    true = targets.int().argmax(dim=1)
    # argmax does not say which of equal scores it takes.
    classes = torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
    best = scores == scores.max(dim=1, keepdim=True).values
    predicted = torch.where(best, classes, scores.shape[1]).min(dim=1).values
    right = (predicted == true).double()
    count = targets.sum(dim=0)
    of_class = torch.zeros_like(count, dtype=torch.float64).index_add(0, true, right)
    there = count > 0
    return {"top1": 100 * float(right.mean()), "mAcc": 100 * float((of_class[there] / count[there]).mean())}


def _average_precisions(scores: Tensor, targets: Tensor) -> Tensor:
    """float64 C, in percent, for float N x C and bool N x C with a positive in every column."""
    if not torch.isfinite(scores).all():
        raise ValueError("scores are not all finite")
    ordered, order = scores.sort(dim=0, descending=True)
    hits = targets.gather(0, order).double()
    ranks = torch.arange(len(scores), device=scores.device)[:, None].expand_as(order)
    # The threshold is at the last example of each group of equal scores; `end` is its index, per example.
    is_end = torch.ones_like(hits, dtype=torch.bool)
    is_end[:-1] = ordered[1:] != ordered[:-1]
    end = torch.where(is_end, ranks, len(scores)).flip(0).cummin(dim=0).values.flip(0)
    precision = hits.cumsum(dim=0).gather(0, end) / (end + 1)
    return 100 * (precision * hits).sum(dim=0) / hits.sum(dim=0)


def confusion_matrix(prediction: Tensor, target: Tensor, classes: int, ignore: int) -> Tensor:
    """Pixel counts, int64 C x C: row is the true class, column the predicted one.

    `prediction` and `target` are integer tensors of the same shape; pixels whose target is `ignore` are skipped.
    Raises ValueError for any other value outside 0 .. C-1.
    """
    kept = target != ignore
    true, predicted = target[kept].long(), prediction[kept].long()
    for name, values in (("target", true), ("prediction", predicted)):
        if len(values) and (values.min() < 0 or values.max() >= classes):
            raise ValueError(f"{name} contains classes {int(values.min())} .. {int(values.max())} of {classes}")
    return torch.bincount(true * classes + predicted, minlength=classes**2).reshape(classes, classes)


def segmentation_scores(confusion: Tensor) -> dict[str, float]:
    """mIoU, mAcc and aAcc in percent, from pixel counts C x C (rows true, columns predicted).

    mIoU excludes classes that are in neither targets nor predictions. mAcc excludes classes that are not in the
    targets, because their accuracy is undefined. aAcc is the share of correct pixels. Raises ValueError for a
    matrix without a pixel.
    """
    counts = confusion.double()
    if counts.sum() == 0:
        raise ValueError("the confusion matrix contains no pixel")
    right, true, predicted = counts.diagonal(), counts.sum(dim=1), counts.sum(dim=0)
    union = true + predicted - right
    return {
        "mIoU": 100 * float((right / union)[union > 0].mean()),
        "mAcc": 100 * float((right / true)[true > 0].mean()),
        "aAcc": 100 * float(right.sum() / counts.sum()),
    }
