"""Commands that make data sets and image stores."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mlssl.cli.options import add_run, command, count, named, png, share, short_side, size, study_of_run, whole
from mlssl.errors import ConfigError
from mlssl.study.settings import Data, Pretrain


def add(commands: Any) -> None:
    """Add the commands to the parser."""
    sub = command(
        commands,
        "scenes",
        scenes,
        "Draw the embedded dataset: scenes of several objects, in COCO's layout.",
        "mlssl scenes --out scenes --images 3000 --size 128",
    )
    sub.add_argument("--out", type=named, metavar="FOLDER", required=True, help="folder to make; must not exist")
    sub.add_argument("--images", type=count, metavar="N", required=True, help="number of training images")
    sub.add_argument(
        "--val-images", type=count, metavar="N", help="number of validation images; default: a quarter of --images"
    )
    sub.add_argument("--size", type=size, metavar="PIXELS", default="128", help="128, or width x height as 640x480")
    sub.add_argument("--seed", type=whole, metavar="N", default=0, help="of the drawn scenes")
    sub.add_argument("--workers", type=count, metavar="N", help="number of processes; default: one per core")

    sub = command(
        commands,
        "dataset",
        dataset,
        "Convert a public dataset to COCO's layout: from a folder, from archives or by download.",
        "mlssl dataset voc2007 --out voc --source archives",
    )
    sub.add_argument(
        "name", metavar="NAME", help="coco2017, voc2007, voc0712, cityscapes, …; an unknown name lists all"
    )
    sub.add_argument("--out", type=named, metavar="FOLDER", required=True, help="folder to make")
    sub.add_argument(
        "--source",
        type=Path,
        metavar="FOLDER",
        help="folder with the published images, or with the published archives",
    )
    sub.add_argument("--download", action="store_true", help="download archives that are not in --source")
    sub.add_argument("--splits", nargs="+", metavar="NAME", help="splits to convert; default: all published ones")

    none = argparse.SUPPRESS  # `import_photos` has the defaults.
    sub = command(
        commands,
        "import",
        import_,
        "Import your own photos, with or without labels, as a dataset without metadata.",
        "mlssl import --photos shop --labels shop.csv --out imported",
    )
    sub.add_argument(
        "--photos", type=Path, metavar="FOLDER", required=True, help="folder of photos, searched recursively"
    )
    sub.add_argument("--out", type=named, metavar="FOLDER", required=True, help="folder to make, in COCO's layout")
    sub.add_argument(
        "--labels",
        type=Path,
        metavar="PATH",
        help="COCO JSON, folder of VOC XML, YOLO txt or semantic masks, CSV of file,label;label, or the folder of "
        "the photos again, if its folders are classes",
    )
    sub.add_argument(
        "--val-share",
        type=share,
        metavar="SHARE",
        default=none,
        help="share of the labelled photos for validation, without official splits; default 0.25",
    )
    sub.add_argument(
        "--seed", type=whole, metavar="N", default=none, help="seed that draws the validation split; default 0"
    )
    sub.add_argument("--anonymise", choices=("blur", "pixelate"), help="hide --people in every copy")
    sub.add_argument(
        "--people", metavar="PATH", help="where people are, in a format of --labels, or faces for a detector"
    )
    sub.add_argument(
        "--deny", type=Path, metavar="FILE", help="text file of names or patterns of photos to leave out"
    )
    sub.add_argument(
        "--max-skipped",
        type=share,
        metavar="SHARE",
        default=none,
        help="stop if a larger share of photos is unusable; default 0.05",
    )
    sub.add_argument(
        "--near",
        type=whole,
        metavar="N",
        default=none,
        help="bits of 64 that may differ in near-duplicates; default 6",
    )
    sub.add_argument("--workers", type=count, metavar="N", help="number of processes; default: one per core")

    sub = command(
        commands,
        "store",
        store,
        "Decode a folder of images once, so that pretraining need not.",
        "mlssl store --images scenes/train2017 --out store",
    )
    sub.add_argument(
        "--images", type=Path, metavar="FOLDER", required=True, help="folder of images, searched recursively"
    )
    sub.add_argument("--out", type=named, metavar="FOLDER", required=True, help="folder to make, the image store")
    sub.add_argument(
        "--short-side",
        type=short_side,
        metavar="PIXELS",
        default=256,
        help="largest short side in pixels; full keeps all sizes",
    )
    sub.add_argument("--workers", type=count, metavar="N", help="number of processes; default: one per core")
    sub.add_argument(
        "--max-skipped", type=share, metavar="SHARE", default=0.05, help="stop if a larger share is unusable"
    )
    sub.add_argument(
        "--images-id", metavar="ID", help="identity of the images, stored in the index; set by Snakemake"
    )
    sub.add_argument("--check", action="store_true", help="read the store again and compare its checksum")

    sub = command(
        commands,
        "proposals",
        proposals,
        "Find boxes of all training images by selective search, for methods that train on them. A killed search "
        "goes on where it ended.",
        "mlssl proposals --study config/competitors_proposals.yaml --run-name RUN",
    )
    add_run(sub, "--config", "instead of --study: a YAML file of a pretraining's settings (see `mlssl resolve`)")
    sub.add_argument(
        "--store",
        type=Path,
        metavar="FOLDER",
        help="image store; needed with --config. The file is written beside it",
    )
    sub.add_argument("--workers", type=count, metavar="N", help="number of processes; default: one per core")

    sub = command(
        commands,
        "contact-sheet",
        contact_sheet,
        "Draw labelled samples of a split in COCO's layout.",
        "mlssl contact-sheet --data scenes --out samples.png",
    )
    sub.add_argument("--data", type=Path, metavar="FOLDER", required=True, help="folder in COCO's layout")
    sub.add_argument("--split", default="train2017", metavar="NAME", help="name of the split")
    sub.add_argument("--images", type=count, metavar="N", default=24, help="number of images drawn")
    sub.add_argument("--out", type=png, metavar="FILE", required=True, help="PNG to write, and a PDF beside it")


def scenes(args: argparse.Namespace) -> None:
    from mlssl.scenes.write import SMALLEST, write_scenes
    from mlssl.study import sources

    if min(args.size) < SMALLEST:
        shortest = f"{SMALLEST} x {SMALLEST}"
        raise ConfigError(f"--size: {args.size[0]} x {args.size[1]} pixels are too few; give at least {shortest}")
    write_scenes(
        args.out,
        images=args.images,
        val_images=max(1, args.images // 4) if args.val_images is None else args.val_images,
        size=args.size,
        seed=args.seed,
        workers=args.workers,
    )
    sources.record(Data(str(args.out)))


def store(args: argparse.Namespace) -> None:
    from mlssl.data.store import ImageStore, build_store

    build_store(
        args.images,
        args.out,
        short_side=args.short_side,
        images_id=args.images_id,
        workers=args.workers,
        max_skipped=args.max_skipped,
    )
    if args.check:
        ImageStore(args.out).verify()


def proposals(args: argparse.Namespace) -> None:
    from mlssl.data import selective_search
    from mlssl.data.proposals import find_proposals
    from mlssl.data.store import ImageStore
    from mlssl.study.identity import proposals_file
    from mlssl.study.validation import read

    if args.config:
        config, store = read(Pretrain, args.config), args.store
    else:
        study = study_of_run(args)
        config, store = study.runs[args.run_name].config, args.store or study.store
    out = proposals_file(config.proposals, store)
    selective_search.check(out)
    find_proposals(ImageStore(store), out, config.proposals, workers=args.workers)


def dataset(args: argparse.Namespace) -> None:
    from mlssl.datasets.counts import SPLITS
    from mlssl.datasets.prepare import prepare
    from mlssl.study import sources

    prepare(args.name, args.out, source=args.source, download=args.download, splits=args.splits)
    splits = args.splits or list(SPLITS[args.name])
    sources.record(Data(str(args.out), train=splits[0], val=splits[-1]))


def import_(args: argparse.Namespace) -> None:
    from mlssl.photos import import_photos
    from mlssl.study import sources

    names = ("labels", "val_share", "seed", "anonymise", "people", "deny", "max_skipped", "near", "workers")
    import_photos(args.photos, args.out, **{name: getattr(args, name) for name in names if hasattr(args, name)})
    sources.record(Data(str(args.out), train="train", val="val"))


def contact_sheet(args: argparse.Namespace) -> None:
    from mlssl.pictures.contact_sheet import write_contact_sheet

    write_contact_sheet(args.data, args.split, args.out, images=args.images)
