"""What can be refused is refused before the first copy; an import that is refused later keeps its copies."""

import json
import shutil

import pytest
from PIL import ExifTags, Image
from support.labels import ROW, picture, voc, write

from mlssl.errors import DataError
from mlssl.photos import import_photos, work

CLASSES = {"classes.txt": "cup\n"}
EVEN = {f"{i}.txt": ROW for i in range(4)}


def coco(box, size=(64, 48), mask=None, photos=range(4)):
    """Four photos, each with the same box; `size` None: the file does not say it."""
    sides = {} if size is None else {"width": size[0], "height": size[1]}
    more = {} if mask is None else {"segmentation": mask}
    return json.dumps(
        {
            "images": [{"id": i, "file_name": f"{i}.jpg", **sides} for i in photos],
            "annotations": [{"id": i, "image_id": i, "category_id": 1, "bbox": box, **more} for i in photos],
            "categories": [{"id": 1, "name": "cup"}],
        }
    )


def photos_in(folder, seeds=range(4)):
    folder.mkdir(parents=True)
    for i, seed in enumerate(seeds):
        picture(seed).save(folder / f"{i}.jpg")
    return folder


@pytest.fixture
def copied(monkeypatch):
    """Names of the photos that are copied, in order."""
    names, real = [], work.make

    def watched(photo, folder, how):
        names.append(photo.name)
        return real(photo, folder, how)

    monkeypatch.setattr(work, "make", watched)
    return names


OFFICIAL = "file,class,split\n0.jpg,cup,train\n1.jpg,cup,train\n2.jpg,cup,test\n3.jpg,mug,test\n"
HIDE = {"anonymise": "blur"}
REFUSED = [
    # Files of labels, files of people, more settings; the message.
    ({"l.csv": "0.jpg,cup\n"}, {}, {}, "val_share: 0.25 of 1 labelled photos leaves a split empty"),
    ({"l.csv": "file,label,split\n0.jpg,cup,train\n1.jpg,cup,train\n"}, {}, {}, "official split 'val'"),
    ({"l.csv": "file,label,split\n0.jpg,cup,test\n1.jpg,cup,test\n"}, {}, {}, "official split 'train'"),
    ({"l.csv": OFFICIAL}, {}, {}, "category 'mug' is in split test and not in train"),
    ({"l.csv": "0.jpg,cup\n1.jpg,cup\n"}, {}, {"deny": "0.jpg\n1.jpg\n"}, "all labelled photos are on the deny"),
    ({"l.csv": OFFICIAL}, {}, {"deny": "2.jpg\n3.jpg\n"}, "official split 'val'"),
    ({"l.json": coco([60, 40, 20, 20], mask=[[70, 41, 79, 41, 79, 47]])}, {}, {}, "has no area inside the image"),
    ({"l.json": coco([64, 0, 5, 5])}, {}, {}, "outside the image of 64 x 48 pixels"),
    ({"l.json": coco([0, 50, 5, 5], size=None)}, {}, {}, "outside the image of 64 x 48 pixels"),
    (EVEN | CLASSES | {"3.txt": "0 1.5 0.5 0.2 0.4"}, {}, {}, "3.txt"),
    ({"0.xml": voc(size=("64", "48")), "1.xml": voc(box=(70, 1, 80, 9), size=("64", "48"))}, {}, {}, "1.xml"),
    ({}, {"p.json": coco([1, 1, 0, 0])}, HIDE, "hides nothing"),
    ({}, {"p.json": coco([1, 1, 40, 40], size=None, mask=[[1, 1, 3, 1, 3, 3]])}, HIDE, "its mask hides"),
    ({}, CLASSES | {"2.txt": "0 1.5 0.5 0.2 0.4"}, HIDE, "2.txt"),
]


@pytest.mark.parametrize(("labels", "people", "settings", "message"), REFUSED)
def test_what_labels_and_splits_can_show_is_refused_before_a_photo_is_copied(
    tmp_path, copied, labels, people, settings, message
):
    options = dict(settings)
    for name, files in (("labels", labels), ("people", people)):
        if files:
            write(tmp_path / name, files)
            options[name] = tmp_path / name / "l.csv" if "l.csv" in files else tmp_path / name
    if "deny" in options:
        (tmp_path / "deny.txt").write_text(options["deny"])
        options["deny"] = tmp_path / "deny.txt"
    with pytest.raises(DataError, match=message):
        import_photos(photos_in(tmp_path / "in"), tmp_path / "out", workers=1, **options)
    assert copied == []
    assert {path.name for path in tmp_path.iterdir()} <= {"in", "labels", "people", "deny.txt", ".out.lock"}


def test_labels_are_checked_against_the_upright_photo_and_not_those_of_a_photo_that_is_left_out(tmp_path, copied):
    folder, exif = photos_in(tmp_path / "in"), Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    picture(5).save(folder / "1.jpg", exif=exif)
    picture(6).save(folder / "2.tif", exif=exif)
    (folder / "2.jpg").unlink()
    (folder / "3.jpg").write_bytes((folder / "0.jpg").read_bytes()[:800])
    files = {"1.jpg": [1, 50, 40, 10], "2.tif": [1, 50, 40, 10], "0.jpg": [1, 1, 5, 5], "3.jpg": [1, 90, 5, 5]}
    content = {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(files)],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1, "bbox": box} for i, box in enumerate(files.values())
        ],
        "categories": [{"id": 1, "name": "cup"}],
    }
    (tmp_path / "l.json").write_text(json.dumps(content))
    out = import_photos(folder, tmp_path / "out", labels=tmp_path / "l.json", workers=1, max_skipped=0.5)
    record = json.loads((out / "import.json").read_text())
    assert (record["used"], record["skipped"]) == (3, 1)
    assert record["sizes"]["height"]["max"] == 64
    shutil.rmtree(out)
    content["annotations"][0]["bbox"] = [50, 1, 10, 40]  # As the photo is stored, not as it is shown.
    (tmp_path / "l.json").write_text(json.dumps(content))
    copied.clear()
    with pytest.raises(DataError, match=r"'1\.jpg'.* outside the image of 48 x 64"):
        import_photos(folder, tmp_path / "out", labels=tmp_path / "l.json", workers=1)
    assert copied == []


def test_an_import_that_only_the_copies_could_refuse_goes_on_with_them(tmp_path, copied):
    folder, labels = photos_in(tmp_path / "in", [0, 0, 0, 1]), tmp_path / "l.csv"
    labels.write_text("0.jpg,cup\n1.jpg,cup\n2.jpg,cup\n")  # The same photo: one split would be empty.
    part = tmp_path / ".out.part"
    with pytest.raises(DataError, match=r"near-duplicates stay together.*\(the copies stay in .*\.out\.part for"):
        import_photos(folder, tmp_path / "out", labels=labels, workers=1)
    assert not (tmp_path / "out").exists()
    assert copied == ["0.jpg", "1.jpg", "2.jpg", "3.jpg"]
    copied.clear()
    labels.write_text("0.jpg,cup\n1.jpg,cup\n3.jpg,cup\n")
    assert import_photos(folder, tmp_path / "out", labels=labels, workers=1)
    assert copied == []
    assert not part.exists()
    whole = import_photos(folder, tmp_path / "whole", labels=labels, workers=1)
    for path in whole.rglob("*.jp*g"):
        assert path.read_bytes() == (tmp_path / "out" / path.relative_to(whole)).read_bytes()


def test_only_copies_that_would_be_made_alike_are_kept(tmp_path, copied, monkeypatch):
    folder = photos_in(tmp_path / "in")
    out, part, real = tmp_path / "out", tmp_path / ".out.part", work.make_all

    def stopped(*args, **options):
        yield from real(*args, **options)
        raise DataError("in.csv: refused late; repair it")

    monkeypatch.setattr("mlssl.photos.importing.make_all", stopped)

    def copies(**options):
        copied.clear()
        with pytest.raises(DataError, match="refused late"):
            import_photos(folder, out, workers=1, **options)
        assert sorted(path.stem for path in (part / "images").iterdir()) == [
            f"{number:08d}" for number in range(1, 5) if number not in options.get("gone", ())
        ]
        return list(copied)

    everything = [f"{i}.jpg" for i in range(4)]
    assert copies() == everything
    assert copies(val_share=0.5, seed=3, near=2) == []
    (tmp_path / "l.json").write_text(coco([1, 1, 5, 5]))
    assert copies(labels=tmp_path / "l.json") == everything  # A size in the labels may change the rotation.
    (tmp_path / "l.json").write_text(coco([2, 1, 5, 5]))
    assert copies(labels=tmp_path / "l.json") == []
    people = tmp_path / "p.json"
    people.write_text(coco([1, 1, 20, 20], photos=[1, 2]))
    assert copies(labels=tmp_path / "l.json", people=people, anonymise="blur") == everything
    people.write_text(coco([1, 1, 20, 21], photos=[2]))
    assert copies(labels=tmp_path / "l.json", people=people, anonymise="blur") == ["1.jpg", "2.jpg"]
    assert copies(labels=tmp_path / "l.json", people=people, anonymise="pixelate") == everything
    assert copies() == everything
    picture(9).save(folder / "2.jpg")
    assert copies() == ["2.jpg"]
    (tmp_path / "deny.txt").write_text("1.jpg\n")
    with pytest.raises(DataError, match="refused late"):
        import_photos(folder, out, workers=1, deny=tmp_path / "deny.txt")
    assert not (part / "images" / "00000002.jpg").exists()  # No copy of a denied photo is left.
