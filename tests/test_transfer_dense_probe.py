"""The frozen dense probe: labels of cells, the discriminant, and what perfect and constant maps reach."""

import json

import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from support.tiny_coco import write_backbone, write_coco

from mlssl.data.coco import read_split
from mlssl.errors import MissingLabels
from mlssl.study.settings import Data, Dense, Segmentation
from mlssl.transfer import dense, features, segmentation
from mlssl.transfer.load import load_backbone
from mlssl.transfer.metrics import confusion_matrix, segmentation_scores

CPU = torch.device("cpu")


def with_masks(root):
    """Masks with one more point than their boxes, so that they are masks."""
    for path in (root / "annotations").glob("instances_*.json"):
        content = json.loads(path.read_text())
        for a in content["annotations"]:
            if isinstance(a["segmentation"], list):
                x, y, *rest = a["segmentation"][0]
                a["segmentation"] = [[x, y, x + 1, y, *rest]]
        path.write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Data:
    root = tmp_path_factory.mktemp("dense") / "coco"
    return Data(str(with_masks(write_coco(root, size=64, splits={"train2017": 24, "val2017": 12}))))


@pytest.fixture(scope="module")
def backbone_file(tmp_path_factory):
    return write_backbone(tmp_path_factory.mktemp("backbone") / "backbone.pt")


@pytest.mark.parametrize(("height", "width", "h", "w"), [(8, 8, 2, 2), (9, 7, 4, 3), (3, 3, 4, 4)])
def test_shares_of_cells_are_those_of_a_slow_loop(height, width, h, w):
    values = torch.tensor([0, 1, 2, 255], dtype=torch.uint8)
    mask = values[torch.randint(4, (height, width), generator=torch.Generator().manual_seed(0))]
    found = dense.cell_shares(mask, h, w, 3).reshape(h, w, 3)
    for i in range(h):
        for j in range(w):
            inside = [
                int(mask[y, x])
                for y in range(height)
                for x in range(width)
                if i <= (y + 0.5) * h / height < i + 1 and j <= (x + 0.5) * w / width < j + 1
            ]
            expected = [inside.count(c) / len(inside) if inside else 0.0 for c in range(3)]
            assert found[i, j].tolist() == pytest.approx(expected)


def test_the_discriminant_is_that_of_scikit_learn():
    rng = torch.Generator().manual_seed(0)
    label = torch.arange(300) % 3
    x = torch.randn(300, 6, generator=rng) + label[:, None] * torch.randn(6, generator=rng) + 40
    own = dense.sums(x[:150], torch.eye(4)[label[:150]]) + dense.sums(x[150:], torch.eye(4)[label[150:]])
    found = dense.discriminant(own, 1e-9).logits(x.double())
    theirs = LinearDiscriminantAnalysis(solver="lsqr").fit(x.double().numpy(), label.numpy())
    expected = torch.tensor(theirs.predict_log_proba(x.double().numpy()))
    torch.testing.assert_close(found[:, :3].log_softmax(dim=1), expected, rtol=1e-4, atol=1e-4)
    assert (found[:, 3] < -1e20).all()  # a class without a cell


def test_soft_labels_weigh_as_copies_of_hard_ones():
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    soft = torch.tensor([[0.25, 0.75], [1.0, 0.0]]).repeat(20, 1)
    hard = torch.eye(2)[torch.tensor([[0, 1, 1, 1], [0, 0, 0, 0]]).repeat(20, 1).flatten()]
    one, other = dense.sums(x, soft), dense.sums(x.repeat_interleave(4, dim=0), hard / 4)
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b)


def run(monkeypatch, data, backbone_file, make, **settings):
    """`evaluate` on maps 8 x 8 that `make(split, i)` gives, D x 8 x 8."""

    def maps(backbone, split, images, **_):
        for i in images:
            yield [i], dict.fromkeys(features.MAPS, make(split, i)[None])

    monkeypatch.setattr(dense, "each_maps", maps)
    return dense.evaluate(backbone_file, Dense(data, size=64, **settings), seed=0, device=CPU, progress=False)


def shares(split, i):
    mask = torch.from_numpy(split.semantic_mask(i))
    return dense.cell_shares(mask, 64, 64, 4).float().T.reshape(4, 64, 64)


def test_perfect_maps_reach_100_and_constant_ones_the_background(monkeypatch, data, backbone_file):
    rows, _ = run(monkeypatch, data, backbone_file, shares)
    assert [(r["protocol"], r["metric"]) for r in rows] == [
        ("dense", "mIoU"),
        ("dense", "mAcc"),
        ("dense_c4", "mIoU"),
        ("dense_c4", "mAcc"),
    ]
    assert all(r["value"] == pytest.approx(100) and r["n"] == 12 and len(r["jackknife"]) == 12 for r in rows)
    rows, notes = run(monkeypatch, data, backbone_file, lambda split, i: torch.ones(3, 8, 8))
    assert rows[0]["value"] == pytest.approx(notes["background_only_mIoU"])
    assert rows[1]["value"] == pytest.approx(25)


def test_the_reported_split_does_not_choose_the_shrinkage(monkeypatch, data, backbone_file):
    def noisy(scale):
        rng = torch.Generator().manual_seed(0)
        return lambda s, i: (
            shares(s, i) + (scale if s.folder.name == "val2017" else 0.5) * torch.randn(4, 64, 64, generator=rng)
        )

    (one, *_), notes = run(monkeypatch, data, backbone_file, noisy(0.1))
    (other, *_), other_notes = run(monkeypatch, data, backbone_file, noisy(5.0))
    assert one["value"] != other["value"]
    assert notes["maps"] == other_notes["maps"]


def test_it_runs_end_to_end_and_the_values_without_a_group_are_those_of_the_other_images(
    data, backbone_file, monkeypatch
):
    seen = []
    counts = dense.pixel_counts
    monkeypatch.setattr(dense, "pixel_counts", lambda *a: seen.append(counts(*a)) or seen[-1])
    config = Dense(data, size=64, batch_size=5, output_stride=16)
    rows, notes = dense.evaluate(backbone_file, config, seed=0, device=CPU, progress=False)
    again, _ = dense.evaluate(backbone_file, config, seed=0, device=CPU, progress=False)
    assert rows == again
    assert notes["maps"]["dense"]["cells"] == "4 x 4"
    # Per batch of 5, 5 and 2 images: first all of C4, then all of C5.
    c5 = [*seen[5:10], *seen[15:20], *seen[22:24]]
    for g in range(12):
        rest = torch.stack([c for i, c in enumerate(c5) if i != g]).sum(dim=0)
        assert rows[0]["jackknife"][g] == pytest.approx(segmentation_scores(rest)["mIoU"], abs=1e-4)


def test_logits_are_upsampled_before_the_argmax():
    logits = torch.tensor([[[0.0, 0.0]], [[3.0, -1.0]]])
    mask = torch.tensor([[1, 1, 1, 0]], dtype=torch.uint8)  # bilinear logits of class 1: 3, 2, 0 exactly, -1
    prediction = torch.tensor([[1, 1, 0, 0]])
    assert torch.equal(dense.pixel_counts(logits, mask), confusion_matrix(prediction, mask, 2, 255))


def test_maps_leave_the_backbone_as_it_is_and_are_those_of_one_pass(data, backbone_file):
    backbone, _ = load_backbone(backbone_file)
    backbone.train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    split = read_split(data.root, data.val)
    found = list(features.each_maps(backbone, split, [3, 1, 7], size=64, batch_size=2, device=CPU))
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    assert backbone.training
    assert [index for index, _ in found] == [[3, 1], [7]]
    assert [tuple(m.shape[1:]) for m in found[0][1].values()] == [(256, 4, 4), (512, 2, 2)]
    whole = features.extract(backbone, split, size=64, batch_size=4, device=CPU)
    torch.testing.assert_close(found[1][1]["c5"].mean(dim=(2, 3))[0], whole[7], rtol=1e-4, atol=1e-5)


def test_missing_masks_are_named(tmp_path, backbone_file):
    root = write_coco(tmp_path / "coco", size=64, splits={"train2017": 8, "val2017": 4})
    path = with_masks(root) / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    for nothing in (None, []):
        boxes = [a | {"segmentation": nothing} for a in content["annotations"]]
        path.write_text(json.dumps(content | {"annotations": boxes}))
        with pytest.raises(MissingLabels, match="no object has a mask"):
            dense.evaluate(backbone_file, Dense(Data(str(root)), size=64), seed=0, device=CPU, progress=False)
        with pytest.raises(MissingLabels, match="no object has a mask"):
            config = Segmentation(Data(str(root)), size=64, iterations=1)
            segmentation.evaluate(backbone_file, config, seed=0, device=CPU, progress=False)
    path.write_text(json.dumps(content))
    assert dense.missing(read_split(root, "train2017"), read_split(root, "val2017")) is None
    path.write_text(json.dumps(json.loads(path.read_text()) | {"annotations": []}))
    why = dense.missing(read_split(root, "train2017"), read_split(root, "val2017"))
    assert why == f"{path}: no image has an object; annotate masks"
