"""VOC07's SVMs and low-shot, fine-tuned classification and linear probes, against scikit-learn and by hand."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from sklearn.model_selection import cross_val_score
from sklearn.svm import LinearSVC
from support.study import EXAMPLE, changed
from support.tiny_coco import write_backbone, write_coco
from torch.nn import functional as F

from mlssl.analysis.outputs import headline, protocols_of
from mlssl.data.coco import read_split
from mlssl.study.extends import read_extended
from mlssl.study.load import load
from mlssl.study.settings import TRANSFERS, Classification, Data, Svm
from mlssl.study.validation import build
from mlssl.transfer import classification, svm
from mlssl.transfer.load import load_backbone, normalise, read_splits

ROOT = Path(__file__).parents[1]
HOW = {"seed": 0, "device": torch.device("cpu"), "progress": False}


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    """Rectangles of three colours, most of them learnable; the crowd of the last but one image is `difficult`."""
    return write_coco(tmp_path_factory.mktemp("protocols") / "coco", splits={"train2017": 24, "val2017": 16})


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return write_backbone(tmp_path_factory.mktemp("weights") / "backbone.pt")


# --- The metric, by hand


@pytest.mark.parametrize(
    ("right", "wanted"),
    [
        ([1, 0, 1, 0], (1 + 2 / 3) / 2),
        ([0, 1, 1], 2 / 3),  # the precision at the first hit is 1/2; its envelope is 2/3
        ([0, 0, 1], 1 / 3),
        ([1, 1], 1),
        ([1, 0, 0, 1, 1], (1 + 3 / 5 + 3 / 5) / 3),
    ],
)
def test_all_point_average_precision_of_cases_computed_by_hand(right, wanted):
    scores = np.linspace(1, 0, len(right))
    order = np.random.default_rng(0).permutation(len(right))
    found = svm.all_point_ap(scores[order], np.array(right, dtype=bool)[order])
    assert found == pytest.approx(100 * wanted)


def test_a_difficult_image_counts_neither_for_nor_against(coco):
    shown = svm.presence(read_split(coco, "train2017"))
    assert shown[-2, 0] == (-1 if not read_split(coco, "train2017").labels()[-2, 0] else 1)
    scores, shown = np.array([[0.9], [0.8], [0.1]]), np.array([[-1], [1], [0]], dtype=np.int8)
    assert svm.mean_ap(scores, shown) == 100


# --- SVMs


@pytest.mark.parametrize(
    ("layer", "channels", "side", "wanted"),
    [("c1", 64, 112, 9216), ("c2", 256, 56, 9216), ("c3", 512, 28, 8192), ("c4", 1024, 14, 9216),
     ("c5", 2048, 7, 8192)],
)  # fmt: skip
def test_the_pooled_maps_of_a_resnet50_have_the_published_dimensions(layer, channels, side, wanted):
    maps = torch.rand(2, channels, side, side)
    for size in (224, 64):
        found = svm.pool(maps, layer, size)
        assert found.shape == (2, wanted)
        torch.testing.assert_close(found.norm(dim=1), torch.ones(2), rtol=1e-4, atol=1e-4)


def pooled_by_hand(backbone_file, split):
    """c5 of every image, resized to 32 and then 64 pixels; 2 x 2 cells that are means of the map's quarters."""
    model, _ = load_backbone(backbone_file)
    model.eval()
    found = []
    for i in range(len(split)):
        image = torch.from_numpy(split.pixels(i).copy()).permute(2, 0, 1)[None]
        image = F.interpolate(image, size=(32, 32), mode="bilinear", antialias=True)
        image = F.interpolate(image, size=(64, 64), mode="bilinear", antialias=True)
        with torch.no_grad():
            maps = model(normalise(image))[0]
        assert maps.shape[1:] == (2, 2)
        flat = maps.reshape(-1)
        found.append((flat / (flat.norm() + 1e-5)).numpy())
    return np.stack(found)


def test_the_pipeline_equals_scikit_learn_called_by_hand(coco, backbone):
    config = Svm(Data(str(coco)), size=64, resize=32, costs=(0.1, 1.0, 10.0))
    rows, notes = svm.evaluate(backbone, config, **HOW)
    train, val = read_splits(config.data)
    x, x_val = pooled_by_hand(backbone, train), pooled_by_hand(backbone, val)
    y, y_val = svm.presence(train), svm.presence(val)
    aps, costs = [], []
    state = svm.seed_of(0, "svm") % 2**32
    for j in range(3):
        target = np.where(y[:, j] == 1, 1, -1)
        scores = {}
        for cost in config.costs:
            given = {"C": cost, "class_weight": {1: 2, -1: 1}, "tol": 1e-4, "max_iter": 2000, "random_state": state}
            machine = LinearSVC(dual=True, loss="squared_hinge", penalty="l2", **given)
            scores[cost] = cross_val_score(machine, x, target, cv=3, scoring="average_precision").mean(), -cost
        costs.append(max(scores, key=scores.get))
        machine = LinearSVC(
            dual=True, C=costs[-1], class_weight={1: 2, -1: 1}, tol=1e-4, max_iter=2000, random_state=state
        ).fit(x, target)
        kept = y_val[:, j] >= 0
        aps.append(svm.all_point_ap(machine.decision_function(x_val[kept]), y_val[kept, j] == 1))
    assert notes["protocols"]["svm"]["costs"] == costs
    assert rows[0]["value"] == pytest.approx(np.mean(aps), abs=1e-6)
    assert (rows[0]["protocol"], rows[0]["metric"], rows[0]["n"]) == ("svm", "mAP", 16)
    assert len(rows[0]["jackknife"]) == 16


def test_a_low_shot_sample_has_k_of_each_category():
    rng = np.random.default_rng(0)
    shown = np.eye(4, dtype=np.int8)[rng.integers(0, 4, 80)]
    shown[:5, 1] = -1
    for k in (1, 3):
        chosen = svm.low_shot(shown, 1, k, rng)
        assert len(chosen) == len(set(chosen)) == 4 * k
        assert (shown[chosen, 1] == 1).sum() == k
        assert (shown[chosen, 1] >= 0).all()
        assert all((shown[chosen, j] == 1).sum() == k for j in range(4))


def test_low_shot_reports_the_choice_on_train_and_the_best_on_test(coco, backbone):
    data = Data(str(coco))
    config = Svm(data, size=64, resize=None, costs=(0.1, 1.0, 10.0), shots=(1, 2), samples=3, all_labels=False)
    rows, notes = svm.evaluate(backbone, config, **HOW)
    found = {(row["protocol"], row["metric"]): row["value"] for row in rows}
    assert set(found) == {(f"svm_k{k}", m) for k in (1, 2) for m in ("mAP", "mAP_best_on_test")}
    # By hand, for one image of each category: the default cost on train, and the best of one cost for all on test.
    train, val = read_splits(data)
    model, _ = load_backbone(backbone)
    x, x_val = (svm.extract(model, s, config, HOW["device"], False)["c5"] for s in (train, val))
    shown, shown_val = svm.presence(train), svm.presence(val)
    of_cost = {}
    for cost in config.costs:
        values = []
        for sample in range(3):
            rng = np.random.default_rng(svm.seed_of(0, "svm", "shots", 1, sample))
            scores = []
            for j in range(3):
                chosen = svm.low_shot(shown, j, 1, rng)
                machine = svm.machine(cost, config, svm.seed_of(0, "svm") % 2**32)
                machine.fit(x[chosen], np.where(shown[chosen, j] == 1, 1, -1))
                scores.append(machine.decision_function(x_val))
            values.append(svm.mean_ap(np.stack(scores, axis=1), shown_val))
        of_cost[cost] = np.mean(values)
    assert found["svm_k1", "mAP"] == pytest.approx(of_cost[1.0])
    assert found["svm_k1", "mAP_best_on_test"] == pytest.approx(max(of_cost.values()))
    assert notes["protocols"]["svm_k1"]["cost_best_on_test"] == max(of_cost, key=of_cost.get)


# --- Fine-tuning


def test_learning_rates_are_those_of_the_recipes():
    steps = Classification(Data("d"), epochs=100, lr=30.0, schedule="steps", milestones=(0.6, 0.8))
    rates = [classification.learning_rate(10 * epoch, 10, steps) for epoch in (0, 59, 60, 79, 80, 99)]
    assert rates == pytest.approx([30, 30, 3, 3, 0.3, 0.3])
    cosine = Classification(Data("d"), epochs=10, lr=0.1)
    assert [classification.learning_rate(t, 4, cosine) for t in (0, 20, 40)] == pytest.approx([0.1, 0.05, 0])


def test_the_centre_crop_is_that_of_a_resized_image():
    image = torch.arange(3 * 40 * 80, dtype=torch.float32).reshape(3, 40, 80).div(40).to(torch.uint8)
    found = classification.crop_of(image, Classification(Data("d"), size=32, resize=40))
    assert torch.equal(found, image[:, 4:36, 24:56])


@pytest.mark.parametrize("crop", ["random_resized", "random", "centre"])
def test_training_crops_depend_on_their_generator_alone(crop):
    image = torch.randint(0, 256, (3, 60, 75), dtype=torch.uint8)
    config = Classification(Data("d"), size=32, resize=40, crop=crop)
    one, two, other = (
        classification.augmented(image, config, torch.Generator().manual_seed(seed)) for seed in (0, 0, 5)
    )
    assert one.shape == (3, 32, 32)
    assert torch.equal(one, two)
    assert (crop == "centre") == any(torch.equal(other, x) for x in (one, one.flip(2)))


def exclusive(root, count=24):
    """One colour per image: class folders as the import writes them."""
    root = write_coco(root, splits={"train2017": count, "val2017": 12})
    for split in ("train2017", "val2017"):
        path = root / "annotations" / f"instances_{split}.json"
        content = json.loads(path.read_text())
        rng = np.random.default_rng(len(content["images"]))
        content["annotations"] = []
        for i, image in enumerate(content["images"]):
            kind = int(rng.integers(3))
            pixels = np.full((64, 64, 3), 30, dtype=np.uint8)
            pixels[:, :, kind] = rng.integers(150, 255)
            Image.fromarray(pixels).save(root / split / image["file_name"])
            content["annotations"].append(
                {"id": i + 1, "image_id": image["id"], "category_id": (3, 7, 8)[kind], "iscrowd": 0,
                 "bbox": [0, 0, 64, 64], "area": 4096}
            )  # fmt: skip
        content["categories"] = [c | {"exclusive": True} for c in content["categories"]]
        path.write_text(json.dumps(content))
    return root


def test_a_frozen_backbone_is_left_as_it_is_and_its_linear_layer_learns(tmp_path, backbone):
    data = Data(str(exclusive(tmp_path / "folders")))
    config = Classification(data, size=32, resize=32, epochs=12, batch_size=8, lr=3.0, frozen=True, weight_decay=0)
    model = classification.Classifier(load_backbone(backbone)[0], 3, config)
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    trained = [p for p in model.parameters() if p.requires_grad]
    assert [p.shape for p in trained] == [(3, 512), (3,)]
    assert 0.005 < model.fc.weight.std() < 0.02
    optimiser = torch.optim.SGD(trained, lr=1.0)
    train, _ = read_splits(data)
    classification.train_epoch(model, optimiser, train, svm.presence(train), True, 0, config, 0, HOW["device"])
    assert all(torch.equal(value, before[name]) for name, value in model.backbone.state_dict().items())
    rows, _ = classification.evaluate(backbone, config, **HOW)
    found = {row["metric"]: row["value"] for row in rows}
    assert set(found) == {f"{m}{end}" for m in ("mAP", "top1", "mAcc") for end in ("", "_best_epoch")}
    assert found["top1"] > 80
    assert all(found[f"{m}_best_epoch"] >= found[m] for m in ("mAP", "top1", "mAcc"))


@pytest.mark.parametrize("norm", ["train", "eval"])
def test_norms_keep_their_statistics_where_they_are_told_to(norm, coco, backbone):
    config = Classification(Data(str(coco)), size=32, resize=32, epochs=1, batch_size=8, batch_norm=norm)
    model = classification.Classifier(load_backbone(backbone)[0], 3, config)
    before = model.backbone.bn1.running_mean.clone(), model.backbone.bn1.weight.clone()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    train, _ = read_splits(config.data)
    classification.train_epoch(model, optimiser, train, svm.presence(train), False, 0, config, 0, HOW["device"])
    assert torch.equal(model.backbone.bn1.running_mean, before[0]) == (norm == "eval")
    assert not torch.equal(model.backbone.bn1.weight, before[1])


def test_a_loss_that_is_not_finite_is_named(coco, backbone):
    config = Classification(Data(str(coco)), size=32, resize=32, epochs=3, batch_size=8, lr=1e30)
    with pytest.raises(FloatingPointError, match=r"classification: the loss is .* lower classification\.lr"):
        classification.evaluate(backbone, config, **HOW)


# --- The files under config/protocols

TOY = {
    "voc07_svm": {"size": 64, "resize": 64, "costs": [0.1, 1.0]},
    "voc07_lowshot": {"size": 64, "costs": [0.1, 1.0], "shots": [1, 2], "samples": 2},
    "voc07_finetune": {"size": 32, "resize": 40, "epochs": 2, "batch_size": 8},
    "small_sets": {"size": 32, "resize": 40, "epochs": 2, "batch_size": 8},
    "imagenet_linear": {"size": 32, "resize": 40, "epochs": 2, "batch_size": 8},
}


@pytest.mark.parametrize("name", TOY)
def test_every_protocol_runs_to_its_end_at_toy_size(name, coco, backbone, tmp_path):
    ((stage, given),) = read_extended(ROOT / "config" / "protocols" / f"{name}.yaml")["transfers"].items()
    root = exclusive(tmp_path / "folders") if name in ("small_sets", "imagenet_linear") else coco
    config = build(TRANSFERS[stage], given | TOY[name] | {"data": {"root": str(root)}}, name)
    rows, notes = {"svm": svm, "classification": classification}[stage].evaluate(backbone, config, **HOW)
    wanted = set(config.protocols()) if stage == "svm" else {"classification"}
    assert {row["protocol"] for row in rows} == wanted
    assert all(0 <= row["value"] <= 100 for row in rows)
    assert notes["eval_images"] == len(read_split(root, "val2017"))


PUBLISHED = {
    "voc07_svm": {"resize": 256, "size": 224, "layers": ("c1", "c2", "c3", "c4", "c5"), "folds": 3},
    "voc07_lowshot": {"resize": None, "layers": ("c4", "c5"), "shots": (1, 2, 4, 8, 16, 32, 64, 96), "samples": 5},
    "voc07_finetune": {"lr": 0.01, "batch_size": 64, "epochs": 60, "weight_decay": 1e-5, "schedule": "cosine"},
    "small_sets": {"lr": 0.01, "batch_size": 64, "epochs": 120, "weight_decay": 5e-4, "frozen": False},
    "imagenet_linear": {"lr": 30, "batch_size": 256, "epochs": 100, "weight_decay": 0, "frozen": True},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_classification_protocol_has_the_published_numbers(name):
    ((stage, given),) = read_extended(ROOT / "config" / "protocols" / f"{name}.yaml")["transfers"].items()
    config = build(TRANSFERS[stage], given | {"data": {"root": "-"}}, name)
    assert {key: getattr(config, key) for key in PUBLISHED[name]} == PUBLISHED[name]
    if stage == "svm":
        assert config.costs == (0.01, 0.1, 1, 2, 5, 10, 15, 20, 50, 100, 1000)
        assert (config.positive_weight, config.tolerance, config.iterations) == (2, 1e-4, 2000)
    else:
        assert (config.resize, config.size) == (256, 224)
        assert config.crop == ("random" if name == "voc07_finetune" else "random_resized")
        steps = {"small_sets": [40, 80], "imagenet_linear": [60, 80]}.get(name)
        assert steps is None or [round(m * config.epochs) for m in config.milestones] == steps


def test_a_protocol_is_a_part_of_a_study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = changed({"transfers": {"knn": {"size": 32}}}, EXAMPLE)
    Path("base.yaml").write_text(yaml.safe_dump(base))
    protocol = ROOT / "config" / "protocols" / "voc07_lowshot.yaml"
    Path("study.yaml").write_text(
        yaml.safe_dump({"extends": ["base.yaml", str(protocol)], "name": "few", "about": "a test"})
    )
    study = load("study.yaml")
    assert protocols_of(study, "svm") == [f"svm{c}_k{k}" for c in ("_c4", "") for k in (1, 2, 4, 8, 16, 32, 64, 96)]
    titles = [score.title for score in headline(study) if score.transfer == "svm"]
    assert titles[0] == "mAP, SVM on c4, 1 images per category"
    assert titles[-1] == "mAP, SVM, 96 images per category"
