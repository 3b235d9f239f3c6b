"""`mlssl <command>`: every stage that has a cost or a result, callable by hand.

Snakemake calls exactly these. Each command imports what it needs when it runs, so `--help` is instant.
"""

from __future__ import annotations

import argparse
import os
import sys

from mlssl import __version__
from mlssl.cli import checkpoints, data, pictures, stages, studies
from mlssl.errors import ConfigError, DataError
from mlssl.pretrain.run.owner import NOT_OWNER, RunInUse, TakenOver
from mlssl.pretrain.run.signals import RUN_AGAIN_LATER, Interrupted
from mlssl.study.settings import ONE_DEVICE

STAGE_NEEDS = {"study": ["run_name"], "config": ["backbone", "out"]}
EMBEDDING_NEEDS = {"study": ["run_name"]}
NEEDED = {
    "pretrain": {"study": ["run_name"], "config": ["out"]},
    **dict.fromkeys((*ONE_DEVICE, "detection", "segmentation"), STAGE_NEEDS),
    "pseudo-labels": {"study": ["run_name"], "config": ["run_folder", "store", "out"]},
    "neighbours": EMBEDDING_NEEDS,
    "histograms": EMBEDDING_NEEDS,
    "search-benchmark": EMBEDDING_NEEDS,
}
"""Command -> option -> what must be given beside that option."""


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    main = argparse.ArgumentParser(
        prog="mlssl",
        description="Benchmark of multi-label self-supervised learning. `mlssl run` runs a whole study; the other "
        "commands are its stages, which the workflow calls, and tools to inspect a study.",
    )
    main.add_argument("--version", action="version", version=f"mlssl {__version__}")
    commands = main.add_subparsers(dest="command", required=True, metavar="command")
    for group in (studies, data, checkpoints, stages, pictures):
        group.add(commands)
    return main


def main() -> int:
    commands = parser()
    args = commands.parse_args()
    for option in NEEDED.get(args.command, {}):
        if getattr(args, option) is not None:
            for needed in NEEDED[args.command][option]:
                if getattr(args, needed) is None:
                    commands.error(f"{args.command}: --{option} needs --{needed.replace('_', '-')} too")
    try:
        args.function(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of a pipe, such as `head`, has closed it; the interpreter must not flush again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ConfigError, DataError, FloatingPointError, OSError, Interrupted, RunInUse, TakenOver) as error:
        print(f"mlssl {args.command}: {error}", file=sys.stderr)
        if isinstance(error, TakenOver):
            return NOT_OWNER
        return RUN_AGAIN_LATER if isinstance(error, Interrupted | RunInUse) else 1
    return 0
