"""Images of any mode and depth are read upright; unusable ones are refused with a reason."""

import numpy as np
import pytest
from PIL import Image

from mlssl.data import images
from mlssl.data.images import UnusableImage, find_images, read_image
from mlssl.errors import DataError

RAMP = np.linspace(0, 255, 24 * 32).astype(np.uint8).reshape(24, 32)
COLOUR = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]], axis=2)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp", "jpg"])
def test_formats(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(COLOUR).save(path, **({"lossless": True} if suffix == "webp" else {"quality": 95}))
    found = read_image(path)
    assert found.shape == (24, 32, 3)
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - COLOUR).mean() < (6 if suffix == "jpg" else 1e-9)


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "LA", "RGBA", "I;16", "F"])
def test_modes(tmp_path, mode):
    if mode == "I;16":
        Image.fromarray(RAMP.astype(np.uint16) * 257).save(tmp_path / "a.png")
    elif mode == "F":
        Image.fromarray((RAMP / 255).astype(np.float32)).save(tmp_path / "a.tiff")
    else:
        image = Image.fromarray(RAMP if mode in ("L", "1") else COLOUR)
        image.convert(mode).save(tmp_path / ("a.tiff" if mode == "CMYK" else "a.png"))
    found = read_image(next(tmp_path.iterdir()))
    assert found.shape == (24, 32, 3)
    if mode in ("I;16", "F"):  # Scaled to 8 bits, not cut off.
        assert np.abs(found[..., 0].astype(int) - RAMP).max() <= 1
    elif mode in ("CMYK", "RGBA"):
        assert np.abs(found.astype(int) - COLOUR).max() <= 1


def test_transparent_parts_become_white(tmp_path):
    pixels = np.zeros((20, 20, 4), dtype=np.uint8)
    pixels[:, 10:, 3] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = read_image(tmp_path / "a.png")
    assert (found[:, :10] == 255).all()
    assert (found[:, 10:] == 0).all()


def test_a_photo_is_rotated_upright_unless_its_annotation_has_the_stored_size(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(COLOUR).save(tmp_path / "a.png", exif=exif)
    upright = np.rot90(COLOUR, -1)
    assert np.array_equal(read_image(tmp_path / "a.png"), upright)
    assert np.array_equal(read_image(tmp_path / "a.png", (24, 32)), upright)
    assert np.array_equal(read_image(tmp_path / "a.png", (32, 24)), COLOUR)
    with pytest.raises(UnusableImage, match="annotation says width 10"):
        read_image(tmp_path / "a.png", (10, 10))


def test_the_first_frame_of_an_animation_is_read(tmp_path):
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (read_image(tmp_path / "a.gif") == [255, 0, 0]).all()


def test_the_content_decides_not_the_name(tmp_path):
    Image.fromarray(COLOUR).save(tmp_path / "a.jpg", format="PNG")
    assert np.array_equal(read_image(tmp_path / "a.jpg"), COLOUR)


def spoil(path, how):
    Image.fromarray(COLOUR).save(path, format="JPEG")
    content = path.read_bytes()
    if how == "empty":
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "text":
        path.write_text("no image at all")
    elif how == "head":
        path.write_bytes(b"\xff\xd8" + bytes(200))
    elif how == "strip":
        Image.new("RGB", (5000, 1)).save(path, format="PNG")
    elif how == "giant":
        Image.new("1", (30_000, 30_000)).save(path, format="PNG")
    elif how == "folder":
        path.unlink()
        path.mkdir()


REASONS = {
    "empty": "is empty",
    "cut": "truncated",
    "text": "is not an image",
    "head": "is not an image",
    "strip": "a side shorter than 16",
    "giant": "pixels",
    "folder": "is not a file",
}


@pytest.mark.parametrize("how", REASONS)
def test_unusable_files_are_refused_in_one_sentence(tmp_path, how):
    path = tmp_path / "a.jpg"
    spoil(path, how)
    with pytest.raises(UnusableImage, match=REASONS[how]) as refused:
        read_image(path)
    assert str(path) in str(refused.value)
    assert str(path) not in refused.value.reason
    assert len(str(refused.value).splitlines()) == 1


def test_a_file_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    Image.fromarray(COLOUR).save(tmp_path / "a.png")

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(images.Image, "open", denied)
    with pytest.raises(UnusableImage, match=r"cannot be read \(Permission denied\)"):
        read_image(tmp_path / "a.png")


def test_images_are_found_at_any_depth_and_loops_of_links_end(tmp_path):
    for name in ("b.JPG", "a/deep/er/c.png", ".hidden/d.png", "a/.e.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "again").symlink_to(tmp_path / "a" / "deep")
    found = [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)]
    assert len(found) == 2
    assert "b.JPG" in found
    assert sum(name.endswith("er/c.png") for name in found) == 1


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(DataError, match="contains no image"):
        find_images(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        find_images(tmp_path / "none")


def iso(brand):
    return b"\0\0\0\x18ftyp" + brand + bytes(100)


KINDS = [
    (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "a pointer of Git LFS, not the image; run `git",
    ),
    (b"%PDF-1.4", "a PDF"),
    (b"\n<!DOCTYPE html><html>not found</html>", "a web page"),
    (b"<svg xmlns='x'/>", "an SVG drawing"),
    (b'{"error": 404}', "JSON"),
    (b"PK\x03\x04zip", "a ZIP archive"),
    (iso(b"isom"), "a video"),
    (iso(b"qt  "), "a video"),
    (iso(b"crx "), "a raw file of a camera"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000, convert it"),
    (bytes(128) + b"DICM", "a DICOM file"),
]


@pytest.mark.parametrize(("content", "kind"), KINDS)
@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_a_file_that_is_something_else_is_refused_with_what_it_is(tmp_path, name, content, kind):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnusableImage, match=f"is {kind}"):
        read_image(tmp_path / name)


@pytest.mark.parametrize("name", ["a.heic", "a.jpg", "a.PNG"])
@pytest.mark.parametrize("brand", [b"heic", b"mif1", b"heix"])
def test_heic_is_named_whatever_its_suffix(tmp_path, monkeypatch, name, brand):
    monkeypatch.setattr(images, "HEIF", False)
    monkeypatch.setattr(images, "FORMATS", ["JPEG", "PNG"])
    (tmp_path / name).write_bytes(iso(brand))
    with pytest.raises(UnusableImage, match="is HEIC, which needs `pip install pillow-heif`"):
        read_image(tmp_path / name)


def test_a_link_to_nothing_is_refused_as_such(tmp_path):
    (tmp_path / "a.jpg").symlink_to(tmp_path / "gone.jpg")
    with pytest.raises(UnusableImage, match="is a link to a file that does not exist"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize(("top", "dark"), [(0, True), (1023, True), (4095, True), (16383, False), (65535, False)])
def test_few_bits_in_sixteen_are_nearly_black(tmp_path, top, dark):
    Image.fromarray((RAMP / 255 * top).astype(np.uint16)).save(tmp_path / "a.png")
    assert images.nearly_black(read_image(tmp_path / "a.png")) is dark
