"""The indoor places of the scenes; the same interface as the outdoor ones."""

import numpy as np

from mlssl.scenes.canvas import Canvas, Colour, any_colour, box, hsv, mix, oval, tone, wood
from mlssl.scenes.places.outdoor import Light, Zone


def _wall(c: Canvas, floor: float, rng: np.random.Generator) -> Colour:
    """A painted, papered or tiled wall down to `floor`."""
    paint = hsv(rng.random(), rng.uniform(0.05, 0.3), rng.uniform(0.78, 0.96))
    c.gradient(0, 0, c.aspect, floor, tone(paint, 1.1), tone(paint, 0.94))
    kind = rng.integers(4)
    if kind == 0:
        pitch = rng.uniform(0.05, 0.1)
        for x in np.arange(0, c.aspect, pitch):
            c.fill(box(x, 0, x + pitch / 2, floor), tone(paint, 0.94))
    elif kind == 1:
        c.dots(box(0, 0, c.aspect, floor), tone(paint, 0.9), 0.008, 60, rng)
    return paint


def _floor(c: Canvas, top: float, rng: np.random.Generator) -> None:
    """Floor boards or tiles in perspective, below a skirting board."""
    w = c.aspect
    ground = wood(rng) if rng.random() < 0.6 else hsv(rng.uniform(0.02, 0.12), rng.uniform(0.05, 0.3), 0.75)
    c.gradient(0, top, w, 1, tone(ground, 0.88), tone(ground, 1.1))
    for px in np.linspace(-w, 2 * w, 25):
        c.stroke([(w / 2 + (px - w / 2) * 0.6, top), (px, 1)], 0.004, tone(ground, 0.8))
    for t in (0.15, 0.38, 0.7):
        c.stroke([(0, top + t * (1 - top)), (w, top + t * (1 - top))], 0.003, tone(ground, 0.84))
    c.fill(box(0, top - 0.025, w, top + 0.004), (244, 241, 234))


def _window(
    c: Canvas, x: float, y: float, wide: float, tall: float, light: Light, rng: np.random.Generator
) -> None:
    """A window with a view, a cross bar, a sill and sometimes curtains."""
    c.fill(box(x - 0.018, y - 0.018, x + wide + 0.018, y + tall + 0.018), (247, 245, 240))
    c.gradient(x, y, x + wide, y + tall, light.sky_top, light.sky_low)
    pane = box(x, y, x + wide, y + tall)
    if rng.random() < 0.5:
        c.cut(pane, oval(x + wide * rng.random(), y + tall * 1.1, wide * 0.6, tall * 0.45), hsv(0.3, 0.4, 0.6))
    else:
        for i in range(4):
            px, top = x + wide * (i / 4 + 0.02), y + tall * rng.uniform(0.35, 0.7)
            c.fill(box(px, top, px + wide * 0.2, y + tall), mix(light.sky_low, (90, 95, 115), 0.6))
    c.fill(box(x + wide / 2 - 0.008, y, x + wide / 2 + 0.008, y + tall), (247, 245, 240))
    c.fill(box(x, y + tall * 0.42, x + wide, y + tall * 0.42 + 0.014), (247, 245, 240))
    c.fill(box(x - 0.035, y + tall + 0.012, x + wide + 0.035, y + tall + 0.036), (226, 222, 214))
    if rng.random() < 0.5:
        cloth = any_colour(rng, 0.3)
        for side in (-1, 1):
            px = x - 0.03 if side < 0 else x + wide + 0.03
            edge = [
                (px, y - 0.05),
                (px + side * -0.11, y - 0.05),
                (px + side * -0.05, y + tall * 0.6),
                (px + side * -0.06, y + tall + 0.02),
                (px, y + tall + 0.02),
            ]
            c.fill(edge, cloth)
            c.stripes(np.array(edge), tone(cloth, 0.85), 0.03, np.pi / 2, 0.4)
        c.stroke([(x - 0.06, y - 0.05), (x + wide + 0.06, y - 0.05)], 0.014, (120, 100, 80))


def _picture(c: Canvas, x: float, y: float, size: float, rng: np.random.Generator) -> None:
    """A framed picture: hills, a sun or coloured fields."""
    c.fill(box(x - 0.014, y - 0.014, x + size + 0.014, y + size * 0.8 + 0.014), tone(wood(rng), 0.8))
    sheet = box(x, y, x + size, y + size * 0.8)
    c.fill(sheet, mix(any_colour(rng), (250, 246, 235), 0.6))
    c.cut(
        sheet,
        oval(x + size * rng.uniform(0.2, 0.8), y + size * 0.3, size * 0.13, size * 0.13),
        any_colour(rng, 0),
    )
    c.cut(sheet, oval(x + size * rng.random(), y + size, size * 0.7, size * 0.45), any_colour(rng, 0.1))


def _shelf(c: Canvas, x0: float, x1: float, y: float, rng: np.random.Generator) -> None:
    board = wood(rng)
    c.fill(box(x0, y, x1, y + 0.022), board)
    c.fill(box(x0, y + 0.022, x1, y + 0.034), tone(board, 0.65))
    for x in (x0 + 0.06, x1 - 0.06):
        c.fill([(x - 0.012, y + 0.03), (x + 0.012, y + 0.03), (x, y + 0.08)], tone(board, 0.55))


def _table(front: Canvas, top: float, edge: float, colour: Colour, rng: np.random.Generator) -> None:
    """A table top that fills the lower part of the picture, in front of everything on the floor."""
    w, inset = front.aspect, rng.uniform(-0.1, 0.1)
    front.fill([(inset, top), (w - inset, top), (w + 0.2, edge), (-0.2, edge)], colour)
    kind = rng.integers(3)
    surface = np.array([(inset, top), (w - inset, top), (w + 0.2, edge), (-0.2, edge)])
    if kind == 0:
        for t in (0.08, 0.2, 0.36, 0.56, 0.8):
            y = top + t * (edge - top)
            front.cut(surface, box(-0.2, y, w + 0.2, y + 0.006), tone(colour, 0.86))
        for x, u in rng.random((12, 2)).tolist():
            y = top + (edge - top) * u
            front.cut(surface, box(x * w, y, x * w + 0.12, y + 0.003), tone(colour, 0.9))
    elif kind == 1:
        cloth = any_colour(rng, 0.1)
        front.fill(surface, mix(cloth, (252, 250, 244), 0.75))
        for i in range(-8, 17):
            px = w * i / 8
            half = 0.02 * w
            inner = 0.15 * w + 0.7 * px
            band = [(inner - half, top), (inner + half, top), (px + half, edge), (px - half, edge)]
            front.cut(surface, band, mix(cloth, (252, 250, 244), 0.45))
        for t in (0.04, 0.26, 0.56, 0.9):
            y = top + t * (edge - top)
            front.cut(surface, box(-0.2, y, w + 0.2, y + 0.015 + 0.03 * t), mix(cloth, (252, 250, 244), 0.35))
    else:
        front.dots(surface, tone(colour, 0.93), 0.006, 70, rng)
    if edge < 1:
        front.fill(box(-0.2, edge, w + 0.2, 1.05), tone(colour, 0.62))
        front.fill(box(-0.2, edge, w + 0.2, edge + 0.03), tone(colour, 0.8))


def kitchen(back: Canvas, front: Canvas, light: Light, rng: np.random.Generator) -> dict[str, Zone]:
    """A wall with tiles, window and shelf; a table or worktop in front."""
    c, w = back, back.aspect
    floor, top = rng.uniform(0.58, 0.64), rng.uniform(0.62, 0.7)
    paint = _wall(c, floor, rng)
    if rng.random() < 0.6:
        upper, pitch = rng.uniform(0.28, 0.4), rng.uniform(0.06, 0.1)
        c.fill(box(0, upper, w, floor), tone(paint, 1.5))
        for y in np.arange(upper, floor, pitch):
            c.fill(box(0, y, w, y + 0.005), tone(paint, 0.88))
        for x in np.arange(pitch / 2, w, pitch):
            c.fill(box(x, upper, x + 0.005, floor), tone(paint, 0.88))
    _floor(c, floor, rng)
    left = rng.random() < 0.5
    wide, tall = w * rng.uniform(0.26, 0.36), rng.uniform(0.3, 0.38)
    _window(c, 0.06 * w if left else 0.94 * w - wide, rng.uniform(0.07, 0.12), wide, tall, light, rng)
    x0, x1 = (0.52 * w, 0.96 * w) if left else (0.04 * w, 0.48 * w)
    y = rng.uniform(0.34, 0.4)
    _shelf(c, x0, x1, y, rng)
    table = (
        wood(rng) if rng.random() < 0.6 else hsv(rng.uniform(0, 0.6), rng.uniform(0, 0.15), rng.uniform(0.6, 0.93))
    )
    _table(front, top, rng.uniform(0.93, 1.05), table, rng)
    return {
        "shelf": Zone(y + 0.012, y + 0.013, 0.6, 0.66, depth=0, left=x0 / w + 0.05, right=x1 / w - 0.05),
        "wall": Zone(0.2, 0.26, 0.34, 0.44, depth=0, left=x0 / w, right=x1 / w, rests=False),
        "floor": Zone(floor + 0.08, floor + 0.16, 0.38, 0.42),
        "table": Zone(top + 0.06, 0.96, 0.75, 1.15, depth=2),
    }


def office(back: Canvas, front: Canvas, light: Light, rng: np.random.Generator) -> dict[str, Zone]:
    """A room with a window and pictures; a desk across the front."""
    c, w = back, back.aspect
    floor, top = rng.uniform(0.56, 0.62), rng.uniform(0.64, 0.72)
    _wall(c, floor, rng)
    _floor(c, floor, rng)
    left = rng.random() < 0.5
    wide = w * rng.uniform(0.36, 0.48)
    _window(
        c,
        0.05 * w if left else 0.95 * w - wide,
        rng.uniform(0.06, 0.1),
        wide,
        rng.uniform(0.34, 0.42),
        light,
        rng,
    )
    x0, x1 = (0.62, 0.94) if left else (0.06, 0.38)
    if rng.random() < 0.5:
        _picture(c, w * x0, rng.uniform(0.3, 0.36), rng.uniform(0.14, 0.2), rng)
    desk = wood(rng) if rng.random() < 0.6 else hsv(0.6, 0.03, rng.uniform(0.75, 0.95))
    _table(front, top, rng.uniform(0.92, 1.05), desk, rng)
    return {
        "wall": Zone(0.2, 0.28, 0.36, 0.46, depth=0, left=x0, right=x1, rests=False),
        "floor": Zone(floor + 0.08, floor + 0.16, 0.38, 0.42),
        "desk": Zone(top + 0.06, 0.96, 0.7, 1.05, depth=2),
    }


def living_room(back: Canvas, front: Canvas, light: Light, rng: np.random.Generator) -> dict[str, Zone]:
    """A room with a rug, a window, pictures and a shelf."""
    c, w = back, back.aspect
    floor = rng.uniform(0.55, 0.62)
    _wall(c, floor, rng)
    _floor(c, floor, rng)
    rug, x, reach = any_colour(rng, 0.2), w * rng.uniform(0.35, 0.65), w * rng.uniform(0.3, 0.42)
    for k in (1.0, 0.86, 0.5):
        c.fill(oval(x, 0.82, reach * k, 0.12 * k), rug if k != 0.86 else tone(rug, 1.35))
    left = rng.random() < 0.5
    wide = w * rng.uniform(0.24, 0.34)
    _window(
        c,
        0.07 * w if left else 0.93 * w - wide,
        rng.uniform(0.07, 0.11),
        wide,
        rng.uniform(0.3, 0.36),
        light,
        rng,
    )
    x0, x1 = (0.52 * w, 0.95 * w) if left else (0.05 * w, 0.48 * w)
    y = rng.uniform(0.26, 0.34)
    _shelf(c, x0, x1, y, rng)
    if rng.random() < 0.6:
        _picture(c, x0 + 0.03 if left else x1 - 0.2, y + 0.1, rng.uniform(0.1, 0.14), rng)
    return {
        "shelf": Zone(y + 0.012, y + 0.013, 0.48, 0.54, depth=0, left=x0 / w + 0.05, right=x1 / w - 0.05),
        "wall": Zone(floor - 0.14, floor - 0.1, 0.34, 0.4, depth=0, left=x0 / w, right=x1 / w, rests=False),
        "back": Zone(floor + 0.03, floor + 0.1, 0.36, 0.38),
        "floor": Zone(floor + 0.16, 0.97, 0.4, 0.55),
    }
