"""Counts of the scores of one query against the dictionary, before and after training (figure 3 of MLS).

`mlssl.pictures.histogram_sheet` draws the counts of several runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlssl.errors import DataError
from mlssl.files import write_json
from mlssl.pictures.neighbours import scores

if TYPE_CHECKING:
    from mlssl.pictures.embed import Crops

FORMAT = 1
"""Version of the file."""
BINS = 100
"""Of equal width, from -1 to 1: cosines of any two runs have the same bins."""
SPACES = {"g": "backbone", "z": "projector"}


def write_histograms(
    before: tuple[Crops, Crops], after: tuple[Crops, Crops], out: Path, *, method: str, trained: bool, about: str
) -> None:
    """Write `out` (JSON): how many entries have which score with the first query, before and after training.

    `before` and `after` are queries and dictionary of the same crops. Without a projector only the
    backbone's scores are there. Raises DataError for fewer than two entries of other images.
    """
    query, dictionary = after
    own = int((dictionary.image == query.image[0]).sum())
    found: dict[str, Any] = {"format": FORMAT, "method": method, "trained": trained, "about": about}
    found |= {"entries": len(dictionary.g) - own, "own": own, "scores": {}}
    for space in SPACES if query.z is not None else ["g"]:
        moments = {"before": before, "after": after}
        found["scores"][SPACES[space]] = {m: histogram(first_scores(*crops, space)) for m, crops in moments.items()}
    write_json(Path(out), found)


def first_scores(queries: Crops, dictionary: Crops, space: str) -> np.ndarray:
    """Cosines of the first query with the entries of other images, in the space `g` or `z`; at most D of them."""
    query, entries = getattr(queries, space)[:1], getattr(dictionary, space)
    values = scores(query, entries, queries.image[:1], dictionary.image)[0]
    values = values[~np.isnan(values)].astype(np.float64)
    if len(values) < 2:
        raise DataError(
            f"histograms: the dictionary has {len(values)} entries of other images than the query's; "
            "give more images or a larger dictionary_size"
        )
    return values


def histogram(values: np.ndarray) -> dict[str, Any]:
    """Mean and standard deviation (of all values, not a sample's) of cosines, and their number in each bin."""
    counts, _ = np.histogram(np.clip(values, -1, 1), bins=BINS, range=(-1, 1))
    return {"mean": float(values.mean()), "std": float(values.std()), "counts": counts.tolist()}
