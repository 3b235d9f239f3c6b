"""Multi-label classification by nearest neighbours in the frozen features of whole images; nothing is trained.

The weighting is that of instance discrimination (arXiv 1805.01978, section 3.4) and DINO's k-NN evaluation; theirs
votes for one class per image, this scores every category of a scene.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from mlssl.seeds import seed_of
from mlssl.study.settings import Knn
from mlssl.transfer.jackknife import row
from mlssl.transfer.linear import hold_out, mean_ap_without_each, read_labelled
from mlssl.transfer.load import random_order
from mlssl.transfer.metrics import mean_average_precision, scorable

CHUNK = 1024
"""Queries that are compared at a time."""


def vote(
    queries: Tensor, keys: Tensor, targets: Tensor, neighbours: Sequence[int], temperature: float
) -> list[Tensor]:
    """Scores float32 Q x C, one tensor per candidate number of neighbours k.

    `queries` float Q x D and `keys` float N x D are compared by cosine; `targets` N x C are bool, or float in [0,
    1]. A score is sum_i w_i y_ic over the k most similar keys, with w = softmax(similarity / temperature), so it
    is in [0, 1]. With fewer than k keys, all vote.
    """
    keys, y = F.normalize(keys.float(), dim=1), targets.float()
    scores: list[list[Tensor]] = [[] for _ in neighbours]
    for part in F.normalize(queries.float(), dim=1).split(CHUNK):
        similarity, index = (part @ keys.T).topk(min(max(neighbours), len(keys)), dim=1)
        for k, found in zip(neighbours, scores, strict=True):
            weight = (similarity[:, :k] / temperature).softmax(dim=1)
            found.append(torch.einsum("qk,qkc->qc", weight, y[index[:, :k]]))
    return [torch.cat(found) for found in scores]


def evaluate(
    backbone_file: Path, config: Knn, *, seed: int, device: torch.device, progress: bool = True
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A row with the mAP in percent on all validation images, whose neighbours are all training images; and notes.

    The number of neighbours has the best mAP on held-out training images, whose neighbours are the others; on
    ties it is the smallest, and if no category can be scored on them, the middle candidate. Raises
    MissingLabels with the sentence of `missing`.
    """
    x, y, x_val, y_val, categories = read_labelled(backbone_file, config, device, progress)
    order = random_order(len(x), seed_of(seed, "knn", "selection"))
    others, held = (part.to(device) for part in hold_out(order, config.selection))
    candidates = sorted(config.neighbours)
    chosen, scores = candidates[len(candidates) // 2], None
    if scorable(y[held]).any():
        votes = vote(x[held], x[others], y[others], candidates, config.temperature)
        scores = [mean_average_precision(v, y[held])[0] for v in votes]
        chosen = candidates[scores.index(max(scores))]
    (found,) = vote(x_val, x, y, [chosen], config.temperature)
    value, scored = mean_average_precision(found, y_val)
    notes = {
        "head": f"{chosen} nearest training images by cosine of globally average-pooled features; votes by "
        f"softmax(similarity / {config.temperature:g})",
        "neighbours": chosen,
        "selection_mAP": scores and {str(k): s for k, s in zip(candidates, scores, strict=True)},
        "selection_images": len(held),
        "train_images": len(x),
        "eval_images": len(x_val),
        "size": config.size,
        "categories": categories,
        "categories_scored": scored,
        "constant_mAP": 100 * float(y_val[:, scorable(y_val)].double().mean()),
    }
    return [row("knn", "mAP", value, len(x_val), mean_ap_without_each(found, y_val))], notes
