"""The linear probe: what it must not touch, what it must see, and what it can and cannot learn."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from support.tiny_coco import write_backbone, write_coco

from mlssl import tensors
from mlssl.data.coco import read_split
from mlssl.errors import ConfigError, DataError
from mlssl.study.settings import Data, Linear
from mlssl.study.validation import build
from mlssl.transfer import features, linear
from mlssl.transfer.load import draw, image_tensor, load_backbone, normalise, read_splits, resize
from mlssl.transfer.logistic import basis, fit
from mlssl.transfer.metrics import mean_average_precision

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Data:
    root = tmp_path_factory.mktemp("linear") / "coco"
    return Data(str(write_coco(root, size=40, splits={"train2017": 40, "val2017": 20})))


@pytest.fixture(scope="module")
def backbone_file(tmp_path_factory):
    return write_backbone(tmp_path_factory.mktemp("backbone") / "backbone.pt")


def test_backbone_comes_back_as_it_was_saved(backbone_file):
    backbone, meta = load_backbone(backbone_file)
    saved = torch.load(backbone_file, weights_only=True)["backbone"]
    assert meta["backbone"] == "resnet10t"
    assert all(torch.equal(value, saved[key]) for key, value in backbone.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layer4.0.conv1.weight": None}, "1 keys missing: layer4.0.conv1.weight"),
        ({"bn1.running_mean": None}, "1 keys missing: bn1.running_mean"),
        ({"fc.weight": torch.zeros(2)}, "1 keys unexpected: fc.weight"),
        ({"bn1.weight": torch.zeros(3)}, "1 keys of another shape: bn1.weight"),
    ],
)
def test_a_backbone_that_does_not_fit_is_refused(tmp_path, changes, message):
    path = write_backbone(tmp_path / "wrong.pt", **changes)
    with pytest.raises(ConfigError, match=message) as error:
        load_backbone(path)
    assert str(path) in str(error.value)
    assert "export" in str(error.value)


def test_files_that_hold_no_backbone_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load_backbone(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(ConfigError, match="has no checksum at its end"):
        load_backbone(tmp_path / "text.pt")
    torch.save({"model": {}}, tmp_path / "other.pt")
    with pytest.raises(ConfigError, match="not written by mlssl"):
        load_backbone(tmp_path / "other.pt")
    tensors.save(tmp_path / "other.pt", {"model": {}})
    with pytest.raises(ConfigError, match=r"holds no backbone and meta; give a backbone\.pt"):
        load_backbone(tmp_path / "other.pt")
    tensors.save(tmp_path / "other.pt", {"backbone": {}, "meta": {"run": "x"}})
    with pytest.raises(ConfigError, match="meta has no 'backbone', the model's name"):
        load_backbone(tmp_path / "other.pt")


def test_features_are_those_of_each_image_alone_and_leave_the_backbone_alone(backbone_file, data):
    backbone, _ = load_backbone(backbone_file)
    backbone.train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    split = read_split(data.root, data.train)
    found = features.extract(backbone, split, size=32, batch_size=7, device=CPU)
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    assert backbone.training
    with torch.no_grad():
        for i in (0, 17, 39):
            alone = backbone.eval()(normalise(resize(image_tensor(split, i), 32)[None])).mean(dim=(2, 3))[0]
            torch.testing.assert_close(found[i], alone, rtol=1e-4, atol=1e-5)


def test_an_image_left_out_is_noticed(backbone_file, data, monkeypatch):
    whole = features.batches
    monkeypatch.setattr(features, "batches", lambda read, order, *rest: whole(read, order[:-1], *rest))
    with pytest.raises(RuntimeError, match="saw 39 of 40 images"):
        features.extract(
            load_backbone(backbone_file)[0],
            read_split(data.root, data.train),
            size=32,
            batch_size=8,
            device=CPU,
        )


def test_images_become_normalised_pixels(tmp_path):
    image = torch.randint(0, 256, (3, 30, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert resize(image, 20).shape == (3, 20, 20)
    assert resize(image, 20).dtype == torch.uint8
    as_pil = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((20, 20), Image.Resampling.BILINEAR)
    assert (
        np.abs(resize(image, 20).permute(1, 2, 0).numpy().astype(int) - np.asarray(as_pil).astype(int)).max() <= 1
    )
    values = normalise(torch.tensor([0, 255, 255], dtype=torch.uint8).reshape(1, 3, 1, 1)).flatten()
    torch.testing.assert_close(values, torch.tensor([-0.485 / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]))


def test_protocol_names():
    assert [Linear.protocol(f) for f in (1.0, 0.1, 0.005)] == ["linear", "linear_10pct", "linear_0.5pct"]
    with pytest.raises(ConfigError, match=r"fractions\.0: 10.0 is not allowed; give at most 1"):
        build(Linear, {"data": {"root": "unused"}, "fractions": [10.0]}, "linear")
    with pytest.raises(ValidationError, match="fractions"):
        Linear(Data("unused"), fractions=(10.0,))


def test_smaller_subsets_lie_in_larger_ones_and_depend_on_the_seed():
    whole, tenth, hundredth = (linear.subset(3000, f, seed=3).tolist() for f in (1.0, 0.1, 0.01))
    assert [len(whole), len(tenth), len(hundredth)] == [3000, 300, 30]
    assert sorted(whole) == list(range(3000))
    assert set(hundredth) < set(tenth) < set(whole)
    assert linear.subset(3000, 0.1, seed=3).tolist() == tenth
    assert set(linear.subset(3000, 0.1, seed=4).tolist()) != set(tenth)
    assert set(linear.subset(3000, 0.1, seed=3, index=1).tolist()) != set(tenth)
    assert linear.subset(3000, 0.1, seed=3, index=1).tolist()[:30] == linear.subset(3000, 0.01, 3, 1).tolist()
    assert len(linear.subset(92, 0.01, seed=0)) == linear.FEWEST


def test_selection_images_are_held_out():
    for count in (4, 10, 300):
        indices = linear.subset(count, 1.0, seed=0)
        fitted, held = linear.hold_out(indices, 0.2)
        assert sorted([*fitted.tolist(), *held.tolist()]) == list(range(count))
        assert len(held) == max(2, round(0.2 * count))
    with pytest.raises(ConfigError, match="selection"):
        linear.hold_out(indices, 1.0)


def test_strong_penalty_is_chosen_for_noise_and_is_seen_in_the_choice():
    rng = torch.Generator().manual_seed(1)
    signal = torch.randn(200, 4, generator=rng)
    x = torch.cat([signal, torch.randn(200, 150, generator=rng)], dim=1)
    y = signal + torch.randn(200, 4, generator=rng) > 0
    choice = linear.choose(x, y, linear.subset(200, 1.0, 0), 0.3, (1e-4, 1.0), 1e-6, 50)
    assert choice.weight_decay == 1.0
    assert choice.scores[1.0] > choice.scores[1e-4]
    unscorable = linear.choose(x, torch.zeros_like(y), linear.subset(200, 1.0, 0), 0.3, (1e-4, 1e-2, 1.0), 1e-6, 50)
    assert unscorable == linear.Choice(1e-2, None, 60, {})


def run(monkeypatch, data, backbone_file, make_features, **settings):
    """`evaluate` on features made from a split instead of on the backbone's."""
    monkeypatch.setattr(linear, "extract", lambda backbone, split, **_: make_features(split))
    return linear.evaluate(backbone_file, Linear(data, **settings), seed=0, device=CPU, progress=False)


def test_features_that_hold_the_labels_reach_100(monkeypatch, data, backbone_file):
    rows, notes = run(
        monkeypatch, data, backbone_file, lambda s: torch.from_numpy(s.labels()).float(), fractions=(1.0, 0.5)
    )
    assert [row["protocol"] for row in rows] == ["linear", "linear_50pct"]
    assert all(row["metric"] == "mAP" and row["n"] == 20 for row in rows)
    assert all(row["value"] == pytest.approx(100) for row in rows)
    assert notes["protocols"]["linear_50pct"]["train_images"] == 20


def test_noise_stays_near_the_constant_classifier(monkeypatch, tmp_path, backbone_file):
    data = Data(str(write_coco(tmp_path / "coco", size=16, splits={"train2017": 200, "val2017": 200})))

    def noise(split):
        return torch.randn(len(split), 8, generator=torch.Generator().manual_seed(len(split.folder.name)))

    rows, notes = run(monkeypatch, data, backbone_file, noise, fractions=(1.0,))
    assert rows[0]["value"] == pytest.approx(notes["constant_mAP"], abs=8)


def test_the_reported_split_decides_nothing(monkeypatch, data, backbone_file):
    """Other validation features change the score, and neither the penalty nor its evidence."""

    def noisy(scale):
        rng = torch.Generator().manual_seed(0)
        return lambda s: (
            torch.from_numpy(s.labels()).float()
            + ((scale if s.folder.name == "val2017" else 1.0) * torch.randn(len(s), 3, generator=rng))
        )

    (rows, notes), (others, other_notes) = (
        run(monkeypatch, data, backbone_file, noisy(scale), fractions=(1.0,)) for scale in (0.1, 5.0)
    )
    assert rows[0]["value"] != others[0]["value"]
    for noted in (notes, other_notes):
        (subset,) = noted["protocols"]["linear"]["subsets"]
        del subset["mAP"]
    assert notes["protocols"] == other_notes["protocols"]


def test_the_probe_runs_end_to_end_and_repeats_itself(data, backbone_file):
    config = Linear(data, size=32, batch_size=16, fractions=(1.0, 0.3))
    before = backbone_file.read_bytes()
    rows, notes = linear.evaluate(backbone_file, config, seed=0, device=CPU, progress=False)
    again, _ = linear.evaluate(backbone_file, config, seed=0, device=CPU, progress=False)
    assert rows == again
    assert backbone_file.read_bytes() == before
    assert rows[0]["value"] > notes["constant_mAP"] + 10
    assert notes["parameters"] == (512 + 1) * 3
    assert notes["not_converged"] == []
    assert len(notes["protocols"]["linear"]["subsets"]) == 1
    assert len(notes["protocols"]["linear_30pct"]["subsets"]) == 5


def test_the_value_of_a_share_is_the_mean_over_its_subsets_and_so_are_the_values_without_a_group(
    data, backbone_file
):
    config = Linear(data, size=32, fractions=(0.3,), subsets=2, weight_decays=(0.01,))
    (row,), notes = linear.evaluate(backbone_file, config, seed=0, device=CPU, progress=False)
    train, val = read_splits(data)
    backbone, _ = load_backbone(backbone_file)
    x, x_val = (features.extract(backbone, s, size=32, batch_size=64, device=CPU) for s in (train, val))
    y, y_val = (torch.from_numpy(s.labels()) for s in (train, val))
    values, without = [], []
    for index in (0, 1):
        own = linear.subset(len(train), 0.3, 0, index)
        found = fit(basis(x[own]), y[own], 0.01, softmax=False, tolerance=1e-6, iterations=100)
        scores = found.probe.scores(x_val)
        values.append(mean_average_precision(scores, y_val)[0])
        rest = [[i for i in range(20) if i != g] for g in range(20)]
        without.append([mean_average_precision(scores[r], y_val[r])[0] for r in rest])
    assert [s["mAP"] for s in notes["protocols"]["linear_30pct"]["subsets"]] == values
    assert row["value"] == pytest.approx(sum(values) / 2)
    assert row["jackknife"] == [round((a + b) / 2, 4) for a, b in zip(*without, strict=True)]


def test_fits_that_reach_the_cap_are_listed(data, backbone_file):
    config = Linear(data, size=32, fractions=(1.0,), weight_decays=(0.001,), iterations=1)
    _, notes = linear.evaluate(backbone_file, config, seed=0, device=CPU, progress=False)
    assert [(entry["fit"], entry["weight_decay"]) for entry in notes["not_converged"]] == [
        ("selection", 0.001),
        ("final", 0.001),
    ]


def test_a_validation_split_that_cannot_score_is_refused_before_any_work(tmp_path, backbone_file):
    root = write_coco(tmp_path / "coco", size=40, splits={"train2017": 4, "val2017": 2})
    path = root / "annotations" / "instances_val2017.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": []}))
    with pytest.raises(DataError, match="no category is on some of its 2 images"):
        linear.evaluate(backbone_file, Linear(Data(str(root)), size=32), seed=0, device=CPU, progress=False)


def test_splits_with_other_categories_are_refused(tmp_path):
    root = write_coco(tmp_path / "coco", size=16)
    path = root / "annotations" / "instances_val2017.json"
    path.write_text(path.read_text().replace('"blue"', '"azure"'))
    with pytest.raises(DataError, match="categories"):
        read_splits(Data(str(root)))


def test_training_order_is_a_permutation_per_epoch_and_follows_from_the_seed():
    epochs = [[draw(t, 10, 5, "detection")[0] for t in range(10 * e, 10 * e + 10)] for e in range(3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert epochs[0] != [draw(t, 10, 6, "detection")[0] for t in range(10)]
    one, same, other = (torch.rand(3, generator=draw(t, 10, 5, "detection")[1]) for t in (4, 4, 14))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
