"""Rates of settings that nobody has timed, scaled from the nearest settings with a rate. Imports no torch.

The cost of a unit is taken to be in proportion to the multiply-adds of the backbone: those of one pixel, times
the pixels of an image, times the images of a step; that of another method, to its measured STEP as well. Reading
images and the work beside the backbone are not scaled apart, so such a rate is right only within a factor of
UNSURE.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from mlssl.cost.rates import DENSE, PROBES

UNSURE = 3.0
"""A scaled rate may be wrong by this factor, either way. ResNet-18 with crops of 96 px, scaled from ResNet-10t with
64 px, took 2.8 times as long on a machine with other work."""
MULTIPLY_ADDS = {"resnet10t": 1.1, "resnet18": 1.8, "resnet34": 3.7, "resnet50": 4.1, "resnet101": 7.8}
"""10⁹ multiply-adds of one forward pass at 224 px (timm's tables); only their ratios are used."""
STEP = {
    "mlssl.method.mls.MLS": 0.98,
    "baselines.moco_v2.MoCoV2": 1.0,
    "baselines.densecl.DenseCL": 1.04,
    "baselines.knn_moco.KNNMoCo": 1.01,
    "baselines.nnclr.NNCLR": 1.56,
    "baselines.msf.MSF": 1.01,
    "baselines.byol.BYOL": 1.95,
    "baselines.orl.ORL": 2.12,
    "baselines.simsiam.SimSiam": 1.46,
    "baselines.pixpro.PixPro": 2.06,
    "baselines.pixcontrast.PixContrast": 2.06,
    "baselines.slotcon.SlotCon": 2.15,
    "baselines.self_emd.SelfEMD": 1.99,
    "baselines.resim.ReSim": 1.32,
    "baselines.soco.SoCo": 3.22,
    "baselines.soco_fpn.SoCoFPN": 4.43,
    "baselines.supervised.Supervised": 0.76,
}
"""Time of a step relative to MoCo-v2's with as many pixels in its views (costs.tsv and costs_proposals.tsv in
results/reference/benchmarks). A method of one's own counts as MoCo-v2."""
SCALED = ("pretrain", "no pretraining", *PROBES, *DENSE)
"""Stages whose cost grows with their images; the others are never scaled."""


@dataclass(frozen=True)
class Near:
    """A rate made of another one."""

    key: str
    """Of the rate that was measured."""
    seconds: float
    """Per unit, scaled."""


def near(wanted: str, known: Mapping[str, float]) -> Near | None:
    """The rate for the key `wanted`, scaled from the most similar key of its stage in `known`; None without one.

    Most similar is: the same method, then the same backbone, then the nearest amount of work. Rates of backbones
    that MULTIPLY_ADDS does not have are taken only for the same backbone.
    """
    stage, what = parts(wanted)
    if stage not in SCALED:
        return None
    found = []
    for key, seconds in known.items():
        own_stage, own = parts(key)
        if own_stage != stage:
            continue
        ratio = work(stage, what) / work(own_stage, own)
        if own["backbone"] != what["backbone"]:
            if not {own["backbone"], what["backbone"]} <= MULTIPLY_ADDS.keys():
                continue
            ratio *= MULTIPLY_ADDS[what["backbone"]] / MULTIPLY_ADDS[own["backbone"]]
        distance = abs(math.log(ratio))
        if stage == "pretrain":
            ratio *= STEP.get(what["target"], 1.0) / STEP.get(own["target"], 1.0)
        order = (own["target"] != what["target"], own["backbone"] != what["backbone"], distance, key)
        found.append((order, Near(key, seconds * ratio)))
    return min(found, key=lambda f: f[0])[1] if found else None


def parts(key: str) -> tuple[str, dict[str, str]]:
    """The stage of a rate's key and the settings in it: `target`, `backbone`, `crop`, `batch`, `size`."""
    head, *rest = key.split(", ")
    stage, _, target = head.partition(" ") if head.startswith("pretrain ") else (head, "", "")
    found = {"target": target, "backbone": rest[0] if rest else ""}
    for part in rest[1:]:
        if match := re.fullmatch(r"(crop|batch|size) (\d+)", part):
            found[match[1]] = match[2]
    return stage, found


def work(stage: str, settings: Mapping[str, str]) -> float:
    """Pixels of a unit of work; a backbone that is not pretrained is a unit by itself."""
    side = 1.0 if stage == "no pretraining" else float(settings.get("crop") or settings["size"])
    return side**2 * float(settings.get("batch", 1))
