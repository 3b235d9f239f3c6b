"""The map of a folder of images."""

import importlib.util
import itertools

import numpy as np
import pytest
from PIL import Image

from mlssl.errors import ConfigError
from mlssl.export import map as maps


def test_places_are_the_best_of_all():
    points = np.random.default_rng(0).normal(size=(5, 2))
    found = maps.places(points)
    assert len({tuple(cell) for cell in found}) == 5
    span = points.max(axis=0) - points.min(axis=0)
    scaled = (points - points.min(axis=0)) / span * 2
    cells = [np.array([x, y]) for x in range(3) for y in range(3)]

    def cost(order):
        return sum(((p - c) ** 2).sum() for p, c in zip(scaled, order, strict=True))

    assert cost(found) == pytest.approx(min(map(cost, itertools.permutations(cells, 5))))


def test_alike_images_are_neighbours_and_none_overlap(tmp_path):
    # Even images are red, odd ones blue; their features are two directions with a little noise.
    rng = np.random.default_rng(1)
    features = np.eye(5)[np.arange(16) % 2] * 3 + rng.normal(0, 0.05, (16, 5))
    files = [tmp_path / f"{i:02}.png" for i in range(16)]
    for i, file in enumerate(files):
        Image.new("RGB", (40, 30), ((200, 0, 0), (0, 0, 200))[i % 2]).save(file)
    assert maps.write_map(files, features, tmp_path / "map.png") == 16
    pixels = np.asarray(Image.open(tmp_path / "map.png"))
    assert pixels.shape == (4 * maps.TILE, 4 * maps.TILE, 3)
    centres = pixels[maps.TILE // 2 :: maps.TILE, maps.TILE // 2 :: maps.TILE].tolist()
    halves = [{tuple(p) for row in centres for p in row[part]} for part in (slice(0, 2), slice(2, 4))]
    assert sorted(halves, key=sorted) == [{(0, 0, 200)}, {(200, 0, 0)}]


def test_the_seed_draws_and_one_image_is_enough(tmp_path, monkeypatch):
    monkeypatch.setattr(maps, "MOST", 4)
    files = [tmp_path / f"{i}.png" for i in range(9)]
    for i, file in enumerate(files):
        Image.new("RGB", (16, 16), (20 * i, 0, 0)).save(file)
    features = np.random.default_rng(0).normal(size=(9, 3))
    for name, seed in {"a": 0, "b": 0, "c": 1}.items():
        assert maps.write_map(files, features, tmp_path / f"map_{name}.png", seed=seed) == 4
    a, b, c = ((tmp_path / f"map_{name}.png").read_bytes() for name in "abc")
    assert a == b
    assert a != c
    assert maps.write_map(files[:1], features[:1], tmp_path / "one.png") == 1
    assert maps.plane(np.ones((3, 2))).tolist() == [[0, 0]] * 3


def test_umap_is_an_extra_and_needs_some_images(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "umap" else find(name))
    with pytest.raises(
        ConfigError, match=r"--map-by umap needs umap-learn; pip install 'mlssl\[map\]', or give pca"
    ):
        maps.check(maps.Path("map.png"), "umap")
    with pytest.raises(ConfigError, match="--map-by umap: 15 images are too few; give more than 15, or pca"):
        maps.umap_plane(np.eye(15), 0)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("umap") is None, reason="umap-learn is not installed")
def test_umap_keeps_groups_together_and_repeats_by_its_seed():
    # Three directions with a little noise: the nearest image on the plane is one of the same group.
    rng = np.random.default_rng(0)
    x = np.repeat(np.eye(3, 8), 20, axis=0) + rng.normal(0, 0.02, (60, 8))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    found = maps.umap_plane(x, 0)
    apart = ((found[:, None] - found[None]) ** 2).sum(axis=-1)
    np.fill_diagonal(apart, np.inf)
    assert (apart.argmin(axis=1) // 20 == np.arange(60) // 20).all()
    assert np.array_equal(found, maps.umap_plane(x, 0))


def test_other_endings_and_existing_files_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"--map map\.jpg: give a file that ends in \.png"):
        maps.check(maps.Path("map.jpg"))
    (tmp_path / "map.png").touch()
    with pytest.raises(FileExistsError, match="give another file"):
        maps.check(tmp_path / "map.png")
