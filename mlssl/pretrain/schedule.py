"""Learning rate schedules, as pure functions of the step."""

from __future__ import annotations

import math

from mlssl.study.settings import Pretrain


def cosine(step: int, total: int, *, base: float, warmup: float = 0.0) -> float:
    """Learning rate at `step` of `total`: linear from 0 over the first `warmup` share, then a half cosine to 0.

    SGDR without restarts (Loshchilov and Hutter 2017), as in MoCo-v2 and MLS.
    """
    rising = round(warmup * total)
    if step < rising:
        return base * (step + 1) / rising
    return base * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))


def score_steps(config: Pretrain, images: int, total: int) -> frozenset[int]:
    """The steps after which the backbone is scored: the first line of the log at or after every `knn_every`-th
    epoch of `images` images, and the last step; none without `knn_every`. They depend on settings alone, so that a
    resumed run has the same.
    """
    if config.knn_every is None or not total:
        return frozenset()
    interval = max(config.knn_every * (images // config.batch_size), 1)
    due = (math.ceil(i * interval) for i in range(1, math.floor(total / interval) + 1))
    return frozenset({min(-(-step // config.log_every) * config.log_every, total) for step in due} | {total})
