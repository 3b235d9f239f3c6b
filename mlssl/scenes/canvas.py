"""A supersampled drawing layer in object units, and the outlines and colours that are drawn on it."""

import colorsys
from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageChops, ImageDraw

Colour = tuple[int, int, int]
Points = np.ndarray | Sequence[np.ndarray | tuple[float, float]]

# Paints and cloths are red, yellow and blue more often than lime or violet: hues and their cumulative share.
_HUES = (-0.06, 0.05, 0.12, 0.17, 0.28, 0.45, 0.55, 0.68, 0.76, 0.94)
_HUE_SHARE = (0.0, 0.2, 0.33, 0.43, 0.48, 0.6, 0.71, 0.89, 0.93, 1.0)

MARGIN = 0.08  # drawings may overrun their box by this share of its height


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """RGB in 0..255 of a colour given in 0..1; the hue wraps around."""
    r, g, b = colorsys.hsv_to_rgb(hue % 1.0, min(max(saturation, 0.0), 1.0), min(max(value, 0.0), 1.0))
    return int(255 * r), int(255 * g), int(255 * b)


def mix(a: Colour, b: Colour, t: float) -> Colour:
    """The colour at t in 0..1 on the way from a to b."""
    s = 1.0 - t
    return int(s * a[0] + t * b[0]), int(s * a[1] + t * b[1]), int(s * a[2] + t * b[2])


def tone(colour: Colour, factor: float) -> Colour:
    """A darker (factor < 1) or lighter (factor > 1) tone; lighter tones go towards white."""
    if factor <= 1:
        return mix((0, 0, 0), colour, factor)
    return mix(colour, (255, 255, 255), min(factor - 1, 1.0))


def any_colour(rng: np.random.Generator, neutral: float = 0.3) -> Colour:
    """A paint or cloth of any hue; with probability `neutral` a white, grey, black or beige one."""
    if rng.random() < neutral:
        return hsv(rng.uniform(0.05, 0.15), rng.uniform(0, 0.15), rng.choice([0.2, 0.45, 0.7, 0.93]))
    hue = np.interp(rng.random(), _HUE_SHARE, _HUES)
    return hsv(hue, rng.uniform(0.4, 0.8), rng.uniform(0.45, 0.92))


def wood(rng: np.random.Generator) -> Colour:
    """A brown between pale birch and dark walnut."""
    return hsv(rng.uniform(0.06, 0.1), rng.uniform(0.4, 0.7), rng.uniform(0.4, 0.8))


def leaf(rng: np.random.Generator) -> Colour:
    """A leaf green."""
    return hsv(rng.uniform(0.23, 0.38), rng.uniform(0.5, 0.8), rng.uniform(0.4, 0.7))


@cache
def _arc(start: float, stop: float) -> np.ndarray:
    t = np.linspace(start, stop, 36)
    return np.stack([np.cos(t), np.sin(t)], axis=1)


def oval(
    x: float, y: float, rx: float, ry: float, angle: float = 0.0, start: float = 0.0, stop: float = 2 * np.pi
) -> np.ndarray:
    """Outline (n, 2) of an ellipse or of its part between two angles in radians (clockwise from +x)."""
    points = _arc(start, stop) * (rx, ry)
    if angle:
        cos, sin = np.cos(angle), np.sin(angle)
        points = points @ np.array([(cos, sin), (-sin, cos)])
    points += (x, y)
    return points


@cache
def _corners() -> tuple[np.ndarray, np.ndarray]:
    """The four quarter circles of a rounded unit square, and the corner of 0..1 x 0..1 of each."""
    t = np.pi / 2 * (np.arange(4)[:, None] + np.linspace(0, 1, 6))
    circle = np.stack([np.cos(t), np.sin(t)], axis=-1).reshape(24, 2)
    return circle, np.repeat([(1, 1), (0, 1), (0, 0), (1, 0)], 6, axis=0)


def box(x0: float, y0: float, x1: float, y1: float, radius: float = 0.0) -> np.ndarray:
    """Outline (n, 2) of a rectangle with corners rounded to `radius`."""
    if radius <= 0:
        return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    r = min(radius, (x1 - x0) / 2, (y1 - y0) / 2)
    corners, centres = _corners()
    return r * corners + (x0 + r, y0 + r) + centres * (x1 - x0 - 2 * r, y1 - y0 - 2 * r)


@cache
def _spline_weights() -> np.ndarray:
    t = np.linspace(0, 1, 7, endpoint=False)[:, None]
    return 0.5 * np.hstack([-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3])


def spline(points: Points) -> np.ndarray:
    """Closed smooth outline (7 m, 2) through m points."""
    p = np.asarray(points, dtype=float)
    knots = np.stack([np.roll(p, 1, axis=0), p, np.roll(p, -1, axis=0), np.roll(p, -2, axis=0)], axis=1)
    return (_spline_weights() @ knots).reshape(-1, 2)


class Canvas:
    """A transparent layer on which an object is drawn upright in its own units.

    x runs over 0..aspect to the right and y over 0..1 downward; the unit is the object's height, `height`
    pixels of the final image. The drawing is mirrored (`flip`) and turned by `angle` radians about its centre
    while it is drawn, so nothing is resampled but the final reduction by `supersample`.

    A drawing sets `volume` (0 flat sign .. 1 round body: how strongly its shading bulges) and `roughness`
    (standard deviation of the lightness grain of fur, bark or cloth). If `airborne`, it
    draws itself in flight.
    """

    def __init__(
        self,
        height: float,
        aspect: float,
        *,
        angle: float = 0.0,
        flip: bool = False,
        airborne: bool = False,
        supersample: int = 3,
        margin: float = MARGIN,
    ) -> None:
        self.height, self.aspect, self.supersample = height, aspect, supersample
        self.flip, self.airborne = flip, airborne
        self.volume, self.roughness = 0.6, 0.0
        self.scale = height * supersample
        cos, sin = np.cos(angle), np.sin(angle)
        mirror = -1.0 if flip else 1.0
        self._linear = self.scale * np.array([[cos * mirror, sin * mirror], [-sin, cos]])
        wide, tall = aspect + 2 * margin, 1 + 2 * margin
        extent = np.array([abs(cos) * wide + abs(sin) * tall, abs(sin) * wide + abs(cos) * tall])
        size = np.maximum(np.round(extent * height).astype(int), 1) * supersample
        self._shift = size / 2 - np.array([aspect / 2, 0.5]) @ self._linear
        # Premultiplied RGBa: every drawing is opaque, so a plain box average is the correct reduction.
        self.layer = Image.new("RGBa", (int(size[0]), int(size[1])))
        self._draw = ImageDraw.Draw(self.layer)

    def _pixels(self, points: Points) -> np.ndarray:
        return np.asarray(points, dtype=float) @ self._linear + self._shift

    def fill(self, outline: Points, colour: Colour) -> None:
        """Fill a closed outline."""
        self._draw.polygon(self._pixels(outline).ravel().tolist(), fill=colour)

    def stroke(self, points: Points, width: float, colour: Colour) -> None:
        """A polyline of `width` object heights with round joints and ends."""
        pixels = self._pixels(points)
        px = max(width * self.scale, 1.0)
        self._draw.line(pixels.ravel().tolist(), fill=colour, width=max(round(px), 1))
        r = px / 2
        if r >= 1:
            for x, y in pixels.tolist():
                self._draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)

    def ring(self, x: float, y: float, rx: float, ry: float, width: float, colour: Colour) -> None:
        """An elliptic ring whose centre line has the radii rx, ry."""
        outer = oval(x, y, rx + width / 2, ry + width / 2)
        inner = oval(x, y, rx - width / 2, ry - width / 2)[::-1]
        self.fill(np.concatenate([outer, inner]), colour)

    def _inside(self, outline: Points, within: Points | None = None) -> tuple[Image.Image, np.ndarray] | None:
        """A mask of the outline in its bounding box, cut to that of `within`, and its corner in pixels."""
        pixels = self._pixels(outline)
        low = np.maximum(np.floor(pixels.min(axis=0)), 0)
        high = np.minimum(np.ceil(pixels.max(axis=0)), self.layer.size)
        if within is not None:
            other = self._pixels(within)
            low = np.maximum(np.floor(other.min(axis=0)), low)
            high = np.minimum(np.ceil(other.max(axis=0)) + 1, high)
        if (high - low < 1).any():
            return None
        mask = Image.new("L", (int(high[0] - low[0]), int(high[1] - low[1])))
        ImageDraw.Draw(mask).polygon((pixels - low).ravel().tolist(), fill=255)
        return mask, low

    def _paint(self, inside: Image.Image, pattern: Image.Image, low: np.ndarray, colour: Colour) -> None:
        mask = ImageChops.darker(inside, pattern)
        self.layer.paste((*colour, 255), (int(low[0]), int(low[1])), mask)

    def stripes(
        self, outline: Points, colour: Colour, pitch: float, angle: float = 0.0, share: float = 0.5
    ) -> None:
        """Stripes inside an outline: `pitch` from one to the next, `share` of it filled; angle 0 = level."""
        if (found := self._inside(outline)) is None:
            return
        inside, low = found
        p = np.asarray(outline, dtype=float)
        centre, reach = (p.max(axis=0) + p.min(axis=0)) / 2, float(np.ptp(p, axis=0).max())
        along = np.array([np.cos(angle), np.sin(angle)]) * reach
        across = np.array([-np.sin(angle), np.cos(angle)])
        pattern = Image.new("L", inside.size)
        draw = ImageDraw.Draw(pattern)
        width = max(round(pitch * share * self.scale), 1)
        count = int(0.75 * reach / pitch) + 1
        for i in range(-count, count + 1):
            middle = centre + across * i * pitch
            draw.line((self._pixels([middle - along, middle + along]) - low).ravel().tolist(), 255, width)
        self._paint(inside, pattern, low, colour)

    def dots(self, outline: Points, colour: Colour, radius: float, count: int, rng: np.random.Generator) -> None:
        """`count` dots of about `radius` scattered over an outline's box and cut to the outline."""
        if (found := self._inside(outline)) is None:
            return
        inside, low = found
        pattern = Image.new("L", inside.size)
        draw = ImageDraw.Draw(pattern)
        places = rng.random((count, 3)) * [inside.width, inside.height, 1]
        for x, y, u in places.tolist():
            r = radius * self.scale * (0.6 + 0.8 * u)
            draw.ellipse((x - r, y - r, x + r, y + r), fill=255)
        self._paint(inside, pattern, low, colour)

    def cut(self, outline: Points, shape: Points, colour: Colour) -> None:
        """The part of `shape` inside `outline`."""
        if (found := self._inside(outline, within=shape)) is None:
            return
        inside, low = found
        pattern = Image.new("L", inside.size)
        ImageDraw.Draw(pattern).polygon((self._pixels(shape) - low).ravel().tolist(), fill=255)
        self._paint(inside, pattern, low, colour)

    def gradient(self, x0: float, y0: float, x1: float, y1: float, top: Colour, bottom: Colour) -> None:
        """A rectangle with a vertical colour gradient, on an unturned canvas."""
        (left, upper), (right, lower) = np.round(self._pixels([(x0, y0), (x1, y1)])).astype(int).tolist()
        rows, columns = max(lower - upper, 1), max(right - left, 1)
        t = np.linspace(0, 1, rows)[:, None]
        ramp = np.full((rows, 4), 255, dtype=np.uint8)
        ramp[:, :3] = (1 - t) * top + t * np.array(bottom)
        strip = Image.frombytes("RGBa", (1, rows), ramp.tobytes())
        self.layer.paste(strip.resize((columns, rows), Image.Resampling.NEAREST), (left, upper))

    def reduced(self) -> Image.Image:
        """The layer at final resolution, premultiplied RGBa."""
        return self.layer.reduce(self.supersample)
