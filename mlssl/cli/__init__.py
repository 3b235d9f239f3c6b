"""`mlssl <command>`: every stage that has a cost or a result, callable by hand.

Snakemake calls exactly these. Each command imports what it needs when it runs, so `--help` is instant.
"""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections.abc import Mapping

from mlssl import __version__
from mlssl.cli import checkpoints, data, machine, pictures, run, stages, studies
from mlssl.cli.options import Parser
from mlssl.errors import ConfigError, DataError, did_you_mean
from mlssl.pretrain.run.owner import NOT_OWNER, RunInUse, TakenOver
from mlssl.pretrain.run.signals import RUN_AGAIN_LATER, Interrupted
from mlssl.project import study_file
from mlssl.study.settings import ONE_DEVICE, TRANSFERS

STAGE_NEEDS = {"study": ["run_name"], "config": ["backbone", "out"]}
EMBEDDING_NEEDS = {"study": ["run_name"]}
NEEDED = {
    "pretrain": {"study": ["run_name"], "config": ["out"]},
    **dict.fromkeys((*ONE_DEVICE, "detection", "segmentation"), STAGE_NEEDS),
    "proposals": {"study": ["run_name"], "config": ["store"]},
    "pairs": {"study": ["run_name"], "config": ["store", "checkpoint"]},
    "pseudo-labels": {"study": ["run_name"], "config": ["run_folder", "store", "out"]},
    "neighbours": EMBEDDING_NEEDS,
    "histograms": EMBEDDING_NEEDS,
    "search-benchmark": {**EMBEDDING_NEEDS, "checkpoint": ["sizes"]},
}
"""Command -> option -> what must be given beside that option."""
FURTHER = {"page": "others", "redo": "run"}
"""Command -> its arguments after the study."""


GROUPS = {
    "a whole study": ("run", "estimate", "cost-benchmark", "status", "redo", "check", "resolve", "settings"),
    "its data": ("scenes", "dataset", "import", "store", "proposals", "contact-sheet"),
    "pretraining and weights": ("pretrain", "pairs", "checkpoint", "export", "embed"),
    "evaluators": tuple(stage.replace("_", "-") for stage in TRANSFERS),
    "pictures of embeddings": ("neighbours", "histograms", "histogram-sheet", "search-benchmark"),
    "results": ("collect", "tables", "figures", "page", "leaderboard"),
    "this machine": ("doctor", "completion"),
}
"""What `mlssl --help` lists under which title; other commands come last."""
INTRODUCTION = """Benchmark of multi-label self-supervised learning. `mlssl run` runs a whole study; the other
commands are its stages, which the workflow calls, and tools to inspect a study."""
SHOWN_FIRST = """examples:
  mlssl run tiny --cores 2                 a smoke test of a few minutes
  mlssl run demo -n                        what the default study would run, and what it costs
  mlssl status demo                        what is finished
  mlssl page demo                          write results/demo/index.html again
  mlssl COMMAND --help                     the options of a command"""


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    main = Parser(
        prog="mlssl",
        usage="mlssl [-h] [--version] COMMAND ...",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    main.add_argument("--version", action="version", version=f"mlssl {__version__}")
    commands = main.add_subparsers(dest="command", prog="mlssl", help=argparse.SUPPRESS, parser_class=Parser)
    for group in (run, studies, data, checkpoints, stages, pictures, machine):
        group.add(commands)
    main.description = f"{INTRODUCTION}\n\n{listed(commands.choices)}"
    main.epilog = SHOWN_FIRST
    return main


def listed(commands: Mapping[str, argparse.ArgumentParser]) -> str:
    """Every command with the first sentence of its description, by group."""
    rest = tuple(name for name in commands if not any(name in names for names in GROUPS.values()))
    blocks = []
    for title, names in {**GROUPS, **({"other": rest} if rest else {})}.items():
        rows = []
        for name in names:
            first = str(commands[name].description).split(". ")[0].rstrip(".")
            rows += textwrap.wrap(first, 92, initial_indent=f"  {name:<18}", subsequent_indent=" " * 20)
        blocks.append("\n".join([f"{title}:", *rows]))
    return "\n\n".join(blocks)


def arguments(commands: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments of this call; ends with a sentence if they cannot be used."""
    given = next((word for word in sys.argv[1:2] if not word.startswith("-")), None)
    names = [name for names in GROUPS.values() for name in names]
    (known,) = (a.choices for a in commands._actions if isinstance(a.choices, Mapping))
    if given is not None and given not in known:
        like = did_you_mean(given, known) or f": {', '.join([*names, *(n for n in known if n not in names)])}"
        commands.error(f"there is no command '{given}'{like}")
    args, rest = commands.parse_known_args()
    if args.command is None:
        commands.error("give a command; `mlssl --help` lists all")
    further = FURTHER.get(args.command)
    if further and not any(word.startswith("-") for word in rest):
        getattr(args, further).extend(map(study_file, rest))  # argparse leaves what follows an option
        rest = []
    if rest and not hasattr(args, "snakemake"):
        known[args.command].error(f"unexpected arguments: {' '.join(rest)}")
    if hasattr(args, "snakemake"):
        args.snakemake = rest
    if getattr(args, "first", None) and args.study is None:
        args.study = args.first
    elif getattr(args, "first", None) and further:
        getattr(args, further).insert(0, args.first)
    elif getattr(args, "first", None):
        known[args.command].error(f"two studies are given, {args.study} and {args.first}; give one")
    if "first" in args and args.study is None:
        example = f"`mlssl {args.command} demo`, or the path of a study file"
        if args.set and "=" not in args.set[-1]:
            example = f"`mlssl {args.command} {args.set[-1]} --set KEY=VALUE`, before --set"
        known[args.command].error(f"give a study: {example}")
    for option, needed in NEEDED.get(args.command, {}).items():
        for name in needed if getattr(args, option) is not None else ():
            if getattr(args, name, None) is None:
                known[args.command].error(f"--{option} needs --{name.replace('_', '-')} too")
    return args


def sentence(error: Exception) -> str:
    """What an error says; of one that the operating system reports, with the path and without its number."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        path = error.filename if error.filename2 is None else error.filename2
        return f"{path}: {error.strerror.lower()}; give another path, or change what is there"
    return str(error)


def main() -> int:
    """Run the command of `sys.argv` and return its exit code.

    0: done. 1: refused, with one sentence on stderr. 2: wrong usage (argparse). RUN_AGAIN_LATER, NOT_OWNER:
    interrupted, or taken over by another process.
    """
    args = arguments(parser())
    try:
        args.function(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of a pipe, such as `head`, has closed it; the interpreter must not flush again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ConfigError, DataError, FloatingPointError, OSError, Interrupted, RunInUse, TakenOver) as error:
        print(f"mlssl {args.command}: {sentence(error).removeprefix(f'{args.command}: ')}", file=sys.stderr)
        if isinstance(error, TakenOver):
            return NOT_OWNER
        return RUN_AGAIN_LATER if isinstance(error, Interrupted | RunInUse) else 1
    return 0
