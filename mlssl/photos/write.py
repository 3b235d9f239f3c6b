"""Sort the finished photos into splits; write annotations and report tables."""

from __future__ import annotations

import json
import os
import shutil
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mlssl.data.semantic import CLASSES_FILE, SemanticClasses, class_presence, indices, read_mask
from mlssl.errors import DataError
from mlssl.files import write_json, write_text
from mlssl.photos.duplicates import near_duplicates
from mlssl.photos.labels import Labels, placed
from mlssl.photos.report import reasons, table
from mlssl.photos.splits import Division, divide
from mlssl.photos.work import Photo

SPLITS = ("train", "val")
WHOLE = ("CSV", "class folders")
"""Formats of labels without boxes; each label is a box of the whole image."""


def write_dataset(
    part: Path,
    jobs: Sequence[Photo],
    results: Sequence[Mapping[str, Any]],
    header: Mapping[str, Any],
    labels: Labels | None,
    denied: Mapping[str, str],
    masks: Mapping[str, str],
    *,
    named: bool,
    presence: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Turn `part`, with all photos in `images`, into a dataset, and return the content of `import.json`.

    `masks`: images that were left out, and of each the photo whose mask it is. `named`: people are hidden in the
    photos that a file names; the others are reported as not altered. `presence`: photo -> bool C, the classes in
    its semantic mask, if the labels are masks. Raises DataError if no photo is left, or none for a split.
    """
    by_number = {job.number: job for job in jobs}
    used = [result for result in results if "skipped" not in result]
    if not used:
        raise DataError(
            f"{header['photos']}: no photo is left to import, {len(jobs):,} cannot be used; repair or replace them"
        )
    settings = header["settings"]
    photos = [by_number[result["number"]] for result in used]
    labelled = np.array([photo.labels is not None for photo in photos])
    hashes = np.array([result["hash"] for result in used], dtype=np.uint64)
    group, like, distance = near_duplicates(hashes, settings["near"])
    division = Division(np.zeros(len(used), dtype=bool), labelled, "none")
    if labels is not None:
        if not labelled.any():
            raise DataError(
                f"{header['photos']}: no labelled photo is usable; repair the photos, or import without labels"
            )
        names = [photo.name for photo in photos]
        division = divide(names, labels, group, settings["val_share"], settings["seed"], presence)
    move(part, photos, division.in_val)
    categories, without_area = ([], 0) if labels is None else annotate(part, photos, used, division, labels)

    skipped = [(by_number[r["number"]].name, r["skipped"]) for r in results if "skipped" in r]
    twins = np.flatnonzero(like >= 0)
    altered = [
        (photo.name, f"{settings['anonymise']}: {result['hidden']} regions")
        for photo, result in zip(photos, used, strict=True)
        if result["hidden"]
    ]
    unnamed = [photo.name for photo in photos if named and photo.people is None]
    altered += [(name, "nothing hidden: the file of people does not name it") for name in unnamed]
    altered += list(denied.items())
    copies = [(photos[i].name, photos[like[i]].name, int(distance[i])) for i in twins]
    left_out = [(name, f"is a mask of '{photo}', no photo") for name, photo in masks.items()]
    write_text(part / "skipped.tsv", table(("file", "reason"), skipped + left_out))
    write_text(part / "duplicates.tsv", table(("file", "like", "distance"), copies))
    write_text(part / "altered.tsv", table(("file", "what"), sorted(altered)))
    in_val = division.in_val
    record = {
        **header,
        "used": len(used),
        "train": int((~in_val).sum()),
        "val": int(in_val.sum()),
        "denied": len(denied),
        "skipped": len(skipped),
        "skipped_by_reason": reasons(reason for _, reason in skipped),
        "masks": len(masks),
        "nearly_black": [photo.name for photo, result in zip(photos, used, strict=True) if result.get("dark")],
        "sizes": {side: spread([result[side] for result in used]) for side in ("width", "height")},
        "duplicates": {"photos": len(twins), "groups": len(np.unique(group[twins]))},
        "altered": {
            "metadata": "removed from all",
            "photos": sum(bool(result["hidden"]) for result in used),
            "regions": sum(result["hidden"] for result in used),
            "not_named": len(unnamed),
        },
        "labels": None if labels is None else about_labels(photos, division, labels, without_area, presence or {}),
        "categories": categories,
        "files": {f"{SPLITS[v]}/{p.file}": p.name for p, v in zip(photos, in_val.tolist(), strict=True)},
    }
    shutil.rmtree(part / "images")
    write_json(part / "import.json", record)
    (part / "journal.jsonl").unlink()
    return record


def move(part: Path, photos: Sequence[Photo], in_val: np.ndarray) -> None:
    """Move the photos from `images` to the folders of their splits."""
    for split, mine in zip(SPLITS, (~in_val, in_val), strict=True):
        if mine.any():
            (part / split).mkdir(exist_ok=True)
            for i in np.flatnonzero(mine).tolist():
                os.replace(part / "images" / photos[i].file, part / split / photos[i].file)


def annotate(
    part: Path, photos: Sequence[Photo], used: Sequence[Mapping[str, Any]], division: Division, labels: Labels
) -> tuple[list[dict[str, Any]], int]:
    """Write the labels of both splits.

    Returns the categories with their number of objects (or masks) in each split, and the number of objects without
    area, which are left out.
    """
    counts: dict[str, dict[int, int]] = {}
    without_area = 0
    for split, mine in zip(SPLITS, (~division.in_val, division.in_val), strict=True):
        chosen = np.flatnonzero(mine & division.labelled).tolist()
        counts[split] = {}
        if chosen:
            counts[split], left_out = write_annotations(part, split, [(photos[i], used[i]) for i in chosen], labels)
            without_area += left_out
        if labels.classes:
            counts[split] = write_masks(part, split, [photos[i] for i in chosen], labels.classes)
    categories = [
        {"id": i, "name": name, "original": original, **{split: counts[split].get(i, 0) for split in SPLITS}}
        for i, (name, original) in enumerate(labels.categories, start=1)
    ]
    return categories, without_area


def about_labels(
    photos: Sequence[Photo],
    division: Division,
    labels: Labels,
    without_area: int,
    presence: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    """What `import.json` says of the labels."""
    in_val, labelled = division.in_val, division.labelled
    return {
        "format": labels.format,
        "boxes": "the whole image" if labels.format in WHOLE else "as given",
        "train": int((labelled & ~in_val).sum()),
        "val": int((labelled & in_val).sum()),
        "held_back": int((~labelled & in_val).sum()),
        "split": division.how,
        "across": division.across,
        "unlisted": sum(photo.labels is not None for photo in photos) - int(labelled.sum()),
        "without_area": without_area,
        "without_class": [p.name for p in photos if p.name in presence and not presence[p.name].any()],
        "missing": len(labels.missing),
        "missing_first": labels.missing[:20],
    }


def write_annotations(
    part: Path, split: str, photos: Sequence[tuple[Photo, Mapping[str, Any]]], labels: Labels
) -> tuple[dict[int, int], int]:
    """Write `annotations/instances_<split>.json`.

    Returns the number of objects per category id, and the number of objects without area, which are left out.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for photo, made in photos:
        width, height = made["width"], made["height"]
        images.append({"id": photo.number, "file_name": photo.file, "height": height, "width": width})
        for values in placed(photo.labels, width, height) if photo.labels else []:
            annotations.append({"id": len(annotations) + 1, "image_id": photo.number, **values})
    more = {"exclusive": True} if labels.exclusive else {}
    categories = [{"id": i, "name": name, **more} for i, (name, _) in enumerate(labels.categories, start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_text(part / "annotations" / f"instances_{split}.json", json.dumps(content, allow_nan=False))
    given = sum(len(photo.labels.objects) for photo, _ in photos if photo.labels)
    return Counter(a["category_id"] for a in annotations), given - len(annotations)


def write_masks(part: Path, split: str, photos: Sequence[Photo], classes: SemanticClasses) -> dict[int, int]:
    """Write `semantic/<split>` as class indices, and `semantic/classes.txt`; returns masks per category id."""
    folder = part / "semantic" / split
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_text(folder.parent / CLASSES_FILE, "".join(f"{i} {name}\n" for i, name in enumerate(classes.names)))
    counts: Counter[int] = Counter()
    for photo in photos:
        assert photo.labels is not None
        assert photo.labels.mask is not None
        mask = indices(read_mask(photo.labels.mask), classes, photo.labels.mask)
        Image.fromarray(mask).save((folder / photo.file).with_suffix(".png"))
        counts.update((np.flatnonzero(class_presence(mask, classes)) + 1).tolist())
    return counts


def spread(values: Sequence[int]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}
