"""The seven classification datasets of MLS's transfer table: one label per image, as a full-image box."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from mlssl.data.layout import Found, Picture, find
from mlssl.errors import DataError

TORCHVISION = {
    "Flowers102": {"flowers-102/jpg": "jpg", "flowers-102/setid.mat": "setid.mat",
                   "flowers-102/imagelabels.mat": "imagelabels.mat"},
    "StanfordCars": {"stanford_cars/devkit": "devkit", "stanford_cars/cars_train": "cars_train",
                     "stanford_cars/cars_test": "cars_test",
                     "stanford_cars/cars_test_annos_withlabels.mat": "cars_test_annos_withlabels.mat"},
    "FGVCAircraft": {"fgvc-aircraft-2013b/data": "fgvc-aircraft-2013b/data"},
    "DTD": {"dtd/dtd/labels": "dtd/labels", "dtd/dtd/images": "dtd/images"},
}  # fmt: skip
"""torchvision class -> path below its root folder -> path in the archives."""


def gathered(
    labelled: Iterable[tuple[Path, int]], names: Sequence[tuple[str, str | int]], *, nested: bool = False
) -> Found:
    """A split from images and indices into `names`, from 0; `nested`: file names include the folder."""
    pictures, left_out = [], []
    for path, place in labelled:
        name = f"{path.parent.name}--{path.name}" if nested else path.name
        if path.exists():
            pictures.append(Picture(path, name, None, category=place + 1))
        else:
            left_out.append(f"{path}: is listed but does not exist")
    return Found(list(names), pictures, left_out, exclusive=True)


def read_torchvision(roots: Sequence[Path], split: str, *, dataset: str, parts: Sequence[str] = ()) -> Found:
    """A split as torchvision.datasets.<dataset> reads it; `parts`: torchvision's splits to join."""
    import torchvision

    kind = getattr(torchvision.datasets, dataset)
    with tempfile.TemporaryDirectory() as folder:
        for wanted, relative in TORCHVISION[dataset].items():
            there = find(roots, relative)
            (Path(folder) / wanted).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / wanted).symlink_to(there.resolve())
        try:
            read = [kind(folder, part, loader=str) for part in parts or (split,)]
        except (ImportError, RuntimeError) as error:
            remedy = "pip install scipy" if "scipy" in str(error).lower() else "check the files or fetch them again"
            raise DataError(f"{dataset}: torchvision cannot read it ({error}); {remedy}") from None
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{dataset}: annotation file missing or damaged ({error}); fetch it again") from None
        labelled = [(Path(path).resolve(), label) for each in read for path, label in each]
    names = read[0].classes
    if any(each.classes != names for each in read):
        raise DataError(f"{dataset}: {' and '.join(parts)} list different classes; fetch the annotations again")
    return gathered(labelled, [(name, name) for name in names], nested=dataset == "DTD")


def lines(path: Path, fields: int) -> list[list[str]]:
    """Lines of a text file split at spaces, without empty lines and comments; DataError for a wrong field count."""
    rows = [line.split() for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    for row in rows:
        if len(row) != fields:
            raise DataError(f"{path}: '{' '.join(row)}' has {len(row)} fields, not {fields}; fetch it again")
    return rows


def read_cub(roots: Sequence[Path], split: str) -> Found:
    """CUB-200-2011: `images.txt`, `image_class_labels.txt`, `train_test_split.txt` (1: train) and `classes.txt`."""
    base = find(roots, "train_test_split.txt").parent
    paths, labels = (dict(lines(base / f"{name}.txt", 2)) for name in ("images", "image_class_labels"))
    train = dict(lines(base / "train_test_split.txt", 2))
    classes = lines(base / "classes.txt", 2)
    place = {number: i for i, (number, _) in enumerate(classes)}
    wanted = "1" if split == "train" else "0"
    try:
        labelled = [(base / "images" / paths[i], place[labels[i]]) for i in paths if train[i] == wanted]
    except KeyError as error:
        raise DataError(f"{base}: {error} of images.txt has no label or no split; unpack it again") from None
    return gathered(
        labelled, [(name.split(".", 1)[-1].replace("_", " "), name) for _, name in classes], nested=True
    )


def read_indoor67(roots: Sequence[Path], split: str) -> Found:
    """MIT Indoor67: `TrainImages.txt` and `TestImages.txt` list `<class>/<image>` of the folder `Images`."""
    base, listed = find(roots, "Images"), {}
    for part in ("Train", "Test"):
        rows = find(roots, f"{part}Images.txt").read_text().splitlines()
        listed[part.lower()] = [row.strip() for row in rows if row.strip()]
    names = sorted({row.split("/")[0] for rows in listed.values() for row in rows})
    labelled = [(base / row, names.index(row.split("/")[0])) for row in listed[split]]
    return gathered(labelled, [(name.replace("_", " "), name) for name in names], nested=True)


def read_pets(roots: Sequence[Path], split: str) -> Found:
    """Oxford-IIIT Pets: `annotations/<split>.txt` holds image, class from 1, species and breed.

    torchvision's class opens the image and does not return its path.
    """
    images, names, labelled = find(roots, "images"), {}, []
    listing = find(roots, f"annotations/{split}.txt")
    for stem, label, _, _ in lines(listing, 4):
        names[int(label)] = stem.rsplit("_", 1)[0]
        labelled.append((images / f"{stem}.jpg", int(label)))
    places = {label: place for place, label in enumerate(sorted(names))}
    categories = [(names[label].replace("_", " "), label) for label in sorted(names)]
    return gathered([(path, places[label]) for path, label in labelled], categories)
