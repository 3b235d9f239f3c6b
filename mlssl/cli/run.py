"""`mlssl run`: Snakemake for a study, or for a folder of own images."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from mlssl.cli.options import add_overrides, command
from mlssl.errors import ConfigError, did_you_mean
from mlssl.files import write_text
from mlssl.project import SNAKEFILE, study_file
from mlssl.study.overrides import as_text, as_values


def add(commands: Any) -> None:
    """Add it to the parser."""
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


NEED_NO_CORES = ("-n", "--dry-run", "--dryrun", "--profile", "--workflow-profile", "--executor")
"""Starts of options with which Snakemake needs no number of cores or jobs."""
SET_CORES = ("--cores", "-c", "--jobs", "-j")


def run(args: argparse.Namespace) -> None:
    """Replace this process by Snakemake's."""
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
    if not any(word.startswith((*SET_CORES, *NEED_NO_CORES)) for word in words):
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
