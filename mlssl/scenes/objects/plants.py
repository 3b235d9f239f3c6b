"""Trees and house plants."""

import numpy as np

from mlssl.scenes.canvas import Canvas, any_colour, box, hsv, leaf, mix, oval, spline, tone


def tree(c: Canvas, rng: np.random.Generator) -> None:
    """A broad-leaved tree, in summer or autumn colours, or a conifer."""
    bark = hsv(rng.uniform(0.05, 0.09), rng.uniform(0.3, 0.55), rng.uniform(0.3, 0.5))
    crown = leaf(rng) if rng.random() < 0.8 else hsv(rng.uniform(0.02, 0.13), 0.75, rng.uniform(0.65, 0.85))
    x, trunk = c.aspect / 2, rng.uniform(0.035, 0.055)
    c.fill([(x - trunk, 0.45), (x + trunk, 0.45), (x + trunk * 1.6, 0.99), (x - trunk * 1.6, 0.99)], bark)
    c.volume, c.roughness = 0.6, 0.06
    if rng.random() < 0.3:
        crown = mix(crown, (20, 80, 60), 0.5)
        tiers, wide = int(rng.integers(3, 5)), rng.uniform(0.24, 0.34)
        for i in range(tiers):
            y, r = 0.84 - 0.6 * i / tiers, wide * (1 - 0.6 * i / tiers)
            top = y - 0.36 + 0.02 * i if i < tiers - 1 else 0.01
            c.fill([(x - r, y), (x + r, y), (x + 0.02, top), (x - 0.02, top)], tone(crown, 0.82 + 0.1 * i))
            c.fill(oval(x, y, r, 0.025), tone(crown, 0.75 + 0.1 * i))
        return
    for side in (-1, 1):
        c.stroke([(x, 0.62), (x + side * 0.16, 0.45)], trunk, bark)
    count = int(rng.integers(6, 10))
    turn = rng.uniform(0, 6)
    for i in range(count):
        a = turn + 2 * np.pi * i / count
        r = rng.uniform(0.15, 0.19)
        c.fill(
            oval(x + 0.2 * np.cos(a), 0.34 + 0.17 * np.sin(a), r, r * 0.92),
            tone(crown, 0.85 - 0.1 * np.sin(a)),
        )
    c.fill(oval(x, 0.34, 0.24, 0.22), crown)
    c.dots(oval(x, 0.33, 0.34, 0.29), tone(crown, 1.12), 0.03, 16, rng)
    c.dots(oval(x, 0.38, 0.34, 0.29), tone(crown, 0.82), 0.025, 16, rng)
    if rng.random() < 0.2:
        c.dots(oval(x, 0.35, 0.3, 0.26), (205, 50, 45), 0.02, 12, rng)


def palm_tree(c: Canvas, rng: np.random.Generator) -> None:
    """A palm with a bent trunk and drooping fronds."""
    bark, green = hsv(0.08, rng.uniform(0.35, 0.55), rng.uniform(0.45, 0.65)), leaf(rng)
    bend = rng.uniform(-0.2, 0.2)
    t = np.linspace(0, 1, 9)
    spine = np.stack([c.aspect / 2 - bend * 0.5 + bend * t**2, 0.985 - 0.68 * t], axis=1)
    width = 0.045 - 0.02 * t
    trunk = np.concatenate([spine - np.stack([width, 0 * t], 1), (spine + np.stack([width, 0 * t], 1))[::-1]])
    c.fill(trunk, bark)
    c.stripes(trunk, tone(bark, 0.72), 0.045, 0.0, 0.3)
    top = spine[-1]
    count = int(rng.integers(7, 10))
    for i in range(count):
        a = np.pi * (0.94 + 1.12 * (i + rng.uniform(-0.2, 0.2)) / (count - 1))
        reach = rng.uniform(0.3, 0.38)
        mid = top + reach * 0.6 * np.array([np.cos(a), np.sin(a) * 0.85 - 0.25])
        tip = top + reach * np.array([np.cos(a) * 1.1, np.sin(a) * 0.55 + 0.22])
        nerve = np.array([top, mid, tip])
        c.fill(
            spline([top, mid - np.array([0, 0.04]), tip, mid + np.array([0, 0.05])]),
            tone(green, rng.uniform(0.8, 1.1)),
        )
        c.stroke(nerve, 0.008, tone(green, 0.65))
    for dx in (-0.035, 0.03):
        c.fill(oval(top[0] + dx, top[1] + 0.03, 0.035, 0.035), tone(bark, 0.6))
    c.volume, c.roughness = 0.4, 0.04


def potted_plant(c: Canvas, rng: np.random.Generator) -> None:
    """A house plant: pot with long leaves, round leaves or a cactus."""
    pot = (
        hsv(rng.uniform(0.02, 0.07), rng.uniform(0.5, 0.7), rng.uniform(0.55, 0.8))
        if rng.random() < 0.6
        else (any_colour(rng))
    )
    green, x = leaf(rng), c.aspect / 2
    kind = rng.integers(3)
    if kind == 0:
        for i in range(int(rng.integers(7, 11))):
            a, reach = rng.uniform(-1.1, 1.1), rng.uniform(0.45, 0.64)
            tip = np.array([x + reach * np.sin(a) * 0.75, 0.66 - reach * np.cos(a)])
            mid = np.array([x + reach * np.sin(a) * 0.28, 0.66 - reach * 0.55])
            side = np.array([0.045, 0.02])
            c.fill(spline([(x, 0.68), mid - side, tip, mid + side]), tone(green, 0.75 + 0.06 * (i % 6)))
            c.stroke([(x, 0.68), mid, tip], 0.007, tone(green, 0.6))
    elif kind == 1:
        for i in range(int(rng.integers(9, 14))):
            a, reach = rng.uniform(-1.2, 1.2), rng.uniform(0.15, 0.5)
            px, py = x + reach * np.sin(a), 0.62 - reach * np.cos(a)
            c.stroke([(x, 0.68), (px, py)], 0.016, tone(green, 0.6))
            c.fill(oval(px, py, 0.105, 0.075, a + rng.uniform(-0.6, 0.6)), tone(green, 0.75 + 0.06 * (i % 6)))
        if rng.random() < 0.5:
            c.dots(oval(x, 0.35, 0.3, 0.25), hsv(rng.choice([0.0, 0.12, 0.8, 0.92]), 0.7, 0.95), 0.035, 7, rng)
    else:
        body = box(x - 0.12, rng.uniform(0.05, 0.2), x + 0.12, 0.75, 0.12)
        for sign in (-1, 1):
            y = rng.uniform(0.4, 0.5)
            c.stroke(
                [(x, y), (x + sign * 0.22, y), (x + sign * 0.22, y - rng.uniform(0.1, 0.18))],
                0.1,
                tone(green, 0.85),
            )
        c.fill(body, green)
        c.stripes(body, tone(green, 0.75), 0.06, np.pi / 2, 0.2)
        c.dots(body, tone(green, 1.7), 0.007, 30, rng)
    c.fill([(x - 0.2, 0.68), (x + 0.2, 0.68), (x + 0.145, 0.99), (x - 0.145, 0.99)], pot)
    c.fill(box(x - 0.225, 0.64, x + 0.225, 0.73, 0.02), tone(pot, 1.15))
    c.stroke([(x - 0.2, 0.735), (x + 0.2, 0.735)], 0.012, tone(pot, 0.72))
    c.volume = 0.5
