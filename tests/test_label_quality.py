"""Pseudo-labels evaluated with annotations: every number against a slow loop, and the files around it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from support.results import put
from support.tiny_coco import write_coco

from mlssl import results
from mlssl.analysis.aggregate import read_metrics
from mlssl.analysis.collect import collect
from mlssl.analysis.outputs import label_axes
from mlssl.data.coco import read_split
from mlssl.data.store import build_store
from mlssl.errors import DataError
from mlssl.figures.labels import label_quality as label_quality_figure
from mlssl.study.load import load
from mlssl.study.settings import Data, PseudoLabels
from mlssl.transfer.crop_categories import categories_shown, read_objects
from mlssl.transfer.pseudo_labels import evaluate, label_quality


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A tiny COCO folder of 64 px images, and its store of half that size."""
    root = tmp_path_factory.mktemp("coco")
    write_coco(root, size=64)
    build_store(root / "train2017", root / "store", short_side=32, workers=1)
    return root


def crops(rng, shape):
    """Random images and boxes within 32 x 32 pixels."""
    corner, side = rng.integers(0, 16, (*shape, 2)), rng.integers(4, 17, (*shape, 2))
    return rng.integers(0, 12, shape).astype(np.int32), np.concatenate([corner, side], axis=-1).astype(np.int32)


def slow_shown(split, image, box, visible):
    """Category indices that one crop shows, from the annotations themselves, in pixels of the original."""
    if image < 0:
        return set()
    # The store sorts by file name, the split by id: they run in opposite directions.
    record = next(r for r in split.images if r["file_name"] == f"{image:04d}.png")
    place = {c["id"]: i for i, c in enumerate(split.categories)}
    x0, y0, w0, h0 = (2 * int(v) for v in box)
    found = set()
    for a in split.annotations[record["id"]]:
        x, y, w, h = a["bbox"]
        inside_x = max(0, min(x + w, x0 + w0) - max(x, x0))
        inside_y = max(0, min(y + h, y0 + h0) - max(y, y0))
        if not a["iscrowd"] and inside_x * inside_y >= visible * w * h:
            found.add(place[a["category_id"]])
    return found


@pytest.mark.parametrize("visible", [0.01, 0.5, 1.0])
def test_a_crop_shows_what_lies_in_it(data, visible):
    split = read_split(data, "train2017")
    rng = np.random.default_rng(0)
    image, box = crops(rng, (40, 5))
    image[0, 0] = -1
    found = categories_shown(read_objects(split, data / "store"), image, box, visible)
    for at in np.ndindex(image.shape):
        expected = slow_shown(split, image[at], box[at], visible)
        assert set(np.flatnonzero(found[at])) == expected, at
    assert found.any()
    assert not found.all()


def test_label_quality_agrees_with_counting_pairs():
    rng = np.random.default_rng(1)
    query, entries = rng.random((7, 4)) < 0.4, rng.random((7, 5, 4)) < 0.4
    query[0] = False  # shows no category
    positive, own, sample = rng.random((7, 5)) < 0.6, rng.random((7, 5)) < 0.2, rng.random((6, 4)) < 0.4
    pairs = [(b, k) for b in range(7) for k in range(5) if query[b].any() and positive[b, k]]
    common = {(b, k): {*np.flatnonzero(query[b])} & {*np.flatnonzero(entries[b, k])} for b, k in pairs}
    right = [bool(common[pair]) for pair in pairs]
    others = [bool(common[b, k]) for b, k in pairs if not own[b, k]]
    random_pairs = [bool((query[b] & row).any()) for b in range(7) if query[b].any() for row in sample]
    seen = int(query.any(axis=1).sum())
    expected = {
        "shared": 100 * np.mean(right),
        "shared_others": 100 * np.mean(others),
        "chance": 100 * np.mean(random_pairs),
        "precision": 100 * np.mean([len(common[p]) / max(1, entries[p].sum()) for p in pairs]),
        "recall": 100 * np.mean([len(common[b, k]) / query[b].sum() for b, k in pairs]),
        "found": 100 * sum(right) / (np.mean(random_pairs) * 60 * seen),
        "own_image": 100 * np.mean([own[pair] for pair in pairs]),
        "positives": len(pairs) / seen,
    }
    found = label_quality(query, entries, positive, own, sample, filled=60)
    assert {name: value for name, (value, _) in found.items()} == pytest.approx(expected)
    assert found["shared"][1] == len(pairs)
    assert found["positives"][1] == seen


def test_what_nothing_defines_is_none():
    nothing = np.zeros((2, 3), dtype=bool)
    found = label_quality(
        nothing, np.zeros((2, 4, 3), bool), np.ones((2, 4), bool), np.zeros((2, 4), bool), nothing, 10
    )
    assert {value for value, _ in found.values()} == {None}


def write_records(path, **changes):
    rng = np.random.default_rng(2)
    names = {"query": (4, 6), "": (4, 6, 3), "dictionary": (4, 8)}
    columns = {}
    for name, shape in names.items():
        prefix = f"{name}_" if name else ""
        columns[f"{prefix}image"], columns[f"{prefix}box"] = crops(rng, shape)
    columns |= {"step": np.array([1, 2, 3, 4]), "filled": np.full(4, 8), "positive": np.ones((4, 6, 3), bool)}
    np.savez(path, **columns | changes)
    return path


def test_a_row_is_the_last_quarter_and_the_series_is_all(data, tmp_path):
    config = PseudoLabels(Data(str(data)), visible=0.1)
    rows, notes = evaluate(write_records(tmp_path / "r.npz"), data / "store", config)
    series = notes["series"]
    assert series["step"] == [1, 2, 3, 4]
    assert series["epoch"] == [0.5, 1, 1.5, 2]  # 12 images, batches of 6
    assert series["pairs"][-1] == next(row["n"] for row in rows if row["metric"] == "shared")
    by_metric = {row["metric"]: row for row in rows}
    assert by_metric["shared"]["value"] == series["shared"][-1]
    assert by_metric["positives"]["value"] == 3
    assert len({*series["shared"]}) > 1
    json.dumps(rows, allow_nan=False)


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"image": np.full((4, 6, 3), 12)}, "image 12"), ({"step": np.zeros(0, int)}, "label_records")],
)
def test_records_that_do_not_fit_are_refused(data, tmp_path, changes, word):
    with pytest.raises(DataError, match=word):
        evaluate(write_records(tmp_path / "r.npz", **changes), data / "store", PseudoLabels(Data(str(data))))


def test_files_that_are_not_there_or_broken_are_named(data, tmp_path):
    config = PseudoLabels(Data(str(data)))
    with pytest.raises(DataError, match=r"no\.npz: no such file"):
        evaluate(tmp_path / "no.npz", data / "store", config)
    (tmp_path / "bad.npz").write_bytes(b"PK no zip")
    with pytest.raises(DataError, match=r"bad\.npz"):
        evaluate(tmp_path / "bad.npz", data / "store", config)
    with pytest.raises(DataError, match="not an image store"):
        evaluate(write_records(tmp_path / "r.npz"), tmp_path, config)


def test_the_verb_writes_a_whole_result_once_and_without_torch(data, tmp_path):
    write_records(tmp_path / "pseudo_labels.npz")
    run = {"run": "mls-x-s0", "method": "mls", "target": "mlssl.method.mls.MLS", "seed": 0, "digest": "0" * 12}
    run |= {"backbone": "test_resnet"}
    (tmp_path / "config.yaml").write_text(f"data: {{root: {data}}}\nvisible: 0.3\n")
    out = tmp_path / "pseudo_labels.json"
    command = [sys.executable, "-X", "importtime", "-m", "mlssl", "pseudo-labels", "--run-folder", tmp_path]
    command += ["--store", data / "store", "--config", tmp_path / "config.yaml", "--out", out]
    no_run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert no_run.returncode == 1
    assert f"{tmp_path}/pretrain.json: no such file; give a finished pretraining" in no_run.stderr
    (tmp_path / "pretrain.json").write_text(json.dumps({"header": {**run, "format": results.FORMAT}, "rows": []}))
    first, second = (
        subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False) for _ in range(2)
    )
    assert first.returncode == 0, first.stderr
    assert not re.search(r"\| +torch$", first.stderr, re.MULTILINE)
    header = json.loads(out.read_text())["header"]
    assert header.items() >= run.items()
    assert {"config_digest", "code", "commit", "data", "device", "threads", "versions", "wall_s"} <= header.keys()
    assert header["config"]["visible"] == 0.3
    assert second.returncode == 0
    assert "exists already; nothing to do" in second.stderr


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study of two k, with the pseudo-labels of both evaluated."""
    monkeypatch.chdir(tmp_path)
    values = {
        "name": "tiny",
        "about": "To test a figure.",
        "data": {"root": "nowhere"},
        "seeds": [0],
        "pretrain": {"epochs": 2, "batch_size": 8},
        "methods": {"mls": {"target": "mlssl.method.mls.MLS"}, "random": {}},
        "compare": ["mls", "random"],
        "ablations": {"k": {"method": "mls", "param": "k", "values": [1, 5]}},
        "transfers": {"pseudo_labels": {}},
    }
    Path("study.yaml").write_text(yaml.safe_dump(values))
    study = load("study.yaml")
    for run, shared in zip(label_axes(study)["k"].values(), (40.0, 60.0), strict=True):
        series = {"step": [5, 10, 15], "epoch": [1, 2, 3], "pairs": [9, 10, 50], "shared": [99.0, shared, 50.0]}
        series["chance"] = [30.0, shared / 2, 30.0]
        put(study, study.runs[run[0]], "pseudo_labels", [], notes={"series": series})
    return study


def figure_of(study):
    """The figure as a user gets it: from metrics.tsv."""
    collect(study)
    return label_quality_figure(study, read_metrics(study))


def marks(figure, marker):
    """Place and level of the marks of one shape."""
    return [
        (float(line.get_xdata()[0]), float(line.get_ydata()[0]))
        for line in figure.axes[0].lines
        if line.get_marker() == marker and line.get_linestyle() != ":"
    ]


def test_the_figure_draws_last_quarter_first_quarter_and_random_entries_of_each_level(study):
    assert list(label_axes(study)) == ["k"]
    for run, last in zip(label_axes(study)["k"].values(), (48.0, 57.0), strict=True):
        study.result(run[0], "pseudo_labels").unlink()
        series = {
            "step": [5, 10],
            "epoch": [1, 2],
            "pairs": [50, 50],
            "shared": [35.0, 50.0],
            "chance": [30.0, 30.0],
        }
        found = [
            {"protocol": "pseudo_labels", "metric": metric, "value": value, "n": 50}
            for metric, value in (("shared", last), ("chance", 30.0))
        ]
        put(study, study.runs[run[0]], "pseudo_labels", found, notes={"series": series})
    figure = figure_of(study)
    assert marks(figure, "D") == [(48.0, 0.0), (57.0, 1.0)]
    assert marks(figure, "|") == [(30.0, 0.0), (30.0, 1.0)]
    assert marks(figure, "o") == [(35.0, 0.0), (35.0, 1.0)]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["1", "5"]
    title = figure.get_suptitle().replace("\n", " ")
    assert title.endswith("from K 1 +18.0 points, one seed to K 5 +27.0 points, one seed")


def test_missing_results_are_named_and_steps_with_few_labels_do_not_count(study):
    study.result(label_axes(study)["k"]["5"][0], "pseudo_labels").unlink()
    figure = figure_of(study)
    assert "K = 5: missing (1 of 1 seed)" in figure.get_suptitle().replace("\n", " ")
    assert marks(figure, "o") == []  # nine labels in the first step are too few to tell a share


def test_an_undefined_share_has_no_row_and_is_not_drawn(study):
    run = label_axes(study)["k"]["1"][0]
    series = {"step": [5, 10], "epoch": [1, 2], "pairs": [0, 50], "shared": [None, 40.0], "chance": [30.0, None]}
    put(study, study.runs[run], "pseudo_labels", [], notes={"series": series})
    collect(study)
    metrics = read_metrics(study)
    own = metrics[(metrics.run == run) & metrics.protocol.str.startswith("pseudo_labels_step_")]
    assert own[["protocol", "metric", "value"]].values.tolist() == [
        ["pseudo_labels_step_5", "epoch", 1],
        ["pseudo_labels_step_5", "chance", 30],
        ["pseudo_labels_step_10", "epoch", 2],
        ["pseudo_labels_step_10", "shared", 40],
    ]
