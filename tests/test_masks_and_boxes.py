"""The rule for masks and boxes in COCO's layout (docs/data.md), and what each transfer needs of them."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as rle
from support.snakemake import ROOT, small, snakemake, write
from support.tiny_coco import write_backbone, write_coco

from mlssl.data.coco import decode, read_split
from mlssl.data.formats.coco import is_inside, is_mask, mask_box
from mlssl.data.semantic import IGNORE
from mlssl.errors import DataError, MissingLabels
from mlssl.study.settings import TRANSFERS, Data, Dense, Detection, PseudoLabels, Regions, Segmentation
from mlssl.transfer import dense, detection, needs, pseudo_labels, regions, segmentation
from mlssl.transfer.detection.coco_scores import coco_scores
from mlssl.transfer.detection.examples import trainable, training_example
from mlssl.transfer.detection.model import build_model
from mlssl.transfer.detection.predict import coco_results
from mlssl.transfer.load import load_backbone

CPU = torch.device("cpu")
WIDTH, HEIGHT = 64, 64
SQUARE = [[8, 12, 28, 12, 28, 42, 8, 42]]
BLOCK = np.zeros((HEIGHT, WIDTH), dtype=np.uint8, order="F")
BLOCK[12:42, 8:28] = 1
BOX = [8, 12, 20, 30]


def compressed(mask):
    return {"size": [HEIGHT, WIDTH], "counts": rle.encode(np.asfortranarray(mask))["counts"].decode()}


def plain(mask):
    flat = np.concatenate([[0], mask.ravel(order="F")])
    counts = np.diff(np.concatenate([[0], np.flatnonzero(np.diff(flat)), [mask.size]]))
    return {"size": [HEIGHT, WIDTH], "counts": counts.tolist()}


MASKS = {
    "a polygon": SQUARE,
    "two polygons": [[8, 12, 18, 12, 18, 42, 8, 42], [20, 20, 28, 20, 28, 30, 20, 30]],
    "runs": plain(BLOCK),
    "compressed runs": compressed(BLOCK),
}
NO_MASK = {
    "missing": ...,
    "null": None,
    "an empty list": [],
    "runs without a pixel": plain(BLOCK * 0),
    "compressed runs without a pixel": compressed(BLOCK * 0),
    "a polygon outside": [[100, 100, 140, 100, 140, 140]],
    "a line": [[5, 5, 20, 5, 40, 5]],
}
EMPTY_BOX = {
    "missing": ...,
    "null": None,
    "an empty list": [],
    "zeros": [0, 0, 0, 0],
    "no width": [8, 12, 0, 30],
    "no height": [8.5, 12, 20, 0.0],
    "a point elsewhere": [50, 50, 0, 0],
}


def changed(root, split, change):
    """Change the annotations of a split: `change` maps the content of its file."""
    path = root / "annotations" / f"instances_{split}.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(change(content)))
    return root


def each(**values):
    """A change of every annotation; `...` removes a key."""

    def change(content):
        for a in content["annotations"]:
            a.update(values)
            for key in [key for key, value in values.items() if value is ...]:
                del a[key]
        return content

    return change


@pytest.fixture
def root(tmp_path):
    return write_coco(tmp_path / "coco", splits={"train2017": 8, "val2017": 6})


@pytest.fixture(scope="module")
def backbone_file(tmp_path_factory):
    return write_backbone(tmp_path_factory.mktemp("backbone") / "backbone.pt")


def one(root, **values):
    """The split with one annotation, in its first image."""
    a = {"id": 1, "image_id": 1000, "category_id": 7, "bbox": BOX, "segmentation": SQUARE, **values}
    changed(root, "val2017", lambda c: c | {"annotations": [{k: v for k, v in a.items() if v is not ...}]})
    split = read_split(root, "val2017")
    return split, next(a for found in split.annotations.values() for a in found)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("box", EMPTY_BOX)
def test_an_empty_box_becomes_that_of_the_mask(root, mask, box):
    split, a = one(root, bbox=EMPTY_BOX[box], segmentation=MASKS[mask])
    assert a["bbox"] == BOX
    assert a["has_mask"]
    assert a["has_box"]
    assert split.instances(len(split) - 1).boxes.tolist() == [[8, 12, 28, 42]]


@pytest.mark.parametrize("mask", NO_MASK)
def test_what_is_no_mask(root, mask):
    _, a = one(root, segmentation=NO_MASK[mask])
    assert not a["has_mask"]
    assert a["bbox"] == BOX
    if not NO_MASK[mask] or mask == "missing":
        with pytest.raises(DataError, match=r"annotation 1: key 'bbox' is None; give .* or a mask"):
            one(root, segmentation=NO_MASK[mask], bbox=None)


def test_the_box_around_runs_is_that_of_a_slow_loop():
    rng = np.random.default_rng(0)
    for _ in range(40):
        mask = (rng.random((HEIGHT, WIDTH)) < 0.002).astype(np.uint8)
        ys, xs = np.nonzero(mask)
        slow = [xs.min(), ys.min(), xs.max() + 1 - xs.min(), ys.max() + 1 - ys.min()] if len(xs) else None
        for code in (plain(mask), compressed(mask)):
            assert mask_box(code) == slow


@pytest.mark.parametrize(
    ("box", "inside"),
    [
        ([0, 0, 10, 10], True),
        ([-5, -5, 10, 10], True),
        ([63.9, 63.9, 40, 40], True),
        ([0, 0, 64, 1e-7], False),  # vanishes in float32
        ([30, 30, 1e-6, 20], False),
        ([-10, 5, 10, 10], False),
        ([64, 5, 10, 10], False),
        (None, False),
    ],
)
def test_a_box_counts_if_it_has_an_area_inside(box, inside):
    assert is_inside(box, (WIDTH, HEIGHT)) == inside


def zero_ids(content):
    content["categories"][0]["id"] = content["images"][0]["id"] = 0
    for a in content["annotations"]:
        a["category_id"] %= 3  # of 3, 7 and 8, only 3 is divisible
        a["category_id"] += {1: 6, 2: 6}.get(a["category_id"], 0)
        a["image_id"] %= 1000
    return content


def test_whether_a_mask_has_an_area_inside_does_not_depend_on_the_first_points():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(300):
        polygon = rng.integers(-60, 110, 8).tolist()
        found.append(is_mask([polygon], (WIDTH, HEIGHT)))
        assert found[-1] == is_inside(mask_box([polygon]), (WIDTH, HEIGHT))
        assert found[-1] == is_mask([polygon[2:] + polygon[:2]], (WIDTH, HEIGHT))
    assert 20 < sum(found) < 290


def first_id_0(content):
    for i, a in enumerate(content["annotations"]):
        a["id"] = i
    return content


def more(**values):
    """A change that adds an object that nobody can see, which no detector should be asked for."""

    def change(content):
        image = content["annotations"][0]["image_id"]
        a = {"id": 999, "image_id": image, "category_id": 3, "segmentation": [], "iscrowd": 0, "area": 1, **values}
        content["annotations"].append(a)
        return content

    return change


PERFECT = {
    "ids from 0": first_id_0,
    "negative ids": lambda c: c | {"annotations": [a | {"id": -a["id"]} for a in c["annotations"]]},
    "an image id and a category id 0": lambda c: zero_ids(c),
    "area null": each(area=None),
    "area missing": each(area=...),
    "area 0": each(area=0),
    "area of 9e8": each(area=9e8),
    "crowd null": lambda c: (
        c | {"annotations": [a | {"iscrowd": a["iscrowd"] or None, "area": None} for a in c["annotations"]]}
    ),
    "segmentation missing": each(segmentation=...),
    "segmentation null": each(segmentation=None),
    "segmentation empty": each(segmentation=[]),
    "a box without area": more(bbox=[5, 5, 0, 0]),
    "a box outside": more(bbox=[500, 5, 10, 10]),
    "a huge crowd": more(bbox=[0, 0, 2e5, 2e5], iscrowd=1),
}


@pytest.mark.parametrize("name", PERFECT)
def test_a_perfect_detector_scores_100(root, name):
    split = read_split(changed(root, "val2017", PERFECT[name]), "val2017")
    masks = needs.unmasked(split) is None
    assert masks == (not name.startswith("segmentation"))
    results = []
    for i, image in enumerate(split.images):
        objects = split.instances(i)
        kept = torch.from_numpy(~objects.crowd)
        prediction = {
            "boxes": torch.from_numpy(objects.boxes)[kept],
            "labels": torch.from_numpy(objects.labels)[kept] + 1,
            "scores": torch.ones(int(kept.sum())),
        }
        if masks:
            prediction["masks"] = torch.from_numpy(objects.masks)[kept][:, None].float()
        results += coco_results(prediction, image["id"], [c["id"] for c in split.categories])
    scores = coco_scores(split, len(split), results, masks=masks)
    assert len(scores) == (6 if masks else 3)
    assert all(value == pytest.approx(100) for value in scores.values())


def test_text_and_negative_areas_are_refused(root):
    for area in ("12.5", "", -1, [4], float("inf")):
        with pytest.raises(
            DataError, match=r"annotation 1: key 'area' is .*; give its area in pixels, or leave it"
        ):
            one(root, area=area)


def categories(count):
    """A change to `count` categories; the objects keep theirs."""

    def change(content):
        known = content["categories"]
        return content | {
            "categories": known + [{"id": 100 + i, "name": f"c{i}"} for i in range(count - len(known))]
        }

    return change


def on_every_image(content):
    images = [image["id"] for image in content["images"]]
    a = {"category_id": 3, "bbox": [4, 4, 20, 20], "segmentation": [[4, 4, 24, 4, 24, 24, 4, 24]], "iscrowd": 0}
    return content | {"annotations": [{**a, "id": 1 + i, "image_id": image} for i, image in enumerate(images)]}


def some(share):
    """A change that removes the masks of the first annotations."""

    def change(content):
        for a in content["annotations"][: round(share * len(content["annotations"]))]:
            a["segmentation"] = []
        return content

    return change


PIXELS = {"dense", "segmentation"}
IMAGES = {"linear", "knn"}
PARTS = {"regions", "correspondence"}
LACKS = {
    "all there": (None, None, set(), ""),
    "254 categories": (categories(254), categories(254), set(), ""),
    "255 categories": (categories(255), categories(255), PIXELS, "has 255, a semantic mask can have 254"),
    "300 categories": (categories(300), categories(300), PIXELS, "'categories' has 300"),
    "masks null": (None, each(segmentation=None), PIXELS, "no object has a mask"),
    "masks missing in training": (each(segmentation=...), None, PIXELS, "no object has a mask"),
    "masks empty": (each(segmentation=[]), each(segmentation=[]), PIXELS, "no object has a mask"),
    "runs without a pixel": (None, each(segmentation=plain(BLOCK * 0)), PIXELS, "no object has a mask"),
    "one mask missing": (some(0.05), None, PIXELS, "(key 'segmentation'), nor have 0 others"),
    "half of them missing": (None, some(0.5), PIXELS, "annotate their masks, or set their 'iscrowd' to 1"),
    "one category on every photo": (on_every_image, on_every_image, IMAGES | PARTS, "on some of its 6 images"),
    "one on every training photo": (on_every_image, None, IMAGES | {"regions"}, "none can be learned"),
    "crowds alone": (None, each(iscrowd=1), IMAGES | PIXELS | PARTS | {"detection"}, "no image has an object"),
    "boxes outside": (None, each(bbox=[900, 5, 9, 9]), PIXELS | PARTS | {"detection"}, "no image has an object"),
    "no annotation to train on": (
        lambda c: c | {"annotations": []},
        None,
        IMAGES | PIXELS | {"regions", "detection", "pseudo_labels"},
        "annotate training images",
    ),
}  # fmt: skip


def transfers(root):
    return {stage: kind(Data(str(root))) for stage, kind in TRANSFERS.items()}


@pytest.mark.parametrize("name", LACKS)
def test_what_the_data_lack_is_known_before_training(root, name):
    train, val, left_out, words = LACKS[name]
    for split, change in (("train2017", train), ("val2017", val)):
        if change:
            changed(root, split, change)
    lines = list(needs.report(transfers(root), {}))
    found = {line.split(":")[0] for line in lines if ": left out: " in line}
    assert found == left_out
    assert words in "\n".join(lines)
    without = [line for line in lines if line.startswith("detection: scores of masks are left out: ")]
    assert bool(without) == (left_out >= PIXELS and "detection" not in left_out and "categories" not in name)
    quick = needs.quick_report(transfers(root))
    assert quick == [line for line in lines if "left out" in line]


def test_photos_without_record_leave_out_the_quality_of_pseudo_labels(root, tmp_path):
    Image.new("RGB", (WIDTH, HEIGHT)).save(root / "train2017" / "unlabelled.png")
    lines = list(needs.report(transfers(root), {}))
    (line,) = [line for line in lines if "left out" in line]
    assert line.startswith("pseudo_labels: left out: ")
    assert "no image has file_name 'unlabelled.png'" in line
    with pytest.raises(MissingLabels, match="1 of 9 have no record"):
        pseudo_labels.evaluate(tmp_path / "none.npz", tmp_path / "store", PseudoLabels(Data(str(root))))


def test_large_files_are_not_read_by_a_dry_run(root, monkeypatch):
    monkeypatch.setattr(needs, "QUICK", 100)
    monkeypatch.setattr(needs, "report", None)
    assert needs.quick_report(transfers(root)) == [
        "data: `mlssl check --study FILE` says which transfers they lack labels for"
    ]


def test_a_semantic_mask_of_more_categories_is_refused(root):
    changed(root, "val2017", categories(256))
    with pytest.raises(DataError, match=r"instances_val2017\.json: key 'categories' has 256"):
        read_split(root, "val2017").semantic_mask(0)
    changed(root, "val2017", lambda c: c | {"categories": c["categories"][:254]})
    masks = [read_split(root, "val2017").semantic_mask(i) for i in range(6)]
    assert {int(v) for m in masks for v in np.unique(m)} <= {0, 1, 2, 3, IGNORE}


@pytest.mark.parametrize("segmentation_", [..., None, []], ids=["missing", "null", "empty"])
def test_boxes_alone_give_box_ap_and_no_mask_ap(root, backbone_file, segmentation_):
    for split in ("train2017", "val2017"):
        changed(root, split, each(segmentation=segmentation_))
    data = Data(str(root))
    heads = {
        "box_head_channels": 16,
        "mask_head_layers": 1,
        "proposals": 10,
        "rois_per_image": 8,
        "fpn_channels": 8,
    }
    config = Detection(data, size=64, iterations=2, batch_size=2, lr=0.01, **heads)
    rows, notes = detection.evaluate(backbone_file, config, seed=0, device=CPU, progress=False)
    assert [row["metric"] for row in rows] == ["AP_bbox", "AP50_bbox", "AP75_bbox"]
    assert set(notes["metrics_left_out"]) == {"AP_segm", "AP50_segm", "AP75_segm"}
    assert "instances_train2017.json: no object has a mask" in notes["metrics_left_out"]["AP_segm"]
    assert notes["head"].startswith("Faster R-CNN")
    for evaluator, settings in ((dense, Dense(data, size=64)), (segmentation, Segmentation(data, size=64))):
        with pytest.raises(MissingLabels, match="no object has a mask"):
            evaluator.evaluate(backbone_file, settings, seed=0, device=CPU, progress=False)


def test_without_a_mask_head_the_boxes_of_an_image_are_predicted_alone(root, backbone_file):
    config = Detection(Data(str(root)), size=64, fpn_channels=8, box_head_channels=16, mask_head_layers=1)
    model = build_model(load_backbone(backbone_file)[0], config, 3, masks=False)
    assert not model.roi_heads.has_mask()
    names = {name.split(".")[1] for name, _ in model.named_parameters() if name.startswith("roi_heads")}
    assert names == {"box_head", "box_predictor"}
    (prediction,) = model.eval()([torch.rand(3, 64, 64)])
    assert "masks" not in prediction


def test_boxes_that_vanish_in_float32_do_not_end_a_training(root):
    """torchvision refuses a box without area, which a flip or a smaller scale may make of a very narrow one."""
    changed(root, "train2017", more(bbox=[1e-9, 5, 1e-9, 20]))
    split = read_split(root, "train2017")
    kept = trainable(split)
    for t in range(3 * len(kept)):
        boxes = training_example(split, kept, 0, t)[1]["boxes"]
        for scale in (1, 0.1, 12.5):
            assert ((boxes * scale)[:, 2:] > (boxes * scale)[:, :2]).all()


def test_regions_go_on_if_no_box_is_held_out(root, backbone_file):
    """With few images, all that are held out to select on may have no box, or all that are evaluated."""

    def on_one_image(content):
        image = content["images"][3]["id"]
        a = {"image_id": image, "segmentation": [], "iscrowd": 0}
        annotations = [
            {**a, "id": i, "category_id": (3, 7)[i % 2], "bbox": [i, 2 * i, 20, 20]} for i in range(1, 5)
        ]
        return content | {"annotations": annotations}

    changed(root, "train2017", on_one_image)
    config = Regions(Data(str(root)), size=32)
    for seed in range(6):
        rows, notes = regions.evaluate(backbone_file, config, seed=seed, device=CPU, progress=False)
        assert rows
        assert notes["maps"]["regions"]["selection_mAcc"] == {}
        assert notes["maps"]["regions"]["neighbours"] == 10
    changed(root, "val2017", on_one_image)
    first = sorted(read_split(root, "val2017").images, key=lambda i: i["id"])[0]
    assert not read_split(root, "val2017").annotations[first["id"]]
    with pytest.raises(MissingLabels, match="the 1 images that are used have no box"):
        regions.evaluate(backbone_file, replace(config, eval_images=1), seed=0, device=CPU, progress=False)


def mlssl(*arguments, cwd):
    command = [sys.executable, "-m", "mlssl", *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )


def wrong_size(root):
    Image.new("RGB", (30, 20)).save(root / "val2017" / "0000.png")


def cut_off(root):
    path = root / "val2017" / "0000.png"
    path.write_bytes(path.read_bytes()[:-400])


def no_image(root):
    (root / "train2017" / "0000.png").write_text("not an image")


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (wrong_size, "val2017/0000.png: is 30 x 20, but its annotation says width 64, height 64"),
        (cut_off, "val2017/0000.png: is "),
        (no_image, "train2017/0000.png: is not an image"),
    ],
)
def test_check_refuses_images_that_no_transfer_could_read(root, tmp_path, harm, words):
    harm(root)
    study = write(tmp_path / "study.yaml", small(data={"root": str(root)}, transfers={"linear": {}}))
    done = mlssl("check", "--study", study, "--out", tmp_path / "check.txt", cwd=tmp_path)
    assert done.returncode == 1
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "check.txt").exists()


def test_a_dry_run_says_what_the_data_lack(root, tmp_path):
    changed(root, "val2017", each(segmentation=[]))
    given = {"linear": {}, "dense": {}, "detection": {"size": 64, "iterations": 2}}
    study = write(tmp_path / "study.yaml", small(data={"root": str(root)}, transfers=given))
    output = snakemake(tmp_path, study, "-n")
    path = root / "annotations" / "instances_val2017.json"
    assert f"dense: left out: {path}: no object has a mask" in output
    assert "detection: scores of masks are left out: " in output
    assert "linear: left out" not in output
    changed(root, "val2017", each(segmentation="b'abc'"))
    assert f"{path}: annotation 1: key 'segmentation' is" in snakemake(tmp_path, study, "-n")


def test_masks_reach_from_the_polygon_to_the_pixels():
    """`MASKS` describe the same object, so the table of boxes above compares like with like."""
    for name in ("a polygon", "runs", "compressed runs"):
        assert np.array_equal(decode(MASKS[name], HEIGHT, WIDTH), BLOCK)
