"""Import of a folder of photos: no metadata, near-duplicates in one split, never an incomplete dataset."""

import errno
import json
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from imagehash import phash
from PIL import ExifTags, Image

from mlssl.data.coco import read_split
from mlssl.errors import ConfigError, DataError
from mlssl.photos import import_photos, people, work
from mlssl.photos import importing as photos
from mlssl.photos.duplicates import near_duplicates, perceptual_hash
from mlssl.photos.people import FACES, Region, find_faces, hide, read_deny
from mlssl.photos.report import reasons

PLACE = b"Hauptstrasse 17"


def picture(seed, width=160, height=120):
    """Blobs, as coarse as a photo's and unlike any other seed's."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def private(orientation=1):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.Artist] = PLACE.decode()
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSAreaInformation] = PLACE
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitude] = (52.0, 31.0, 12.0)
    return exif


@pytest.fixture
def folder(tmp_path):
    """Twelve photos, two copies of one that were saved again, and a denied one with a copy, in two folders."""
    root = tmp_path / "photos"
    (root / "shop").mkdir(parents=True)
    for i in range(12):
        picture(i).save(root / "shop" / f"{i:02d}.jpg", exif=private(), comment=PLACE)
    picture(3).resize((80, 60)).save(root / "copy.png")
    picture(3).save(root / "again.webp", quality=60)
    picture(99).save(root / "Secret.jpg", exif=private())
    (root / "shop" / "other name.jpg").write_bytes((root / "Secret.jpg").read_bytes())
    (tmp_path / "deny.txt").write_text("# asked for on the phone\n\nsecret.*\n")
    return root


def label(folder, names, tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("".join(f"{name},{'shelf' if i % 2 else 'shelf;box'}\n" for i, name in enumerate(names)))
    return path


def rows(path):
    return [line.split("\t") for line in path.read_text().splitlines()[1:]]


def test_an_import_is_a_dataset_without_metadata_and_without_denied_photos(folder, tmp_path, capsys):
    names = [f"shop/{i:02d}.jpg" for i in range(12)]
    out = tmp_path / "out"
    made = import_photos(
        folder, out, labels=label(folder, names, tmp_path), deny=tmp_path / "deny.txt", workers=2, seed=3
    )
    assert made == out
    record = json.loads((out / "import.json").read_text())
    assert (record["found"], record["used"], record["denied"], record["skipped"]) == (16, 14, 2, 0)
    assert record["files"].keys() == {f"{p.parent.name}/{p.name}" for p in out.glob("*/*.jpg")}
    assert not {"Secret.jpg", "shop/other name.jpg"} & set(record["files"].values())
    secret = perceptual_hash(picture(99))
    for path in out.glob("*/*.jpg"):
        content = path.read_bytes()
        assert PLACE not in content
        assert b"Exif" not in content
        with Image.open(path) as image:
            assert not image.getexif()
            assert image.info.keys() <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
            assert (perceptual_hash(image) ^ secret).bit_count() > 8
    train, val = read_split(out, "train"), read_split(out, "val")
    assert len(train) + len(val) == 12
    assert len(val) == 3
    assert train.names == val.names == ["box", "shelf"]
    for split in (train, val):
        for i, image in enumerate(split.images):
            assert split.pixels(i).shape[:2] == (image["height"], image["width"])
            original = record["files"][f"{split.folder.name}/{image['file_name']}"]
            np.testing.assert_allclose(
                split.pixels(i).mean((0, 1)), np.asarray(picture(int(original[5:7]))).mean((0, 1)), atol=2
            )
    assert {row[0] for row in rows(out / "altered.tsv")} == {"Secret.jpg", "shop/other name.jpg"}
    assert record["sizes"]["width"] == {"min": 80, "median": 160, "max": 160}
    assert sum(c["train"] + c["val"] for c in record["categories"]) == 18
    said = capsys.readouterr().out
    assert "14: " in said
    assert "shelf: " in said
    assert not list(tmp_path.glob(".out.part*"))


def test_the_same_call_leaves_an_import_unchanged_and_another_is_refused(folder, tmp_path):
    out = import_photos(folder, tmp_path / "out", workers=1)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert import_photos(folder, out, workers=2, max_skipped=0.5) == out
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    with pytest.raises(DataError, match="imported with other near; choose another folder"):
        import_photos(folder, out, near=2)
    picture(50).save(folder / "new.jpg")
    with pytest.raises(DataError, match="imported with other photos"):
        import_photos(folder, out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(DataError, match="was not made by an import"):
        import_photos(folder, tmp_path / "mine")


def test_near_duplicates_are_in_one_split_and_reported(folder, tmp_path):
    names = [f"shop/{i:02d}.jpg" for i in range(12)]
    labels, sides = label(folder, names, tmp_path), set()
    for seed in range(6):
        out = import_photos(folder, tmp_path / f"out{seed}", labels=labels, seed=seed, val_share=0.4, workers=1)
        record = json.loads((out / "import.json").read_text())
        side = {name: file.split("/")[0] for file, name in record["files"].items()}
        alike = {side[name] for name in ("shop/03.jpg", "copy.png", "again.webp")}
        assert len(alike) == 1
        assert record["labels"]["held_back"] == (2 if alike == {"val"} else 0)
        sides |= alike
        assert {row[0] for row in rows(out / "duplicates.tsv")} >= {"copy.png", "shop/03.jpg"}
    assert sides == {"train", "val"}


def test_labelled_photos_that_are_all_alike_are_refused(tmp_path):
    (tmp_path / "photos").mkdir()
    for i in range(3):
        picture(1).save(tmp_path / "photos" / f"{i}.jpg", quality=90 - i)
    labels = label(tmp_path, [f"{i}.jpg" for i in range(3)], tmp_path)
    with pytest.raises(DataError, match=r"near-duplicates stay together.*val_share to 0"):
        import_photos(tmp_path / "photos", tmp_path / "out", labels=labels, workers=1)
    out = import_photos(tmp_path / "photos", tmp_path / "out", labels=labels, val_share=0, workers=1)
    assert len(read_split(out, "train")) == 3
    assert not (out / "val").exists()


def test_groups_of_near_duplicates_equal_those_of_a_slow_search():
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (40, 64), dtype=np.uint64)
    bits = np.concatenate([bits, bits, bits[:10]])
    for row in bits[40:]:
        row[rng.choice(64, 3, replace=False)] ^= np.uint64(1)
    hashes = (bits << np.arange(64, dtype=np.uint64)).sum(1, dtype=np.uint64)
    far = (bits[:, None] != bits[None]).sum(-1)
    for near in (0, 3, 6):
        slow = list(range(len(bits)))
        for _ in range(len(bits)):
            slow = [min(slow[j] for j in np.flatnonzero(far[i] <= near)) for i in range(len(bits))]
        group, like, distance = near_duplicates(hashes, near)
        assert group.tolist() == slow
        for i in np.flatnonzero(like >= 0):
            assert far[i, like[i]] == distance[i] <= near
        assert ((like < 0) == (group == np.arange(len(bits)))).all()


def test_copies_of_a_photo_have_close_hashes_and_other_photos_do_not():
    hashes = [perceptual_hash(picture(i)) for i in range(40)]
    apart = [(a ^ b).bit_count() for i, a in enumerate(hashes) for b in hashes[:i]]
    assert min(apart) > 8
    brighter = np.asarray(picture(0)).astype(float) * 0.8 + 20
    for other in (picture(0, 320, 240), picture(0, 90, 70), Image.fromarray(brighter.astype(np.uint8))):
        assert (perceptual_hash(other) ^ hashes[0]).bit_count() <= 4
    for i in (0, 1, 2):
        assert (perceptual_hash(picture(i, 640, 480)) ^ int(str(phash(picture(i, 640, 480))), 16)).bit_count() <= 2
    flat = [perceptual_hash(Image.new("L", (60, 50), grey).convert("RGB")) for grey in (0, 77, 255)]
    assert max((a ^ flat[0]).bit_count() for a in flat) <= 1


def test_a_killed_import_resumes_and_is_never_taken_for_complete(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(work, "CHUNK", 4)
    out, seen, real = tmp_path / "out", [], work.make

    def dies(photo, folder, how):
        if photo.number == 10:
            (folder / photo.file).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(photo, folder, how)

    monkeypatch.setattr(work, "make", dies)
    with pytest.raises(DataError, match="the disk is full; make room and call again"):
        import_photos(folder, out, workers=1)
    assert not out.exists()
    part = tmp_path / ".out.part"
    (part / "images" / "00000002.jpg").write_bytes(b"cut off")
    with open(part / "journal.jsonl", "a") as journal:
        journal.write('{"number": 9, "wid')

    def watched(photo, folder, how):
        seen.append(photo.number)
        return real(photo, folder, how)

    monkeypatch.setattr(work, "make", watched)

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("mlssl.photos.write.write_json", stop)  # Killed again, all photos made.
    with pytest.raises(KeyboardInterrupt):
        import_photos(folder, out, workers=1)
    assert seen == [2, *range(9, 17)]
    assert not out.exists()
    monkeypatch.undo()
    import_photos(folder, out, workers=1)
    whole = import_photos(folder, tmp_path / "whole", workers=1)
    assert {p.relative_to(out) for p in out.rglob("*")} == {p.relative_to(whole) for p in whole.rglob("*")}
    for path in out.glob("*/*.jpg"):
        assert path.read_bytes() == (whole / path.relative_to(out)).read_bytes()


def test_unusable_images_are_listed_and_too_many_stop_the_import(folder, tmp_path):
    (folder / "empty.jpg").touch()
    cut = (folder / "shop" / "00.jpg").read_bytes()
    (folder / "cut\toff.jpg").write_bytes(cut[: len(cut) // 2])
    with pytest.raises(DataError, match=r"out\.skipped\.tsv: \d of 18 .*max_skipped 0\.05"):
        import_photos(folder, tmp_path / "out", workers=1)
    assert not (tmp_path / "out").exists()
    assert rows(tmp_path / "out.skipped.tsv")
    out = import_photos(folder, tmp_path / "out", max_skipped=0.2, workers=1)
    assert not (tmp_path / "out.skipped.tsv").exists()
    assert [row[0] for row in rows(out / "skipped.tsv")] == ["cut\\toff.jpg", "empty.jpg"]
    record = json.loads((out / "import.json").read_text())
    assert record["skipped"] == 2
    assert record["used"] == 16


def test_a_turned_photo_is_upright_and_its_boxes_fit(tmp_path):
    (tmp_path / "photos").mkdir()
    for i in range(3):
        pixels = np.asarray(picture(i)).copy()
        pixels[:20, :40] = (255, 0, 0)  # Turned right by 90 degrees: the upper right 20 x 40.
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.jpg", exif=private(6), quality=95)
    for kind, size in {"upright": (120, 160), "raster": (160, 120)}.items():
        box = [100, 0, 20, 40] if kind == "upright" else [0, 0, 40, 20]
        content = {
            "images": [{"id": i, "file_name": f"{i}.jpg", "width": size[0], "height": size[1]} for i in range(3)],
            "annotations": [{"id": i, "image_id": i, "category_id": 1, "bbox": box} for i in range(3)],
            "categories": [{"id": 1, "name": "red"}],
        }
        (tmp_path / f"{kind}.json").write_text(json.dumps(content))
        out = import_photos(tmp_path / "photos", tmp_path / kind, labels=tmp_path / f"{kind}.json", workers=1)
        split = read_split(out, "train")
        x1, y1, x2, y2 = split.instances(0).boxes[0].astype(int)
        inside = split.pixels(0)[y1 + 3 : y2 - 3, x1 + 3 : x2 - 3].reshape(-1, 3)
        assert (np.abs(inside.astype(int) - (255, 0, 0)) < 30).all()
    out = import_photos(tmp_path / "photos", tmp_path / "plain", workers=1)
    with Image.open(out / "train" / "00000001.jpg") as image:
        assert image.size == (120, 160)


@pytest.mark.parametrize("how", ["blur", "pixelate"])
def test_hiding_removes_the_detail_of_a_region_and_changes_nothing_else(how):
    rng = np.random.default_rng(0)
    stripes = np.zeros((200, 200, 3), np.uint8)
    stripes[:, ::8] = stripes[:, 1::8] = stripes[:, 2::8] = stripes[:, 3::8] = 255
    stripes = np.where(rng.random((200, 200, 1)) < 0.1, 128, stripes).astype(np.uint8)
    before = stripes.copy()
    for box in ((20, 30, 120, 190), (0, 0, 10, 6), (199, 0, 200, 1)):
        x1, y1, x2, y2 = box
        hidden = hide(stripes, [Region(box)], how)
        inside = hidden[y1:y2, x1:x2].astype(float)
        if inside[:, :, 0].size > 100:
            # Neither stripes nor dots: neighbours are equal, and there are at most 8 x 8 values.
            assert np.abs(np.diff(inside, axis=1)).mean() < 8
            assert inside.std() < 0.25 * before[y1:y2, x1:x2].std()
        if how == "pixelate":
            assert len(np.unique(inside.reshape(-1, 3), axis=0)) <= 64
        outside = np.ones((200, 200), bool)
        outside[y1:y2, x1:x2] = False
        assert (hidden[outside] == before[outside]).all()
    assert (stripes == before).all()
    mask = np.zeros((200, 200), bool)
    mask[50:150, 50:150] = np.tri(100, dtype=bool)
    hidden = hide(stripes, [Region((50, 50, 150, 150), mask)], how)
    assert (hidden[~mask] == before[~mask]).all()
    assert hidden[mask].std() < 0.25 * before[mask].std()


def test_two_photos_that_differ_only_in_a_hidden_region_become_nearly_the_same():
    """Of two faces of black and white dots, nothing but their coarse brightness is left."""
    scene = np.asarray(picture(0)).copy()
    for how in people.WAYS:
        shapes = []
        for seed in range(2):
            face = np.random.default_rng(seed).integers(0, 2, (48, 48, 1)).astype(np.uint8) * 255
            scene[40:88, 50:98] = face
            shapes.append(hide(scene, [Region((50, 40, 98, 88))], how).astype(int))
        assert np.abs(shapes[0] - shapes[1]).max() < (40 if how == "blur" else 70)


def test_people_in_a_file_are_hidden_in_what_is_written(folder, tmp_path, capsys):
    pixels = np.zeros((120, 160, 3), np.uint8)
    pixels[:, ::2] = 255
    for name in ("p.png", "q.png"):
        Image.fromarray(pixels).save(folder / name)
    regions = tmp_path / "people"
    regions.mkdir()
    (regions / "classes.txt").write_text("person\n")
    (regions / "p.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    out = import_photos(folder, tmp_path / "out", anonymise="pixelate", people=regions, workers=1)
    record = json.loads((out / "import.json").read_text())
    file = {name: out / file for file, name in record["files"].items()}
    with Image.open(file["p.png"]) as image:
        made = np.asarray(image.convert("L")).astype(float)
    assert made[32:88, 42:118].std() < 5
    assert made[:28].std() > 80
    altered = dict(rows(out / "altered.tsv"))
    assert altered["p.png"] == "pixelate: 1 regions"
    assert "does not name it" in altered["q.png"]
    assert record["altered"]["not_named"] == 17
    assert "CAUTION     17 photos are not named" in capsys.readouterr().out
    (regions / "typo.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    with pytest.raises(DataError, match="1 of 2 labelled photos are not found"):
        import_photos(folder, tmp_path / "other", anonymise="blur", people=regions, workers=1)


def test_a_rotated_photo_is_left_out_if_the_position_of_its_people_is_ambiguous(tmp_path):
    (tmp_path / "photos").mkdir()
    for turn in (1, 3, 6):
        picture(turn).save(tmp_path / "photos" / f"{turn}.jpg", exif=private(turn))
    content = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 160, "height": 120} for i in (1, 3, 6)],
        "annotations": [],
        "categories": [{"id": 1, "name": "person"}],
    }
    (tmp_path / "people.json").write_text(json.dumps(content))
    out = import_photos(
        tmp_path / "photos", tmp_path / "out", anonymise="blur", people=tmp_path / "people.json", max_skipped=1
    )
    assert [row[0] for row in rows(out / "skipped.tsv")] == ["3.jpg"]


def test_a_deny_line_that_matches_no_photo_is_refused(tmp_path):
    (tmp_path / "deny.txt").write_text("shop/*\nsecret.jpg\nA.JPG\n")
    names = ["a.jpg", "x/a.jpg", "shop/b.jpg", "c.jpg"]
    with pytest.raises(DataError, match=r"deny\.txt: line 2: 'secret\.jpg' matches no photo"):
        read_deny(tmp_path / "deny.txt", names)
    assert read_deny(tmp_path / "deny.txt", [*names, "y/Secret.jpg"]).keys() == {*names, "y/Secret.jpg"} - {"c.jpg"}
    with pytest.raises(DataError, match="cannot be read"):
        read_deny(tmp_path / "gone.txt", names)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"val_share": 1}, "val_share: 1"),
        ({"max_skipped": -1}, "max_skipped"),
        ({"near": 40}, "near: 40"),
        ({"workers": 0}, "workers"),
        ({"anonymise": "paint", "people": "x"}, "'paint' is not known; give blur or pixelate"),
        ({"anonymise": "blur"}, "anonymise is given and people is not"),
        ({"people": "x"}, "people is given and anonymise is not"),
    ],
)
def test_invalid_settings_are_refused_before_any_work(folder, tmp_path, settings, message):
    with pytest.raises(ConfigError, match=message):
        import_photos(folder, tmp_path / "out", **settings)
    assert not list(tmp_path.glob(".out*"))


def test_a_folder_inside_the_photos_is_refused(folder):
    with pytest.raises(ConfigError, match="is inside the photos folder"):
        import_photos(folder, folder / "out")


def test_faces_without_a_detector_are_refused_with_the_package(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(ConfigError, match=r"opencv-python-headless>=4\.9,<5"):
        import_photos(folder, tmp_path / "out", anonymise="blur", people=FACES)


def test_found_faces_are_hidden(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(photos, "check_detector", lambda: None)
    monkeypatch.setattr(work, "find_faces", lambda pixels: [Region((0, 0, 40, 30))])
    out = import_photos(folder, tmp_path / "out", anonymise="blur", people=FACES, workers=1)
    assert len(rows(out / "altered.tsv")) == 16
    assert json.loads((out / "import.json").read_text())["altered"]["regions"] == 16


def test_the_detector_runs_where_it_is_installed():
    pytest.importorskip("cv2", reason="opencv-python-headless is not installed")
    people.check_detector()
    assert find_faces(np.full((80, 90, 3), 128, np.uint8)) == []
    with Image.open(Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")) as image:
        found = find_faces(np.asarray(image.convert("RGB")))
    assert any(x1 < 256 < x2 and y1 < 170 < y2 for (x1, y1, x2, y2), _ in found)


def test_reasons_keep_the_numbers_in_which_they_agree():
    given = ["is no image", "is empty (0 bytes)", "has 9 x 70 pixels", "is empty (0 bytes)", "has 1 x 5,000 pixels"]
    assert list(reasons(given).items()) == [("is empty (0 bytes)", 2), ("has N x N pixels", 2), ("is no image", 1)]
