"""Crockery and food."""

import numpy as np

from mlssl.scenes.canvas import Canvas, Colour, any_colour, box, hsv, mix, oval, spline, tone

CREAM: Colour = (250, 244, 228)


def _glaze(rng: np.random.Generator) -> Colour:
    """The colour of glazed earthenware: white, cream or coloured."""
    return hsv(0.1, rng.uniform(0, 0.15), rng.uniform(0.88, 0.97)) if rng.random() < 0.35 else any_colour(rng, 0.1)


def decorate(c: Canvas, outline: np.ndarray, glaze: Colour, rng: np.random.Generator) -> None:
    """Bands, dots or upright stripes on half of the pots."""
    second = mix(any_colour(rng, 0.2), tone(glaze, 0.7), 0.3)
    kind = rng.integers(6)
    if kind == 0:
        c.stripes(outline, second, rng.uniform(0.12, 0.25), 0.0, 0.4)
    elif kind == 1:
        c.dots(outline, second, rng.uniform(0.025, 0.05), 26, rng)
    elif kind == 2:
        c.stripes(outline, second, rng.uniform(0.1, 0.2), np.pi / 2, 0.35)


def cup(c: Canvas, rng: np.random.Generator) -> None:
    """A mug or tea cup with a handle and a drink in it."""
    glaze, taper = _glaze(rng), rng.uniform(0.0, 0.14)
    drink = hsv(0.07, 0.7, rng.uniform(0.2, 0.55))
    c.ring(0.86, 0.5, 0.17, rng.uniform(0.19, 0.25), 0.08, tone(glaze, 0.85))
    body = np.concatenate(
        [[(0.07, 0.14)], oval(0.45, 0.88, 0.38 - taper, 0.1, start=np.pi, stop=0), [(0.83, 0.14)]]
    )
    c.fill(body, glaze)
    decorate(c, body, glaze, rng)
    c.fill(oval(0.45, 0.14, 0.38, 0.11), tone(glaze, 1.25))
    c.fill(oval(0.45, 0.155, 0.33, 0.08), drink)
    c.fill(oval(0.38, 0.17, 0.14, 0.025), tone(drink, 1.2))
    c.volume = 0.65


def bottle(c: Canvas, rng: np.random.Generator) -> None:
    """A bottle of glass or plastic with a cap or cork and a label."""
    x, wide = c.aspect / 2, rng.uniform(0.11, 0.16)
    glass = [hsv(0.36, 0.65, 0.45), hsv(0.07, 0.75, 0.42), hsv(0.53, 0.25, 0.88), any_colour(rng, 0)][
        rng.integers(4)
    ]
    neck, shoulder = wide * rng.uniform(0.3, 0.42), rng.uniform(0.34, 0.48)
    side = [
        (neck, 0.06),
        (neck, shoulder - 0.14),
        (neck * 1.3, shoulder - 0.09),
        (wide, shoulder),
        (wide, 0.96),
        (wide * 0.9, 0.99),
    ]
    body = np.array([(x - dx, y) for dx, y in side] + [(x + dx, y) for dx, y in reversed(side)])
    c.fill(body, glass)
    level = rng.uniform(0.1, 0.6)
    c.cut(body, box(0, level, 2 * x, 1), tone(glass, 0.82))
    label = _glaze(rng)
    low = rng.uniform(0.72, 0.86)
    c.fill(box(x - wide, shoulder + 0.08, x + wide, low), label)
    c.fill(
        oval(x, (shoulder + 0.08 + low) / 2, wide * 0.5, (low - shoulder) * 0.2),
        tone(any_colour(rng, 0), 0.9),
    )
    c.stroke([(x - wide * 0.62, shoulder + 0.04), (x - wide * 0.62, 0.93)], 0.02, tone(glass, 1.55))
    c.fill(box(x - neck * 1.15, 0.01, x + neck * 1.15, 0.09, 0.01), any_colour(rng, 0.4))
    c.volume = 0.55


def bowl(c: Canvas, rng: np.random.Generator) -> None:
    """A bowl seen slightly from above, empty or with soup, salad or rice."""
    glaze = _glaze(rng)
    rim, x = rng.uniform(0.14, 0.2), c.aspect / 2
    c.fill(box(x - 0.38, 0.84, x + 0.38, 0.98, 0.04), tone(glaze, 0.72))
    half = oval(x, rim, 0.96, 0.76, start=0, stop=np.pi)
    c.fill(half, glaze)
    decorate(c, half, glaze, rng)
    c.fill(oval(x, rim, 0.97, rim * 0.9), tone(glaze, 1.2))
    c.fill(oval(x, rim + 0.01, 0.87, rim * 0.72), tone(glaze, 0.68))
    food = oval(x, rim + 0.035, 0.78, rim * 0.55)
    kind = rng.integers(4)
    if kind == 1:
        soup = hsv(rng.uniform(0.02, 0.13), 0.75, rng.uniform(0.6, 0.9))
        c.fill(food, soup)
        c.dots(food, herb(rng), 0.03, 10, rng)
    elif kind == 2:
        for i in range(11):
            c.fill(oval(x + 0.68 * np.cos(i * 2.4), rim + 0.03 - 0.05 * (i % 3), 0.2, 0.09, i), herb(rng))
        c.dots(food, (215, 60, 50), 0.06, 7, rng)
    elif kind == 3:
        c.fill(oval(x, rim + 0.05, 0.78, rim * 1.1, start=np.pi, stop=2 * np.pi), (250, 248, 240))
        c.fill(food, (244, 241, 230))
    c.volume = 0.65


def herb(rng: np.random.Generator) -> Colour:
    """The green of herbs and salad."""
    return hsv(rng.uniform(0.22, 0.34), rng.uniform(0.55, 0.8), rng.uniform(0.45, 0.8))


def teapot(c: Canvas, rng: np.random.Generator) -> None:
    """A bellied teapot with lid, spout and handle."""
    glaze, x = _glaze(rng), 0.68
    dark = tone(glaze, 0.8)
    c.ring(0.22, 0.52, 0.15, 0.22, 0.075, dark)
    c.fill(
        spline([(1.0, 0.78), (1.0, 0.52), (1.16, 0.44), (1.22, 0.24), (1.34, 0.2), (1.32, 0.32), (1.26, 0.62)]),
        dark,
    )
    c.fill(oval(1.285, 0.225, 0.065, 0.025, 0.2), tone(glaze, 0.5))
    c.fill(box(x - 0.26, 0.9, x + 0.26, 0.98, 0.03), tone(glaze, 0.7))
    body = oval(x, 0.6, rng.uniform(0.42, 0.48), 0.35)
    c.fill(body, glaze)
    decorate(c, body, glaze, rng)
    c.fill(oval(x, 0.29, 0.27, 0.1, start=np.pi, stop=2 * np.pi), tone(glaze, 1.12))
    c.fill(oval(x, 0.29, 0.27, 0.03), tone(glaze, 0.75))
    c.stroke([(x, 0.2), (x, 0.14)], 0.05, dark)
    c.fill(oval(x, 0.1, 0.075, 0.065), tone(glaze, 1.1))
    c.fill(oval(x - 0.2, 0.47, 0.08, 0.05, -0.7), tone(glaze, 1.6))
    c.volume = 0.8


def apple(c: Canvas, rng: np.random.Generator) -> None:
    """A red, green or yellow apple with stalk and leaf."""
    hue, value = [(0.985, 0.78), (0.0, 0.85), (0.25, 0.75), (0.13, 0.92)][rng.integers(4)]
    skin = hsv(hue + rng.normal(0, 0.012), rng.uniform(0.65, 0.85), value * rng.uniform(0.9, 1.08))
    outline = spline(
        [
            (0.5, 0.27),
            (0.7, 0.19),
            (0.93, 0.32),
            (0.96, 0.6),
            (0.8, 0.9),
            (0.6, 0.98),
            (0.5, 0.95),
            (0.4, 0.98),
            (0.2, 0.9),
            (0.04, 0.6),
            (0.07, 0.32),
            (0.3, 0.19),
        ]
    )
    c.fill(outline, skin)
    blush = mix(skin, hsv(rng.choice([0.0, 0.05, 0.15]), 0.7, 0.9), 0.5)
    c.cut(outline, oval(0.78, 0.62, 0.22, 0.3), blush)
    c.dots(outline, tone(skin, 1.3), 0.011, 22, rng)
    c.fill(oval(0.5, 0.28, 0.17, 0.05), tone(skin, 0.62))
    c.stroke([(0.5, 0.29), (0.52, 0.15), (0.57, 0.06)], 0.05, (95, 65, 40))
    if rng.random() < 0.6:
        c.fill(spline([(0.55, 0.16), (0.66, 0.04), (0.86, 0.05), (0.72, 0.16)]), herb(rng))
    c.fill(oval(0.25, 0.42, 0.06, 0.11, 0.4), tone(skin, 1.6))
    c.volume = 0.8


def orange(c: Canvas, rng: np.random.Generator) -> None:
    """An orange with pores and a navel."""
    skin = hsv(rng.normal(0.078, 0.012), rng.uniform(0.82, 0.95), rng.uniform(0.88, 0.98))
    disc = oval(0.5, 0.5, 0.48, rng.uniform(0.45, 0.49))
    c.fill(disc, skin)
    c.dots(disc, tone(skin, 0.86), 0.013, 55, rng)
    c.fill(oval(0.54, 0.13, 0.07, 0.035), (110, 125, 50))
    if rng.random() < 0.5:
        c.fill(spline([(0.55, 0.13), (0.68, 0.0), (0.9, 0.06), (0.72, 0.15)]), herb(rng))
    c.fill(oval(0.3, 0.3, 0.09, 0.06, -0.6), tone(skin, 1.5))
    c.volume, c.roughness = 0.9, 0.02


def banana(c: Canvas, rng: np.random.Generator) -> None:
    """One banana or a bunch, from green-yellow to ripe with brown spots."""
    skin = hsv(rng.normal(0.145, 0.012), rng.uniform(0.7, 0.85), rng.uniform(0.88, 0.98))
    count, bend = int(rng.integers(1, 4)), rng.uniform(0.3, 0.42)
    for i in range(count):
        t = np.linspace(-1, 1, 13)
        y0 = 0.62 - 0.14 * (count - 1 - i)
        middle = np.stack([c.aspect / 2 + 0.76 * t * (1 - 0.05 * (count - 1 - i)), y0 + 0.12 - bend * t**2], axis=1)
        half = 0.16 * np.sqrt(np.maximum(1 - t**4, 0)) + 0.028
        upper = middle - np.stack([0.35 * half * t, half], axis=1)
        lower = middle + np.stack([0.35 * half * t, half], axis=1)
        outline = np.concatenate([upper, lower[::-1]])
        shade = tone(skin, 0.84 + 0.16 * (i + 1) / count)
        c.fill(outline, shade)
        c.fill(np.concatenate([middle + np.array([0, 0.03]), lower[::-1]]), tone(shade, 0.86))
        c.stroke(middle[2:11] - [0, 0.07], 0.016, tone(shade, 1.35))
        c.stroke([middle[0] + [0.04, 0.0], (0.1, y0 - bend - 0.02)], 0.075, (120, 110, 45))
        c.fill(oval(middle[-1, 0], middle[-1, 1], 0.045, 0.04), (80, 60, 40))
        if rng.random() < 0.5:
            c.dots(outline, (125, 85, 40), 0.016, 9, rng)
    c.volume = 0.55


def cake(c: Canvas, rng: np.random.Generator) -> None:
    """A round layer cake on a plate, with icing, candles or cherries."""
    x = c.aspect / 2
    crumb, icing = (
        hsv(rng.uniform(0.06, 0.11), rng.uniform(0.35, 0.7), rng.uniform(0.4, 0.9)),
        (hsv(rng.choice([0.93, 0.1, 0.55, 0.07, 0.3]), rng.uniform(0.15, 0.6), rng.uniform(0.75, 0.98))),
    )
    c.fill(oval(x, 0.9, 0.8, 0.09), (236, 238, 240))
    c.fill(oval(x, 0.88, 0.7, 0.07), (212, 214, 220))
    side = np.concatenate([[(x - 0.58, 0.42)], oval(x, 0.84, 0.58, 0.09, start=np.pi, stop=0), [(x + 0.58, 0.42)]])
    c.fill(side, crumb)
    for y in (0.58, 0.72):
        band = np.concatenate(
            [oval(x, y, 0.6, 0.09, start=np.pi, stop=0), oval(x, y + 0.045, 0.6, 0.09, stop=np.pi)]
        )
        c.cut(side, band, CREAM)
    drops = np.linspace(-0.58, 0.58, 12)
    lengths = 0.5 + 0.1 * rng.random(12) + 0.06 * np.sqrt(1 - (drops / 0.6) ** 2)
    for dx, y in zip(drops.tolist(), lengths.tolist(), strict=True):
        c.cut(box(x - 0.58, 0.3, x + 0.58, 1), box(x + dx - 0.06, 0.42, x + dx + 0.06, y, 0.06), icing)
    c.fill(oval(x, 0.42, 0.58, 0.11), tone(icing, 1.15))
    if rng.random() < 0.5:
        for dx in (-0.36, -0.12, 0.12, 0.36):
            y = 0.42 - 0.06 * np.cos(4 * dx)
            c.stroke([(x + dx, y), (x + dx, y - 0.24)], 0.045, any_colour(rng, 0))
            c.fill(oval(x + dx, y - 0.3, 0.03, 0.055), (255, 190, 60))
    else:
        for dx, dy in (
            (-0.42, 0.0),
            (-0.2, 0.06),
            (0.06, 0.07),
            (0.32, 0.05),
            (0.46, -0.02),
            (-0.1, -0.06),
            (0.2, -0.06),
        ):
            c.fill(oval(x + dx, 0.38 + dy, 0.065, 0.06), (200, 35, 55))
            c.fill(oval(x + dx - 0.02, 0.36 + dy, 0.018, 0.016), (250, 190, 195))
    c.volume = 0.45
