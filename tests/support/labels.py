"""Label files and pictures for tests of the import."""

import json

import numpy as np
from PIL import Image

PHOTOS = ["shop/a.jpg", "shop/b.png", "line/c.jpg"]
ROW = "0 0.5 0.5 0.2 0.4"
"""A box of class 0 in YOLO's format."""


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def voc(name="cup", said=None, size=("100", "50"), box=(11, 11, 20, 20), extra=""):
    edges = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    tag = "" if said is None else f"<filename>{said}</filename>"
    sides = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
    return (
        f"<annotation>{tag}{sides}<object><name>{name}</name>{extra}<bndbox>{edges}</bndbox></object></annotation>"
    )


def coco(file_name, category="cup", id_=1):
    return json.dumps(
        {
            "images": [{"id": 1, "file_name": file_name, "width": 100, "height": 50}],
            "annotations": [{"id": 1, "image_id": 1, "category_id": id_, "bbox": [1, 2, 3, 4]}],
            "categories": [{"id": id_, "name": category}],
        }
    )


def found(labels):
    """Photo -> names of its labels."""
    return {
        photo: [labels.categories[o.category][0] for o in given.objects] for photo, given in labels.photos.items()
    }


def picture(seed, width=64, height=48):
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
