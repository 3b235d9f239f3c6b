"""What several commands share: how a command is added, its options, and where its settings come from."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from mlssl import results
from mlssl.errors import ConfigError, did_you_mean
from mlssl.project import study_file

if TYPE_CHECKING:
    from mlssl.study.study import Study

STUDY = "a study file, or the name of an included one such as demo"


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows the defaults of options, except of those that have none and of flags; keeps the lines of examples."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False, []) else super()._get_help_string(action)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith(EXAMPLES) else super()._fill_text(text, width, indent)


EXAMPLES = "examples:"


class Parser(argparse.ArgumentParser):
    """Ends with a suggestion if an option that is not known is like one that is."""

    def error(self, message: str) -> NoReturn:
        known = {option for action in self._actions for option in action.option_strings}
        given = [word.split("=")[0] for word in sys.argv[1:] if word.startswith("--")]
        for option in given if self.prog != "mlssl" else given[:1]:
            if not any(name.startswith(option) for name in known):
                message = f"unknown option {option}{did_you_mean(option, known)}; `{self.prog} --help` lists all"
                break
        self.exit(2, f"{self.format_usage()}{self.prog}: {message}\n")


def command(
    commands: Any, name: str, function: Callable[[argparse.Namespace], None], text: str, *examples: str
) -> argparse.ArgumentParser:
    """Add a command that calls `function` with its arguments; `examples` end its help."""
    sub: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=text,
        formatter_class=HelpFormatter,
        epilog="\n  ".join([EXAMPLES, *examples]) if examples else None,
    )
    sub.set_defaults(function=function)
    return sub


def add_device(sub: argparse.ArgumentParser) -> None:
    """Add `--threads` and `--device`."""
    sub.add_argument("--threads", type=count, metavar="N", help="CPU threads; torch's own choice if not given")
    sub.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda or cuda:N")


def add_study(sub: argparse.ArgumentParser, *, first: bool = True) -> None:
    """Add `--study` to a command about a whole study; `first`: it may also be the first argument."""
    if first:
        sub.add_argument("first", type=study_file, nargs="?", metavar="STUDY", help=STUDY)
    sub.add_argument(
        "--study", type=study_file, metavar="STUDY", required=not first, help="the same" if first else STUDY
    )
    add_overrides(sub)


def add_overrides(sub: argparse.ArgumentParser) -> None:
    """Add `--set`."""
    sub.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="replace settings of the study: pretrain.epochs=20 methods.mls.params.k=10",
    )


def add_run(sub: argparse.ArgumentParser, other: str, text: str) -> None:
    """Add `--study` with `--run-name`, and the option `other`, one of which says what the command works on."""
    source = sub.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--study", type=study_file, metavar="STUDY", help=f"{STUDY}; its run is given by --run-name"
    )
    source.add_argument(other, type=Path, metavar="FILE", help=text)
    # Not `--run`: torchrun, which starts commands with several ranks, has options that begin so.
    add_overrides(sub)
    sub.add_argument(
        "--run-name", metavar="NAME", help="name of a run of the study, a wrong one lists all; needed with --study"
    )


def add_settings(sub: argparse.ArgumentParser, cls: Any, *, without: Collection[str]) -> None:
    """Add an option for each setting of the class `cls` (integers, or tuples of integers), described as declared.

    An option that is not given is absent from the parsed arguments, so `cls` has the only defaults.
    """
    for name, field in cls.__pydantic_fields__.items():
        if name in without:
            continue
        several = field.annotation is not int
        default = "required" if field.is_required() else f"default: {as_text(field.default)}"
        sub.add_argument(
            f"--{name.replace('_', '-')}",
            type=integers if several else whole,
            metavar="N,N,…" if several else "N",
            default=argparse.SUPPRESS,
            help=f"{field.description.rstrip('.')} ({default})",
        )


def given_settings(args: argparse.Namespace, cls: Any) -> dict[str, Any]:
    """The options of `add_settings` that were given: setting -> value."""
    return {field.name: getattr(args, field.name) for field in dataclasses.fields(cls) if hasattr(args, field.name)}


def study_of_run(args: argparse.Namespace) -> Study:
    """The study of `--study`; ConfigError if it has no run `--run-name`."""
    from mlssl.study.load import load

    study = load(args.study, overrides=args.set)
    if args.run_name not in study.runs:
        raise ConfigError(
            f"{args.study}: has no run '{args.run_name}'{did_you_mean(args.run_name, study.runs)}; "
            f"it has {', '.join(study.runs)} "
            "(names change when data or settings do)"
        )
    return study


def whole(text: str, least: int = 0) -> int:
    """A whole number of at least `least`; argparse shows the message."""
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not allowed; give a whole number") from None
    if number < least:
        raise argparse.ArgumentTypeError(f"{number} is not allowed; give at least {least}")
    return number


def count(text: str) -> int:
    """A number of things: 1 or more."""
    return whole(text, 1)


def share(text: str) -> float:
    """A share: 0 to 1."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not allowed; give a share from 0 to 1, such as 0.05")
    return number


def size(text: str) -> tuple[int, int]:
    """`128` or `640x480` as (width, height)."""
    width, by, height = text.partition("x")
    return count(width), count(height if by else width)


def named(text: str) -> Path:
    """Path of a file or folder to write, which `.` and `..` are not."""
    if Path(text).name in ("", ".."):
        raise argparse.ArgumentTypeError(f"'{text}' is not allowed; give the name of what to write")
    return Path(text)


def png(text: str) -> Path:
    """Path of a picture."""
    return _ends(text, ".png")


def json_file(text: str) -> Path:
    """Path of a JSON file."""
    return _ends(text, ".json")


def _ends(text: str, suffix: str) -> Path:
    if named(text).suffix != suffix:
        raise argparse.ArgumentTypeError(f"'{text}' is not allowed; give a file that ends in {suffix}")
    return Path(text)


def short_side(text: str) -> int | str:
    """`256` as a number; `full` unchanged."""
    return text if text == "full" else count(text)


def integers(text: str) -> tuple[int, ...]:
    """`4096,16384` as numbers."""
    return tuple(count(part) for part in text.split(","))


def as_text(value: int | tuple[int, ...]) -> str:
    """The text that `integers` or `int` reads as this value."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def exists_already(path: Path, about: Mapping[str, Any]) -> bool:
    """Whether the result that `about` describes is at `path`; prints a notice if it is."""
    if exists := results.exists(path, about):
        print(f"{path}: exists already; nothing to do (`mlssl redo` lets it be made again)", file=sys.stderr)
    return exists
