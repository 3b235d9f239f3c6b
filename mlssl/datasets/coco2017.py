"""COCO 2017 in its official layout (arXiv 1405.0312): category ids with gaps become 1 to 80."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mlssl.data.formats.coco import Record, read_coco
from mlssl.data.layout import Found, Picture, find


def read(roots: Sequence[Path], split: str) -> Found:
    """The images of `instances_<split>.json`, with their ids; annotation ids are not kept."""
    images, categories, annotations = read_coco(find(roots, f"annotations/instances_{split}.json"))
    objects: dict[int, list[Record]] = {image["id"]: [] for image in images}
    new = {category["id"]: i for i, category in enumerate(categories, start=1)}
    for a in annotations:
        kept = {k: v for k, v in a.items() if k not in ("id", "image_id")}
        objects[a["image_id"]].append(kept | {"category_id": new[a["category_id"]]})
    folder = find(roots, split)
    existing = {path.name for path in folder.iterdir()}
    pictures, left_out = [], []
    for image in images:
        name = image["file_name"]
        if name not in existing:
            left_out.append(f"{folder}/{name}: is listed but does not exist")
            continue
        pictures.append(Picture(folder / name, name, objects[image["id"]], id=image["id"]))
    return Found([(c["name"], c["id"]) for c in categories], pictures, left_out)
