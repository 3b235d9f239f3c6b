"""Semantic masks beside COCO's layout: read as they were written, and refused before anything is trained."""

import json
import re
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support.snakemake import small, write
from support.tiny_coco import IDENTIFIED, write_backbone, write_coco

from mlssl.cli import main
from mlssl.data import semantic
from mlssl.data.coco import read_split
from mlssl.data.semantic import IGNORE, read_classes, read_mask
from mlssl.errors import DataError, MissingLabels
from mlssl.scenes import write_scenes
from mlssl.study.settings import Data, Dense, Segmentation
from mlssl.transfer import dense, segmentation
from mlssl.transfer.needs import report

SIZE = 16


def save(path, values, form="grey"):
    """Write values H x W in one of the forms that PNGs of labels have."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.asarray(values)
    if form == "16 bits":
        Image.fromarray(values.astype(np.uint16)).save(path)
    elif form.startswith("palette"):
        image = Image.fromarray(values.astype(np.uint8), mode="P")
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768).astype(np.uint8).tobytes())
        image.save(path, bits=int(form.split()[1]))
    elif form == "RGB":
        Image.fromarray(np.repeat(values.astype(np.uint8)[..., None], 3, axis=2)).save(path)
    elif form == "1 bit":
        Image.fromarray(values.astype(bool)).save(path)
    else:
        Image.fromarray(values.astype(np.uint8)).save(path)


FORMS = {"grey": 256, "16 bits": 65_536, "palette 8": 256, "palette 4": 16, "palette 2": 4, "RGB": 256, "1 bit": 2}
"""Form -> number of values that it can hold."""


def images_of(root, split, shapes):
    """Photos of the shapes (height, width), and their annotation file without objects."""
    images = []
    for i, (height, width) in enumerate(shapes):
        name = f"{i:02d}.jpg"
        (root / split).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (width, height)).save(root / split / name)
        images.append({"id": i + 1, "file_name": name, "width": width, "height": height})
    content = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 5, "name": "b"}]}
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_random_masks_are_read_back_equal(tmp_path_factory, data):
    root = tmp_path_factory.mktemp("set")
    form = data.draw(st.sampled_from(list(FORMS)))
    values = data.draw(st.lists(st.integers(0, FORMS[form] - 1), min_size=2, max_size=6, unique=True))
    ignored = data.draw(st.integers(0, len(values) - 2))
    numbered = [f"{v}{data.draw(st.sampled_from([' ', ': ', ',', '	']))}class {v}" for v in values[ignored:]]
    numbered += [f"{v} Void" for v in values[:ignored]]
    semantic_folder = root / "semantic"
    semantic_folder.mkdir()
    (semantic_folder / "classes.txt").write_text("\n".join(data.draw(st.permutations(numbered))) + "\n")
    shape = data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    pixels = data.draw(
        st.lists(st.sampled_from(values), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1])
    )
    pixels = np.array(pixels).reshape(shape)
    images_of(root, "train2017", [shape])
    save(semantic_folder / "train2017" / "00.png", pixels, form)
    np.testing.assert_array_equal(read_mask(semantic_folder / "train2017" / "00.png"), pixels)
    split = read_split(root, "train2017")
    found = split.semantic_mask(0)
    assert found.dtype == np.uint8
    assert sorted(split.classes) == sorted(f"class {v}" for v in values[ignored:])
    names = np.array([*split.classes, *["?"] * 250, "ignored"])
    expected = [["ignored" if v in values[:ignored] else f"class {v}" for v in row] for row in pixels.tolist()]
    assert names[np.where(found == IGNORE, len(names) - 1, found)].tolist() == expected


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_of_few_bits_is_not_scaled(tmp_path, bits):
    """Pillow cannot write grey of 2 and 4 bits: the header of a palette PNG is changed, which keeps the values."""
    import zlib

    path = tmp_path / "mask.png"
    values = np.arange(2**bits, dtype=np.uint8).reshape(1, -1)
    save(path, values, f"palette {bits}")
    content = bytearray(path.read_bytes())
    assert content[12:16] == b"IHDR"
    assert content[24] == bits
    content[25] = 0
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    start = content.index(b"PLTE") - 4
    del content[start : start + 12 + int.from_bytes(content[start : start + 4], "big")]
    path.write_bytes(content)
    np.testing.assert_array_equal(read_mask(path), values)


@pytest.mark.parametrize(
    ("text", "names", "values"),
    [
        ("sky\nroad\n", ("sky", "road"), {0: 0, 1: 1}),
        ("\ufeffvoid\r\nsky\r\nroad\r\n", ("sky", "road"), {0: IGNORE, 1: 0, 2: 1}),
        ("7 road\n8 sidewalk\n", ("road", "sidewalk"), {7: 0, 8: 1}),
        ("17: pole\n18: pole\n19: traffic light\n", ("pole", "traffic light"), {17: 0, 18: 0, 19: 1}),
        ("0 ground\n255 building\n300 UNLABELED\n", ("ground", "building"), {0: 0, 255: 1, 300: IGNORE}),
    ],
)
def test_classes_files(tmp_path, text, names, values):
    path = tmp_path / "classes.txt"
    path.write_text(text, encoding="utf-8")
    found = read_classes(path)
    assert (found.names, found.values) == (names, values)
    assert found.table[65535] == IGNORE
    assert found.table[255] == values.get(255, IGNORE)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names 0 classes; give 2 to 255"),
        ("sky\nvoid\n", "names 1 classes"),
        ("\n".join(f"c{i}" for i in range(300)), "names 300 classes; give 2 to 255"),
        ("sky\nroad\nsky\n", "line 3: 'sky' is listed twice; give each value its own name"),
        ("0 sky\nroad\n", "line 2: 'road' differs from line 1; one name per line, or 'value name' on each line"),
        ("sky\n3 road\n", "line 2: '3 road' differs from line 1"),
        ("0 sky\n0 road\n", r"line 2: value 0 \('road'\) is given twice; correct it"),
        ("sky: 1\nroad: 0\n", "line 1: 'sky: 1' has a number at its end; one name per line, or 'value name'"),
        ("sky 7\nroad 26\n", "line 1: 'sky 7' has a number at its end"),
        ("0 sky\n70000 road\n", r"line 2: value 70000 \('road'\) is above 65535"),
    ],
)
def test_a_bad_classes_file_is_refused(tmp_path, text, message):
    path = tmp_path / "classes.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=rf"classes\.txt: {message}"):
        read_classes(path)


def write_set(root, classes="0 sky\n1 road\n2 car\n9 void\n", train=5):
    """Photos of train and two of val, with masks of sky, road and car."""
    rng = np.random.default_rng(1)
    for split, count in (("train2017", train), ("val2017", 2)):
        images_of(root, split, [(SIZE, SIZE)] * count)
        for i in range(count):
            save(root / "semantic" / split / f"{i:02d}.png", rng.choice([0, 1, 2, 9], (SIZE, SIZE)))
    if classes:
        (root / "semantic" / "classes.txt").write_text(classes)
    return root


def put(name, values, form="grey"):
    return lambda root: save(root / "semantic" / name, values, form)


def uniform(value):
    return np.full((SIZE, SIZE), value)


def one_pixel(value):
    values = uniform(0)
    values[3, 7] = value
    return values


def remove(name):
    def change(root):
        path = root / "semantic" / name
        for file in path.iterdir() if path.is_dir() else [path]:
            file.unlink()
        if path.is_dir():
            path.rmdir()

    return change


def colours(root):
    values = np.zeros((SIZE, SIZE, 3), dtype=np.uint8)
    values[2, 4] = (128, 64, 128)
    Image.fromarray(values).save(root / "semantic" / "val2017" / "01.png")


def jpeg(root):
    Image.new("L", (SIZE, SIZE)).save(root / "semantic" / "train2017" / "02.png", format="JPEG")


def renamed(name, other):
    return lambda root: (root / "semantic" / name).rename(root / "semantic" / other)


def cut(root):
    path = root / "semantic" / "train2017" / "04.png"
    path.write_bytes(path.read_bytes()[:60])


def all_of_train(value):
    return lambda root: [put(f"train2017/{i:02d}.png", uniform(value))(root) for i in range(5)]


REFUSED = {
    "missing mask": (remove("val2017/01.png"), r"val2017/01\.png: no such mask \(1 of 2 images have none\); add"),
    "missing masks": (remove("train2017/00.png"), r"train2017/00\.png: no such mask \(1 of 5 images"),
    "no masks of train": (remove("train2017"), r"semantic: has masks of val2017 and none of train2017; add these"),
    "no masks of val": (remove("val2017"), r"semantic: has masks of train2017 and none of val2017"),
    "half the size": (
        put("train2017/03.png", np.zeros((SIZE // 2, SIZE // 2))),
        r"train2017/03\.png: has 8 x 8 pixels, its image '03\.jpg' has 16 x 16; give a mask of the image's size",
    ),
    "turned": (put("val2017/00.png", np.zeros((8, 32))), r"val2017/00\.png: has 32 x 8 pixels"),
    "unknown value": (
        put("val2017/00.png", one_pixel(4)),
        r"val2017/00\.png: pixel \(7, 3\) has value 4, which has no class; add the line '4 <name>' to",
    ),
    "unknown value of 16 bits": (
        put("train2017/01.png", one_pixel(24_001), "16 bits"),
        r"train2017/01\.png: pixel \(7, 3\) has value 24001",
    ),
    "unknown palette index": (
        put("train2017/01.png", one_pixel(200), "palette 8"),
        r"pixel \(7, 3\) has value 200",
    ),
    "colours": (colours, r"val2017/01\.png: is a colour image, pixel \(4, 2\) is \(128, 64, 128\); save one value"),
    "JPEG": (
        jpeg,
        r"train2017/02\.png: is a JPEG, whose compression changes the values of a mask; save masks as PNG",
    ),
    "JPEG beside": (renamed("val2017/01.png", "val2017/01.jpg"), r"val2017/01\.jpg: is a JPEG, whose compression"),
    "truncated": (cut, r"train2017/04\.png: is not a PNG that can be decoded"),
    "class that train lacks": (
        lambda root: [put(f"train2017/{i:02d}.png", np.where(np.eye(SIZE) > 0, 0, 1))(root) for i in range(5)],
        r"val2017/00\.png: class 'car' is in 2 masks of val2017 and in none of train2017 \(1 such classes\); add",
    ),
    "one class": (
        all_of_train(1),
        r"semantic/train2017: 5 masks show too few classes \('road'\), and no others but ignored pixels",
    ),
    "all void": (all_of_train(9), r"semantic/train2017: 5 masks show too few classes \(none\)"),
    "all 255": (all_of_train(255), r"semantic/train2017: 5 masks show too few classes \(none\)"),
    "binary without names": (
        lambda root: [
            remove("classes.txt")(root),
            *(put(f"train2017/{i:02d}.png", np.where(np.eye(SIZE) > 0, 255, 0))(root) for i in range(5)),
        ],
        r"train2017: 5 masks show too few classes \('background'\)",
    ),
    "values without a category": (
        remove("classes.txt"),
        r"train2017/00\.png: pixel \(\d+, \d+\) has value \d, which has no class; name the values",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("evaluator", [dense, segmentation], ids=["dense", "segmentation"])
def test_masks_that_cannot_be_used_are_refused_before_pretraining(tmp_path, case, evaluator):
    root = write_set(tmp_path)
    splits = [read_split(root, s) for s in ("train2017", "val2017")]
    assert evaluator.missing(*splits) is None
    change, message = REFUSED[case]
    change(root)
    with pytest.raises(DataError, match=message) as error:
        evaluator.missing(*(read_split(root, s) for s in ("train2017", "val2017")))
    assert not isinstance(error.value, MissingLabels), "a study would go on without the evaluator"
    assert "\n" not in str(error.value)


IGNORED = {
    "one of train": ([("train2017", i) for i in range(1)], None, "dense: the data have what it needs"),
    "most of train": (
        [("train2017", i) for i in range(6)],
        None,
        r"dense: left out: .*train2017/00\.png: every pixel is ignored, as in 6 of 9 masks for training; give",
    ),
    "the first of val": (
        [("val2017", 0)],
        1,
        r"dense: left out: .*val2017/00\.png: every pixel is ignored, as in all of the first 1 masks for val",
    ),
    "the second of val": ([("val2017", 1)], 1, "dense: the data have what it needs"),
}


@pytest.mark.parametrize("value", [9, 255])
@pytest.mark.parametrize("case", IGNORED)
def test_masks_in_which_every_pixel_is_ignored_are_noticed_before_pretraining(tmp_path, case, value):
    root = write_set(tmp_path, train=9)
    masks, count, line = IGNORED[case]
    for split, i in masks:
        put(f"{split}/{i:02d}.png", uniform(value))(root)
    config = Dense(Data(str(root)), eval_images=count)
    (said,) = report({"dense": config}, {})
    assert re.fullmatch(line + ".*", said)
    left_out = 0
    for split in ("train2017", "val2017"):
        semantic = read_split(root, split).semantic
        left_out += len(semantic.first_without_class())
    assert left_out == len(masks)


def test_the_check_of_a_study_stops_at_a_bad_mask(tmp_path, monkeypatch, capsys):
    root = write_set(tmp_path / "set", train=9)
    values = small(data={"root": str(root), "short_side": 32}, transfers={"dense": {"size": 64}})
    study, out = write(tmp_path / "study.yaml", values), tmp_path / "check.txt"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["mlssl", "check", "--study", str(study), "--out", str(out)])
    assert main() == 0
    assert out.read_text() == "dense: the data have what it needs\n"
    out.unlink()
    put("val2017/00.png", one_pixel(4))(root)
    capsys.readouterr()
    assert main() != 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("mlssl check: ")
    assert "00.png: pixel (7, 3) has value 4" in line
    assert not out.exists()


def test_a_few_training_images_are_too_few(tmp_path):
    root = write_set(tmp_path)
    path = root / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"images": content["images"][:3]}))
    why = dense.missing(*(read_split(root, s) for s in ("train2017", "val2017")))
    assert "3 training images are too few" in why


def test_masks_of_scenes_are_the_painted_instances(tmp_path):
    write_scenes(tmp_path / "scenes", images=6, val_images=2, size=(64, 48), seed=0, workers=1)
    root = tmp_path / "scenes"
    read = read_split(root, "train2017")
    masks = [read.semantic_mask(i) for i in range(6)]
    assert read.classes == ("background", *read.names)
    (root / "semantic").rename(root / "other")
    painted = read_split(root, "train2017")
    assert painted.semantic is None
    for i in range(6):
        np.testing.assert_array_equal(masks[i], painted.semantic_mask(i))


def test_scores_with_masks_equal_those_with_the_same_instances(tmp_path):
    """The masks hold the ids of categories, which have gaps, and 255 for crowds."""
    root = write_coco(tmp_path / "coco")
    backbone = write_backbone(tmp_path / "backbone.pt")
    cpu = torch.device("cpu")
    config = Dense(Data(str(root), **IDENTIFIED), size=64)
    fcn = Segmentation(Data(str(root), **IDENTIFIED), size=32, iterations=2, batch_size=2, head_channels=8)
    painted, notes = dense.evaluate(backbone, config, seed=0, device=cpu, progress=False)
    painted_fcn, _ = segmentation.evaluate(backbone, fcn, seed=0, device=cpu, progress=False)
    assert notes["labels"] == "instances, painted on background"
    for name in ("train2017", "val2017"):
        split = read_split(root, name)
        table = np.arange(256)
        table[1:4] = [c["id"] for c in split.categories]
        for i, image in enumerate(split.images):
            save(root / "semantic" / name / image["file_name"], table[split.semantic_mask(i)], "palette 8")
    rows, notes = dense.evaluate(backbone, config, seed=0, device=cpu, progress=False)
    assert rows == painted
    assert notes["labels"] == "semantic masks"
    assert notes["class_names"] == ["background", "red", "green", "blue"]
    assert segmentation.evaluate(backbone, fcn, seed=0, device=cpu, progress=False)[0] == painted_fcn


def test_classes_without_background_are_evaluated(tmp_path):
    root = write_set(tmp_path / "set")
    backbone = write_backbone(tmp_path / "backbone.pt")
    cpu, data = torch.device("cpu"), Data(str(root), **IDENTIFIED)
    rows, notes = dense.evaluate(backbone, Dense(data, size=64), seed=0, device=cpu, progress=False)
    assert notes["classes"] == notes["classes_scored"] == 3
    assert notes["class_names"] == ["sky", "road", "car"]
    val = read_split(root, "val2017")
    pixels = np.concatenate([val.semantic_mask(i).ravel() for i in range(2)])
    shares = np.bincount(pixels[pixels != IGNORE], minlength=3) / (pixels != IGNORE).sum()
    assert notes["most_frequent_only_mIoU"] == pytest.approx(100 * shares.max() / 3)
    assert {row["metric"] for row in rows} == {"mIoU", "mAcc"}
    fcn = Segmentation(data, size=32, iterations=1, batch_size=2, head_channels=8)
    rows, notes = segmentation.evaluate(backbone, fcn, seed=0, device=cpu, progress=False)
    assert notes["classes"] == 3
    assert all(0 <= row["value"] <= 100 for row in rows)


def test_a_category_of_id_0_takes_the_place_of_the_background(tmp_path):
    path = tmp_path / "instances.json"
    assert semantic.classes_of([{"id": 0, "name": "a"}, {"id": 9, "name": "b"}], path).values == {0: 0, 9: 1}
    assert semantic.classes_of([{"id": 9, "name": "b"}], path).values == {0: 0, 9: 1}
    with pytest.raises(DataError, match="ids from 1 to 70000, which semantic masks cannot hold; name the values"):
        semantic.classes_of([{"id": 1, "name": "a"}, {"id": 70_000, "name": "b"}], path)
