"""A contact sheet: images of a split with their objects outlined and named."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import hsv_to_rgb, to_hex
from PIL import Image, ImageDraw, ImageFont

from mlssl.data.coco import Instances, Split, read_split
from mlssl.figures.style import DPI, OKABE_ITO, save

TILE, GAP, COLUMNS = 256, 8, 6
"""Pixels of a tile's side and between tiles; tiles in a row."""
FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
FONT_SIZE = 14
FONT_OF_NAMES = ImageFont.truetype(str(FONT), FONT_SIZE)
LINE, TAG_GAP = FONT_SIZE + 8, 4
"""Pixels of a row of names below a tile, and between names in it."""
CROWD = "#BBBBBB"
GOLDEN = 0.381966
"""Of a full turn."""


def write_contact_sheet(root: Path, split: str, out: Path, *, images: int = 24) -> None:
    """Write `out` (PNG) and a PDF beside it: `images` images evenly spaced over a split in COCO's layout.

    A category has the same colour in all images; the name is at the largest object of its category, with the
    number of objects. An object without a mask is outlined by its box. Crowds are outlined in light grey. Labels of
    a whole image have no outline; their names are in rows below it.
    """
    data = read_split(root, split)
    count = min(images, len(data))
    chosen = [round(i) for i in np.linspace(0, len(data) - 1, count)]
    columns = min(COLUMNS, count)
    rows = -(-count // columns)
    colour = palette(data)
    tags = [tag_rows(data, i) for i in chosen]
    across, down = TILE + GAP, TILE + LINE * max(map(len, tags), default=0) + GAP
    sheet = Image.new("RGB", (columns * across - GAP, rows * down - GAP), "white")
    for place, i in enumerate(chosen):
        left, top = place % columns * across, place // columns * down
        sheet.paste(tile(data, i, colour), (left, top))
        write_tags(sheet, tags[place], colour, (left, top + TILE))
    objects = sum(len(a) for a in data.annotations.values())
    shown = sum(
        any(a["category_id"] == c["id"] for b in data.annotations.values() for a in b) for c in data.categories
    )
    head = 44
    figure = plt.figure(figsize=(sheet.width / DPI, (sheet.height + head) / DPI))
    ax = figure.add_axes((0, 0, 1, sheet.height / (sheet.height + head)))
    ax.imshow(sheet, interpolation="none")
    ax.set_axis_off()
    title = f"{split}: {count} of {len(data):,} images, {objects:,} objects of {shown} categories in all"
    figure.text(0.005, 1 - head / 2 / (sheet.height + head), title, va="center", fontsize=10)
    save(figure, Path(out).with_suffix(""))


def tile(data: Split, i: int, colour: dict[int, str]) -> Image.Image:
    """One image of the split, TILE x TILE pixels with grey margins, its objects outlined and named.

    Labels of the whole image are not drawn in it.

    `colour` maps a category's index to its colour.
    """
    pixels = Image.fromarray(data.pixels(i))
    scale = TILE / max(pixels.size)
    width, height = (max(1, round(side * scale)) for side in pixels.size)
    shrunk = np.asarray(pixels.resize((width, height), Image.Resampling.BICUBIC)).copy()
    objects = only(data.instances(i), whole=False)
    for j in np.argsort(-areas(objects), kind="stable"):
        ink = _rgb(CROWD if objects.crowd[j] else colour[int(objects.labels[j])])
        shrunk[outline(region(objects, j, width, height))] = ink
    canvas = Image.new("RGB", (TILE, TILE), "#EEEEEE")
    left, top = (TILE - width) // 2, (TILE - height) // 2
    canvas.paste(Image.fromarray(shrunk), (left, top))
    write_names(canvas, objects, data.names, colour, scale, (left, top))
    return canvas


def only(objects: Instances, *, whole: bool) -> Instances:
    """The labels of the whole image, or the other objects.

    The box of a label of the whole image is the image's edge to within a pixel; its mask is empty or all of it.
    """
    height, width = objects.masks.shape[1:]
    at_edge = (np.abs(objects.boxes - np.array([0, 0, width, height])) < 1).all(axis=1)
    no_shape = ~objects.masks.any(axis=(1, 2)) | objects.masks.all(axis=(1, 2))
    chosen = (at_edge & no_shape & ~objects.crowd) == whole
    return Instances(objects.boxes[chosen], objects.labels[chosen], objects.masks[chosen], objects.crowd[chosen])


def tag_rows(data: Split, i: int) -> list[list[tuple[int, str, int]]]:
    """Rows of the categories of a whole image: index, name, width in pixels; a row is at most TILE pixels wide."""
    rows: list[list[tuple[int, str, int]]] = []
    room = 0
    for label in dict.fromkeys(only(data.instances(i), whole=True).labels.tolist()):
        text = fitted(data.names[label])
        width = text_width(text)
        if width > room:
            rows.append([])
            room = TILE
        rows[-1].append((label, text, width))
        room -= width + TAG_GAP
    return rows


def fitted(text: str) -> str:
    """A name that is no wider than a tile, cut if it has to be."""
    while text_width(text) > TILE:
        text = text.rstrip("…")[:-1] + "…"
    return text


def text_width(text: str) -> int:
    """Pixels of a name with its margins."""
    return math.ceil(FONT_OF_NAMES.getlength(text)) + 6


def write_tags(
    sheet: Image.Image,
    rows: Sequence[Sequence[tuple[int, str, int]]],
    colour: dict[int, str],
    corner: tuple[int, int],
) -> None:
    """Write rows of `tag_rows` from a corner (left, top) of the sheet on, each on the colour of its category."""
    draw = ImageDraw.Draw(sheet)
    for n, row in enumerate(rows):
        x, y = corner[0], corner[1] + n * LINE + 2
        for label, text, width in row:
            write_name(draw, text, colour[label], (x, y, x + width - 1, y + FONT_SIZE + 4))
            x += width + TAG_GAP


def write_name(draw: ImageDraw.ImageDraw, text: str, colour: str, box: tuple[float, float, float, float]) -> None:
    """A name on a box of its category's colour, in black or white, whichever can be read."""
    draw.rectangle(box, fill=colour)
    red, green, blue = _rgb(colour)
    dark = 0.299 * red + 0.587 * green + 0.114 * blue < 128  # luma of ITU-R BT.601
    draw.text((box[0] + 3, box[1] + 1), text, fill="white" if dark else "black", font=FONT_OF_NAMES)


def palette(data: Split) -> dict[int, str]:
    """Category index -> colour, each its own: the most frequent categories have the colours of the figures.

    The others have hues a golden angle apart, which differ less the more categories there are.
    """
    counts = Counter(a["category_id"] for found in data.annotations.values() for a in found)
    ranked = sorted(range(len(data.categories)), key=lambda c: (-counts[data.categories[c]["id"]], c))
    # Black outlines are hard to see in photos.
    usable = OKABE_ITO[:-1]
    return {c: usable[n] if n < len(usable) else hue(n) for n, c in enumerate(ranked)}


def hue(n: int) -> str:
    """The n-th colour of a sequence without end: hues a golden angle apart, in three strengths."""
    strength, light = ((0.85, 0.95), (0.55, 0.95), (0.9, 0.6))[n % 3]
    red, green, blue = hsv_to_rgb((n * GOLDEN % 1, strength, light))
    return str(to_hex((red, green, blue))).upper()


def areas(objects: Instances) -> np.ndarray:
    """Pixels N of each object: of its mask, or of its box if it has none."""
    sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
    masks = np.array([mask.sum() for mask in objects.masks], dtype=np.float64)
    return np.where(masks > 0, masks, sides.prod(axis=1)) if len(masks) else sides.prod(axis=1)


def region(objects: Instances, j: int, width: int, height: int) -> np.ndarray:
    """bool height x width: the j-th object in its image of this size: its mask, or its box if it has none."""
    mask = objects.masks[j]
    if mask.any():
        resized = Image.fromarray(mask * 255).resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(resized) > 127
    inside = np.zeros((height, width), dtype=bool)
    left, top, right, bottom = objects.boxes[j] * (np.array([width, height] * 2) / np.array(mask.shape[::-1] * 2))
    inside[round(top) : max(round(bottom), round(top) + 1), round(left) : max(round(right), round(left) + 1)] = True
    return inside


def outline(mask: np.ndarray) -> np.ndarray:
    """bool H x W: the pixels of a mask within two pixels of its border."""
    inner = mask
    for _ in range(2):
        p = np.pad(inner, 1)
        inner = p[1:-1, 1:-1] & p[:-2, 1:-1] & p[2:, 1:-1] & p[1:-1, :-2] & p[1:-1, 2:]
    return mask & ~inner


def write_names(
    canvas: Image.Image,
    objects: Instances,
    names: list[str],
    colour: dict[int, str],
    scale: float,
    shift: tuple[int, int],
) -> None:
    """Write the name of every category once, at its largest object; names that find no free place are left out."""
    draw = ImageDraw.Draw(canvas)
    taken: list[tuple[float, float, float, float]] = []
    size = areas(objects)
    for label in dict.fromkeys(objects.labels[~objects.crowd].tolist()):
        mine = [j for j in np.flatnonzero(objects.labels == label) if not objects.crowd[j]]
        box = objects.boxes[max(mine, key=lambda j: size[j])] * scale + np.array([*shift, *shift])
        text = fitted(names[label] + (f" ×{len(mine)}" if len(mine) > 1 else ""))
        width, height = draw.textlength(text, font=FONT_OF_NAMES) + 6, FONT_SIZE + 5
        spot = free_spot((float(box[0]), float(box[1]), float(box[3])), width, height, taken)
        if spot is None:
            continue  # the outline stays; a name over another would hide both
        x, y = spot
        taken.append((x, y, x + width, y + height))
        write_name(draw, text, colour[label], taken[-1])


def free_spot(
    box: tuple[float, float, float], width: float, height: float, taken: Sequence[tuple[float, ...]]
) -> tuple[float, float] | None:
    """Left and top of a name near an object's box (left, top, bottom) that overlaps none of `taken`.

    At the box if possible, else at the nearest free place of the tile; None if there is none.
    """
    left, top, bottom = box
    x, most = min(max(left, 0.0), TILE - width), TILE - height
    at_box = [(x, min(max(y, 0.0), most)) for y in (top - height, top, bottom - height, bottom)]
    grid = [(a, b) for b in np.arange(0.0, most, height / 2) for a in np.arange(0.0, TILE - width, 8.0)]
    for a, b in (*at_box, *sorted(grid, key=lambda spot: abs(spot[0] - x) + abs(spot[1] - top))):
        if not any(_overlap((a, b, a + width, b + height), t) for t in taken):
            return float(a), float(b)
    return None


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return red, green, blue
