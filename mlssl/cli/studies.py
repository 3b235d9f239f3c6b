"""Commands about a whole study: run it, estimate its cost, list its results, compile or repeat them."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from mlssl import results
from mlssl.cli.options import add_device, add_overrides, add_study, command, count, exists_already, json_file, named
from mlssl.digest import digest_of
from mlssl.errors import ConfigError, did_you_mean
from mlssl.files import write_text
from mlssl.project import PUBLISHED, SNAKEFILE, study_file
from mlssl.study.identity import experiment, proposals_file
from mlssl.study.overrides import as_text, as_values


def add(commands: Any) -> None:
    """Add them to the parser."""
    sub = command(
        commands,
        "run",
        run,
        "Run a study with Snakemake: pretraining, transfers, tables, figures, page. Other options are Snakemake's.",
        "mlssl run tiny --cores 2",
        "mlssl run demo -n                                   what would run, and what it costs",
        "mlssl run demo --set name=short pretrain.epochs=2   the same study with other settings",
        "mlssl run --images shop --labels shop.csv --budget 2h --cores 4",
    )
    sub.usage = (
        "mlssl run STUDY [--set KEY=VALUE ...] [options of snakemake, such as -n or --cores 2]\n"
        "       mlssl run --images FOLDER [--labels FILE] [--method NAME] [--budget TIME] [--set ...] [options ...]"
    )
    sub.set_defaults(snakemake=[])
    sub.allow_abbrev = False  # an option of Snakemake is not a short form of one of these
    add_overrides(sub)
    own = "write <folder>.yaml, a study of own photos that extends config/photos.yaml, and run it"
    sub.add_argument("--images", type=Path, metavar="FOLDER", help=own)
    sub.add_argument(
        "--labels", type=Path, metavar="FILE", help="labels of some of --images (see `mlssl import --help`)"
    )
    sub.add_argument("--method", metavar="NAME", help="the only method to train, such as mls; all if not given")
    sub.add_argument("--budget", metavar="TIME", help="30min, 2h, 1d: as many epochs as end in this time")

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


def run(args: argparse.Namespace) -> None:
    words = list(args.snakemake)
    own = [name for name in ("labels", "method", "budget") if getattr(args, name) is not None]
    if args.images is None and own:
        raise ConfigError(f"--{own[0]}: is for --images FOLDER; a study file has its own")
    named = bool(words) and not words[0].startswith("-")
    if args.images is None and not named:
        raise ConfigError("give a study before the options: `mlssl run demo -n`, or the path of a study file")
    if args.images is not None and named:
        raise ConfigError(f"give --images or the study {words[0]}, not both")
    requested_cores(words)
    check_options(words)
    given = [f"study={own_study(args) if args.images is not None else study_file(words.pop(0))}"]
    if twice := [word for word in words if word.startswith("study=") or (word == words[0] and is_study(word))]:
        raise ConfigError(f"{twice[0]}: {given[0].removeprefix('study=')} is given already; give one study")
    if args.set:
        as_values(args.set)
        given.append(f"set={as_text(args.set)}")
    dry = any(re.fullmatch("--dry-?run|-[a-zA-Z]*n[a-zA-Z]*", word) for word in words)
    if dry and not any(re.match("--quiet|-q|--verbose|--printshellcmds|-[a-zA-Z]*p", word) for word in words):
        words += ["--quiet", "rules"]  # the plan, and a count of the jobs, but not hundreds of them one by one
    if "--config" in words:
        place = words.index("--config") + 1
        words[place:place] = given
    else:
        words += ["--config", *given]
    cores = (
        "--cores",
        "-c",
        "--jobs",
        "-j",
        "--profile",
        "--workflow-profile",
        "--executor",
        "-n",
        "--dry-run",
        "--dryrun",
    )
    if not any(word.startswith(cores) for word in words):
        words = ["--cores", "all", *words]
    if "--unlock" not in words and (left := left_lock()):
        print(left.format(given[0].removeprefix("study=")), file=sys.stderr)
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE), *words]
    os.execv(sys.executable, command)


USUAL = frozenset({"--cores", "--jobs", "--config", "--dry-run", "--quiet", "--unlock"})
"""Options of Snakemake that are known without its parser, whose import takes a second."""


def check_options(words: list[str]) -> None:
    """ConfigError for an option that neither `mlssl run` nor Snakemake has, and a profile that is not there."""
    given = [word.split("=")[0] for word in words if word.startswith("--")]
    if set(given) <= USUAL:
        return
    from snakemake.cli import get_argument_parser

    known = {name for action in get_argument_parser()._actions for name in action.option_strings}
    for option in given:
        if not any(name.startswith(option) for name in known):
            like = did_you_mean(option, [*known, "--images", "--labels", "--method", "--budget", "--set"])
            raise ConfigError(f"unknown option {option}{like}; `snakemake --help` lists those that it takes")
    found = re.search(r"(?:^| )--workflow-profile[ =](\S+)", " ".join(words))
    profiles = SNAKEFILE.parent / "profiles"
    if found and found[1] != "none":
        places = (Path(found[1]), Path("profiles") / found[1], profiles / found[1])
        if not any(place.exists() for place in places):  # Snakemake would run the study without it
            names = sorted(path.name for path in profiles.iterdir() if path.name != "default")
            like = did_you_mean(found[1], names)
            raise ConfigError(
                f"--workflow-profile: {found[1]}: no such folder{like}; give one of {', '.join(names)}"
            )


def is_study(word: str) -> bool:
    """Whether a word is a study, not a target of Snakemake."""
    path = study_file(word)
    return path.suffix in (".yaml", ".yml") and path.is_file()


def left_lock(folder: Path | None = None) -> str:
    """What to do about a lock of Snakemake in the working directory that no process of this machine seems to hold.

    Empty if there is none. A call on another machine, or in another container, may hold it: that cannot be seen
    from here, so it is not removed. `{}` is where the caller puts the study.
    """
    folder = folder or Path.cwd()
    if not list((folder / ".snakemake" / "locks").glob("*.lock")):
        return ""
    import psutil

    for process in psutil.process_iter(["cmdline", "cwd"]):
        words = process.info["cmdline"] or []
        if process.info["cwd"] == str(folder) and any("snakemake" in word for word in words):
            return ""
    return (
        "note: an earlier call in this folder was killed and has left its lock, or one on another machine holds "
        "it; if none runs: `mlssl run {} --unlock`, then the same command again"
    )


def own_study(args: argparse.Namespace) -> Path:
    """Write the study of `--images`, with the epochs that `--budget` allows; returns its path."""
    from mlssl.cost.estimate import seconds_left
    from mlssl.data.images import find_images
    from mlssl.study import own
    from mlssl.study.load import load

    own.values(args.images, args.labels, args.method)  # names what is not there
    images = len(find_images(args.images))
    if args.budget is None:
        path = own.write(own.values(args.images, args.labels, args.method, images=images))
    else:
        budget, cores = own.seconds_of(args.budget), requested_cores(args.snakemake)

        def seconds(epochs: int) -> float:
            with tempfile.TemporaryDirectory() as folder:
                content = own.values(args.images, args.labels, args.method, epochs, images)
                tried = Path(folder) / "study.yaml"
                write_text(tried, json.dumps(content))
                try:
                    study = load(tried, overrides=args.set)
                except ConfigError as error:  # not the place of a file that is gone
                    raise ConfigError(str(error).replace(f"{tried}: ", "--set: ")) from None
                for run in study.runs.values():
                    if run.config.target and run.config.batch_size > images:
                        raise ConfigError(
                            f"--set: pretrain.batch_size: {run.config.batch_size} is more than the {images} "
                            "photos; give less"
                        )
                return seconds_left(study, cores)

        epochs = own.epochs_within(budget, seconds)
        path = own.write(own.values(args.images, args.labels, args.method, epochs, images))
        print(
            f"{args.budget}: {epochs} epochs, about {seconds(epochs) / 60:.0f} min on {cores} cores",
            file=sys.stderr,
        )
    print(f"{path}: the study that runs; edit it and `mlssl run {path}` to change it", file=sys.stderr)
    return path


def requested_cores(words: list[str]) -> int:
    """The number after `--cores` or `-c` among Snakemake's options, else that of this machine.

    Raises ConfigError if it, or a number of jobs, is below 1.
    """
    given = " ".join(words)
    for option, number in re.findall(r"(?:^| )(--cores|-c|--jobs|-j)[ =]?(-?\d+)(?= |$)", given):
        if int(number) < 1:
            raise ConfigError(f"{option}: {number} is not allowed; give at least 1")
    found = re.search(r"(?:^| )(?:--cores|-c)[ =]?(\d+)", given)
    return int(found[1]) if found else os.cpu_count() or 1


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

    from mlssl.cost_benchmark.measure import benchmark, share_of_steps
    from mlssl.cost_benchmark.table import markdown, rows_of, tsv
    from mlssl.data.pairs import read_pairs_about
    from mlssl.data.proposals import read_about
    from mlssl.runtime import device
    from mlssl.study.code import stage_code

    on = device.choose(args.device)
    device.set_up(on, args.threads)
    watch = results.Stopwatch()
    configs = {method: run.config for method, run in study.costed.items()}
    for first in study.first_stages.values():
        configs.setdefault(study.runs[first].config.method, study.runs[first].config)
    rows = benchmark(configs, config, on)
    for method, run in study.costed.items():
        boxes = proposals_file(run.config.proposals, study.store)
        if run.config.takes_proposals and boxes.exists():
            found = read_about(boxes)
            rows[method] |= {"before_s": found["core_seconds"], "before_mb": boxes.stat().st_size / 1e6}
        if run.first_stage:
            before = study.runs[run.first_stage].config
            rows[method]["first_stage"] = share_of_steps(before, run.config) * (
                rows[before.method]["relative"] or 0
            )
        if run.config.pairs_file and Path(run.config.pairs_file).exists():
            rows[method]["pairs_s"] = read_pairs_about(Path(run.config.pairs_file))["seconds"]
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
