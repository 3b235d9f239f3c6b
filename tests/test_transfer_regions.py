"""Categories of annotated boxes, and local features without training."""

import json
import math

import pytest
import torch
from support.tiny_coco import write_backbone, write_coco
from torch.nn import functional as F

from mlssl.data.coco import read_split
from mlssl.errors import DataError
from mlssl.study.settings import Correspondence, Data, Regions
from mlssl.transfer import correspondence, features, regions
from mlssl.transfer.load import load_backbone

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Data:
    root = tmp_path_factory.mktemp("regions") / "coco"
    return Data(str(write_coco(root, size=64, splits={"train2017": 40, "val2017": 20})))


@pytest.fixture(scope="module")
def backbone_file(tmp_path_factory):
    return write_backbone(tmp_path_factory.mktemp("backbone") / "backbone.pt")


def test_pooling_is_the_mean_of_bilinear_samples_at_the_centres_of_the_bins():
    maps = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    boxes = [
        torch.tensor([[20.0, 30.0, 100.0, 90.0]]),
        torch.tensor([[0.0, 0.0, 128.0, 128.0], [64.0, 8.0, 90.0, 40.0]]),
    ]
    found = regions.pooled(maps, boxes, 128)
    place = 0
    for image, own in enumerate(boxes):
        for x1, y1, x2, y2 in (own / 32).tolist():  # one sample per bin, as no bin is larger than a cell
            total = torch.zeros(3)
            for i in range(7):
                for j in range(7):
                    x, y = x1 + (j + 0.5) * (x2 - x1) / 7, y1 + (i + 0.5) * (y2 - y1) / 7
                    grid = torch.tensor([x / 4 * 2 - 1, y / 4 * 2 - 1])[None, None, None]
                    value = F.grid_sample(maps[image][None], grid, padding_mode="border", align_corners=False)
                    total += value[0, :, 0, 0] / 49
            torch.testing.assert_close(found[place], total, rtol=1e-4, atol=1e-5)
            place += 1


def test_boxes_are_scaled_to_the_input_and_crowds_are_left_out(data, backbone_file):
    backbone, _ = load_backbone(backbone_file)
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    split = read_split(data.root, data.val)
    how = {"size": 128, "device": CPU, "progress": False}
    found = regions.read_boxes(backbone, split, range(20), batch_size=7, **how)
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    kept = [
        (i, a) for i, image in enumerate(split.images) for a in split.annotations[image["id"]] if not a["iscrowd"]
    ]
    assert found.image.tolist() == [i for i, _ in kept]
    assert found.labels.tolist() == [[3, 7, 8].index(a["category_id"]) for _, a in kept]
    assert found.side.tolist() == pytest.approx([2 * math.sqrt(a["bbox"][2] * a["bbox"][3]) for _, a in kept])
    (_, maps), *_ = features.each_maps(backbone, split, [kept[5][0]], batch_size=1, **how)
    x, y, w, h = kept[5][1]["bbox"]
    alone = regions.pooled(maps["c4"], [torch.tensor([[2.0 * x, 2 * y, 2 * (x + w), 2 * (y + h)]])], 128)
    torch.testing.assert_close(found.features["c4"][5], alone[0], rtol=1e-3, atol=1e-4)


def test_size_classes_are_cocos_at_800_pixels_and_shrink_with_the_square_root():
    assert regions.limits(800) == {"small": (0, 32), "medium": (32, 96), "large": (96, math.inf)}
    assert regions.limits(200)["medium"] == (16, 48)


def run(monkeypatch, data, backbone_file, make, **settings):
    """`evaluate` on the features, N x D, that `make(labels, split)` gives."""
    real = regions.read_boxes

    def boxes(backbone, split, images, **how):
        found = real(backbone, split, images, **how)
        return found._replace(features=dict.fromkeys(features.MAPS, make(found.labels, split)))

    monkeypatch.setattr(regions, "read_boxes", boxes)
    config = Regions(data, size=64, neighbours=(1, 3), **settings)
    return regions.evaluate(backbone_file, config, seed=0, device=CPU, progress=False)


def test_perfect_features_reach_100_and_constant_ones_chance(monkeypatch, data, backbone_file):
    rows, notes = run(monkeypatch, data, backbone_file, lambda y, _: F.one_hot(y, 3).float())
    assert all(row["value"] == pytest.approx(100) and row["n"] == 20 for row in rows)
    assert {row["protocol"] for row in rows} == {"regions", "regions_c4"}
    assert {row["metric"] for row in rows} >= {"mAcc", "aAcc", "knn_mAcc", "knn_aAcc", "mAcc_medium"}
    assert notes["not_converged"] == []
    monkeypatch.undo()
    rows, notes = run(monkeypatch, data, backbone_file, lambda y, _: torch.ones(len(y), 4))
    values = {row["metric"]: row["value"] for row in rows if row["protocol"] == "regions"}
    assert values["mAcc"] == values["knn_mAcc"] == pytest.approx(notes["chance_mAcc"])


def test_the_reported_split_chooses_nothing(monkeypatch, data, backbone_file):
    def noisy(scale):
        rng = torch.Generator().manual_seed(0)
        return lambda y, s: (
            F.one_hot(y, 3).float()
            + (scale if s.folder.name == "val2017" else 0.5) * torch.randn(len(y), 3, generator=rng)
        )

    (one, *_), notes = run(monkeypatch, data, backbone_file, noisy(0.1))
    monkeypatch.undo()
    (other, *_), other_notes = run(monkeypatch, data, backbone_file, noisy(5.0))
    assert one["value"] != other["value"]
    assert notes == other_notes


def test_values_without_a_group_are_those_of_the_other_images(data):
    rng = torch.Generator().manual_seed(0)
    image, labels, prediction = (torch.randint(high, (200,), generator=rng) for high in (60, 3, 3))
    boxes = regions.Boxes({}, labels, image, torch.ones(200))
    (row,) = regions.rows_of("regions", "", prediction, boxes, 3, 60, ["mAcc"])
    for g in range(50):
        rest = image % 50 != g
        accuracy = [(prediction == labels)[rest & (labels == c)].float().mean() for c in range(3)]
        assert row["jackknife"][g] == pytest.approx(100 * float(torch.stack(accuracy).mean()), abs=1e-4)


def test_both_run_end_to_end_and_repeat_themselves(data, backbone_file):
    before = backbone_file.read_bytes()
    for module, config in (
        (regions, Regions(data, size=64, batch_size=16, train_images=30, output_stride=16)),
        (correspondence, Correspondence(data, size=128, batch_size=3)),
    ):
        rows, notes = module.evaluate(backbone_file, config, seed=0, device=CPU, progress=False)
        assert module.evaluate(backbone_file, config, seed=0, device=CPU, progress=False) == (rows, notes)
        assert all(len(row["jackknife"]) == 20 for row in rows if "mAcc_" not in row["metric"])
    assert rows[0]["value"] > 2 * notes["chance_accuracy"]
    assert rows[1]["value"] > notes["chance_precision_at_1"]
    assert backbone_file.read_bytes() == before


def test_missing_boxes_are_named(tmp_path, backbone_file):
    root = write_coco(tmp_path / "coco", size=64, splits={"train2017": 8, "val2017": 4})
    path = root / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    for change, why in (
        ({"bbox": [0, 0, 64, 64]}, "no box of an object is smaller than its image"),
        ({"category_id": 7}, "all boxes have one category"),
    ):
        annotations = [{**a, **change} for a in content["annotations"]]
        path.write_text(json.dumps({**content, "annotations": annotations}))
        for module, config in (
            (regions, Regions(Data(str(root)))),
            (correspondence, Correspondence(Data(str(root)))),
        ):
            with pytest.raises(DataError, match=why) as error:
                module.evaluate(backbone_file, config, seed=0, device=CPU, progress=False)
            splits = (read_split(root, "train2017"), read_split(root, "val2017"))
            assert module.missing(*splits) == str(error.value)


def test_crops_follow_from_seed_and_image_and_stay_inside(data):
    split, config = read_split(data.root, data.val), Correspondence(data, scale=(0.3, 0.5))
    crops = [torch.stack(correspondence.crops_of(split, i, config, 3)) for i in range(20)]
    assert torch.equal(crops[4], torch.stack(correspondence.crops_of(split, 4, config, 3)))
    assert not torch.equal(crops[4], torch.stack(correspondence.crops_of(split, 4, config, 4)))
    x, y, w, h, flipped = torch.cat(crops).T
    assert (x >= 0).all()
    assert (y >= 0).all()
    assert (x + w <= 64).all()
    assert (y + h <= 64).all()
    assert (w * h / 64**2 > 0.28).all()
    assert (w * h / 64**2 < 0.52).all()
    assert set(flipped.tolist()) == {0.0, 1.0}


def test_true_positions_are_where_a_painted_pixel_ends_up():
    """Crops that start and end at whole cells: what is in a cell of one crop is in the cell of the other."""
    image = torch.arange(144.0).reshape(12, 12)  # a value per cell of a grid
    for a, b in (
        [(0, 0, 4, 4, 0), (2, 1, 4, 4, 1)],
        [(3, 2, 4, 4, 1), (1, 4, 4, 4, 1)],
        [(5, 5, 4, 4, 0), (4, 6, 4, 4, 0)],
    ):
        one, other = (
            image[y : y + h, x : x + w].flip(1) if f else image[y : y + h, x : x + w] for x, y, w, h, f in (a, b)
        )
        positions = correspondence.true_positions(torch.tensor(a).double(), torch.tensor(b).double(), 4)
        for value, (x, y) in zip(one.flatten().tolist(), positions.tolist(), strict=True):
            inside = 0 <= round(x) < 4 and 0 <= round(y) < 4
            assert inside == (value in other)
            if inside:
                assert other[round(y), round(x)] == value


def test_matches_of_perfect_and_of_constant_maps():
    whole = torch.tensor([0.0, 0, 8, 8, 0], dtype=torch.float64)
    unique = torch.eye(16).reshape(16, 4, 4)
    same = correspondence.true_positions(whole, whole, 4)
    right, matched, chance = correspondence.match(unique, unique, same)
    assert (right, matched) == (16, 16)
    # Neighbours up to one cell away are correct: 4 for corners, 6 at edges, 9 inside, of 16 each.
    assert chance == pytest.approx((4 * 4 + 8 * 6 + 4 * 9) / 16)
    right, matched, _ = correspondence.match(torch.ones(3, 4, 4), torch.ones(3, 4, 4), same)
    assert (right, matched) == (4, 16)  # all match the first cell
    mirrored = correspondence.true_positions(whole, whole + torch.tensor([0, 0, 0, 0, 1.0]), 4)
    assert correspondence.match(unique, unique.flip(2), mirrored)[0] == 16
    right_half = torch.tensor([4.0, 0, 8, 8, 0], dtype=torch.float64)
    assert correspondence.match(unique, unique, correspondence.true_positions(whole, right_half, 4))[1] == 8


def test_retrieval_is_that_of_a_slow_loop_with_and_without_each_group(monkeypatch):
    monkeypatch.setattr(correspondence, "CHUNK", 7)
    rng = torch.Generator().manual_seed(0)
    image, labels = torch.randint(55, (120,), generator=rng).sort().values, torch.randint(4, (120,), generator=rng)
    x = torch.randn(120, 5, generator=rng)

    def slow(there):
        hits = {}
        for q in there:
            others = [i for i in there if image[i] != image[q]]
            best = max(others, key=lambda i: float(F.cosine_similarity(x[q], x[i], dim=0)))
            hits.setdefault(int(labels[q]), []).append(bool(labels[best] == labels[q]))
        return 100 * sum(sum(h) / len(h) for h in hits.values()) / len(hits)

    value, without = correspondence.retrieval(regions.Boxes({}, labels, image, torch.ones(120)), x, 55)
    assert value == pytest.approx(slow(range(120)))
    for g in (0, 3, 49):
        assert without[g] == pytest.approx(slow([i for i in range(120) if image[i] % 50 != g]))
    value, _ = correspondence.retrieval(
        regions.Boxes({}, labels, image, torch.ones(120)), F.one_hot(labels).float(), 55
    )
    assert value == pytest.approx(100)
