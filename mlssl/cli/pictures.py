"""Commands that draw the embeddings of a trained run, or measure searches on them."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlssl import results
from mlssl.cli.options import (
    add_device,
    add_run,
    add_settings,
    command,
    exists_already,
    given_settings,
    json_file,
    png,
    study_of_run,
)
from mlssl.digest import digest_of
from mlssl.errors import ConfigError
from mlssl.files import write_text
from mlssl.study.identity import experiment
from mlssl.study.settings import Pictures, SearchBenchmark
from mlssl.study.validation import build, plain

if TYPE_CHECKING:
    import numpy as np

    from mlssl.data.store import ImageStore
    from mlssl.pictures.embed import Crops, Folder
    from mlssl.pretrain.trained import Run
    from mlssl.study.study import Study


def add(commands: Any) -> None:
    """Add them to the parser."""
    sub = command(
        commands,
        "neighbours",
        picture,
        "Draw query crops and the crops of their nearest dictionary entries, as boxes on whole images.",
        "mlssl neighbours --study demo --run-name RUN --out neighbours.png",
        "mlssl neighbours --checkpoint run/checkpoint.pt --images photos --out neighbours.png",
    )
    add_embedding(sub, png, "PNG to write, and a PDF beside it")
    add_settings(sub, Pictures, without=())

    sub = command(
        commands,
        "histograms",
        picture,
        "Count the scores of one query against a dictionary, before and after training (for histogram-sheet).",
        "mlssl histograms --study demo --run-name RUN --out mls.json",
    )
    add_embedding(sub, json_file, "JSON to write")
    add_settings(sub, Pictures, without=("queries", "neighbours"))

    sub = command(
        commands,
        "histogram-sheet",
        histogram_sheet,
        "Draw histograms of the scores of several runs on one sheet with common axes.",
        "mlssl histogram-sheet mls.json moco.json --out histograms.png",
    )
    sub.add_argument("files", type=Path, nargs="+", metavar="FILE", help="JSON of `mlssl histograms`, one per run")
    sub.add_argument("--out", type=png, metavar="FILE", required=True, help="PNG to write, and a PDF beside it")

    sub = command(
        commands,
        "search-benchmark",
        search_benchmark,
        "Measure time and recall of exact and approximate nearest-neighbour search over the dictionary size.",
        "mlssl search-benchmark --checkpoint run/checkpoint.pt --images photos --sizes 4096,65536 --out a.json",
    )
    add_embedding(sub, json_file, "JSON to write; TSV, PNG and PDF are written beside it")
    add_settings(sub, SearchBenchmark, without=("method",))


def add_embedding(sub: argparse.ArgumentParser, kind: Callable[[str], Path], out: str) -> None:
    """Add the options of a command that embeds images with a trained run."""
    add_run(sub, "--checkpoint", "instead of --study: checkpoint.pt of a pretraining")
    images = sub.add_mutually_exclusive_group()
    images.add_argument(
        "--images", type=Path, metavar="FOLDER", help="images; this or --store is needed with --checkpoint"
    )
    images.add_argument("--store", type=Path, metavar="FOLDER", help="image store (see `mlssl store`)")
    sub.add_argument("--out", type=kind, metavar="FILE", required=True, help=out)
    add_device(sub)


def trained(args: argparse.Namespace, cls: type) -> tuple[Study | None, Run, ImageStore | Folder, Path]:
    """The study (None with --checkpoint), the run, and the images with their path.

    Raises ConfigError if settings of `cls` or images are given beside --study, which has them, or if --checkpoint
    is given without images.
    """
    from mlssl.data.store import ImageStore
    from mlssl.pictures.embed import Folder
    from mlssl.pretrain.trained import read_run

    if args.study:
        beside = [*given_settings(args, cls), *(name for name in ("images", "store") if getattr(args, name))]
        if beside:
            option = f"--{beside[0].replace('_', '-')}"
            raise ConfigError(f"{option}: {args.study} decides this; edit the study, or give --checkpoint instead")
        study = study_of_run(args)
        checkpoint = study.out / "runs" / args.run_name / "checkpoint.pt"
        return study, read_run(checkpoint), ImageStore(study.store), study.store
    if not (args.images or args.store):
        raise ConfigError(f"{args.command}: --checkpoint needs images; give --images or --store")
    run = read_run(args.checkpoint)
    images = ImageStore(args.store) if args.store else Folder(args.images, run.config.data.short_side)
    return None, run, images, args.store or args.images


def picture(args: argparse.Namespace) -> None:
    from mlssl.analysis.names import in_words
    from mlssl.pictures.embed import embed
    from mlssl.runtime import device

    study, run, images, path = trained(args, Pictures)
    if study:
        pictures = study.pictures or Pictures()
    else:
        pictures = build(Pictures, given_settings(args, Pictures), args.command)
    # The study's name of a method may be newer than the run.
    method = next((m for m, own in study.pictured.items() if own == run.name), None) if study else None
    method = method or run.config.method
    source = f"of {'/'.join(path.parts[-2:])}"
    on = device.choose(args.device)
    device.set_up(on, args.threads)
    after = embed(run, images, pictures, on)

    def pixels(i: int) -> np.ndarray:
        return images.image(i).numpy()

    if args.command == "neighbours":
        from mlssl.pictures.neighbours import write_neighbours

        rows, neighbours = pictures.queries, pictures.neighbours
        words: dict[str, Any] = {"method": in_words(method), "about": f"{run.about()}, images {source}"}
        words["shown"] = categories(run, images, after)
        write_neighbours(*after, pixels, args.out, rows=rows, neighbours=neighbours, **words)
    else:
        from mlssl.pictures.histograms import write_histograms

        before = embed(run, images, pictures, on, trained=False)
        trained_run = run.config.target is not None
        write_histograms(before, after, args.out, method=method, trained=trained_run, about=f"Images {source}")


def categories(run: Run, images: ImageStore | Folder, crops: Sequence[Crops]) -> tuple[np.ndarray, ...] | None:
    """The categories that crops of a run's training images show, bool N x C each.

    None where they are not known: images that are not those of the run, or of which some or all have no labels.
    """
    from mlssl.data.coco import read_split
    from mlssl.data.store import ImageStore
    from mlssl.study.settings import PseudoLabels
    from mlssl.transfer import needs
    from mlssl.transfer.crop_categories import categories_shown, read_objects

    data = run.config.data
    annotated = (Path(data.root) / "annotations" / f"instances_{data.train}.json").exists()
    if not annotated or not isinstance(images, ImageStore):
        return None
    split = read_split(data.root, data.train)
    if needs.pseudo_labels(split) or not {image["file_name"] for image in split.images}.issuperset(images.names):
        return None
    objects = read_objects(split, images.path)
    return tuple(categories_shown(objects, own.image, own.box, PseudoLabels(data).visible) for own in crops)


def histogram_sheet(args: argparse.Namespace) -> None:
    from mlssl.pictures.histogram_sheet import write_histogram_sheet

    write_histogram_sheet(args.files, args.out)


def search_benchmark(args: argparse.Namespace) -> None:
    from mlssl.runtime import device
    from mlssl.search_benchmark.figure import write_search_figure
    from mlssl.search_benchmark.measure import benchmark, rows_of
    from mlssl.study.code import stage_code
    from mlssl.study.identity import about_run
    from mlssl.study.sources import contents

    study, run, images, _ = trained(args, SearchBenchmark)
    if study:
        settings = study.search_benchmark
    else:
        given = given_settings(args, SearchBenchmark) | {"method": run.config.method}
        settings = build(SearchBenchmark, given, args.command)
    if settings is None:
        raise ConfigError(f"{args.study}: has no search_benchmark; add it")
    own = {"stage": "search_benchmark", "experiment": experiment(settings), "config": plain(settings)}
    about = about_run(run.config, run.name) | own | {"config_digest": digest_of(experiment(settings))}
    if exists_already(args.out, about):
        return
    on = device.choose(args.device)
    device.set_up(on, args.threads)
    watch = results.Stopwatch()
    table, notes = benchmark(run, images, settings, on)
    code, data = stage_code("search_benchmark", run.config.target), contents(run.config.data)
    result = results.result(
        about, rows_of(table), code=code, data=data, **device.facts(on), watch=watch, notes=notes
    )
    text = table.round(4).to_csv(sep="\t", index=False, na_rep="NA")
    write_text(args.out.with_suffix(".tsv"), text)
    write_search_figure(table, result["header"], args.out)
    results.write_result(args.out, result)
