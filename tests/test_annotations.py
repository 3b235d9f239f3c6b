"""COCO's annotation files: every file is read as valid, or refused with file, key, value and remedy."""

import copy
import json
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as rle

from mlssl.data.coco import Split, read_split
from mlssl.data.formats.coco import read_coco, run_lengths
from mlssl.errors import DataError

MASK = np.zeros((20, 30), dtype=np.uint8, order="F")
MASK[3:15, 4:9] = 1
MASK[10:, 20:] = 1
CODE = {"size": [20, 30], "counts": rle.encode(MASK)["counts"].decode()}


def valid():
    """Image id 0, gaps in all ids, a crowd, and an image without annotations."""
    return {
        "images": [
            {"id": 0, "file_name": "a.png", "width": 30, "height": 20},
            {"id": 7, "file_name": "b.png", "width": 30, "height": 20},
        ],
        "categories": [{"id": 3, "name": "cat"}, {"id": 90, "name": "dog"}],
        "annotations": [
            {"id": 5, "image_id": 0, "category_id": 90, "bbox": [1, 2, 10, 8], "iscrowd": 0,
             "segmentation": [[1, 2, 11, 2, 11, 10, 1, 10]]},
            {"id": 2, "image_id": 0, "category_id": 3, "bbox": [4, 3, 26, 17], "iscrowd": 1, "segmentation": CODE},
        ],
    }  # fmt: skip


@pytest.fixture
def root(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (30, 20)).save(tmp_path / "val" / name)
    return tmp_path


def read(root, content):
    text = content if isinstance(content, str | bytes) else json.dumps(content)
    (root / "annotations" / "instances_val.json").write_bytes(text.encode() if isinstance(text, str) else text)
    return read_split(root, "val")


def test_a_valid_file_is_read(root):
    split = read(root, valid())
    assert [image["id"] for image in split.images] == [0, 7]
    assert split.names == ["cat", "dog"]
    objects = split.instances(0)
    assert objects.labels.tolist() == [0, 1]
    assert objects.crowd.tolist() == [True, False]
    assert np.array_equal(objects.masks[0], MASK)
    assert len(split.instances(1).boxes) == 0
    assert split.labels().tolist() == [[False, True], [False, False]]


def test_a_file_without_annotations_is_a_split_without_labels(root):
    split = read(root, valid() | {"annotations": []})
    assert not split.labels().any()
    assert split.semantic_mask(0).max() == 0


def box(values):
    return {"bbox": values, "segmentation": None}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([5, 5, 0, 4], []),  # no area
        ([25, 15, 10, 10], [[25, 15, 30, 20]]),  # partly outside: ends at the edge
        ([40, 5, 5, 5], []),  # wholly outside
        ([-4, -4, 10, 10], [[0, 0, 6, 6]]),
    ],
)
def test_boxes_end_at_the_edges_of_the_image(root, values, expected):
    content = valid()
    content["annotations"] = [content["annotations"][0] | box(values)]
    assert read(root, content).instances(0).boxes.tolist() == expected


def test_without_segmentation_the_box_is_the_mask(root):
    content = valid()
    content["annotations"] = [content["annotations"][0] | box([2, 4, 10, 8])]
    mask = read(root, content).instances(0).masks[0]
    assert mask.sum() == 80
    assert mask[4:12, 2:12].all()


BROKEN = {
    "no JSON": ("{", "not valid JSON"),
    "a list": ("[]", "key 'images' is missing"),
    "no categories": ({"categories": None}, "key 'categories' is missing"),
    "no category": ({"categories": []}, "key 'categories' is empty"),
    "no image": ({"images": [], "annotations": []}, "key 'images' is empty"),
    "an image twice": (("images", 1, "id", 0), "key 'images': id 0 is given 2 times"),
    "a category twice": (("categories", 1, "id", 3), "key 'categories': id 3 is given 2 times"),
    "an annotation twice": (("annotations", 1, "id", 5), "key 'annotations': id 5 is given 2 times"),
    "an id that is text": (("images", 0, "id", "0"), "images\\[0\\]: key 'id' is '0'"),
    "an image unknown": (("annotations", 0, "image_id", 8), "annotation 5: key 'image_id' is 8"),
    "a category unknown": (("annotations", 0, "category_id", 4), "annotation 5: key 'category_id' is 4"),
    "an image listed twice": (("images", 1, "file_name", "a.png"), "key 'file_name' is 'a.png'; give another name"),
    "a category name twice": (("categories", 1, "name", "cat"), "id 90: key 'name' is 'cat'; give another name"),
    "a category without name": (("categories", 1, "name", " "), "id 90: key 'name' is ''; give a name"),
    "an annotation that is no record": (("annotations", 0, None, [1]), "annotations\\[0\\]: key 'id' is \\[1\\]"),
    "an area that is text": (("annotations", 0, "area", "big"), "annotation 5: key 'area' is 'big'"),
    "a crowd of two": (("annotations", 0, "iscrowd", 2), "annotation 5: key 'iscrowd' is 2; give 0 or 1"),
    "a file above": (("images", 0, "file_name", "../a.png"), "below the folder of the split"),
    "a file elsewhere": (("images", 0, "file_name", "/etc/passwd"), "below the folder of the split"),
    "a missing file": (("images", 0, "file_name", "c.png"), "'c.png' is not in .* \\(1 of 2 are not\\)"),
    "no width": (("images", 0, "width", 0), "image 0: key 'width' is 0"),
    "half a pixel": (("images", 0, "width", 30.5), "image 0: key 'width' is 30.5; give its size in pixels"),
    "an infinite height": (("images", 0, "height", float("inf")), "image 0: key 'height' is inf"),
    "a width in quotes": (("images", 0, "width", "30"), "image 0: key 'width' is '30'; give its size in pixels"),
    "a name that is half a number": (("categories", 0, "name", 1.5), "key 'name' is 1.5; give a name"),
    "a name that is true": (("categories", 0, "name", True), "key 'name' is True; give a name"),
    "names that differ in spaces": (("categories", 1, "name", "cat "), "key 'name' is 'cat'; give another name"),
    "cut off in UTF-16": (b"\xff\xfe{\x00\"", "not UTF-16 text \\(byte 4\\); save it as UTF-8"),
    "three numbers": (("annotations", 0, "bbox", [1, 2, 3]), "annotation 5: key 'bbox'"),
    "a box of negative size": (("annotations", 0, "bbox", [1, 2, -3, 4]), "annotation 5: key 'bbox'"),
    "a box that is no number": (("annotations", 0, "bbox", [1, 2, float("nan"), 4]), "annotation 5: key 'bbox'"),
    "a line": (("annotations", 0, "segmentation", [[1, 2, 3, 4]]), "polygons of at least 3 points"),
    "a code of another size": (("annotations", 1, "segmentation", CODE | {"size": [30, 20]}), "run-length"),
    "a code that writes elsewhere": (
        ("annotations", 1, "segmentation", {"size": [20, 30], "counts": [100000]}), "run-length"),
    "runs that end early": (
        ("annotations", 1, "segmentation", {"size": [20, 30], "counts": [599]}), "run-length"),
    "a code that is not RLE": (("annotations", 1, "segmentation", CODE | {"counts": "zzzz"}), "run-length"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_invalid_files_are_refused_with_file_key_and_value(root, name):
    change, words = BROKEN[name]
    content = valid()
    if isinstance(change, str | bytes):
        content = change
    elif isinstance(change, dict):
        content |= change
    else:
        key, i, field, value = change
        if field is None:
            content[key][i] = value
        else:
            content[key][i][field] = value
    with pytest.raises(DataError, match=words) as refused:
        read(root, content)
    assert "instances_val.json" in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_a_missing_file_is_named(root):
    with pytest.raises(DataError, match=r"instances_val\.json: no such file; data.root"):
        read_split(root, "val")


def test_a_byte_order_mark_and_null_are_read(root):
    content = valid()
    content["annotations"][0] |= {"iscrowd": None, "area": None}
    split = read(root, "\ufeff" + json.dumps(content))
    assert split.instances(0).crowd.tolist() == [True, False]


@pytest.mark.parametrize(
    "code", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
)
def test_a_file_in_any_unicode_encoding_is_read(root, code):
    (root / "annotations" / "instances_val.json").write_bytes(json.dumps(valid(), ensure_ascii=False).encode(code))
    assert read_split(root, "val").names == ["cat", "dog"]


def floats(values):
    """Whole numbers as 64.0, everywhere, as tables with gaps write them."""
    if isinstance(values, dict):
        return {key: values[key] if key == "segmentation" else floats(values[key]) for key in values}
    if isinstance(values, list):
        return [floats(value) for value in values]
    return float(values) if isinstance(values, int) else values


MEANT = {
    "64.0 for 64": (floats, ["cat", "dog"]),
    "names that are numbers": (lambda c: c | {"categories": [{"id": 3, "name": 0}, {"id": 90, "name": 17}]},
                               ["0", "17"]),
    "spaces around a name": (lambda c: c | {"categories": [{"id": 3, "name": " cat"}, {"id": 90, "name": "dog\n"}]},
                             ["cat", "dog"]),
    "a decomposed accent": (lambda c: c | {"categories": [{"id": 3, "name": "cafe\u0301"},
                                                          {"id": 90, "name": "no"}]},
                            ["caf\u00e9", "no"]),
}  # fmt: skip


@pytest.mark.parametrize("case", MEANT)
def test_values_are_read_as_meant(root, case):
    change, names = MEANT[case]
    split = read(root, change(valid()))
    assert split.names == names
    assert [(image["id"], image["width"], image["height"]) for image in split.images] == [(0, 30, 20), (7, 30, 20)]
    assert all(type(image[key]) is int for image in split.images for key in ("id", "width", "height"))
    assert split.instances(0).labels.tolist() == [0, 1]
    assert np.array_equal(split.instances(0).masks[0], MASK)


def test_label_files_of_photos_may_lack_what_is_not_needed_to_find_them(tmp_path):
    images = [{"id": 2, "file_name": "C:\\photos\\b.jpg"}, {"id": 0, "file_name": "/photos/a.jpg"}]
    annotations = [
        {"image_id": 2, "category_id": 1, "bbox": [0, 0, 4, 4]},
        {"image_id": 0, "category_id": 1, "bbox": [0, 0, 4, 4], "segmentation": CODE},
    ]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    path = tmp_path / "labels.json"
    path.write_text(json.dumps(content))
    assert read_coco(path, strict=False) == (images[::-1], content["categories"], annotations)
    with pytest.raises(DataError, match=r"key 'file_name' is '/photos/a\.jpg'; give a path below the folder"):
        read_coco(path)
    images[0] |= {"file_name": "b.jpg", "width": 30}
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="image 2: key 'height' is None"):
        read_coco(path, strict=False)
    images[0] |= {"height": 20}
    images[1] |= {"file_name": "a.jpg", "width": 30, "height": 20}
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"annotations\[0\]: key 'id' is None"):
        read_coco(path)
    images[1] |= {"width": 31}
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"annotations\[1\]: key 'segmentation'.*of the image's size"):
        read_coco(path, strict=False)


@pytest.mark.parametrize("counts", ["T3", "", "zzzz"])
def test_pycocotools_decodes_runs_that_do_not_fill_the_mask(counts):
    """Why `run_lengths` checks them: the pixels after the last run are memory that was never written."""
    assert rle.decode({"size": [20, 30], "counts": counts}).shape == (20, 30)
    runs = run_lengths(counts)
    assert runs is None or sum(runs) != 600


@given(st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=5, max_size=5))
def test_runs_equal_those_of_pycocotools(rows):
    mask = np.asfortranarray(np.array(rows, dtype=np.uint8))
    flat = np.concatenate([[0], mask.ravel(order="F")])
    runs = np.diff(np.concatenate([[0], np.flatnonzero(np.diff(flat)), [mask.size]])).tolist()
    assert run_lengths(rle.encode(mask)["counts"].decode()) == runs


JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 100), st.floats(), st.text(max_size=4),
    st.lists(st.floats(-50, 50), max_size=8), st.lists(st.lists(st.floats(-50, 50), max_size=8), max_size=2),
    st.dictionaries(st.sampled_from(["size", "counts", "id"]), st.text(max_size=4) | st.integers(), max_size=3),
    st.just([20, 30]), st.just(CODE),
)  # fmt: skip
FIELDS = {
    "images": ["id", "file_name", "width", "height"],
    "categories": ["id", "name"],
    "annotations": ["id", "image_id", "category_id", "bbox", "segmentation", "iscrowd"],
}


@st.composite
def broken(draw):
    """The valid file with up to three places replaced by junk, or removed."""
    content = valid()
    for _ in range(draw(st.integers(1, 3))):
        key = draw(st.sampled_from(list(FIELDS)))
        where = draw(st.sampled_from(["whole", "record", "field", "gone"]))
        records = content.get(key)
        if where == "whole":
            content[key] = draw(st.one_of(JUNK, st.just([]), st.just([{}])))
        elif isinstance(records, list) and records:
            i = draw(st.integers(0, len(records) - 1))
            field = draw(st.sampled_from(FIELDS[key]))
            if where == "record":
                records[i] = draw(JUNK)
            elif isinstance(records[i], dict):
                records[i] = copy.deepcopy(records[i])
                if where == "field":
                    records[i][field] = draw(JUNK)
                else:
                    records[i].pop(field, None)
    return content


@settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=broken())
def test_any_structure_is_refused_or_read_to_its_last_mask(root, content):
    try:
        split = read(root, content)
    except DataError:  # Anything else fails the test.
        return
    assert isinstance(split, Split)
    split.labels()
    for i in range(len(split)):
        split.instances(i)
        split.semantic_mask(i)


def test_checking_costs_less_than_parsing(tmp_path):
    images = [{"id": i, "file_name": f"{i:012}.jpg", "width": 640, "height": 480} for i in range(4000)]
    polygon = [float(v % 480) for v in range(80)]
    annotations = [
        {"id": i, "image_id": i % 4000, "category_id": 1, "bbox": [1.5, 2.5, 30.25, 40.5], "iscrowd": 0,
         "area": 900.5, "segmentation": [polygon]}
        for i in range(30_000)
    ]  # fmt: skip
    path = tmp_path / "instances_val.json"
    path.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "a"}]})
    )
    started = time.process_time()
    json.loads(path.read_text())
    parsed = time.process_time() - started
    started = time.process_time()
    read_coco(path)
    assert time.process_time() - started < 4 * parsed + 0.5
