"""How much a metric depends on the evaluation images: its values without each of up to 50 groups of them.

Image i is in group i mod G, with G = min(images, 50). With these values, a reader of the result can give the
standard error of the metric over images, and of the difference of two methods on the same images (delete-a-group
jackknife, Kott 2001): sqrt((G - 1) / G * sum_g (m_g - mean m)^2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

GROUPS = 50
FEWEST = 10
"""Images below which no values are given."""


def groups(images: int) -> Tensor:
    """The group of every evaluation image, int64 `images`."""
    return torch.arange(images) % min(images, GROUPS)


def without_each(images: int, metric: Callable[[Tensor], float | None]) -> list[float] | None:
    """`metric(kept)` without each group; `kept`, bool `images`, are the other images.

    None with fewer than 10 images, and if the metric is undefined (None) without one of the groups.
    """
    if images < FEWEST:
        return None
    group = groups(images)
    values = []
    for g in range(int(group.max()) + 1):
        value = metric(group != g)
        if value is None:
            return None
        values.append(value)
    return values


def without_each_part(images: int, parts: Tensor, metric: Callable[[Tensor], float | None]) -> list[float] | None:
    """The same for a metric of counts that add up over images: `parts`, G x ..., has the counts of each group."""
    total = parts.sum(dim=0)
    of_group = groups(images)
    return without_each(images, lambda kept: metric(total - parts[of_group[~kept][0]]))


def row(protocol: str, metric: str, value: float, n: int, jackknife: list[float] | None) -> dict[str, Any]:
    """A row of a result file; the values without each group are rounded to 4 decimals."""
    values = {} if jackknife is None else {"jackknife": [round(v, 4) for v in jackknife]}
    return {"protocol": protocol, "metric": metric, "value": value, "n": n, **values}
