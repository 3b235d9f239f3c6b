"""The scene themes: a place, its kind of light, and which objects occur in which of its zones."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mlssl.scenes.canvas import Canvas
from mlssl.scenes.places.indoor import kitchen, living_room, office
from mlssl.scenes.places.outdoor import Light, Zone, beach, harbour, park, street


class Theme(NamedTuple):
    """`objects` maps zone -> category -> relative frequency."""

    paint: Callable[[Canvas, Canvas, Light, np.random.Generator], dict[str, Zone]]
    indoor: bool
    objects: dict[str, dict[str, float]]


THEMES: dict[str, Theme] = {
    "street": Theme(
        street,
        False,
        {
            "far pavement": {
                "person": 2, "tree": 1.5, "bench": 1, "traffic light": 2, "stop sign": 1.5,
                "fire hydrant": 0.7, "bicycle": 0.8, "potted plant": 0.4,
            },
            "road": {"car": 5, "bus": 2, "bicycle": 2},
            "near pavement": {
                "person": 2.5, "dog": 1.2, "fire hydrant": 1.5, "traffic light": 0.8, "stop sign": 0.7,
                "suitcase": 0.8, "backpack": 0.6, "cat": 0.5, "bird": 0.6, "bicycle": 0.6,
            },
            "sky": {"bird": 0.5},
            "high": {"airplane": 0.4},
        },
    ),
    "park": Theme(
        park,
        False,
        {
            "back": {"tree": 4, "bench": 1, "person": 1, "bicycle": 0.5},
            "lawn": {
                "person": 3, "dog": 2.5, "ball": 2, "bench": 1.5, "bird": 1.2, "bicycle": 1.2, "tree": 1,
                "cat": 0.6, "umbrella": 0.5, "backpack": 0.8, "chair": 0.3, "potted plant": 0.3,
                "book": 0.3,
            },
            "sky": {"kite": 2, "bird": 1},
            "high": {"airplane": 0.4},
        },
    ),
    "beach": Theme(
        beach,
        False,
        {
            "sea": {"boat": 2.5, "buoy": 0.6},
            "sand": {
                "person": 3, "umbrella": 3, "ball": 2.2, "surfboard": 2.5, "palm tree": 2, "dog": 1,
                "bird": 1, "backpack": 0.6, "chair": 0.7, "bottle": 0.5,
            },
            "sky": {"kite": 1.5, "bird": 1.2},
            "high": {"airplane": 0.6},
        },
    ),
    "harbour": Theme(
        harbour,
        False,
        {
            "mole": {"lighthouse": 2.5, "tree": 0.3},
            "water": {"boat": 4.5, "buoy": 2.5},
            "quay": {
                "person": 2, "bird": 1.8, "bench": 1, "bicycle": 1, "suitcase": 1.2, "dog": 0.8, "cat": 0.8,
                "backpack": 0.5, "potted plant": 0.3,
            },
            "sky": {"bird": 1.2},
            "high": {"airplane": 0.3},
        },
    ),
    "kitchen": Theme(
        kitchen,
        True,
        {
            "shelf": {"bottle": 1, "cup": 1, "bowl": 0.8, "potted plant": 0.6, "book": 0.6, "teapot": 0.6},
            "wall": {"clock": 0.7},
            "floor": {"chair": 2, "person": 1.2},
            "table": {
                "cup": 2.5, "bowl": 2.2, "bottle": 2, "apple": 2, "banana": 2, "orange": 2, "teapot": 1.6,
                "cake": 1.5, "vase": 1, "cat": 0.3, "book": 0.3,
            },
        },
    ),
    "office": Theme(
        office,
        True,
        {
            "wall": {"clock": 1.2},
            "floor": {"chair": 2, "person": 1.5, "potted plant": 0.8},
            "desk": {
                "laptop": 3, "book": 3, "cup": 2, "table lamp": 2, "potted plant": 1.2, "bottle": 0.8,
                "apple": 0.7, "vase": 0.5, "backpack": 0.4, "banana": 0.3,
            },
        },
    ),
    "living room": Theme(
        living_room,
        True,
        {
            "shelf": {"book": 1.5, "vase": 1, "potted plant": 0.8, "table lamp": 0.7, "clock": 0.4},
            "wall": {"clock": 0.4},
            "back": {"couch": 3.5, "chair": 1, "potted plant": 0.8},
            "floor": {
                "cat": 2, "dog": 1.6, "person": 1.5, "chair": 1.5, "ball": 0.8, "potted plant": 1,
                "suitcase": 0.4, "backpack": 0.5, "book": 0.7, "table lamp": 0.4,
            },
        },
    ),
}  # fmt: skip

THEME_NAMES: tuple[str, ...] = tuple(THEMES)


def sample_light(rng: np.random.Generator, indoor: bool) -> Light:
    """A time of day and, indoors, warm or cool lamps that outweigh it."""
    day = [
        ((1.0, 1.0, 1.0), 0.4, (84, 156, 224), (196, 226, 244)),
        ((1.03, 1.0, 0.95), 0.34, (120, 178, 226), (246, 230, 206)),
        ((1.05, 0.93, 0.82), 0.34, (110, 130, 190), (250, 190, 130)),
        ((0.93, 0.95, 0.98), 0.16, (168, 182, 196), (216, 222, 226)),
        ((0.72, 0.74, 0.92), 0.2, (48, 56, 110), (196, 130, 150)),
    ]
    tint, shadow, sky_top, sky_low = day[rng.choice(5, p=[0.34, 0.2, 0.16, 0.18, 0.12])]
    if indoor:
        tint = [(1.0, 1.0, 1.0), (1.05, 0.98, 0.88), (0.95, 0.98, 1.03)][rng.integers(3)]
        shadow = 0.3
    gain = rng.uniform(0.88, 1.08)
    red, green, blue = tint
    return Light((gain * red, gain * green, gain * blue), rng.uniform(-1, 1), shadow, sky_top, sky_low)
