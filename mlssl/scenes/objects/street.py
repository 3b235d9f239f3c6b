"""Street furniture, things for play and travel, and sea marks."""

import numpy as np

from mlssl.scenes.canvas import Canvas, Colour, any_colour, box, hsv, mix, oval, spline, tone, wood

DARK: Colour = (44, 46, 52)


def traffic_light(c: Canvas, rng: np.random.Generator) -> None:
    """A traffic light on its pole, one lamp lit."""
    x, case = c.aspect / 2, hsv(0.3, rng.uniform(0, 0.4), rng.uniform(0.12, 0.28))
    if rng.random() < 0.25:
        case = hsv(0.12, 0.8, 0.8)
    c.fill(box(x - 0.022, 0.4, x + 0.022, 0.97), tone(DARK, 1.2))
    c.fill(box(x - 0.055, 0.94, x + 0.055, 0.99, 0.015), DARK)
    wide = rng.uniform(0.085, 0.1)
    c.fill(box(x - wide, 0.02, x + wide, 0.46, 0.04), case)
    lit = rng.integers(3)
    for i, lamp in enumerate([(240, 50, 45), (255, 190, 40), (50, 215, 95)]):
        y = 0.1 + 0.14 * i
        c.fill(oval(x, y, 0.068, 0.062), tone(case, 0.6))
        c.fill(oval(x, y + 0.005, 0.056, 0.052), lamp if i == lit else tone(lamp, 0.38))
        if i == lit:
            c.fill(oval(x - 0.015, y - 0.012, 0.018, 0.015), tone(lamp, 1.7))
        c.fill(oval(x, y - 0.02, 0.072, 0.055, start=1.15 * np.pi, stop=1.85 * np.pi), tone(case, 0.75))
    c.volume = 0.35


def fire_hydrant(c: Canvas, rng: np.random.Generator) -> None:
    """A fire hydrant: dome, three nozzles and a foot."""
    paint = (
        hsv(rng.normal(0.0, 0.015), 0.8, rng.uniform(0.65, 0.9))
        if rng.random() < 0.65
        else (hsv(rng.choice([0.13, 0.36, 0.6]), 0.7, rng.uniform(0.6, 0.9)))
    )
    cap, x = (paint if rng.random() < 0.5 else any_colour(rng)), c.aspect / 2
    c.fill(box(x - 0.24, 0.9, x + 0.24, 0.99, 0.03), tone(paint, 0.75))
    for side in (-1, 1):
        c.fill(box(x + side * 0.24 - 0.1, 0.4, x + side * 0.24 + 0.1, 0.56, 0.03), tone(paint, 0.85))
        c.fill(box(x + side * 0.33 - 0.035, 0.37, x + side * 0.33 + 0.035, 0.59, 0.02), tone(cap, 0.9))
    c.fill(box(x - 0.175, 0.28, x + 0.175, 0.92, 0.04), paint)
    c.fill(oval(x, 0.28, 0.2, 0.2, start=np.pi, stop=2 * np.pi), cap)
    c.fill(box(x - 0.05, 0.02, x + 0.05, 0.12, 0.02), tone(cap, 0.8))
    c.fill(box(x - 0.235, 0.25, x + 0.235, 0.33, 0.03), tone(paint, 0.8))
    c.fill(oval(x, 0.55, 0.13, 0.13), tone(paint, 0.7))
    c.fill(oval(x, 0.55, 0.095, 0.095), tone(cap, 1.1))
    c.fill(oval(x, 0.55, 0.035, 0.035), tone(cap, 0.6))
    c.fill(box(x - 0.12, 0.36, x - 0.07, 0.85, 0.02), tone(paint, 1.3))
    c.volume = 0.6


def stop_sign(c: Canvas, rng: np.random.Generator) -> None:
    """A red octagonal sign with a white rim and STOP on it."""
    x, y, r = c.aspect / 2, 0.2, 0.185
    red = hsv(rng.normal(0.99, 0.01), rng.uniform(0.75, 0.9), rng.uniform(0.7, 0.88))
    c.fill(box(x - 0.018, 0.3, x + 0.018, 0.99), hsv(0.6, 0.05, rng.uniform(0.45, 0.7)))
    t = np.pi / 8 + np.arange(8) * np.pi / 4
    octagon = np.stack([np.cos(t), np.sin(t)], axis=1)
    white = (246, 244, 240)
    c.fill(octagon * r + [x, y], white)
    c.fill(octagon * r * 0.9 + [x, y], red)
    # Letters as strokes: a font file would make the pixels depend on the machine.
    w, h, pen = 0.027, 0.052, 0.015
    for i, letter in enumerate(
        [
            [(1, -0.8), (0, -1), (-1, -0.7), (-0.7, -0.1), (0.7, 0.1), (1, 0.7), (0, 1), (-1, 0.8)],
            [(-1, -1), (1, -1), (0, -1), (0, 1)],
            [(0, -1), (1, -0.5), (1, 0.5), (0, 1), (-1, 0.5), (-1, -0.5), (0, -1)],
            [(-0.8, 1), (-0.8, -1), (0.8, -0.9), (0.9, -0.2), (-0.8, 0.1)],
        ]
    ):
        centre = x + (i - 1.5) * 0.08 * (-1 if c.flip else 1)
        c.stroke(np.array(letter) * [-w if c.flip else w, h] + [centre, y], pen, white)
    c.volume = 0.15


def bench(c: Canvas, rng: np.random.Generator) -> None:
    """A park bench of slats on iron legs."""
    slat, iron = (
        (wood(rng) if rng.random() < 0.75 else any_colour(rng)),
        hsv(0.6, 0.1, rng.uniform(0.15, 0.35)),
    )
    for x in (0.22, 1.68):
        c.stroke([(x, 0.06), (x, 0.62), (x - 0.06, 0.96)], 0.06, iron)
        c.stroke([(x, 0.62), (x + 0.08, 0.96)], 0.06, iron)
    rows = int(rng.integers(2, 4))
    for i in range(rows):
        y = 0.06 + 0.42 * i / rows
        c.fill(box(0.06, y, 1.84, y + 0.42 / rows - 0.035, 0.03), tone(slat, 1.0 - 0.05 * (i % 2)))
    c.fill([(0.12, 0.5), (1.78, 0.5), (1.86, 0.63), (0.04, 0.63)], tone(slat, 1.15))
    c.stroke([(0.09, 0.565), (1.81, 0.565)], 0.014, tone(slat, 0.6))
    c.fill(box(0.04, 0.62, 1.86, 0.69, 0.02), tone(slat, 0.72))
    if rng.random() < 0.6:
        for x in (0.14, 1.76):
            c.stroke([(x, 0.62), (x, 0.4), (x - 0.09, 0.38)], 0.05, iron)
    c.volume, c.roughness = 0.3, 0.03


def ball(c: Canvas, rng: np.random.Generator) -> None:
    """A beach ball, football, basketball or tennis ball."""
    disc, kind = oval(0.5, 0.5, 0.49, 0.49), rng.integers(4)
    if kind == 0:
        c.fill(disc, (245, 243, 238))
        first = rng.random()
        for i in range(6):
            t = first + np.pi / 3 * np.array([i, i + 0.25, i + 0.5, i + 0.75, i + 1])
            rim = np.stack([0.5 + 0.49 * np.cos(t), 0.5 + 0.49 * np.sin(t)], axis=1)
            if i % 2 == 0:
                c.fill([(0.46, 0.4), *rim], hsv(first + i / 6, 0.75, 0.9))
        c.fill(oval(0.46, 0.4, 0.08, 0.08), (250, 250, 250))
    elif kind == 1:
        c.fill(disc, (244, 244, 242))
        dark = any_colour(rng, 0) if rng.random() < 0.3 else (35, 35, 40)
        t = np.arange(5) * 2 * np.pi / 5 - np.pi / 2
        star = np.stack([np.cos(t), np.sin(t)], axis=1)
        for point in star:
            c.stroke([point * 0.16 + 0.5, point * 0.36 + 0.5], 0.025, dark)
            c.cut(disc, star * -0.17 + point * 0.45 + 0.5, dark)
        c.fill(star * 0.17 + 0.5, dark)
    elif kind == 2:
        c.fill(disc, hsv(rng.normal(0.06, 0.01), 0.8, rng.uniform(0.75, 0.92)))
        seam = (60, 35, 25)
        c.stroke([(0.5, 0.02), (0.5, 0.98)], 0.03, seam)
        c.stroke([(0.02, 0.5), (0.98, 0.5)], 0.03, seam)
        for x in (-0.08, 1.08):
            c.cut(disc, _ring_band(x), seam)
    else:
        c.fill(disc, hsv(rng.normal(0.18, 0.01), 0.7, rng.uniform(0.85, 0.95)))
        for x in (-0.08, 1.08):
            c.cut(disc, _ring_band(x), (248, 248, 240))
    c.fill(oval(0.33, 0.26, 0.09, 0.06, -0.6), (255, 255, 255))
    c.volume = 0.9


def _ring_band(x: float) -> np.ndarray:
    return np.concatenate([oval(x, 0.5, 0.42, 0.5), oval(x, 0.5, 0.38, 0.46)[::-1]])


def kite(c: Canvas, rng: np.random.Generator) -> None:
    """A diamond kite of two or four colours with a tail of bows."""
    x = c.aspect / 2
    a, b = any_colour(rng, 0), any_colour(rng, 0.2)
    wide, waist, tail = rng.uniform(0.22, 0.3), rng.uniform(0.2, 0.27), 0.62
    top, left, right, low = (x, 0.01), (x - wide, waist), (x + wide, waist), (x, tail)
    c.fill([top, left, low, right], a)
    c.fill([top, right, (x, waist)], b)
    c.fill([low, left, (x, waist)], b if rng.random() < 0.6 else tone(a, 0.75))
    c.stroke([top, low], 0.012, tone(a, 0.5))
    c.stroke([left, right], 0.012, tone(a, 0.5))
    t = np.linspace(0, 1, 12)
    sway, turns = rng.uniform(0.04, 0.1), rng.uniform(4, 7)
    line = np.stack([x + sway * np.sin(turns * t) * (0.3 + t), tail + (0.98 - tail) * t], axis=1)
    c.stroke(line, 0.014, tone(a, 0.7))
    for i in (3, 6, 9):
        px, py = line[i]
        bow = b if i == 6 else a
        c.fill([(px, py), (px - 0.06, py - 0.03), (px - 0.06, py + 0.03)], bow)
        c.fill([(px, py), (px + 0.06, py - 0.03), (px + 0.06, py + 0.03)], bow)
    c.volume = 0.1


def surfboard(c: Canvas, rng: np.random.Generator) -> None:
    """A surfboard stood up in the sand."""
    x, wide, paint = c.aspect / 2, rng.uniform(0.11, 0.14), any_colour(rng, 0.2)
    board = spline(
        [
            (x, 0.0),
            (x + wide * 0.75, 0.18),
            (x + wide, 0.5),
            (x + wide * 0.8, 0.82),
            (x, 1.0),
            (x - wide * 0.8, 0.82),
            (x - wide, 0.5),
            (x - wide * 0.75, 0.18),
        ]
    )
    c.fill(board, paint)
    second, kind = any_colour(rng, 0.4), rng.integers(3)
    if kind == 0:
        c.cut(board, box(x - wide * 0.4, -0.1, x + wide * 0.4, 1.1), second)
    elif kind == 1:
        y = rng.uniform(0.25, 0.6)
        c.cut(board, [(0, y), (1, y - 0.15), (1, y + 0.02), (0, y + 0.17)], second)
        c.cut(board, [(0, y + 0.22), (1, y + 0.07), (1, y + 0.12), (0, y + 0.27)], tone(second, 0.8))
    else:
        c.dots(board, second, 0.035, 9, rng)
    c.stroke([(x, 0.02), (x, 0.98)], 0.01, tone(paint, 0.55))
    c.volume = 0.4


def umbrella(c: Canvas, rng: np.random.Generator) -> None:
    """A beach or garden parasol with panels of two colours."""
    x, top, rim = c.aspect / 2, 0.05, rng.uniform(0.32, 0.4)
    a, b = any_colour(rng, 0.1), ((246, 243, 235) if rng.random() < 0.6 else any_colour(rng, 0.2))
    reach, panels = rng.uniform(0.44, 0.5), int(rng.choice([5, 6, 7]))
    c.fill(box(x - 0.014, 0.2, x + 0.014, 0.99), (225, 220, 210))
    edges = np.linspace(-1, 1, panels + 1)
    t = np.linspace(0, 1, 8)[:, None]
    apex = np.array([x, top])
    ribs = []
    for e in edges:
        foot = np.array([x + reach * np.sin(e * np.pi / 2), rim - 0.015 * (1 - e * e)])
        elbow = np.array([foot[0] * 0.85 + x * 0.15, top + 0.03 + 0.1 * abs(e)])
        ribs.append((1 - t) ** 2 * apex + 2 * t * (1 - t) * elbow + t**2 * foot)
    for i in range(panels):
        left, right = ribs[i], ribs[i + 1]
        scallop = (left[-1] + right[-1]) / 2 - [0, 0.022]
        c.fill(np.concatenate([left, [scallop], right[::-1]]), tone(a if i % 2 else b, 1.0 - 0.04 * i))
    c.stroke([(x, 0.015), (x, top + 0.01)], 0.022, tone(a, 0.6))
    c.volume = 0.5


def backpack(c: Canvas, rng: np.random.Generator) -> None:
    """A rucksack with a front pocket and a flap."""
    cloth, x = any_colour(rng, 0.2), c.aspect / 2
    c.ring(x, 0.1, 0.1, 0.075, 0.04, tone(cloth, 0.5))
    for side in (-1, 1):
        c.fill(box(x + side * 0.34 - 0.08, 0.5, x + side * 0.34 + 0.08, 0.9, 0.07), tone(cloth, 0.7))
    c.fill(box(x - 0.34, 0.1, x + 0.34, 0.98, 0.22), cloth)
    pocket = mix(cloth, any_colour(rng), 0.5)
    c.fill(box(x - 0.25, 0.54, x + 0.25, 0.92, 0.09), tone(pocket, 0.85))
    c.stroke([(x - 0.21, 0.63), (x + 0.21, 0.63)], 0.022, tone(pocket, 0.5))
    c.stroke([(x + 0.14, 0.63), (x + 0.14, 0.69)], 0.025, (220, 215, 200))
    c.fill(box(x - 0.32, 0.14, x + 0.32, 0.44, 0.16), tone(cloth, 1.12))
    c.stroke([(x - 0.26, 0.44), (x + 0.26, 0.44)], 0.02, tone(cloth, 0.65))
    for side in (-1, 1):
        c.fill(box(x + side * 0.15 - 0.025, 0.36, x + side * 0.15 + 0.025, 0.52, 0.01), tone(cloth, 0.5))
    c.volume, c.roughness = 0.55, 0.02


def suitcase(c: Canvas, rng: np.random.Generator) -> None:
    """A trolley case with ribs, wheels and a pulled-out handle."""
    shell, x = any_colour(rng, 0.2), c.aspect / 2
    top = rng.uniform(0.24, 0.34)
    for side in (-1, 1):
        c.stroke([(x + side * 0.12, 0.04), (x + side * 0.12, top + 0.05)], 0.022, (150, 154, 160))
        c.fill(oval(x + side * 0.19, 0.955, 0.045, 0.04), DARK)
    c.stroke([(x - 0.13, 0.035), (x + 0.13, 0.035)], 0.05, DARK)
    c.fill(box(x - 0.27, top, x + 0.27, 0.94, 0.06), shell)
    for dx in (-0.16, -0.053, 0.053, 0.16):
        c.fill(box(x + dx - 0.014, top + 0.05, x + dx + 0.014, 0.89, 0.012), tone(shell, 0.72))
    c.fill(box(x - 0.09, top - 0.025, x + 0.09, top + 0.02, 0.015), tone(shell, 0.5))
    if rng.random() < 0.4:
        c.fill(oval(x + rng.uniform(-0.1, 0.1), rng.uniform(0.5, 0.75), 0.07, 0.06), any_colour(rng, 0))
    c.volume = 0.45


def lighthouse(c: Canvas, rng: np.random.Generator) -> None:
    """A striped tower with gallery and lantern, on a rock."""
    x, paint = (
        c.aspect / 2,
        hsv(rng.choice([0.0, 0.0, 0.0, 0.6, 0.08]), rng.uniform(0.6, 0.8), rng.uniform(0.6, 0.85)),
    )
    rock = hsv(0.08, 0.12, rng.uniform(0.35, 0.5))
    c.fill(
        spline([(x - 0.3, 0.99), (x - 0.22, 0.91), (x, 0.87), (x + 0.2, 0.9), (x + 0.3, 0.99), (x, 1.0)]),
        rock,
    )
    foot, head = rng.uniform(0.13, 0.17), rng.uniform(0.075, 0.09)
    tower = [(x - head, 0.24), (x + head, 0.24), (x + foot, 0.93), (x - foot, 0.93)]
    c.fill(tower, (246, 244, 238))
    bands = int(rng.integers(2, 4))
    for i in range(bands):
        y = 0.26 + 0.67 * i / bands
        c.cut(tower, box(x - 0.3, y, x + 0.3, y + 0.33 / bands), paint)
    c.fill(box(x - 0.025, 0.42, x + 0.025, 0.48, 0.02), DARK)
    c.fill(box(x - 0.04, 0.82, x + 0.04, 0.93, 0.03), tone(paint, 0.5))
    c.fill(box(x - head * 0.7, 0.11, x + head * 0.7, 0.23), (255, 236, 150))
    for dx in (-0.7, 0.0, 0.7):
        c.stroke([(x + dx * head, 0.11), (x + dx * head, 0.22)], 0.014, DARK)
    c.fill(box(x - head * 1.45, 0.21, x + head * 1.45, 0.25, 0.01), DARK)
    c.fill([(x - head, 0.12), (x, 0.02), (x + head, 0.12)], tone(paint, 0.85))
    c.stroke([(x, 0.01), (x, 0.05)], 0.016, DARK)
    c.volume = 0.5


def buoy(c: Canvas, rng: np.random.Generator) -> None:
    """A floating sea mark: a body in the water, a lattice and a lamp on top."""
    x, paint = (
        c.aspect / 2,
        hsv(rng.choice([0.0, 0.03, 0.13, 0.38]), rng.uniform(0.75, 0.9), rng.uniform(0.65, 0.9)),
    )
    for side in (-1, 1):
        c.stroke([(x + side * 0.2, 0.68), (x + side * 0.08, 0.22)], 0.035, tone(paint, 0.75))
    c.stroke([(x - 0.17, 0.55), (x + 0.12, 0.36)], 0.025, tone(paint, 0.6))
    c.stroke([(x + 0.17, 0.55), (x - 0.12, 0.36)], 0.025, tone(paint, 0.6))
    c.fill(box(x - 0.13, 0.2, x + 0.13, 0.27, 0.02), tone(paint, 0.85))
    c.fill(box(x - 0.05, 0.06, x + 0.05, 0.21, 0.04), (255, 240, 170))
    c.fill(box(x - 0.06, 0.03, x + 0.06, 0.08, 0.02), DARK)
    hull = [(x - 0.36, 0.7), (x + 0.36, 0.7), (x + 0.3, 0.98), (x - 0.3, 0.98)]
    c.fill(hull, paint)
    c.cut(hull, box(x - 0.5, 0.8, x + 0.5, 0.88), (246, 244, 238))
    c.fill(oval(x, 0.7, 0.36, 0.055), tone(paint, 1.2))
    c.volume = 0.6
