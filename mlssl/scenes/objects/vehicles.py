"""Vehicles, in profile."""

import numpy as np

from mlssl.scenes.canvas import Canvas, Colour, any_colour, box, hsv, mix, oval, spline, tone, wood

TYRE: Colour = (38, 38, 42)
METAL: Colour = (190, 194, 200)


def _wheel(c: Canvas, x: float, y: float, r: float, hub: Colour) -> None:
    c.fill(oval(x, y, r, r), TYRE)
    c.fill(oval(x, y, r * 0.6, r * 0.6), hub)
    c.fill(oval(x, y, r * 0.22, r * 0.22), tone(hub, 0.55))


def _glass(rng: np.random.Generator) -> Colour:
    return hsv(0.55, rng.uniform(0.1, 0.3), rng.uniform(0.55, 0.9))


def bicycle(c: Canvas, rng: np.random.Generator) -> None:
    """A city or road bicycle."""
    frame, tube = any_colour(rng, 0.2), rng.uniform(0.045, 0.06)
    r = rng.uniform(0.29, 0.32)
    rear, front, y = (0.34, 0.985 - r), (1.3, 0.985 - r), 0.985 - r
    for x, _ in (rear, front):
        turn = rng.uniform(0, 1)
        for k in range(4):
            d = r * np.array([np.cos(turn + k * np.pi / 4), np.sin(turn + k * np.pi / 4)])
            c.stroke([np.array([x, y]) - d, np.array([x, y]) + d], 0.011, METAL)
        c.ring(x, y, r - 0.025, r - 0.025, 0.06, TYRE)
    seat, head, pedals = (0.62, 0.32), (1.13, 0.28), (0.76, y + 0.02)
    low_bar = (0.66, rng.choice([0.36, 0.52]))
    c.stroke([pedals, rear, low_bar], tube * 0.75, tone(frame, 0.85))
    c.stroke([low_bar, (1.16, 0.38), pedals, (seat[0] - 0.02, seat[1] - 0.09)], tube, frame)
    c.stroke([front, head, (1.1, 0.12)], tube, frame)
    bar = (
        [(1.1, 0.12), (1.2, 0.09), (1.22, 0.2)]
        if rng.random() < 0.4
        else [(1.13, 0.14), (1.06, 0.09), (0.95, 0.12)]
    )
    c.stroke(bar, 0.05, TYRE)
    c.fill(spline([(0.46, 0.2), (0.6, 0.18), (0.74, 0.2), (0.62, 0.25), (0.5, 0.26)]), TYRE)
    c.ring(*pedals, 0.065, 0.065, 0.03, TYRE)
    c.stroke([pedals, (pedals[0] + 0.08, pedals[1] + 0.14), (pedals[0] + 0.15, pedals[1] + 0.14)], 0.03, METAL)
    if rng.random() < 0.4:
        basket = box(1.16, 0.16, 1.42, 0.36, 0.03)
        c.fill(basket, wood(rng))
        c.stripes(basket, (110, 80, 50), 0.05, np.pi / 2, 0.25)
    c.volume = 0.25


def car(c: Canvas, rng: np.random.Generator) -> None:
    """A saloon, hatchback or estate car."""
    paint, glass = any_colour(rng, 0.45), _glass(rng)
    roof, deck = rng.uniform(0.04, 0.12), rng.uniform(0.4, 0.46)
    rear = rng.choice([0.2, 0.42, 0.62])  # where the roof ends: estate, hatchback, saloon
    front = rng.uniform(1.45, 1.62)
    c.fill(box(0.1, 0.78, 2.3, 0.9, 0.04), TYRE)
    cabin = np.array(
        [
            (rear - 0.14, deck + 0.05),
            (rear + 0.1, roof + 0.02),
            (rear + 0.2, roof),
            (front - 0.36, roof),
            (front - 0.25, roof + 0.03),
            (front + 0.1, deck + 0.05),
        ]
    )
    c.fill(cabin, paint)
    pane = [
        (rear - 0.02, deck),
        (rear + 0.15, roof + 0.08),
        (front - 0.31, roof + 0.08),
        (front - 0.01, deck),
    ]
    c.fill(pane, glass)
    c.cut(
        pane,
        [(rear + 0.3, 0.0), (rear + 0.44, 0.0), (rear + 0.26, 0.6), (rear + 0.1, 0.6)],
        tone(glass, 1.35),
    )
    pillar = (rear + front) / 2 - 0.06
    c.stroke([(pillar, roof + 0.05), (pillar, deck)], 0.055, paint)
    body = spline(
        [
            (0.05, 0.56),
            (0.08, deck + 0.03),
            (0.5, deck),
            (1.5, deck),
            (2.1, deck + 0.06),
            (2.34, deck + 0.16),
            (2.35, 0.78),
            (2.2, 0.86),
            (0.2, 0.86),
            (0.06, 0.78),
        ]
    )
    c.fill(body, paint)
    c.cut(body, box(0, 0.74, 2.4, 0.9), tone(paint, 0.72))
    c.stroke([(0.12, deck + 0.1), (2.2, deck + 0.13)], 0.014, tone(paint, 1.3))
    for x in (pillar, front + 0.02):
        c.stroke([(x, deck + 0.03), (x - 0.02, 0.78)], 0.012, tone(paint, 0.65))
    c.stroke([(pillar - 0.2, 0.56), (pillar - 0.1, 0.56)], 0.028, tone(paint, 0.6))
    c.fill(oval(2.28, 0.58, 0.07, 0.055), (255, 246, 205))
    c.fill(box(0.04, 0.53, 0.14, 0.63, 0.02), (215, 45, 40))
    for x in (0.5, 1.88):
        c.fill(oval(x, 0.8, 0.235, 0.235, start=np.pi, stop=2 * np.pi), tone(paint, 0.45))
        _wheel(c, x, 0.8, 0.19, METAL)
    c.volume = 0.55


def bus(c: Canvas, rng: np.random.Generator) -> None:
    """A city bus, some with two decks."""
    paint, glass = any_colour(rng, 0.1), _glass(rng)
    shell = box(0.04, 0.04, 2.16, 0.87, 0.07)
    c.fill(shell, paint)
    c.cut(shell, box(0, 0.66, 2.3, 0.9), tone(paint, 0.75) if rng.random() < 0.5 else (240, 240, 236))
    double = rng.random() < 0.3
    rows = ((0.12, 0.34), (0.44, 0.62)) if double else ((0.16, rng.uniform(0.46, 0.54)),)
    count = int(rng.integers(4, 7))
    step = 1.66 / count
    for upper, lower in rows:
        for i in range(count):
            pane = box(0.1 + i * step, upper, 0.1 + (i + 0.88) * step, lower, 0.025)
            c.fill(pane, glass)
            x = 0.1 + (i + 0.3) * step
            c.cut(pane, [(x, 0), (x + 0.1, 0), (x - 0.05, 0.7), (x - 0.15, 0.7)], tone(glass, 1.3))
    c.fill(box(1.8, rows[-1][0], 1.99, 0.82, 0.02), tone(glass, 0.7))
    c.stroke([(1.895, rows[-1][0] + 0.02), (1.895, 0.81)], 0.014, tone(paint, 0.6))
    c.fill(box(2.03, rows[-1][0], 2.16, 0.56, 0.02), glass)
    c.fill(box(1.35, 0.06, 1.78, 0.115, 0.01), (40, 40, 44))
    c.stroke([(1.4, 0.088), (1.72, 0.088)], 0.018, (250, 190, 60))
    c.fill(oval(2.12, 0.72, 0.04, 0.035), (255, 246, 205))
    c.fill(box(0.03, 0.68, 0.08, 0.76, 0.01), (215, 45, 40))
    for x in (0.45, 1.58):
        c.fill(oval(x, 0.87, 0.15, 0.15, start=np.pi, stop=2 * np.pi), tone(paint, 0.4))
        _wheel(c, x, 0.87, 0.12, METAL)
    c.volume = 0.35


def boat(c: Canvas, rng: np.random.Generator) -> None:
    """A sailing boat or a small fishing boat, down to its water line."""
    paint, second = any_colour(rng, 0.35), any_colour(rng, 0.5)
    hull = [(0.06, 0.76), (1.2, 0.74), (1.0, 0.97), (0.92, 0.99), (0.24, 0.99), (0.14, 0.94)]
    if rng.random() < 0.6:
        mast, top = rng.uniform(0.56, 0.66), rng.uniform(0.02, 0.1)
        sail = (248, 246, 238) if rng.random() < 0.6 else any_colour(rng, 0)
        c.stroke([(mast, 0.78), (mast, top)], 0.022, wood(rng))
        main = [(mast - 0.025, top + 0.03), (mast - 0.025, 0.68), (mast - rng.uniform(0.38, 0.48), 0.68)]
        jib = [(mast + 0.03, top + 0.1), (mast + 0.03, 0.7), (mast + rng.uniform(0.35, 0.5), 0.7)]
        c.fill(
            spline([main[0], (mast - 0.025, 0.4), main[1], (mast - 0.22, 0.69), main[2], (mast - 0.24, 0.36)]),
            sail,
        )
        c.fill(jib, tone(sail, 0.88))
        if rng.random() < 0.5:
            c.stripes(main, second, 0.16, 0.0, 0.4)
        c.fill([(mast, top), (mast + 0.11, top + 0.035), (mast, top + 0.07)], second)
    else:
        cabin, glass = rng.uniform(0.42, 0.5), _glass(rng)
        c.stroke([(0.3, 0.76), (0.3, rng.uniform(0.14, 0.3))], 0.022, wood(rng))
        c.stroke([(0.3, 0.34), (0.6, 0.55)], 0.012, TYRE)
        c.fill(box(0.46, cabin, 0.9, 0.8, 0.03), (244, 241, 232))
        c.fill(box(0.42, cabin - 0.05, 0.94, cabin + 0.02, 0.02), second)
        for x in (0.51, 0.71):
            c.fill(box(x, cabin + 0.07, x + 0.13, cabin + 0.18, 0.015), glass)
        c.fill(box(0.52, cabin - 0.2, 0.64, cabin - 0.05), tone(second, 0.8))
        c.fill(box(0.52, cabin - 0.2, 0.64, cabin - 0.15), TYRE)
    c.fill(hull, paint)
    c.cut(hull, box(0, 0.9, 1.3, 1.0), mix(tone(paint, 0.5), second, 0.3))
    c.stroke([(0.08, 0.775), (1.18, 0.755)], 0.03, tone(paint, 1.45))
    for x in (0.4, 0.6, 0.8) if rng.random() < 0.5 else ():
        c.fill(oval(x, 0.85, 0.025, 0.025), TYRE)
    c.volume = 0.45


def airplane(c: Canvas, rng: np.random.Generator) -> None:
    """An airliner in flight, with a coloured tail."""
    body, livery = hsv(0.6, 0.03, rng.uniform(0.85, 0.97)), any_colour(rng, 0)
    c.fill([(1.25, 0.5), (1.5, 0.5), (1.12, 0.12), (0.98, 0.12)], tone(body, 0.72))
    c.fill([(0.2, 0.45), (0.5, 0.45), (0.26, 0.02), (0.08, 0.02)], livery)
    hull = spline(
        [
            (0.08, 0.42),
            (0.6, 0.37),
            (1.8, 0.37),
            (2.22, 0.44),
            (2.36, 0.55),
            (2.2, 0.65),
            (1.7, 0.7),
            (0.8, 0.66),
        ]
    )
    c.fill(hull, body)
    c.cut(
        hull,
        [(0, 0.58), (2.4, 0.58), (2.4, 0.9), (0, 0.9)],
        livery if rng.random() < 0.5 else tone(body, 0.8),
    )
    for x in np.arange(0.65, 1.95, 0.13):
        c.fill(box(x, 0.45, x + 0.06, 0.52, 0.02), (80, 110, 140))
    c.fill([(2.12, 0.43), (2.24, 0.46), (2.28, 0.52), (2.12, 0.52)], (70, 100, 130))
    c.fill([(0.16, 0.5), (0.4, 0.5), (0.16, 0.64), (0.02, 0.64)], tone(livery, 0.8))
    c.fill(box(1.1, 0.72, 1.42, 0.86, 0.06), tone(livery, 0.85))
    c.fill([(1.08, 0.58), (1.46, 0.6), (0.92, 0.98), (0.74, 0.98)], tone(body, 0.82))
    c.volume = 0.5
