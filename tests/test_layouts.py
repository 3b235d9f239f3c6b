"""Random small data sets, written in every layout, are read back equal: by import, and by their own reader."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mlssl.data.coco import read_split
from mlssl.photos import import_photos
from mlssl.photos.labels import placed, read_labels

WIDTH, HEIGHT = 40, 32
WORDS = st.text("abcdefxyz éßñ01-_", min_size=1, max_size=6).filter(lambda word: word.strip() == word)


@st.composite
def boxes(draw):
    """x, y, width, height: integers inside the image, with an area."""
    x, y = draw(st.integers(0, WIDTH - 2)), draw(st.integers(0, HEIGHT - 2))
    return x, y, draw(st.integers(1, WIDTH - x)), draw(st.integers(1, HEIGHT - y))


@st.composite
def data_sets(draw):
    """Names of categories, and per photo (its path) a list of (category, box)."""
    names = draw(st.lists(WORDS, min_size=1, max_size=4, unique_by=str.casefold))
    stems = draw(st.lists(WORDS, min_size=1, max_size=4, unique_by=str.casefold))
    folders = draw(st.lists(st.sampled_from(["", "one/", "two/deep/"]), min_size=len(stems), max_size=len(stems)))
    objects = st.lists(st.tuples(st.integers(0, len(names) - 1), boxes()), max_size=3)
    photos = {f"{folder}{stem}.png": draw(objects) for folder, stem in zip(folders, stems, strict=True)}
    if not any(photos.values()):
        photos[next(iter(photos))] = [(0, draw(boxes()))]
    return sorted(names), photos


def corners(box):
    """The corners as a polygon that starts at the lower right, so that no reader can take it for a box."""
    x, y, w, h = box
    return [x + w, y + h, x, y + h, x, y, x + w, y]


def write_coco(root, names, photos, *, masks=True):
    ids = [3 * i + 2 for i in range(len(names))]
    images = [{"id": 7 * i, "file_name": name, "width": WIDTH, "height": HEIGHT} for i, name in enumerate(photos)]
    rows = [(image["id"], c, box) for image in images for c, box in photos[image["file_name"]]]
    annotations = [
        {"id": i + 1, "image_id": image, "category_id": ids[c], "bbox": list(box), "area": box[2] * box[3]}
        | {"iscrowd": 0, "segmentation": [corners(box)] if masks else []}
        for i, (image, c, box) in enumerate(rows)
    ]
    categories = [{"id": id_, "name": name} for id_, name in zip(ids, names, strict=True)]
    path = root / "labels.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return path


def write_voc(root, names, photos):
    for name, objects in photos.items():
        body = "".join(
            f"<object><name>{names[c]}</name><bndbox><xmin>{x + 1}</xmin><ymin>{y + 1}</ymin><xmax>{x + w}</xmax>"
            f"<ymax>{y + h}</ymax></bndbox></object>"
            for c, (x, y, w, h) in objects
        )
        path = (root / "Annotations" / name).with_suffix(".xml")
        path.parent.mkdir(parents=True, exist_ok=True)
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}.0</height></size>"
        path.write_text(f"<annotation><filename>{name}</filename>{size}{body}</annotation>")
    return root / "Annotations"


def write_yolo(root, names, photos, *, polygons):
    (root / "labels").mkdir()
    (root / "any.yaml").write_text(json.dumps({"names": {2 * i: name for i, name in enumerate(names)}}))
    for name, objects in photos.items():
        rows = []
        for c, box in objects:
            x, y, w, h = box
            values = corners(box) if polygons else [x + w / 2, y + h / 2, w, h]
            rows.append([2 * c, *(v / (HEIGHT if i % 2 else WIDTH) for i, v in enumerate(values))])
        path = (root / "labels" / name).with_suffix(".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(" ".join(map(repr, row)) + "\n" for row in rows))
    return root / "labels"


def write_csv(root, names, photos):
    rows = [f"{name},{';'.join(names[c] for c, _ in objects)}\n" for name, objects in photos.items()]
    (root / "labels.csv").write_text("path,labels\n" + "".join(rows))
    return root / "labels.csv"


LAYOUTS = {
    "COCO": write_coco,
    "VOC": write_voc,
    "YOLO boxes": lambda *args: write_yolo(*args, polygons=False),
    "YOLO polygons": lambda *args: write_yolo(*args, polygons=True),
    "CSV": write_csv,
}


def expected(layout, names, photos):
    """Per photo a sorted list of (category, box, polygons), as the layout can say it."""
    whole, made = (0, 0, WIDTH, HEIGHT), {}
    for name, objects in photos.items():
        if layout == "CSV":
            made[name] = sorted((category, whole, ()) for category in {names[c] for c, _ in objects})
        else:
            masks = layout in ("COCO", "YOLO polygons")
            made[name] = sorted((names[c], box, (tuple(corners(box)),) if masks else ()) for c, box in objects)
    return made


def rounded(category, a):
    """An annotation to compare; fractions of a side come back with errors of rounding."""
    box = tuple(np.round(a["bbox"], 6))
    return category, box, tuple(tuple(np.round(polygon, 6)) for polygon in a["segmentation"])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@pytest.mark.parametrize("layout", LAYOUTS)
@given(data=data_sets())
def test_a_data_set_is_read_back_equal(tmp_path_factory, layout, data):
    names, photos = data
    root = tmp_path_factory.mktemp("set")
    rng = np.random.default_rng(0)
    for name in photos:
        (root / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)).save(root / "photos" / name)
    path = LAYOUTS[layout](root, names, photos)
    labels = read_labels(path, photos)
    assert not labels.missing
    native = {
        name: sorted(rounded(labels.categories[a["category_id"] - 1][0], a) for a in placed(given_, WIDTH, HEIGHT))
        for name, given_ in labels.photos.items()
    }
    assert native == expected(layout, names, photos)
    out = import_photos(root / "photos", root / "out", labels=path, val_share=0, workers=1)
    split, files = read_split(out, "train"), json.loads((out / "import.json").read_text())["files"]
    imported = {
        files[f"train/{image['file_name']}"]: sorted(
            rounded(
                split.names[a["category_id"] - 1], a | {"segmentation": a["segmentation"] if a["has_mask"] else ()}
            )
            for a in split.annotations[image["id"]]
        )
        for image in split.images
    }
    assert imported == expected(layout, names, photos)


@settings(max_examples=25, deadline=None)
@given(data=data_sets())
def test_a_root_in_cocos_layout_is_read_back_equal(tmp_path_factory, data):
    names, photos = data
    root = tmp_path_factory.mktemp("root")
    for name in photos:
        (root / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "train" / name).touch()
    (root / "annotations").mkdir()
    write_coco(root, names, photos).rename(root / "annotations" / "instances_train.json")
    split = read_split(root, "train")
    index = {category["id"]: i for i, category in enumerate(split.categories)}
    read = {
        image["file_name"]: sorted(
            rounded(split.names[index[a["category_id"]]], a) for a in split.annotations[image["id"]]
        )
        for image in split.images
    }
    assert read == expected("COCO", names, photos)
    for i, image in enumerate(split.images):
        assert split.labels()[i].tolist() == [
            any(names[c] == name for c, _ in photos[image["file_name"]]) for name in split.names
        ]
