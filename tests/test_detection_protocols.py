"""Published detection protocols: what torchvision lacks against slow references, and each protocol at toy size."""

import copy
import dataclasses
import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from support.tiny_coco import write_backbone, write_coco
from test_engine import make_settings
from test_preemption import tiny_store
from torch import nn
from torchvision.models.detection.roi_heads import fastrcnn_loss

from mlssl.data.coco import read_split
from mlssl.errors import ConfigError
from mlssl.parts.backbone import create_backbone
from mlssl.pretrain.loop import pretrain
from mlssl.runtime.batch_norm import CpuSyncBatchNorm
from mlssl.study.extends import read_extended
from mlssl.study.settings import Data, Detection
from mlssl.study.validation import build
from mlssl.transfer import detection
from mlssl.transfer.detection import examples, heads, voc_ap
from mlssl.transfer.detection.model import build_model
from mlssl.transfer.detection.pooling import RegionPool, level_of
from mlssl.transfer.detection.precise_bn import recompute_statistics
from mlssl.transfer.detection.train import learning_rate
from mlssl.transfer.finetune import parameter_groups

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Data:
    return Data(str(write_coco(tmp_path_factory.mktemp("protocols") / "coco")))


def small(data: Data, **changes) -> Detection:
    values = {"size": 64, "iterations": 2, "batch_size": 2, "lr": 0.01, "warmup_iterations": 2, "fpn_channels": 16}
    values |= {"box_head_channels": 32, "mask_head_layers": 1, "proposals": 20, "rois_per_image": 16}
    return Detection(data, **values | changes)


# --- Losses


def test_the_box_loss_is_l1_over_all_regions():
    scores, deltas = torch.randn(5, 3), torch.randn(5, 12)
    labels, targets = torch.tensor([0, 2, 1, 0, 2]), torch.randn(5, 4)
    _, found = heads.box_losses(scores, deltas, labels, targets, 0.0)
    slow = 0.0
    for i in range(5):
        for j in range(4) if labels[i] else ():
            slow += abs(float(deltas[i, 4 * labels[i] + j] - targets[i, j]))
    assert float(found) == pytest.approx(slow / 5)


def test_with_torchvisions_beta_the_losses_are_torchvisions():
    scores, deltas, targets = torch.randn(6, 4), torch.randn(6, 16), torch.randn(6, 4)
    labels = torch.tensor([0, 3, 1, 0, 2, 2])
    ours = heads.box_losses(scores, deltas, labels, targets, 1 / 9)
    theirs = fastrcnn_loss(scores, deltas, list(labels.split(3)), list(targets.split(3)))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("beta", [0.0, 1 / 9])
def test_the_proposals_loss_is_over_the_sampled_anchors(data, beta):
    rpn = build_model(create_backbone("resnet10t"), small(data, smooth_l1_beta=beta), 3).rpn
    logits, deltas, targets = torch.randn(6, 1), torch.randn(6, 4), torch.randn(6, 4)
    labels = torch.tensor([1.0, 0, -1, 1, 0, -1])  # -1: neither
    objectness, boxes = rpn.compute_loss(logits, deltas, [labels[:3], labels[3:]], [targets[:3], targets[3:]])
    sampled = [0, 1, 3, 4]
    entropy = [math.log(1 + math.exp(-float(logits[i]) * (1 if labels[i] else -1))) for i in sampled]
    error = 0.0
    for i, j in itertools.product((0, 3), range(4)):
        e = abs(float(deltas[i, j] - targets[i, j]))
        error += e if e >= beta else e * e / (2 * beta)
        error -= beta / 2 if e >= beta else 0
    assert float(objectness) == pytest.approx(sum(entropy) / 4, rel=1e-5)
    assert float(boxes) == pytest.approx(error / 4, rel=1e-5)


# --- RoIAlign


def bilinear(values, y, x):
    """The value at a point between the centres of cells; the border is repeated, and far outside it is 0."""
    height, width = values.shape
    if y < -1 or y > height or x < -1 or x > width:
        return 0.0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    down, right = min(top + 1, height - 1), min(left + 1, width - 1)
    above = values[top, left] * (1 - x + left) + values[top, right] * (x - left)
    below = values[down, left] * (1 - x + left) + values[down, right] * (x - left)
    return float(above * (1 - y + top) + below * (y - top))


def aligned(values, box, stride, size, samples):
    """RoIAlign of one box, one channel: mean of samples per bin; pixel centres are at 0.5."""
    x1, y1, x2, y2 = (float(v) / stride - 0.5 for v in box)
    height, width = (y2 - y1) / size, (x2 - x1) / size
    down, across = samples or math.ceil(height), samples or math.ceil(width)
    out = torch.zeros(size, size)
    for i, j in itertools.product(range(size), range(size)):
        points = [
            bilinear(values, y1 + (i + (a + 0.5) / down) * height, x1 + (j + (b + 0.5) / across) * width)
            for a, b in itertools.product(range(down), range(across))
        ]
        out[i, j] = sum(points) / len(points)
    return out


@pytest.mark.parametrize("samples", [0, 2])
def test_aligned_pooling_is_that_of_its_definition(samples):
    maps = {"0": torch.randn(2, 1, 32, 40), "1": torch.randn(2, 1, 16, 20), "pool": torch.zeros(2, 1, 8, 10)}
    boxes = [torch.tensor([[3.0, 5, 60, 31], [0, 0, 160, 128]]), torch.tensor([[20.5, 11.2, 21, 50]])]
    # 128 x 160 pixels: squares of 112 to 224 pixels belong to stride 8, smaller ones to stride 4.
    found = RegionPool((4, 8), 3, samples)(maps, boxes, [(128, 160)] * 2)
    levels = [0, 1, 0]
    for region, box, image, level in zip(found, torch.cat(boxes), (0, 0, 1), levels, strict=True):
        wanted = aligned(maps[str(level)][image, 0], box, (4, 8)[level], 3, samples)
        torch.testing.assert_close(region[0], wanted, rtol=1e-4, atol=1e-5)


def test_aligned_pooling_of_a_ramp_is_the_pixels_own_position():
    """Cell j of stride 4 has its centre at pixel 4 j + 2: a map of these has each bin's centre as its value."""
    ramp = (4 * torch.arange(20.0) + 2).expand(1, 1, 20, 20)
    found = RegionPool((4,), 2, 0)({"0": ramp}, [torch.tensor([[10.0, 10, 30, 30]])], [(80, 80)])
    torch.testing.assert_close(found[0, 0], torch.tensor([[15.0, 25.0], [15.0, 25.0]]))


def test_regions_are_read_from_the_map_of_their_size():
    sides = torch.tensor([10.0, 55, 57, 111, 113, 223, 225, 447, 449, 2000])
    boxes = torch.stack([0 * sides, 0 * sides, sides, sides], dim=1)
    assert level_of(boxes, (4, 8, 16, 32)).tolist() == [0, 0, 0, 0, 1, 1, 2, 2, 3, 3]
    assert level_of(boxes, (16,)).tolist() == [0] * 10


# --- PreciseBN, weight decay, learning rate, batches


def normal(x, mean, variance):
    return (x - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()


@pytest.mark.parametrize("synchronised", [False, True])
def test_precise_statistics_are_means_over_batches(synchronised):
    torch.manual_seed(0)
    first, conv, second = nn.BatchNorm2d(2), nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)
    model = nn.Sequential(*((CpuSyncBatchNorm(n) for n in (first,)) if synchronised else (first,)), conv, second)
    batches = [3 * torch.randn(4, 2, 5, 5) + i for i in range(3)]
    model(batches[2] + 7)  # running statistics of something else
    weights = [p.clone() for p in model.parameters()]
    recompute_statistics(model, model, batches)
    inner = []
    with torch.no_grad():
        for batch in batches:
            inner.append(conv(normal(batch, batch.mean((0, 2, 3)), batch.var((0, 2, 3), unbiased=False))))
    for norm, seen in ((model[0], batches), (second, inner)):
        torch.testing.assert_close(norm.running_mean, sum(x.mean((0, 2, 3)) for x in seen) / 3)
        torch.testing.assert_close(norm.running_var, sum(x.var((0, 2, 3)) for x in seen) / 3)
        assert norm.momentum == 0.1
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))


def test_precise_statistics_change_no_weight_of_a_detector(data, tmp_path):
    file = write_backbone(tmp_path / "backbone.pt")
    split, states = read_split(data.root, data.train), []
    for precise in (0, 2):
        config = small(data, precise_bn=precise)
        torch.manual_seed(0)
        model = build_model(detection.load_backbone(file)[0], config, 3)
        detection.train(model, split, config, seed=0, device=CPU, progress=False)
        states.append(model.state_dict())
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]) == (not key.endswith(("running_mean", "running_var", "tracked")))


def test_norm_layers_have_their_own_weight_decay(data):
    model = build_model(create_backbone("resnet10t"), small(data, head="4conv1fc"), 3)
    assert [list(g) for g in parameter_groups(model, None)] == [["params"]]
    others, norms = parameter_groups(model, 0.0)
    names = {id(p): name for name, p in model.named_parameters()}
    of_norms = {names[id(p)] for p in norms["params"]}
    assert norms["weight_decay"] == 0
    assert len(of_norms) + len(others["params"]) == len(names)
    expected = {
        f"{name}.{p}"
        for name, module in model.named_modules()
        for p in ("weight", "bias")
        if isinstance(module, nn.BatchNorm2d)
    }
    assert of_norms == expected
    assert any(name.startswith("roi_heads.box_head") for name in of_norms)


def test_the_learning_rate_rises_from_a_thousandth():
    config = Detection(Data("-"), iterations=90000, lr=0.02, warmup_factor=0.001)
    found = [learning_rate(i, config) for i in (0, 500, 999, 1000, 59999, 60000, 80000)]
    wanted = [2e-5, 0.02 * (0.001 * 0.5 + 0.5), 0.02 * (0.001 * 0.001 + 0.999), 0.02, 0.02, 0.002, 0.0002]
    assert found == pytest.approx(wanted)


def test_batches_of_one_orientation_take_every_sample_in_turn(tmp_path):
    root = write_coco(tmp_path / "coco", size=40)
    path = root / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    for i, image in enumerate(content["images"]):
        image["width"], image["height"] = (40, 30) if i % 3 else (30, 30)
    split = dataclasses.replace(read_split(root, "train2017"), images=content["images"])
    kept = [i for i in range(len(split)) if i != 5]
    found = examples.batches_of(split, kept, 0, 9, 4, grouped=True)
    assert found.shape == (9, 4)
    chosen = found.ravel().tolist()
    assert len(set(chosen)) == 36
    kinds = {}
    for t in range(max(chosen) + 1):
        i = kept[examples.image_of(t, len(kept), 0, "detection")]
        kinds.setdefault(split.images[i]["width"] > 30, []).append(t)
    for batch in found.tolist():
        own = next(kind for kind, ts in kinds.items() if batch[0] in ts)
        assert batch == kinds[own][:4]  # of its kind, in order, none left out
        del kinds[own][:4]
    assert all(len(waiting) < 4 for waiting in kinds.values())
    assert examples.batches_of(split, kept, 0, 2, 3, grouped=False).tolist() == [[0, 1, 2], [3, 4, 5]]


# --- Heads


def test_detectron2s_initial_weights(data):
    torch.manual_seed(0)
    config = small(data, initial_heads="detectron2", box_head_channels=256, fpn_channels=32)
    head = build_model(create_backbone("resnet10t"), config, 60).roi_heads
    inputs = head.box_head.fc6.in_features
    assert float(head.box_head.fc6.weight.std()) == pytest.approx(inputs**-0.5, rel=0.02)
    assert float(head.box_head.fc6.weight.abs().max()) == pytest.approx((3 / inputs) ** 0.5, rel=0.02)
    assert float(head.box_predictor.cls_score.weight.std()) == pytest.approx(0.01, rel=0.05)
    assert float(head.box_predictor.bbox_pred.weight.std()) == pytest.approx(0.001, rel=0.05)
    assert float(head.mask_predictor.mask_fcn_logits.weight.std()) == pytest.approx(0.001, rel=0.1)
    assert not any(m.bias.any() for m in head.modules() if isinstance(m, nn.Linear))


def test_4conv1fc_has_norm_after_each_convolution_of_both_heads(data):
    model = build_model(create_backbone("resnet10t"), small(data, head="4conv1fc", mask_head_layers=4), 3)
    kinds = [
        type(m) for m in model.roi_heads.box_head.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d | nn.Linear)
    ]
    assert kinds == [nn.Conv2d, nn.BatchNorm2d] * 4 + [nn.Linear]
    masks = [type(m) for m in model.roi_heads.mask_head.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
    assert masks == [nn.Conv2d, nn.BatchNorm2d] * 4
    plain = build_model(create_backbone("resnet10t"), small(data), 3).roi_heads
    assert not any(isinstance(m, nn.BatchNorm2d) for m in plain.modules())


def test_res5_is_the_backbones_last_stage_and_a_norm(data):
    backbone = create_backbone("resnet10t").eval()
    stage, images = backbone.layer4, torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        c4, c5 = backbone.forward_intermediates(images, indices=[3, 4], intermediates_only=True)
    model = build_model(backbone, small(data, head="res5", candidates=(50, 30)), 3).eval()
    assert model.rpn.anchor_generator.num_anchors_per_location() == [15]
    assert [s for sizes in model.rpn.anchor_generator.sizes for s in sizes] == pytest.approx(
        [s * math.sqrt(64 / 800) for s in (32, 64, 128, 256, 512)]
    )
    head = model.roi_heads.box_head
    assert head.stage is stage
    assert model.roi_heads.mask_head is head
    assert isinstance(head.norm, nn.BatchNorm2d)
    with torch.no_grad():
        torch.testing.assert_close(model.backbone(images)["0"], c4)
        torch.testing.assert_close(head(c4), head.norm(c5))
        scores, _ = model.roi_heads.box_predictor(torch.ones(2, 512, 7, 7))
    assert scores.shape == (2, 4)
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in set(model.parameters()))


def test_masks_of_res5_are_trained_on_the_box_heads_own_features(data):
    """The mask loss is that of the box features of the regions with an object, as torchvision computes it."""
    model = build_model(create_backbone("resnet10t"), small(data, head="res5", candidates=(50, 30)), 3)
    split = read_split(data.root, data.train)
    image, target = examples.training_example(split, examples.trainable(split), 0, 0)
    seen = {}
    model.roi_heads.box_head.register_forward_hook(lambda _m, _i, out: seen.setdefault("boxes", []).append(out))
    model.roi_heads.mask_predictor.register_forward_hook(lambda _m, i, _o: seen.setdefault("masks", i[0]))
    torch.manual_seed(0)
    losses = model([image.float() / 255], [target])
    assert len(seen["boxes"]) == 1  # computed once, with one set of batch statistics
    rows = {tuple(row.flatten()[:64].tolist()) for row in seen["boxes"][0].detach()}
    assert 0 < len(seen["masks"]) < len(seen["boxes"][0])
    assert all(tuple(row.flatten()[:64].tolist()) in rows for row in seen["masks"].detach())
    assert set(losses) == {"loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"}


def test_res5_needs_a_last_stage(data):
    with pytest.raises(ConfigError, match="'res5' needs a ResNet"):
        build_model(create_backbone("regnetx_002"), small(data, head="res5"), 3)


def test_the_size_at_test_is_one_of_those_in_training():
    with pytest.raises(ConfigError, match="train_sizes has no 800, the size at test; add it, or change size"):
        build(Detection, {"data": {"root": "-"}, "train_sizes": [640, 672]}, "x.yaml: transfers.detection")
    config = Detection(Data("-"), train_sizes=(480, 800, 640), fpn_channels=8, box_head_channels=8)
    transform = build_model(create_backbone("resnet10t"), config, 3).transform
    assert sorted(transform.min_size) == [480, 640, 800]
    assert transform.min_size[-1] == 800
    assert transform.max_size == 1333


# --- VOC's average precision


def test_average_precision_of_a_hand_computed_curve():
    """Ten objects; right, right, wrong, right: recall .1 .2 .2 .3, precision 1 1 2/3 3/4."""
    recall, precision = np.array([0.1, 0.2, 0.2, 0.3]), np.array([1, 1, 2 / 3, 3 / 4])
    # At recall 0, 0.1, 0.2: 1; at 0.3: 3/4; at 0.4 to 1: 0.
    assert voc_ap.average_precision(recall, precision, points=True) == pytest.approx((3 * 1 + 0.75) / 11)
    assert voc_ap.average_precision(recall, precision, points=False) == pytest.approx(0.2 * 1 + 0.1 * 0.75)
    assert voc_ap.average_precision(np.ones(1), np.ones(1), points=True) == 1
    assert voc_ap.average_precision(np.zeros(0), np.zeros(0), points=False) == 0


def test_overlap_counts_both_edge_pixels():
    """Pixels 1 to 10 and 6 to 15: 5 of 15 columns; without the +1 it would be 4 of 14."""
    found = voc_ap.overlaps(
        np.array([1, 1, 10, 10.0]), np.array([[6, 1, 15, 10.0], [11, 1, 20, 10], [1, 1, 10, 10]])
    )
    assert found == pytest.approx([1 / 3, 0, 1])
    assert voc_ap.pixels([0, 0, 10, 10]).tolist() == [1, 1, 10, 10]


def test_matching_as_the_devkit():
    boxes = np.array([[1, 1, 10, 10], [21, 1, 30, 10], [41, 1, 50, 10.0]])
    objects = {1: (boxes, np.array([False, True, False])), 2: (boxes[:1], np.array([False]))}
    detections = [
        (1, 0.9, boxes[0]),  # right
        (1, 0.8, boxes[0]),  # found again: wrong
        (1, 0.7, boxes[1]),  # difficult: does not count
        (1, 0.6, boxes[1]),  # again
        (2, 0.5, boxes[2]),  # no object there: wrong
        (2, 0.4, np.array([1, 1, 10, 5.0])),  # overlaps by exactly one half: wrong, it has to be more
        (3, 0.3, boxes[0]),  # an image without objects: wrong
        (2, 0.2, np.array([1, 1, 10, 6.0])),  # 0.6: right
    ]
    recall, precision = voc_ap.curve(objects, detections, 0.5)
    assert recall == pytest.approx([1 / 3, 1 / 3, 1 / 3, 1 / 3, 1 / 3, 1 / 3, 1 / 3, 2 / 3])
    assert precision == pytest.approx([1, 1 / 2, 1 / 2, 1 / 2, 1 / 3, 1 / 4, 1 / 5, 2 / 6])
    shuffled = [detections[i] for i in (3, 7, 0, 5, 2, 6, 1, 4)]
    assert np.array_equal(voc_ap.curve(objects, shuffled, 0.5), (recall, precision))


def write_voc(root: Path) -> Path:
    """The rectangles as VOC's: no masks, and the first object of each other image is difficult."""
    write_coco(root)
    for path in (root / "annotations").glob("*.json"):
        content = json.loads(path.read_text())
        seen = set()
        for a in content["annotations"]:
            a["segmentation"] = []
            a["difficult"] = int(a["image_id"] % 2 == 0 and a["image_id"] not in seen)
            a["iscrowd"] = a["iscrowd"] or a["difficult"]
            seen.add(a["image_id"])
        path.write_text(json.dumps(content))
    return root


def test_voc_scores_of_perfect_and_of_shrunken_boxes(tmp_path):
    split = read_split(write_voc(tmp_path / "voc"), "val2017")
    truth = [
        {"image_id": image["id"], "category_id": a["category_id"], "score": 1.0, "bbox": list(a["bbox"])}
        for image in split.images
        for a in split.annotations[image["id"]]
    ]
    assert any(a.get("difficult") for own in split.annotations.values() for a in own)
    for points in (True, False):
        scores = voc_ap.voc_scores(split, len(split), truth, points=points)
        assert list(scores.values()) == pytest.approx([100, 100, 100])
        assert list(voc_ap.voc_scores(split, len(split), [], points=points).values()) == [0, 0, 0]
    for r in truth:
        r["bbox"] = [*r["bbox"][:3], 0.661 * r["bbox"][3]]  # overlap 0.661: passes 0.50 to 0.65, four of ten
    assert list(voc_ap.voc_scores(split, len(split), truth, points=True).values()) == pytest.approx([40, 100, 0])
    assert set(voc_ap.voc_scores(split, 1, truth, points=True).values()) == {None}


def test_difficult_objects_are_trained_on_only_if_wanted(tmp_path):
    split = read_split(write_voc(tmp_path / "voc"), "train2017")
    without, with_ = examples.trainable(split), examples.trainable(split, difficult=True)
    assert set(without) < set(with_)
    counts = [0, 0]
    for t in range(len(with_)):
        for i, difficult in enumerate((False, True)):
            counts[i] += len(examples.training_example(split, with_, 0, t, difficult=difficult)[1]["labels"])
    records = [a for own in split.annotations.values() for a in own]
    assert counts[1] - counts[0] == sum(bool(a.get("difficult")) for a in records)
    assert counts[0] == sum(not a["iscrowd"] for a in records)


# --- The protocols

TOY = {"size": 64, "train_sizes": [48, 64], "iterations": 2, "batch_size": 2, "warmup_iterations": 1, "lr": 0.01}
TOY |= {
    "precise_bn": 1,
    "eval_images": 4,
    "fpn_channels": 16,
    "box_head_channels": 32,
    "proposals": 20,
    "test_proposals": 15,
}
TOY |= {"candidates": [40, 30], "rois_per_image": 16}
PROTOCOLS = ("coco_fpn_1x", "coco_fpn_2x", "coco_c4", "voc_c4")


def settings_of(name: str) -> dict:
    return read_extended(ROOT / "config" / "protocols" / f"{name}.yaml")["transfers"]["detection"]


@pytest.mark.parametrize(("name", "head"), [*((n, None) for n in PROTOCOLS), ("coco_fpn_1x", "4conv1fc")])
def test_a_protocol_runs_to_its_end(name, head, tmp_path):
    root = write_voc(tmp_path / "data") if name.startswith("voc") else write_coco(tmp_path / "data")
    file = write_backbone(tmp_path / "backbone.pt")
    given = settings_of(name) | TOY | ({"head": head} if head else {})
    config = build(Detection, {**given, "data": {"root": str(root)}}, name)
    rows, notes = detection.evaluate(file, config, seed=0, device=CPU, progress=False)
    kinds = ("bbox",) if name.startswith("voc") else ("bbox", "segm")
    assert [row["metric"] for row in rows] == [f"{m}_{k}" for k in kinds for m in ("AP", "AP50", "AP75")]
    assert ("C4" if config.head == "res5" else "FPN") in notes["head"]
    assert notes["head"].startswith("Faster" if name.startswith("voc") else "Mask")
    assert "recomputed over 1 batches" in notes["batch_norm"]


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_names_every_setting(name):
    fields = {f.name for f in dataclasses.fields(Detection)} - {"data"}
    unused = {"fpn_channels", "box_head_channels", "mask_head_layers"} if name.endswith("c4") else set()
    assert set(settings_of(name)) == fields - unused
    config = build(Detection, {**settings_of(name), "data": {"root": "-"}}, name)
    steps = {"coco_fpn_2x": (120000, 160000), "voc_c4": (18000, 22000)}.get(name, (60000, 80000))
    assert tuple(round(m * config.iterations) for m in config.milestones) == steps


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_has_detectron2s_numbers(name):
    """In the model that a file builds, with torchvision's own parts; the numbers are detectron2's."""
    config = build(Detection, {**settings_of(name), "data": {"root": "-"}}, name)
    model = build_model(create_backbone("resnet10t"), config, 20, masks=config.masks)
    rpn, found, c4 = model.rpn, model.roi_heads, name.endswith("c4")
    before, after = ((12000, 6000), (2000, 1000)) if c4 else ((2000, 1000), (1000, 1000))
    for numbers, wanted in ((rpn._pre_nms_top_n, before), (rpn._post_nms_top_n, after)):
        assert (numbers["training"], numbers["testing"]) == wanted
    assert len(rpn.head.conv) == 1
    sizes, ratios = rpn.anchor_generator.sizes, rpn.anchor_generator.aspect_ratios
    assert sizes == (((32, 64, 128, 256, 512),) if c4 else ((32,), (64,), (128,), (256,), (512,)))
    assert set(ratios) == {(0.5, 1.0, 2.0)}
    for part, low, high, number, share, weights, overlap in (
        (rpn, 0.3, 0.7, 256, 0.5, (1, 1, 1, 1), 0.7),
        (found, 0.5, 0.5, 512, 0.25, (10, 10, 5, 5), 0.5),
    ):
        matcher, sampler = part.proposal_matcher, part.fg_bg_sampler
        assert (matcher.low_threshold, matcher.high_threshold) == (low, high)
        assert matcher.allow_low_quality_matches == (part is rpn)
        assert (sampler.batch_size_per_image, sampler.positive_fraction) == (number, share)
        assert tuple(part.box_coder.weights) == weights
        assert part.nms_thresh == overlap
        assert part.beta == 0
    assert (found.score_thresh, found.detections_per_img) == (0.05, 100)
    assert (found.box_roi_pool.output_size, found.box_roi_pool.samples) == (14 if c4 else 7, 0)
    transform, smallest = model.transform, 480 if name == "voc_c4" else 640
    assert sorted(transform.min_size) == [*range(smallest, 801, 32)]
    assert (transform.max_size, transform.size_divisible) == (1333, 32)
    batch, rate = (config.batch_size, config.precise_bn, config.eval_images), (config.lr, config.weight_decay)
    assert (batch, rate, config.norm_weight_decay) == ((16, 200, None), (0.02, 1e-4), 0)
    assert (config.iterations, config.warmup_iterations, config.warmup_factor) == {
        "coco_fpn_2x": (180000, 1000, 0.001), "voc_c4": (24000, 100, 0.001)
    }.get(name, (90000, 1000, 0.001))  # fmt: skip
    assert (config.metric, config.train_difficult) == (("voc07", True) if name == "voc_c4" else ("coco", False))


@pytest.mark.slow
@pytest.mark.long
def test_res5_learns_rectangles_without_masks(data, tmp_path):
    """On 11-point AP: a net that learned nothing has about 9 % (one right detection at recall 0)."""
    config = small(
        Data(data.root, val=data.train), head="res5", iterations=60, batch_size=4, lr=0.02, masks=False,
        metric="voc07", candidates=(100, 50), smooth_l1_beta=0.0, roi_aligned=True, roi_samples=0, precise_bn=10,
    )  # fmt: skip
    rows, _ = detection.evaluate(write_backbone(tmp_path / "b.pt"), config, seed=0, device=CPU, progress=False)
    assert {row["metric"]: row["value"] for row in rows}["AP50_bbox"] > 30


def test_a_protocol_is_taken_over_a_study(tmp_path):
    (tmp_path / "a.yaml").write_text(
        yaml.safe_dump({"name": "a", "transfers": {"linear": {}, "detection": {"lr": 1}}})
    )
    (tmp_path / "b.yaml").write_text(yaml.safe_dump({"transfers": {"detection": {"size": 64, "lr": 2}}}))
    study = {"extends": ["a.yaml", "b.yaml"], "name": "c", "transfers": {"linear": None, "detection": {"size": 96}}}
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(study))
    found = read_extended(tmp_path / "c.yaml")
    assert found == {"about": "", "name": "c", "transfers": {"detection": {"size": 96, "lr": 2}}}
    (tmp_path / "a.yaml").write_text("extends: [b.yaml, c.yaml]")
    with pytest.raises(ConfigError, match=r"extends: .*c\.yaml extends itself"):
        read_extended(tmp_path / "c.yaml")


# --- Detectors that start from more than a backbone


@pytest.fixture(scope="module")
def soco_file(tmp_path_factory):
    """The backbone.pt of a run of SoCo-FPN with a pyramid of 16 channels and a box head of 32."""
    folder = tmp_path_factory.mktemp("soco")
    settings = make_settings("soco_fpn", steps=1)
    settings = dataclasses.replace(settings, params=settings.params | {"pyramid": 16, "box_head": 32})
    pretrain(settings, tiny_store(folder), folder / "run", run="run", device=CPU, progress=False)
    return folder / "run" / "backbone.pt"


def parts_of(model):
    return {"fpn": model.backbone.fpn.state_dict(), "box_head": model.roi_heads.box_head.state_dict()}


def test_a_detector_starts_from_the_pyramid_and_the_box_head_of_the_run(data, soco_file, monkeypatch):
    config, started = small(data, head="4conv1fc", pretrained_parts=True), []
    monkeypatch.setattr(
        detection, "train", lambda model, *rest, **how: started.append(copy.deepcopy(parts_of(model)))
    )
    _, notes = detection.evaluate(soco_file, config, seed=0, device=CPU, progress=False)
    assert notes["pretrained"] == ["backbone", "fpn", "box_head"]
    state = torch.load(soco_file.with_name("checkpoint.pt"), weights_only=True)["method"]
    assert sum(map(len, started[0].values())) > 30
    for part, weights in started[0].items():
        for name, value in weights.items():
            torch.testing.assert_close(value, state[f"encoders.query.{part}.{name}"], rtol=0, atol=0, msg=name)
    _, notes = detection.evaluate(soco_file, small(data, head="4conv1fc"), seed=0, device=CPU, progress=False)
    assert "pretrained" not in notes
    drawn = started[1]["box_head"]
    assert not any(
        torch.equal(drawn[name], started[0]["box_head"][name]) for name in drawn if name.endswith("0.weight")
    )


def test_a_method_without_such_parts_starts_them_untrained(data, tmp_path, monkeypatch):
    monkeypatch.setattr(detection, "train", lambda *given, **how: None)
    file = write_backbone(tmp_path / "backbone.pt")
    config = small(data, head="4conv1fc", pretrained_parts=True)
    _, notes = detection.evaluate(file, config, seed=0, device=CPU, progress=False)
    assert notes["pretrained"] == ["backbone"]


def test_parts_of_another_width_are_refused(data, soco_file):
    config = small(data, head="4conv1fc", fpn_channels=8, pretrained_parts=True)
    with pytest.raises(ConfigError, match=r"backbone.pt: its fpn has other layers or widths .* give fpn_channels"):
        detection.evaluate(soco_file, config, seed=0, device=CPU, progress=False)


def test_pretrained_parts_need_their_head(data):
    with pytest.raises(ConfigError, match="pretrained_parts is not for the head 2fc; give head: 4conv1fc"):
        build(Detection, {"data": vars(data), "pretrained_parts": True}, "transfers.detection")
