"""Rows of a study whose weights are from a file: input and stride, vision transformers, and what is refused."""

import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import timm
import torch
from support.study import loaded
from support.tiny_coco import write_coco
from torch.nn import functional as F

from mlssl import tensors
from mlssl.analysis.outputs import pretrained_and_untrained
from mlssl.cli.stages import check_weights
from mlssl.errors import ConfigError
from mlssl.parts import backbone as parts
from mlssl.parts.backbone import create_backbone, image_features, stage_maps
from mlssl.pretrain.build import build_method
from mlssl.study import backbones
from mlssl.study.identity import about_run
from mlssl.study.settings import Data, Dense, Knn, Linear, Preprocessing, Pretrain, Regions
from mlssl.study.validation import plain
from mlssl.transfer import dense, knn, linear, regions
from mlssl.transfer.load import load_backbone, normalise

CPU = torch.device("cpu")
MSRA = Preprocessing(
    mean=(103.53, 116.28, 123.675), std=(1.0, 1.0, 1.0), channels="BGR", pixel_range=255, stride_in_1x1=True
)
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def published(name="resnet10t", seed=5):
    """A model as its authors have it, with statistics of its norm layers that are not the initial ones."""
    torch.manual_seed(seed)
    model = timm.create_model(name, num_classes=0, global_pool="")
    for key, value in model.state_dict().items():
        if key.endswith(("running_mean", "bn1.bias")):
            value.normal_(0, 0.1)
    return model.eval()


def by_hand(pixels, how):
    """What the authors of weights feed to their network, float B x 3 x H x W, of uint8 RGB; channel by channel."""
    order = {"RGB": (0, 1, 2), "BGR": (2, 1, 0)}[how.channels]
    own = {key: [how.pixel_range * values[c] for c in order] for key, values in IMAGENET.items()}
    mean, std = how.mean or own["mean"], how.std or own["std"]
    channels = [
        (pixels[:, c].float() / 255 * how.pixel_range - m) / s for c, m, s in zip(order, mean, std, strict=True)
    ]
    return torch.stack(channels, dim=1)


@pytest.mark.parametrize(
    "how",
    [
        Preprocessing(channels="BGR"),
        Preprocessing(mean=(0.5, 0.4, 0.3), std=(0.5, 0.6, 0.7)),
        Preprocessing(pixel_range=255, channels="BGR", mean=MSRA.mean, std=MSRA.std),
        Preprocessing(pixel_range=255),
    ],
    ids=["BGR", "mean and std", "MSRA", "range"],
)
@pytest.mark.parametrize("name", ["resnet10t", "efficientnet_lite0"])
def test_a_backbone_sees_the_input_that_its_weights_were_trained_with(how, name):
    theirs, ours = published(name), create_backbone(name, preprocessing=plain(how)).eval()
    ours.load_state_dict(theirs.state_dict())
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = theirs(by_hand(pixels, how))
        # In the map's corners too, where the convolution's zero padding is that of the authors' input.
        torch.testing.assert_close(ours(normalise(pixels)), wanted, rtol=1e-3, atol=1e-3)
        assert torch.allclose(theirs(normalise(pixels)), wanted, rtol=1e-2) == (
            how == Preprocessing(pixel_range=255)
        )
        if name == "resnet10t":
            torch.testing.assert_close(stage_maps(ours, normalise(pixels))[-1], wanted, rtol=1e-3, atol=1e-3)


def test_this_suites_own_input_is_left_as_it_is():
    assert not create_backbone("resnet10t", preprocessing=plain(Preprocessing())).conv1._forward_pre_hooks


def test_the_stride_moves_to_the_first_convolution_of_a_bottleneck():
    """Against the same block written by hand."""
    name = "resnet26"
    ours = create_backbone(name, preprocessing=plain(Preprocessing(stride_in_1x1=True))).eval()
    x = torch.rand(1, 256, 8, 8)
    block = ours.layer2[0]

    def conv_bn(layer, norm, x, stride, padding=0):
        return norm(F.conv2d(x, layer.weight, stride=stride, padding=padding))

    with torch.no_grad():
        wanted = conv_bn(block.conv1, block.bn1, x, 2).relu()
        wanted = conv_bn(block.conv2, block.bn2, wanted, 1, padding=1).relu()
        wanted = conv_bn(block.conv3, block.bn3, wanted, 1) + block.downsample(x)
        torch.testing.assert_close(block(x), wanted.relu())
        usual = create_backbone(name).eval()
        usual.load_state_dict(ours.state_dict())
        assert not torch.allclose(usual.layer2[0](x), wanted.relu())


def test_a_stride_of_other_blocks_is_refused():
    with pytest.raises(ConfigError, match="'resnet10t' is no ResNet with bottlenecks; leave it out"):
        create_backbone("resnet10t", preprocessing=plain(Preprocessing(stride_in_1x1=True)))


def exported(path, config):
    _, backbone = build_method(config, CPU)
    tensors.save(path, {"backbone": backbone.state_dict(), "meta": about_run(config, "run")})


def test_the_preprocessing_travels_with_the_weights():
    torch.save(published("resnet26").state_dict(), "w.pth")
    config = Pretrain(
        Data("d", images_id="i"), "theirs", backbone="resnet26", init="w.pth", init_preprocessing=MSRA
    )
    exported(Path("backbone.pt"), config)
    ours, _ = load_backbone(Path("backbone.pt"))
    assert ours.layer2[0].conv1.stride == (2, 2)
    assert ours.conv1._forward_pre_hooks
    # As the start of another run, the file says how its weights were trained.
    again = Pretrain(Data("d"), "again", backbone="resnet26", init="backbone.pt")
    with pytest.raises(ConfigError, match=r"init: backbone\.pt: was written for preprocessing .*BGR.* but the run"):
        build_method(again, CPU)


BASE = {
    "methods": {"random": {}, "theirs": {"weights": "w.pth", "prefix": "encoder_q."}},
    "compare": ["random", "theirs"],
    "ablations": {},
    "common": {},
    "pretrain.backbone": "resnet10t",
    "transfers": {"linear": {"size": 64}},
}


def moco(name="resnet10t"):
    pair = {"encoder_q.": 1, "encoder_k.": 2}
    return {p + k: v for p, seed in pair.items() for k, v in published(name, seed).state_dict().items()}


def test_weights_are_a_row_of_the_comparison(capsys):
    torch.save(moco(), "w.pth")
    study = loaded(BASE)
    assert pretrained_and_untrained(study) == (["theirs"], "random")
    check_weights(study)
    assert "methods.theirs.weights: w.pth: encoder_q. (" in capsys.readouterr().err
    methods = BASE["methods"] | {"mls": {"target": "mlssl.method.mls.MLS", "params": {"k": 1}}}
    assert pretrained_and_untrained(loaded(BASE | {"methods": methods, "compare": [*methods]})) == (
        ["theirs", "mls"],
        "random",
    )


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"prefix": "encoder_q."}, "prefix and preprocessing are those of weights; give weights too"),
        ({"preprocessing": {"channels": "BGR"}}, "are those of weights; give weights too"),
        ({"weights": "w.pth", "target": "baselines.moco_v2.MoCoV2"}, "weights are evaluated without training"),
        ({"weights": "w.pth", "pretrain": {"init": "v.pth"}}, "both name a file; give one"),
        ({"weights": "w.pth", "preprocessing": {"channels": "GBR"}}, "'GBR' is not allowed; give 'RGB' or 'BGR'"),
        ({"weights": "w.pth", "preprocessing": {"std": [1, 0, 1]}}, "give more than 0"),
    ],
)
def test_a_row_of_weights_that_contradicts_itself_is_refused(given, said):
    with pytest.raises(ConfigError, match=rf"study\.yaml: methods\.theirs.*{said}"):
        loaded(BASE | {"methods": {"random": {}, "theirs": given}})


def test_weights_may_be_a_file_of_an_installed_package(monkeypatch):
    Path("published_weights").mkdir()
    Path("published_weights/__init__.py").write_text("raise RuntimeError('it is not imported')")
    torch.save(moco(), "published_weights/w.pth")
    monkeypatch.syspath_prepend(Path.cwd())
    row = BASE["methods"]["theirs"]
    named, by_path = (
        loaded(BASE | {"methods": {"random": {}, "theirs": row | {"weights": weights}}})
        for weights in ("package:published_weights/w.pth", "published_weights/w.pth")
    )
    assert set(named.runs) == set(by_path.runs)
    check_weights(named)
    for name in ("missing_weights", "not a name"):
        with pytest.raises(
            ConfigError, match=rf"methods\.theirs\.weights: .*install the Python package '{name}', or"
        ):
            loaded(BASE | {"methods": {"random": {}, "theirs": {"weights": f"package:{name}/w.pth"}}})


def test_a_file_that_is_gone_is_named_with_its_setting():
    assert loaded(BASE).absent() == ["study.yaml: methods.theirs.weights: w.pth: no such file; check the path"]


REFUSED = {
    "another architecture": (lambda: moco("resnet26"), "set backbone to the model that these weights are of"),
    "a partial file": (lambda: {k: v for k, v in moco().items() if "layer4" not in k}, "layer4.0.conv1.weight"),
    "another prefix": (lambda: {f"x.{k}": v for k, v in moco().items()}, "has no network under 'encoder_q.'"),
    "weights that are not finite": (lambda: {k: v * float("nan") for k, v in moco().items()}, "is not finite"),
}


@pytest.mark.parametrize(("content", "said"), REFUSED.values(), ids=REFUSED)
def test_a_file_that_does_not_fit_is_refused_before_anything_is_done(content, said):
    torch.save(content(), "w.pth")
    with pytest.raises(ConfigError, match=said):
        check_weights(loaded(BASE))


@pytest.mark.slow
def test_a_dry_run_refuses_a_file_that_does_not_fit():
    torch.save(REFUSED["a partial file"][0](), "w.pth")
    loaded(BASE)
    root = Path(__file__).parents[1]
    words = ["snakemake", "-n", "-s", root / "Snakefile", "--config", "study=study.yaml"]
    found = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True)
    assert found.returncode
    assert "methods.theirs.weights: w.pth: has 55 of the backbone's 7" in found.stdout + found.stderr


def test_the_document_shows_what_imagenet_weights_measured():
    root = Path(__file__).parents[1]
    text = (root / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (m\w+) \| ([\d.]+) \| ([\d.]+) \|$", text, re.MULTILINE)
    found = pd.read_csv(root / "results" / "reference" / "imagenet_weights" / "metrics.tsv", sep="\t")
    assert len(rows) == 6
    for protocol, metric, *values in rows:
        own = found[(found["protocol"] == protocol) & (found["metric"] == metric)].set_index("method")["value"]
        assert values == [f"{own[method]:.2f}" for method in ("random", "imagenet")]


# --- Vision transformers


def test_a_dry_run_knows_the_transformers_that_a_backbone_is():
    assert backbones.TRANSFORMERS == parts.TRANSFORMERS
    names = ["vit_small_patch14_dinov2", "deit_tiny_distilled_patch16_224", "vit_base_patch16_224.dino"]
    assert [backbones.is_transformer(name) for name in names] == [True] * 3
    assert not any(map(backbones.is_transformer, ["resnet50", "colour_histogram", "convnext_tiny"]))
    assert [backbones.patch(name) for name in (*names, "resnet50")] == [14, 16, 16, 1]


def test_a_transformers_features_are_its_class_token_and_its_patches():
    ours, theirs = create_backbone("test_vit").eval(), published("test_vit")
    ours.load_state_dict(theirs.state_dict())
    x = torch.rand(2, 3, 160, 160)
    with torch.no_grad():
        tokens = theirs.forward_features(x)
        torch.testing.assert_close(image_features(ours, x), tokens[:, 0])
        maps = stage_maps(ours, x)
    assert [tuple(m.shape) for m in maps] == [(2, 64, 10, 10)] * 4
    # Row by row from the top left, as the patches are cut.
    torch.testing.assert_close(maps[-1].flatten(2).transpose(1, 2), tokens[:, 1:])


def test_frozen_evaluators_read_a_transformer():
    root = write_coco(Path("coco"), size=64)
    torch.save({"model": {f"backbone.{k}": v for k, v in published("test_vit").state_dict().items()}}, "w.pth")
    data = Data(str(root))
    config = Pretrain(Data("d", images_id="i", data_id="d"), "theirs", backbone="test_vit", init="w.pth")
    exported(Path("backbone.pt"), config)
    how = {"seed": 0, "device": CPU, "progress": False}
    runs = [
        linear.evaluate(Path("backbone.pt"), Linear(data, size=64, fractions=(1.0,)), **how),
        knn.evaluate(Path("backbone.pt"), Knn(data, size=64), **how),
        dense.evaluate(Path("backbone.pt"), Dense(data, size=64), **how),
        regions.evaluate(Path("backbone.pt"), Regions(data, size=64), **how),
    ]
    assert all(rows and all(r["value"] is not None for r in rows) for rows, _ in runs)


def test_a_transformer_is_not_trained_and_its_patches_fill_the_image():
    vit = "vit_small_patch14_dinov2"
    row = {"weights": "w.pth", "pretrain": {"backbone": vit}}
    places = {"methods": {"random": {}, "theirs": row}, "transfers": {"linear": {"size": 224}, "detection": {}}}
    study = loaded(BASE | places)
    assert len(study.transfer_runs["linear"]) == 4
    assert len(study.transfer_runs["detection"]) == 2
    with pytest.raises(ConfigError, match=r"linear\.size: 64 is no multiple of 14, the patch of vit_small"):
        loaded(BASE | places | {"transfers": {"linear": {"size": 64}}})
    trained = {"target": "baselines.moco_v2.MoCoV2", "pretrain": {"backbone": vit}}
    with pytest.raises(ConfigError, match=r"'vit_small_patch14_dinov2' is a vision transformer.*give one such as"):
        loaded(BASE | places | {"methods": {"random": {}, "theirs": trained}})
