"""YOLO: the names of classes, and what a row means."""

import json

import numpy as np
import pytest
from support.labels import PHOTOS, ROW, found, picture, write

from mlssl.errors import DataError
from mlssl.photos import import_photos
from mlssl.photos.labels import read_labels
from mlssl.study.settings import Data, Photos
from mlssl.study.sources import Source, recipe


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("names: [no, yes]", {0: "no", 1: "yes"}),
        ("names: {0: 1, 3: 2.0}", {0: "1", 3: "2.0"}),
        ("names:\n  0: null\n  7: on\n", {0: "null", 7: "on"}),
        ("\ufeffnames: [2024-01-01, 1e3]", {0: "2024-01-01", 1: "1e3"}),
    ],
)
def test_names_of_classes_are_texts_and_ids_may_have_gaps(tmp_path, text, names):
    write(tmp_path, {"my.yaml": text, "a.txt": "".join(f"{i}.0 0.5 0.5 1 1\n" for i in names)})
    for path in (tmp_path, tmp_path / "my.yaml"):
        labels = read_labels(path, PHOTOS)
        assert labels.categories == [(name, id_) for id_, name in names.items()]
        assert found(labels)["shop/a.jpg"] == list(names.values())


def test_a_data_yaml_says_which_folders_count(tmp_path):
    files = {
        "data.yaml": "train: images/train\nval: [images/val]\nnames: [cup]\n",
        "images/train/.keep": "",
        "images/val/.keep": "",
        "labels/train/a.txt": ROW,
        "labels/val/c.txt": "",
        "labels_old/train/a.txt": ROW,
    }
    photos = ["images/train/a.jpg", "images/val/a.jpg", "images/val/c.jpg"]
    labels = read_labels(write(tmp_path, files), photos)
    assert found(labels) == {"images/train/a.jpg": ["cup"], "images/val/c.jpg": []}
    assert labels.notes == ["1 txt files are outside the folders that data.yaml names"]
    (tmp_path / "far").mkdir()
    write(tmp_path, {"far/data.yaml": "path: ..\ntrain: images/train\nnames: [cup]\n"})
    with pytest.raises(DataError, match=r"data\.yaml: its labels are in .*labels/train, outside"):
        read_labels(tmp_path / "far" / "data.yaml", photos)


def test_a_data_yaml_means_the_labels_in_its_folder(tmp_path):
    write(tmp_path, {"set/data.yaml": "names: [cup, mug]", "set/labels/0.txt": ROW, "photos/.keep": ""})
    for i in range(2):
        picture(i).save(tmp_path / "photos" / f"{i}.jpg")
    settings = Photos(folder=str(tmp_path / "photos"), labels=str(tmp_path / "set" / "data.yaml"))

    def identity():
        return recipe(Source("photos", settings, Data(root="x")), tmp_path / "cache")[:2]

    options = {"labels": settings.labels, "val_share": 0, "workers": 1}
    out, before = import_photos(settings.folder, tmp_path / "out", **options), identity()
    assert (import_photos(settings.folder, out, **options), identity()) == (out, before)
    write(tmp_path, {"set/labels/0.txt": ROW.replace("0 ", "1 ", 1)})
    assert identity() != before
    with pytest.raises(DataError, match="was imported with other labels"):
        import_photos(settings.folder, out, **options)


LINES = [
    # After the class; the expected box in fractions, "polygon", or the refusal.
    ("0.5 0.5 0.2 0.4", (0.4, 0.3, 0.2, 0.4)),
    ("0.5 0.5 0.2 0.4 0.93", (0.4, 0.3, 0.2, 0.4)),
    ("0.5 0.5 0.2 0.4 12", (0.4, 0.3, 0.2, 0.4)),
    ("0.5 0.5 0.2 0.4 1.57", "neither a score from 0 to 1 nor an id"),
    ("0.5 0.5 0.2 0.4 0.93 12", (0.4, 0.3, 0.2, 0.4)),
    ("0.5 0.5 0.2 0.4 0.93 7.0", (0.4, 0.3, 0.2, 0.4)),
    ("0.5 0.5 0.2 0.4 0.93 1", "is a box with score and id, or 3 points"),
    ("0.5 0.5 0.2 0.4 0.93 0", "is a box with score and id, or 3 points"),
    ("0.5 0.5 0.2 0.4 5 12", "not in 0 to 1"),
    ("0.1 0.1 0.5 0.1 0.3 0.6", "polygon"),
    ("0 0 0.5 0 0.5 1", "polygon"),
    ("0.5 0.5 0.2 0.4 0.93 0.1 0.4", "8 values"),
    ("0.1 0.1 0.5 0.1 0.5 0.6 0.1 0.6", "polygon"),
    ("0.5 0.5 0.4 0.4 0.4 0.4 2 0.6 0.6 1", "is a box with keypoints"),
    ("0.5 0.5 0.4 0.4 0.4 0.4 0.6 0.6 0.6 0.4 0.4 0.6", "is a box with keypoints"),
]


@pytest.mark.parametrize(("values", "expected"), LINES)
def test_a_row_of_yolo_is_a_box_a_polygon_or_refused_with_the_row(tmp_path, values, expected):
    folder = write(tmp_path, {"classes.txt": "cup\n", "a.txt": f"0 {values}\n"})
    if isinstance(expected, str) and expected != "polygon":
        with pytest.raises(DataError, match=expected) as refused:
            read_labels(folder, PHOTOS)
        assert f"a.txt: line 1: {'' if '8 values' in expected else repr('0 ' + values)}" in str(refused.value)
        return
    (made,) = read_labels(folder, PHOTOS).photos["shop/a.jpg"].objects
    if expected == "polygon":
        assert made.segmentation == [[float(v) for v in values.split()]]
    else:
        np.testing.assert_allclose(made.box, expected)
        assert made.segmentation == []


def test_ids_of_tracks_are_recognised_from_the_whole_set(tmp_path):
    rows = {"a.txt": "0 0.5 0.5 0.2 0.4 0.9 1\n", "c.txt": "0 0.5 0.5 0.2 0.4 0.9 1\n0 0.5 0.5 0.2 0.4 0.8 2\n"}
    labels = read_labels(write(tmp_path, {"classes.txt": "cup", **rows}), PHOTOS)
    assert [len(labels.photos[name].objects) for name in ("shop/a.jpg", "line/c.jpg")] == [1, 2]
    assert not any(o.segmentation for given in labels.photos.values() for o in given.objects)
    write(tmp_path, {"b.txt": "0 0.1 0.1 0.5 0.1 0.3 0.6\n"})
    with pytest.raises(DataError, match=r"b\.txt: line 1: .* has no score and id after its box, as other lines"):
        read_labels(tmp_path, PHOTOS)


@pytest.mark.parametrize(("shape", "step"), [("[17, 3]", 3), ("[2, 2]", 2), ("[5, 2]", 2)])
def test_with_kpt_shape_a_row_is_its_box(tmp_path, shape, step):
    points = json.loads(shape)[0]
    for more in ("", " 0.9", " 0.9 4"):
        row = ROW + " 0.45 0.5 2"[: 9 if step == 2 else None] * points + more
        write(tmp_path, {"data.yaml": f"names: [person]\nkpt_shape: {shape}", "a.txt": row})
        (made,) = read_labels(tmp_path, PHOTOS).photos["shop/a.jpg"].objects
        assert (made.box, made.segmentation) == ((0.4, 0.3, 0.2, 0.4), [])
    write(tmp_path, {"a.txt": ROW + " 0.1 0.2 0.3 0.4 0.5 0.6 0.7 0.8"})
    with pytest.raises(DataError, match="has 12 values after the class, kpt_shape wants"):
        read_labels(tmp_path, PHOTOS)


def test_rows_that_are_no_polygon_hide_no_sliver_of_a_person(tmp_path):
    for i in range(2):
        write(tmp_path, {f"photos/{i}.jpg": b""})
        picture(i).save(tmp_path / "photos" / f"{i}.jpg")
    write(tmp_path, {"people/classes.txt": "person", "people/0.txt": ROW + " 0.9 0"})
    with pytest.raises(DataError, match="box with score and id"):
        import_photos(
            tmp_path / "photos", tmp_path / "out", anonymise="blur", people=tmp_path / "people", workers=1
        )
    assert not (tmp_path / "out").exists()
