"""Import checks every mask and every region of people, and names the user's file."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle
from support.snakemake import ROOT

from mlssl.data.coco import read_split
from mlssl.errors import DataError
from mlssl.photos.importing import import_photos

WIDTH, HEIGHT = 80, 60
PERSON = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
PERSON[10:50, 20:60] = 1
CODE = rle.encode(np.asfortranarray(PERSON))["counts"]
BOX = [20, 10, 40, 40]
SQUARE = [[20, 10, 60, 10, 60, 50, 20, 50]]


@pytest.fixture
def folder(tmp_path):
    """Six noisy photos, none like another."""
    (tmp_path / "photos").mkdir()
    for i in range(6):
        noise = np.random.default_rng(i).integers(0, 255, (12, 16, 3)).astype(np.uint8)
        pixels = noise.repeat(5, axis=0).repeat(5, axis=1)
        pixels[:, ::2] = 255 - pixels[:, ::2]  # fine stripes, which hiding removes
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png")
    return tmp_path / "photos"


def coco(path, *annotations, size=True):
    images = [
        {"id": i, "file_name": f"{i}.png"} | ({"width": WIDTH, "height": HEIGHT} if size else {}) for i in range(6)
    ]
    records = [{"id": n, "image_id": 2, "category_id": 5} | a for n, a in enumerate(annotations)]
    path.write_text(
        json.dumps({"images": images, "annotations": records, "categories": [{"id": 5, "name": "cup"}]})
    )
    return path


def refused(folder, tmp_path, *options):
    """The sentence with which the command refuses an import; nothing must be left that looks complete."""
    command = [sys.executable, "-m", "mlssl", "import", "--photos", folder, "--out", tmp_path / "out", *options]
    done = subprocess.run(
        [str(c) for c in command], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert not (tmp_path / "out").exists()
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("mlssl import: ")]
    return line


def counts(value):
    return {"size": [HEIGHT, WIDTH], "counts": value}


INVALID = {
    "the text of Python bytes": counts(str(CODE)),
    "the text of Python bytes in quotes": counts(f'"{CODE.decode()}"'),
    "compressed runs that end early": counts(CODE.decode()[:-2]),
    "compressed runs that go on": counts(CODE.decode() * 2),
    "an unknown character": counts(CODE.decode()[:-1] + "é"),
    "sides exchanged": {"size": [WIDTH, HEIGHT], "counts": CODE.decode()},
    "fractional runs": counts([2400.5, 2399.5]),
    "runs as text": counts("[100, 200, 4500]"),
    "negative runs": counts([-1, 4801]),
    "no counts": {"size": [HEIGHT, WIDTH]},
    "a flat list": SQUARE[0],
    "points as pairs": [[[20, 10], [60, 10], [60, 50]]],
    "two points": [[20, 10, 60, 50]],
    "an odd number": [[20, 10, 60, 10, 60, 50, 20]],
    "points as text": [["20", "10", "60", "10", "60", "50"]],
    "a path to a file": "masks/2.png",
    "points far away": [[2e6, 10, 60, 10, 60, 50]],
}


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_mask_is_refused_with_the_users_file(folder, tmp_path, name):
    valid = {"bbox": BOX, "segmentation": SQUARE}
    labels = coco(tmp_path / "mine.json", valid, {"bbox": BOX, "segmentation": INVALID[name]})
    with pytest.raises(DataError) as error:
        import_photos(folder, tmp_path / "out", labels=labels, workers=1)
    assert str(error.value).startswith(f"{labels}: annotations[1]: key 'segmentation' is ")
    assert str(error.value).endswith(
        "; give polygons of at least 3 points, or a run-length code of the image's size"
    )
    assert not (tmp_path / "out").exists()


OUTSIDE = {
    "a polygon outside": [[200, 10, 260, 10, 260, 50]],
    "a line": [[20, 10, 40, 10, 60, 10]],
    "runs without a pixel": counts([HEIGHT * WIDTH]),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_mask_without_area_in_the_photo_is_refused(folder, tmp_path, name):
    labels = coco(tmp_path / "mine.json", {"bbox": BOX, "segmentation": OUTSIDE[name]})
    with pytest.raises(DataError, match=r"mine\.json: image 2 \('2\.png'\): a segmentation has no area inside"):
        import_photos(folder, tmp_path / "out", labels=labels, workers=1)


def test_a_run_length_code_of_another_size_than_the_photo_is_refused_if_the_file_gives_none(folder, tmp_path):
    code = {"size": [WIDTH, HEIGHT], "counts": rle.encode(np.asfortranarray(PERSON.T))["counts"].decode()}
    coco(tmp_path / "mine.json", {"bbox": BOX, "segmentation": code}, size=False)
    line = refused(folder, tmp_path, "--labels", tmp_path / "mine.json")
    assert (
        "mine.json: image 2 ('2.png'): a segmentation has size [80, 60], the image has height 60, width 80" in line
    )


MASKS = {
    "polygons": SQUARE,
    "runs": counts(CODE.decode()),
    "plain runs": counts([1210, *([40, 20] * 39), 40, 1210]),
}
EMPTY = {
    "zeros": [0, 0, 0, 0],
    "null": None,
    "no width": [20, 10, 0, 40],
    "no height": [20, 10, 40, 0],
    "missing": ...,
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("box", EMPTY)
def test_a_label_with_an_empty_box_gets_that_of_its_mask(folder, tmp_path, mask, box):
    a = {"bbox": EMPTY[box], "segmentation": MASKS[mask], "area": None}
    labels = coco(tmp_path / "mine.json", {k: v for k, v in a.items() if v is not ...})
    out = import_photos(folder, tmp_path / "out", labels=labels, workers=1)
    found = [a for split in ("train", "val") for own in read_split(out, split).annotations.values() for a in own]
    assert [a["bbox"] for a in found] == [BOX]
    assert found[0]["has_mask"]
    record = json.loads((out / "import.json").read_text())
    assert record["categories"][0]["train"] + record["categories"][0]["val"] == 1
    assert record["labels"]["without_area"] == 0


def test_objects_without_box_and_mask_are_counted(folder, tmp_path, capsys):
    empty = {"bbox": [3, 3, 0, 0]}
    labels = coco(tmp_path / "mine.json", {"bbox": BOX}, empty, empty | {"segmentation": []})
    out = import_photos(folder, tmp_path / "out", labels=labels, workers=1)
    assert json.loads((out / "import.json").read_text())["labels"]["without_area"] == 2
    assert "left out    2 objects with neither an area nor a mask" in capsys.readouterr().out


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("box", EMPTY)
def test_people_with_an_empty_box_are_hidden(folder, tmp_path, mask, box):
    a = {"bbox": EMPTY[box], "segmentation": MASKS[mask]}
    people = coco(tmp_path / "people.json", {k: v for k, v in a.items() if v is not ...})
    out = import_photos(folder, tmp_path / "out", anonymise="pixelate", people=people, workers=1)
    record = json.loads((out / "import.json").read_text())
    assert record["altered"]["regions"] == 1
    (file,) = [file for file, name in record["files"].items() if name == "2.png"]
    with Image.open(out / file) as image:
        made = np.asarray(image.convert("L")).astype(float)
    columns = np.abs(np.diff(made, axis=1))  # the stripes are from column to column
    assert np.median(columns[12:48, 22:58]) < 5
    assert np.median(columns[:8]) > 20


NOT_HIDDEN = {
    "zeros": ({"bbox": [0, 0, 0, 0]}, "hides nothing, its box has 0 x 0 pixels"),
    "no width": ({"bbox": [20, 10, 0, 40], "segmentation": []}, "hides nothing, its box has 0 x 40 pixels"),
    "no height": ({"bbox": [20, 10, 40, 0], "segmentation": None}, "hides nothing"),
    "fractions": ({"bbox": [0.25, 0.2, 0.5, 0.7]}, "hides nothing, its box has 0.5 x 0.7 pixels"),
    "fractions of a mask": (
        {"bbox": [0, 0, 0, 0], "segmentation": [[0.2, 0.2, 0.7, 0.2, 0.7, 0.9]]}, "hides nothing"),
    "a mask of fractions in a box of pixels": (
        {"bbox": BOX, "segmentation": [[0.1, 0.1, 1.4, 0.1, 1.4, 1.4, 0.1, 1.4]]}, "0.0 % of its box"),
    "a sliver": ({"bbox": BOX, "segmentation": [[20, 10, 60, 50, 60, 49]]}, "its mask hides"),
    "a corner": ({"bbox": BOX, "segmentation": [[20, 10, 30, 10, 30, 20, 20, 20]]}, "hides 6.2 % of its box"),
    "a mask elsewhere": ({"bbox": BOX, "segmentation": [[62, 2, 78, 2, 78, 58, 62, 58]]}, "hides 0.0 % of its box"),
    "a box mostly outside": ({"bbox": [78, 0, 400, 60]}, "the image has 0.5 % of its box of 400 x 60"),
    "a box outside": ({"bbox": [90, 0, 40, 60]}, "is outside the image"),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_HIDDEN)
def test_a_region_that_hides_nothing_or_little_is_refused(folder, tmp_path, name):
    region, words = NOT_HIDDEN[name]
    people = coco(tmp_path / "people.json", {"bbox": BOX}, region)
    with pytest.raises(DataError) as error:
        import_photos(folder, tmp_path / "out", anonymise="blur", people=people, workers=1)
    assert str(error.value).startswith(f"{people}: image 2 ('2.png')")
    assert words in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_the_command_says_so(folder, tmp_path):
    coco(tmp_path / "people.json", {"bbox": [0, 0, 0, 0]})
    line = refused(folder, tmp_path, "--anonymise", "blur", "--people", tmp_path / "people.json")
    assert "people.json: image 2 ('2.png'): region 1 of 1 hides nothing" in line


def test_the_mask_of_a_crowd_may_be_scattered(folder, tmp_path):
    mask = np.zeros_like(PERSON)
    mask[2:8, 2:8] = mask[50:58, 70:78] = 1
    code = counts(rle.encode(np.asfortranarray(mask))["counts"].decode())
    people = coco(tmp_path / "people.json", {"bbox": [2, 2, 76, 56], "iscrowd": 1, "segmentation": code})
    out = import_photos(folder, tmp_path / "out", anonymise="blur", people=people, workers=1)
    assert json.loads((out / "import.json").read_text())["altered"]["regions"] == 1
