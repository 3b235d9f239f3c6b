"""Public datasets of a few tiny images, in their official layouts, read back as COCO's."""

import json
import shutil
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image
from test_fetch import md5, serving, write_tar, write_zip

from mlssl.data import layout
from mlssl.data.coco import read_split
from mlssl.data.store import ImageStore, build_store
from mlssl.datasets import catalogue
from mlssl.datasets.catalogue import DATASETS
from mlssl.datasets.counts import BY_HAND
from mlssl.datasets.prepare import prepare
from mlssl.errors import DataError
from mlssl.transfer import dense, linear

SIZE = (40, 30)


def draw(path, colour=(200, 30, 30), size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def xml(objects):
    boxes = "".join(
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>"
        f"<xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox>"
        # A part has a name and a box of its own, which are none of the object's.
        "<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
        "</object>"
        for name, difficult, (a, b, c, d) in objects
    )
    return f"<annotation><size><width>1</width><height>1</height></size>{boxes}</annotation>"


def write_coco2017(root):
    for split, count in (("train2017", 3), ("val2017", 2)):
        images = []
        for i in range(count):
            draw(root / split / f"{i:012d}.jpg")
            images.append({"id": 100 + i, "file_name": f"{i:012d}.jpg", "width": SIZE[0], "height": SIZE[1]})
        box = {"bbox": [2, 3, 10, 5], "area": 50, "iscrowd": 0, "segmentation": [[2, 3, 12, 3, 12, 8, 2, 8]]}
        content = {
            "images": images,
            "annotations": [
                {"id": 7 + i, "image_id": 100 + i, "category_id": [90, 1][i % 2], **box} for i in range(count)
            ],
            "categories": [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}],
        }  # fmt: skip
        write(root / "annotations" / f"instances_{split}.json", json.dumps(content))


def write_voc(root, year, lists):
    base = root / "VOCdevkit" / f"VOC{year}"
    for split, stems in lists.items():
        write(base / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{stem}\n" for stem in stems))
        for stem in stems:
            draw(base / "JPEGImages" / f"{stem}.jpg")
            objects = [("person", 0, (1, 1, 10, 20)), ("cat", 1, ("3.5", 2, SIZE[0], SIZE[1]))]
            write(base / "Annotations" / f"{stem}.xml", xml(objects))


def write_cityscapes(root):
    for split, city in (("train", "aachen"), ("val", "lindau")):
        stem = f"{city}_000000_000019"
        draw(root / "leftImg8bit" / split / city / f"{stem}_leftImg8bit.png")
        ids = np.full((SIZE[1], SIZE[0]), 7, dtype=np.int32)  # road
        ids[:5] = 3  # not a training class
        ids[10:20, 5:15], ids[10:20, 10:20] = 26000, 26001  # the second car is in front of the first
        ids[22:25, 30:40] = 24  # a group of persons
        folder = root / "gtFine" / split / city
        folder.mkdir(parents=True)
        Image.fromarray(ids.astype(np.uint16)).save(folder / f"{stem}_gtFine_instanceIds.png")
        labels = np.where(ids >= 1000, ids // 1000, ids).astype(np.uint8)
        Image.fromarray(labels).save(folder / f"{stem}_gtFine_labelIds.png")


def write_cub200(root):
    base = root / "CUB_200_2011"
    names = ["001.Black_footed_Albatross/a.jpg", "001.Black_footed_Albatross/b.jpg", "002.Auk/a.jpg"]
    for name in names:
        draw(base / "images" / name)
    write(base / "images.txt", "".join(f"{i} {name}\n" for i, name in enumerate(names, 1)))
    write(base / "image_class_labels.txt", "1 1\n2 1\n3 2\n")
    write(base / "train_test_split.txt", "1 1\n2 0\n3 1\n")
    write(base / "classes.txt", "1 001.Black_footed_Albatross\n2 002.Auk\n")


def write_indoor67(root):
    for name in ("kitchen/a.jpg", "kitchen/b.jpg", "prisoncell/a.jpg"):
        draw(root / "Images" / name)
    write(root / "TrainImages.txt", "kitchen/a.jpg\nprisoncell/a.jpg\n")
    write(root / "TestImages.txt", "kitchen/b.jpg")


def write_oxford_pets(root):
    for name in ("Abyssinian_1", "great_pyrenees_2", "Abyssinian_3"):
        draw(root / "images" / f"{name}.jpg")
    write(root / "annotations" / "trainval.txt", "Abyssinian_1 1 1 1\ngreat_pyrenees_2 2 2 5\n")
    write(root / "annotations" / "test.txt", "Abyssinian_3 1 1 1\ngreat_pyrenees_4 2 2 5\n")


def write_fgvc_aircraft(root):
    data = root / "fgvc-aircraft-2013b" / "data"
    for name in ("0001", "0002", "0003"):
        draw(data / "images" / f"{name}.jpg")
    write(data / "variants.txt", "707-320\nA300B4\n")
    write(data / "images_variant_trainval.txt", "0001 707-320\n0002 A300B4\n")
    write(data / "images_variant_test.txt", "0003 A300B4\n")


def write_dtd(root):
    for name in ("banded/banded_1.jpg", "banded/banded_2.jpg", "woven/woven_1.jpg", "woven/woven_2.jpg"):
        draw(root / "dtd" / "images" / name)
    write(root / "dtd" / "labels" / "train1.txt", "banded/banded_1.jpg\nwoven/woven_1.jpg\n")
    write(root / "dtd" / "labels" / "val1.txt", "banded/banded_2.jpg\nwoven/woven_2.jpg\n")
    write(root / "dtd" / "labels" / "test1.txt", "banded/banded_9.jpg\nwoven/woven_2.jpg\n")


def prepared(out):
    return json.loads((out / "prepared.json").read_text())


def labels_by_name(out, split):
    """The categories of each file."""
    read = read_split(out, split)
    rows = read.labels()
    return {im["file_name"]: [read.names[j] for j in np.flatnonzero(rows[i])] for i, im in enumerate(read.images)}


def test_data_sets_that_cannot_be_downloaded_are_known_without_their_catalogue():
    lost = {name for name, known in DATASETS.items() if any(archive.url is None for archive in known.archives)}
    assert set(BY_HAND) == lost


def test_coco_from_a_folder(tmp_path, capsys):
    write_coco2017(tmp_path / "coco")
    out = prepare("coco2017", tmp_path / "out", source=tmp_path / "coco")
    assert labels_by_name(out, "val2017") == {"000000000000.jpg": ["toothbrush"], "000000000001.jpg": ["person"]}
    read = read_split(out, "train2017")
    assert [im["id"] for im in read.images] == [100, 101, 102]
    assert [c["id"] for c in read.categories] == [1, 2]
    assert read.instances(0).masks.sum() == 50
    assert prepared(out)["categories"][1] == {"id": 2, "name": "toothbrush", "original": 90}
    assert prepared(out)["splits"]["val2017"]["images"] == 2
    assert prepared(out)["splits"]["val2017"]["published"] == 5000
    assert "val2017: 2 images, 5,000 are published" in capsys.readouterr().err
    assert read.path(0).is_symlink(), "images of a folder are not copied"
    build_store(out / "train2017", tmp_path / "store", short_side=20, workers=0)
    assert len(ImageStore(tmp_path / "store")) == 3


def test_a_complete_dataset_is_left_unchanged(tmp_path):
    write_coco2017(tmp_path / "coco")
    out = prepare("coco2017", tmp_path / "out", source=tmp_path / "coco", splits=["val2017"])
    before = (out / "prepared.json").stat().st_mtime_ns
    shutil.rmtree(tmp_path / "coco")
    assert prepare("coco2017", out, splits=["val2017"]) == out
    assert (out / "prepared.json").stat().st_mtime_ns == before
    with pytest.raises(DataError, match=r"holds coco2017 \(val2017\), not coco2017 \(train2017, val2017\)"):
        prepare("coco2017", out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(DataError, match="was not made by this command"):
        prepare("coco2017", tmp_path / "mine")


def test_an_incomplete_dataset_is_never_left(tmp_path):
    write_coco2017(tmp_path / "coco")
    (tmp_path / "coco" / "annotations" / "instances_val2017.json").write_text("{")
    with pytest.raises(DataError, match=r"instances_val2017\.json: not valid JSON"):
        prepare("coco2017", tmp_path / "out", source=tmp_path / "coco")
    assert not (tmp_path / "out").exists()
    write_coco2017(tmp_path / "coco")
    prepare("coco2017", tmp_path / "out", source=tmp_path / "coco")
    assert read_split(tmp_path / "out", "val2017")


def test_images_that_are_missing_or_broken_are_left_out_and_reported(tmp_path, capsys):
    write_coco2017(tmp_path / "coco")
    (tmp_path / "coco" / "train2017" / "000000000000.jpg").unlink()
    (tmp_path / "coco" / "train2017" / "000000000002.jpg").write_bytes(b"")
    out = prepare("coco2017", tmp_path / "out", source=tmp_path / "coco", splits=["train2017"])
    assert [p.name for p in (out / "train2017").iterdir()] == ["000000000001.jpg"]
    assert [im["id"] for im in read_split(out, "train2017").images] == [101]
    assert prepared(out)["splits"]["train2017"]["left_out"] == 2
    assert "000000000000.jpg: is listed but does not exist" in capsys.readouterr().err


def test_voc(tmp_path):
    write_voc(tmp_path, 2007, {"trainval": ["000005", "000007"], "test": ["000001"]})
    out = prepare("voc2007", tmp_path / "out", source=tmp_path)
    read = read_split(out, "trainval")
    assert len(read) == 2
    assert len(read.categories) == 20
    objects = read.instances(0)
    assert objects.boxes.tolist() == [[0, 0, 10, 20], [2.5, 1, 40, 30]], "pixels counted from 1, the last included"
    assert objects.crowd.tolist() == [False, True], "a difficult object becomes a crowd"
    assert labels_by_name(out, "test") == {"000001.jpg": ["person"]}
    assert read.images[0]["width"] == SIZE[0], "the image's own size, whatever the XML says"
    build_store(out / "test", tmp_path / "store", short_side=20, workers=0)


@pytest.mark.parametrize("at", [".", "VOCdevkit", "VOCdevkit/VOC2007"])
def test_voc_is_found_whatever_folder_is_named(tmp_path, at):
    write_voc(tmp_path / "in", 2007, {"test": ["000001"]})
    out = prepare("voc2007", tmp_path / "out", source=tmp_path / "in" / at, splits=["test"])
    assert len(read_split(out, "test")) == 1


def test_voc_of_both_years(tmp_path):
    write_voc(tmp_path, 2007, {"trainval": ["000005"], "test": ["000001"]})
    write_voc(tmp_path, 2012, {"trainval": ["2008_000008"]})
    out = prepare("voc0712", tmp_path / "out", source=tmp_path)
    assert sorted(labels_by_name(out, "trainval")) == ["000005.jpg", "2008_000008.jpg"]
    assert sorted(labels_by_name(out, "test")) == ["000001.jpg"]


def test_voc_2012_with_the_masks_of_sbd(tmp_path):
    """VOC's own masks for its `train`, SBD's for the others, none of VOC's `val` in training."""
    savemat = pytest.importorskip("scipy.io").savemat
    write_voc(tmp_path, 2012, {"trainval": ["a", "b", "c", "d"]})
    base, sbd = tmp_path / "VOCdevkit" / "VOC2012", tmp_path / "benchmark_RELEASE" / "dataset"
    (base / "Annotations" / "c.xml").unlink()
    for split, stems in {"train": "a", "val": "b"}.items():
        write(base / "ImageSets" / "Segmentation" / f"{split}.txt", f"{stems}\n")
    for split, stems in {"train": "a\nb\n", "val": "d\nc\n"}.items():
        write(sbd / f"{split}.txt", stems)
    values = np.zeros((SIZE[1], SIZE[0]), dtype=np.uint8)
    values[2:5, 3:8], values[5, 3:8] = 15, 255
    (base / "SegmentationClass").mkdir()
    for stem in "ab":
        image = Image.fromarray(values, mode="P")
        image.putpalette(list(range(256)) * 3)
        image.save(base / "SegmentationClass" / f"{stem}.png")
    (sbd / "cls").mkdir()
    for stem, value in {"a": 3, "b": 3, "c": 8, "d": 20}.items():
        content = {"GTcls": {"Segmentation": np.where(values == 15, value, 0).astype(np.uint8)}}
        savemat(sbd / "cls" / f"{stem}.mat", content)
    out = prepare("voc2012aug", tmp_path / "out", source=tmp_path)
    train, val = read_split(out, "train"), read_split(out, "val")
    assert [image["file_name"] for image in train.images] == ["a.jpg", "c.jpg", "d.jpg"]
    assert [image["file_name"] for image in val.images] == ["b.jpg"]
    assert (train.classes[0], train.classes[15], len(train.classes)) == ("background", "person", 21)
    for i, value in enumerate((15, 8, 20)):
        assert train.semantic_mask(i)[3, 4] == value
    assert [train.semantic_mask(i)[5, 4] for i in range(2)] == [255, 0]
    (sbd / "cls" / "d.mat").write_bytes(b"damaged")
    with pytest.raises(DataError, match=r"d\.mat: its mask cannot be read .*; check the file or fetch it again"):
        prepare("voc2012aug", tmp_path / "again", source=tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation>", "not valid XML"),
        (xml([("unicorn", 0, (1, 1, 2, 2))]), "'unicorn' is not one of VOC's 20 classes"),
        (xml([("cat", 0, (1, 1, "", 2))]), "object 1 \\('cat'\\), xmax is \"\"; give a number"),
        (xml([("cat", 0, (5, 1, 2, 2))]), r"object 1 \('cat'\) has bndbox \[5.0, 1.0, 2.0, 2.0\]; give 1 <= xmin"),
        (xml([("cat", 0, (-5, 1, -2, 2))]), "give 1 <= xmin"),
        (xml([("cat", 0, (1, 1, "nan", 2))]), 'xmax is "nan"; give a number'),
        (xml([(" ", 0, (1, 1, 2, 2))]), "object 1 has no name"),
        ('<!DOCTYPE a [<!ENTITY x "cat">]><annotation/>', "DOCTYPE"),
        ("<annotation><size><width>3</width></size></annotation>", "size is '3' x ''"),
    ],
)
def test_bad_voc_xml_is_named(tmp_path, text, message):
    write_voc(tmp_path, 2012, {"trainval": ["2008_000008"]})
    write(tmp_path / "VOCdevkit/VOC2012/Annotations/2008_000008.xml", text)
    with pytest.raises(DataError, match=rf"2008_000008\.xml: .*{message}"):
        prepare("voc2012", tmp_path / "out", source=tmp_path)


def test_cityscapes(tmp_path):
    write_cityscapes(tmp_path)
    out = prepare("cityscapes", tmp_path / "out", source=tmp_path)
    read = read_split(out, "train")
    objects = read.instances(0)
    assert [read.names[i] for i in objects.labels] == ["person", "car", "car"]
    assert objects.crowd.tolist() == [True, False, False]
    assert objects.boxes[1:].tolist() == [[5, 10, 10, 20], [10, 10, 20, 20]]
    assert objects.masks.sum(axis=(1, 2)).tolist() == [30, 50, 100], "hidden pixels are not part of a mask"
    assert {c["name"]: c["original"] for c in prepared(out)["categories"]}["bicycle"] == 33
    mask = np.asarray(Image.open(out / "semantic" / "val" / "lindau_000000_000019_leftImg8bit.png"))
    assert mask.shape == (SIZE[1], SIZE[0])
    assert [mask[r, c] for r, c in ((0, 0), (6, 0), (15, 8), (23, 35))] == [255, 0, 13, 11]
    assert len(read.classes) == 19
    assert [read.classes[i] for i in (0, 6, 11, 13, 16, 18)] == [
        *("road", "traffic light", "person", "car", "train", "bicycle"),
    ]
    np.testing.assert_array_equal(read_split(out, "val").semantic_mask(0), mask)


def write_camvid(root):
    for split, names in {"train": "abcde", "val": "f", "test": "gh"}.items():
        for i, name in enumerate(names):
            draw(root / "CamVid" / split / f"{name}.png")
            values = np.full((SIZE[1], SIZE[0]), 11, dtype=np.uint8)
            values[:10], values[10:20] = 3, 8 + i % 2
            (root / "CamVid" / f"{split}annot").mkdir(exist_ok=True)
            Image.fromarray(values).save(root / "CamVid" / f"{split}annot" / f"{name}.png")


@pytest.mark.parametrize("at", [".", "CamVid"])
def test_camvid(tmp_path, at):
    write_camvid(tmp_path / "in")
    out = prepare("camvid", tmp_path / "out", source=tmp_path / "in" / at)
    train, test = read_split(out, "train"), read_split(out, "test")
    assert (len(train), len(read_split(out, "val")), len(test)) == (5, 1, 2)
    assert len(train.classes) == 11
    mask = test.semantic_mask(1)
    assert [train.classes[v] for v in (mask[0, 0], mask[12, 5])] == ["road", "pedestrian"]
    assert mask[25, 0] == 255, "void is ignored"
    assert dense.missing(train, test) is None
    assert "no category is on some" in linear.missing(train, test)


def test_a_camvid_mask_with_another_value_is_refused(tmp_path):
    write_camvid(tmp_path / "in")
    Image.fromarray(np.full((SIZE[1], SIZE[0]), 31, dtype=np.uint8)).save(tmp_path / "in/CamVid/valannot/f.png")
    with pytest.raises(DataError, match=r"valannot/f\.png: pixel \(0, 0\) has value 31, which has no class"):
        prepare("camvid", tmp_path / "out", source=tmp_path / "in")
    assert not (tmp_path / "out").exists()


def test_cityscapes_says_which_files_to_place(tmp_path):
    with pytest.raises(
        DataError, match=r"leftImg8bit_trainvaltest\.zip, gtFine_trainvaltest\.zip: .* without a login"
    ):
        prepare("cityscapes", tmp_path / "out", download=True)
    write_cityscapes(tmp_path)
    shutil.rmtree(tmp_path / "gtFine")
    with pytest.raises(DataError, match=r"cityscapes: gtFine_trainvaltest\.zip: they are not in"):
        prepare("cityscapes", tmp_path / "out", source=tmp_path, download=True)


def test_cityscapes_from_archives_in_a_folder(tmp_path):
    write_cityscapes(tmp_path / "all")
    (tmp_path / "in").mkdir()
    for part in ("leftImg8bit", "gtFine"):
        with zipfile.ZipFile(tmp_path / "in" / f"{part}_trainvaltest.zip", "w") as handle:
            for path in (tmp_path / "all" / part).rglob("*.png"):
                handle.write(path, path.relative_to(tmp_path / "all"))
    out = prepare("cityscapes", tmp_path / "out", source=tmp_path / "in")
    shutil.rmtree(tmp_path / "all")
    assert len(read_split(out, "train").instances(0).labels) == 3
    assert not read_split(out, "train").path(0).is_symlink(), (
        "images of an archive are stored in the dataset's folder"
    )
    assert read_split(out, "train").pixels(0).shape == (SIZE[1], SIZE[0], 3)
    assert {p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")} == {"in", "out"}


def test_cub(tmp_path):
    write_cub200(tmp_path)
    out = prepare("cub200", tmp_path / "out", source=tmp_path)
    assert labels_by_name(out, "train") == {
        "001.Black_footed_Albatross--a.jpg": ["Black footed Albatross"],
        "002.Auk--a.jpg": ["Auk"],
    }
    assert read_split(out, "test").annotations[1][0]["bbox"] == [0, 0, *SIZE]
    assert prepared(out)["categories"][1] == {"id": 2, "name": "Auk", "original": "002.Auk"}
    write(tmp_path / "CUB_200_2011" / "classes.txt", "1 001.Black_footed_Albatross\n")
    with pytest.raises(DataError, match=r"'2' of images.txt has no label"):
        prepare("cub200", tmp_path / "out2", source=tmp_path)


def test_indoor67(tmp_path):
    write_indoor67(tmp_path)
    out = prepare("indoor67", tmp_path / "out", source=tmp_path)
    assert labels_by_name(out, "train") == {"kitchen--a.jpg": ["kitchen"], "prisoncell--a.jpg": ["prisoncell"]}
    assert labels_by_name(out, "test") == {"kitchen--b.jpg": ["kitchen"]}
    build_store(out / "train", tmp_path / "store", short_side=20, workers=0)


def test_pets(tmp_path):
    write_oxford_pets(tmp_path)
    out = prepare("oxford_pets", tmp_path / "out", source=tmp_path)
    assert labels_by_name(out, "trainval") == {
        "Abyssinian_1.jpg": ["Abyssinian"],
        "great_pyrenees_2.jpg": ["great pyrenees"],
    }
    assert prepared(out)["splits"]["test"]["left_out"] == 1


def test_aircraft(tmp_path):
    write_fgvc_aircraft(tmp_path)
    out = prepare("fgvc_aircraft", tmp_path / "out", source=tmp_path)
    assert labels_by_name(out, "trainval") == {"0001.jpg": ["707-320"], "0002.jpg": ["A300B4"]}
    assert labels_by_name(out, "test") == {"0003.jpg": ["A300B4"]}
    assert (out / "test" / "0003.jpg").resolve().is_relative_to(tmp_path / "fgvc-aircraft-2013b")


@pytest.mark.parametrize("at", [".", "dtd"])
def test_dtd(tmp_path, at):
    write_dtd(tmp_path)
    out = prepare("dtd", tmp_path / "out", source=tmp_path / at)
    names = labels_by_name(out, "trainval")
    assert names["banded--banded_1.jpg"] == ["banded"]
    assert names["woven--woven_2.jpg"] == ["woven"]
    assert len(names) == 4, "training and validation images together"
    assert labels_by_name(out, "test") == {"woven--woven_2.jpg": ["woven"]}


def test_flowers(tmp_path, monkeypatch):
    from scipy.io import savemat
    from torchvision.datasets import Flowers102

    for i in range(1, 5):
        draw(tmp_path / "in" / "jpg" / f"image_{i:05d}.jpg")
    savemat(tmp_path / "in" / "imagelabels.mat", {"labels": [[1, 102, 1, 2]]})
    savemat(tmp_path / "in" / "setid.mat", {"trnid": [[1, 2]], "valid": [[3, 3]], "tstid": [[4, 4]]})
    sums = {
        key: (file, md5((tmp_path / "in" / file).read_bytes()) if file.endswith("mat") else None)
        for key, (file, _) in Flowers102._file_dict.items()
    }
    monkeypatch.setattr(Flowers102, "_file_dict", sums)
    out = prepare("flowers102", tmp_path / "out", source=tmp_path / "in", splits=["test"])
    assert labels_by_name(out, "test") == {"image_00004.jpg": [Flowers102.classes[1]]}
    assert len(read_split(out, "test").categories) == 102


def test_cars(tmp_path):
    import scipy.io

    def annotations(path, rows):
        kind = np.dtype([("bbox_x1", "O"), ("class", "O"), ("fname", "O")])
        path.parent.mkdir(exist_ok=True)
        scipy.io.savemat(path, {"annotations": np.array([rows], dtype=kind)})

    for split, names in (("train", ["00001.jpg", "00002.jpg"]), ("test", ["00001.jpg", "00002.jpg"])):
        for name in names:
            draw(tmp_path / f"cars_{split}" / name)
    annotations(tmp_path / "devkit" / "cars_train_annos.mat", [(1, 1, "00001.jpg"), (1, 2, "00002.jpg")])
    annotations(tmp_path / "cars_test_annos_withlabels.mat", [(1, 2, "00001.jpg"), (1, 1, "00002.jpg")])
    names = np.array([["AM General Hummer SUV 2000", "Acura RL Sedan 2012"]], dtype=object)
    scipy.io.savemat(tmp_path / "devkit" / "cars_meta.mat", {"class_names": names})
    out = prepare("stanford_cars", tmp_path / "out", source=tmp_path)
    assert labels_by_name(out, "train")["00001.jpg"] == ["AM General Hummer SUV 2000"]
    assert labels_by_name(out, "test")["00001.jpg"] == ["Acura RL Sedan 2012"]


def test_an_image_listed_twice_and_splits_of_two_versions(tmp_path):
    write_dtd(tmp_path)
    write(
        tmp_path / "dtd" / "labels" / "test1.txt", "banded/banded_1.jpg\nbanded/banded_1.jpg\nwoven/woven_2.jpg\n"
    )
    out = prepare("dtd", tmp_path / "out", source=tmp_path)
    assert prepared(out)["splits"]["test"]["images"] == 2
    assert "listed twice" in prepared(out)["splits"]["test"]["left_out_first"][0]
    write(tmp_path / "dtd" / "labels" / "test1.txt", "woven/woven_2.jpg\n")
    with pytest.raises(DataError, match="test: its categories are not those of trainval"):
        prepare("dtd", tmp_path / "out2", source=tmp_path)
    write(tmp_path / "dtd" / "labels" / "val1.txt", "woven/woven_2.jpg\n")
    with pytest.raises(DataError, match="train and val list different classes"):
        prepare("dtd", tmp_path / "out3", source=tmp_path)


def test_a_full_disk_is_no_reason_to_leave_images_out(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    write_coco2017(tmp_path / "coco")
    monkeypatch.setattr(layout, "link", full)
    with pytest.raises(DataError, match="the disk is full; make room"):
        prepare("coco2017", tmp_path / "out", source=tmp_path / "coco")
    assert not (tmp_path / "out").exists()


def test_a_missing_scipy_is_named_where_it_is_needed(tmp_path, monkeypatch):
    for name in ("cars_train", "cars_test", "devkit"):
        (tmp_path / name).mkdir()
    (tmp_path / "cars_test_annos_withlabels.mat").touch()
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(DataError, match=r"StanfordCars.*pip install scipy"):
        prepare("stanford_cars", tmp_path / "out", source=tmp_path)


@pytest.fixture
def online(tmp_path, monkeypatch):
    """VOC 2007, COCO and Pets, of a few images, on a local server, to which the catalogue's URLs point."""
    with serving() as server:
        for name, fill in (("coco2017", write_coco2017), ("oxford_pets", write_oxford_pets)):
            fill(tmp_path / name)
        write_voc(tmp_path / "trainval", 2007, {"trainval": ["000005"]})
        write_voc(tmp_path / "test", 2007, {"test": ["000001"]})
        archives = {
            "voc2007": {"VOCtrainval_06-Nov-2007.tar": ("trainval", "**/*"),
                        "VOCtest_06-Nov-2007.tar": ("test", "**/*")},
            "coco2017": {"train2017.zip": ("coco2017", "train2017/*"), "val2017.zip": ("coco2017", "val2017/*"),
                         "annotations_trainval2017.zip": ("coco2017", "annotations/*")},
            "oxford_pets": {"images.tar.gz": ("oxford_pets", "images/*"),
                            "annotations.tar.gz": ("oxford_pets", "annotations/*")},
        }  # fmt: skip
        for dataset, files in archives.items():
            changed = []
            for archive in DATASETS[dataset].archives:
                folder, pattern = files[archive.file]
                members = [
                    (str(path.relative_to(tmp_path / folder)), path.read_bytes())
                    for path in sorted((tmp_path / folder).glob(pattern))
                    if path.is_file()
                ]
                if archive.file.endswith("zip"):
                    write_zip(tmp_path / "a", members)
                else:
                    write_tar(tmp_path / "a", members, "w:gz" if archive.file.endswith("gz") else "w")
                body = (tmp_path / "a").read_bytes()
                server.files[f"/{archive.file}"] = body
                changed.append(
                    catalogue.Archive(
                        archive.file, server.url(archive.file), archive.holds, len(body), md5(body), archive.splits
                    )
                )
            values = {**vars(DATASETS[dataset]), "archives": tuple(changed)}
            monkeypatch.setitem(DATASETS, dataset, catalogue.Dataset(**values))
        yield server


def test_download(online, tmp_path, capsys):
    out = prepare("voc2007", tmp_path / "x" / "voc", download=True)
    assert len(read_split(out, "trainval")) == len(read_split(out, "test")) == 1
    assert [a["file"] for a in prepared(out)["archives"]] == [
        "VOCtrainval_06-Nov-2007.tar",
        "VOCtest_06-Nov-2007.tar",
    ]
    assert "archives are kept in" in capsys.readouterr().err
    assert not read_split(out, "test").path(0).is_symlink()
    out = prepare("oxford_pets", tmp_path / "x" / "pets", download=True)
    assert len(read_split(out, "trainval")) == 2


def test_only_missing_archives_are_downloaded(online, tmp_path):
    shutil.rmtree(tmp_path / "coco2017" / "annotations")
    out = prepare("coco2017", tmp_path / "x", source=tmp_path / "coco2017", download=True, splits=["val2017"])
    assert [path for path, _ in online.asked] == ["/annotations_trainval2017.zip"]
    assert len(read_split(out, "val2017")) == 2


def test_a_broken_download_resumes(online, tmp_path):
    online.breaks = [700]
    out = prepare("coco2017", tmp_path / "x", download=True, splits=["val2017"])
    assert ("/val2017.zip", "bytes=700-") in online.asked
    assert len(read_split(out, "val2017")) == 2


def test_a_damaged_download_leaves_nothing_and_the_next_call_succeeds(online, tmp_path):
    whole = online.files["/val2017.zip"]
    online.files["/val2017.zip"] = whole[:-1] + b"!"
    with pytest.raises(DataError, match=r"val2017\.zip: .* has md5"):
        prepare("coco2017", tmp_path / "x", download=True, splits=["val2017"])
    assert not (tmp_path / "x").exists()
    online.files["/val2017.zip"] = whole
    assert prepare("coco2017", tmp_path / "x", download=True, splits=["val2017"]).is_dir()


def test_a_damaged_archive_in_the_source_is_named_and_kept(online, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "val2017.zip").write_bytes(b"cut off")
    with pytest.raises(DataError, match=r"in/val2017\.zip: .*7 bytes.*damaged or another version"):
        prepare("coco2017", tmp_path / "x", source=tmp_path / "in", download=True, splits=["val2017"])
    assert (tmp_path / "in" / "val2017.zip").exists()


def test_missing_archives_are_named_with_the_remedy(tmp_path):
    with pytest.raises(
        DataError, match=r"coco2017: val2017\.zip, annotations_trainval2017\.zip: no source folder.*allow"
    ):
        prepare("coco2017", tmp_path / "out", splits=["val2017"])
    with pytest.raises(DataError, match=r"no such folder; source must hold coco2017"):
        prepare("coco2017", tmp_path / "out", source=tmp_path / "nowhere")
    with pytest.raises(DataError, match="'imagenet' is not known; one of coco2017, voc2007"):
        prepare("imagenet", tmp_path / "out")
    with pytest.raises(DataError, match="split 'test2017' is not known; give train2017, val2017"):
        prepare("coco2017", tmp_path / "out", splits=["test2017"])


def test_published_counts():
    counts = {name: dict(dataset.splits) for name, dataset in DATASETS.items()}
    assert counts["coco2017"] == {"train2017": 118_287, "val2017": 5_000}
    assert counts["voc2007"] == {"trainval": 5_011, "test": 4_952}
    assert counts["voc2012"] == {"trainval": 11_540}
    assert counts["voc0712"]["trainval"] == 5_011 + 11_540
    assert counts["cityscapes"] == {"train": 2_975, "val": 500}
    totals = {"cub200": 11_788, "flowers102": 8_189, "stanford_cars": 16_185, "fgvc_aircraft": 10_000,
              "indoor67": 6_700, "oxford_pets": 7_349, "dtd": 5_640}  # fmt: skip
    assert {name: sum(counts[name].values()) for name in totals} == totals
