"""Write scenes as a dataset in COCO's layout."""

import json
import multiprocessing
import os
import shutil
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from pycocotools import mask as mask_utils
from tqdm import tqdm

from mlssl.errors import ConfigError
from mlssl.scenes.categories import CATEGORIES, CATEGORY_IDS
from mlssl.scenes.render import render_scene

SPLITS = ("train2017", "val2017")
VAL_FIRST_ID = 1_000_000_001  # fixed, so that validation ids do not depend on the number of training images
SMALLEST = 32
"""Pixels: the shortest side of an image whose objects can be told from each other."""
LICENCE = {"id": 1, "name": "Procedurally drawn: no rights reserved", "url": ""}


def _write_image(
    job: tuple[int, int, int], root: Path, size: tuple[int, int], seed: int
) -> tuple[dict, list[dict]]:
    """Render image `index` of a split into `root`; returns its record, and its annotations without ids."""
    split, index, image_id = job
    scene = render_scene(size, np.random.default_rng([seed, split, index]))
    stem = f"{image_id:012d}"
    Image.fromarray(scene.pixels).save(root / SPLITS[split] / f"{stem}.jpg", quality=92, subsampling="4:2:0")
    ids = [CATEGORY_IDS[name] for name in scene.names]
    semantic = np.array([0, *ids], dtype=np.uint8)[scene.owner]
    Image.fromarray(semantic).save(root / "semantic" / SPLITS[split] / f"{stem}.png", compress_level=4)
    masks = scene.owner[..., None] == np.arange(1, len(ids) + 1, dtype=np.uint8)
    codes = mask_utils.encode(np.asfortranarray(masks.astype(np.uint8)))
    annotations = [
        {
            "image_id": image_id,
            "category_id": category_id,
            "segmentation": {"size": code["size"], "counts": code["counts"].decode("ascii")},
            "area": float(area),
            "bbox": bbox,
            "iscrowd": 0,
        }
        for category_id, code, area, bbox in zip(
            ids, codes, mask_utils.area(codes), mask_utils.toBbox(codes).tolist(), strict=True
        )
    ]
    image = {
        "id": image_id,
        "file_name": f"{stem}.jpg",
        "width": size[0],
        "height": size[1],
        "license": LICENCE["id"],
        "theme": scene.theme,
    }
    return image, annotations


def _write_index(path: Path, records: list[tuple[dict, list[dict]]], first_id: int, seed: int) -> int:
    """Write one split's instances file; returns the next free annotation id."""
    annotations = [annotation for _, found in records for annotation in found]
    for i, annotation in enumerate(annotations, start=first_id):
        annotation["id"] = i
    content = {
        "info": {"description": "Procedural scene images", "version": "1.0", "seed": seed},
        "licenses": [LICENCE],
        "images": [image for image, _ in records],
        "annotations": annotations,
        "categories": [
            {"id": CATEGORY_IDS[name], "name": name, "supercategory": category.supercategory}
            for name, category in CATEGORIES.items()
        ],
    }
    path.write_text(json.dumps(content, separators=(",", ":")))
    return first_id + len(annotations)


def write_scenes(
    out: Path, *, images: int, val_images: int, size: tuple[int, int], seed: int, workers: int | None = None
) -> None:
    """Write `images` training and `val_images` validation scenes of `size` (width, height) pixels.

    `out` gets COCO's layout: {train,val}2017/*.jpg, annotations/instances_{train,val}2017.json and, as 8-bit
    PNG with the category id of the visible object (0 = background), semantic/{train,val}2017/*.png. An image
    depends only on the seed, its split and its index in the split. `workers`: number of processes (default: all
    cores). Raises FileExistsError if `out` exists, and ConfigError for other arguments; removes partial output.
    """
    out = Path(out)
    if out.exists():
        raise FileExistsError(f"{out} exists already; remove it or choose another folder")
    if min(size) < SMALLEST:
        shortest = f"{SMALLEST} x {SMALLEST}"
        raise ConfigError(f"size: {size[0]} x {size[1]} pixels are too few for scenes; give at least {shortest}")
    for name, value, least in (("images", images, 1), ("val_images", val_images, 1), ("seed", seed, 0)):
        if value < least:
            raise ConfigError(f"{name}: {value} is less than {least}; give {least} or more")
    if workers is not None and workers < 1:
        raise ConfigError(f"workers: {workers} is less than 1; give 1 or more")
    workers = workers or os.cpu_count() or 1
    jobs = [(0, i, i + 1) for i in range(images)] + [(1, i, VAL_FIRST_ID + i) for i in range(val_images)]
    out.parent.mkdir(parents=True, exist_ok=True)
    root = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        root.chmod(0o755)
        for split in SPLITS:
            (root / split).mkdir()
            (root / "semantic" / split).mkdir(parents=True)
        (root / "annotations").mkdir()
        draw = partial(_write_image, root=root, size=size, seed=seed)
        with tqdm(total=len(jobs), unit="img", desc="scenes") as progress:
            records = []
            if workers == 1:
                for job in jobs:
                    records.append(draw(job))
                    progress.update()
            else:
                with multiprocessing.Pool(workers) as pool:
                    for record in pool.imap(draw, jobs, chunksize=16):
                        records.append(record)
                        progress.update()
        next_id = 1
        for split, part in zip(SPLITS, (records[:images], records[images:]), strict=True):
            next_id = _write_index(root / "annotations" / f"instances_{split}.json", part, next_id, seed)
        os.replace(root, out)
    except BaseException:
        shutil.rmtree(root, ignore_errors=True)
        raise
