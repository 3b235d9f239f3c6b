"""Layout and rendering of one scene."""

from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFilter

from mlssl.scenes.canvas import Canvas
from mlssl.scenes.categories import CATEGORIES
from mlssl.scenes.places.outdoor import Light, Zone
from mlssl.scenes.themes import THEME_NAMES, THEMES, sample_light

MIN_OBJECTS, MAX_OBJECTS = 2, 8
MIN_IMAGE_SHARE = 0.0025  # of the image area; smaller objects are not drawn, so every drawn object is labelled
MIN_VISIBLE_SHARE = 0.25  # of the object's own area
# Sensor noise: random bytes index 256 normal quantiles, which is much faster than drawing normal deviates.
NOISE_QUANTILES = np.array([NormalDist().inv_cdf((i + 0.5) / 256) for i in range(256)], dtype=np.float32)


class Scene(NamedTuple):
    """`pixels` uint8 (H, W, 3); `owner` uint8 (H, W): 0 = background, k = the k-th of `names`."""

    theme: str
    pixels: np.ndarray
    owner: np.ndarray
    names: list[str]


class Sprite(NamedTuple):
    """A drawn object: premultiplied `rgb` float32 (h, w, 3) in 0..255, `alpha` float32 (h, w) in 0..1, `mask`
    bool (h, w), and the image pixel of its upper left corner."""

    name: str
    zone: Zone
    rgb: np.ndarray
    alpha: np.ndarray
    mask: np.ndarray
    left: int
    top: int


def _apparent(metres: float) -> float:
    """Height in metres that the layout uses for an object of true height `metres`.

    The range of sizes is compressed: a ball next to a bus would otherwise cover only a few pixels.
    """
    return 1.7 * (metres / 1.7) ** 0.75


def _shading(c: Canvas, alpha: Image.Image, pad: int, light: Light, rng: np.random.Generator) -> np.ndarray:
    """Lightness factor, without padding, of an object whose `alpha` has `pad` empty pixels on every side.

    A bulge lit from above and from the light's side, a darkening towards the ground, and grain.
    """
    depth = max(round(0.05 * c.height), 1)
    bulge = np.asarray(alpha.filter(ImageFilter.BoxBlur(1.5 * depth)), dtype=np.float32)
    h, w = bulge.shape[0] - 2 * pad, bulge.shape[1] - 2 * pad
    y, x = depth, round(-0.9 * light.side * depth)
    # The slope is negative at the edge that faces the light.
    slope = (
        bulge[pad - y : pad - y + h, pad - x : pad - x + w] - bulge[pad + y : pad + y + h, pad + x : pad + x + w]
    )
    factor = 1 - (0.42 / 255) * c.volume * slope
    factor *= np.linspace(1.05, 0.92, h, dtype=np.float32)[:, None]
    if c.roughness:
        grain = Image.fromarray(rng.standard_normal((40, 40), dtype=np.float32))
        factor *= 1 + c.roughness * np.asarray(grain.resize((w, h), Image.Resampling.BILINEAR))
    return factor


def draw_object(
    name: str, height: float, light: Light, rng: np.random.Generator, airborne: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """One object `height` pixels tall in a random pose: premultiplied rgb (h, w, 3) and alpha (h, w)."""
    category = CATEGORIES[name]
    supersample = 4 if height < 40 else 3 if height < 120 else 2
    angle = rng.uniform(-category.tilt, category.tilt)
    c = Canvas(
        height,
        category.aspect,
        angle=angle,
        flip=rng.random() < 0.5,
        airborne=airborne,
        supersample=supersample,
    )
    category.draw(c, rng)
    layer = c.reduced()
    pad = max(round(0.13 * height), 2)
    x0, y0, x1, y1 = layer.getbbox() or (0, 0, *layer.size)
    layer = layer.crop((x0 - pad, y0 - pad, x1 + pad, y1 + pad))
    factor = _shading(c, layer.getchannel(3), pad, light, rng)
    full = np.asarray(layer)[pad:-pad, pad:-pad].astype(np.float32)
    alpha = full[..., 3] * np.float32(1 / 255)
    rgb = full[..., :3] * factor[..., None]
    return np.minimum(rgb, 255 * alpha[..., None]), alpha


def _place(
    theme: str, zones: dict[str, Zone], light: Light, size: tuple[int, int], rng: np.random.Generator
) -> list[Sprite]:
    """Sprites of a random number of objects, from back to front."""
    width, height = size
    pairs = [(zone, name) for zone, names in THEMES[theme].objects.items() for name in names]
    weights = np.array([THEMES[theme].objects[zone][name] for zone, name in pairs])
    sprites: list[Sprite] = []
    boxes: list[tuple[int, int, int, int]] = []
    order: list[tuple[int, float]] = []
    for k in rng.choice(len(pairs), size=rng.integers(4, MAX_OBJECTS + 1), p=weights / weights.sum()):
        zone, name = zones[pairs[k][0]], pairs[k][1]
        t = rng.random()
        base = zone.top + t * (zone.bottom - zone.top)
        metres = _apparent(rng.uniform(*CATEGORIES[name].height))
        tall = min(metres * (zone.far + t * (zone.near - zone.far)) * rng.uniform(0.88, 1.12), 0.95) * height
        rgb, alpha = draw_object(name, max(tall, 4.0), light, rng, zone.airborne)
        h, w = alpha.shape
        # Of three positions, take the one with the least overlap, so that overlap is moderate.
        best = (np.inf, 0, 0)
        for centre in rng.uniform(zone.left, zone.right, 3) * width:
            left, top = round(centre - w / 2), round(base * height) - h
            hidden = sum(
                max(min(left + w, b[2]) - max(left, b[0]), 0) * max(min(top + h, b[3]) - max(top, b[1]), 0)
                for b in boxes
            )
            if hidden < best[0]:
                best = (hidden, left, top)
        _, left, top = best
        boxes.append((left, top, left + w, top + h))
        order.append((zone.depth, base))
        sprites.append(Sprite(name, zone, rgb, alpha, alpha > 0.5, left, top))
    return [sprites[i] for i in sorted(range(len(sprites)), key=order.__getitem__)]


def _window(sprite: Sprite, size: tuple[int, int]) -> tuple[slice, slice, slice, slice] | None:
    """Rows and columns of the image that the sprite covers, and the same in the sprite; None if outside."""
    width, height = size
    h, w = sprite.alpha.shape
    x0, x1 = max(sprite.left, 0), min(sprite.left + w, width)
    y0, y1 = max(sprite.top, 0), min(sprite.top + h, height)
    if x0 >= x1 or y0 >= y1:
        return None
    return (
        slice(y0, y1),
        slice(x0, x1),
        slice(y0 - sprite.top, y1 - sprite.top),
        slice(x0 - sprite.left, x1 - sprite.left),
    )


def _visible(sprites: list[Sprite], table: np.ndarray, size: tuple[int, int]) -> tuple[list[Sprite], np.ndarray]:
    """The sprites that are visible enough, back to front, and the owner map (H, W).

    It processes sprites front to back: whether an object is kept depends only on those in front of it.
    """
    width, height = size
    least = MIN_IMAGE_SHARE * width * height
    taken = np.zeros((height, width), dtype=bool)
    kept: list[tuple[Sprite, slice, slice, np.ndarray]] = []
    table_passed = False
    for sprite in reversed(sprites):
        if sprite.zone.depth < 2 and not table_passed:
            taken |= table
            table_passed = True
        window = _window(sprite, size)
        if window is None:
            continue
        rows, columns, own_rows, own_columns = window
        seen = sprite.mask[own_rows, own_columns] & ~taken[rows, columns]
        area = np.count_nonzero(seen)
        if area < max(least, MIN_VISIBLE_SHARE * np.count_nonzero(sprite.mask)):
            continue
        taken[rows, columns] |= seen
        kept.append((sprite, rows, columns, seen))
    owner = np.zeros((height, width), dtype=np.uint8)
    for k, (_, rows, columns, seen) in enumerate(reversed(kept), start=1):
        owner[rows, columns][seen] = k
    return [sprite for sprite, *_ in reversed(kept)], owner


def _cast_shadow(image: np.ndarray, sprite: Sprite, light: Light) -> None:
    """Darken the ground at the foot of an object, in place."""
    h, w = sprite.alpha.shape
    height, width = image.shape[:2]
    rx, ry = 0.58 * w, max(0.09 * w, 0.03 * h, 1.5)
    cx, cy = sprite.left + w * (0.5 - 0.16 * light.side), sprite.top + h - 0.35 * ry
    x0, x1 = max(int(cx - rx), 0), min(int(cx + rx) + 1, width)
    y0, y1 = max(int(cy - ry), 0), min(int(cy + ry) + 1, height)
    if x0 >= x1 or y0 >= y1:
        return
    u = ((np.arange(x0, x1, dtype=np.float32) + 0.5 - cx) / rx) ** 2
    v = ((np.arange(y0, y1, dtype=np.float32) + 0.5 - cy) / ry) ** 2
    fall = np.clip(1 - u[None] - v[:, None], 0, 1)
    image[y0:y1, x0:x1] *= (1 - 1.2 * light.shadow * fall)[..., None]


def _composite(image: np.ndarray, sprite: Sprite, size: tuple[int, int]) -> None:
    window = _window(sprite, size)
    if window is None:
        return
    rows, columns, own_rows, own_columns = window
    region = image[rows, columns]
    region *= 1 - sprite.alpha[own_rows, own_columns, None]
    region += sprite.rgb[own_rows, own_columns]


def render_scene(size: tuple[int, int], rng: np.random.Generator) -> Scene:
    """A scene of `size` (width, height) pixels with 2 to 8 labelled objects; it depends only on `rng`."""
    width, height = size
    theme = THEME_NAMES[rng.integers(len(THEME_NAMES))]
    light = sample_light(rng, THEMES[theme].indoor)
    back = Canvas(height, width / height, supersample=2, margin=0.0)
    front = Canvas(height, width / height, supersample=2, margin=0.0)
    zones = THEMES[theme].paint(back, front, light, rng)
    cover = np.asarray(front.reduced())
    table = cover[..., 3] > 127
    while True:
        sprites, owner = _visible(_place(theme, zones, light, size, rng), table, size)
        if len(sprites) >= MIN_OBJECTS:
            break
    image = np.asarray(back.reduced())[..., :3].astype(np.float32)
    depth = 0
    for sprite in sprites:
        if sprite.zone.depth == 2 > depth:
            _lay_table(image, cover)
        depth = sprite.zone.depth
        if sprite.zone.rests:
            _cast_shadow(image, sprite, light)
        _composite(image, sprite, size)
    if depth < 2:
        _lay_table(image, cover)
    image *= np.array(light.tint, dtype=np.float32)
    image += rng.uniform(1.0, 3.5) * NOISE_QUANTILES[rng.integers(0, 256, image.shape, dtype=np.uint8)]
    pixels = np.clip(image + 0.5, 0, 255).astype(np.uint8)
    return Scene(theme, pixels, owner, [sprite.name for sprite in sprites])


def _lay_table(image: np.ndarray, cover: np.ndarray) -> None:
    """Composite the front layer, premultiplied uint8 (H, W, 4), onto the image in place."""
    rows = np.flatnonzero(cover[..., 3].any(axis=1))
    if len(rows):
        part = cover[rows[0] :].astype(np.float32)
        image[rows[0] :] *= 1 - part[..., 3:] / 255
        image[rows[0] :] += part[..., :3]
