"""Class folders, official splits and semantic masks, through the import."""

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image
from test_semantic import FORMS, save

from mlssl.data.coco import read_split
from mlssl.data.formats.class_folders import read_class_folders
from mlssl.data.formats.splits import of_folders
from mlssl.data.semantic import IGNORE
from mlssl.errors import DataError
from mlssl.photos import import_photos
from mlssl.photos.discover import read_label_file
from mlssl.photos.matching import Names
from mlssl.photos.report import summary
from mlssl.photos.splits import choose_val, quotas
from mlssl.transfer import dense, linear

SIDE = 20


def photo(path, seed, size=(SIDE, SIDE), **options):
    """A photo of random blobs; photos of other seeds are no near-duplicates."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    Image.fromarray(coarse).resize(size, Image.Resampling.NEAREST).save(path, **options)


def photos(root, names):
    for seed, name in enumerate(names):
        photo(root / name, seed)
    return root


def imported(root, tmp_path, labels=None, **options):
    out = import_photos(root, tmp_path / "out", labels=labels or root, workers=1, near=0, **options)
    return out, json.loads((out / "import.json").read_text())


def labels_of(out, record):
    """Split -> the user's photo -> its categories."""
    found = {}
    for split in ("train", "val"):
        if (out / "annotations" / f"instances_{split}.json").exists():
            read = read_split(out, split)
            rows = read.labels()
            found[split] = {
                record["files"][f"{split}/{image['file_name']}"]: [read.names[j] for j in np.flatnonzero(rows[i])]
                for i, image in enumerate(read.images)
            }
    return found


NAME = st.text("abcxyzäéß日 -_0123456789", min_size=1, max_size=8).map(str.strip).filter(
    lambda name: name and name.lower() not in ("train", "val", "test", "valid")
)  # fmt: skip


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(NAME, st.lists(NAME, min_size=1, max_size=3, unique_by=str.lower), min_size=2, max_size=3),
    st.booleans(),
)
def test_random_class_folders_are_read_back_equal(tmp_path_factory, classes, official):
    root = tmp_path_factory.mktemp("set")
    expected = {}
    for split in ("train/", "val/") if official else ("",):
        for category, names in classes.items():
            expected |= {f"{split}{category}/{name}.png": category for name in names}
    photos(root / "photos", expected)
    out, record = imported(root / "photos", root)
    found = labels_of(out, record)
    assert {n: c for split in found.values() for n, c in split.items()} == {n: [c] for n, c in expected.items()}
    assert read_split(out, "train").exclusive
    if official:
        assert all(name.startswith(f"{split}/") for split, names in found.items() for name in names)


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_random_masks_are_imported_equal(tmp_path_factory, data):
    root = tmp_path_factory.mktemp("set")
    form = data.draw(st.sampled_from(sorted(FORMS)))
    values = data.draw(st.lists(st.integers(0, FORMS[form] - 1), min_size=2, max_size=4, unique=True))
    form_of_name = data.draw(st.sampled_from(["{}", "{}_mask", "{}-label", "{}_gt", "mask_{}", "gt-{}", "{}.jpg"]))
    rng, expected = np.random.default_rng(data.draw(st.integers(0, 99))), {}
    for i in range(5):
        pixels = rng.choice(values, (SIDE, SIDE))
        photo(root / "photos" / f"p{i}.jpg", i)
        save(root / "masks" / f"{form_of_name.format(f'p{i}')}.png", pixels, form)
        expected[f"p{i}.jpg"] = pixels
    (root / "masks" / "classes.txt").write_text("".join(f"{v} class {v}\n" for v in values))
    out, record = imported(root / "photos", root, labels=root / "masks")
    train, val = read_split(out, "train"), read_split(out, "val")
    assert dense.missing(train, val) is None
    for split in (train, val):
        for i, image in enumerate(split.images):
            mask, pixels = (
                split.semantic_mask(i),
                expected[record["files"][f"{split.folder.name}/{image['file_name']}"]],
            )
            assert [[split.classes[v] for v in row] for row in mask] == [[f"class {v}" for v in r] for r in pixels]


LAYOUTS = {
    "classes": (["cat/1.jpg", "dog/1.jpg", "dog/2.jpg"], {"cat/1.jpg": "cat", "dog/1.jpg": "dog"}, {}),
    "inside a folder": (["images/cat/1.jpg", "images/dog/1.jpg"], {"images/cat/1.jpg": "cat"}, {}),
    "deeper photos": (["cat/a/b/1.jpg", "dog/1.jpg"], {"cat/a/b/1.jpg": "cat"}, {}),
    "train and val": (
        ["train/cat/1.jpg", "train/dog/1.jpg", "val/cat/2.jpg"],
        {"train/dog/1.jpg": "dog"},
        {"val/cat/2.jpg": "val"},
    ),
    "Train and Test inside a folder": (
        ["data/Train/cat/1.jpg", "data/Train/dog/1.jpg", "data/Test/cat/2.jpg"],
        {"data/Test/cat/2.jpg": "cat"},
        {"data/Test/cat/2.jpg": "test", "data/Train/dog/1.jpg": "train"},
    ),
    "splits below the classes": (
        ["cat/train/1.jpg", "dog/train/1.jpg", "dog/valid/3.jpg"],
        {"dog/valid/3.jpg": "dog"},
        {"dog/valid/3.jpg": "val"},
    ),
    "unlabelled test": (
        ["train/cat/1.jpg", "train/dog/1.jpg", "test/7.jpg", "valid/cat/9.jpg"],
        {"test/7.jpg": None, "valid/cat/9.jpg": "cat"},
        {"test/7.jpg": "test"},
    ),
    "a class named train": (["train/1.jpg", "bus/1.jpg", "car/2.jpg"], {"train/1.jpg": "train"}, {}),
    "loose photos": (["cat/1.jpg", "dog/1.jpg", "3.jpg"], {"3.jpg": None, "cat/1.jpg": "cat"}, {}),
}  # fmt: skip


@pytest.mark.parametrize("case", LAYOUTS)
def test_layouts_of_class_folders(tmp_path, case):
    names, categories, splits = LAYOUTS[case]
    found = read_class_folders(tmp_path, names)
    assert {name: found.categories.get(name) for name in categories} == categories
    assert {name: found.splits.get(name) for name in splits} == splits
    assert bool(found.splits) == bool(splits)


NAMES = ["apple pie/1.jpg", "apple pie/2.jpg", "sushi/1.jpg", "sushi/2.jpg", "sushi/3.jpg", "sushi/4.jpg"]
A, S = "apple pie", "sushi"
LISTS = {
    "paths": {"train.txt": f"{A}/1.jpg\n{S}/1.jpg\n", "test.txt": f"{A}/2.jpg\n{S}/2.jpg"},
    "without suffix, in meta": {"meta/train.txt": f"{A}/1\n{S}/1\n", "meta/test.txt": f"{A}/2\n{S}/2\n"},
    "with class numbers": {"train.txt": f"{A}/1.jpg 0\n{S}/1.jpg 1", "val.txt": f"{A}/2.jpg 0\n{S}/2.jpg 1"},
    "TrainImages": {"TrainImages.txt": f"{A}/1.jpg\n{S}/1.jpg", "TestImages.txt": f"{A}/2.jpg\r\n{S}/2.jpg"},
    "backslashes": {"train_list.txt": f".\\{S}\\1.jpg\n{A}\\1.jpg", "val_list.txt": f"{S}\\2.jpg\n{A}\\2.jpg"},
}


@pytest.mark.parametrize("case", LISTS)
def test_official_lists_decide_the_split(tmp_path, case):
    root = photos(tmp_path / "photos", NAMES)
    (root / "meta").mkdir()
    for name, text in {**LISTS[case], "requirements.txt": "torch", "notes.txt": "sushi is fish"}.items():
        (root / name).write_text(text)
    out, record = imported(root, tmp_path)
    assert labels_of(out, record) == {
        "train": {"apple pie/1.jpg": ["apple pie"], "sushi/1.jpg": ["sushi"]},
        "val": {"apple pie/2.jpg": ["apple pie"], "sushi/2.jpg": ["sushi"]},
    }
    assert record["labels"]["format"] == "class folders"
    assert (record["train"], record["val"]) == (4, 2), "photos on no list are for pretraining only"
    assert "official, validation on " in summary(record, out)


def test_lists_in_meta_stand_beside_json_that_is_not_read(tmp_path):
    root = photos(tmp_path / "photos", [f"images/{name}" for name in NAMES])
    (root / "meta").mkdir()
    for name, text in {
        "train.json": "{}",
        "classes.txt": "apple_pie\nsushi\n",
        "labels.txt": "Apple pie\n",
    }.items():
        (root / "meta" / name).write_text(text)
    (root / "meta" / "train.txt").write_text(f"{A}/1\n{S}/1\n{S}/3\n")
    (root / "meta" / "test.txt").write_text(f"{A}/2\n{S}/2\n")
    out, record = imported(root, tmp_path)
    assert labels_of(out, record)["val"] == {f"images/{A}/2.jpg": [A], f"images/{S}/2.jpg": [S]}


@pytest.mark.parametrize("name", ["annotations.json", "sushi/1.xml", "sushi/2.txt", "sushi/3.json"])
def test_folders_with_labels_of_another_kind_are_not_class_folders(tmp_path, name):
    root = photos(tmp_path / "photos", NAMES)
    assert read_label_file(root, Names(NAMES), root).format == "class folders"
    (root / name).write_text("{}")
    with pytest.raises(DataError):
        read_label_file(root, Names(NAMES), root)


def test_a_list_of_test_alone_leaves_the_rest_to_train(tmp_path):
    root = photos(tmp_path / "photos", NAMES)
    (root / "test.txt").write_text("sushi/4\napple pie/2\n")
    out, record = imported(root, tmp_path)
    assert labels_of(out, record)["val"] == {"sushi/4.jpg": ["sushi"], "apple pie/2.jpg": ["apple pie"]}
    assert len(labels_of(out, record)["train"]) == 4


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train.txt": "sushi/1\nsushi/9", "test.txt": "sushi/2"}, r"train\.txt: line 2: 'sushi/9' names no photo"),
        ({"train.txt": "sushi/1\n1", "test.txt": "sushi/2"}, r"train\.txt: line 2: '1' may be any of 2 photos"),
        (
            {"train.txt": "sushi/1\nsushi/2", "val.txt": "sushi/2"},
            r"val\.txt: line 1: 'sushi/2' is in split val, but",
        ),
        (
            {"train.txt": "sushi/1"},
            r"train\.txt: lists photos of train, but no list is of val or test; add val\.txt",
        ),
        ({"train.txt": "sushi/1", "val.txt": "apple pie/2"}, "'apple pie' is in split val and not in train"),
    ],
)
def test_lists_that_cannot_be_used_are_refused(tmp_path, files, message):
    root = photos(tmp_path / "photos", NAMES)
    for name, text in files.items():
        (root / name).write_text(text)
    with pytest.raises(DataError, match=message):
        imported(root, tmp_path)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.jpg", "b.jpg"], r"has one folder of photos or none \(none\); give a folder for each class"),
        (["cat/a.jpg", "cat/b.jpg"], r"has one folder of photos or none \('cat'\)"),
        (["train/cat/a.jpg", "val/cat/b.jpg"], r"has one folder of photos or none \('cat'\)"),
        (
            ["train/cat/a.jpg", "val/cat/b.jpg", "extra/c.jpg"],
            "has splits such as 'train' beside 'extra'; move that out",
        ),
    ],
)
def test_folders_without_classes_are_refused(tmp_path, names, message):
    root = photos(tmp_path / "photos", names)
    with pytest.raises(DataError, match=message):
        imported(root, tmp_path)


def test_official_folders_with_an_unlabelled_test_are_validated_on_val(tmp_path):
    names = [*(f"train/{c}/{i}.jpg" for c in ("cat", "dog") for i in range(3)), "val/cat/8.jpg", "val/dog/8.jpg"]
    root = photos(tmp_path / "photos", [*names, "test/1.jpg", "test/2.jpg"])
    out, record = imported(root, tmp_path)
    assert sorted(labels_of(out, record)["val"]) == ["val/cat/8.jpg", "val/dog/8.jpg"]
    assert record["labels"]["held_back"] == 2, "test photos are not trained on"
    assert record["labels"]["split"] == "official, validation on val: 6 train, 2 val"


def test_test_is_validated_on_and_val_trained_on(tmp_path):
    names = [
        f"{s}/{c}/{i}.jpg" for s in ("train", "validation", "testing") for c in ("cat", "dog") for i in range(2)
    ]
    out, record = imported(photos(tmp_path / "photos", names), tmp_path)
    found = labels_of(out, record)
    assert {name.split("/")[0] for name in found["train"]} == {"train", "validation"}
    assert {name.split("/")[0] for name in found["val"]} == {"testing"}


def test_near_duplicates_across_official_splits_are_reported(tmp_path):
    root = photos(tmp_path / "photos", ["train/cat/1.jpg", "train/dog/1.jpg", "val/dog/2.jpg"])
    photo(root / "val" / "cat" / "2.jpg", 0)
    out, record = imported(root, tmp_path)
    assert record["labels"]["across"] == 1
    assert "1 groups of near-duplicates are in both official splits" in summary(record, out)


@pytest.mark.parametrize(
    ("text", "val"),
    [
        ("file,label,split\n0.jpg,a,train\n1.jpg,b,train\n2.jpg,a,val\n3.jpg,b,val\n", {"2.jpg", "3.jpg"}),
        ("image,split,label\n0.jpg,test,a\n1.jpg,test,b\n2.jpg,TRAIN,a\n3.jpg,Train,b\n", {"0.jpg", "1.jpg"}),
        ("file,class,split\n0.jpg,a,train\n1.jpg,b,train\n2.jpg,a,valid\n3.jpg,b,\n", {"2.jpg"}),
        ("path,label,split\n0.jpg,a;b,train\n0.jpg,c,train\n1.jpg,a,testing\n2.jpg,,train\n", {"1.jpg"}),
        ("photo;tags;split\n0.jpg;a;train\n1.jpg;b;train\n2.jpg;a;val\n", {"2.jpg"}),
        ("sep=;\nphoto;split;class\n0.jpg;train;a\n1.jpg;train;b\n2.jpg;val;a\n", {"2.jpg"}),
        ("photo\tclass\tsplit\n0.jpg\ta\ttrain\n1.jpg\tb\ttrain\n2.jpg\ta\tval\n", {"2.jpg"}),
    ],
)
def test_a_split_column_decides_the_split(tmp_path, text, val):
    root = photos(tmp_path / "photos", [f"{i}.jpg" for i in range(4)])
    path = tmp_path / "labels.csv"
    path.write_text(text)
    out, record = imported(root, tmp_path, labels=path)
    assert set(labels_of(out, record)["val"]) == val
    assert read_split(out, "train").exclusive == ("class" in text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,label,split\n0.jpg,a,dev\n", "line 2: split 'dev' is not known; give one of train, training"),
        (
            "file,label,split\n0.jpg,a,train\n0.jpg,b,val\n",
            "line 3: '0.jpg' is in two splits, train and val; give one",
        ),
        ("file,label,split\n0.jpg,a\n1.jpg,b,val,x\n", "line 3 has 4 cells"),
        ("file,class\n0.jpg,a;b\n", "line 2: '0.jpg' has 2 labels, but the column is called class; give one"),
        ("file,class,split\n0.jpg,,train\n", "line 2: '0.jpg' has 0 labels, but the column is called class"),
        (
            "file,label,split\n0.jpg,a,train\n1.jpg,b,train\n",
            "no labelled photo of the official split 'val' can be used",
        ),
        ("file,label,split\n0.jpg,a,test\n1.jpg,b,test\n", "split 'train' can be used"),
    ],
)
def test_bad_split_columns_are_refused(tmp_path, text, message):
    root = photos(tmp_path / "photos", ["0.jpg", "1.jpg"])
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        imported(root, tmp_path, labels=path)


def test_without_official_splits_each_category_has_its_share(tmp_path):
    counts = {"park": 40, "desert": 40, "harbour": 8, "cave": 4}
    names = [f"{name}/{i}.jpg" for name, count in counts.items() for i in range(count)]
    out, record = imported(photos(tmp_path / "photos", names), tmp_path, val_share=0.25)
    assert {c["name"]: c["val"] for c in record["categories"]} == {
        "park": 10,
        "desert": 10,
        "harbour": 2,
        "cave": 1,
    }
    assert record["labels"]["split"] == "drawn, stratified by category"
    assert linear.missing(read_split(out, "train"), read_split(out, "val")) is None


def old_choice(group, labelled, share, seed):
    """The draw before stratification, as a slow reference."""
    from mlssl.seeds import seed_of

    wanted = max(1, round(share * labelled.sum()))
    firsts, counts = np.unique(group[labelled], return_counts=True)
    chosen, taken = [], 0
    for i in np.random.default_rng(seed_of(seed, "import", "val")).permutation(len(firsts)):
        if taken + counts[i] <= wanted and len(chosen) + 1 < len(firsts):
            chosen.append(firsts[i])
            taken += counts[i]
    return np.isin(group, chosen or [firsts[np.argmin(counts)]])


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.booleans(), st.integers(0, 3)), min_size=2, max_size=40), st.data()
)
def test_draws(images, data):
    group, labelled, category = (np.array(values) for values in zip(*images, strict=True))
    category = np.where(labelled, category, -1)
    share, seed = data.draw(st.sampled_from([0.1, 0.25, 0.5])), data.draw(st.integers(0, 3))
    if len(np.unique(group[labelled])) < 2:
        return
    assert (choose_val(group, labelled, share, seed) == old_choice(group, labelled, share, seed)).all()
    one = np.where(labelled, 2, -1)
    assert (choose_val(group, labelled, share, seed, one) == old_choice(group, labelled, share, seed)).all()
    in_val = choose_val(group, labelled, share, seed, category)
    assert not np.intersect1d(group[in_val], group[~in_val]).size, "near-duplicates stay together"
    assert (in_val & labelled).any()
    assert (~in_val & labelled).any()
    alone = np.unique(group).size == len(group)
    for c in np.unique(category[labelled]) if alone else ():
        mine = category == c
        assert (in_val & mine).sum() <= np.ceil(max(1, round(share * labelled.sum())) * mine.sum() / labelled.sum())


def test_quotas_are_shares_and_add_up():
    assert quotas(np.array([200, 200]), 100).tolist() == [50, 50]
    assert quotas(np.array([7, 2, 1]), 3).tolist() == [2, 1, 0]
    assert quotas(np.array([1, 1, 1, 1]), 2).sum() == 2


def test_folders_of_splits_are_those_of_all_photos():
    assert of_folders(["train/images/a.jpg", "valid/images/b.jpg"])[0]["valid/images/b.jpg"] == "val"
    assert of_folders(["images/train/a.jpg", "images/test/b.jpg"])[1] == 1
    for names in ([], ["a.jpg"], ["train/a.jpg"], ["train/a.jpg", "bus/b.jpg"], ["val/a.jpg", "test/b.jpg"]):
        assert of_folders(names) is None


# Semantic masks


def semantic_set(tmp_path, count=6, names=("p{}.jpg",)):
    rng = np.random.default_rng(0)
    for i in range(count):
        name = names[i % len(names)].format(i)
        photo(tmp_path / "photos" / name, i)
        save((tmp_path / "masks" / name).with_suffix(".png"), rng.choice([0, 1, 9], (SIDE, SIDE)))
    (tmp_path / "masks" / "classes.txt").write_text("0 sky\n1 road\n2 car\n9 void\n")
    return tmp_path / "photos"


def test_masks_are_labels_of_photos(tmp_path, capsys):
    root = semantic_set(tmp_path, 8)
    photo(root / "unlabelled.jpg", 99)
    out, record = imported(root, tmp_path, labels=tmp_path / "masks")
    train, val = read_split(out, "train"), read_split(out, "val")
    assert (len(train), len(val)) == (6, 2)
    assert train.classes == ("sky", "road", "car")
    assert (train.semantic_mask(0) == IGNORE).any()
    assert {c["name"]: (c["train"], c["val"]) for c in record["categories"]} == {
        **{"sky": (6, 2), "road": (6, 2), "car": (0, 0)},
    }
    assert len(list((out / "semantic").glob("*/*.png"))) == 8
    assert "labels      semantic masks: 6 photos train, 2 val" in capsys.readouterr().out


def test_masks_in_folders_of_splits(tmp_path):
    root = semantic_set(tmp_path, 6, ("train/{}.jpg", "train/{}.jpg", "test/{}.jpg"))
    out, record = imported(root, tmp_path, labels=tmp_path / "masks")
    assert {record["files"][f"val/{im['file_name']}"] for im in read_split(out, "val").images} == {
        *("test/2.jpg", "test/5.jpg"),
    }


@pytest.mark.parametrize(("size", "values"), [((SIDE, SIDE), 2), ((SIDE, SIDE), 200), ((7, 9), 2)])
def test_masks_below_the_folder_of_photos_are_labels_and_no_photos(tmp_path, size, values):
    """Whatever `find_masks` takes them for: with many values, or with other sides than the photo's."""
    root = semantic_set(tmp_path)
    (tmp_path / "masks").rename(root / "masks")
    (root / "masks" / "classes.txt").write_text("".join(f"class {i}\n" for i in range(200)))
    save(root / "masks" / "p1.png", np.arange(size[0] * size[1]).reshape(size) % values)
    if size != (SIDE, SIDE):
        with pytest.raises(DataError, match=r"p1\.png: has 9 x 7 pixels, its photo 'p1\.jpg' has 20 x 20"):
            imported(root, tmp_path, labels=root / "masks")
        return
    out, record = imported(root, tmp_path, labels=root / "masks")
    assert record["labels"]["format"] == "semantic masks"
    assert (record["used"], record["masks"]) == (6, 6)
    assert len(list((out / "semantic").glob("*/*.png"))) == 6


@pytest.mark.parametrize("seed", range(4))
def test_a_class_of_one_mask_is_trained_on(tmp_path, seed):
    root = semantic_set(tmp_path, 8)
    for name in ("p1.png", "p3.png"):
        values = np.zeros((SIDE, SIDE))
        values[0, 0] = 2 if name == "p3.png" else 1
        save(tmp_path / "masks" / name, values)
    out, _ = imported(root, tmp_path, labels=tmp_path / "masks", seed=seed, val_share=0.4)
    assert dense.missing(read_split(out, "train"), read_split(out, "val")) is None


def test_a_turned_photo_has_the_mask_of_its_upright_view(tmp_path):
    root = semantic_set(tmp_path, 4)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    photo(root / "p0.jpg", 0, (40, 20), exif=exif)
    values = np.zeros((40, 20))
    values[:10] = 1
    save(tmp_path / "masks" / "p0.png", values)
    out, record = imported(root, tmp_path, labels=tmp_path / "masks")
    file = next(file for file, name in record["files"].items() if name == "p0.jpg")
    split = read_split(out, file.split("/")[0])
    i = [im["file_name"] for im in split.images].index(file.split("/")[1])
    assert split.pixels(i).shape == (40, 20, 3)
    np.testing.assert_array_equal(split.semantic_mask(i), values)


BAD = {
    "another size": (
        lambda r: save(r / "masks" / "p1.png", np.zeros((7, 9))),
        r"masks/p1\.png: has 9 x 7 pixels, its photo 'p1\.jpg' has 20 x 20; give a mask of the photo's size",
    ),
    "a turned mask": (
        lambda r: [photo(r / "photos" / "p1.jpg", 1, (30, 20)), save(r / "masks" / "p1.png", np.zeros((30, 20)))],
        r"masks/p1\.png: has 20 x 30 pixels",
    ),
    "a value without a class": (
        lambda r: save(r / "masks" / "p2.png", np.full((SIDE, SIDE), 7)),
        r"masks/p2\.png: pixel \(0, 0\) has value 7, which has no class; add the line '7 <name>' to .*classes\.txt",
    ),
    "no classes file": (lambda r: (r / "masks" / "classes.txt").unlink(), r"masks: has PNGs and no classes\.txt"),
    "a bad classes file": (
        lambda r: (r / "masks" / "classes.txt").write_text("sky\n"),
        r"classes\.txt: names 1 classes; give 2 to 255",
    ),
    "not a PNG": (lambda r: (r / "masks" / "p0.png").write_bytes(b"GIF89a"), r"masks/p0\.png: is not a PNG"),
    "JPEGs": (
        lambda r: [path.rename(path.with_suffix(".jpg")) for path in (r / "masks").glob("*.png")],
        r"masks/p0\.jpg: is a JPEG, whose compression changes the values of a mask; save masks as PNG",
    ),
    "JPEGs called PNG": (
        lambda r: Image.new("L", (SIDE, SIDE)).save(r / "masks" / "p3.png", format="JPEG"),
        r"masks/p3\.png: is a JPEG, whose compression",
    ),
    "TIFFs with a mark": (
        lambda r: [path.rename(path.with_name(f"{path.stem}_mask.tif")) for path in (r / "masks").glob("*.png")],
        r"masks/p0_mask\.tif: is not a PNG, which masks have to be; convert the masks",
    ),
    "masks of other photos": (
        lambda r: [(r / "masks" / f"p{i}.png").rename(r / "masks" / f"q{i}.png") for i in range(3)],
        r"masks: 3 of 6 labelled photos are not found",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_masks_that_do_not_fit_are_refused(tmp_path, case):
    root = semantic_set(tmp_path)
    change, message = BAD[case]
    change(tmp_path)
    with pytest.raises(DataError, match=message) as error:
        imported(root, tmp_path, labels=tmp_path / "masks")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_what_is_no_png_and_what_is_ignored_is_named(tmp_path, capsys):
    root = semantic_set(tmp_path)
    (tmp_path / "masks" / "p1.png").unlink()
    Image.new("L", (SIDE, SIDE)).save(tmp_path / "masks" / "p1.jpg")
    save(tmp_path / "masks" / "p2.png", np.full((SIDE, SIDE), 9))
    imported(root, tmp_path, labels=tmp_path / "masks")
    said = capsys.readouterr().out
    assert "not read    1 image is no PNG: p1.jpg" in said
    assert "CAUTION     1 masks have only pixels that are ignored (of p2.jpg)" in said


@pytest.mark.parametrize("name", ["cafe\u0301", "caf\u00e9 ", " caf\u00e9"])
def test_class_folders_of_one_name_are_one_class(tmp_path, name):
    for i, place in enumerate(("train/caf\u00e9", f"val/{name}", "train/tea", "val/tea")):
        photo(tmp_path / "photos" / place / f"{i}.jpg", i)
    _, record = imported(tmp_path / "photos", tmp_path, labels=tmp_path / "photos")
    assert [(c["name"], c["train"], c["val"]) for c in record["categories"]] == [("caf\u00e9", 1, 1), ("tea", 1, 1)]


def test_a_refusal_after_photos_were_written_leaves_nothing(tmp_path):
    for i, place in enumerate(("train/cup", "train/tea", "val/bowl")):
        photo(tmp_path / "photos" / place / f"{i}.jpg", i)
    with pytest.raises(DataError, match="category 'bowl' is in split val and not in train"):
        imported(tmp_path / "photos", tmp_path, labels=tmp_path / "photos")
    assert not [path for path in tmp_path.iterdir() if path.name not in ("photos", ".out.lock")]


def test_masks_do_not_say_who_is_to_be_hidden(tmp_path):
    root = semantic_set(tmp_path)
    with pytest.raises(DataError, match=r"masks: has neither XML nor txt files"):
        import_photos(root, tmp_path / "out", people=tmp_path / "masks", anonymise="blur", workers=1)
