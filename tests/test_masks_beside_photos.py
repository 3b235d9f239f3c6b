"""What is in a folder of photos and is none: masks, files of other kinds, dangling links, nearly black images."""

import json

import numpy as np
import pytest
from PIL import Image
from support.labels import picture, write

from mlssl.data.store import build_store
from mlssl.errors import DataError
from mlssl.photos import import_photos
from mlssl.photos.masks import find_masks


@pytest.mark.parametrize(
    ("files", "masks"),
    [
        (["images/{}.jpg", "masks/{}.png"], "L"),
        (["JPEGImages/{}.jpg", "SegmentationClass/{}.png"], "P"),
        (["{}.png", "{}_L.png"], "RGB"),
        (["leftImg8bit/{}_leftImg8bit.png", "gtFine/{}_gtFine_labelIds.png", "gtFine/{}_gtFine_color.png"], "L"),
        (["{}.JPG", "{}_mask_1.tif"], "1"),
        (["{}.jpeg", "{}_instanceIds.png"], "I;16"),
        (["{}.jpg", "mask_{}.png"], "L"),
        (["images/{}.jpg", "masks/{}.jpg.png"], "P"),
        (["{}.jpg", "{}_mask.jpg"], "black and white"),
    ],
)
def test_masks_beside_photos_are_left_out_with_one_line(tmp_path, capsys, files, masks):
    kinds = {"1": bool, "I;16": np.uint16}
    for i in range(3):
        for name in files:
            path = tmp_path / "in" / name.format(f"p{i}")
            path.parent.mkdir(parents=True, exist_ok=True)
            values = np.zeros((48, 64), np.uint8)
            values[10:30, 10 + i : 30] = 1
            if name == files[0]:
                picture(i).save(path)
            elif masks == "black and white":
                Image.fromarray(values * 255).save(path, quality=75)
            elif masks == "RGB":
                Image.fromarray(np.stack([values * 128, values * 64, values], 2)).save(path)
            else:
                made = Image.fromarray(values.astype(kinds.get(masks, np.uint8)))
                if masks == "P":
                    made.putpalette([0, 0, 0, 128, 0, 0])
                made.save(path)
    out = import_photos(tmp_path / "in", tmp_path / "out", workers=1)
    record = json.loads((out / "import.json").read_text())
    assert (record["used"], record["masks"]) == (3, 3 * (len(files) - 1))
    said = capsys.readouterr().out
    assert sum("masks of photos" in line for line in said.splitlines()) == 1
    assert "is a mask of" in (out / "skipped.tsv").read_text()


def test_pictures_that_share_a_stem_and_are_no_masks_are_kept(tmp_path):
    picture(0).save(tmp_path / "a.jpg")
    picture(1).save(tmp_path / "a.png")  # Many colours.
    flat = Image.new("L", (64, 48))
    flat.save(tmp_path / "b.png")  # No photo has its stem.
    flat.save(tmp_path / "c.png")
    picture(2, 48, 48).save(tmp_path / "c.jpg")  # Another shape.
    picture(3).save(tmp_path / "cool_l.jpg")  # No lossless format.
    picture(3).save(tmp_path / "cool.jpg")
    assert find_masks({path.name: path for path in tmp_path.iterdir()}) == {}


def test_the_summary_names_what_is_no_photo_and_what_is_nearly_black(tmp_path, capsys):
    photos = write(tmp_path / "in", {"x.CR2": b"II", "y.cr2": b"II", "z": b"?", "notes.txt": "hi"})
    for i in range(20):
        picture(i).save(photos / f"{i}.jpg")
    (photos / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    deep = np.linspace(0, 4095, 48 * 64).astype(np.uint16).reshape(48, 64)
    Image.fromarray(deep).save(photos / "deep.png")
    import_photos(photos, tmp_path / "out", workers=1)
    said = capsys.readouterr().out
    assert "not read    3 files of other kinds: 2 .cr2, 1 without suffix (x.CR2)" in said
    assert "skipped     1 is a link to a file that does not exist" in said
    assert "CAUTION     1 photos are nearly black (deep.png); if they hold 12 bits in 16" in said
    build_store(photos, tmp_path / "store", short_side=32, workers=0)
    said = capsys.readouterr().err
    assert "1 images are nearly black (deep.png)" in said
    assert "gone.jpg is a link to a file that does not exist" in said
    with pytest.raises(DataError, match=r"contains no image .*but 2 \.txt \(a\.txt\)"):
        import_photos(write(tmp_path / "none", {"a.txt": "", "b.txt": ""}), tmp_path / "other")
