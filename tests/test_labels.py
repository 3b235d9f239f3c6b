"""Labels of photos in four formats: photos are found; mistakes are refused with file, position and remedy."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlssl.data.coco import decode
from mlssl.errors import DataError
from mlssl.photos.labels import placed, read_labels

NAMES = ["shop/a.jpg", "shop/b.png", "line/c.jpg"]
ENTITIES = '<!DOCTYPE a [<!ENTITY x "y">]><annotation><object><name>&x;</name></object></annotation>'


def coco(tmp_path, **changes):
    content = {
        "images": [
            {"id": 0, "file_name": "shop/a.jpg", "width": 100, "height": 50},
            {"id": 7, "file_name": "b.png", "width": 100, "height": 50},
        ],
        "categories": [{"id": 9, "name": "shelf"}, {"id": 3, "name": "box"}],
        "annotations": [
            {"id": 1, "image_id": 0, "category_id": 9, "bbox": [10, 20, 30, 40]},
            {"id": 2, "image_id": 0, "category_id": 3, "bbox": [0, 0, 0, 5]},
        ],
        **changes,
    }
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(content))
    return path


def voc(path, body, size="<size><width>100</width><height>50</height></size>"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"<annotation>{size}{body}</annotation>")


def voc_object(name, *edges, difficult=0):
    box = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), edges, strict=True))
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{box}</bndbox></object>"


def yolo(folder, classes="box\nshelf\n", **lines):
    folder.mkdir(parents=True, exist_ok=True)
    if classes is not None:
        (folder / "classes.txt").write_text(classes)
    for stem, text in lines.items():
        (folder / f"{stem}.txt").write_text(text)
    return folder


def boxes(labels, name, size=(100, 50)):
    return [(a["category_id"], a["bbox"]) for a in placed(labels.photos[name], *size)]


def test_coco_ids_with_gaps_and_zero_are_mapped_and_a_box_is_clipped(tmp_path):
    labels = read_labels(coco(tmp_path), NAMES)
    assert labels.categories == [("box", 3), ("shelf", 9)]
    assert boxes(labels, "shop/a.jpg") == [(2, [10, 20, 30, 30])]  # The one without area is left out.
    assert boxes(labels, "shop/b.png") == []  # Labelled, with nothing; found by its file name.
    assert labels.photos["shop/a.jpg"].size == (100, 50)
    assert "line/c.jpg" not in labels.photos


def test_coco_masks_are_kept(tmp_path):
    polygon, runs = [[0, 0, 10, 0, 10, 10]], {"size": [50, 100], "counts": [0, 5, 4995]}
    rows = [
        {"id": i, "image_id": 0, "category_id": 3, "bbox": [0, 0, 10, 10], "segmentation": s, "iscrowd": i}
        for i, s in enumerate((polygon, runs))
    ]
    made = placed(read_labels(coco(tmp_path, annotations=rows), NAMES).photos["shop/a.jpg"], 100, 50)
    assert [a["segmentation"] for a in made] == [polygon, runs]
    assert [a["iscrowd"] for a in made] == [0, 1]
    assert decode(made[1]["segmentation"], 50, 100).sum() == 5
    with pytest.raises(DataError, match=r"size \[50, 100\], the image has height 100"):
        placed(read_labels(coco(tmp_path, annotations=rows), NAMES).photos["shop/a.jpg"], 50, 100)


def test_voc_counts_from_one_and_includes_the_last(tmp_path):
    body = voc_object("box", 11, 21, 40, 50) + voc_object("shelf", 1, 1, 100, 50, difficult=1)
    voc(tmp_path / "shop" / "a.xml", body)
    voc(tmp_path / "else.xml", "<filename>c.jpg</filename>" + voc_object("box", 1, 1, 2, 2), size="")
    labels = read_labels(tmp_path, NAMES)
    assert labels.categories == [("box", "box"), ("shelf", "shelf")]
    assert boxes(labels, "shop/a.jpg") == [(1, [10, 20, 30, 30]), (2, [0, 0, 100, 50])]
    assert [a["iscrowd"] for a in placed(labels.photos["shop/a.jpg"], 100, 50)] == [0, 1]
    assert labels.photos["line/c.jpg"].size is None


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_xml_with_a_document_type_is_refused(tmp_path, encoding):
    (tmp_path / "a.xml").write_text(ENTITIES, encoding=encoding)
    with pytest.raises(DataError, match=r"a\.xml.*DOCTYPE.*remove"):
        read_labels(tmp_path, NAMES)


def test_yolo_boxes_polygons_and_scores(tmp_path):
    folder = yolo(tmp_path, a="1 0.5 0.5 0.2 0.4\n\n0 0.5 0.5 0.2 0.4 0.93\n", c="0 0 0 0.5 0 0.5 1\n", b="")
    labels = read_labels(folder, NAMES)
    assert labels.categories == [("box", 0), ("shelf", 1)]
    (one, first), (two, second) = boxes(labels, "shop/a.jpg")
    assert (one, two) == (2, 1)
    np.testing.assert_allclose([first, second], [[40, 15, 20, 20]] * 2)
    (found,) = placed(labels.photos["line/c.jpg"], 100, 50)
    assert found["bbox"] == [0, 0, 50, 50]
    assert found["segmentation"] == [[0, 0, 50, 0, 50, 50]]
    assert boxes(labels, "shop/b.png") == []


@pytest.mark.parametrize("names", ["names: [box, shelf]", "names: {0: box, 1: shelf}"])
def test_yolo_names_of_data_yaml_two_folders_up(tmp_path, names):
    (tmp_path / "data.yaml").write_text(names)
    yolo(tmp_path / "labels" / "train", classes=None, a="1 0.5 0.5 1 1")
    labels = read_labels(tmp_path / "labels" / "train", NAMES)
    assert [name for name, _ in labels.categories] == ["box", "shelf"]


def test_csv_has_no_boxes(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text(
        "\ufefffile,labels\nshop/a.jpg,shelf; box\nline\\c.jpg,\nshop/a.jpg,box;cup\n", encoding="utf-8"
    )
    labels = read_labels(path, NAMES)
    assert [name for name, _ in labels.categories] == ["box", "cup", "shelf"]
    assert sorted(boxes(labels, "shop/a.jpg")) == [(i, [0, 0, 100, 50]) for i in (1, 2, 3)]
    assert boxes(labels, "line/c.jpg") == []


def test_a_photo_is_found_by_path_before_name_before_stem_and_never_by_guess(tmp_path):
    path = tmp_path / "l.csv"
    names = ["a/x.jpg", "b/x.jpg", "b/y.png", "y.2.jpg", "c/z.jpg"]
    path.write_text("b/x.jpg,one\nfar/x.jpg,two\ny.tif,three\ny.2.jpg,four\nz.jpg,five\nfar/z.jpg,six\n")
    labels = read_labels(path, names, max_missing=0.5)
    found = {n: [labels.categories[o.category][0] for o in v.objects] for n, v in labels.photos.items()}
    # With b/x.jpg taken by its path, the other x.jpg is the only one left; z.jpg is asked for twice.
    assert found == {"b/x.jpg": ["one"], "a/x.jpg": ["two"], "b/y.png": ["three"], "y.2.jpg": ["four"]}
    assert len(labels.missing) == 2


def test_labels_without_photo_are_counted_and_too_many_are_refused(tmp_path):
    path = tmp_path / "l.csv"
    path.write_text("".join(f"{i}.jpg,cup\n" for i in range(20)))
    labels = read_labels(path, [f"{i}.jpg" for i in range(18)])
    assert len(labels.missing) == 2
    assert "line 19" in labels.missing[0]
    with pytest.raises(DataError, match=r"l\.csv: 3 of 20 .*line 18.*correct the names"):
        read_labels(path, [f"{i}.jpg" for i in range(17)])
    with pytest.raises(DataError, match="1 of 20"):
        read_labels(path, [f"{i}.jpg" for i in range(19)], max_missing=0)


A = {"id": 1, "image_id": 0, "category_id": 3, "bbox": [1, 1, 2, 2]}
IMAGE = {"id": 0, "file_name": "shop/a.jpg"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": None}, "key 'annotations'"),
        ({"annotations": [A | {"image_id": 5}]}, r"annotations\[0\]: key 'image_id' is 5"),
        ({"annotations": [A | {"image_id": True}]}, "'image_id' is True"),
        ({"annotations": [A | {"category_id": 5}]}, "'category_id' is 5"),
        ({"annotations": [A | {"bbox": [1, 2, 3]}]}, r"'bbox' is \[1, 2, 3\]"),
        ({"annotations": [A | {"bbox": [1, 2, -3, 4]}]}, "give x, y, width and height"),
        ({"annotations": [A | {"bbox": [1, 2, "x", 4]}]}, "'x', 4]; give x, y, width and height"),
        ({"annotations": [A | {"bbox": [1, 2, 10**400, 4]}]}, "give x, y, width and height"),
        ({"annotations": [A | {"segmentation": [[1, 2]]}]}, "'segmentation'"),
        ({"annotations": [A | {"segmentation": {"size": [2, 2], "counts": [1]}}]}, "'segmentation'"),
        ({"images": [IMAGE, IMAGE | {"file_name": "b.png"}]}, "key 'images': id 0 is given 2 times"),
        (
            {"images": [IMAGE, IMAGE | {"id": 1}]},
            "images, id 1: key 'file_name' is 'shop/a.jpg'; give another name",
        ),
        ({"images": [IMAGE | {"width": 0, "height": 2}]}, "image 0: key 'width' is 0"),
        ({"categories": []}, "key 'categories' is empty"),
        ({"images": [], "annotations": []}, "key 'images' is empty"),
    ],
)
def test_mistakes_in_coco_are_refused_with_their_position(tmp_path, changes, message):
    with pytest.raises(DataError, match=message) as caught:
        read_labels(coco(tmp_path, **changes), NAMES)
    assert "labels.json" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 2", r"line 1: 2 values"),
        ("0 0.5 0.5 1 1\n7 0.5 0.5 1 1", "line 2: class '7' is not in 0 to 1"),
        ("0 320 240 10 10", "is not in 0 to 1; divide"),
        ("0 0.5 nan 1 1", '"nan"; give a number'),
        ("some words", "class 'some'"),
    ],
)
def test_mistakes_in_yolo_are_refused_with_their_line(tmp_path, text, message):
    with pytest.raises(DataError, match=message) as caught:
        read_labels(yolo(tmp_path, a=text), NAMES)
    assert "a.txt" in str(caught.value)


def test_other_mistakes_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"neither XML nor txt"):
        read_labels(tmp_path, NAMES)
    with pytest.raises(DataError, match=r"gone\.csv: no such file"):
        read_labels(tmp_path / "gone.csv", NAMES)
    path = tmp_path / "l.csv"
    path.write_text("a.jpg|cup\n")
    with pytest.raises(DataError, match=r"l\.csv: line 1 has 1 cells .*file,label;label"):
        read_labels(path, NAMES)
    path.write_bytes(b"a.jpg,\xff\n")
    with pytest.raises(DataError, match="UTF-8"):
        read_labels(path, NAMES)
    path.write_text("shop/a.jpg,cup\n./shop/a.jpg,cup\n")
    with pytest.raises(DataError, match=r"line 2: 'shop/a\.jpg' is labelled a second time, after .*line 1"):
        read_labels(path, NAMES)
    path.write_text('{"images": [')
    with pytest.raises(DataError, match="not valid JSON"):
        read_labels(path, NAMES)
    with pytest.raises(DataError, match=r"classes\.txt"):
        read_labels(yolo(tmp_path / "x" / "y" / "z", classes=None, a="0 1 1 1 1"), NAMES)
    voc(tmp_path / "voc" / "a.xml", voc_object("box", 9, 9, "x", 9))
    with pytest.raises(DataError, match=r"a\.xml: object 1 \('box'\), xmax is \"x\""):
        read_labels(tmp_path / "voc", NAMES)
    outside = [{"id": 1, "image_id": 0, "category_id": 3, "bbox": [200, 1, 5, 5]}]
    labels = read_labels(coco(tmp_path, annotations=outside), NAMES)
    with pytest.raises(DataError, match=r"image 0 .*200, 1, 5, 5 is outside the image of 100 x 50"):
        placed(labels.photos["shop/a.jpg"], 100, 50)


SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-2, 4), st.floats(), st.sampled_from(["a.jpg", "", "x"]))
VALUES = st.recursive(
    SCALARS, lambda v: st.one_of(st.lists(v, max_size=5), st.dictionaries(st.text(), v)), max_leaves=6
)
NUMBERS = st.one_of(st.integers(-5, 120), SCALARS)
BOXES = st.one_of(st.lists(NUMBERS, min_size=4, max_size=4), VALUES)


def records(**keys):
    return st.one_of(st.lists(st.fixed_dictionaries({}, optional=keys), max_size=3), VALUES)


@settings(max_examples=150, deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "images": records(id=NUMBERS, file_name=SCALARS, width=NUMBERS, height=NUMBERS),
            "categories": records(id=NUMBERS, name=SCALARS),
            "annotations": records(
                image_id=NUMBERS, category_id=NUMBERS, bbox=BOXES, segmentation=VALUES, area=VALUES, iscrowd=VALUES
            ),
        }
    )
)
def test_any_json_is_read_or_refused_in_one_sentence(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("any") / "l.json"
    path.write_text(json.dumps(content))
    try:
        labels = read_labels(path, ["a.jpg", "x/y.jpg"])
        made = placed(labels.photos["a.jpg"], 100, 50)
    except DataError as error:
        assert str(error).startswith(str(path))  # noqa: PT017 (either outcome is right)
    else:
        for a in made:
            x, y, w, h = a["bbox"]
            assert min(x, y) >= 0 < min(w, h)
            assert max(x + w - 100, y + h - 50) <= 1e-9
