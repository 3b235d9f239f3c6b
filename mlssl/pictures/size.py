"""How many crops the pictures embed. Imports no torch: the estimate of a study's cost asks for it."""

from __future__ import annotations

from mlssl.study.settings import Pictures

CROPS_OF_AN_IMAGE = 8
"""More crops of the same image cost time, and fill the neighbours of a query with one photo."""


def sizes(config: Pictures, images: int) -> dict[str, int]:
    """Number of candidate queries and of dictionary entries: those of the settings, or fewer for few images."""
    return {
        "queries": min(config.candidates, images),
        "dictionary": min(config.dictionary_size, CROPS_OF_AN_IMAGE * images),
    }
