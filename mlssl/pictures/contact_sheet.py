"""A contact sheet: images of a split with their objects outlined and named."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mlssl.data.coco import Instances, Split, read_split
from mlssl.figures.style import DPI, OKABE_ITO, save

TILE, GAP, COLUMNS = 256, 8, 6
"""Pixels of a tile's side and between tiles; tiles in a row."""
FONT = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
FONT_SIZE = 14
CROWD = "#BBBBBB"


def write_contact_sheet(root: Path, split: str, out: Path, *, images: int = 24) -> None:
    """Write `out` (PNG) and a PDF beside it: `images` images evenly spaced over a split in COCO's layout.

    Colours distinguish categories within one image only; the name is at the largest object of its category, with
    the number of objects. Crowds are outlined in light grey.
    """
    data = read_split(root, split)
    count = min(images, len(data))
    chosen = [round(i) for i in np.linspace(0, len(data) - 1, count)]
    columns = min(COLUMNS, count)
    rows = -(-count // columns)
    step = TILE + GAP
    sheet = Image.new("RGB", (columns * step - GAP, rows * step - GAP), "white")
    for place, i in enumerate(chosen):
        sheet.paste(tile(data, i), (place % columns * step, place // columns * step))
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


def tile(data: Split, i: int) -> Image.Image:
    """One image of the split, TILE x TILE pixels with grey margins, its objects outlined and named."""
    pixels = Image.fromarray(data.pixels(i))
    scale = TILE / max(pixels.size)
    width, height = (max(1, round(side * scale)) for side in pixels.size)
    shrunk = np.asarray(pixels.resize((width, height), Image.Resampling.BICUBIC)).copy()
    objects = data.instances(i)
    colour = palette(objects)
    for j in np.argsort(-objects.masks.sum(axis=(1, 2)), kind="stable"):
        mask = Image.fromarray(objects.masks[j] * 255).resize((width, height), Image.Resampling.BILINEAR)
        shrunk[outline(np.asarray(mask) > 127)] = _rgb(CROWD if objects.crowd[j] else colour[objects.labels[j]])
    canvas = Image.new("RGB", (TILE, TILE), "#EEEEEE")
    left, top = (TILE - width) // 2, (TILE - height) // 2
    canvas.paste(Image.fromarray(shrunk), (left, top))
    write_names(canvas, objects, data.names, colour, scale, (left, top))
    return canvas


def palette(objects: Instances) -> dict[int, str]:
    """Category index -> colour, by the order of the objects in an image."""
    present = dict.fromkeys(objects.labels[~objects.crowd].tolist())
    # Black outlines are hard to see in photos.
    usable = OKABE_ITO[:-1]
    return {c: usable[n % len(usable)] for n, c in enumerate(present)}


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
    """Write the name of every category once, at its largest object, without overlap if possible."""
    draw, font = ImageDraw.Draw(canvas), ImageFont.truetype(str(FONT), FONT_SIZE)
    taken: list[tuple[float, float, float, float]] = []
    areas = objects.masks.sum(axis=(1, 2))
    for label in colour:
        mine = [j for j in np.flatnonzero(objects.labels == label) if not objects.crowd[j]]
        box = objects.boxes[max(mine, key=lambda j: areas[j])] * scale + np.array([*shift, *shift])
        text = names[label] + (f" ×{len(mine)}" if len(mine) > 1 else "")
        width, height = draw.textlength(text, font=font) + 6, FONT_SIZE + 5
        x = min(max(box[0], 0), TILE - width)
        wanted = [box[1] - height, box[1], box[3] - height, box[3], *range(0, TILE - height, height // 2)]
        spots = [(x, min(max(y, 0), TILE - height)) for y in wanted]
        free = [(x, y) for x, y in spots if not any(_overlap((x, y, x + width, y + height), t) for t in taken)]
        x, y = (free or spots)[0]
        taken.append((x, y, x + width, y + height))
        draw.rectangle(taken[-1], fill=colour[label])
        dark = sum(_rgb(colour[label])) < 380
        draw.text((x + 3, y + 1), text, fill="white" if dark else "black", font=font)


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return red, green, blue
