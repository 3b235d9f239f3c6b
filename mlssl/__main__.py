"""`mlssl <command>`: every stage that has a cost or a result, callable by hand.

Snakemake calls exactly these. Each command imports what it needs when it runs, so `--help` is instant.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlssl import results
from mlssl.digest import digest_of
from mlssl.errors import ConfigError, DataError
from mlssl.files import write_text
from mlssl.pretrain.run import signals as interrupt
from mlssl.pretrain.run.owner import NOT_OWNER, Busy, Taken
from mlssl.pretrain.run.signals import GO_ON_LATER, Interrupted
from mlssl.project import PUBLISHED, SNAKEFILE, study_file
from mlssl.study.settings import (
    TRANSFERS,
    Data,
    Pictures,
    Pretrain,
    PseudoLabels,
    SearchBenchmark,
    build,
    experiment,
    plain,
    read,
)


def scenes(args: argparse.Namespace) -> None:
    from mlssl.scenes import write_scenes
    from mlssl.study import sources

    write_scenes(
        args.out,
        images=args.images,
        val_images=args.val_images or max(1, args.images // 4),
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


def resolve(args: argparse.Namespace) -> None:
    import yaml

    from mlssl.study.expand import load

    study = load(args.study)
    if args.name in study.runs:
        config = study.runs[args.name].config
    elif args.name in study.transfers:
        config = study.transfers[args.name]
    else:
        known = [*study.transfers, *study.runs]
        raise ConfigError(f"{args.study}: has no run or transfer '{args.name}'; it has {', '.join(known)}")
    write_text(args.out, yaml.safe_dump(plain(config), sort_keys=False))


def pretrain(args: argparse.Namespace) -> None:
    with interrupt.listening() as stop:
        from mlssl.data.store import build_store
        from mlssl.pretrain.loop import identified, pretrain
        from mlssl.runtime import device, distributed

        if args.config:
            config, out, name = identified(read(Pretrain, args.config)), args.out, args.run or args.out.name
            store_path = args.store or args.out / "store"
        else:
            study, name = of_study(args), args.run
            config, out = study.runs[name].config, args.out or study.out / "runs" / name
            store_path = args.store or study.store
        with distributed.joined(args.device) as own_device:
            if distributed.is_main():
                images = {"short_side": config.data.short_side, "images_id": config.data.images_id}
                build_store(Path(config.data.root) / config.data.train, store_path, **images)
            distributed.wait_for_all()
            on = device.choose(own_device, args.threads)
            pretrain(config, store_path, out, run=name, device=on, stop=stop, changed_code=args.changed_code)


def of_study(args: argparse.Namespace) -> Any:
    """The study of `--study`, which has the run of `--run`."""
    from mlssl.study.expand import load

    study = load(args.study)
    if args.run not in study.runs:
        raise ConfigError(
            f"{args.study}: has no run '{args.run}'; it has {', '.join(study.runs)} "
            "(names change when data or settings do)"
        )
    return study


def exists_already(path: Path, about: Mapping[str, Any]) -> bool:
    """Whether the result that `about` describes is at `path`; says so."""
    if there := results.exists(path, about):
        print(f"{path}: exists already; nothing to do (`mlssl redo` lets it be made again)", file=sys.stderr)
    return there


def transfer(args: argparse.Namespace) -> None:
    import importlib

    from mlssl.runtime import device, distributed
    from mlssl.study.code import stage_code
    from mlssl.study.identity import about_transfer
    from mlssl.study.sources import by_content, contents
    from mlssl.transfer.load import load_backbone

    watch = results.Stopwatch()
    if args.config:
        config, backbone, out = read(TRANSFERS[args.verb], args.config), args.backbone, args.out
        config = dataclasses.replace(config, data=by_content(config.data))
    else:
        study = of_study(args)
        folder = study.out / "runs" / args.run
        if args.verb not in study.transfers:
            raise ConfigError(f"{args.study}: has no transfer '{args.verb}'; add it under transfers")
        config, backbone = study.transfers[args.verb], args.backbone or folder / "backbone.pt"
        out = args.out or study.result(args.run, args.verb)
    evaluate = importlib.import_module(f"mlssl.transfer.{args.verb}").evaluate
    _, meta = load_backbone(backbone)
    if args.seed is not None:
        meta["seed"] = args.seed
    about = about_transfer(args.verb, config, meta)
    with distributed.joined(args.device) as own_device:
        if distributed.count() > 1 and args.verb == "linear":
            raise ConfigError("linear: fits on one device; start it as one process")
        if distributed.anyone(distributed.is_main() and exists_already(out, about))[0]:
            return
        on = device.choose(own_device, args.threads)
        rows, notes = evaluate(backbone, config, seed=meta["seed"], device=on)
        if not distributed.is_main():
            return
        notes["ranks"] = distributed.count()
    made_by = {"code": stage_code(args.verb), "data": contents(config.data)}
    result = results.result(about, rows, **made_by, **device.facts(on), watch=watch, notes=notes)
    results.write_result(out, result)
    for row in rows:
        print(f"{row['protocol']:>14} {row['metric']:<10} {row['value']:6.2f}  (n = {row['n']})")


def pseudo_labels(args: argparse.Namespace) -> None:
    from mlssl.study.code import stage_code
    from mlssl.study.identity import about_transfer
    from mlssl.study.sources import by_content, contents
    from mlssl.transfer.pseudo_labels import evaluate

    watch = results.Stopwatch()
    if args.config:
        config, run, store_path, out = read(PseudoLabels, args.config), args.run, args.store, args.out
        config = dataclasses.replace(config, data=by_content(config.data))
    else:
        study = of_study(args)
        run, store_path = study.out / "runs" / args.run, args.store or study.store
        if args.verb.replace("-", "_") not in study.transfers:
            raise ConfigError(f"{args.study}: has no transfer 'pseudo_labels'; add it under transfers")
        config, out = study.transfers["pseudo_labels"], args.out or study.result(args.run, "pseudo_labels")
    found = results.read_result(Path(run) / "pretrain.json")
    if found is None:
        raise DataError(f"{run}/pretrain.json: no such file; give a finished pretraining")
    about = about_transfer("pseudo_labels", config, found["header"])
    if exists_already(out, about):
        return
    rows, notes = evaluate(Path(run) / "pseudo_labels.npz", store_path, config)
    made_by = {"code": stage_code("pseudo_labels"), "data": contents(config.data)}
    where = {"device": "cpu", "threads": 1}
    result = results.result(about, rows, **made_by, **where, watch=watch, notes=notes)
    results.write_result(out, result)
    for row in rows:
        print(f"{row['metric']:>14} {'undefined' if row['value'] is None else row['value']}  (n = {row['n']})")


def collect(args: argparse.Namespace) -> None:
    from mlssl.analysis.collect import collect
    from mlssl.study.expand import load

    collect(load(args.study))


def tables(args: argparse.Namespace) -> None:
    from mlssl.study.expand import load
    from mlssl.tables.write import write_tables

    write_tables(load(args.study), args.published)


def figures(args: argparse.Namespace) -> None:
    from mlssl.figures.write import write_figures
    from mlssl.study.expand import load

    write_figures(load(args.study))


def estimate(args: argparse.Namespace) -> None:
    from mlssl.cost import estimate, rates
    from mlssl.study.expand import load

    study = load(args.study)
    if args.measure:
        from mlssl.cost.calibration import calibrate
        from mlssl.runtime import device

        on = device.choose("auto", rates.THREADS)
        seconds = calibrate(study, on)
        rates.save(estimate.RESULTS / "rates.json", seconds, device=device.facts(on)["device"])
    if args.save:
        here = rates.this_device()
        rates.save(args.save, rates.learn(estimate.RESULTS, device=here), device=here)
    print(estimate.report(study, args.cores, gpus=args.gpus))


def run(args: argparse.Namespace) -> None:
    words, study = list(args.snakemake), f"study={study_file(args.study)}"
    if "--config" in words:
        words.insert(words.index("--config") + 1, study)
    else:
        words += ["--config", study]
    cores = ("--cores", "-c", "--jobs", "-j", "--profile", "--executor", "-n", "--dry-run", "--dryrun")
    if not any(word.startswith(cores) for word in words):
        words = ["--cores", "all", *words]
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE), *words]
    os.execv(sys.executable, command)


def status(args: argparse.Namespace) -> None:
    from mlssl.study.expand import load
    from mlssl.study.progress import Progress

    print(Progress(load(args.study)).status())


def redo(args: argparse.Namespace) -> None:
    from mlssl.study.expand import load
    from mlssl.study.progress import Progress, redo

    study = load(args.study)
    stages = args.stage or ["pretrain", *study.transfers]
    for stage in stages:
        if stage not in ("pretrain", *study.transfers):
            raise ConfigError(f"--stage: the study has no '{stage}'; it has pretrain, {', '.join(study.transfers)}")
    for name in args.run:
        if name not in study.runs:
            raise ConfigError(f"{args.study}: has no run '{name}'; it has {', '.join(study.runs)}")
    if args.run or args.all:
        wanted = [(run, stage) for run in args.run or study.runs for stage in stages]
    else:
        wanted = [key for key in Progress(study).other_code if key[1] in stages or not args.stage]
    moved = redo(study, wanted)
    for path in moved:
        print(f"moved to {path}")
    print(f"{len(moved)} moved away; the next call of Snakemake makes them again" if moved else "nothing to redo")


def settings(args: argparse.Namespace) -> None:
    import json

    from mlssl.study import reference

    text = json.dumps(reference.schema(), indent=1) if args.format == "json-schema" else reference.markdown()
    if args.out:
        write_text(args.out, text.rstrip() + "\n")
    else:
        print(text)


def contact_sheet(args: argparse.Namespace) -> None:
    from mlssl.pictures.contact_sheet import write_contact_sheet

    write_contact_sheet(args.data, args.split, args.out, images=args.images)


def picture(args: argparse.Namespace) -> None:
    from mlssl.data.store import ImageStore
    from mlssl.pictures.embed import Folder, embed, read_run
    from mlssl.runtime import device

    run = read_run(args.checkpoint)
    images = ImageStore(args.store) if args.store else Folder(args.images, run.config.data.short_side)
    about = f"{run.about()}, images of {'/'.join((args.store or args.images).parts[-2:])}"
    given = {f.name: getattr(args, f.name) for f in dataclasses.fields(Pictures) if hasattr(args, f.name)}
    pictures = build(Pictures, given, args.verb)
    on = device.choose(args.device, args.threads)
    after = embed(run, images, pictures, on)
    if args.verb == "neighbours":
        from mlssl.pictures.neighbours import write_neighbours

        queries, neighbours = pictures.queries, pictures.neighbours
        write_neighbours(
            *after, lambda i: images.image(i).numpy(), args.out, rows=queries, neighbours=neighbours, about=about
        )
    else:
        from mlssl.pictures.histograms import write_histograms

        before = embed(run, images, pictures, on, trained=False)
        write_histograms(before, after, lambda i: images.image(i).numpy(), args.out, about=about)


def search_benchmark(args: argparse.Namespace) -> None:
    from mlssl.data.store import ImageStore
    from mlssl.pictures.embed import Folder, read_run
    from mlssl.runtime import device
    from mlssl.search_benchmark.figure import write_search_figure
    from mlssl.search_benchmark.measure import benchmark, rows_of
    from mlssl.study.code import stage_code
    from mlssl.study.identity import about_run
    from mlssl.study.sources import contents

    if args.study:
        from mlssl.study.expand import load

        study = load(args.study)
        if not study.search_benchmark:
            raise ConfigError(f"{args.study}: has no search_benchmark; add it")
        settings, out = study.search_benchmark, study.search_out / "search.json"
        run = read_run(study.out / "runs" / study.compared[settings.method] / "checkpoint.pt")
        images = ImageStore(study.store)
    else:
        run, out = read_run(args.checkpoint), args.out
        images = ImageStore(args.store) if args.store else Folder(args.images, run.config.data.short_side)
        fields = {
            f.name: getattr(args, f.name) for f in dataclasses.fields(SearchBenchmark) if hasattr(args, f.name)
        }
        settings = build(SearchBenchmark, fields | {"method": run.config.method}, args.verb)
    on = device.choose(args.device, args.threads)
    own = {"stage": "search_benchmark", "experiment": experiment(settings), "config": plain(settings)}
    about = about_run(run.config, run.name) | own | {"config_digest": digest_of(experiment(settings))}
    if exists_already(out, about):
        return
    watch = results.Stopwatch()
    table, notes = benchmark(run, images, settings, on)
    made_by = {"code": stage_code("search_benchmark", run.config.target), "data": contents(run.config.data)}
    result = results.result(about, rows_of(table), **made_by, **device.facts(on), watch=watch, notes=notes)
    text = table.round(4).to_csv(sep="\t", index=False, na_rep="NA")
    write_text(out.with_suffix(".tsv"), text)
    write_search_figure(table, result["header"], out)
    results.write_result(out, result)


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
    main = argparse.ArgumentParser(prog="mlssl", description=__doc__.split("\n\n")[0])
    verbs = main.add_subparsers(dest="verb", required=True, metavar="command")

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
    sub.add_argument("--images-id", help="identity of the images, to be written down; Snakemake gives it")
    sub.add_argument("--check", action="store_true", help="read the store again and compare its checksum")

    sub = verb("resolve", resolve, "Write the full configuration of one run or transfer of a study.")
    sub.add_argument("name", help="a run's name, or linear, detection, segmentation")
    sub.add_argument("--study", type=Path, required=True, help="a study file, such as config/demo.yaml")
    sub.add_argument("--out", type=Path, required=True, help="the YAML file to write")

    def of_run(sub: argparse.ArgumentParser, config: str) -> None:
        source = sub.add_mutually_exclusive_group(required=True)
        source.add_argument("--study", type=Path, help="a study file; with --run, a run of it")
        source.add_argument("--config", type=Path, help=config)

    sub = verb("pretrain", pretrain, "Train a backbone without labels. A run that was killed goes on.")
    of_run(sub, "instead of --study: a run's settings (see resolve)")
    sub.add_argument("--run", help="name of the run; with --config the name to report, that of --out if not given")
    sub.add_argument("--out", type=Path, help="folder for backbone, checkpoint, log and cost; needed with --config")
    sub.add_argument("--store", type=Path, help="image store; built if it is not there")
    sub.add_argument("--changed-code", action="store_true", help="go on with a run that other code has begun")
    compute(sub)

    for name, text in {
        "linear": "Multi-label linear probe on a frozen backbone: mAP, also with few labels.",
        "detection": "Mask R-CNN with an FPN on a backbone: box and mask AP.",
        "segmentation": "FCN on a backbone: mIoU, mAcc, aAcc.",
    }.items():
        sub = verb(name, transfer, text)
        of_run(sub, "instead of --study: the transfer's settings (see resolve)")
        sub.add_argument("--run", help="name of a run of the study")
        sub.add_argument("--backbone", type=Path, help="backbone.pt of a pretraining; needed with --config")
        sub.add_argument("--out", type=Path, help="result file (JSON); must not exist; needed with --config")
        sub.add_argument("--seed", type=int, help="the pretraining's seed if not given")
        compute(sub)

    sub = verb("pseudo-labels", pseudo_labels, "Judge the labels a run trained with by annotations it never saw.")
    of_run(sub, "instead of --study: the settings (see resolve)")
    sub.add_argument("--run", required=True, help="name of a run of the study; with --config the folder of a run")
    sub.add_argument("--store", type=Path, help="the image store it trained on; needed with --config")
    sub.add_argument("--out", type=Path, help="result file (JSON); must not exist; needed with --config")

    for name, function, text in (
        ("collect", collect, "Gather a study's result files into metrics.tsv and runs.tsv."),
        ("tables", tables, "Write a study's tables (TSV, Markdown, LaTeX) from metrics.tsv and runs.tsv."),
        ("figures", figures, "Draw a study's figures (PNG, PDF)."),
    ):
        sub = verb(name, function, text)
        sub.add_argument("--study", type=Path, required=True, help="a study file, such as config/demo.yaml")
        if name == "tables":
            sub.add_argument("--published", type=Path, default=PUBLISHED, help="folder of the paper's numbers")

    sub = verb("run", run, "Run a study by Snakemake: pretrain, transfer, tables, figures.")
    sub.add_argument("study", help="a study file, or the name of one that ships: demo, tiny, ablations, …")
    sub.add_argument("snakemake", nargs=argparse.REMAINDER, help="options of snakemake, such as -n or --cores 2")

    sub = verb("status", status, "Which results of a study are there, which are missing, which are by other code.")
    sub.add_argument("--study", type=Path, required=True, help="a study file, such as config/demo.yaml")

    sub = verb("redo", redo, "Move results away, so that they are made again. Without names: those by other code.")
    sub.add_argument("run", nargs="*", help="names of runs")
    sub.add_argument("--study", type=Path, required=True, help="a study file, such as config/demo.yaml")
    sub.add_argument("--all", action="store_true", help="all runs of the study")
    sub.add_argument("--stage", action="append", help="pretrain (with its transfers), linear, …; all if not given")

    sub = verb("settings", settings, "Print every setting of a study: type, range, default, and what it does.")
    sub.add_argument("--format", choices=("markdown", "json-schema"), default="markdown")
    sub.add_argument("--out", type=Path, help="file to write; printed if not given")

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
    source = sub.add_mutually_exclusive_group(required=True)
    source.add_argument("--study", type=Path, help="a study file, which has all settings")
    source.add_argument("--checkpoint", type=Path, help="instead of --study: checkpoint.pt of a pretraining")
    source = sub.add_mutually_exclusive_group()
    source.add_argument("--images", type=Path, help="folder of .jpg or .png files")
    source.add_argument("--store", type=Path, help="image store, instead of --images")
    sub.add_argument("--out", type=Path, help="JSON to write; TSV, PNG and PDF beside it")
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


NEEDED = {
    "pretrain": {"study": ["run"], "config": ["out"]},
    "linear": {"study": ["run"], "config": ["backbone", "out"]},
    "detection": {"study": ["run"], "config": ["backbone", "out"]},
    "segmentation": {"study": ["run"], "config": ["backbone", "out"]},
    "search-benchmark": {"checkpoint": ["out"]},
    "pseudo-labels": {"study": ["run"], "config": ["store", "out"]},
}
"""Command -> what must be given beside `--study` or `--config`."""


def main() -> int:
    commands = parser()
    args = commands.parse_args()
    for option in NEEDED.get(args.verb, {}):
        if getattr(args, option) is not None:
            for needed in NEEDED[args.verb][option]:
                if getattr(args, needed) is None:
                    commands.error(f"{args.verb}: --{option} needs --{needed} too")
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
