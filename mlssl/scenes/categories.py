"""The table of object categories: what is drawn, how tall it is in the world and how far it may tilt."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mlssl.scenes.canvas import Canvas
from mlssl.scenes.objects import furniture as indoor
from mlssl.scenes.objects import people_animals as living
from mlssl.scenes.objects import plants, vehicles
from mlssl.scenes.objects import street as outdoor
from mlssl.scenes.objects import tableware as tabletop


class Category(NamedTuple):
    """One category: `height` in metres (low, high), `aspect` = width / height of the drawing's box, `tilt` =
    largest rotation in radians."""

    supercategory: str
    draw: Callable[[Canvas, np.random.Generator], None]
    height: tuple[float, float]
    aspect: float
    tilt: float = 0.04


CATEGORIES: dict[str, Category] = {
    "person": Category("person", living.person, (1.3, 1.9), 0.72, 0.05),
    "bicycle": Category("vehicle", vehicles.bicycle, (0.95, 1.1), 1.66),
    "car": Category("vehicle", vehicles.car, (1.35, 1.6), 2.4, 0.02),
    "bus": Category("vehicle", vehicles.bus, (2.9, 3.5), 2.2, 0.02),
    "boat": Category("vehicle", vehicles.boat, (4.0, 8.0), 1.26, 0.08),
    "airplane": Category("vehicle", vehicles.airplane, (8.0, 12.0), 2.4, 0.3),
    "traffic light": Category("street", outdoor.traffic_light, (2.6, 3.4), 0.24, 0.02),
    "fire hydrant": Category("street", outdoor.fire_hydrant, (0.7, 0.9), 0.76, 0.05),
    "stop sign": Category("street", outdoor.stop_sign, (2.0, 2.6), 0.4, 0.06),
    "bench": Category("street", outdoor.bench, (0.8, 0.95), 1.9, 0.02),
    "tree": Category("plant", plants.tree, (4.0, 8.0), 0.8, 0.05),
    "palm tree": Category("plant", plants.palm_tree, (4.0, 8.0), 0.9, 0.08),
    "potted plant": Category("plant", plants.potted_plant, (0.3, 0.8), 0.9),
    "dog": Category("animal", living.dog, (0.4, 0.75), 1.34, 0.08),
    "cat": Category("animal", living.cat, (0.3, 0.45), 0.9, 0.06),
    "bird": Category("animal", living.bird, (0.2, 0.4), 1.26, 0.15),
    "ball": Category("sports", outdoor.ball, (0.2, 0.4), 1.0, 3.1),
    "kite": Category("sports", outdoor.kite, (1.4, 2.2), 0.66, 0.7),
    "surfboard": Category("sports", outdoor.surfboard, (1.8, 2.4), 0.34, 0.25),
    "umbrella": Category("accessory", outdoor.umbrella, (1.9, 2.5), 1.04, 0.2),
    "backpack": Category("accessory", outdoor.backpack, (0.45, 0.6), 0.86, 0.1),
    "suitcase": Category("accessory", outdoor.suitcase, (0.8, 1.1), 0.6, 0.05),
    "lighthouse": Category("marine", outdoor.lighthouse, (12.0, 20.0), 0.62, 0.01),
    "buoy": Category("marine", outdoor.buoy, (1.5, 3.0), 0.76, 0.25),
    "cup": Category("kitchen", tabletop.cup, (0.08, 0.11), 1.08, 0.02),
    "bottle": Category("kitchen", tabletop.bottle, (0.22, 0.33), 0.4, 0.02),
    "bowl": Category("kitchen", tabletop.bowl, (0.07, 0.1), 2.0, 0.02),
    "teapot": Category("kitchen", tabletop.teapot, (0.14, 0.2), 1.4, 0.02),
    "apple": Category("food", tabletop.apple, (0.07, 0.09), 1.0, 0.4),
    "orange": Category("food", tabletop.orange, (0.07, 0.09), 1.0, 0.8),
    "banana": Category("food", tabletop.banana, (0.07, 0.1), 1.8, 0.25),
    "cake": Category("food", tabletop.cake, (0.14, 0.2), 1.66, 0.01),
    "chair": Category("furniture", indoor.chair, (0.85, 1.0), 0.76, 0.02),
    "couch": Category("furniture", indoor.couch, (0.8, 0.95), 2.0, 0.01),
    "table lamp": Category("furniture", indoor.table_lamp, (0.4, 0.6), 0.76, 0.02),
    "laptop": Category("electronics", indoor.laptop, (0.22, 0.26), 1.5, 0.02),
    "clock": Category("indoor", indoor.clock, (0.2, 0.35), 1.0, 0.06),
    "book": Category("indoor", indoor.book, (0.18, 0.24), 1.22, 0.02),
    "vase": Category("indoor", indoor.vase, (0.3, 0.45), 0.9, 0.02),
}

CATEGORY_IDS: dict[str, int] = {name: i for i, name in enumerate(CATEGORIES, start=1)}
