"""Every protocol of config/protocols, shortened and run to its end on drawn scenes, from a file in MoCo's layout.

From the repository's root, in its environment: `python results/reference/protocols/make.py` writes build/protocols,
and protocols.tsv beside this script. The weights are not trained: it shows that each protocol runs, and nothing
about scores.
"""

import csv
import json
import shutil
import time
from pathlib import Path

import timm
import torch

from mlssl.api import evaluate, pretrain
from mlssl.scenes import write_scenes
from mlssl.study.extends import read_extended

BUILD = Path("build/protocols")
BACKBONE = "resnet18"
DETECTION = {
    "size": 96, "train_sizes": [64, 96], "iterations": 4, "batch_size": 2, "warmup_iterations": 2, "precise_bn": 2,
    "candidates": [100, 50], "proposals": 40, "test_proposals": 20, "rois_per_image": 16, "eval_images": 12,
}  # fmt: skip
SEGMENTATION = {"size": 64, "scale": [96, 72], "iterations": 4, "batch_size": 4, "eval_images": 12}
CLASSIFICATION = {"resize": 72, "size": 64, "epochs": 2, "batch_size": 16}
SHORTENED = {
    "voc07_finetune": CLASSIFICATION,
    "small_sets": CLASSIFICATION,
    "imagenet_linear": CLASSIFICATION,
    "coco_fpn_1x": DETECTION,
    "coco_fpn_2x": DETECTION | {"head": "4conv1fc", "iterations": 8},
    "coco_c4": DETECTION,
    "voc_c4": DETECTION,
    "fcn_voc": SEGMENTATION,
    "fcn_cityscapes": SEGMENTATION | {"slide_stride": 40},
    "pspnet_cityscapes": SEGMENTATION | {"crop_width": 96},
    "psanet_cityscapes": SEGMENTATION | {"crop_width": 96},
    "voc07_svm": {"size": 96, "resize": 112, "layers": ["c4"], "costs": [0.1, 10]},
    "voc07_lowshot": {"size": 96, "layers": ["c5"], "costs": [0.1, 10], "shots": [1, 4], "samples": 2},
}
"""Protocol -> the settings that are not its own."""
FOLDERS = ("small_sets", "imagenet_linear")
"""Protocols whose images have one category each: here the theme of a scene (kitchen, street, …)."""


def write_checkpoint(path: Path) -> None:
    """Two untrained networks, saved as MoCo saves them: the momentum copy, and the query encoder, which counts."""
    tensors = {"module.queue": torch.rand(128, 16), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
    for seed, encoder in enumerate(("encoder_k", "encoder_q")):
        torch.manual_seed(seed)
        weights = timm.create_model(BACKBONE, num_classes=128).state_dict()
        tensors |= {f"module.{encoder}.{name}": value for name, value in weights.items()}
    torch.save({"epoch": 200, "arch": BACKBONE, "state_dict": tensors, "optimizer": {}}, path)


def one_category_each(scenes: Path, out: Path) -> None:
    """A copy of the scenes whose annotations are what an import of class folders writes, a folder per theme."""
    shutil.copytree(scenes, out)
    for path in (out / "annotations").glob("*.json"):
        content = json.loads(path.read_text())
        ids = {theme: i for i, theme in enumerate(sorted({image["theme"] for image in content["images"]}), start=1)}
        content["categories"] = [{"id": i, "name": theme, "exclusive": True} for theme, i in ids.items()]
        content["annotations"] = [
            {"id": i, "image_id": image["id"], "category_id": ids[image["theme"]], "iscrowd": 0, "area": 160 * 120,
             "bbox": [0, 0, 160, 120]}
            for i, image in enumerate(content["images"], start=1)
        ]  # fmt: skip
        path.write_text(json.dumps(content))


def main() -> None:
    BUILD.mkdir(parents=True)
    write_checkpoint(BUILD / "moco.pth.tar")
    write_scenes(BUILD / "scenes", images=64, val_images=32, size=(160, 120), seed=0)
    one_category_each(BUILD / "scenes", BUILD / "themes")
    settings = {
        "data": {"root": str(BUILD / "scenes")},
        "method": "published",
        "backbone": BACKBONE,
        "batch_size": 32,
    }
    backbone = pretrain(settings | {"init": str(BUILD / "moco.pth.tar")}, BUILD / "run", threads=1)
    notes = json.loads((BUILD / "run" / "pretrain.json").read_text())["header"]["notes"]
    print(notes["init"])
    rows = []
    for protocol, changes in SHORTENED.items():
        ((stage, own),) = read_extended(Path("config/protocols") / f"{protocol}.yaml")["transfers"].items()
        data = {"root": str(BUILD / ("themes" if protocol in FOLDERS else "scenes"))}
        began = time.process_time()
        found = evaluate(backbone, stage, own | changes | {"data": data}, device="cpu")
        seconds = round(time.process_time() - began, 1)
        for row in found:
            value = round(row["value"], 2)
            rows.append([protocol, seconds, row["protocol"], row["metric"], value, row["n"]])
            print(*rows[-1], flush=True)
    with open(Path(__file__).with_name("protocols.tsv"), "w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["protocol", "cpu_s", "scored", "metric", "value", "n"])
        writer.writerows(rows)


if __name__ == "__main__":
    main()
