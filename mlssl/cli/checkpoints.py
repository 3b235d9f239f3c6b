"""The command that shows which networks a file of weights holds."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mlssl.cli.options import command


def add(commands: Any) -> None:
    """Add it to the parser."""
    sub = command(
        commands,
        "checkpoint",
        checkpoint,
        "List the networks in a published file of weights that may be the backbone, and the one that `init` loads.",
    )
    sub.add_argument("file", type=Path, help="own or published weights: torch, safetensors or a detectron2 pickle")
    sub.add_argument("--backbone", default="resnet50", help="name of a timm model")
    sub.add_argument("--prefix", help="choose the network with this prefix, as `init_prefix` does")


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
