"""How other projects name the tensors of a ResNet; each scheme gives their name for one of timm's."""

from __future__ import annotations

import re
from collections.abc import Callable

CHILDREN = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
"""Places in `nn.Sequential(*resnet.children())`; 2 and 3 are the ReLU and the pooling."""


def timm(name: str) -> str:
    """timm, torchvision, mmcv's ResNet, VISSL: `layer1.0.conv1.weight`."""
    return name


def sequential(name: str) -> str | None:
    """The children of a ResNet in an `nn.Sequential` (lightly, sthalles' BYOL): `4.0.conv1.weight`."""
    first, _, rest = name.partition(".")
    return f"{CHILDREN[first]}.{rest}" if first in CHILDREN else None


def detectron2(name: str) -> str | None:
    """detectron2: `res2.0.conv1.weight`, `res2.0.conv1.norm.weight`, `res2.0.shortcut.weight`."""
    place = re.fullmatch(r"(?:layer([1-4])\.(\d+)\.)?(conv\d|bn\d|downsample\.[01])\.(\w+)", name)
    if not place:
        return None
    stage, block, layer, tensor = place.groups()
    where = f"res{int(stage) + 1}.{block}" if stage else "stem"
    if layer.startswith("downsample"):
        return f"{where}.shortcut.{'norm.' if layer.endswith('1') else ''}{tensor}"
    return f"{where}.conv{layer[-1]}.norm.{tensor}" if layer.startswith("bn") else f"{where}.{layer}.{tensor}"


def mmcv_deep_stem(name: str) -> str | None:
    """mmcv's ResNetV1c and V1d, whose three convolutions are in one `stem`: timm's resnet50c and resnet50d."""
    if name == "conv1.weight":
        return None
    if name.startswith("conv1."):
        return f"stem.{name.removeprefix('conv1.')}"
    return f"stem.7.{name.removeprefix('bn1.')}" if name.startswith("bn1.") else name


EFFICIENTNET = {
    "conv_stem": "_conv_stem",
    "conv_head": "_conv_head",
    "se.conv_reduce": "_se_reduce",
    "se.conv_expand": "_se_expand",
    "conv_dw": "_depthwise_conv",
}


def efficientnet(names: list[str]) -> dict[str, str]:
    """lukemelas' EfficientNet-PyTorch: `_blocks.3._bn0.weight`; its name of every tensor -> timm's.

    It numbers the blocks of all stages in a row, and the norms of a block from 0. The blocks of timm's first stage
    have no expansion: their `conv_pw` is the projection, and their norms are 1 and 2. Tensors that it lacks are
    left out.
    """
    of_blocks = [found for name in names if (found := re.match(r"blocks\.(\d+)\.(\d+)\.", name))]
    order = sorted({(int(found[1]), int(found[2])) for found in of_blocks})
    expands = {found[0] for found in of_blocks if f"{found[0]}conv_pwl.weight" in names}
    theirs = {}
    for name in names:
        found = re.match(r"blocks\.(\d+)\.(\d+)\.", name)
        layer, _, tensor = name[found.end() if found else 0 :].rpartition(".")
        if found and found[0] in expands:
            block = {"conv_pw": "_expand_conv", "conv_pwl": "_project_conv"}
            block |= {"bn1": "_bn0", "bn2": "_bn1", "bn3": "_bn2"}
        elif found:
            block = {"conv_pw": "_project_conv", "bn1": "_bn1", "bn2": "_bn2"}
        else:
            block = {"bn1": "_bn0", "bn2": "_bn1"}
        if new := (EFFICIENTNET | block).get(layer):
            place = f"_blocks.{order.index((int(found[1]), int(found[2])))}." if found else ""
            theirs[f"{place}{new}.{tensor}"] = name
    return theirs


SCHEMES: tuple[Callable[[str], str | None], ...] = (timm, sequential, detectron2, mmcv_deep_stem)


def translations(names: list[str]) -> dict[str, dict[str, str]]:
    """Name of a scheme -> its name of every tensor -> timm's; only the schemes that have all of `names`."""
    found: dict[str, dict[str, str]] = {}
    for scheme in SCHEMES:
        translated = {theirs: name for name in names if (theirs := scheme(name)) is not None}
        if len(translated) == len(names) and translated not in found.values():
            found[scheme.__name__] = translated
    if len(translated := efficientnet(names)) == len(names):
        found["efficientnet"] = translated
    return found


def in_roi_heads(name: str) -> str | None:
    """Where detectron2's C4 models keep a tensor of the last stage: `backbone.res5.` -> `roi_heads.res5.`."""
    head, found, rest = name.rpartition("res5.")
    return f"{head.removesuffix('backbone.')}roi_heads.{found}{rest}" if found else None
