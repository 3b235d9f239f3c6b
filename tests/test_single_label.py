"""Sets with exactly one category per image: accuracies beside mAP, and labels that contradict the set."""

import json

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score
from support.snakemake import small, write
from support.tiny_coco import IDENTIFIED, write_backbone, write_coco

from mlssl.analysis.outputs import headline
from mlssl.data.coco import read_split
from mlssl.errors import DataError, MissingLabels
from mlssl.study.load import load
from mlssl.study.settings import Data, Knn, Linear
from mlssl.transfer import knn, linear
from mlssl.transfer.metrics import single_label_scores
from mlssl.transfer.needs import MISSING

CPU = torch.device("cpu")


def one_hot(labels, classes):
    return torch.nn.functional.one_hot(torch.as_tensor(labels), classes).bool()


@pytest.mark.parametrize("levels", [1, 3, 1000])
@pytest.mark.parametrize("seed", range(3))
def test_accuracies_equal_a_slow_loop_with_and_without_ties(levels, seed):
    rng = torch.Generator().manual_seed(seed)
    scores = torch.randint(levels, (40, 5), generator=rng) / levels
    labels = torch.randint(4, (40,), generator=rng).tolist()  # no example of the last class
    predicted = [max(range(5), key=lambda c: (float(row[c]), -c)) for row in scores]
    found = single_label_scores(scores, one_hot(labels, 5))
    assert found["top1"] == pytest.approx(100 * sum(p == t for p, t in zip(predicted, labels, strict=True)) / 40)
    hits = {c: [p == t for p, t in zip(predicted, labels, strict=True) if t == c] for c in set(labels)}
    assert found["mAcc"] == pytest.approx(100 * sum(sum(h) / len(h) for h in hits.values()) / len(hits))


def test_mean_per_class_accuracy_is_scikit_learns_balanced_accuracy():
    scores, labels = torch.randn(60, 3, generator=torch.Generator().manual_seed(0)), [i % 7 % 3 for i in range(60)]
    expected = balanced_accuracy_score(labels, scores.argmax(dim=1))
    assert single_label_scores(scores, one_hot(labels, 3))["mAcc"] == pytest.approx(100 * expected)


@pytest.mark.parametrize(
    ("scores", "targets", "message"),
    [
        (torch.zeros(2, 2), torch.tensor([[True, True], [True, False]]), "exactly one class"),
        (torch.zeros(2, 2), torch.tensor([[False, False], [True, False]]), "exactly one class"),
        (torch.zeros(0, 2), torch.zeros(0, 2, dtype=torch.bool), "exactly one class"),
        (torch.full((1, 2), torch.nan), torch.tensor([[True, False]]), "not all finite"),
    ],
)
def test_accuracies_of_other_inputs_are_refused(scores, targets, message):
    with pytest.raises(ValueError, match=message):
        single_label_scores(scores, targets)


@pytest.fixture
def data(tmp_path):
    """A set with one category per image, that says so."""
    root = write_coco(tmp_path / "coco", size=40, splits={"train2017": 40, "val2017": 20})
    for split in ("train2017", "val2017"):
        edit(root, split, lambda content: content | one_category(content))
    return Data(str(root), **IDENTIFIED)


def one_category(content):
    first = {}
    for i, image in enumerate(content["images"]):
        box = {"id": i + 1, "image_id": image["id"], "bbox": [0, 0, 40, 40], "segmentation": [], "area": 1600}
        first[image["id"]] = box | {"category_id": content["categories"][i % 3]["id"]}
    return {
        "annotations": list(first.values()),
        "categories": [c | {"exclusive": True} for c in content["categories"]],
    }


def edit(root, split, change):
    path = root / "annotations" / f"instances_{split}.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def probes(data, tmp_path, monkeypatch):
    """Rows of both probes, on features that hold the labels of all images but the last ten."""

    def features(backbone, split, **_):
        known = torch.from_numpy(split.labels()).float()
        known[-10:] = known[-10:].roll(1, dims=1)
        return known + 0.01

    monkeypatch.setattr(linear, "extract", features)
    backbone = write_backbone(tmp_path / "backbone.pt")
    probe = Linear(data, fractions=(1.0, 0.5), subsets=2)
    rows = linear.evaluate(backbone, probe, seed=0, device=CPU, progress=False)[0]
    return rows + knn.evaluate(backbone, Knn(data, neighbours=(1,)), seed=0, device=CPU, progress=False)[0]


def test_both_probes_report_accuracies_beside_map(data, tmp_path, monkeypatch):
    rows = probes(data, tmp_path, monkeypatch)
    assert [(row["protocol"], row["metric"]) for row in rows] == [
        (protocol, metric) for protocol in ("linear", "linear_50pct", "knn") for metric in ("mAP", "top1", "mAcc")
    ]
    values = {(row["protocol"], row["metric"]): row for row in rows}
    assert values["linear", "top1"]["value"] == pytest.approx(50)
    assert len(values["linear_50pct", "mAcc"]["jackknife"]) == 20
    # Of 20 images, 10 are right: without one of these 9 of 19, without one of the others 10 of 19.
    assert set(values["linear", "top1"]["jackknife"]) == {round(900 / 19, 4), round(1000 / 19, 4)}


def test_the_map_does_not_depend_on_what_the_set_says(data, tmp_path, monkeypatch):
    rows = [row for row in probes(data, tmp_path, monkeypatch) if row["metric"] == "mAP"]
    for split in ("train2017", "val2017"):
        edit(data_root(data), split, lambda c: c | {"categories": [_without(k) for k in c["categories"]]})
    assert probes(data, tmp_path, monkeypatch) == rows


def data_root(data):
    from pathlib import Path

    return Path(data.root)


def _without(category):
    return {key: value for key, value in category.items() if key != "exclusive"}


@pytest.mark.parametrize(
    ("split", "change", "has"),
    [
        ("train2017", lambda a: a[:-1], "none"),
        ("val2017", lambda a: a[1:], "none"),
        ("val2017", lambda a: [*a, a[0] | {"id": 999, "category_id": a[1]["category_id"]}], "'red', 'green'"),
        ("train2017", lambda a: [a[0] | {"iscrowd": 1}, *a[1:]], "none"),
    ],
)
@pytest.mark.parametrize("transfer", ["linear", "knn"])
def test_an_image_without_exactly_one_category_is_refused(data, split, change, has, transfer):
    root = data_root(data)
    edit(root, split, lambda content: content | {"annotations": change(content["annotations"])})
    with pytest.raises(DataError, match=rf"{split}\.json: image '\d+\.png' has the categories {has}, but") as error:
        MISSING[transfer](read_split(root, "train2017"), read_split(root, "val2017"))
    assert not isinstance(error.value, MissingLabels)


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ({"dataset": {"name": "flowers102"}}, True),
        ({"dataset": {"name": "voc2007"}}, False),
        ({"photos": {"folder": "pets", "labels": "pets"}}, True),
        ({"photos": {"folder": "pets", "labels": "pets/"}}, True),
        ({"photos": {"folder": "pets", "labels": "pets.csv"}}, False),
    ],
)
def test_tables_have_accuracies_where_images_have_one_category(tmp_path, monkeypatch, source, shown):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pets").mkdir()
    (tmp_path / "pets.csv").touch()
    transfers = {"linear": {"fractions": [1.0, 0.1]}, "knn": {}}
    study = load(write(tmp_path / "study.yaml", small(data=source, transfers=transfers)))
    found = [(s.protocol, s.metric) for s in headline(study)]
    assert found[:3] == [("linear", "mAP"), ("linear_10pct", "mAP"), ("knn", "mAP")]
    accuracies = [("linear", "top1"), ("linear", "mAcc"), ("knn", "top1"), ("knn", "mAcc")]
    assert found[3:-1] == (accuracies if shown else [])
