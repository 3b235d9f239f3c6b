"""Neighbours and score histograms: who is near, what is drawn where, for every method's checkpoint."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from support.tiny_coco import IDENTIFIED, write_coco

from mlssl.data.store import ImageStore, build_store
from mlssl.errors import ConfigError, DataError
from mlssl.pictures import histograms, neighbours
from mlssl.pictures.embed import Folder, embed, read_run
from mlssl.pretrain import loop as engine
from mlssl.study import settings as config
from mlssl.study.settings import Pictures
from mlssl.study.validation import build

CPU = torch.device("cpu")
TARGETS = {
    "mls": "mlssl.method.mls.MLS",
    "moco_v2": "baselines.moco_v2.MoCoV2",
    "densecl": "baselines.densecl.DenseCL",
    "random": None,
}
TOLD = Pictures(queries=2, neighbours=3, candidates=5, dictionary_size=30, seed=0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Checkpoints of two steps of every method, and the images they saw."""
    root = tmp_path_factory.mktemp("pictures")
    write_coco(root / "coco")
    build_store(root / "coco" / "train2017", root / "store", short_side=64, images_id="images", workers=1)
    for method, target in TARGETS.items():
        params = {"dictionary_size": 8, "dim": 8} if target else {}
        data = {"root": "unused", "short_side": 64, **IDENTIFIED}
        values = {"data": data, "method": method, "target": target}
        values |= {
            "params": params | ({"k": 2} if method == "mls" else {}),
            "backbone": "test_resnet",
            "epochs": None,
        }
        values |= {"steps": 2, "batch_size": 4, "lr": 0.05, "precision": "fp32", "views": {"crop": 32}}
        told = build(config.Pretrain, values, "test")
        engine.pretrain(told, root / "store", root / method, run=method, device=CPU, progress=False)
    return root


def crops(g, image, z=None, box=(0, 0, 4, 4)):
    g = np.asarray(g, dtype=np.float32)
    g = g / np.linalg.norm(g, axis=1, keepdims=True)
    return SimpleNamespace(g=g, z=z, image=np.asarray(image), box=np.tile(box, (len(g), 1)))


def test_nearest_is_a_sort_without_the_own_image():
    rng = np.random.default_rng(0)
    queries, entries = crops(rng.normal(size=(6, 4)), range(6)), crops(rng.normal(size=(20, 4)), np.arange(20) % 7)
    index, cosine = neighbours.nearest(queries, entries, 4)
    for b in range(6):
        others = [i for i in range(20) if entries.image[i] != queries.image[b]]
        expected = sorted(others, key=lambda i, b=b: -float(queries.g[b] @ entries.g[i]))[:4]
        assert index[b].tolist() == expected
        np.testing.assert_allclose(cosine[b], queries.g[b] @ entries.g[expected].T, rtol=1e-6)
    with pytest.raises(DataError, match="4 are more than the 0"):
        neighbours.nearest(queries, crops(np.ones((3, 4)), [2, 2, 2]), 4)


def test_the_worst_has_the_lowest_mean_and_is_drawn_once():
    similarity = np.array([[0.9, 0.8], [0.2, 0.1], [0.5, 0.0], [0.7, 0.7]])
    assert neighbours.choose(similarity, 2).tolist() == [0, 2, 1]
    with pytest.raises(ConfigError, match=r"queries: 4 must be in 1 \.\. 3"):
        neighbours.choose(similarity, 4)


def test_the_box_is_drawn_where_the_crop_lies():
    pixels = np.zeros((64, 128, 3), dtype=np.uint8)
    image = np.asarray(neighbours.tile(pixels, np.array([32, 16, 64, 32]), "#FFFFFF"))
    assert image.shape == (160, 320, 3)  # the long side is 320 pixels: 2.5 of them to one
    ys, xs = np.nonzero(image[..., 0] > 128)
    rim = 1  # the dark one
    assert (xs.min(), xs.max() + 1) == (80 + rim, 240 - rim)
    assert (ys.min(), ys.max() + 1) == (40 + rim, 120 - rim)
    assert image[80, 160].max() == 0


@pytest.mark.parametrize("method", TARGETS)
def test_every_methods_checkpoint_is_embedded_by_its_own_encoders(trained, method):
    run = read_run(trained / method / "checkpoint.pt")
    queries, dictionary = embed(run, ImageStore(trained / "store"), TOLD, CPU)
    assert (len(queries.g), len(dictionary.g)) == (5, 30)
    np.testing.assert_allclose(np.linalg.norm(dictionary.g, axis=1), 1, rtol=1e-5)
    assert (queries.z is None) == (method == "random")
    assert set(np.bincount(dictionary.image, minlength=12)) == {2, 3}  # 30 crops of 12 images
    before = embed(run, ImageStore(trained / "store"), TOLD, CPU, trained=False)[0]
    assert np.array_equal(before.box, queries.box)
    assert np.array_equal(before.g, queries.g) == (method == "random")


def test_queries_go_through_the_query_encoder_and_entries_through_the_key_encoder(trained):
    run = read_run(trained / "mls" / "checkpoint.pt")
    images = ImageStore(trained / "store")
    plain = embed(run, images, TOLD, CPU)
    weights = {
        k: v + 0.1 if k.startswith("encoders.query") and v.is_floating_point() else v
        for k, v in run.weights.items()
        if isinstance(v, torch.Tensor)
    }
    changed = type(run)(run.path, run.name, run.config, {**run.weights, **weights})
    other = embed(changed, images, TOLD, CPU)
    assert not np.allclose(plain[0].g, other[0].g)
    assert np.array_equal(plain[1].g, other[1].g)


def test_a_folder_gives_the_same_as_its_store(trained):
    run = read_run(trained / "mls" / "checkpoint.pt")
    stored = embed(run, ImageStore(trained / "store"), TOLD, CPU)
    decoded = embed(run, Folder(trained / "coco" / "train2017", 64), TOLD, CPU)
    for a, b in zip(stored, decoded, strict=True):
        assert np.array_equal(a.g, b.g)
        assert np.array_equal(a.image, b.image)


@pytest.mark.parametrize("method", ["mls", "random"])
def test_pictures_are_written(trained, tmp_path, method):
    run, images = read_run(trained / method / "checkpoint.pt"), ImageStore(trained / "store")
    after, before = (embed(run, images, TOLD, CPU, trained=t) for t in (True, False))
    neighbours.write_neighbours(
        *after, lambda i: images.image(i).numpy(), tmp_path / "n.png", rows=2, neighbours=3, about=run.about()
    )
    histograms.write_histograms(
        before, after, lambda i: images.image(i).numpy(), tmp_path / "h.png", about=run.about()
    )
    for name in ("n.png", "n.pdf", "h.png", "h.pdf"):
        assert (tmp_path / name).stat().st_size > 1000


def test_histograms_leave_the_own_image_out_and_fit_its_mean():
    query = crops([[1.0, 0.0]], [3])
    entries = crops([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]], [3, 4, 5, 6])
    values = histograms.first_scores(query, entries, "g")
    np.testing.assert_allclose(values, [0.6, 0.8, 0.0], atol=1e-6)
    with pytest.raises(DataError, match="1 entries of other images"):
        histograms.first_scores(query, crops([[1.0, 0.0], [0.6, 0.8]], [3, 4]), "g")


@pytest.mark.parametrize("key", ["candidates", "dictionary_size", "queries", "neighbours"])
def test_sizes_below_one_are_refused(key):
    with pytest.raises(ConfigError, match=f"{key}: 0 is not allowed; give at least"):
        build(Pictures, {key: 0}, "pictures")
    with pytest.raises(ValidationError):
        Pictures(**{key: 0})


def test_what_is_no_checkpoint_is_refused(trained, tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        read_run(tmp_path / "checkpoint.pt")
    (tmp_path / "checkpoint.pt").write_bytes(b"no checkpoint")
    with pytest.raises(ConfigError, match="has no checksum at its end"):
        read_run(tmp_path / "checkpoint.pt")
    with pytest.raises(ConfigError, match="holds no meta and method"):
        read_run(trained / "mls" / "backbone.pt")
    run = read_run(trained / "mls" / "checkpoint.pt")
    broken = type(run)(run.path, run.name, run.config, {})
    with pytest.raises(ConfigError, match="pretrain the run again"):
        broken.method(CPU)
