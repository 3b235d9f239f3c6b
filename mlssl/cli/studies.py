"""Commands about a whole study: estimate its cost, list its results, compile or repeat them."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from mlssl import results
from mlssl.cli.options import add_device, add_study, command, count, exists_already, json_file, named
from mlssl.digest import digest_of
from mlssl.errors import ConfigError, did_you_mean
from mlssl.files import write_text
from mlssl.project import PUBLISHED, study_file
from mlssl.study.identity import experiment


def add(commands: Any) -> None:
    """Add them to the parser."""
    sub = command(
        commands,
        "status",
        status,
        "List which results of a study exist, what runs now, what failed and why, and the time that is left.",
        "mlssl status demo",
        "mlssl status results/demo                            from its files alone, also of another machine",
    )
    add_study(sub)

    sub = command(
        commands,
        "redo",
        redo,
        "Move results to results/<study>/old, so that the next `mlssl run` makes them again. Without names of "
        "runs, results that were made by other code.",
        "mlssl redo demo                                      what other code made",
        "mlssl redo demo mls-50e07526-s0 --stage linear       one result of one run",
    )
    add_study(sub)
    sub.add_argument("run", nargs="*", metavar="RUN", help="names of runs")
    sub.add_argument("--all", action="store_true", help="all runs of the study")
    sub.add_argument(
        "--stage",
        action="append",
        metavar="NAME",
        help="pretrain (with its transfers), linear, …; all if not given; repeatable",
    )

    sub = command(
        commands,
        "settings",
        settings,
        "Print every setting of a study with its type, range, default and meaning.",
        "mlssl settings | less",
    )
    sub.add_argument("--format", choices=("markdown", "json-schema"), default="markdown")
    sub.add_argument("--out", type=named, metavar="FILE", help="file to write; printed if not given")

    sub = command(
        commands,
        "estimate",
        estimate,
        "Estimate what a study costs in time, GPU-hours and disk, in total and for each table.",
        "mlssl estimate demo --cores 8",
        "mlssl estimate coco --gpus 8",
    )
    add_study(sub)
    sub.add_argument(
        "--cores", type=count, metavar="N", default=os.cpu_count(), help="number of jobs at a time, without a GPU"
    )
    sub.add_argument("--measure", action="store_true", help="first time each stage on this machine (minutes)")
    sub.add_argument("--gpus", type=count, metavar="N", default=1, help="number of GPUs at a time")
    sub.add_argument(
        "--save", type=named, metavar="FILE", help="write the rates of all results under results/ to this JSON file"
    )

    sub = command(
        commands,
        "cost-benchmark",
        cost_benchmark,
        "Measure what a training step of each compared method costs: time, operations, memory, parameters.",
        "mlssl cost-benchmark competitors --out costs.json",
    )
    add_study(sub)
    sub.add_argument(
        "--out",
        type=json_file,
        metavar="FILE",
        required=True,
        help="JSON to write; TSV and Markdown are written beside it",
    )
    add_device(sub)

    for name, function, text in (
        ("collect", collect, "Collect the result files of a study in metrics.tsv, runs.tsv and image_groups.tsv."),
        ("tables", tables, "Write the tables of a study (TSV, Markdown, LaTeX) from metrics.tsv and runs.tsv."),
        ("figures", figures, "Draw the figures of a study (PNG, PDF) from metrics.tsv and runs.tsv."),
    ):
        sub = command(commands, name, function, text, f"mlssl {name} demo")
        add_study(sub)
        if name == "tables":
            sub.add_argument(
                "--published", type=Path, metavar="FOLDER", default=PUBLISHED, help="the paper's numbers"
            )

    sub = command(
        commands,
        "page",
        page,
        "Write the results page of a study, index.html, from metrics.tsv and its figures. Several studies are "
        "compared with the first, in a page of their own.",
        "mlssl page demo                                      results/demo/index.html",
        "mlssl page demo old/results/demo --out changed.html  two commits of a study, from their metrics.tsv",
    )
    add_study(sub)
    sub.add_argument(
        "others",
        nargs="*",
        type=study_file,
        metavar="STUDY",
        help="compared with the first: studies or their folders",
    )
    sub.add_argument("--out", type=named, metavar="FILE", help="page of a comparison (default: comparison.html)")

    sub = command(
        commands,
        "leaderboard",
        leaderboard,
        "Rank the methods of several studies by their metrics.tsv, in a table per evaluator, head and data set.",
        "mlssl leaderboard results                            all studies in this folder",
        "mlssl leaderboard demo shared/results/photos --out board",
    )
    sub.add_argument("studies", nargs="+", type=study_file, metavar="STUDY", help="studies, or folders of results")
    sub.add_argument(
        "--out",
        type=named,
        metavar="FOLDER",
        default=Path("leaderboard"),
        help="folder of leaderboard.tsv, .md and index.html",
    )


def status(args: argparse.Namespace) -> None:
    from mlssl.cli.status import report
    from mlssl.study.load import load
    from mlssl.study.study import FROZEN

    if args.study.is_dir():
        frozen = args.study.resolve() / FROZEN
        if not frozen.is_file() or frozen.parents[1].name != "results":
            raise ConfigError(f"{args.study}: is no folder results/<study> with {FROZEN}; give it, or a study file")
        os.chdir(frozen.parents[2])  # the paths of a frozen study begin with results/
        args.study = frozen
    print(report(load(args.study, overrides=args.set)))


def redo(args: argparse.Namespace) -> None:
    from mlssl.study.load import load
    from mlssl.study.progress import Progress, redo

    study = load(args.study, overrides=args.set)
    stages = args.stage or ["pretrain", *study.transfers]
    for stage in stages:
        if stage not in ("pretrain", *study.transfers):
            like = did_you_mean(stage, ["pretrain", *study.transfers])
            raise ConfigError(
                f"--stage: the study has no '{stage}'{like}; it has pretrain, {', '.join(study.transfers)}"
            )
    args.run = [str(name) for name in args.run]
    for name in args.run:
        if name not in study.runs:
            like = did_you_mean(name, study.runs)
            raise ConfigError(f"{args.study}: has no run '{name}'{like}; it has {', '.join(study.runs)}")
    if args.run or args.all:
        wanted = [(run, stage) for run in args.run or study.runs for stage in stages]
    else:
        wanted = [key for key in Progress(study).other_code if key[1] in stages or not args.stage]
    moved = redo(study, wanted)
    for path in moved:
        print(f"moved to {path}")
    print(f"{len(moved)} moved away; the next call of Snakemake makes them again" if moved else "nothing to redo")


def settings(args: argparse.Namespace) -> None:
    from mlssl.study import reference

    text = json.dumps(reference.schema(), indent=1) if args.format == "json-schema" else reference.markdown()
    if args.out:
        write_text(args.out, text.rstrip() + "\n")
    else:
        print(text)


def estimate(args: argparse.Namespace) -> None:
    from mlssl.cost import estimate, rates
    from mlssl.study.load import load

    study = load(args.study, overrides=args.set)
    if args.measure:
        from mlssl.cost.calibration import calibrate
        from mlssl.runtime import device

        on = device.choose()
        device.set_up(on, rates.THREADS)
        seconds = calibrate(study, on)
        rates.save(estimate.RESULTS / "rates.json", seconds, device=device.facts(on)["device"])
    if args.save:
        here = rates.this_device()
        rates.save(args.save, rates.learn(estimate.RESULTS, device=here), device=here)
    print(estimate.report(study, args.cores, gpus=args.gpus))


def cost_benchmark(args: argparse.Namespace) -> None:
    from mlssl.study.load import load
    from mlssl.study.settings import CostBenchmark

    study = load(args.study, overrides=args.set)
    config = study.cost_benchmark or CostBenchmark()
    if config.relative_to not in study.costed:
        raise ConfigError(
            f"{args.study}: compares no {config.relative_to}, whose step has the cost 1; add "
            "`cost_benchmark: {relative_to: METHOD}` with one of " + ", ".join(study.costed)
        )
    about = {
        "stage": "cost_benchmark",
        "digest": digest_of({method: run.digest for method, run in study.costed.items()}),
        "config_digest": digest_of(experiment(config)),
        "seed": min(study.file.seeds),
        "experiment": experiment(config),
        "methods": {method: run.id for method, run in study.costed.items()},
    }
    if exists_already(args.out, about):
        return

    from mlssl.cost_benchmark.measure import benchmark_study
    from mlssl.cost_benchmark.table import markdown, rows_of, tsv
    from mlssl.runtime import device
    from mlssl.study.code import stage_code

    on = device.choose(args.device)
    device.set_up(on, args.threads)
    watch = results.Stopwatch()
    rows = benchmark_study(study, config, on)
    facts = device.facts(on)
    result = results.result(about, rows_of(rows), code=stage_code("cost_benchmark"), data={}, **facts, watch=watch)
    write_text(args.out.with_suffix(".tsv"), tsv(rows))
    write_text(args.out.with_suffix(".md"), markdown(rows, config, facts["device"]))
    results.write_result(args.out, result)


def collect(args: argparse.Namespace) -> None:
    from mlssl.analysis.collect import collect
    from mlssl.study.load import load

    collect(load(args.study, overrides=args.set))


def tables(args: argparse.Namespace) -> None:
    from mlssl.study.load import load
    from mlssl.tables.write import write_tables

    write_tables(load(args.study, overrides=args.set), args.published)


def figures(args: argparse.Namespace) -> None:
    from mlssl.figures.write import write_figures
    from mlssl.study.load import load

    write_figures(load(args.study, overrides=args.set))


def page(args: argparse.Namespace) -> None:
    from mlssl.page.write import write_page
    from mlssl.study.load import load

    if args.others:
        compare(args)
    elif args.out:
        raise ConfigError("--out: is for the page of several studies; that of one is in its folder")
    else:
        print(write_page(load(args.study, overrides=args.set)))


def compare(args: argparse.Namespace) -> None:
    """The page of several studies, which is no stage of a workflow."""
    from mlssl.analysis.several import read
    from mlssl.page.several import write_comparison

    print(write_comparison(read([args.study, *args.others]), args.out or Path("comparison.html")))


def leaderboard(args: argparse.Namespace) -> None:
    from mlssl.analysis.several import read
    from mlssl.page.several import write_leaderboard

    print(write_leaderboard(read(args.studies), args.out))
