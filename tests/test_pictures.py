"""Neighbours and score histograms: who is near, what is drawn where, for every method's checkpoint."""

import dataclasses
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from support.snakemake import small, write
from support.tiny_coco import IDENTIFIED, write_coco

from mlssl.cli import main
from mlssl.cli.pictures import categories
from mlssl.data.store import ImageStore, build_store
from mlssl.errors import ConfigError, DataError
from mlssl.pictures import contact_sheet, histogram_sheet, histograms, neighbours
from mlssl.pictures.embed import Folder, embed
from mlssl.pretrain import loop as engine
from mlssl.pretrain.trained import read_run
from mlssl.study import settings as config
from mlssl.study.load import load
from mlssl.study.settings import Pictures
from mlssl.study.validation import build

CPU = torch.device("cpu")
TARGETS = {
    "mls": "mlssl.method.mls.MLS",
    "moco_v2": "baselines.moco_v2.MoCoV2",
    "densecl": "baselines.densecl.DenseCL",
    "simsiam": "baselines.simsiam.SimSiam",
    "random": None,
}
SETTINGS = Pictures(queries=2, neighbours=3, candidates=5, dictionary_size=30, seed=0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Checkpoints of two steps of every method, and the images they saw."""
    root = tmp_path_factory.mktemp("pictures")
    write_coco(root / "coco")
    build_store(root / "coco" / "train2017", root / "store", short_side=64, images_id="images", workers=1)
    for method, target in TARGETS.items():
        params = ({"dim": 8} | ({"dictionary_size": 8} if method != "simsiam" else {})) if target else {}
        data = {"root": "unused", "short_side": 64, **IDENTIFIED}
        values = {"data": data, "method": method, "target": target}
        values |= {
            "params": params | ({"k": 2} if method == "mls" else {}),
            "backbone": "test_resnet",
            "epochs": None,
        }
        values |= {"steps": 2, "batch_size": 4, "lr": 0.05, "precision": "fp32", "views": {"crop": 32}}
        settings = build(config.Pretrain, values, "test")
        engine.pretrain(settings, root / "store", root / method, run=method, device=CPU, progress=False)
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
    queries, dictionary = embed(run, ImageStore(trained / "store"), SETTINGS, CPU)
    assert (len(queries.g), len(dictionary.g)) == (5, 30)
    np.testing.assert_allclose(np.linalg.norm(dictionary.g, axis=1), 1, rtol=1e-5)
    assert (queries.z is None) == (method == "random")
    assert set(np.bincount(dictionary.image, minlength=12)) == {2, 3}  # 30 crops of 12 images
    before = embed(run, ImageStore(trained / "store"), SETTINGS, CPU, trained=False)[0]
    assert np.array_equal(before.box, queries.box)
    assert np.array_equal(before.g, queries.g) == (method == "random")


def test_queries_go_through_the_query_encoder_and_entries_through_the_key_encoder(trained):
    run = read_run(trained / "mls" / "checkpoint.pt")
    images = ImageStore(trained / "store")
    plain = embed(run, images, SETTINGS, CPU)
    weights = {
        k: v + 0.1 if k.startswith("encoders.query") and v.is_floating_point() else v
        for k, v in run.weights.items()
        if isinstance(v, torch.Tensor)
    }
    changed = dataclasses.replace(run, weights={**run.weights, **weights})
    other = embed(changed, images, SETTINGS, CPU)
    assert not np.allclose(plain[0].g, other[0].g)
    assert np.array_equal(plain[1].g, other[1].g)


def test_a_folder_gives_the_same_as_its_store(trained):
    run = read_run(trained / "mls" / "checkpoint.pt")
    stored = embed(run, ImageStore(trained / "store"), SETTINGS, CPU)
    decoded = embed(run, Folder(trained / "coco" / "train2017", 64), SETTINGS, CPU)
    for a, b in zip(stored, decoded, strict=True):
        assert np.array_equal(a.g, b.g)
        assert np.array_equal(a.image, b.image)


@pytest.mark.parametrize("method", ["mls", "random"])
def test_pictures_are_written(trained, tmp_path, method):
    run, images = read_run(trained / method / "checkpoint.pt"), ImageStore(trained / "store")
    after, before = (embed(run, images, SETTINGS, CPU, trained=t) for t in (True, False))
    neighbours.write_neighbours(
        *after,
        lambda i: images.image(i).numpy(),
        tmp_path / "n.png",
        rows=2,
        neighbours=3,
        method=method,
        about=run.about(),
    )
    about = {"method": method, "trained": method != "random", "about": run.about()}
    histograms.write_histograms(before, after, tmp_path / "h.json", **about)
    histogram_sheet.write_histogram_sheet([tmp_path / "h.json"], tmp_path / "h.png")
    for name in ("n.png", "n.pdf", "h.png", "h.pdf"):
        assert (tmp_path / name).stat().st_size > 1000


def test_the_share_that_is_right_is_that_of_a_loop_over_pairs():
    rng = np.random.default_rng(0)
    query, entry = rng.random((6, 4)) < 0.4, rng.random((15, 4)) < 0.4
    right = neighbours.has_common(query, entry)
    for i, j in np.ndindex(6, 15):
        assert right[i, j] == any(a and b for a, b in zip(query[i], entry[j], strict=True))
    image_of_query, image_of_entry = np.arange(6), np.arange(15) % 8
    index = rng.integers(0, 15, (6, 3))
    near = [right[i, j] for i, row in enumerate(index) for j in row]
    others = [right[i, j] for i, j in np.ndindex(6, 15) if image_of_query[i] != image_of_entry[j]]
    said = neighbours.share_right(right, index, image_of_query, image_of_entry)
    assert said == (
        f"{100 * np.mean(near):.0f} % of the nearest crops share a category with their query (6 queries), of "
        f"all crops {100 * np.mean(others):.0f} %"
    )


def test_right_neighbours_have_a_mark_and_the_title_their_share(tmp_path, monkeypatch):
    queries = crops([[1, 0], [0, 1]], [0, 1])
    dictionary = crops([[1, 0.1], [0.1, 1], [1, 1]], [2, 3, 4])
    shown = np.array([[True, False], [False, False]]), np.array([[True, True], [True, False], [False, False]])
    drawn = []
    monkeypatch.setattr(neighbours, "save", lambda figure, path: drawn.append(figure))
    image = np.zeros((8, 8, 3), dtype=np.uint8)
    about = {"rows": 1, "neighbours": 2, "method": "MLS", "about": "Run x"}
    neighbours.write_neighbours(queries, dictionary, lambda i: image, tmp_path / "n.png", shown=shown, **about)
    neighbours.write_neighbours(queries, dictionary, lambda i: image, tmp_path / "n.png", **about)
    marks = [[text.get_xlabel().endswith(neighbours.RIGHT) for text in figure.axes] for figure in drawn]
    assert sum(marks[0]) == 1
    assert sum(marks[1]) == 0
    titles = [" ".join(figure.get_suptitle().split()) for figure in drawn]
    assert titles[0].startswith(
        "MLS: 25 % of the nearest crops share a category with their query (2 queries), of all"
    )
    assert titles[1] == "MLS: nearest entries of the dictionary"


def test_categories_are_known_of_a_run_s_own_labelled_images_alone(trained, tmp_path):
    run, images = read_run(trained / "mls" / "checkpoint.pt"), ImageStore(trained / "store")
    labelled = replace(run, config=replace(run.config, data=replace(run.config.data, root=str(trained / "coco"))))
    embedded = embed(run, images, SETTINGS, CPU)
    of_query, of_entry = categories(labelled, images, embedded)
    assert (len(of_query), len(of_entry)) == (len(embedded[0].g), len(embedded[1].g))
    assert of_entry.any()
    assert categories(run, images, embedded) is None  # no annotations where the run looked for them
    assert categories(labelled, Folder(trained / "coco" / "train2017", 64), embedded) is None
    (tmp_path / "other").mkdir()
    image = next((trained / "coco" / "train2017").iterdir())
    shutil.copy(image, tmp_path / "other" / f"unknown{image.suffix}")
    build_store(tmp_path / "other", tmp_path / "store", short_side=64, images_id="others", workers=1)
    assert categories(labelled, ImageStore(tmp_path / "store"), embedded) is None


@pytest.fixture
def study(trained, tmp_path, monkeypatch):
    """A study with the checkpoint of `trained` in its first run, and that run's name."""
    monkeypatch.chdir(tmp_path)
    pictures = {"queries": 2, "neighbours": 3, "candidates": 5, "dictionary_size": 30}
    data = {"root": str(trained / "coco"), "short_side": 64}
    path = write(tmp_path / "study.yaml", small(data=data, compare=["mls"], pictures=pictures, transfers={}))
    loaded = load(path)
    (name,) = loaded.runs
    folder = loaded.out / "runs" / name
    folder.mkdir(parents=True)
    shutil.copy(trained / "mls" / "checkpoint.pt", folder)
    shutil.copytree(trained / "store", loaded.store)
    return loaded, name


def call(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["mlssl", *map(str, arguments)])
    return main()


OPTIONS = {
    "neighbours": ["--queries", 2, "--neighbours", 3, "--candidates", 5, "--dictionary-size", 30],
    "histograms": ["--candidates", 5, "--dictionary-size", 30],
}


@pytest.mark.parametrize("kind", OPTIONS)
def test_the_study_has_the_settings_that_options_give_by_hand(study, monkeypatch, kind):
    loaded, name = study
    checkpoint = loaded.out / "runs" / name / "checkpoint.pt"
    end = ".png" if kind == "neighbours" else ".json"
    study, hand, third = (Path(f"{name}{end}") for name in ("study", "hand", "other"))
    of_study = ["--study", "study.yaml", "--run-name", name, "--out", study]
    by_hand = ["--checkpoint", checkpoint, "--store", loaded.store, "--out", hand, *OPTIONS[kind]]
    for arguments in (of_study, by_hand):
        assert call(monkeypatch, kind, "--device", "cpu", "--threads", 1, *arguments) == 0
    assert study.read_bytes() == hand.read_bytes()
    other = [*by_hand[:4], "--out", third, "--dictionary-size", 20]
    assert call(monkeypatch, kind, "--device", "cpu", "--threads", 1, *other) == 0
    assert study.read_bytes() != third.read_bytes()


@pytest.mark.parametrize("kind", [*OPTIONS, "search-benchmark"])
def test_options_that_do_not_fit_together_are_refused(study, monkeypatch, capsys, kind):
    loaded, name = study
    out = "x.png" if kind == "neighbours" else "x.json"
    of_study = ["--study", "study.yaml", "--run-name", name, "--out", out]
    assert call(monkeypatch, kind, *of_study, "--seed", 1) == 1
    assert "--seed: study.yaml decides this; edit the study, or give --checkpoint" in capsys.readouterr().err
    assert call(monkeypatch, kind, *of_study, "--store", loaded.store) == 1
    assert "--store: study.yaml decides this" in capsys.readouterr().err
    sizes = ["--sizes", "8"] if kind == "search-benchmark" else []
    assert call(monkeypatch, kind, "--checkpoint", "checkpoint.pt", "--out", out, *sizes) == 1
    assert f"{kind}: --checkpoint needs images; give --images or --store" in capsys.readouterr().err
    assert call(monkeypatch, kind, *of_study[:3], "nobody", *of_study[4:]) == 1
    assert f"study.yaml: has no run 'nobody'; it has {name}" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        call(monkeypatch, kind, "--study", "study.yaml", "--out", out)
    assert f"{kind}: --study needs --run-name too" in capsys.readouterr().err


def test_a_search_benchmark_needs_its_section_in_the_study(study, monkeypatch, capsys):
    of_study = ["--study", "study.yaml", "--run-name", study[1], "--out", "search.json"]
    assert call(monkeypatch, "search-benchmark", *of_study) == 1
    assert "study.yaml: has no search_benchmark; add it" in capsys.readouterr().err


def test_histograms_leave_the_own_image_out_and_fit_its_mean():
    query = crops([[1.0, 0.0]], [3])
    entries = crops([[1.0, 0.0], [0.6, 0.8], [0.8, 0.6], [0.0, 1.0]], [3, 4, 5, 6])
    values = histograms.first_scores(query, entries, "g")
    np.testing.assert_allclose(values, [0.6, 0.8, 0.0], atol=1e-6)
    with pytest.raises(DataError, match="1 entries of other images"):
        histograms.first_scores(query, crops([[1.0, 0.0], [0.6, 0.8]], [3, 4]), "g")


def test_counts_are_those_of_a_loop_over_bins():
    values = np.random.default_rng(0).normal(0.2, 0.3, 500).clip(-1, 1)
    found = histograms.histogram(np.append(values, 1.0000001))  # rounding can exceed 1
    expected = [sum(-1 + i / 50 <= v < -1 + (i + 1) / 50 for v in values) for i in range(100)]
    expected[-1] += 1 + int((values == 1).sum())
    assert sum(found["counts"]) == 501
    assert found["counts"] == expected
    assert histograms.histogram(np.array([0.1, 0.3]))["std"] == pytest.approx(0.1)


def counted(method, before, after, *, trained=True, spaces=("backbone", "projector")):
    """The content of a file: scores evenly spread over these ranges."""
    one = {m: histograms.histogram(np.linspace(*ends, 200)) for m, ends in (("before", before), ("after", after))}
    about = {"format": histograms.FORMAT, "method": method, "trained": trained, "about": "Images of store"}
    return about | {"entries": 200, "own": 0, "scores": dict.fromkeys(spaces, one)}


def test_a_sheet_has_all_methods_on_common_axes_and_says_what_training_does():
    before = (0.9, 0.9 + 0.0346)  # a uniform distribution's width over its standard deviation is the root of 12
    runs = [
        counted("random", before, before, trained=False, spaces=["backbone"]),
        counted("moco_v2", before, (0.2, 0.2 + 0.346)),
        counted("mls", before, (-0.1, -0.1 + 0.692)),
    ]
    figure = histogram_sheet.draw(runs)
    *axes, below = figure.axes
    panels = {ax.get_title(loc="left"): ax for ax in axes}
    assert list(panels) == [f"{s}, {m} training" for s in ("backbone", "projector") for m in ("before", "after")]
    assert len({(ax.get_xlim(), ax.get_ylim(), ax.get_yscale()) for ax in axes}) == 1
    assert {title: len(ax.lines) for title, ax in panels.items()} == dict(zip(panels, (3, 3, 2, 2), strict=True))
    after = panels["backbone, after training"]
    assert [line.get_xdata()[0] for line in after.lines] == pytest.approx([0.9173, 0.373, 0.246])
    assert after.lines[2].get_color() == "#0072B2"
    assert after.lines[2].get_marker() == "D"
    text = figure.get_suptitle().replace("\n", " ")
    widened = "standard deviation 0.01 before, 0.10 (MoCo-v2) to 0.20 (MLS) after"
    assert text == f"Training widens backbone scores: {widened} Training widens projector scores: {widened}"
    assert [t.get_text() for t in below.get_legend().get_texts()] == ["untrained", "MoCo-v2", "MLS"]
    words = figure.get_supxlabel().replace("\n", " ")
    assert "Cosines of different methods are not comparable" in words
    assert words.endswith("before and after are the same: untrained.")


def test_a_sheet_of_shares_that_a_loop_computes():
    figure = histogram_sheet.draw([counted("mls", (0.0, 0.5), (0.1037, 0.3951), spaces=["backbone"])])
    (stairs,) = figure.axes[1].patches
    shares = [float(v) for v in stairs.get_data().values]
    values = np.linspace(0.1037, 0.3951, 200)
    for i, share in enumerate(shares):
        inside = sum(-1 + i / 50 <= v < -1 + (i + 1) / 50 for v in values)
        assert share == pytest.approx(inside / 2) or (inside == 0 and share < figure.axes[1].get_ylim()[0])


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "no such file"),
        ("{", "is no JSON"),
        ("{}", "no histograms"),
        ('{"format": 9, "scores": {}}', "format 1"),
    ],
)
def test_what_holds_no_counts_is_refused(tmp_path, text, why):
    if text is not None:
        (tmp_path / "a.json").write_text(text)
    with pytest.raises(ConfigError, match=f"a.json: .*{why}.*mlssl histograms"):
        histogram_sheet.write_histogram_sheet([tmp_path / "a.json"], tmp_path / "h.png")


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
    broken = dataclasses.replace(run, weights={})
    with pytest.raises(ConfigError, match="pretrain the run again"):
        broken.method(CPU)


def test_twenty_names_on_one_tile_do_not_overlap():
    taken = []
    for i in range(20):
        spot = contact_sheet.free_spot((100.0 + i, 120.0, 140.0), 80.0, 19.0, taken)
        assert spot is not None
        x, y = spot
        assert 0 <= x <= 256 - 80
        assert 0 <= y <= 256 - 19
        for left, top, right, bottom in taken:
            assert x >= right or x + 80 <= left or y >= bottom or y + 19 <= top
        taken.append((x, y, x + 80, y + 19))
    assert contact_sheet.free_spot((0.0, 0.0, 256.0), 80.0, 19.0, [(0, 0, 256, 256)]) is None
