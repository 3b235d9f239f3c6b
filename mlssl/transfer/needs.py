"""What each evaluator needs of a data set, checked before anything is trained. Imports no torch.

Each function takes the training and the validation split and says in one sentence why the data cannot be evaluated;
it gives None if they can.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mlssl.data.coco import MAX_CATEGORIES, Split, read_split, read_splits
from mlssl.data.images import find_images
from mlssl.data.semantic import check
from mlssl.errors import DataError
from mlssl.study.settings import Data, Dense, Segmentation, Transfer

QUICK = 32_000_000
"""Bytes of annotation files that are read in about 3 s of CPU time."""
FEWEST = 4
"""Fewest training images: a fit and a selection set of at least two images each."""


def labels(train: Split, val: Split) -> str | None:
    """For classification of whole images.

    Raises DataError if the categories are exclusive and an image has none or several of them.
    """
    for split in (train, val) if train.exclusive and val.exclusive else ():
        check_exclusive(split)
    shown, learned = val.labels(), train.labels()
    scorable = shown.any(axis=0) & ~shown.all(axis=0)
    if not scorable.any():
        return (
            f"{val.annotation_file}: no category is on some of its {len(val)} images and not on others, so none "
            "can be scored; label more images, or other categories"
        )
    if not (scorable & learned.any(axis=0) & ~learned.all(axis=0)).any():
        return (
            f"{train.annotation_file}: no category that can be scored on {val.annotation_file.name} is on some of "
            f"its {len(train)} images and not on others, so none can be learned; label more images"
        )
    return too_few(train)


def check_exclusive(split: Split) -> None:
    """Raise DataError, with the image, unless each image of the split has exactly one category."""
    labels = split.labels()
    counts = labels.sum(axis=1)
    if (counts != 1).any():
        i = int((counts != 1).argmax())
        has = ", ".join(f"'{split.names[j]}'" for j in labels[i].nonzero()[0]) or "none"
        raise DataError(
            f"{split.annotation_file}: image '{split.images[i]['file_name']}' has the categories {has}, but key "
            "'exclusive' of the categories says one per image; correct the labels or remove the key"
        )


def masks(train: Split, val: Split) -> str | None:
    """For semantic segmentation. Semantic masks are read first, instances otherwise.

    Reads every semantic mask; raises DataError, as `mlssl.data.semantic.check` does, if one is invalid, and if only
    one of the splits has them.
    """
    if train.semantic and val.semantic:
        check(train.semantic, val.semantic)
        ignored = train.semantic.first_without_class()
        if ignored and len(train) - len(ignored) < FEWEST:
            share = f"{len(ignored):,} of {len(train):,} masks for training"
            return f"{ignored[0]}: every pixel is ignored, as in {share}; give at least {FEWEST} with a class"
        return too_few(train)
    if train.semantic or val.semantic:
        has, lacks = (train, val) if train.semantic else (val, train)
        raise DataError(
            f"{has.annotation_file.parents[1]}/semantic: has masks of {has.folder.name} and none of "
            f"{lacks.folder.name}; add these, or remove the folder to use instances"
        )
    if len(val.categories) > MAX_CATEGORIES:
        return (
            f"{val.annotation_file}: key 'categories' has {len(val.categories)}, a semantic mask can have "
            f"{MAX_CATEGORIES}; merge categories"
        )
    return unmasked(train) or unmasked(val) or too_few(train)


def unscored(config: Transfer, val: Split) -> str | None:
    """Why the validation images that a transfer evaluates cannot be scored: semantic masks without a class."""
    if not isinstance(config, Dense | Segmentation) or val.semantic is None:
        return None
    count = min(config.eval_images or len(val), len(val))
    ignored = val.semantic.first_without_class(count)
    if len(ignored) < count:
        return None
    return (
        f"{ignored[0]}: every pixel is ignored, as in all of the first {count} masks for validation; evaluate more "
        "(key 'eval_images')"
    )


def unmasked(split: Split) -> str | None:
    """Why the objects of a split have no masks: crowds aside, every object with a box needs its own."""
    found = list(objects(split))
    if not found:
        return f"{split.annotation_file}: no image has an object; annotate masks"
    without = [a for a in found if not a["has_mask"]]
    if len(without) == len(found):
        return f"{split.annotation_file}: no object has a mask (key 'segmentation'); annotate masks"
    if without:
        return (
            f"{split.annotation_file}: annotation {without[0]['id']} has no mask (key 'segmentation'), nor have "
            f"{len(without) - 1:,} others of {len(found):,}; annotate their masks, or set their 'iscrowd' to 1"
        )
    return None


def boxes(train: Split, val: Split) -> str | None:
    """For object detection."""
    for split in (train, val):
        if not any(objects(split)):
            return f"{split.annotation_file}: no image has an object; annotate boxes"
    return None


def parts(train: Split, val: Split) -> str | None:
    """For classification of annotated boxes."""
    return too_few(train) or categories_of_parts(train) or categories_of_parts(val)


def validation_parts(train: Split, val: Split) -> str | None:
    """For retrieval of annotated boxes; training images are not used."""
    return categories_of_parts(val)


def categories_of_parts(split: Split) -> str | None:
    """Why the boxes of a split cannot be classified."""
    sizes = {image["id"]: (image["width"], image["height"]) for image in split.images}
    found = list(objects(split))
    if not any(tuple(a["bbox"][2:]) != sizes[a["image_id"]] for a in found):
        return f"{split.annotation_file}: no box of an object is smaller than its image; annotate boxes"
    if len({a["category_id"] for a in found}) < 2:
        return f"{split.annotation_file}: all boxes have one category; give at least two"
    return None


def pseudo_labels(train: Split) -> str | None:
    """For the quality of pseudo-labels, which relate training images to each other."""
    if not any(objects(train)):
        return f"{train.annotation_file}: no image has an object; annotate training images"
    return unrecorded(train)


def unrecorded(train: Split) -> str | None:
    """Why the categories of a training image, of which each in the split's folder is one, are not known."""
    known = {image["file_name"] for image in train.images}
    names = [path.relative_to(train.folder).as_posix() for path in find_images(train.folder)]
    without = [name for name in names if name not in known]
    if without:
        return (
            f"{train.annotation_file}: no image has file_name '{without[0]}', which is in {train.folder} "
            f"({len(without):,} of {len(names):,} have no record); annotate all training images"
        )
    return None


def too_few(train: Split) -> str | None:
    """Why hyper-parameters cannot be selected on the training images."""
    if len(train) < FEWEST:
        return (
            f"{train.annotation_file}: {len(train)} training images are too few to select on; "
            f"give at least {FEWEST}"
        )
    return None


def objects(split: Split) -> Iterator[dict[str, Any]]:
    """The annotations that are not crowds and have a box with an area inside their image, in the images' order."""
    for image in split.images:
        for a in split.annotations[image["id"]]:
            if a["has_box"] and not a["iscrowd"]:
                yield a


MISSING: dict[str, Callable[[Split, Split], str | None]] = {
    "linear": labels,
    "knn": labels,
    "dense": masks,
    "regions": parts,
    "correspondence": validation_parts,
    "svm": labels,
    "classification": labels,
    "detection": boxes,
    "segmentation": masks,
}
"""Transfer -> what it needs of its data; `pseudo_labels` needs training images alone."""


def quick_report(transfers: Mapping[str, Transfer]) -> list[str]:
    """The lines of `report` on what is left out; one line with the command instead if that would take long.

    It takes long with large annotation files, and with semantic masks, of which `report` reads each.
    """
    splits = {(c.data.root, split) for c in transfers.values() for split in (c.data.train, c.data.val)}
    files = [Path(root) / "annotations" / f"instances_{split}.json" for root, split in splits]
    painted = [c.data for stage, c in transfers.items() if MISSING.get(stage) is masks]
    semantic = any((Path(data.root) / "semantic" / data.train).is_dir() for data in painted)
    if semantic or sum(file.stat().st_size for file in files if file.exists()) > QUICK:
        return ["data: `mlssl check --study FILE` says which transfers they lack labels for"]
    return [line for line in report(transfers, {}) if "left out" in line]


def report(transfers: Mapping[str, Transfer], read: dict[Data, tuple[Split, Split]]) -> Iterator[str]:
    """One line per transfer: that its data have what it needs, or why it is left out, or its scores of masks are.

    The splits of a data set are taken from `read`, or put there. Raises DataError for data that are invalid.
    """
    for stage, config in transfers.items():
        data = config.data
        if stage == "pseudo_labels":
            path = Path(data.root) / "annotations" / f"instances_{data.train}.json"
            why = pseudo_labels(read_split(data.root, data.train)) if path.exists() else f"{path}: no such file"
        else:
            if data not in read:
                read[data] = read_splits(data)
            why = MISSING[stage](*read[data]) or unscored(config, read[data][1])
        if why:
            yield f"{stage}: left out: {why}"
        elif stage == "detection" and (why := unmasked(read[data][0]) or unmasked(read[data][1])):
            yield f"{stage}: scores of masks are left out: {why}"
        else:
            yield f"{stage}: the data have what it needs"
