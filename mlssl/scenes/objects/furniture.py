"""Furniture, devices and things that stand about in rooms."""

import numpy as np

from mlssl.scenes.canvas import Canvas, any_colour, box, hsv, mix, oval, spline, tone, wood
from mlssl.scenes.objects.tableware import decorate


def chair(c: Canvas, rng: np.random.Generator) -> None:
    """A wooden or painted chair seen at an angle."""
    frame = wood(rng) if rng.random() < 0.65 else any_colour(rng)
    seat = tone(frame, 1.15) if rng.random() < 0.5 else any_colour(rng, 0.2)
    leg, splay = rng.uniform(0.05, 0.065), rng.uniform(0, 0.04)
    back, far = rng.uniform(0.01, 0.05), tone(frame, 0.72)
    c.stroke([(0.48, 0.56), (0.48 + splay, 0.9)], leg, far)
    c.stroke([(0.16, 0.1), (0.12, 0.5), (0.11 - splay, 0.88)], leg, far)
    c.stroke([(0.08, 0.76), (0.46, 0.79)], leg * 0.6, far)
    kind = rng.integers(3)
    rest = [(0.11, back + 0.02), (0.56, back + 0.06), (0.56, 0.45), (0.13, 0.41)]
    if kind == 0:
        pad = [
            (0.12, back + 0.03),
            (0.35, back),
            (0.56, back + 0.07),
            (0.56, 0.4),
            (0.34, 0.42),
            (0.13, 0.36),
        ]
        c.fill(spline(pad), seat)
    elif kind == 1:
        for y in (0.04, 0.18, 0.32):
            c.stroke([(0.15, y + back), (0.55, y + back + 0.03)], 0.075, tone(frame, 1.08))
    else:
        for t in (0.2, 0.4, 0.6, 0.8):
            c.stroke([(0.14 + 0.42 * t, back + 0.08), (0.14 + 0.42 * t, 0.56)], 0.028, frame)
        c.stroke([rest[0], rest[1]], 0.085, tone(frame, 1.08))
    c.fill([(0.1, 0.52), (0.52, 0.49), (0.68, 0.58), (0.2, 0.63)], seat)
    c.fill([(0.2, 0.63), (0.68, 0.58), (0.68, 0.625), (0.2, 0.675)], tone(seat, 0.7))
    c.stroke([(0.565, back + 0.06), (0.6, 0.56), (0.65, 0.95)], leg, frame)
    c.stroke([(0.22, 0.65), (0.2 - splay, 0.965)], leg, frame)
    c.volume, c.roughness = 0.35, 0.02


def table_lamp(c: Canvas, rng: np.random.Generator) -> None:
    """A lamp with a shade on a foot, lit or unlit, or a bent desk lamp."""
    body, x = any_colour(rng, 0.4), c.aspect / 2
    glow = (255, 240, 190)
    if rng.random() < 0.4:
        c.fill(oval(x - 0.05, 0.95, 0.2, 0.045), tone(body, 0.8))
        elbow = (x - rng.uniform(0.15, 0.22), 0.5)
        c.stroke([(x - 0.05, 0.94), elbow, (x + 0.08, 0.18)], 0.035, tone(body, 0.7))
        c.fill(oval(*elbow, 0.035, 0.035), tone(body, 0.5))
        c.fill(oval(x + 0.19, 0.31, 0.15, 0.05, 0.45), glow)
        c.fill([(x + 0.03, 0.12), (x + 0.14, 0.06), (x + 0.34, 0.36), (x + 0.05, 0.25)], body)
        c.volume = 0.5
        return
    shade = mix(any_colour(rng, 0.4), glow, rng.uniform(0.3, 0.8))
    top, low, bottom = rng.uniform(0.12, 0.24), rng.uniform(0.29, 0.34), rng.uniform(0.4, 0.48)
    c.fill(oval(x, 0.95, 0.17, 0.045), tone(body, 0.75))
    if rng.random() < 0.5:
        c.stroke([(x, bottom), (x, 0.94)], 0.04, body)
    else:
        c.stroke([(x, bottom), (x, 0.7)], 0.04, tone(body, 0.6))
        half = [(0.04, 0.55), (0.16, 0.75), (0.08, 0.94)]
        c.fill(spline([(x + dx, y) for dx, y in half] + [(x - dx, y) for dx, y in reversed(half)]), body)
    hood = np.array([(x - top, 0.03), (x + top, 0.03), (x + low, bottom), (x - low, bottom)])
    c.fill(hood, shade)
    if rng.random() < 0.4:
        c.stripes(hood, tone(shade, 0.82), 0.08, np.pi / 2, 0.35)
    c.fill(oval(x, bottom, low, 0.03), glow)
    c.volume = 0.45


def laptop(c: Canvas, rng: np.random.Generator) -> None:
    """An open laptop from the front with a picture, text or code on its screen."""
    shell = hsv(0.6, 0.04, rng.choice([0.25, 0.6, 0.8])) if rng.random() < 0.8 else any_colour(rng)
    x0, x1 = 0.2, c.aspect - 0.2
    c.fill(box(x0, 0.02, x1, 0.74, 0.05), tone(shell, 0.55))
    screen = box(x0 + 0.045, 0.07, x1 - 0.045, 0.68)
    kind = rng.integers(3)
    paper = (244, 246, 250) if kind == 0 else (34, 40, 54) if kind == 1 else hsv(rng.uniform(0.5, 0.65), 0.5, 0.85)
    c.fill(screen, paper)
    if kind < 2:
        c.cut(screen, box(x0, 0, x1, 0.15), hsv(rng.random(), 0.5, 0.7))
        for i in range(6):
            start = x0 + 0.1 + (0.08 * (i % 3) if kind else 0)
            line = (150, 155, 165) if kind == 0 else hsv(rng.random(), 0.5, 0.9)
            c.stroke([(start, 0.23 + 0.075 * i), (start + rng.uniform(0.2, 0.7), 0.23 + 0.075 * i)], 0.026, line)
    else:
        c.cut(screen, oval(x1 - 0.3, 0.25, 0.09, 0.09), (255, 235, 160))
        c.cut(screen, [(x0, 0.7), (x0 + 0.4, 0.3), (x0 + 0.75, 0.7)], hsv(0.35, 0.5, 0.5))
        c.cut(screen, [(x0 + 0.4, 0.7), (x0 + 0.85, 0.42), (x1, 0.7)], hsv(0.38, 0.5, 0.4))
    base = [(x0, 0.74), (x1, 0.74), (c.aspect - 0.04, 0.93), (0.04, 0.93)]
    c.fill(base, shell)
    keys = np.array([(x0 + 0.06, 0.765), (x1 - 0.06, 0.765), (x1 + 0.04, 0.85), (x0 - 0.04, 0.85)])
    c.fill(keys, tone(shell, 0.45))
    c.stripes(keys, tone(shell, 0.8), 0.03, 0.0, 0.2)
    c.fill(box(c.aspect / 2 - 0.14, 0.865, c.aspect / 2 + 0.14, 0.91), tone(shell, 0.8))
    c.fill(box(0.04, 0.925, c.aspect - 0.04, 0.98, 0.02), tone(shell, 0.7))
    c.volume = 0.12


def clock(c: Canvas, rng: np.random.Generator) -> None:
    """A round clock with hour marks and two hands."""
    rim = wood(rng) if rng.random() < 0.3 else any_colour(rng, 0.3)
    face = (250, 248, 240) if rng.random() < 0.8 else tone(any_colour(rng), 0.5)
    hand = (35, 35, 40) if sum(face) > 380 else (240, 240, 235)
    thick = rng.uniform(0.05, 0.09)
    c.fill(oval(0.5, 0.5, 0.49, 0.49), rim)
    c.fill(oval(0.5, 0.5, 0.49 - thick, 0.49 - thick), face)
    step = int(rng.choice([1, 3]))
    for hour in range(0, 12, step):
        d = np.array([np.sin(hour * np.pi / 6), -np.cos(hour * np.pi / 6)])
        c.stroke([0.5 + d * 0.3, 0.5 + d * 0.36], 0.045 if hour % 3 == 0 else 0.025, hand)
    minute = rng.uniform(0, 2 * np.pi)
    short = (rng.integers(12) + minute / (2 * np.pi)) * np.pi / 6
    c.stroke([(0.5, 0.5), (0.5 + 0.18 * np.sin(short), 0.5 - 0.18 * np.cos(short))], 0.05, hand)
    c.stroke([(0.5, 0.5), (0.5 + 0.29 * np.sin(minute), 0.5 - 0.29 * np.cos(minute))], 0.032, hand)
    c.fill(oval(0.5, 0.5, 0.04, 0.04), (200, 50, 45))
    c.volume = 0.25


def book(c: Canvas, rng: np.random.Generator) -> None:
    """A pile of lying books, a few standing ones, or one that leans with its cover to the front."""
    kind = rng.integers(3)
    paper = (244, 238, 222)
    if kind == 0:
        count = int(rng.integers(2, 5))
        thick = 0.94 / 4
        for i in range(count):
            cover, y = any_colour(rng, 0.1), 0.98 - thick * (i + 1)
            x0, x1 = rng.uniform(0.04, 0.2), rng.uniform(1.0, 1.16)
            c.fill(box(x0, y, x1, y + thick - 0.01, 0.04), cover)
            c.fill(box(x0 + 0.1, y + 0.04, x1 + 0.01, y + thick - 0.05), paper)
            c.stripes(box(x0 + 0.1, y + 0.04, x1 + 0.01, y + thick - 0.05), tone(paper, 0.85), 0.05, 0.0, 0.2)
            c.fill(box(x0, y, x0 + 0.16, y + thick - 0.01, 0.05), tone(cover, 0.85))
    elif kind == 1:
        x = 0.08
        while x < 0.95:
            wide, top = rng.uniform(0.13, 0.22), rng.uniform(0.02, 0.22)
            cover = any_colour(rng, 0.1)
            c.fill(box(x, top, x + wide - 0.01, 0.98, 0.015), cover)
            for y in (top + 0.1, 0.86):
                c.stroke([(x + 0.02, y), (x + wide - 0.03, y)], 0.03, tone(cover, 1.5))
            c.fill(box(x + wide * 0.3, top + 0.22, x + wide * 0.65, 0.7), tone(cover, 0.75))
            x += wide
    else:
        cover = any_colour(rng, 0.1)
        c.fill([(0.85, 0.05), (0.98, 0.1), (0.98, 0.95), (0.85, 0.98)], paper)
        c.stripes([(0.85, 0.05), (0.98, 0.1), (0.98, 0.95), (0.85, 0.98)], tone(paper, 0.8), 0.03, np.pi / 2, 0.3)
        c.fill(box(0.22, 0.02, 0.88, 0.98, 0.02), cover)
        c.fill(box(0.22, 0.02, 0.31, 0.98, 0.02), tone(cover, 0.72))
        c.fill(box(0.4, 0.12, 0.8, 0.24), tone(cover, 1.6))
        c.fill(box(0.46, 0.29, 0.74, 0.33), tone(cover, 1.4))
        second = any_colour(rng, 0.1)
        if rng.random() < 0.5:
            c.fill(oval(0.6, 0.63, 0.17, 0.19), second)
        else:
            c.fill([(0.6, 0.42), (0.78, 0.82), (0.42, 0.82)], second)
    c.volume = 0.15


def vase(c: Canvas, rng: np.random.Generator) -> None:
    """A vase with a bunch of flowers."""
    glaze, x = any_colour(rng, 0.25), c.aspect / 2
    belly, neck = rng.uniform(0.11, 0.19), rng.uniform(0.06, 0.09)
    petal, heart = any_colour(rng, 0), hsv(rng.uniform(0.1, 0.15), 0.8, 0.9)
    green = hsv(rng.uniform(0.25, 0.36), 0.6, rng.uniform(0.4, 0.6))
    count = int(rng.integers(3, 7))
    for i in range(count):
        a = (i - (count - 1) / 2) * rng.uniform(0.28, 0.36)
        reach = rng.uniform(0.28, 0.42)
        fx, fy = x + reach * np.sin(a), 0.56 - reach * np.cos(a)
        c.stroke([(x, 0.56), (fx, fy)], 0.016, green)
        c.fill(oval((x + fx) / 2 + 0.03, (0.56 + fy) / 2, 0.06, 0.022, -0.7), tone(green, 1.15))
        turn = rng.uniform(0, 1)
        for k in range(5):
            t = turn + k * 2 * np.pi / 5
            c.fill(
                oval(fx + 0.05 * np.cos(t), fy + 0.05 * np.sin(t), 0.042, 0.042),
                tone(petal, 0.9 + 0.07 * (i % 4)),
            )
        c.fill(oval(fx, fy, 0.03, 0.03), heart)
    body = spline(
        [
            (x - neck, 0.53),
            (x + neck, 0.53),
            (x + neck * 0.8, 0.61),
            (x + belly, 0.78),
            (x + belly * 0.6, 0.97),
            (x - belly * 0.6, 0.97),
            (x - belly, 0.78),
            (x - neck * 0.8, 0.61),
        ]
    )
    c.fill(body, glaze)
    decorate(c, body, glaze, rng)
    c.fill(oval(x - belly * 0.5, 0.75, 0.02, 0.06), tone(glaze, 1.5))
    c.volume = 0.7


def couch(c: Canvas, rng: np.random.Generator) -> None:
    """A sofa for two or three with cushions."""
    cloth = any_colour(rng, 0.35)
    seats = int(rng.integers(2, 4))
    for x in (0.2, 1.8):
        c.stroke([(x, 0.85), (x, 0.97)], 0.06, (70, 50, 38))
    c.fill(box(0.12, 0.05, 1.88, 0.7, 0.14), tone(cloth, 0.85))
    step = 1.5 / seats
    for i in range(seats):
        x = 0.25 + i * step
        c.fill(box(x + 0.01, 0.12, x + step - 0.01, 0.58, 0.08), tone(cloth, 0.95))
        c.fill(box(x + 0.01, 0.52, x + step - 0.01, 0.72, 0.06), tone(cloth, 1.12))
    c.fill(box(0.2, 0.7, 1.8, 0.9, 0.03), tone(cloth, 0.8))
    for x in (0.02, 1.74):
        c.fill(box(x, 0.34, x + 0.24, 0.91, 0.1), cloth)
    for x in (0.4, 1.45):
        if rng.random() < 0.6:
            pillow = box(x - 0.14, 0.3, x + 0.14, 0.57, 0.06)
            second = any_colour(rng, 0.2)
            c.fill(pillow, second)
            if rng.random() < 0.5:
                c.stripes(pillow, tone(second, 0.7), 0.07, 0.8, 0.4)
    c.volume, c.roughness = 0.5, 0.025
