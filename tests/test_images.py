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
