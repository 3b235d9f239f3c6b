"""Learning rate schedules, as pure functions of the step."""

from __future__ import annotations

import math


def cosine(step: int, total: int, *, base: float, warmup: float = 0.0) -> float:
    """Learning rate at `step` of `total`: linear from 0 over the first `warmup` share, then a half cosine to 0.

    SGDR without restarts (Loshchilov and Hutter 2017), as in MoCo-v2 and MLS.
    """
    rising = round(warmup * total)
    if step < rising:
        return base * (step + 1) / rising
    return base * 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, total - rising)))
