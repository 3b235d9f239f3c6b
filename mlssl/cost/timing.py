"""Wall time of a function, until its work on the device is finished."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall time of `work()`, including its asynchronous work on a GPU."""
    _wait(device)
    started = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - started


def quartiles(milliseconds: list[float]) -> dict[str, float]:
    """Median and quartiles: `ms`, `ms_q25`, `ms_q75`."""
    low, middle, high = np.quantile(milliseconds, [0.25, 0.5, 0.75]).tolist()
    return {"ms": middle, "ms_q25": low, "ms_q75": high}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
