"""A backbone as the files that other frameworks load, each with a model card and the facts that must travel.

Layouts and settings: timm's and torchvision's loaders, MoCo's conversion to detectron2, and mmdetection's ResNet.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
import torchvision
import yaml
from timm.models import VisionTransformer
from torch import Tensor, nn

from mlssl.checkpoints.names import detectron2
from mlssl.errors import ConfigError
from mlssl.export.facts import card, facts, scores, sha256
from mlssl.files import atomic, write_json, write_text
from mlssl.parts.backbone import image_features
from mlssl.parts.preprocessing import stated
from mlssl.transfer.load import load_backbone


class Source(NamedTuple):
    """What is exported."""

    backbone: nn.Module
    tensors: dict[str, Tensor]
    """By timm's names."""
    facts: Mapping[str, Any]

    @property
    def architecture(self) -> str:
        return self.facts["architecture"].split(".")[0]

    @property
    def mean_std(self) -> tuple[list[float], list[float]]:
        """Per channel, of pixels from 0 to 1."""
        given = self.facts["input"]
        mean, std = ([value / given["pixel_range"] for value in given[key]] for key in ("mean", "std"))
        return mean, std

    @property
    def depth(self) -> int:
        """Layers of a plain ResNet."""
        found = re.fullmatch(r"resnet(\d+)", self.architecture)
        if not found or any(name and detectron2(name) is None for name in self.weights()):
            raise ConfigError(
                f"export: '{self.architecture}' is not a plain ResNet such as resnet50, and this format has names "
                "for those alone; give --to timm, safetensors or onnx"
            )
        return int(found[1])

    def weights(self) -> dict[str, Tensor]:
        """The tensors without batch counters, which only training reads."""
        return {name: value for name, value in self.tensors.items() if not name.endswith("num_batches_tracked")}


def export(path: Path, to: str, out: Path) -> list[Path]:
    """Write the backbone of a `backbone.pt` for the framework `to` (a key of FORMATS) into the new folder `out`.

    Returns the files: the weights first; README.md is the model card, facts.json the facts. Raises ConfigError if
    the format cannot hold this backbone, FileExistsError if `out` has files already.
    """
    backbone, meta = load_backbone(path)
    tensors = {name: value.detach().clone().contiguous() for name, value in backbone.state_dict().items()}
    if not tensors:
        raise ConfigError(f"{path}: the backbone has no weights to export")
    source = Source(backbone.eval(), tensors, facts(path, meta))
    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out}: is not empty; give a new folder")
    out.mkdir(parents=True, exist_ok=True)
    file, how, more = FORMATS[to](source, out)
    known = {**source.facts, "format": to, "sha256": sha256(out / file)}
    if to == "onnx":  # its graph converts this suite's input
        known |= {"input": stated(None)}
    write_json(out / "facts.json", known)
    write_text(out / "README.md", card(known, file, how, scores(path.parent)))
    return [out / name for name in (file, *more, "facts.json", "README.md")]


def to_torchvision(source: Source, out: Path) -> tuple[str, str, list[str]]:
    builder = getattr(torchvision.models, source.architecture, None)
    refuse_stride(source, "torchvision's ResNet")
    if builder is None or re.fullmatch(r"resnet\d+", source.architecture) is None:
        raise ConfigError(f"export: torchvision has no '{source.architecture}'; give --to timm or safetensors")
    found = builder(weights=None).load_state_dict(source.tensors, strict=False)
    if sorted(found.missing_keys) != ["fc.bias", "fc.weight"] or found.unexpected_keys:
        raise ConfigError(f"export: '{source.architecture}' of timm has other tensors than torchvision's")
    save_torch(out / "backbone.pth", source.tensors)
    how = (
        f"```python\nimport torch, torchvision\n\nmodel = torchvision.models.{source.architecture}()\n"
        'missing = model.load_state_dict(torch.load("backbone.pth", weights_only=True), strict=False)\n'
        'assert missing.missing_keys == ["fc.weight", "fc.bias"] and not missing.unexpected_keys\n```'
    )
    return "backbone.pth", how, []


def to_timm(source: Source, out: Path) -> tuple[str, str, list[str]]:
    """A folder in the layout of the Hugging Face Hub, which timm reads as `local-dir:`."""
    refuse_stride(source, "timm")
    if source.facts["input"]["channels"] != "RGB":
        raise ConfigError("export: timm's models take RGB, and these weights BGR; give --to safetensors")
    mean, std = source.mean_std
    size = source.facts["crop"] or 224
    given = getattr(source.backbone, "pretrained_cfg", {})
    described = {
        "input_size": [3, size, size],
        "mean": mean,
        "std": std,
        "interpolation": "bilinear",
        "crop_pct": 0.875,
        "num_classes": 0,
        "pool_size": given.get("pool_size"),
        "first_conv": given.get("first_conv"),
        "classifier": given.get("classifier"),
    }
    if isinstance(source.backbone, VisionTransformer):  # its position embedding is of this size
        described |= {"input_size": list(given["input_size"]), "fixed_input_size": True}
    header = {
        "architecture": source.architecture,
        "num_classes": 0,
        "num_features": source.backbone.num_features,
        "pretrained_cfg": described,
    }
    save_safetensors(out / "model.safetensors", source)
    write_json(out / "config.json", header)
    how = (
        '```python\nimport timm\n\nmodel = timm.create_model("local-dir:FOLDER", pretrained=True)  # this folder\n'
        "```\n\nWithout its config: "
        f'`timm.create_model("{source.architecture}", num_classes=0, checkpoint_path="model.safetensors")`.'
    )
    return "model.safetensors", how, ["config.json"]


def to_safetensors(source: Source, out: Path) -> tuple[str, str, list[str]]:
    save_safetensors(out / "model.safetensors", source)
    how = (
        '```python\nimport safetensors.torch\n\nweights = safetensors.torch.load_file("model.safetensors")\n```\n\n'
    )
    return "model.safetensors", f"{how}The names are those of timm's `{source.architecture}`.", []


def to_detectron2(source: Source, out: Path) -> tuple[str, str, list[str]]:
    """A pickle as MoCo's converter writes it, and the settings without which its numbers are not comparable."""
    depth = source.depth
    named = {detectron2(name): value.numpy() for name, value in source.weights().items()}
    content = {"model": named, "__author__": "mlssl", "matching_heuristics": True}
    with atomic(out / "backbone.pkl") as part:
        part.write_bytes(pickle.dumps(content))
    mean, std = in_bytes(source)
    fragment = {
        "MODEL": {
            "WEIGHTS": "backbone.pkl",
            "PIXEL_MEAN": mean,
            "PIXEL_STD": std,
            "BACKBONE": {"FREEZE_AT": 0},
            "RESNETS": {"DEPTH": depth, "NORM": "SyncBN", "STRIDE_IN_1X1": source.facts["stride"] != "3x3"},
            "FPN": {"NORM": "SyncBN"},
        },
        "INPUT": {"FORMAT": source.facts["input"]["channels"]},
        "TEST": {"PRECISE_BN": {"ENABLED": True}},
    }
    write_text(out / "config.yaml", yaml.safe_dump(fragment, sort_keys=False))
    how = (
        "Merge `config.yaml` over a configuration of detectron2 and set `MODEL.WEIGHTS` to the path of the pickle. "
        f"The log must say that all {len(named)} tensors were matched: detectron2 skips what does not fit, and "
        "trains it from scratch. C4 models also want `MODEL.ROI_HEADS.NAME` with an extra norm after res5."
    )
    return "backbone.pkl", how, ["config.yaml"]


def to_mmdet(source: Source, out: Path) -> tuple[str, str, list[str]]:
    """For mmdetection, mmsegmentation and mmpretrain, whose ResNet has torchvision's names."""
    depth = source.depth
    save_torch(
        out / "backbone.pth",
        {"state_dict": {f"backbone.{name}": value for name, value in source.tensors.items()}, "meta": {}},
    )
    mean, std = in_bytes(source)
    style = "pytorch" if source.facts["stride"] == "3x3" else "caffe"
    swapped = source.facts["input"]["channels"] == "RGB"
    text = (
        "# Fields for the model of a configuration of mmdetection 3, mmsegmentation 1 or mmpretrain 1.\n"
        "model = dict(\n"
        f"    data_preprocessor=dict(mean={mean}, std={std}, bgr_to_rgb={swapped}),\n"
        "    backbone=dict(\n"
        '        type="ResNet",  # not ResNetV1c, whose stem has three convolutions\n'
        f'        depth={depth},\n        style="{style}",\n        frozen_stages=-1,\n        norm_eval=False,\n'
        '        norm_cfg=dict(type="SyncBN", requires_grad=True),\n'
        '        init_cfg=dict(type="Pretrained", checkpoint="backbone.pth", prefix="backbone."),\n    ),\n)\n'
    )
    write_text(out / "config.py", text)
    how = "Merge `config.py` into a configuration, and set `checkpoint` to the path of the weights."
    return "backbone.pth", how, ["config.py"]


def to_onnx(source: Source, out: Path) -> tuple[str, str, list[str]]:
    """The features of whole images, for any number of images of the size of a training crop."""
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise ConfigError("export: onnx needs further packages; pip install 'mlssl[export]'") from None
    size = source.facts["crop"] or 224
    model = Features(source.backbone).eval()
    with atomic(out / "backbone.onnx") as part:
        torch.onnx.export(
            model,
            (torch.zeros(2, 3, size, size),),
            part,
            input_names=["images"],
            output_names=["features"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    how = (
        f"Input `images`, float32 N x 3 x {size} x {size}, normalised as the facts say; output `features`, one "
        "vector per image.\n\n```python\nimport onnxruntime\n\n"
        'session = onnxruntime.InferenceSession("backbone.onnx")\n'
        '(features,) = session.run(None, {"images": images})\n```'
    )
    return "backbone.onnx", how, []


FORMATS: dict[str, Callable[[Source, Path], tuple[str, str, list[str]]]] = {
    "timm": to_timm,
    "torchvision": to_torchvision,
    "detectron2": to_detectron2,
    "mmdet": to_mmdet,
    "safetensors": to_safetensors,
    "onnx": to_onnx,
}
"""Framework -> writes the weights into a folder; returns their file, how to load it (Markdown), and other files."""


class Features(nn.Module):
    """Images to one vector each."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> Tensor:
        return image_features(self.backbone, images)


def refuse_stride(source: Source, what: str) -> None:
    if source.facts["stride"] != "3x3":
        raise ConfigError(
            f"export: {what} has the stride in the 3x3 convolution, and these weights were trained with it in the "
            "first 1x1; give --to detectron2 or mmdet"
        )


def in_bytes(source: Source) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of pixels from 0 to 255, in the order of the input's channels."""
    mean, std = ([round(255 * value, 4) for value in values] for values in source.mean_std)
    return mean, std


def save_torch(path: Path, content: Mapping[str, Any]) -> None:
    with atomic(path) as part:
        torch.save(dict(content), part)


def save_safetensors(path: Path, source: Source) -> None:
    """With the facts in the header, as one JSON text."""
    with atomic(path) as part:
        safetensors.torch.save_file(source.tensors, part, {"format": "pt", "mlssl": json.dumps(source.facts)})
