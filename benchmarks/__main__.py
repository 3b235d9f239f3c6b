"""Compare the suite with its upper limit and other libraries; print and save the tables.

Without a GPU only the CPU is measured, and GPU targets are shown as not measured. Libraries that are not installed
(`pip install 'mlssl[bench]'`) are skipped with a message. The suite generates all JPEGs, 640 x 480.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import pandas as pd
import torch

from benchmarks import measure
from benchmarks.cases import CPU_INPUT, CPU_TRAINING, DICTIONARIES, GPU, LARGE, PHOTO
from benchmarks.inputs import PEERS, absent
from benchmarks.report import markdown
from mlssl import files, results
from mlssl.runtime import device as devices
from mlssl.scenes import write_scenes

GROUPS = ("input", "training", "steps", "memory", "store", "cost")
VERSIONS = ("torch", "torchvision", "timm", *PEERS)


def main() -> None:
    args = parser().parse_args()
    if args.out.exists():
        sys.exit(f"benchmarks: {args.out}: this result exists already; delete it first or give another --out")
    device = devices.choose(args.device)
    devices.set_up(device, args.threads)
    skip = absent(device)
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        rows, watch = pd.DataFrame(), results.Stopwatch()
        folder = Path(scratch)
        write_scenes(folder / "scenes", images=args.images, val_images=1, size=PHOTO, seed=0)
        for group in args.groups:
            found = run(group, folder, device, skip, args)
            rows = pd.concat([rows, pd.DataFrame(found)], ignore_index=True)
    header = {
        "command": " ".join(["python -m benchmarks", *sys.argv[1:]]),
        "commit": results.git_commit(),
        **devices.facts(device),
        "cores": os.cpu_count(),
        "versions": {"python": platform.python_version()}
        | {name: metadata.version(name) for name in VERSIONS if name not in skip},
        "left_out": sorted(skip),
        "wall_s": round(watch.seconds()),
    }
    about = (
        f"Measured by `{header['command']}` at commit {header['commit']} on {header['device']}, "
        f"{header['cores']} cores, {header['threads']} threads, torch {header['versions']['torch']}. "
        "An image is one photo with both its views."
    )
    text = markdown(rows, device.type, about)
    files.write_json(args.out, {"header": header, "rows": [r.dropna().to_dict() for _, r in rows.iterrows()]})
    files.write_text(args.out.with_suffix(".md"), text)
    print(text)


def run(
    group: str, folder: Path, device: torch.device, skip: set[str], args: argparse.Namespace
) -> list[measure.Row]:
    """One group of measurements."""
    photos, gpu = folder / "scenes" / "train2017", device.type == "cuda"
    how = {"skip": skip, "repeats": args.repeats, "least": args.seconds}
    cases = GPU if gpu else CPU_TRAINING
    if group == "input":
        return list(measure.inputs(GPU if gpu else CPU_INPUT, photos, device, **how))
    if group == "training":
        return list(measure.training(cases, photos, device, **how))
    sizes = (*DICTIONARIES, LARGE)
    if group == "steps":
        count = 20 if gpu else 3
        return list(measure.steps(cases, sizes, device, skip=skip, repeats=args.repeats, count=count))
    if group == "memory":
        return list(measure.memory(cases[0], sizes, device, skip=skip))
    if group == "store":
        return list(measure.store(photos, folder))
    return list(measure.cost(photos, folder, device))


def at_least_64(text: str) -> int:
    """Argument type: with fewer images the smallest training share does not fill its batches."""
    if int(text) < 64:
        raise argparse.ArgumentTypeError(f"{text} is too few; give 64 or more")
    return int(text)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="JSON file to write; the tables go to the same path with .md"
    )
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=GROUPS, help="what to measure")
    parser.add_argument("--images", type=at_least_64, default=512, help="JPEGs to draw, at least 64")
    parser.add_argument("--repeats", type=int, default=3, help="how often each contender is measured")
    parser.add_argument("--seconds", type=float, default=5.0, help="minimum time of one measurement")
    parser.add_argument("--threads", type=int, help="CPU threads; torch's default if not given")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--scratch", type=Path, help="folder for the JPEGs and stores; they are removed at the end")
    return parser


if __name__ == "__main__":
    main()
