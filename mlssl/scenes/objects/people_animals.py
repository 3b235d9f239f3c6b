"""People and animals."""

import numpy as np

from mlssl.scenes.canvas import Canvas, Colour, any_colour, box, hsv, mix, oval, spline, tone

INK: Colour = (32, 28, 30)


def _hair(rng: np.random.Generator) -> Colour:
    hue, saturation, value = [
        (0.07, 0.4, 0.14),
        (0.07, 0.6, 0.3),
        (0.08, 0.6, 0.48),
        (0.12, 0.55, 0.85),
        (0.04, 0.75, 0.6),
        (0.1, 0.05, 0.75),
    ][rng.integers(6)]
    return hsv(hue + rng.normal(0, 0.01), saturation, value * rng.uniform(0.85, 1.1))


def person(c: Canvas, rng: np.random.Generator) -> None:
    """A standing or walking adult or child in everyday clothes, from the front."""
    skin = mix((255, 220, 188), (98, 60, 40), rng.random())
    hair, top, bottom, shoe = _hair(rng), any_colour(rng), any_colour(rng, 0.5), any_colour(rng, 0.7)
    head = rng.uniform(0.09, 0.11) if rng.random() < 0.25 else rng.uniform(0.066, 0.078)
    build = rng.uniform(0.85, 1.25)
    x, neck, hip = c.aspect / 2, 2 * head + 0.005, rng.uniform(0.5, 0.56)
    stride, dress = rng.uniform(0, 0.9), rng.integers(4)
    long_hair = rng.random() < 0.4
    if long_hair:
        c.fill(box(x - head * 1.1, head * 0.5, x + head * 1.1, neck + rng.uniform(0.01, 0.1), head), hair)
    for side in (-1, 1):
        hip_x = x + side * 0.042 * build
        knee = (hip_x + side * stride * 0.05, (hip + 0.96) / 2)
        foot = (hip_x + side * stride * rng.uniform(0.04, 0.12), 0.96)
        c.stroke(
            [(hip_x, hip), knee, foot],
            (0.066 if dress != 1 else 0.055) * build,
            skin if dress in (1, 3) else bottom,
        )
        if dress == 1:
            c.stroke(
                [(hip_x, hip), (0.9 * knee[0] + 0.1 * foot[0], 0.9 * knee[1] + 0.1 * foot[1])],
                0.072 * build,
                bottom,
            )
        c.fill(oval(foot[0] + side * 0.014, 0.975, 0.047, 0.026), shoe)
    shoulder, waist = 0.1 * build, 0.075 * build
    hands_up = rng.random() < 0.2
    for side in (-1, 1):
        a = rng.uniform(1.9, 2.6) if hands_up and (side == 1 or rng.random() < 0.5) else rng.uniform(0.12, 0.5)
        b = a + rng.uniform(-0.3, 0.7)
        joint = np.array([x + side * (shoulder - 0.012), neck + 0.055])
        elbow = joint + 0.15 * np.array([side * np.sin(a), np.cos(a)])
        hand = elbow + 0.14 * np.array([side * np.sin(b), np.cos(b)])
        c.stroke([elbow, hand], 0.042 * build, skin if dress % 2 else top)
        c.stroke([joint, elbow], 0.054 * build, tone(top, 0.92))
        c.fill(oval(hand[0], hand[1], 0.028, 0.028), skin)
    c.fill(box(x - 0.024, neck - 0.03, x + 0.024, neck + 0.06, 0.02), tone(skin, 0.88))
    torso = spline(
        [
            (x - shoulder * 0.6, neck + 0.022),
            (x + shoulder * 0.6, neck + 0.022),
            (x + shoulder, neck + 0.06),
            (x + waist, (neck + hip) / 2),
            (x + waist * 1.12, hip + 0.02),
            (x - waist * 1.12, hip + 0.02),
            (x - waist, (neck + hip) / 2),
            (x - shoulder, neck + 0.06),
        ]
    )
    c.fill(torso, top)
    decoration = rng.integers(4)
    if decoration == 0:
        c.stripes(torso, tone(top, rng.choice([0.6, 1.6])), rng.uniform(0.03, 0.07))
    elif decoration == 1:
        c.stroke([(x, neck + 0.04), (x, hip)], 0.01, tone(top, 0.6))
    elif decoration == 2:
        c.dots(torso, tone(top, 1.7), 0.012, 24, rng)
    if dress == 3:
        hem = rng.uniform(0.68, 0.82)
        c.fill([(x - waist, hip - 0.08), (x + waist, hip - 0.08), (x + 0.15, hem), (x - 0.15, hem)], bottom)
        c.fill(oval(x, hem, 0.15, 0.012), tone(bottom, 0.85))
    else:
        c.fill(box(x - waist, hip - 0.012, x + waist, hip + 0.012), tone(bottom, 0.55))
    c.fill(oval(x, head * 1.05, head * 0.86, head), skin)
    crown = oval(x, head * 0.95, head * 0.95, head * 0.98, start=np.pi * 0.97, stop=np.pi * 2.03)
    if rng.random() < 0.2:
        hat = any_colour(rng)
        c.fill(crown, hat)
        c.fill(box(x - head * 1.5, head * 0.72, x + head * 1.5, head * 0.95, 0.02), tone(hat, 0.8))
    elif long_hair or rng.random() < 0.9:
        c.fill(crown, hair)
        fringe = rng.uniform(-0.5, 0.5) * head
        c.fill(oval(x + fringe, head * 1.12, head * 0.55, head * 0.3), skin)
    for side in (-1, 1):
        c.fill(oval(x + side * head * 0.34, head * 1.15, head * 0.1, head * 0.14), INK)
        c.fill(oval(x + side * head * 0.5, head * 1.45, head * 0.15, head * 0.1), mix(skin, (230, 90, 90), 0.35))
    c.fill(oval(x, head * 1.5, head * 0.26, head * 0.2, start=0, stop=np.pi), mix(skin, (150, 40, 40), 0.7))
    c.volume, c.roughness = 0.55, 0.015


def _coat(rng: np.random.Generator) -> Colour:
    """A fur colour: browns, golden, grey, black or white."""
    return [
        hsv(0.07, rng.uniform(0.5, 0.7), rng.uniform(0.35, 0.6)),
        hsv(0.09, rng.uniform(0.45, 0.65), rng.uniform(0.7, 0.88)),
        hsv(0.07, 0.06, rng.uniform(0.45, 0.65)),
        hsv(0.07, 0.1, rng.uniform(0.17, 0.26)),
        hsv(0.1, 0.07, rng.uniform(0.88, 0.96)),
    ][rng.integers(5)]


def dog(c: Canvas, rng: np.random.Generator) -> None:
    """A dog standing or walking in profile."""
    coat = _coat(rng)
    far, mark = tone(coat, 0.75), mix(coat, _coat(rng), 0.8)
    chest, belly, legs = rng.uniform(0.36, 0.42), rng.uniform(0.66, 0.74), rng.uniform(0.045, 0.06)
    swing = rng.uniform(0, 0.09)
    tail = rng.uniform(-0.25, 0.12)
    c.stroke([(0.22, 0.47), (0.1, 0.4 + tail * 0.5), (0.03, 0.3 + tail)], rng.uniform(0.05, 0.09), far)
    for start, sign, colour in ((0.33, 1, far), (0.84, 1, far), (0.27, -1, coat), (0.78, -1, coat)):
        foot = start + sign * swing
        c.stroke([(start, 0.62), ((start + foot) / 2 - 0.02, 0.8), (foot, 0.96)], 2 * legs, colour)
        c.fill(oval(foot + 0.025, 0.965, 0.07, 0.035), tone(colour, 0.9))
    body = spline(
        [
            (0.19, 0.5),
            (0.33, chest + 0.02),
            (0.6, chest + 0.04),
            (0.84, chest - 0.04),
            (0.94, 0.52),
            (0.85, belly),
            (0.55, belly - 0.05),
            (0.28, belly - 0.01),
        ]
    )
    c.fill(body, coat)
    if rng.random() < 0.55:
        c.dots(body, mark, rng.uniform(0.05, 0.12), int(rng.integers(3, 9)), rng)
    hx, hy = 0.98 + rng.uniform(-0.03, 0.03), 0.26 + rng.uniform(-0.04, 0.06)
    c.fill(spline([(0.72, 0.44), (hx - 0.14, hy), (hx + 0.04, hy + 0.08), (0.94, 0.58), (0.84, 0.6)]), coat)
    collar = any_colour(rng, 0)
    c.stroke([(hx - 0.17, hy + 0.17), (hx - 0.0, hy + 0.24)], 0.05, collar)
    c.fill(oval(hx, hy, 0.16, 0.145), coat)
    snout = rng.uniform(0.17, 0.25)
    c.fill(box(hx, hy - 0.015, hx + snout + 0.03, hy + 0.125, 0.06), mix(coat, (255, 245, 230), 0.25))
    c.fill(oval(hx + snout + 0.015, hy + 0.02, 0.036, 0.032), INK)
    c.stroke([(hx + 0.1, hy + 0.085), (hx + snout - 0.01, hy + 0.08)], 0.012, tone(coat, 0.5))
    if rng.random() < 0.4:
        c.fill(oval(hx + snout * 0.7, hy + 0.15, 0.03, 0.055), (225, 110, 120))
    c.fill(oval(hx + 0.06, hy - 0.045, 0.024, 0.028), INK)
    ear = tone(mark, 0.75)
    if rng.random() < 0.6:
        c.fill(
            spline(
                [
                    (hx - 0.1, hy - 0.13),
                    (hx - 0.01, hy - 0.08),
                    (hx - 0.04, hy + 0.14),
                    (hx - 0.14, hy + 0.12),
                ]
            ),
            ear,
        )
    else:
        for dx in (0.06, -0.02):
            c.fill([(hx + dx - 0.13, hy - 0.05), (hx + dx - 0.1, hy - 0.23), (hx + dx, hy - 0.11)], ear)
    c.volume, c.roughness = 0.7, 0.04


def cat(c: Canvas, rng: np.random.Generator) -> None:
    """A cat that sits and looks at the viewer."""
    coat = _coat(rng) if rng.random() < 0.6 else hsv(0.07, 0.7, rng.uniform(0.75, 0.9))
    mark, pale = tone(coat, 0.62), mix(coat, (255, 250, 240), 0.6)
    x = 0.46 + rng.uniform(-0.02, 0.02)
    lift = rng.uniform(-0.25, 0.1)
    c.stroke(
        [(x + 0.17, 0.9), (x + 0.33, 0.88), (x + 0.41, 0.74), (x + 0.36 + lift * 0.2, 0.6 + lift)],
        0.085,
        tone(coat, 0.85),
    )
    wide = rng.uniform(0.24, 0.3)
    body = spline(
        [
            (x, 0.34),
            (x + 0.15, 0.48),
            (x + wide, 0.76),
            (x + 0.2, 0.97),
            (x - 0.2, 0.97),
            (x - wide, 0.76),
            (x - 0.15, 0.48),
        ]
    )
    c.fill(body, coat)
    tabby = rng.random() < 0.55
    if tabby:
        c.stripes(body, mark, 0.09, rng.uniform(-0.25, 0.25), 0.35)
    c.fill(oval(x, 0.58, 0.11, 0.14), pale)
    for side in (-1, 1):
        c.stroke([(x + side * 0.075, 0.68), (x + side * 0.075, 0.93)], 0.095, coat)
        c.fill(oval(x + side * 0.085, 0.955, 0.07, 0.04), pale)
        ear = np.array([(x + side * 0.24, 0.015), (x + side * 0.05, 0.11), (x + side * 0.235, 0.24)])
        c.fill(ear, coat)
        c.fill(ear * 0.5 + 0.5 * np.array([x + side * 0.19, 0.135]), (225, 150, 150))
    face = oval(x, 0.26, 0.245, 0.195)
    c.fill(face, coat)
    if tabby:
        for dx in (-0.06, 0.0, 0.06):
            c.stroke([(x + dx, 0.08), (x + dx * 0.7, 0.145)], 0.022, mark)
    c.fill(oval(x, 0.34, 0.11, 0.085), pale)
    eye = hsv(rng.uniform(0.12, 0.4), 0.65, 0.85)
    for side in (-1, 1):
        c.fill(oval(x + side * 0.105, 0.24, 0.05, 0.045), eye)
        c.fill(oval(x + side * 0.105, 0.24, 0.018, 0.043), INK)
        for dy in (-0.02, 0.02):
            c.stroke([(x + side * 0.06, 0.345), (x + side * 0.26, 0.34 + dy)], 0.008, mix(pale, INK, 0.25))
    c.fill([(x - 0.03, 0.3), (x + 0.03, 0.3), (x, 0.335)], (205, 110, 115))
    mouth = [(x - 0.055, 0.362), (x - 0.025, 0.38), (x, 0.36), (x + 0.025, 0.38), (x + 0.055, 0.362)]
    c.stroke(mouth, 0.012, tone(coat, 0.4))
    c.volume, c.roughness = 0.7, 0.04


def bird(c: Canvas, rng: np.random.Generator) -> None:
    """A songbird or gull: perched in profile, or with spread wings in flight."""
    if rng.random() < 0.4:
        coat, belly = hsv(0.6, 0.05, rng.uniform(0.7, 0.95)), (245, 245, 242)
    else:
        coat = hsv(rng.choice([0.02, 0.08, 0.12, 0.55, 0.6]), rng.uniform(0.4, 0.8), rng.uniform(0.35, 0.85))
        belly = mix(coat, (255, 235, 200), rng.uniform(0.3, 0.8))
    beak, wing = hsv(rng.uniform(0.07, 0.14), 0.85, 0.95), tone(coat, 0.65)
    if c.airborne:
        up, back = rng.uniform(0.0, 0.2), rng.uniform(0.25, 0.5)
        c.fill(spline([(0.62, 0.56), (0.85, 0.5), (0.95, up + 0.12), (0.86, up + 0.02), (0.68, 0.3)]), wing)
        c.fill([(0.3, 0.6), (0.02, 0.58), (0.05, 0.76), (0.3, 0.72)], wing)
        body = spline([(0.2, 0.65), (0.55, 0.5), (0.95, 0.5), (1.12, 0.56), (0.95, 0.72), (0.55, 0.8)])
        c.fill(body, coat)
        c.cut(body, oval(0.66, 0.82, 0.45, 0.15), belly)
        c.fill([(1.1, 0.52), (1.26, 0.6), (1.1, 0.62)], beak)
        c.fill(oval(1.02, 0.55, 0.024, 0.024), INK)
        c.fill(
            spline([(0.5, 0.62), (0.8, 0.6), (0.7, 0.3), (back, up), (back - 0.16, up + 0.03)]),
            tone(coat, 0.8),
        )
    else:
        for dx in (0.0, 0.11):
            c.stroke([(0.56 + dx, 0.78), (0.56 + dx, 0.96), (0.64 + dx, 0.98)], 0.03, tone(beak, 0.8))
        c.fill([(0.3, 0.58), (0.0, 0.74), (0.06, 0.84), (0.42, 0.76)], wing)
        body = spline(
            [(0.22, 0.66), (0.45, 0.4), (0.68, 0.24), (0.86, 0.34), (0.9, 0.58), (0.72, 0.82), (0.42, 0.84)]
        )
        c.fill(body, coat)
        c.cut(body, oval(0.82, 0.68, 0.24, 0.24), belly)
        c.fill(oval(0.82, 0.22, 0.17, 0.165), coat)
        c.fill([(0.95, 0.15), (0.95, 0.29), (1.16, 0.24)], beak)
        c.fill(oval(0.87, 0.19, 0.034, 0.036), (250, 250, 250))
        c.fill(oval(0.875, 0.19, 0.024, 0.026), INK)
        c.fill(spline([(0.68, 0.42), (0.72, 0.6), (0.5, 0.72), (0.18, 0.72), (0.4, 0.5)]), wing)
        c.stroke([(0.34, 0.66), (0.6, 0.62)], 0.015, tone(wing, 0.7))
    c.volume, c.roughness = 0.6, 0.02
