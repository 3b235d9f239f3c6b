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

from mlssl.errors import DataError
from mlssl.files import write_json, write_text
from mlssl.photos.duplicates import near_duplicates
from mlssl.photos.labels import Labels, placed
from mlssl.photos.report import reasons, table
from mlssl.photos.work import Photo
from mlssl.seeds import seed_of

SPLITS = ("train", "val")


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
) -> dict[str, Any]:
    """Turn `part`, with all photos in `images`, into a dataset, and return the content of `import.json`.

    `masks`: images that were left out, and of each the photo whose mask it is. `named`: people are hidden in the
    photos that a file names; the others are reported as not altered. Raises DataError if no photo is left, or none
    for a split.
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
    in_val = np.zeros(len(used), dtype=bool)
    if labels is not None:
        if not labelled.any():
            raise DataError(
                f"{header['photos']}: no labelled photo is usable; repair the photos, or import without labels"
            )
        if settings["val_share"]:
            in_val = choose_val(group, labelled, settings["val_share"], settings["seed"])
    for split, mine in zip(SPLITS, (~in_val, in_val), strict=True):
        if mine.any():
            (part / split).mkdir(exist_ok=True)
            for i in np.flatnonzero(mine):
                os.replace(part / "images" / photos[i].file, part / split / photos[i].file)
    categories, without_area = [], 0
    if labels is not None:
        counts: dict[str, dict[int, int]] = {}
        for split, mine in zip(SPLITS, (~in_val, in_val), strict=True):
            chosen = np.flatnonzero(mine & labelled)
            counts[split] = {}
            if len(chosen):
                written = write_annotations(part, split, [(photos[i], used[i]) for i in chosen], labels)
                counts[split], objects = written
                without_area += objects
        categories = [
            {"id": i, "name": name, "original": original, **{s: counts[s].get(i, 0) for s in SPLITS}}
            for i, (name, original) in enumerate(labels.categories, start=1)
        ]
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
        "labels": None
        if labels is None
        else {
            "format": labels.format,
            "boxes": "the whole image" if labels.format == "CSV" else "as given",
            "train": int((labelled & ~in_val).sum()),
            "val": int((labelled & in_val).sum()),
            "held_back": int((~labelled & in_val).sum()),
            "without_area": without_area,
            "missing": len(labels.missing),
            "missing_first": labels.missing[:20],
        },
        "categories": categories,
        "files": {f"{SPLITS[v]}/{p.file}": p.name for p, v in zip(photos, in_val.tolist(), strict=True)},
    }
    shutil.rmtree(part / "images")
    write_json(part / "import.json", record)
    (part / "journal.jsonl").unlink()
    return record


def choose_val(group: np.ndarray, labelled: np.ndarray, share: float, seed: int) -> np.ndarray:
    """bool N: which images go to val. Entire groups are drawn until val has `share` of the labelled images.

    Images without labels stay with their group, so train has no near-duplicate of an image in val.
    Raises DataError if groups are too large for two splits.
    """
    wanted = max(1, round(share * labelled.sum()))
    firsts, counts = np.unique(group[labelled], return_counts=True)
    order = np.random.default_rng(seed_of(seed, "import", "val")).permutation(len(firsts))
    chosen: list[int] = []
    taken = 0
    for i in order:
        if taken + counts[i] <= wanted and len(chosen) + 1 < len(firsts):
            chosen.append(firsts[i])
            taken += counts[i]
    if not chosen and len(firsts) > 1:  # Every group exceeds the share.
        chosen = [firsts[np.argmin(counts)]]
    if not chosen:
        raise DataError(
            f"val_share: {share:g} of {labelled.sum():,} labelled photos leaves a split empty, as near-duplicates "
            "stay together; label other photos too, or lower near, or set val_share to 0"
        )
    return np.isin(group, chosen)


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
    categories = [{"id": i, "name": name} for i, (name, _) in enumerate(labels.categories, start=1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    write_text(part / "annotations" / f"instances_{split}.json", json.dumps(content, allow_nan=False))
    given = sum(len(photo.labels.objects) for photo, _ in photos if photo.labels)
    return Counter(a["category_id"] for a in annotations), given - len(annotations)


def spread(values: Sequence[int]) -> dict[str, float]:
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}
