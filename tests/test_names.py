"""Names and values as they are on disks and in tables: photos are found, and values read as meant."""

import unicodedata

import pytest
from support.labels import PHOTOS, found, voc, write

from mlssl.errors import ConfigError, DataError
from mlssl.photos.labels import placed, read_labels
from mlssl.study.yaml_files import read_yaml

STALE = [
    # Label file, its filename, photos, and the photo that gets the label; None: refused.
    ("new_1.xml", "old_1.jpg", ["new_1.jpg", "new_2.jpg"], "new_1.jpg"),
    ("new_1.xml", "new_2.jpg", ["new_1.jpg", "new_2.jpg"], None),
    ("sub/new_1.xml", "C:\\old\\new_2.png", ["x/new_1.jpg", "y/new_2.jpg"], None),
    ("new_1.xml", "NEW_2", ["new_1.jpg", "new_2.jpg"], None),
    ("other.xml", "new_2.jpg", ["new_1.jpg", "new_2.jpg"], "new_2.jpg"),
    ("a.xml", "b/a.jpg", ["a/a.jpg", "b/a.jpg"], "b/a.jpg"),
    ("a.xml", "a.png", ["a.jpg", "a.png"], "a.png"),
    ("a.xml", "a.png", ["a.jpg", "b.jpg"], "a.jpg"),
]


@pytest.mark.parametrize(("file", "said", "photos", "photo"), STALE)
def test_the_stem_of_a_label_file_decides_and_a_contradiction_is_refused(tmp_path, file, said, photos, photo):
    write(tmp_path, {file: voc(said=said)})
    if photo is None:
        with pytest.raises(DataError, match=f"like '{photos[0]}', but its filename is that of '{photos[1]}'"):
            read_labels(tmp_path, photos)
    else:
        assert found(read_labels(tmp_path, photos)) == {photo: ["cup"]}


NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
NAMES = [
    (f"{NFC}.jpg", [f"{NFD}.jpg", "b.jpg"], f"{NFD}.jpg"),
    (f"{NFD}.jpg", [f"{NFC}.jpg", "b.jpg"], f"{NFC}.jpg"),
    (f"{NFC}.jpg", [f"{NFD}.jpg", f"{NFC}.jpg"], f"{NFC}.jpg"),
    ("IMG_1.jpg", ["img_1.JPG"], "img_1.JPG"),
    ("IMG_1.JPEG", ["img_1.jpg"], "img_1.jpg"),
    ("Shop\\A.jpg", ["shop/a.jpg", "line/a.jpg"], "shop/a.jpg"),
    ("image.001", ["image.001.jpg", "image.jpg"], "image.001.jpg"),
    ("train/a.jpg", ["images/train/a.jpg", "images/val/a.jpg"], "images/train/a.jpg"),
    ("STRASSE.jpg", ["straße.jpg"], "straße.jpg"),
]


@pytest.mark.parametrize(("name", "photos", "photo"), NAMES)
def test_a_photo_is_found_whatever_case_and_form_its_name_has(tmp_path, name, photos, photo):
    write(tmp_path, {"l.csv": f"file,label\n{name},cup\n"})
    assert found(read_labels(tmp_path / "l.csv", photos)) == {photo: ["cup"]}


def test_two_photos_that_differ_in_case_alone_are_not_mixed_up(tmp_path):
    write(tmp_path, {"l.csv": "file,label\na.jpg,cup\nA.jpg,mug\n"})
    assert found(read_labels(tmp_path / "l.csv", ["A.jpg", "a.jpg"])) == {"a.jpg": ["cup"], "A.jpg": ["mug"]}
    with pytest.raises(DataError, match=r"'A\.JPG' is labelled a second time"):
        read_labels(tmp_path / "l.csv", ["A.JPG"])
    write(tmp_path, {"l.csv": "x.jpg,cup\ny/a.jpg,mug\n"})
    with pytest.raises(DataError, match=r"'x\.jpg' may be 'p/x\.jpg' or 'q/x\.jpg'"):
        read_labels(tmp_path / "l.csv", ["p/x.jpg", "q/x.jpg", "y/a.jpg"])


TABLES = [
    # Text; labels by photo, or the refusal.
    ("photo,label\nshop/a.jpg,cup\n", {"shop/a.jpg": ["cup"]}),
    ("image_name,label\na.jpg,cup\nb.png,cup\n", {"shop/a.jpg": ["cup"], "shop/b.png": ["cup"]}),
    ("filepath,tags\na.jpg,cup;mug\n", {"shop/a.jpg": ["cup", "mug"]}),
    ("File Name,Class\na,cup\n", {"shop/a.jpg": ["cup"]}),
    ("\n\ufeff id , category \na,cup\n", {"shop/a.jpg": ["cup"]}),
    ("[1] x.jpg,cup\n", {"[1] x.jpg": ["cup"]}),
    ("{x}.jpg,cup\n", {"{x}.jpg": ["cup"]}),
    ("a.jpg;cup\nb.png;mug\n", {"shop/a.jpg": ["cup"], "shop/b.png": ["mug"]}),
    ("datei;klasse\na.jpg;cup\n", {"shop/a.jpg": ["cup"]}),
    ("a.jpg\tcup;mug\nb.png\t\n", {"shop/a.jpg": ["cup", "mug"], "shop/b.png": []}),
    ("a.jpg,cup;mug\nb.png,mug;cup\n", {"shop/a.jpg": ["cup", "mug"], "shop/b.png": ["mug", "cup"]}),
    ("sep=;\na.jpg;cup\n", {"shop/a.jpg": ["cup"]}),
    ('"a.jpg";"cup;mug"\n', {"shop/a.jpg": ["cup", "mug"]}),
    ('a.jpg,"cup\nb.png,mug\n', r"line 1: not a CSV \(unexpected end of data\)"),
    ('a.jpg,"cu\np"\nb.png,mug\n', r"line 1: its quotes end in another line"),
    ("a.jpg;cup,mug\n", r"line 1: 'cup,mug' is one label or several; separate labels by ;"),
    ("a.jpg;cup;mug\nb.png;cup\n", r"line 1 has 1 cells .*write file,label;label"),
    ("a.jpg|cup\n", r"line 1 has 1 cells"),
    ("a.jpg,cu\rp\nb.png,cup\n", r"line 1: 'a\.jpg,cu\\rp' has a carriage return"),
    ("a.jpg,cup\r\nb\r.png,cup\r\n", r"line 2: .*carriage return"),
    ("a.jpg,cup\rb.png,mug\r", {"shop/a.jpg": ["cup"], "shop/b.png": ["mug"]}),
    ("a.jpg,cup\r\r\nb.png,mug\r\r\n", {"shop/a.jpg": ["cup"], "shop/b.png": ["mug"]}),
    (f"a.jpg,{NFC}\nb.png,{NFD}\n", {"shop/a.jpg": [NFC], "shop/b.png": [NFC]}),
    ("a.jpg,1.0\nb.png,no\n", {"shop/a.jpg": ["1.0"], "shop/b.png": ["no"]}),
    # A column of 0 and 1 for each category.
    ("file,cup\na.jpg,1\nb.png,0\n", {"shop/a.jpg": ["cup"], "shop/b.png": []}),
    ("Bild,defekt\na.jpg,1.0\nb.png,0.0\n", {"shop/a.jpg": ["defekt"], "shop/b.png": []}),
    ("file,label\na.jpg,1\nb.png,0\n", {"shop/a.jpg": ["1"], "shop/b.png": ["0"]}),
    ("file,Class ID\na.jpg,1\nb.png,0\n", {"shop/a.jpg": ["1"], "shop/b.png": ["0"]}),
    ("file,cup\na.jpg,1\nb.png,2\n", {"shop/a.jpg": ["1"], "shop/b.png": ["2"]}),
    ("a.jpg,1\nb.png,0\n", {"shop/a.jpg": ["1"], "shop/b.png": ["0"]}),
    ("file,cup,mug\na.jpg,1,1\nb.png,0,1\n", {"shop/a.jpg": ["cup", "mug"], "shop/b.png": ["mug"]}),
    ("filename, cup, mug\na.jpg, 1, 0\nb.png, 0, 1\n", {"shop/a.jpg": ["cup"], "shop/b.png": ["mug"]}),
    ("datei;cup;mug\na.jpg;0;0\nb.png;1;1\n", {"shop/a.jpg": [], "shop/b.png": ["cup", "mug"]}),
    ("path\tcup\tmug\na.jpg\tTRUE\tFALSE\nb.png\tFalse\tTrue\n", {"shop/a.jpg": ["cup"], "shop/b.png": ["mug"]}),
    ("file,split,cup,mug\na.jpg,train,1,0\nb.png,val,0,1\n", {"shop/a.jpg": ["cup"], "shop/b.png": ["mug"]}),
    ("file,cup,split\na.jpg,1,train\nb.png,0,val\n", {"shop/a.jpg": ["cup"], "shop/b.png": []}),
    ("file,cup,mug\na.jpg,1,0\na.jpg,0,1\n", {"shop/a.jpg": ["cup", "mug"]}),
    ("file,cup,mug\na.jpg,1,0\nb.png,0,2\n", r"line 3: '2' in the column 'mug' is not 0 or 1; write 1 if"),
    ("file,cup,mug\na.jpg,1,0\nb.png,,1\n", r"line 3: '' in the column 'cup' is not 0 or 1"),
    ("file,cup\na.jpg,1\nb.png,\n", r"line 3: '' in the column 'cup' is not 0 or 1"),
    ("file,cup,mug\na.jpg,1,0\n,0,1\n", r"line 3: has no file"),
    ("file,cup,cup\na.jpg,1,0\n", r"line 1: two columns are called 'cup'"),
    ("file,cup,\na.jpg,1,0\n", r"line 1: a column has no name"),
    ("file,cup,mug\na.jpg,yes,no\n", r"line 1 has 3 cells .*or a column of 0 and 1 for each category"),
    ("file,cup,mug\na.jpg,1,0\nb.png,1\n", r"line 1 has 3 cells"),
    ("a.jpg,1,0\nb.png,0,1\n", r"line 1 has 3 cells"),
]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(("text", "expected"), TABLES)
def test_a_table_is_read_as_meant(tmp_path, text, expected, encoding):
    path = tmp_path / "l.csv"
    path.write_bytes(text.replace("\ufeff", "").encode(encoding))
    photos = [*PHOTOS, "[1] x.jpg", "{x}.jpg"]
    if isinstance(expected, str):
        with pytest.raises(DataError, match=rf"l\.csv: {expected}"):
            read_labels(path, photos)
    else:
        labels = read_labels(path, photos)
        assert found(labels) == expected
        assert {name for name, _ in labels.categories} == {name for same in expected.values() for name in same}


def test_a_table_with_a_column_for_each_category_keeps_those_that_no_photo_has_and_its_splits(tmp_path):
    write(tmp_path, {"l.csv": "file,cup,rare,split\na.jpg,1,0,train\nb.png,1,0,test\n"})
    labels = read_labels(tmp_path / "l.csv", PHOTOS)
    assert [name for name, _ in labels.categories] == ["cup", "rare"]
    assert labels.splits == {"shop/a.jpg": "train", "shop/b.png": "test"}
    assert labels.notes == ["l.csv: its cells of 0 and 1 say which photos have cup, rare; they are no labels"]
    assert not labels.exclusive


@pytest.mark.parametrize("first", ["gone.jpg,rare", "photo,cup", "c,rare"])
def test_a_first_line_that_may_be_a_photo_is_no_header(tmp_path, first):
    rows = "".join(f"{i}.jpg,cup\n" for i in range(20))
    write(tmp_path, {"l.csv": f"{first}\n{rows}"})
    labels = read_labels(tmp_path / "l.csv", [*PHOTOS, *(f"{i}.jpg" for i in range(20))])
    assert len(labels.missing) + len(labels.photos) == 21


def test_values_of_xml_that_read_as_meant(tmp_path):
    for mark in ("1", "1.0", "true"):
        write(tmp_path, {"a.xml": voc(size=("100.0", "5e1"), extra=f"<difficult>{mark}</difficult>")})
        labels = read_labels(tmp_path, PHOTOS)
        assert labels.photos["shop/a.jpg"].size == (100, 50)
        assert [a["iscrowd"] for a in placed(labels.photos["shop/a.jpg"], 100, 50)] == [1]
    for size in (("100.5", "50"), ("wide", "50"), ("-100", "50"), ("100", "")):
        write(tmp_path, {"a.xml": voc(size=size)})
        with pytest.raises(DataError, match=f"size is '{size[0]}' x '{size[1]}'"):
            read_labels(tmp_path, PHOTOS)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
def test_a_study_that_is_not_utf8_is_refused_in_one_sentence(tmp_path, encoding):
    path = tmp_path / "study.yaml"
    path.write_bytes("name: mine\n".encode(encoding))
    with pytest.raises(ConfigError) as refused:
        read_yaml(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert "not UTF-8" in str(refused.value)
    assert str(refused.value).endswith("; save the file as UTF-8")
