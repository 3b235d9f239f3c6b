"""A data set's fingerprint: what changes it and what does not, and that a second look reads only what changed."""

import json
import os
import shutil
import time
import unicodedata
from pathlib import Path

import pytest

from mlssl.data.images import find_images
from mlssl.errors import DataError
from mlssl.study import fingerprint as module
from mlssl.study.fingerprint import fingerprint

OLD = 1_500_000_000
TRAIN, VAL = "train2017", "val2017"
FILES = {
    "train2017/a.jpg": "one",
    "train2017/b.jpg": "two",
    "train2017/deep/er/c.png": "three",
    "val2017/d.jpg": "four",
    "annotations/instances_train2017.json": "{}",
    "annotations/instances_val2017.json": "{} ",
    "semantic/val2017/d.png": "five",
}


def write(path, text, when=OLD):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (when, when))


@pytest.fixture
def root(tmp_path):
    for name, text in FILES.items():
        write(tmp_path / "data" / name, text)
    return tmp_path / "data"


@pytest.fixture
def reads(monkeypatch):
    """The names of the files whose contents are read, in order."""
    names, content = [], module._content
    monkeypatch.setattr(module, "_content", lambda path: names.append(path.name) or content(path))
    return names


@pytest.fixture
def look(root, tmp_path):
    return lambda: fingerprint(root, TRAIN, VAL, cache=tmp_path / "cache")


def edit(name, text, when=OLD + 1):
    return lambda root: write(root / name, text, when)


def remove(name):
    return lambda root: (root / name).unlink()


def keep_times(root):
    """Other contents of the same size and modification time; the change time tells."""
    path = root / "train2017/a.jpg"
    before = path.stat().st_ctime_ns
    while path.stat().st_ctime_ns == before:
        write(path, "eno")


BOTH, ONLY_ALL, NONE = (True, True), (False, True), (False, False)
EDITS = {
    "touch": (lambda root: os.utime(root / "train2017/a.jpg"), NONE, [], ["a.jpg"]),
    "rewritten with the same contents": (edit("train2017/a.jpg", "one"), NONE, [], ["a.jpg"]),
    "hidden file": (edit("train2017/.DS_Store", "x"), NONE, [], []),
    "hidden folder": (edit("train2017/.thumbs/a.jpg", "x"), NONE, [], []),
    "file beside the parts": (edit("README.txt", "x"), NONE, [], []),
    "contents": (
        edit("train2017/a.jpg", "ONE"),
        BOTH,
        ["train2017: 1 of 3 images has other contents (a.jpg)"],
        ["a.jpg"],
    ),
    "contents, size and time kept": (
        keep_times,
        BOTH,
        ["train2017: 1 of 3 images has other contents (a.jpg)"],
        ["a.jpg"],
    ),
    "contents, deep": (
        edit("train2017/deep/er/c.png", "3"),
        BOTH,
        ["train2017: 1 of 3 images has other contents (deep/er/c.png)"],
        ["c.png"],
    ),
    "added": (edit("train2017/new/e.jpg", "six"), BOTH, ["train2017: 1 image more (new/e.jpg)"], ["e.jpg"]),
    "removed": (remove("train2017/b.jpg"), BOTH, ["train2017: 1 image fewer (b.jpg)"], []),
    "renamed": (
        lambda root: (root / "train2017/a.jpg").rename(root / "train2017/z.jpg"),
        BOTH,
        ["train2017: 1 image more (z.jpg), 1 image fewer (a.jpg)"],
        ["z.jpg"],
    ),
    "two swapped": (
        lambda root: [edit("train2017/a.jpg", "two")(root), edit("train2017/b.jpg", "one")(root)],
        BOTH,
        ["train2017: 2 of 3 images have other contents (a.jpg, b.jpg)"],
        ["a.jpg", "b.jpg"],
    ),
    "val image": (
        edit("val2017/d.jpg", "FOUR"),
        ONLY_ALL,
        ["val2017: 1 of 1 image has other contents (d.jpg)"],
        ["d.jpg"],
    ),
    "train annotations": (
        edit("annotations/instances_train2017.json", "[]"),
        ONLY_ALL,
        ["annotations/instances_train2017.json has other contents"],
        ["instances_train2017.json"],
    ),
    "val annotations removed": (
        remove("annotations/instances_val2017.json"),
        ONLY_ALL,
        ["annotations/instances_val2017.json is gone"],
        [],
    ),
    "semantic mask": (
        edit("semantic/val2017/d.png", "5"),
        ONLY_ALL,
        ["semantic/val2017: 1 of 1 image has other contents (d.png)"],
        ["d.png"],
    ),
    "semantic masks of train": (
        edit("semantic/train2017/a.png", "5"),
        ONLY_ALL,
        ["semantic/train2017 is new"],
        ["a.png"],
    ),
    "classes of semantic masks": (
        edit("semantic/classes.txt", "sky"),
        ONLY_ALL,
        ["semantic/classes.txt is new"],
        ["classes.txt"],
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_what_an_edit_changes(root, look, reads, name):
    change, differ, sentences, read = EDITS[name]
    before, said = look()
    assert said == []
    reads.clear()
    change(root)
    after, said = look()
    assert (before.images != after.images, before.all != after.all) == differ
    assert said == [f"{root}: {sentence}" for sentence in sentences]
    assert sorted(reads) == read


def test_an_unchanged_set_is_not_read_again(root, look, reads, tmp_path):
    first = look()
    assert len(reads) == len(FILES)
    assert look() == first
    assert len(reads) == len(FILES)
    shutil.rmtree(root)


def test_parts(look):
    found = look()[0]
    assert list(found.parts) == [
        "annotations/instances_train2017.json",
        "annotations/instances_val2017.json",
        "semantic/classes.txt",
        "semantic/train2017/",
        "semantic/val2017/",
        "train2017/",
        "val2017/",
    ]
    assert [key for key, digest in found.parts.items() if digest == "-"] == [
        "semantic/classes.txt",
        f"semantic/{TRAIN}/",
    ]


def test_a_copy_elsewhere_is_the_same(root, look, tmp_path):
    copy = tmp_path / "else" / "where"
    shutil.copytree(root, copy, copy_function=shutil.copyfile)  # With times of now
    assert fingerprint(copy, TRAIN, VAL, cache=tmp_path / "cache") == look()


def test_names_of_splits_do_not_count(root, look, tmp_path):
    other = tmp_path / "other"
    for name, text in FILES.items():
        write(other / name.replace(TRAIN, "learn").replace(VAL, "test"), text)
    found = fingerprint(other, "learn", "test", cache=tmp_path / "cache")[0]
    assert (found.images, found.all) == (look()[0].images, look()[0].all)


def test_one_split_for_both(root, tmp_path):
    found = fingerprint(root, TRAIN, TRAIN, cache=tmp_path)[0]
    assert len(found.parts) == 4


def test_photos_without_labels(root, tmp_path, look):
    images = look()[0].images
    for name in ("val2017", "annotations", "semantic"):
        shutil.rmtree(root / name)
    found, said = look()
    assert found.images == images
    assert set(found.parts.values()) == {"-", found.parts[f"{TRAIN}/"]}
    assert said == [
        f"{root}: {name} is gone"
        for name in (VAL, *(f"annotations/instances_{split}.json" for split in (TRAIN, VAL)), f"semantic/{VAL}")
    ]


@pytest.mark.parametrize("missing", ["", TRAIN])
def test_no_training_images(root, look, missing):
    shutil.rmtree(root / missing)
    with pytest.raises(DataError, match=f"{root}.*: no such folder; give"):
        look()


def test_what_cannot_be_read(root, look, monkeypatch):
    def fail(path):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(module, "_content", fail)
    with pytest.raises(DataError, match=r"train2017: cannot be read \(Input/output error\); make it readable"):
        look()


def test_names_in_nfc_and_nfd(root, look, tmp_path, reads):
    names = ["Käse.jpg", "été/ñ.jpg"]
    for form in ("NFC", "NFD"):
        for name in names:
            write(tmp_path / form / TRAIN / unicodedata.normalize(form, name), name)
    same = [fingerprint(tmp_path / form, TRAIN, VAL, cache=tmp_path / "cache")[0] for form in ("NFC", "NFD")]
    assert same[0] == same[1]
    write(tmp_path / "NFC" / TRAIN / unicodedata.normalize("NFD", names[0]), "beside its twin")
    assert fingerprint(tmp_path / "NFC", TRAIN, VAL, cache=tmp_path / "cache")[0] != same[0]


def test_names_that_are_not_unicode(root, look, reads):
    path = root / TRAIN / os.fsdecode(b"\xff\xfe.jpg")
    try:
        write(path, "x")
    except OSError:
        pytest.skip("this file system takes only Unicode")
    before = look()[0]
    reads.clear()
    assert look() == (before, [])
    assert not reads
    write(path, "y", OLD + 1)
    found, said = look()
    assert found != before
    assert said == [f"{root}: {TRAIN}: 1 of 4 images has other contents (??.jpg)"]


def test_the_listing_is_that_of_find_images(root, tmp_path):
    train, away = root / TRAIN, tmp_path / "away"
    for name in ("x/1.jpg", "x/.hidden/2.jpg", "a/3.jpg", "a-b/4.jpg"):
        write(away / name, name)
    (train / "link").symlink_to(away)
    (train / "another").symlink_to(away)  # The same folder twice: only the first by name is entered.
    (train / "loop").symlink_to(train)
    (train / "file.jpg").symlink_to(away / "x/1.jpg")
    assert sorted(module._scan(train)) == sorted(p.relative_to(train).as_posix() for p in find_images(train))
    before = sorted(module._scan(train))
    (train / "dangling.jpg").symlink_to(tmp_path / "nothing")
    assert sorted(module._scan(train)) == before
    assert fingerprint(root, TRAIN, VAL, cache=tmp_path / "cache")[0].images


def test_a_link_led_elsewhere_is_noticed(root, look, tmp_path):
    for name in ("this", "that"):
        write(tmp_path / name / "1.jpg", name)
    (root / TRAIN / "link").symlink_to(tmp_path / "this")
    before = look()[0]
    (root / TRAIN / "link").unlink()
    (root / TRAIN / "link").symlink_to(tmp_path / "that")
    assert look()[1] == [f"{root}: {TRAIN}: 1 of 4 images has other contents (link/1.jpg)"]
    assert look()[0] != before


def half(text):
    return text[: len(text) // 2]


def other_version(text):
    parts = json.loads(text)["parts"]
    return json.dumps({"parts": parts, "digest": module.digest_of([module.VERSION + 1, parts])})


def other_name(text):
    return text.replace("a.jpg", "x.jpg")


@pytest.mark.parametrize(
    "damage", [half, other_name, other_version, lambda text: "", lambda text: "{}", lambda text: "[" * 100_000]
)
def test_a_cache_that_cannot_be_read_is_replaced(look, tmp_path, reads, damage):
    before = look()
    (file,) = (tmp_path / "cache").iterdir()
    file.write_text(damage(file.read_text()))
    reads.clear()
    assert look() == before
    assert len(reads) == len(FILES)
    assert look() == before
    assert len(reads) == len(FILES)


def test_a_cache_that_cannot_be_written_costs_only_time(root, tmp_path, reads, look):
    (tmp_path / "file").write_text("no folder")
    for _ in range(2):
        assert fingerprint(root, TRAIN, VAL, cache=tmp_path / "file") == look()
    assert len(reads) == 3 * len(FILES)


@pytest.mark.parametrize("ago", [0, 1.5, -60])
def test_a_file_just_modified_is_read_again(root, look, monkeypatch, reads, ago):
    """On a coarse clock its times may stay while its contents change; here the scan gives the same times again."""
    now = time.time()
    write(root / TRAIN / "a.jpg", "one", now - ago)
    before, scan = look()[0], module._scan
    seen = scan(root / TRAIN)
    monkeypatch.setattr(module, "_scan", lambda top: seen if top == root / TRAIN else scan(top))
    write(root / TRAIN / "a.jpg", "eno")
    reads.clear()
    found, said = look()
    assert reads == ["a.jpg"]
    assert found.images != before.images
    assert said == [f"{root}: {TRAIN}: 1 of 3 images has other contents (a.jpg)"]
    monkeypatch.setattr(time, "time_ns", lambda: int((now + 100) * 1e9))  # Later, all is settled.
    look()
    reads.clear()
    assert look() == (found, [])
    assert not reads


def test_a_large_part_goes_by_times(root, look, monkeypatch, reads):
    small, _ = look()
    monkeypatch.setattr(module, "MAX_READ", 10)  # The training images have 11 bytes, all others fewer.
    reads.clear()
    before, _ = look()
    assert before.images != small.images
    assert [key for key in before.parts if before.parts[key] != small.parts[key]] == [f"{TRAIN}/"]
    assert look() == (before, [])
    os.utime(root / TRAIN / "a.jpg", (OLD + 5, OLD + 5))
    found, said = look()
    assert found.images != before.images
    assert said == [f"{root}: {TRAIN}: 1 of 3 images has other sizes or modification times (a.jpg)"]
    os.utime(root / TRAIN / "a.jpg", (OLD, OLD))
    assert look()[0] == before
    keep_times(root)
    assert look() == (before, [])  # Documented: not noticed.
    assert not reads


def test_a_part_that_grows_large(root, look, monkeypatch):
    look()
    monkeypatch.setattr(module, "MAX_READ", 11)
    write(root / TRAIN / "e.jpg", "x")
    assert look()[1] == [f"{root}: {TRAIN}: 1 image more (e.jpg)"]
    (root / TRAIN / "e.jpg").unlink()
    assert look()[1] == [f"{root}: {TRAIN}: 1 image fewer (e.jpg)"]


def test_annotations_always_go_by_contents(root, look, monkeypatch):
    before = look()[0]
    monkeypatch.setattr(module, "MAX_READ", 0)
    os.utime(root / "annotations/instances_val2017.json")
    found = look()[0]
    changed = [key for key in found.parts if found.parts[key] != before.parts[key]]
    assert changed == [f"semantic/{VAL}/", f"{TRAIN}/", f"{VAL}/"]


def test_a_part_of_many_files_is_read_as_a_whole(root, look, monkeypatch, reads):
    monkeypatch.setattr(module, "MAX_LISTED", 2)
    before = look()
    reads.clear()
    assert look() == before
    assert not reads
    write(root / TRAIN / "a.jpg", "x", OLD + 1)
    assert look()[1] == [f"{root}: {TRAIN}: other images, 3 now, 3 before"]
    assert len(reads) == 3


def test_long_lists_are_cut(root, look):
    look()
    for i in range(5):
        write(root / TRAIN / f"new{i}.jpg", "x")
    assert look()[1] == [f"{root}: {TRAIN}: 5 images more (new0.jpg, new1.jpg, new2.jpg, ...)"]


def test_reading_much_is_announced_and_reading_little_is_not(root, tmp_path, capsys, monkeypatch):
    fingerprint(root, TRAIN, VAL, cache=tmp_path / "quiet", progress=True)
    assert not capsys.readouterr().err
    monkeypatch.setattr(module, "ANNOUNCED", -1)
    for _ in range(2):
        fingerprint(root, TRAIN, VAL, cache=tmp_path / "cache", progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"{root / TRAIN}: reading 3 of 3 files, 0.0 MB, for the fingerprint"
    assert len(lines) == 5


def test_a_relative_root_is_the_same_data_set(root, look, tmp_path, monkeypatch, reads):
    before = look()
    monkeypatch.chdir(tmp_path)
    reads.clear()
    assert fingerprint(Path("data"), TRAIN, VAL, cache=Path("cache")) == before
    assert not reads
