"""Types of numbers with a range: for the settings of a study and the parameters of a method. Imports no torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]
Pixels = Annotated[int, Field(ge=32)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Inside = Annotated[float, Field(gt=0, lt=1)]
"""A share, neither 0 nor 1."""
Cosine = Annotated[float, Field(ge=-1, le=1)]
Name = Annotated[str, Field(pattern="^[a-z0-9_]+$")]


def _rising(values: tuple[float, float]) -> tuple[float, float]:
    if values[0] > values[1]:
        raise ValueError("give the smaller number first")
    return values


def _each_once(values: tuple[object, ...]) -> tuple[object, ...]:
    if len(set(values)) < len(values):
        raise ValueError("each may be given once")
    return values


EACH_ONCE = AfterValidator(_each_once)
"""No value of a list twice: seeds, shares and candidates each give rows, and one row counted twice is no n of 2."""

Range = Annotated[tuple[Positive, Positive], AfterValidator(_rising)]
ShareRange = Annotated[tuple[Share, Share], AfterValidator(_rising)]
