"""The places of the scenes: each draws its backdrop and says where objects may be.

All take `back` (a canvas of the whole image; the unit is the image height), `front` (an empty canvas of the
same size for objects in front of the floor, such as a table), the light and the generator, and return the
zones in which objects are placed.
"""

from typing import NamedTuple

import numpy as np

from mlssl.scenes.canvas import Canvas, Colour, any_colour, box, hsv, leaf, mix, oval, tone, wood


class Light(NamedTuple):
    """Time of day: `tint` multiplies RGB, `side` in -1..1 is where the light comes from, `shadow` in 0..1."""

    tint: tuple[float, float, float]
    side: float
    shadow: float
    sky_top: Colour
    sky_low: Colour


class Zone(NamedTuple):
    """Where the feet of objects may be: x in left..right of the image width, y in top..bottom of its height.

    `far` and `near` are image heights per metre at top and bottom. Depth 0 = wall or sky, 1 = ground, 2 = on
    the front layer; a deeper zone is never hidden by a shallower one.
    """

    top: float
    bottom: float
    far: float
    near: float
    depth: int = 1
    left: float = 0.0
    right: float = 1.0
    airborne: bool = False
    rests: bool = True


SKY = Zone(0.18, 0.42, 0.16, 0.3, depth=0, airborne=True, rests=False)
HIGH = Zone(0.12, 0.3, 0.022, 0.04, depth=0, airborne=True, rests=False)


def _cloud(c: Canvas, x: float, y: float, r: float, colour: Colour, rng: np.random.Generator) -> None:
    for _ in range(int(rng.integers(4, 7))):
        dx, k = rng.uniform(-1.6, 1.6) * r, rng.uniform(0.45, 0.85)
        c.fill(oval(x + dx, y - 0.45 * r * k, r * k, r * k * 0.7), colour)
    c.fill(box(x - 2 * r, y - 0.3 * r, x + 2 * r, y + 0.22 * r, 0.25 * r), colour)


def _sky(c: Canvas, horizon: float, light: Light, rng: np.random.Generator) -> None:
    c.gradient(0, 0, c.aspect, horizon, light.sky_top, light.sky_low)
    if rng.random() < 0.4:
        x = c.aspect * (0.5 + 0.4 * light.side)
        y, r = rng.uniform(0.08, 0.3), rng.uniform(0.035, 0.06)
        c.fill(oval(x, y, 1.5 * r, 1.5 * r), mix(light.sky_top, (255, 244, 205), 0.4))
        c.fill(oval(x, y, r, r), (255, 246, 214))
    white = mix(light.sky_low, (255, 255, 255), 0.6)
    for _ in range(int(rng.integers(0, 5))):
        x, y = c.aspect * rng.random(), rng.uniform(0.06, max(horizon - 0.08, 0.1))
        _cloud(c, x, y, rng.uniform(0.03, 0.07), mix(white, light.sky_low, rng.uniform(0, 0.5)), rng)


def _hills(c: Canvas, base: float, height: float, colour: Colour, rng: np.random.Generator) -> None:
    """A wavy ridge of about `height` above `base`."""
    x = np.linspace(0, c.aspect, 24)
    turns, phase = rng.uniform(2, 6, 2), rng.uniform(0, 6, 2)
    wave = 0.5 + 0.3 * np.sin(turns[0] * x + phase[0]) + 0.2 * np.sin(2.2 * turns[1] * x + phase[1])
    ridge = np.stack([x, base - height * wave], axis=1)
    c.fill(np.concatenate([ridge, [(c.aspect, base + 0.01), (0, base + 0.01)]]), colour)


def _water(c: Canvas, top: float, bottom: float, light: Light, rng: np.random.Generator) -> None:
    deep = hsv(rng.uniform(0.49, 0.6), rng.uniform(0.4, 0.65), rng.uniform(0.5, 0.75))
    pale = mix(light.sky_low, deep, 0.55)
    c.gradient(0, top, c.aspect, bottom, pale, deep)
    count = 26
    for x, u, v in rng.random((count, 3)).tolist():
        y = top + (bottom - top) * u**1.5
        reach = 0.015 + 0.07 * u * (0.5 + v)
        c.stroke(
            [(x * c.aspect - reach, y), (x * c.aspect + reach, y)],
            0.003 + 0.006 * u,
            tone(mix(pale, deep, u), 1.15 + 0.2 * v),
        )


def _speckles(c: Canvas, top: float, bottom: float, colour: Colour, count: int, rng: np.random.Generator) -> None:
    """Tufts or grains that grow towards the viewer."""
    for x, u, v in rng.random((count, 3)).tolist():
        y = top + (bottom - top) * u
        c.fill(oval(x * c.aspect, y, 0.004 + 0.012 * u, 0.002 + 0.004 * u), tone(colour, 0.9 + 0.25 * v))


def street(back: Canvas, front: Canvas, light: Light, rng: np.random.Generator) -> dict[str, Zone]:
    """House fronts, a pavement, a road and a second pavement in front."""
    c, w = back, back.aspect
    far, road, near = rng.uniform(0.46, 0.52), rng.uniform(0.56, 0.61), rng.uniform(0.83, 0.88)
    _sky(c, far, light, rng)
    x = -0.1 * rng.random()
    while x < w:
        wide, top = rng.uniform(0.18, 0.4), rng.uniform(0.08, 0.34)
        wall = hsv(rng.choice([0.02, 0.05, 0.08, 0.11, 0.58]), rng.uniform(0.1, 0.45), rng.uniform(0.6, 0.9))
        c.fill(box(x, top, x + wide, far + 0.01), wall)
        if rng.random() < 0.5:
            c.fill([(x - 0.01, top), (x + wide / 2, top - 0.08), (x + wide + 0.01, top)], tone(wall, 0.6))
        else:
            c.fill(box(x - 0.008, top - 0.02, x + wide + 0.008, top + 0.01), tone(wall, 0.75))
        glass = mix(tone(light.sky_top, 0.7), (255, 225, 150), 0.7 * (rng.random() < 0.3))
        columns = max(int(wide / 0.085), 2)
        for i in range(columns):
            for y in np.arange(top + 0.04, far - 0.12, 0.085):
                px = x + wide * (i + 0.5) / columns
                c.fill(box(px - 0.02, y, px + 0.02, y + 0.05), glass)
                c.fill(box(px - 0.024, y + 0.05, px + 0.024, y + 0.057), tone(wall, 1.3))
        if rng.random() < 0.5:
            awning = box(x + 0.03, far - 0.1, x + wide - 0.03, far - 0.07)
            c.fill(box(x + 0.04, far - 0.07, x + wide - 0.04, far), tone(glass, 0.7))
            c.fill(awning, (245, 242, 235))
            c.stripes(awning, any_colour(rng, 0), 0.04, np.pi / 2, 0.5)
        door = x + wide * rng.uniform(0.2, 0.7)
        c.fill(box(door, far - 0.085, door + 0.05, far), tone(any_colour(rng), 0.7))
        x += wide
    paving = hsv(0.1, rng.uniform(0.03, 0.15), rng.uniform(0.66, 0.82))
    asphalt = hsv(0.62, rng.uniform(0.03, 0.1), rng.uniform(0.34, 0.5))
    c.gradient(0, far, w, road, tone(paving, 0.92), paving)
    c.gradient(0, road, w, near, tone(asphalt, 1.12), asphalt)
    _speckles(c, road, near, asphalt, 30, rng)
    for y in (road, near - 0.012):
        c.fill(box(0, y, w, y + 0.014), tone(paving, 0.75))
    middle, shift = (road + near) / 2 - 0.015, rng.uniform(0, 0.3)
    for x in np.arange(-shift, w, 0.3):
        c.fill(
            [(x + 0.01, middle), (x + 0.15, middle), (x + 0.145, middle + 0.016), (x, middle + 0.016)],
            (240, 236, 222),
        )
    if rng.random() < 0.35:
        x = w * rng.uniform(0.1, 0.7)
        for i in range(6):
            y = road + 0.025 + (near - road - 0.05) * i / 6
            c.fill(box(x, y, x + 0.24 + 0.02 * i, y + (near - road) / 12), (240, 238, 230))
    c.gradient(0, near, w, 1, paving, tone(paving, 1.1))
    for i in range(9):
        px = w * i / 8
        c.stroke([(px, near), (px + (px - w / 2) * 0.2, 1)], 0.004, tone(paving, 0.82))
    return {
        "far pavement": Zone(far + 0.03, road, 0.16, 0.19),
        "road": Zone(road + 0.08, near - 0.02, 0.16, 0.22),
        "near pavement": Zone(near + 0.04, 0.98, 0.28, 0.34),
        "sky": SKY._replace(top=0.1, bottom=0.22),
        "high": HIGH._replace(bottom=0.16),
    }


def park(back: Canvas, front: Canvas, light: Light, rng: np.random.Generator) -> dict[str, Zone]:
    """A lawn with a path before hedges and hills, sometimes with a pond."""
    c, w = back, back.aspect
    horizon, grass = rng.uniform(0.38, 0.5), leaf(rng)
    _sky(c, horizon, light, rng)
    _hills(c, horizon, rng.uniform(0.06, 0.16), mix(tone(grass, 0.9), light.sky_low, 0.5), rng)
    if rng.random() < 0.7:
        bush = mix(tone(grass, 0.7), light.sky_low, 0.15)
        for x in np.arange(-0.05, w + 0.1, 0.07):
            r = rng.uniform(0.04, 0.08)
            c.fill(oval(x, horizon, r, r), tone(bush, rng.uniform(0.85, 1.1)))
    c.gradient(0, horizon, w, 1, tone(grass, 1.22), grass)
    if rng.random() < 0.3:
        x, y, r = w * rng.random(), horizon + 0.09, rng.uniform(0.2, 0.35)
        c.fill(oval(x, y, r * 1.06, 0.062), tone(grass, 0.75))
        c.fill(oval(x, y, r, 0.05), mix(light.sky_top, (90, 150, 190), 0.6))
        c.fill(oval(x - 0.3 * r, y - 0.012, 0.35 * r, 0.008), light.sky_low)
    if rng.random() < 0.7:
        start, end, bend = rng.uniform(0.1, 0.9, 3) * w
        t = np.linspace(0, 1, 12)
        middle = (1 - t) ** 2 * start + 2 * t * (1 - t) * bend + t**2 * end
        half, down = 0.01 + 0.13 * t**1.3, horizon + (1.02 - horizon) * t**1.4
        sand = hsv(0.1, rng.uniform(0.15, 0.35), rng.uniform(0.75, 0.9))
        c.fill(np.concatenate([np.stack([middle - half, down], 1), np.stack([middle + half, down], 1)[::-1]]), sand)
    _speckles(c, horizon + 0.03, 1, grass, 70, rng)
    if rng.random() < 0.5:
        petals = any_colour(rng, 0.2)
        for x, u in rng.random((14, 2)).tolist():
            y = horizon + 0.06 + (0.94 - horizon) * u
            c.fill(oval(x * w, y, 0.004 + 0.007 * u, 0.004 + 0.006 * u), petals)
    return {
        "back": Zone(horizon + 0.05, horizon + 0.2, 0.1, 0.16),
        "lawn": Zone(horizon + 0.18, 0.97, 0.17, 0.34),
        "sky": SKY._replace(bottom=horizon),
        "high": HIGH,
    }


def beach(back: Canvas, front: Canvas, light: Light, rng: np.random.Generator) -> dict[str, Zone]:
    """Sky, sea with a line of surf, and sand."""
    c, w = back, back.aspect
    horizon, shore = rng.uniform(0.32, 0.42), rng.uniform(0.54, 0.62)
    _sky(c, horizon, light, rng)
    if rng.random() < 0.5:
        _hills(c, horizon, rng.uniform(0.04, 0.1), mix((70, 120, 110), light.sky_low, 0.5), rng)
    _water(c, horizon, shore + 0.04, light, rng)
    sand = hsv(rng.uniform(0.095, 0.125), rng.uniform(0.25, 0.45), rng.uniform(0.85, 0.96))
    x = np.linspace(0, w, 30)
    wave = 0.012 * np.sin(rng.uniform(5, 11) * x + rng.uniform(0, 6)) + rng.uniform(-0.05, 0.05) * (x / w - 0.5)
    for lift, colour in ((0.0, (250, 252, 252)), (0.014, tone(sand, 0.82)), (0.035, sand)):
        edge = np.stack([x, shore + wave + lift], axis=1)
        c.fill(np.concatenate([edge, [(w, 1), (0, 1)]]), colour)
    c.gradient(0, shore + 0.09, w, 1, sand, tone(sand, 0.92))
    _speckles(c, shore + 0.08, 1, tone(sand, 0.9), 80, rng)
    return {
        "sea": Zone(horizon + 0.05, shore - 0.03, 0.055, 0.08),
        "sand": Zone(shore + 0.09, 0.97, 0.17, 0.34),
        "sky": SKY._replace(bottom=horizon),
        "high": HIGH,
    }


def harbour(back: Canvas, front: Canvas, light: Light, rng: np.random.Generator) -> dict[str, Zone]:
    """A bay with a far shore and houses, water, a mole and a quay of planks or stone in front."""
    c, w = back, back.aspect
    horizon, quay = rng.uniform(0.34, 0.42), rng.uniform(0.74, 0.8)
    _sky(c, horizon, light, rng)
    _hills(c, horizon, rng.uniform(0.08, 0.16), mix((75, 115, 95), light.sky_low, 0.45), rng)
    x = w * rng.uniform(0, 0.4)
    for _ in range(int(rng.integers(3, 9))):
        wide, tall = rng.uniform(0.04, 0.09), rng.uniform(0.04, 0.08)
        wall = mix(any_colour(rng, 0.3), (250, 240, 225), 0.4)
        c.fill(box(x, horizon - tall, x + wide, horizon + 0.005), wall)
        roof = horizon - tall
        c.fill([(x - 0.006, roof), (x + wide / 2, roof - 0.035), (x + wide + 0.006, roof)], (160, 85, 65))
        c.fill(box(x + wide * 0.3, roof + 0.015, x + wide * 0.5, roof + 0.035), tone(wall, 0.45))
        x += wide + 0.01
    _water(c, horizon, quay + 0.01, light, rng)
    stone = hsv(0.09, rng.uniform(0.08, 0.2), rng.uniform(0.5, 0.68))
    right, mole = rng.random() < 0.5, horizon + 0.11
    reach, tip = w * rng.uniform(0.3, 0.45), horizon + 0.075
    points = [(0, tip), (reach * 0.9, tip), (reach, mole + 0.02), (0, mole + 0.04)]
    c.fill([(w - px, py) for px, py in points] if right else points, tone(stone, 0.8))
    points = [(0, tip - 0.012), (reach * 0.88, tip - 0.012), (reach * 0.95, tip + 0.02), (0, tip + 0.025)]
    c.fill([(w - px, py) for px, py in points] if right else points, stone)
    deck = wood(rng) if rng.random() < 0.5 else stone
    c.fill(box(0, quay, w, quay + 0.05), tone(deck, 0.6))
    c.gradient(0, quay + 0.02, w, 1, tone(deck, 1.15), deck)
    for i in range(12):
        px = w * i / 11
        c.stroke([(px, quay + 0.02), (px + (px - w / 2) * 0.25, 1)], 0.005, tone(deck, 0.75))
    for px in np.arange(rng.uniform(0.05, 0.2), w, 0.45):
        c.fill(box(px - 0.018, quay - 0.02, px + 0.018, quay + 0.05, 0.01), (52, 54, 60))
        c.fill(box(px - 0.027, quay - 0.03, px + 0.027, quay - 0.012, 0.01), (70, 72, 78))
    side = (1 - reach / w + 0.06, 0.97) if right else (0.03, reach / w - 0.06)
    return {
        "mole": Zone(tip + 0.008, tip + 0.018, 0.042, 0.056, left=side[0], right=side[1]),
        "water": Zone(horizon + 0.16, quay - 0.04, 0.075, 0.125),
        "quay": Zone(quay + 0.07, 0.98, 0.25, 0.32),
        "sky": SKY._replace(bottom=horizon),
        "high": HIGH,
    }
