"""Commands that draw or measure a trained run."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from mlssl import results
from mlssl.cli.options import command, compute, exists_already, sizes
from mlssl.digest import digest_of
from mlssl.errors import ConfigError
from mlssl.files import write_text
from mlssl.study.identity import experiment
from mlssl.study.settings import Pictures, SearchBenchmark
from mlssl.study.validation import build, plain


def add(commands: Any) -> None:
    """Add them to the parser."""
    for name, text in {
        "neighbours": "Draw queries and their nearest entries of a dictionary, as boxes on whole images.",
        "histograms": "Draw one query's scores against a dictionary, before and after training.",
    }.items():
        sub = command(commands, name, picture, text)
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

    sub = command(
        commands,
        "search-benchmark",
        search_benchmark,
        "Time and recall of the searches, by size of the dictionary.",
    )
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


def picture(args: argparse.Namespace) -> None:
    from mlssl.data.store import ImageStore
    from mlssl.pictures.embed import Folder, embed, read_run
    from mlssl.runtime import device

    run = read_run(args.checkpoint)
    images = ImageStore(args.store) if args.store else Folder(args.images, run.config.data.short_side)
    about = f"{run.about()}, images of {'/'.join((args.store or args.images).parts[-2:])}"
    given = {f.name: getattr(args, f.name) for f in dataclasses.fields(Pictures) if hasattr(args, f.name)}
    pictures = build(Pictures, given, args.command)
    on = device.choose(args.device)
    device.set_up(on, args.threads)
    after = embed(run, images, pictures, on)
    if args.command == "neighbours":
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
        settings = build(SearchBenchmark, fields | {"method": run.config.method}, args.command)
    on = device.choose(args.device)
    device.set_up(on, args.threads)
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
