"""`python -m mlssl <verb>`: every stage that has a cost or a result, callable by hand.

Snakemake calls exactly these. Each verb imports what it needs when it runs, so `--help` is instant.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlssl import provenance
from mlssl.config import ConfigError, DataError, Pictures, plain
from mlssl.engine import interrupt
from mlssl.engine.interrupt import GO_ON_LATER, Interrupted
from mlssl.engine.owner import NOT_OWNER, Busy, Taken

PUBLISHED = Path(__file__).parents[1] / "results" / "published"


def scenes(args: argparse.Namespace) -> None:
    from mlssl.data.scenes import write_scenes

    write_scenes(
        args.out,
        images=args.images,
        val_images=args.val_images or max(1, args.images // 4),
        size=args.size,
        seed=args.seed,
        workers=args.workers,
    )


def store(args: argparse.Namespace) -> None:
    from mlssl.data.store import ImageStore, build_store

    build_store(
        args.images, args.out, short_side=args.short_side, workers=args.workers, max_skipped=args.max_skipped
    )
    if args.check:
        ImageStore(args.out).verify()


def dataset(args: argparse.Namespace) -> None:
    from mlssl.data.public.prepare import prepare

    prepare(args.name, args.out, source=args.source, download=args.download, splits=args.splits)


def import_(args: argparse.Namespace) -> None:
    from mlssl.data.importer import import_photos

    names = ("labels", "val_share", "seed", "anonymise", "people", "deny", "max_skipped", "near", "workers")
    import_photos(args.photos, args.out, **{name: getattr(args, name) for name in names if hasattr(args, name)})


def resolve(args: argparse.Namespace) -> None:
    import yaml

    from mlssl import study

    loaded = study.load(args.study)
    if args.name in loaded.runs:
        config = loaded.runs[args.name].config
    elif args.name in loaded.transfers:
        config = loaded.transfers[args.name]
    else:
        known = [*loaded.transfers, *loaded.runs]
        raise ConfigError(f"{args.study}: has no run or transfer '{args.name}'; it has {', '.join(known)}")
    provenance.write_text(args.out, yaml.safe_dump(plain(config), sort_keys=False))


def pretrain(args: argparse.Namespace) -> None:
    with interrupt.listening() as stop:
        from mlssl import config, device, ranks
        from mlssl.data.store import build_store
        from mlssl.engine.pretrain import pretrain

        told = config.read(config.Pretrain, args.config)
        store_path = args.store or args.out / "store"
        with ranks.joined(args.device) as own_device:
            if ranks.is_main():
                build_store(Path(told.data.root) / told.data.train, store_path, short_side=told.data.short_side)
            ranks.wait_for_all()
            on = device.choose(own_device, args.threads)
            pretrain(told, store_path, args.out, run=args.run or args.out.name, device=on, stop=stop)


def made_already(path: Path, meta: Mapping[str, Any]) -> bool:
    """Whether the result that `meta` describes stands at `path`; says so."""
    if there := provenance.stands(path, **meta):
        print(f"{path}: stands already; nothing is left to do (delete it to make it again)", file=sys.stderr)
    return there


def transfer(args: argparse.Namespace) -> None:
    import importlib

    from mlssl import config, device, ranks, study
    from mlssl.transfer.load import load_backbone

    watch = provenance.Stopwatch()
    told = config.read(study.TRANSFERS[args.verb], args.config)
    evaluate = importlib.import_module(f"mlssl.transfer.{args.verb}").evaluate
    _, meta = load_backbone(args.backbone)
    if args.seed is not None:
        meta["seed"] = args.seed
    meta["config"] = plain(told)
    with ranks.joined(args.device) as own_device:
        if ranks.count() > 1 and args.verb == "linear":
            raise ConfigError("linear: fits on one device; start it as one process")
        if ranks.anyone(ranks.is_main() and made_already(args.out, meta))[0]:
            return
        on = device.choose(own_device, args.threads)
        rows, notes = evaluate(args.backbone, told, seed=meta["seed"], device=on)
        if not ranks.is_main():
            return
        notes["ranks"] = ranks.count()
    result = provenance.result(**meta, **device.facts(on), watch=watch, rows=rows, notes=notes)
    provenance.write_result(args.out, result)
    for row in rows:
        print(f"{row['protocol']:>14} {row['metric']:<10} {row['value']:6.2f}  (n = {row['n']})")


def pseudo_labels(args: argparse.Namespace) -> None:
    from mlssl import config
    from mlssl.analysis.label_quality import evaluate, read_run

    watch = provenance.Stopwatch()
    told = config.read(config.PseudoLabels, args.config)
    run = read_run(args.run) | {"config": plain(told)}
    if made_already(args.out, run):
        return
    rows, notes = evaluate(args.run / "pseudo_labels.npz", args.store, told)
    where = {"device": "cpu", "threads": 1}
    result = provenance.result(**run, **where, watch=watch, rows=rows, notes=notes)
    provenance.write_result(args.out, result)
    for row in rows:
        print(f"{row['metric']:>14} {'undefined' if row['value'] is None else row['value']}  (n = {row['n']})")


def collect(args: argparse.Namespace) -> None:
    from mlssl import study
    from mlssl.analysis.collect import collect

    collect(study.load(args.study))


def tables(args: argparse.Namespace) -> None:
    from mlssl import study
    from mlssl.analysis.tables import write_tables

    write_tables(study.load(args.study), args.published)


def figures(args: argparse.Namespace) -> None:
    from mlssl import study
    from mlssl.analysis.figures import write_figures

    write_figures(study.load(args.study))


def estimate(args: argparse.Namespace) -> None:
    from mlssl import estimate, rates, study

    told = study.load(args.study)
    if args.measure:
        from mlssl import device
        from mlssl.calibration import calibrate

        on = device.choose("auto", rates.THREADS)
        seconds = calibrate(told, on)
        rates.save(estimate.RESULTS / "rates.json", seconds, device=device.facts(on)["device"])
    if args.save:
        here = rates.this_device()
        rates.save(args.save, rates.learn(estimate.RESULTS, device=here), device=here)
    print(estimate.report(told, args.cores, gpus=args.gpus))


def contact_sheet(args: argparse.Namespace) -> None:
    from mlssl.analysis.contact_sheet import write_contact_sheet

    write_contact_sheet(args.data, args.split, args.out, images=args.images)


def picture(args: argparse.Namespace) -> None:
    from mlssl import device
    from mlssl.data.store import ImageStore
    from mlssl.engine.embed import Folder, embed, read_run

    run = read_run(args.checkpoint)
    images = ImageStore(args.store) if args.store else Folder(args.images, run.config.data.short_side)
    about = f"{run.about()}, images of {'/'.join((args.store or args.images).parts[-2:])}"
    told = Pictures(**{key: value for key, value in vars(args).items() if hasattr(Pictures, key)})
    on = device.choose(args.device, args.threads)
    after = embed(run, images, told, on)
    if args.verb == "neighbours":
        from mlssl.analysis.neighbours import write_neighbours

        queries, neighbours = told.queries, told.neighbours
        write_neighbours(
            *after, lambda i: images.image(i).numpy(), args.out, rows=queries, neighbours=neighbours, about=about
        )
    else:
        from mlssl.analysis.histograms import write_histograms

        before = embed(run, images, told, on, trained=False)
        write_histograms(before, after, lambda i: images.image(i).numpy(), args.out, about=about)


def search_benchmark(args: argparse.Namespace) -> None:
    from mlssl import device
    from mlssl.analysis.search_figures import write_search_figure
    from mlssl.data.store import ImageStore
    from mlssl.engine.embed import Folder, read_run
    from mlssl.engine.pretrain import describe
    from mlssl.engine.search_benchmark import SearchBenchmark, benchmark, rows_of

    run = read_run(args.checkpoint)
    images = ImageStore(args.store) if args.store else Folder(args.images, run.config.data.short_side)
    on = device.choose(args.device, args.threads)
    told = SearchBenchmark(sizes=args.sizes, k=args.k, batch=args.batch, crops=args.crops, seed=args.seed)
    meta = describe(run.config, run.name) | {"config": plain(told)}
    if made_already(args.out, meta):
        return
    watch = provenance.Stopwatch()
    table, notes = benchmark(run, images, told, on)
    result = provenance.result(**meta, **device.facts(on), watch=watch, rows=rows_of(table), notes=notes)
    text = table.round(4).to_csv(sep="\t", index=False, na_rep="NA")
    provenance.write_text(args.out.with_suffix(".tsv"), text)
    write_search_figure(table, result["header"], args.out)
    provenance.write_result(args.out, result)


def size(text: str) -> tuple[int, int]:
    """`128` or `640x480` as (width, height)."""
    width, _, height = text.partition("x")
    return int(width), int(height or width)


def short_side(text: str) -> int | str:
    """`256` as a number; `full` as it is."""
    return text if text == "full" else int(text)


def sizes(text: str) -> tuple[int, ...]:
    """`4096,16384` as numbers."""
    return tuple(map(int, text.split(",")))


def parser() -> argparse.ArgumentParser:
    main = argparse.ArgumentParser(prog="python -m mlssl", description=__doc__.split("\n\n")[0])
    verbs = main.add_subparsers(dest="verb", required=True, metavar="verb")

    def verb(name: str, function, text: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(
            name, help=text, description=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        sub.set_defaults(function=function)
        return sub

    def compute(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--threads", type=int, help="CPU threads; torch's own choice if not given")
        sub.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")

    sub = verb("scenes", scenes, "Draw the embedded dataset: scenes of several objects, in COCO's layout.")
    sub.add_argument("--out", type=Path, required=True, help="folder to make; must not exist")
    sub.add_argument("--images", type=int, required=True, help="training images")
    sub.add_argument("--val-images", type=int, help="validation images; a quarter of --images if not given")
    sub.add_argument("--size", type=size, default=(128, 128), help="pixels: 128 or 640x480 (width x height)")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--workers", type=int, help="processes; one per core if not given")

    sub = verb("dataset", dataset, "Bring a public dataset into COCO's layout: from a folder, archives or the web.")
    sub.add_argument("name", help="coco2017, voc2007, voc0712, cityscapes, …; a wrong one lists all")
    sub.add_argument("--out", type=Path, required=True, help="folder to make")
    sub.add_argument("--source", type=Path, help="folder with the images, or with the archives as given out")
    sub.add_argument("--download", action="store_true", help="fetch what is not under --source")
    sub.add_argument("--splits", nargs="+", help="all that are published, if not given")

    none = argparse.SUPPRESS  # `import_photos` has the defaults.
    sub = verb(
        "import", import_, "Make a dataset of your own photos, without their metadata; labels if there are any."
    )
    sub.add_argument("--photos", type=Path, required=True, help="folder, of any depth")
    sub.add_argument("--out", type=Path, required=True, help="folder to make, in COCO's layout")
    sub.add_argument(
        "--labels", type=Path, help="COCO JSON, folder of VOC XML or YOLO txt, or CSV of file,label;label"
    )
    sub.add_argument("--val-share", type=float, default=none, help="of the labelled photos, to validate on: 0.25")
    sub.add_argument("--seed", type=int, default=none, help="draws those: 0")
    sub.add_argument("--anonymise", choices=("blur", "pixelate"), help="hide --people in every copy")
    sub.add_argument("--people", help="where people are, in a format of --labels; or: faces, found by a detector")
    sub.add_argument("--deny", type=Path, help="text file of names or patterns of photos to leave out")
    sub.add_argument(
        "--max-skipped", type=float, default=none, help="share that may be unusable before it stops: 0.05"
    )
    sub.add_argument("--near", type=int, default=none, help="bits of 63 in which near-duplicates may differ: 6")
    sub.add_argument("--workers", type=int, help="processes; one per core if not given")

    sub = verb("store", store, "Decode a folder of images once, for pretraining to read without decoding.")
    sub.add_argument("--images", type=Path, required=True, help="folder of images, of any depth")
    sub.add_argument("--out", type=Path, required=True, help="the store, a folder")
    sub.add_argument(
        "--short-side", type=short_side, default=256, help="pixels of the short side, at most; full keeps all"
    )
    sub.add_argument("--workers", type=int, help="processes; one per core if not given")
    sub.add_argument("--max-skipped", type=float, default=0.05, help="share that may be unusable before it stops")
    sub.add_argument("--check", action="store_true", help="read the store again and compare its checksum")

    sub = verb("resolve", resolve, "Write the full configuration of one run or transfer of a study.")
    sub.add_argument("name", help="a run's name, or linear, detection, segmentation")
    sub.add_argument("--study", type=Path, required=True, help="a study file, such as config/demo.yaml")
    sub.add_argument("--out", type=Path, required=True, help="the YAML file to write")

    sub = verb("pretrain", pretrain, "Train a backbone without labels. A run that was killed goes on.")
    sub.add_argument("--config", type=Path, required=True, help="a run's configuration (see resolve)")
    sub.add_argument("--out", type=Path, required=True, help="folder for backbone, checkpoint, log and cost")
    sub.add_argument("--store", type=Path, help="image store; built under --out if not given")
    sub.add_argument("--run", help="name to report; the name of --out if not given")
    compute(sub)

    for name, text in {
        "linear": "Multi-label linear probe on a frozen backbone: mAP, also with few labels.",
        "detection": "Mask R-CNN with an FPN on a backbone: box and mask AP.",
        "segmentation": "FCN on a backbone: mIoU, mAcc, aAcc.",
    }.items():
        sub = verb(name, transfer, text)
        sub.add_argument("--backbone", type=Path, required=True, help="backbone.pt of a pretraining")
        sub.add_argument("--config", type=Path, required=True, help="the transfer's configuration")
        sub.add_argument("--out", type=Path, required=True, help="result file (JSON); must not exist")
        sub.add_argument("--seed", type=int, help="the pretraining's seed if not given")
        compute(sub)

    sub = verb("pseudo-labels", pseudo_labels, "Judge the labels a run trained with by annotations it never saw.")
    sub.add_argument("--run", type=Path, required=True, help="folder of a finished pretraining")
    sub.add_argument("--store", type=Path, required=True, help="the image store it trained on")
    sub.add_argument("--config", type=Path, required=True, help="the configuration (see resolve)")
    sub.add_argument("--out", type=Path, required=True, help="result file (JSON); must not exist")

    for name, function, text in (
        ("collect", collect, "Gather a study's result files into metrics.tsv and runs.tsv."),
        ("tables", tables, "Write a study's tables (TSV, Markdown, LaTeX) from metrics.tsv and runs.tsv."),
        ("figures", figures, "Draw a study's figures (PNG, PDF)."),
    ):
        sub = verb(name, function, text)
        sub.add_argument("--study", type=Path, required=True, help="a study file, such as config/demo.yaml")
        if name == "tables":
            sub.add_argument("--published", type=Path, default=PUBLISHED, help="folder of the paper's numbers")

    sub = verb("estimate", estimate, "What a study costs: time, GPU-hours and disk, in all and for each table.")
    sub.add_argument("--study", type=Path, required=True, help="a study file, such as config/demo.yaml")
    sub.add_argument("--cores", type=int, default=os.cpu_count(), help="jobs at once, without a GPU")
    sub.add_argument("--measure", action="store_true", help="first try each stage on this machine, a minute or two")
    sub.add_argument("--gpus", type=int, default=1, help="GPUs at once, where there are any")
    sub.add_argument("--save", type=Path, help="write the rates of all results under results/ to this JSON file")

    for name, text in {
        "neighbours": "Draw queries and their nearest entries of a dictionary, as boxes on whole images.",
        "histograms": "Draw one query's scores against a dictionary, before and after training.",
    }.items():
        sub = verb(name, picture, text)
        sub.add_argument("--checkpoint", type=Path, required=True, help="checkpoint.pt of a pretraining")
        source = sub.add_mutually_exclusive_group(required=True)
        source.add_argument("--images", type=Path, help="folder of .jpg or .png files")
        source.add_argument("--store", type=Path, help="image store, instead of --images")
        sub.add_argument("--out", type=Path, required=True, help="PNG to write; a PDF is written beside it")
        if name == "neighbours":
            sub.add_argument("--queries", type=int, default=Pictures.queries, help="random queries to draw")
            sub.add_argument("--neighbours", type=int, default=Pictures.neighbours, help="nearest entries of each")
        sub.add_argument("--candidates", type=int, default=Pictures.candidates, help="queries to choose from")
        sub.add_argument(
            "--dictionary-size", type=int, default=Pictures.dictionary_size, help="entries, one a crop"
        )
        sub.add_argument("--seed", type=int, default=Pictures.seed, help="of images and crops")
        compute(sub)

    sub = verb("search-benchmark", search_benchmark, "Time and recall of the searches, by size of the dictionary.")
    sub.add_argument("--checkpoint", type=Path, required=True, help="checkpoint.pt of a pretraining")
    source = sub.add_mutually_exclusive_group(required=True)
    source.add_argument("--images", type=Path, help="folder of .jpg or .png files")
    source.add_argument("--store", type=Path, help="image store, instead of --images")
    sub.add_argument("--out", type=Path, required=True, help="JSON to write; TSV, PNG and PDF beside it")
    sub.add_argument("--sizes", type=sizes, default="4096,16384,65536,262144,1048576", help="entries, in commas")
    sub.add_argument("--k", type=int, default=20, help="neighbours per query")
    sub.add_argument("--batch", type=int, default=64, help="queries, and new entries, per step")
    sub.add_argument("--crops", type=int, default=32768, help="real crops; further entries are made from them")
    sub.add_argument("--seed", type=int, default=0, help="of images and crops")
    compute(sub)

    sub = verb("contact-sheet", contact_sheet, "Draw labelled samples of a split in COCO's layout.")
    sub.add_argument("--data", type=Path, required=True, help="folder in COCO's layout")
    sub.add_argument("--split", default="train2017")
    sub.add_argument("--images", type=int, default=24)
    sub.add_argument("--out", type=Path, required=True, help="PNG to write; a PDF is written beside it")
    return main


def main() -> int:
    args = parser().parse_args()
    try:
        args.function(args)
    except (ConfigError, DataError, FloatingPointError, OSError, Interrupted, Busy, Taken) as error:
        print(f"mlssl {args.verb}: {error}", file=sys.stderr)
        if isinstance(error, Taken):
            return NOT_OWNER
        return GO_ON_LATER if isinstance(error, Interrupted | Busy) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
