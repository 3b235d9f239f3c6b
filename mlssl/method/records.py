"""What MLS remembers of its last step, and the record of pseudo-labels made of it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mlssl.method.pseudo_labels import Labels
from mlssl.parts.view import View

SAMPLE = 1024
"""Largest number of dictionary entries in a record of labels."""


class LastStep(NamedTuple):
    """What the last step computed, without gradient, for records and diagnostics."""

    view: View
    labels: Labels
    entries: dict[str, Tensor]
    """The columns of the dictionary that were searched and classified."""
    z1: Tensor
    z2: Tensor
    negatives: Tensor
    """Q_z, all of it."""
    lam: float
    """Weight of the multi-label loss."""


def label_record(last: LastStep) -> dict[str, Tensor]:
    """The pseudo-labels of a step with the crops they relate (ARCHITECTURE.md, Records).

    `dictionary_*` is an even sample of the entries there were.
    """
    y, entries = last.labels, last.entries
    every = slice(None, None, -(-len(entries["image"]) // SAMPLE))
    return {
        "query_image": last.view.image,
        "query_box": last.view.box,
        "image": entries["image"][y.index, 0],
        "box": entries["box"][y.index],
        "positive": y.positive,
        "similarity": y.similarity,
        "filled": torch.tensor(len(entries["image"])),
        "dictionary_image": entries["image"][every, 0],
        "dictionary_box": entries["box"][every],
    }
