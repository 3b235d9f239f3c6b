"""Backbones for other frameworks, proven by loading them there; features of a folder of images."""

import importlib.util
import json
import pickle
import sys

import numpy as np
import pytest
import safetensors
import safetensors.torch
import timm
import torch
import torchvision
import yaml
from PIL import Image
from support.tiny_coco import write_coco

from mlssl import tensors
from mlssl.checkpoints.load import load
from mlssl.cli import checkpoints, main
from mlssl.errors import ConfigError, DataError
from mlssl.export.embed import embed
from mlssl.export.facts import sha256
from mlssl.export.write import FORMATS, export
from mlssl.parts.backbone import create_backbone, image_features
from mlssl.study.identity import about_run
from mlssl.study.settings import Data, Preprocessing, Pretrain, Views
from mlssl.transfer.features import extract
from mlssl.transfer.load import load_backbone, read_splits

CPU = torch.device("cpu")
X = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def written(path, name="resnet18", **changes):
    """A backbone.pt with norm statistics that are not the initial ones, and its features of X."""
    torch.manual_seed(0)
    config = Pretrain(
        Data("photos", images_id="i", data_id="d"),
        "mls",
        target="mlssl.method.mls.MLS",
        params={"k": 5},
        backbone=name,
        views=Views(crop=64),
        **changes,
    )
    backbone = create_backbone(name)
    for key, value in backbone.state_dict().items():
        if key.endswith("running_mean"):
            value.normal_(0, 0.1)
    tensors.save(path, {"backbone": backbone.state_dict(), "meta": about_run(config, "mls-1-s0")})
    with torch.no_grad():
        return image_features(backbone.eval(), X)


@pytest.fixture
def backbone(tmp_path):
    return tmp_path / "backbone.pt", written(tmp_path / "backbone.pt")


def test_the_command_has_every_format():
    assert tuple(FORMATS) == checkpoints.TARGETS


@pytest.mark.parametrize("name", ["resnet18", pytest.param("resnet50", marks=pytest.mark.long)])
def test_torchvision_loads_every_tensor_and_gives_the_same_features(name, tmp_path):
    features = written(tmp_path / "b.pt", name)
    file, *_ = export(tmp_path / "b.pt", "torchvision", tmp_path / "out")
    model = getattr(torchvision.models, name)().eval()
    missing = model.load_state_dict(torch.load(file, weights_only=True), strict=False)
    assert (missing.missing_keys, missing.unexpected_keys) == (["fc.weight", "fc.bias"], [])
    model.fc = torch.nn.Identity()
    model.load_state_dict(torch.load(file, weights_only=True), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(model(X), features, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "resnet10t", "efficientnet_lite0", "test_vit"])
def test_timm_loads_it_strictly_and_gives_the_same_features(name, tmp_path):
    features = written(tmp_path / "b.pt", name)
    file, config, *_ = export(tmp_path / "b.pt", "timm", tmp_path / "out")
    size = {"dynamic_img_size": True} if name == "test_vit" else {}
    from_folder = timm.create_model(f"local-dir:{file.parent}", pretrained=True, **size).eval()
    from_file = timm.create_model(name, num_classes=0, checkpoint_path=str(file), **size).eval()
    with torch.no_grad():
        for model in (from_folder, from_file):
            torch.testing.assert_close(model(X), features, rtol=1e-5, atol=1e-5)
    assert from_folder.pretrained_cfg["mean"] == pytest.approx((0.485, 0.456, 0.406))
    assert json.loads(config.read_text())["num_classes"] == 0


def test_safetensors_has_the_facts_in_its_header(backbone, tmp_path):
    file, *_ = export(backbone[0], "safetensors", tmp_path / "out")
    with safetensors.safe_open(file, "pt") as opened:
        assert json.loads(opened.metadata()["mlssl"])["method"] == "mls"
    again = create_backbone("resnet18")
    load(again, file)
    with torch.no_grad():
        torch.testing.assert_close(image_features(again.eval(), X), backbone[1])


def detectron2_names(model, file_names):
    """detectron2's heuristic: the longest suffix, at a dot, of a model's name that the file has."""
    matched = {}
    for name in model:
        fitting = [other for other in file_names if name == other or name.endswith("." + other)]
        if fitting:
            matched[name] = max(fitting, key=len)
    return matched


def resnet50_of_detectron2():
    """Names and shapes of detectron2's R-50 FPN backbone, written from its ResNet: 53 convolutions with norm."""
    blocks = (3, 4, 6, 3)
    found = {"stem.conv1": (64, 3, 7, 7)}
    inside = 64
    for stage, (count, wide) in enumerate(zip(blocks, (256, 512, 1024, 2048), strict=True), start=2):
        narrow = wide // 4
        for b in range(count):
            place = f"res{stage}.{b}."
            if inside != wide:
                found[f"{place}shortcut"] = (wide, inside, 1, 1)
            found[f"{place}conv1"] = (narrow, inside, 1, 1)
            found[f"{place}conv2"] = (narrow, narrow, 3, 3)
            found[f"{place}conv3"] = (wide, narrow, 1, 1)
            inside = wide
    model = {}
    for conv, shape in found.items():
        model[f"backbone.bottom_up.{conv}.weight"] = shape
        for norm in ("weight", "bias", "running_mean", "running_var"):
            model[f"backbone.bottom_up.{conv}.norm.{norm}"] = shape[:1]
    return model


def test_detectron2_matches_every_tensor_by_its_own_rules(tmp_path):
    written(tmp_path / "b.pt", "resnet50")
    file, config, *_ = export(tmp_path / "b.pt", "detectron2", tmp_path / "out")
    content = pickle.loads(file.read_bytes())
    assert content["matching_heuristics"] is True
    assert content["__author__"]
    model = resnet50_of_detectron2()
    matched = detectron2_names(model, content["model"])
    assert len(model) == 265
    assert matched.keys() == model.keys()
    assert set(matched.values()) == content["model"].keys()
    assert all(content["model"][matched[name]].shape == shape for name, shape in model.items())
    settings = yaml.safe_load(config.read_text())
    assert settings["INPUT"]["FORMAT"] == "RGB"
    assert settings["MODEL"]["PIXEL_MEAN"] == pytest.approx([123.675, 116.28, 103.53])
    assert settings["MODEL"]["PIXEL_STD"] == pytest.approx([58.395, 57.12, 57.375])
    assert settings["MODEL"]["RESNETS"] == {"DEPTH": 50, "NORM": "SyncBN", "STRIDE_IN_1X1": False}
    # And back: the reader of published files finds the same weights.
    again, ours = create_backbone("resnet50"), load_backbone(tmp_path / "b.pt")[0]
    load(again, file)
    assert all(torch.equal(v, ours.state_dict()[k]) for k, v in again.state_dict().items() if "num_b" not in k)


def test_mmdet_gets_its_names_and_a_configuration(tmp_path):
    written(tmp_path / "b.pt", "resnet18")
    file, config, *_ = export(tmp_path / "b.pt", "mmdet", tmp_path / "out")
    content = torch.load(file, weights_only=True)
    theirs = {f"backbone.{name}" for name in torchvision.models.resnet18().state_dict() if "fc." not in name}
    assert content["state_dict"].keys() == theirs
    scope = {}
    exec(config.read_text(), scope)
    given = scope["model"]
    assert given["backbone"]["style"] == "pytorch"
    assert given["backbone"]["depth"] == 18
    assert given["backbone"]["init_cfg"]["prefix"] == "backbone."
    assert given["data_preprocessor"]["bgr_to_rgb"] is True
    assert given["data_preprocessor"]["mean"] == pytest.approx([123.675, 116.28, 103.53])


MSRA = Preprocessing(
    mean=(103.53, 116.28, 123.675), std=(1.0, 1.0, 1.0), channels="BGR", pixel_range=255, stride_in_1x1=True
)


def test_another_input_and_stride_travel_or_are_refused(tmp_path):
    written(tmp_path / "b.pt", "resnet26", init="r26.pkl", init_preprocessing=MSRA)
    _, config, *_ = export(tmp_path / "b.pt", "detectron2", tmp_path / "d2")
    settings = yaml.safe_load(config.read_text())
    assert settings["INPUT"]["FORMAT"] == "BGR"
    assert settings["MODEL"]["RESNETS"]["STRIDE_IN_1X1"] is True
    assert settings["MODEL"]["PIXEL_MEAN"] == pytest.approx([103.53, 116.28, 123.675])
    assert settings["MODEL"]["PIXEL_STD"] == pytest.approx([1, 1, 1])
    _, config, *_ = export(tmp_path / "b.pt", "mmdet", tmp_path / "mm")
    assert 'style="caffe"' in config.read_text()
    for to in ("timm", "torchvision"):
        with pytest.raises(ConfigError, match="these weights were trained with it in the first 1x1"):
            export(tmp_path / "b.pt", to, tmp_path / to)


@pytest.mark.parametrize("to", ["torchvision", "detectron2", "mmdet"])
def test_an_architecture_that_a_framework_lacks_is_refused(to, tmp_path):
    written(tmp_path / "b.pt", "resnet10t")
    with pytest.raises(ConfigError, match=r"'resnet10t'.*; give --to "):
        export(tmp_path / "b.pt", to, tmp_path / "out")


@pytest.mark.filterwarnings("ignore")
def test_onnxruntime_gives_the_same_features_for_any_number_of_images(backbone, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra `export`")
    pytest.importorskip("onnxscript", reason="needs the extra `export`")
    file, *_ = export(backbone[0], "onnx", tmp_path / "out")
    session = onnxruntime.InferenceSession(str(file))
    for count in (1, 3):
        (found,) = session.run(None, {"images": X[:count].numpy()})
        np.testing.assert_allclose(found, backbone[1][:count], rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(importlib.util.find_spec("onnxscript") is not None, reason="the packages are installed")
def test_onnx_without_its_packages_names_the_extra(backbone, tmp_path):
    with pytest.raises(ConfigError, match=r"pip install 'mlssl\[export\]'"):
        export(backbone[0], "onnx", tmp_path / "out")


def test_the_card_says_what_must_travel(backbone, tmp_path):
    file, *_ = export(backbone[0], "safetensors", tmp_path / "out")
    known = json.loads((tmp_path / "out" / "facts.json").read_text())
    assert known["sha256"] == sha256(file)
    assert known["source_sha256"] == sha256(backbone[0])
    assert known["input"] == {
        "channels": "RGB",
        "pixel_range": 1,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }
    assert (known["stride"], known["method"], known["epochs"], known["data"]["images_id"]) == (
        "3x3",
        "mls",
        400,
        "i",
    )
    assert known["encoder"].startswith("backbone of the query (online) encoder")
    text = (tmp_path / "out" / "README.md").read_text()
    assert all(f"| {key.replace('_', ' ')} | " in text for key in known if key not in ("format", "sha256"))
    with pytest.raises(FileExistsError, match="is not empty; give a new folder"):
        export(backbone[0], "timm", tmp_path / "out")


def test_features_of_a_folder_are_those_of_the_linear_probe(backbone, tmp_path, monkeypatch, capsys):
    root = write_coco(tmp_path / "coco")
    train, _ = read_splits(Data(str(root)))
    (train.folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    words = [
        "mlssl",
        "embed",
        str(backbone[0]),
        str(train.folder),
        "--out",
        str(tmp_path / "f.npz"),
        "--size",
        "64",
    ]
    monkeypatch.setattr(sys, "argv", [*words, "--batch-size", "5", "--device", "cpu"])
    assert main() == 0
    said = capsys.readouterr()
    assert "features of 12 images" in said.out
    assert "left out" in said.err
    assert "broken.png" in said.err
    found = np.load(tmp_path / "f.npz")
    model, _ = load_backbone(backbone[0])
    wanted = extract(model, train, size=64, batch_size=12, device=CPU)
    names = [image["file_name"] for image in train.images]
    by_name = dict(zip(names, wanted.numpy(), strict=True))
    assert sorted(names) == found["name"].tolist()
    np.testing.assert_allclose(found["features"], [by_name[n] for n in found["name"]], rtol=1e-5, atol=1e-6)
    assert json.loads(str(found["about"])) == {"size": 64, "run": "mls-1-s0", "backbone": "resnet18"}


def test_features_of_nothing_are_refused(backbone, tmp_path):
    (tmp_path / "empty").mkdir()
    how = {"size": 64, "batch_size": 2, "device": CPU, "progress": False}
    with pytest.raises(DataError, match=r"empty"):
        embed(backbone[0], tmp_path / "empty", tmp_path / "f.npz", **how)
    with pytest.raises(ConfigError, match=r"give a file that ends in \.npz or \.parquet"):
        embed(backbone[0], tmp_path / "empty", tmp_path / "f.csv", **how)


def test_features_as_parquet(backbone, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    (tmp_path / "i").mkdir()
    Image.new("RGB", (32, 32), (200, 10, 10)).save(tmp_path / "i" / "a.png")
    embed(backbone[0], tmp_path / "i", tmp_path / "f.parquet", size=64, batch_size=2, device=CPU, progress=False)
    table = parquet.read_table(tmp_path / "f.parquet").to_pydict()
    assert table["name"] == ["a.png"]
    assert len(table["features"][0]) == 512
