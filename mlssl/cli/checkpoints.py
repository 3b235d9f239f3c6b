"""Commands about files of weights: which networks one holds, backbones for other frameworks, features of images."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mlssl.cli.options import add_device, command, count, named, whole

TARGETS = ("timm", "torchvision", "detectron2", "mmdet", "safetensors", "onnx")
"""What `mlssl.export.write` writes; named here, so that `--help` imports no torch."""


def add(commands: Any) -> None:
    """Add them to the parser."""
    sub = command(
        commands,
        "checkpoint",
        checkpoint,
        "List the networks in a published file of weights that may be the backbone, and the one that `init` loads.",
        "mlssl checkpoint moco_v2_800ep.pth.tar --backbone resnet50",
    )
    sub.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help="own or published weights: torch, safetensors or a detectron2 pickle",
    )
    sub.add_argument("--backbone", default="resnet50", metavar="NAME", help="name of a timm model")
    sub.add_argument("--prefix", metavar="TEXT", help="choose the network with this prefix, as `init_prefix` does")

    sub = command(
        commands,
        "export",
        export,
        "Write a backbone as another framework loads it, with a model card and what its input must be.",
        "mlssl export run/backbone.pt --to torchvision --out exported",
    )
    sub.add_argument("backbone", type=Path, metavar="BACKBONE", help="backbone.pt of a pretraining")
    sub.add_argument("--to", required=True, choices=TARGETS, help="the framework or format")
    sub.add_argument("--out", type=named, metavar="FOLDER", required=True, help="the folder to write, new or empty")

    sub = command(
        commands,
        "embed",
        embed,
        "Write the features of a folder of images by a backbone.",
        "mlssl embed run/backbone.pt photos --out features.npz --map map.png",
    )
    sub.add_argument("backbone", type=Path, metavar="BACKBONE", help="backbone.pt of a pretraining")
    sub.add_argument("images", type=Path, metavar="IMAGES", help="folder of images, of any depth")
    sub.add_argument(
        "--out",
        type=named,
        metavar="FILE",
        required=True,
        help="the file to write, .npz or (with pyarrow) .parquet",
    )
    sub.add_argument(
        "--map", type=named, metavar="FILE", help="a picture (.png) of the images, similar ones near to each other"
    )
    sub.add_argument(
        "--map-by",
        choices=("pca", "umap"),
        default="pca",
        help="how --map places the images: umap needs umap-learn, and shows neighbours better, distances worse",
    )
    sub.add_argument(
        "--seed",
        type=whole,
        metavar="N",
        default=0,
        help="draws the images of --map, if there are more than 1,600; also UMAP's",
    )
    sub.add_argument("--size", type=count, metavar="N", default=224, help="images are resized to N x N pixels")
    sub.add_argument("--batch-size", type=count, metavar="N", default=64, help="images per forward pass")
    add_device(sub)


def checkpoint(args: argparse.Namespace) -> None:
    from mlssl.checkpoints.load import load
    from mlssl.checkpoints.networks import needed, networks, shown
    from mlssl.checkpoints.read import listed, read
    from mlssl.parts.backbone import create_backbone

    backbone = create_backbone(args.backbone)
    content, wanted = read(args.file, "file"), needed(backbone)
    print(f"{args.file}{listed(content)}")
    for network in networks(content, wanted):
        fits = f"{len(network.tensors)} of {len(wanted)} tensors"
        print(f"  {shown(network.name):<44} {network.role:<9} {fits}")
    loaded = load(backbone, args.file, args.prefix, where="file", prefix_setting="--prefix")
    print(f"init loads {loaded}")


def export(args: argparse.Namespace) -> None:
    from mlssl.export.write import export

    for path in export(args.backbone, args.to, args.out):
        print(path)


def embed(args: argparse.Namespace) -> None:
    from mlssl.export.embed import embed
    from mlssl.runtime import device

    on = device.choose(args.device)
    device.set_up(on, args.threads)
    how: dict[str, Any] = {"size": args.size, "batch_size": args.batch_size, "map_": args.map}
    how |= {"map_by": args.map_by, "seed": args.seed}
    written = embed(args.backbone, args.images, args.out, device=on, **how)
    print(f"{args.out}: features of {written:,} images")
