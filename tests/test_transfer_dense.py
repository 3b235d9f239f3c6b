"""Detection and segmentation: conversions against hand-made truth, and short runs on coloured rectangles."""

import json

import pytest
import torch
from support.tiny_coco import write_backbone, write_coco

from mlssl.data.coco import read_split
from mlssl.data.semantic import IGNORE
from mlssl.errors import MissingLabels
from mlssl.parts.backbone import create_backbone, stage_maps
from mlssl.study.settings import Data, Detection, Segmentation
from mlssl.transfer import detection, segmentation
from mlssl.transfer.detection.coco_scores import coco_scores
from mlssl.transfer.detection.examples import trainable, training_example
from mlssl.transfer.detection.model import build_model
from mlssl.transfer.detection.predict import coco_results
from mlssl.transfer.detection.train import learning_rate
from mlssl.transfer.detection.train import train as train_detector
from mlssl.transfer.load import draw, image_tensor, load_backbone
from mlssl.transfer.segmentation.augment import augment
from mlssl.transfer.segmentation.model import build_model as build_segmenter
from mlssl.transfer.segmentation.predict import confusion
from mlssl.transfer.segmentation.train import poly_lr
from mlssl.transfer.segmentation.train import train as train_segmenter

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Data:
    return Data(str(write_coco(tmp_path_factory.mktemp("dense") / "coco")))


@pytest.fixture(scope="module")
def backbone_file(tmp_path_factory):
    return write_backbone(tmp_path_factory.mktemp("backbone") / "backbone.pt")


def detection_config(data: Data, **changes) -> Detection:
    small = {
        "size": 64,
        "iterations": 2,
        "batch_size": 2,
        "lr": 0.01,
        "warmup_iterations": 2,
        "fpn_channels": 16,
    }
    heads = {"box_head_channels": 32, "mask_head_layers": 1, "proposals": 20, "rois_per_image": 16}
    return Detection(data, **{**small, **heads, **changes})


def segmentation_config(data: Data, **changes) -> Segmentation:
    small = {"size": 64, "iterations": 2, "batch_size": 4, "output_stride": 16, "head_channels": 32}
    return Segmentation(data, **{**small, **changes})


def true_predictions(split):
    """The annotated objects (crowds aside) in torchvision's prediction format."""
    for i in range(len(split)):
        objects = split.instances(i)
        kept = torch.from_numpy(~objects.crowd)
        yield {
            "boxes": torch.from_numpy(objects.boxes)[kept],
            "labels": torch.from_numpy(objects.labels)[kept] + 1,
            "scores": torch.ones(int(kept.sum())),
            "masks": torch.from_numpy(objects.masks)[kept][:, None].float(),
        }


def to_results(split, predictions):
    ids = [c["id"] for c in split.categories]
    return [
        result
        for image, prediction in zip(split.images, predictions, strict=True)
        for result in coco_results(prediction, image["id"], ids)
    ]


def test_perfect_predictions_score_100(data):
    split = read_split(data.root, data.val)
    scores = coco_scores(split, len(split), to_results(split, true_predictions(split)))
    assert list(scores) == ["AP_bbox", "AP50_bbox", "AP75_bbox", "AP_segm", "AP50_segm", "AP75_segm"]
    assert all(value == pytest.approx(100) for value in scores.values())


@pytest.mark.parametrize("wrong", ["labels", "boxes", "masks"])
def test_wrong_predictions_lose_exactly_what_is_wrong(data, wrong):
    split = read_split(data.root, data.val)
    predictions = list(true_predictions(split))
    for p in predictions:
        if wrong == "labels":
            p["labels"] = p["labels"] % 3 + 1
        elif wrong == "boxes":
            p["boxes"] = p["boxes"] + 1000
        else:
            p["masks"] = 1 - p["masks"]
    scores = coco_scores(split, len(split), to_results(split, predictions))
    assert (scores["AP50_bbox"] > 99) == (wrong == "masks")
    assert (scores["AP50_segm"] > 99) == (wrong == "boxes")


def test_boxes_of_known_overlap_pass_only_the_lower_thresholds(data):
    """Boxes cut to 0.65 of their height pass 0.50, 0.55, 0.60 and 0.65 of COCO's ten thresholds."""
    split = read_split(data.root, data.val)
    predictions = list(true_predictions(split))
    for p in predictions:
        height = p["boxes"][:, 3] - p["boxes"][:, 1]
        p["boxes"][:, 3] = p["boxes"][:, 1] + 0.651 * height
    scores = coco_scores(split, len(split), to_results(split, predictions))
    assert scores["AP50_bbox"] == pytest.approx(100)
    assert scores["AP75_bbox"] == 0
    assert scores["AP_bbox"] == pytest.approx(40)


def test_no_detections_score_zero_and_no_objects_leave_the_score_undefined(data):
    split = read_split(data.root, data.val)
    assert set(coco_scores(split, len(split), []).values()) == {0.0}
    # By ascending id, the image without objects is the first and the one with a crowd the second.
    assert set(coco_scores(split, 1, []).values()) == {None}
    empty = {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "scores": torch.zeros(0),
    }
    assert coco_results({**empty, "masks": torch.zeros(0, 1, 8, 8)}, 1, [3]) == []


def test_training_examples_leave_out_crowds_and_empty_images(data):
    split = read_split(data.root, data.train)
    kept = trainable(split)
    assert kept == list(range(1, 12))
    flips = 0
    for t in range(22):
        image, target = training_example(split, kept, 0, t)
        assert (image.shape, image.dtype) == ((3, 64, 64), torch.uint8)
        i, _ = draw(t, len(kept), 0, "detection")
        assert len(target["labels"]) == (~split.instances(kept[i]).crowd).sum() > 0
        for box, label, mask in zip(target["boxes"], target["labels"], target["masks"], strict=True):
            x1, y1, x2, y2 = box.int().tolist()
            # Box, mask and colour agree, flipped or not.
            assert mask.sum() == (x2 - x1) * (y2 - y1) == mask[y1:y2, x1:x2].sum()
            assert image[:, y1:y2, x1:x2].float().mean(dim=(1, 2)).argmax() == label - 1
        flips += not torch.equal(image, image_tensor(split, kept[i]))
    assert 4 < flips < 18


def test_a_split_without_objects_cannot_train_a_detector(tmp_path, backbone_file):
    root = write_coco(tmp_path / "coco", size=16)
    path = root / "annotations" / "instances_train2017.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "annotations": []}))
    with pytest.raises(MissingLabels, match=r"instances_train2017\.json: no image has an object; annotate boxes"):
        detection.evaluate(backbone_file, Detection(Data(str(root))), seed=0, device=CPU, progress=False)


def test_detection_schedule_warms_up_and_falls_twice():
    config = Detection(Data("-"), iterations=90, lr=0.5, warmup_iterations=10)
    lr = [learning_rate(i, config) for i in range(90)]
    assert lr[:10] == pytest.approx([0.05 * (i + 1) for i in range(10)])
    assert lr[10:60] == pytest.approx([0.5] * 50)
    assert lr[60:80] == pytest.approx([0.05] * 20)
    assert lr[80:] == pytest.approx([0.005] * 10)


def test_anchors_are_cocos_and_shrink_with_the_root_of_the_size(data):
    def anchors(size):
        model = build_model(create_backbone("resnet10t"), detection_config(data, size=size), 3)
        return [s for (s,) in model.rpn.anchor_generator.sizes]

    assert anchors(800) == [32, 64, 128, 256, 512]
    assert anchors(200) == [16, 32, 64, 128, 256]


def test_the_detector_holds_the_pretrained_backbone(backbone_file, data):
    backbone, _ = load_backbone(backbone_file)
    model = build_model(backbone, detection_config(data), 3)
    images = torch.rand(2, 3, 64, 64)
    reference, _ = load_backbone(backbone_file)
    with torch.no_grad():
        expected = stage_maps(reference.eval(), images)
        seen = []
        hook = model.backbone.fpn.register_forward_pre_hook(lambda _, maps: seen.extend(maps[0].values()))
        pyramid = model.backbone.eval()(images)
        hook.remove()
    assert [tuple(m.shape[1:]) for m in pyramid.values()] == [(16, s, s) for s in (16, 8, 4, 2, 1)]
    for found, wanted in zip(seen, expected, strict=True):
        torch.testing.assert_close(found, wanted)
    assert all(p.requires_grad for p in model.parameters())


def test_detection_trains_every_layer_and_the_batch_norm_statistics(backbone_file, data):
    backbone, _ = load_backbone(backbone_file)
    model = build_model(backbone, detection_config(data), 3)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    split = read_split(data.root, data.train)
    train_detector(model, split, detection_config(data), seed=0, device=CPU, progress=False)
    after = model.state_dict()
    same = [key for key, value in before.items() if torch.equal(value, after[key])]
    # timm starts the last batch norm of a block at weight zero: before it, gradients come with step two.
    assert not [key for key in same if key.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    assert not [key for key in same if "backbone.backbone" in key and "conv1.weight" in key]


def test_detection_learns_rectangles_and_repeats_itself(backbone_file, data):
    config = detection_config(
        Data(data.root, val=data.train),
        iterations=70,
        batch_size=4,
        lr=0.05,
        warmup_iterations=10,
        fpn_channels=32,
        box_head_channels=64,
        rois_per_image=32,
    )
    state = torch.get_rng_state()
    rows, notes = detection.evaluate(backbone_file, config, seed=0, device=CPU, progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    values = {row["metric"]: row["value"] for row in rows}
    assert all(row["protocol"] == "detection" and row["n"] == 12 for row in rows)
    assert values["AP50_bbox"] > 20
    assert values["AP50_segm"] > 20
    assert notes["train_images_without_object"] == 1
    short = detection_config(data, eval_images=3)
    first, again = (detection.evaluate(backbone_file, short, seed=1, device=CPU, progress=False) for _ in range(2))
    assert first == again
    assert {row["n"] for row in first[0]} == {3}


def test_detection_says_which_loss_is_not_finite(backbone_file, data):
    config = detection_config(data, iterations=20, lr=1e9, warmup_iterations=0)
    with pytest.raises(FloatingPointError, match=r"at iteration \d+ \(loss_classifier .*lower detection.lr"):
        detection.evaluate(backbone_file, config, seed=0, device=CPU, progress=False)


def test_augmentation_keeps_image_and_mask_together():
    image = torch.full((3, 40, 60), 10, dtype=torch.uint8)
    mask = torch.zeros(40, 60, dtype=torch.uint8)
    image[:, 10:30, 20:35], mask[10:30, 20:35] = 240, 1
    shares, padded = [], 0
    for seed in range(40):
        x, y = augment(image, mask, 48, torch.Generator().manual_seed(seed))
        assert x.shape == (3, 48, 48)
        assert y.shape == (48, 48)
        known = y != IGNORE
        # Apart from the border, where resizing blurs, bright means class 1.
        assert ((x[0] > 125) == (y == 1))[known].float().mean() > 0.93
        shares.append(float(known.float().mean()))
        padded += not known.all()
        assert (x[0][~known] == round(255 * 0.485)).all()
    assert min(shares) < 0.4
    assert 5 < padded < 30
    same = [augment(image, mask, 48, torch.Generator().manual_seed(7)) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*same, strict=True))


def test_poly_schedule():
    config = Segmentation(Data("-"), iterations=100, lr=0.2)
    assert poly_lr(0, config) == 0.2
    assert poly_lr(50, config) == pytest.approx(0.2 * 0.5**0.9)
    assert poly_lr(99, config) > 0


def test_scores_are_taken_at_the_size_of_each_image(tmp_path):
    """A network that knows the mask gets 100, though it sees squares and the images are none."""
    root = write_coco(tmp_path / "coco", size=64)
    split = read_split(root, "val2017")

    class Oracle(torch.nn.Module):
        calls = 0

        def forward(self, images):
            assert images.shape[-2:] == (32, 32)
            first, Oracle.calls = Oracle.calls, Oracle.calls + len(images)
            masks = [torch.from_numpy(split.semantic_mask(first + j)).long() for j in range(len(images))]
            masks = torch.stack(masks).clamp_max(3)
            return 10 * torch.nn.functional.one_hot(masks, 4).permute(0, 3, 1, 2).float()

    counts = confusion(
        Oracle(), split, 5, segmentation_config(Data(str(root)), size=32), device=CPU, progress=False
    )
    valid = sum(int((split.semantic_mask(i) != IGNORE).sum()) for i in range(5))
    assert counts.sum() == counts.diagonal().sum() == valid
    assert valid < 5 * 64 * 64


def test_segmentation_learns_rectangles_and_repeats_itself(backbone_file, data):
    config = segmentation_config(
        Data(data.root, val=data.train), iterations=40, batch_size=8, lr=0.02, output_stride=8
    )
    state = torch.get_rng_state()
    rows, notes = segmentation.evaluate(backbone_file, config, seed=0, device=CPU, progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    values = {row["metric"]: row["value"] for row in rows}
    assert list(values) == ["mIoU", "mAcc", "aAcc"]
    assert all(row["protocol"] == "segmentation" and row["n"] == 12 for row in rows)
    assert values["mIoU"] > 50
    assert notes["classes"] == notes["classes_scored"] == 4
    short = segmentation_config(data, eval_images=4)
    first, again = (
        segmentation.evaluate(backbone_file, short, seed=1, device=CPU, progress=False) for _ in range(2)
    )
    assert first == again
    assert {row["n"] for row in first[0]} == {4}


def test_segmentation_trains_every_layer_and_the_batch_norm_statistics(backbone_file, data):
    backbone, _ = load_backbone(backbone_file, output_stride=16)
    model = build_segmenter(backbone, segmentation_config(data), 4)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    split = read_split(data.root, data.train)
    train_segmenter(model, split, segmentation_config(data), seed=0, device=CPU, progress=False)
    after = model.state_dict()
    assert not [key for key, value in before.items() if torch.equal(value, after[key])]


def test_segmentation_names_the_iteration_of_a_loss_that_is_not_finite(backbone_file, data):
    config = segmentation_config(data, iterations=20, lr=1e12)
    with pytest.raises(FloatingPointError, match=r"at iteration \d+ \(cross_entropy nan\); lower segmentation.lr"):
        segmentation.evaluate(backbone_file, config, seed=0, device=CPU, progress=False)


def test_output_stride_sets_the_size_of_the_last_map(backbone_file, data):
    for stride in (8, 16, 32):
        backbone, _ = load_backbone(backbone_file, output_stride=stride)
        model = build_segmenter(backbone, segmentation_config(data), 4).eval()
        with torch.no_grad():
            assert model(torch.zeros(1, 3, 64, 64)).shape[-1] == 64 // stride
