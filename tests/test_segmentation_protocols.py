"""Published segmentation protocols: networks, augmentation and sliding test against slow loops, and toy runs."""

import colorsys
import dataclasses
import itertools
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.tiny_coco import write_backbone, write_coco
from torch import nn
from torch.nn import functional as F

from mlssl.cost import rates
from mlssl.data.coco import read_split
from mlssl.data.semantic import IGNORE
from mlssl.errors import ConfigError
from mlssl.parts.backbone import create_backbone
from mlssl.study.extends import read_extended
from mlssl.study.load import load
from mlssl.study.settings import Data, Segmentation
from mlssl.study.validation import build, plain
from mlssl.tables.paper import PROTOCOLS as PAPER
from mlssl.tables.paper import protocol_of
from mlssl.transfer import segmentation
from mlssl.transfer.segmentation import augment, model, predict
from mlssl.transfer.segmentation.train import cross_entropy, loss_terms, poly_lr

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# --- Networks


def test_pyramid_pooling_is_that_of_its_definition():
    """Means over the parts of a grid, 1x1 convolution, bilinear upsampling, beside the map itself."""
    torch.manual_seed(0)
    head = model.PyramidPooling(4, 3, 2, align_corners=False).eval()
    x, seen = torch.randn(2, 4, 7, 9), []
    head.joint.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        logits = head(x)
        parts = [x]
        for side, pooled in zip((1, 2, 3, 6), head.pooled, strict=True):
            means = torch.zeros(2, 4, side, side)
            for i, j in itertools.product(range(side), range(side)):
                rows = slice(7 * i // side, math.ceil(7 * (i + 1) / side))
                columns = slice(9 * j // side, math.ceil(9 * (j + 1) / side))
                means[:, :, i, j] = x[:, :, rows, columns].mean(dim=(2, 3))
            conv, norm, _ = pooled[1]
            mixed = torch.einsum("oc,bchw->bohw", conv.weight[:, :, 0, 0], means)
            parts.append(F.interpolate(norm(mixed).relu(), size=(7, 9), mode="bilinear"))
    assert logits.shape == (2, 2, 7, 9)
    torch.testing.assert_close(seen[0], torch.cat(parts, dim=1))


def collected_and_distributed(maps, weights, distribute, side):
    """PSANet's two sums, cell by cell: `maps` C x h x w, `weights` side² x h x w of a window round each cell.

    A cell beyond the window has the weight exp(0): mmcv's PSAMask leaves zeros, of which the softmax is taken.
    """
    height, width = maps.shape[1:]
    found, reach, cells = torch.zeros_like(maps), side // 2, list(itertools.product(range(height), range(width)))
    for i, j in cells:
        given = []
        for p, q in cells:
            own, other = ((p, q), (i, j)) if distribute else ((i, j), (p, q))
            down, right = other[0] - own[0] + reach, other[1] - own[1] + reach
            seen = 0 <= down < side and 0 <= right < side
            given.append(float(weights[side * down + right, *own]) if seen else 0.0)
        shares = torch.tensor(given).softmax(dim=0)
        found[:, i, j] = sum(share * maps[:, p, q] for share, (p, q) in zip(shares, cells, strict=True))
    return found


@pytest.mark.parametrize("size", [(5, 7), (6, 9)], ids=["odd sides, corners aligned", "an even side"])
def test_pointwise_attention_is_that_of_its_definition(size, monkeypatch):
    monkeypatch.setattr(model, "WINDOW", 5)  # the halved maps of 3 x 4 cells are wider than its reach of 2
    torch.manual_seed(0)
    head = model.PointwiseAttention(4, 3, 2).eval()
    for last in head.weights:
        last.weight.data *= 20  # attention that is not even
    x, seen = torch.randn(2, 4, *size), []
    head.joint.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        logits = head(x)
        odd = size == (5, 7)
        parts = []
        for i, distribute in enumerate((False, True)):
            small = F.interpolate(head.reduced[i](x), size=(3, 4), mode="bilinear", align_corners=odd)
            pairs = zip(small, head.weights[i](head.mixed[i](small)), strict=True)
            parts.append(torch.stack([collected_and_distributed(m, w, distribute, 5) for m, w in pairs]))
        conv, norm, _ = head.together
        padded = F.pad(torch.cat(parts, dim=1), (1, 1, 1, 1))
        mixed = norm(torch.einsum("oc,bchw->bohw", conv.weight[:, :, 0, 0], padded)).relu()
        context = F.interpolate(mixed, size=size, mode="bilinear", align_corners=odd)
    assert logits.shape == (2, 2, *size)
    torch.testing.assert_close(seen[0], torch.cat([x, context], dim=1))


def test_the_window_reaches_all_of_the_training_crops():
    """Crops of 769 have maps of 97 x 97, halved 49 x 49; the corner cells are 48 apart."""
    values = torch.arange(model.WINDOW**2.0).view(1, -1, 1, 1).expand(-1, -1, 49, 49)
    with torch.no_grad():
        found = model.window_weights(values)[0]
    assert model.WINDOW == 97
    assert found.shape == (49 * 49,) * 2
    centre = 97 * 48 + 48
    assert set(found.diagonal().tolist()) == {centre}
    assert found[0, 1] == centre - 1  # the cell on the left of the second one
    assert (found[-1, 0], found[0, -1]) == (97 * 96 + 96, 0)  # from corner to corner: the window's corners


def test_the_fcn_of_two_convolutions_is_concatenated_with_its_input():
    head = model.ConcatenatedFCN(4, 3, 2).eval()
    x = torch.randn(1, 4, 5, 6)
    with torch.no_grad():
        first, second = head.convolutions
        together = torch.cat([x, second(first(x))], dim=1)
        torch.testing.assert_close(head(x), head.classifier[1](head.joint(together)))
    sizes = [tuple(m.weight.shape) for m in head.modules() if isinstance(m, nn.Conv2d)]
    assert sizes == [(3, 4, 3, 3), (3, 3, 3, 3), (3, 7, 3, 3), (2, 3, 1, 1)]


def test_the_backbone_is_dilated_as_mmsegmentations():
    """Rates 2 and 4 in stages 3 and 4, half of it in the first block (contract_dilation)."""
    layers = dict(create_backbone("resnet50", output_stride=8).named_modules())
    rates = {s: [layers[f"layer{s}.{i}.conv2"].dilation[0] for i in range(n)] for s, n in ((2, 4), (3, 6), (4, 3))}
    assert rates == {2: [1] * 4, 3: [1, 2, 2, 2, 2, 2], 4: [2, 4, 4]}
    assert layers["conv1"].kernel_size == (7, 7)


def test_the_auxiliary_head_reads_the_third_stage_and_only_in_training():
    config = Segmentation(Data("-"), head="fcn_d8", head_channels=8, output_stride=8, auxiliary_weight=0.4)
    net = model.build_model(create_backbone("resnet10t", output_stride=8), config, 5)
    assert net.auxiliary[0].weight.shape == (256, 256, 3, 3)  # resnet10t has 256 channels there
    images = torch.rand(2, 3, 64, 64)
    logits, auxiliary = net.train()(images)
    assert logits.shape == auxiliary.shape == (2, 5, 8, 8)
    assert net.eval()(images).shape == (2, 5, 8, 8)
    batch = torch.zeros(2, 3, 64, 64, dtype=torch.uint8), torch.ones(2, 64, 64, dtype=torch.uint8)
    torch.manual_seed(0)
    terms = loss_terms(net.train(), batch, CPU, config)
    torch.manual_seed(0)
    half = loss_terms(net, batch, CPU, dataclasses.replace(config, auxiliary_weight=0.2))
    assert float(terms["auxiliary"]) == pytest.approx(2 * float(half["auxiliary"]), rel=1e-4)


@pytest.mark.parametrize(("mean_over", "pixels"), [("labelled", 6), ("all", 8)])
def test_the_loss_is_a_mean_over_labelled_or_all_pixels(mean_over, pixels):
    logits, target = torch.randn(1, 3, 2, 4), torch.randint(3, (1, 2, 4))
    target[0, 0, :2] = IGNORE
    config = Segmentation(Data("-"), mean_over=mean_over)
    total = sum(
        -float(logits[0, :, i, j].log_softmax(0)[target[0, i, j]])
        for i, j in itertools.product(range(2), range(4))
        if target[0, i, j] != IGNORE
    )
    assert float(cross_entropy(logits, target, config)) == pytest.approx(total / pixels, rel=1e-5)


def test_the_learning_rate_falls_to_its_floor():
    config = Segmentation(Data("-"), iterations=100, lr=0.01, lr_floor=1e-4)
    wanted = [0.01, 0.0099 * 0.5**0.9 + 1e-4, 0.0099 * 0.01**0.9 + 1e-4]
    assert [poly_lr(i, config) for i in (0, 50, 99)] == pytest.approx(wanted)


# --- Augmentation


@pytest.mark.parametrize(
    ("shape", "sides", "wanted"),
    [
        ((375, 500), (2048, 512), (512, 683)),  # the short side decides
        ((100, 500), (2048, 512), (410, 2048)),  # the long one
        ((1024, 2048), (2049, 1025), (1025, 2049)),  # Cityscapes in the protocol with 769
        ((500, 375), (1024, 256), (341, 256)),
    ],
)
def test_an_image_is_resized_within_two_sides(shape, sides, wanted):
    assert augment.resize_within(torch.zeros(3, *shape, dtype=torch.uint8), sides).shape[1:] == wanted


def config_of(**changes) -> Segmentation:
    return Segmentation(Data("-"), **{"size": 48, "scale": (96, 48), **changes})


def test_image_and_mask_stay_together_at_their_aspect_ratio():
    image, mask = torch.full((3, 40, 60), 10, dtype=torch.uint8), torch.zeros(40, 60, dtype=torch.uint8)
    image[:, 10:30, 20:35], mask[10:30, 20:35] = 240, 1
    padded = flipped = 0
    for seed in range(40):
        x, y = augment.augment_within(image, mask, config_of(crop_width=64), generator(seed))
        assert x.shape == (3, 48, 64)
        known = y != IGNORE
        assert ((x[0] > 125) == (y == 1))[known].float().mean() > 0.93
        assert known[0, 0] or y[0, 0] == IGNORE
        heights, widths = known.any(dim=1), known.any(dim=0)
        assert known.all() or (known == heights[:, None] & widths[None]).all()
        padded += not known.all()
        assert bool(known[:, : int(widths.sum())][: int(heights.sum())].all())  # padded below and on the right
        flipped += int((y == 1).float().mean(dim=0).argmax() > 32)
    assert 5 < padded < 35
    assert 0 < flipped < 40


def test_a_crop_has_no_class_that_covers_too_much():
    """Crops of one class alone are refused, if ten more draws find another."""
    image, mask = torch.zeros(3, 96, 192, dtype=torch.uint8), torch.zeros(96, 192, dtype=torch.uint8)
    mask[:, 60:100] = 1
    mask[:10] = IGNORE
    shares = {}
    for largest in (1.0, 0.75):
        found = [
            augment.augment_within(image, mask, config_of(largest_class=largest), generator(s))[1]
            for s in range(60)
        ]
        shares[largest] = sum(augment.is_mixed(m, 0.75) for m in found) / 60
    assert shares[0.75] > 0.9 > 0.75 > shares[1.0]


def test_ignored_pixels_do_not_count_for_the_largest_class():
    mask = torch.tensor([0] * 3 + [1] * 1 + [IGNORE] * 6, dtype=torch.uint8)
    assert not augment.is_mixed(mask, 0.75)  # exactly three quarters
    assert augment.is_mixed(mask, 0.76)
    assert not augment.is_mixed(torch.zeros(4, dtype=torch.uint8), 1.0)
    assert not augment.is_mixed(torch.full((4,), IGNORE, dtype=torch.uint8), 0.75)


@pytest.mark.parametrize("factor", [0.5, 1.5])
def test_saturation_is_that_of_hsv(factor):
    torch.manual_seed(0)
    image = torch.randint(256, (3, 4, 5), dtype=torch.uint8)
    found = augment.saturate(image, factor)
    for i, j in itertools.product(range(4), range(5)):
        h, s, v = colorsys.rgb_to_hsv(*(image[:, i, j] / 255).tolist())
        wanted = 255 * torch.tensor(colorsys.hsv_to_rgb(h, min(1, factor * s), v))
        assert (found[:, i, j] - wanted).abs().max() < 0.51
    grey = torch.full((3, 2, 2), 90, dtype=torch.uint8)
    assert torch.equal(augment.saturate(grey, factor), grey)
    black = torch.zeros(3, 2, 2, dtype=torch.uint8)
    assert torch.equal(augment.saturate(black, factor), black)


def test_colours_are_distorted_within_their_limits():
    grey = torch.full((3, 2, 2), 100, dtype=torch.uint8)
    values = {int(augment.distort(grey, generator(s))[0, 0, 0]) for s in range(300)}
    # Of grey, brightness (68 to 132) and contrast (half to one and a half) show: 34 to 198.
    assert 34 <= min(values) < 50 < 100 < 160 < max(values) <= 198
    assert 100 in values
    same = [augment.distort(grey, generator(3)) for _ in range(2)]
    assert torch.equal(*same)
    red = torch.tensor([200, 50, 50], dtype=torch.uint8)[:, None, None].expand(3, 2, 2)
    hues = [
        colorsys.rgb_to_hsv(*(augment.distort(red, generator(s))[:, 0, 0] / 255).tolist())[0] for s in range(99)
    ]
    turned = [min(h, 1 - h) for h in hues]
    assert 0.08 < max(turned) <= 0.101 + 0.01  # 18 of 180 half degrees, and rounding


# --- The test


def test_sliding_crops_cover_all_and_end_at_the_edge():
    assert predict.places(2049, 769, 513) == [0, 513, 1026, 1280]
    assert predict.places(1025, 769, 513) == [0, 256]
    assert predict.places(769, 769, 513) == [0]
    assert predict.places(500, 769, 513) == [0]


@pytest.mark.parametrize("align_corners", [False, True])
def test_the_sliding_test_is_the_mean_of_its_crops(align_corners):
    net = nn.Conv2d(3, 2, 3, stride=4, padding=1).eval()
    images = torch.randn(1, 3, 30, 41)
    with torch.no_grad():
        found = predict.slide(net, images, (16, 20), 12, align_corners)
        total, count = torch.zeros(1, 2, 30, 41), torch.zeros(30, 41)
        for top, left in itertools.product((0, 12, 14), (0, 12, 21)):
            logits = net(images[:, :, top : top + 16, left : left + 20])
            up = F.interpolate(logits, size=(16, 20), mode="bilinear", align_corners=align_corners)
            total[:, :, top : top + 16, left : left + 20] += up
            count[top : top + 16, left : left + 20] += 1
    assert count.min() == 1
    torch.testing.assert_close(found, total / count)


class Oracle(nn.Module):
    """Knows the class of each pixel by its red value: class = red / 80; answers at a quarter of the size."""

    def forward(self, images):
        red = 255 * (images[:, :1] * 0.229 + 0.485)
        small = F.interpolate(red, scale_factor=0.25, mode="bilinear", antialias=True)
        return -(small - 80 * torch.arange(4.0).view(1, 4, 1, 1)).abs()


@pytest.mark.parametrize("test", ["whole", "slide"])
def test_scores_are_taken_at_the_size_of_each_image(test, tmp_path):
    """A network that tells classes by colour is right but for borders, whatever the size of its input."""
    root = write_semantic(tmp_path / "data", ("background", "red", "green", "blue"))
    split = read_split(root, "val2017")
    for i, image in enumerate(split.images):
        shown = 80 * np.minimum(split.semantic_mask(i), 3)
        Image.fromarray(np.repeat(shown[..., None], 3, axis=2)).save(split.folder / image["file_name"])
    config = config_of(size=64, scale=(160, 160), test=test, slide_stride=40, batch_size=2)
    counts = predict.confusion(Oracle(), split, 3, config, device=CPU, progress=False)
    labelled = sum(int((split.semantic_mask(i) != IGNORE).sum()) for i in range(3))
    assert counts.sum() == labelled
    assert 0.93 < counts.diagonal().sum() / labelled < 1


# --- The protocols

TOY = {"size": 64, "crop_width": None, "scale": [96, 64], "iterations": 2, "batch_size": 2, "head_channels": 16}
TOY |= {"eval_images": 2}
PROTOCOLS = ("fcn_voc", "fcn_cityscapes", "pspnet_cityscapes", "psanet_cityscapes")


def settings_of(name: str) -> dict:
    return read_extended(ROOT / "config" / "protocols" / f"{name}.yaml")["transfers"]["segmentation"]


def write_semantic(root: Path, names: tuple[str, ...]) -> Path:
    """The rectangles with masks of one class per pixel, as VOC's and Cityscapes' are prepared."""
    write_coco(root, splits={"train2017": 6, "val2017": 3})
    for split in ("train2017", "val2017"):
        read = read_split(root, split)
        masks = [read.semantic_mask(i) for i in range(len(read))]
        (root / "semantic" / split).mkdir(parents=True)
        for image, mask in zip(read.images, masks, strict=True):
            Image.fromarray(mask).save(root / "semantic" / split / Path(image["file_name"]).with_suffix(".png"))
    (root / "semantic" / "classes.txt").write_text("".join(f"{name}\n" for name in names))
    return root


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_runs_to_its_end(name, tmp_path):
    classes = ("background", "red", "green", "blue") if name == "fcn_voc" else ("road", "car", "sky", "tree")
    root = write_semantic(tmp_path / "data", classes)
    given = settings_of(name) | TOY
    wide = {"crop_width": 80} if settings_of(name)["crop_width"] else {}
    stride = {"slide_stride": 40} if given["test"] == "slide" else {}
    config = build(Segmentation, {**given, **wide, **stride, "data": {"root": str(root)}}, name)
    file = write_backbone(tmp_path / "backbone.pt")
    rows, notes = segmentation.evaluate(file, config, seed=0, device=CPU, progress=False)
    assert [row["metric"] for row in rows] == ["mIoU", "mAcc", "aAcc"]
    assert all(0 <= row["value"] <= 100 and row["n"] == 2 for row in rows)
    assert "auxiliary head x 0.4" in notes["head"]
    network = {"pspnet_cityscapes": "PSPNet", "psanet_cityscapes": "PSANet"}.get(name, "FCN of two convolutions")
    assert notes["head"].startswith(network)
    assert notes["classes"] == 4


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_names_every_setting(name):
    assert set(settings_of(name)) == {f.name for f in dataclasses.fields(Segmentation)} - {"data"}
    config = build(Segmentation, {**settings_of(name), "data": {"root": "-"}}, name)
    assert config.auxiliary_weight == 0.4
    assert (config.lr, config.lr_floor, config.weight_decay) == (0.01, 1e-4, 5e-4)
    assert (config.output_stride, config.head_channels, config.largest_class) == (8, 512, 0.75)
    schedule = {
        "fcn_voc": (20000, 16, (512, 512), (2048, 512)),
        "fcn_cityscapes": (40000, 8, (769, 769), (2049, 1025)),
    }
    own = config.iterations, config.batch_size, augment.crop_of(config), config.scale
    assert own == schedule.get(name, (40000, 8, (512, 1024), (2048, 1024)))
    assert (config.test, config.align_corners) == (("slide", True) if config.size == 769 else ("whole", False))


def test_what_needs_the_aspect_ratio_is_refused_without_a_scale():
    for key, value in {"crop_width": 96, "largest_class": 0.75, "photometric": True, "test": "whole"}.items():
        with pytest.raises(ConfigError, match=f"{key}.* needs images that keep their aspect ratio; give scale"):
            build(Segmentation, {"data": {"root": "-"}, key: value}, "x.yaml: transfers.segmentation")


TABLES = {
    "table1": "mask_rcnn_r50_fpn",
    "table2": "mask_rcnn_r50_c4",
    "table3": "pspnet_r50",
    "table3_psanet": "psanet_r50",
    "table4": "faster_rcnn_r50_c4",
    "table5": "resnet50_finetune",
    "table5_cub200": "resnet50_finetune",
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_the_paper_are_studies(name, tmp_path, monkeypatch):
    """Each fills the rows of its own table, and of no other, and its cost on a GPU is known."""
    monkeypatch.chdir(tmp_path)
    study = load(ROOT / "config" / "paper" / f"{name}.yaml")
    filled = [architecture for benchmark, architecture in PAPER if protocol_of(study, benchmark, architecture)]
    assert filled == [TABLES[name]]
    for line in study.absent():
        assert line.endswith("by hand (docs/data.md)" if "cityscapes" in line else "set download to true")
    published = json.loads(rates.PUBLISHED.read_text())["seconds"]
    keys = [rates.key(stage, "resnet50", plain(config)) for stage, config in study.transfers.items()]
    assert len(keys) == 1
    assert keys[0] in published


def test_the_document_shows_every_protocol_and_its_measured_time():
    text = (ROOT / "docs" / "protocols.md").read_text()
    shown = re.findall(r"^\| `(\w+)` \| .* \| ([\d.]+) \|$", text, re.MULTILINE)
    lines = (ROOT / "results" / "reference" / "protocols" / "protocols.tsv").read_text().splitlines()[1:]
    assert dict(shown) == {name: seconds for name, seconds, *_ in (line.split("\t") for line in lines)}
    files = {path.stem for path in (ROOT / "config" / "protocols").glob("*.yaml")}
    assert {name for name, _ in shown} == files


def test_the_parity_table_names_tests_that_exist():
    named = set()
    for name in ("protocols", "classification_protocols"):
        named |= set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / f"{name}.md").read_text()))
    written = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    assert len(named) > 25
    assert not [name for name in named if f"def {name}(" not in written]
