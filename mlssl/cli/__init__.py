"""`mlssl <command>`: every stage that has a cost or a result, callable by hand.

Snakemake calls exactly these. Each command imports what it needs when it runs, so `--help` is instant.
"""

from __future__ import annotations

import argparse
import sys

from mlssl.cli import data, pictures, stages, studies
from mlssl.errors import ConfigError, DataError
from mlssl.pretrain.run.owner import NOT_OWNER, Busy, Taken
from mlssl.pretrain.run.signals import GO_ON_LATER, Interrupted
from mlssl.study.settings import FROZEN

NEEDED = {
    "pretrain": {"study": ["run"], "config": ["out"]},
    **{name: {"study": ["run"], "config": ["backbone", "out"]} for name in (*FROZEN, "detection", "segmentation")},
    "search-benchmark": {"checkpoint": ["out"]},
    "pseudo-labels": {"study": ["run"], "config": ["store", "out"]},
}
"""Command -> what must be given beside `--study` or `--config`."""
FLAGS = {"run": "--run-name"}
"""Not `--run`: torchrun, which starts commands with several ranks, has options that begin so."""


def parser() -> argparse.ArgumentParser:
    """Of all commands."""
    main = argparse.ArgumentParser(prog="mlssl", description="Every stage that has a cost or a result.")
    commands = main.add_subparsers(dest="command", required=True, metavar="command")
    for group in (studies, data, stages, pictures):
        group.add(commands)
    return main


def main() -> int:
    commands = parser()
    args = commands.parse_args()
    for option in NEEDED.get(args.command, {}):
        if getattr(args, option) is not None:
            for needed in NEEDED[args.command][option]:
                if getattr(args, needed) is None:
                    commands.error(f"{args.command}: --{option} needs {FLAGS.get(needed, f'--{needed}')} too")
    try:
        args.function(args)
    except (ConfigError, DataError, FloatingPointError, OSError, Interrupted, Busy, Taken) as error:
        print(f"mlssl {args.command}: {error}", file=sys.stderr)
        if isinstance(error, Taken):
            return NOT_OWNER
        return GO_ON_LATER if isinstance(error, Interrupted | Busy) else 1
    return 0
