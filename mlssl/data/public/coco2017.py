"""COCO 2017 as it is distributed (arXiv 1405.0312): category ids with gaps become 1 to 80."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mlssl.data.coco import read_split
from mlssl.data.public.layout import Found, Picture, find


def read(roots: Sequence[Path], split: str) -> Found:
    """The images of `instances_<split>.json`, with their ids; annotation ids are not kept."""
    official = read_split(find(roots, f"annotations/instances_{split}.json").parent.parent, split)
    folder = find(roots, split)
    there = {path.name for path in folder.iterdir()}
    new = {category["id"]: i for i, category in enumerate(official.categories, start=1)}
    pictures, left_out = [], []
    for image in official.images:
        name = image["file_name"]
        if name not in there:
            left_out.append(f"{folder}/{name}: is listed and not there")
            continue
        objects = [
            {k: v for k, v in a.items() if k not in ("id", "image_id")} | {"category_id": new[a["category_id"]]}
            for a in official.annotations[image["id"]]
        ]
        pictures.append(Picture(folder / name, name, objects, id=image["id"]))
    return Found([(c["name"], c["id"]) for c in official.categories], pictures, left_out)
