"""What several commands share: how a command is added, and its options."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlssl import results


def command(commands: Any, name: str, function: Callable, text: str) -> argparse.ArgumentParser:
    """Add a command that calls `function` with its arguments."""
    sub = commands.add_parser(
        name, help=text, description=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    sub.set_defaults(function=function)
    return sub


def compute(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--threads", type=int, help="CPU threads; torch's own choice if not given")
    sub.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")


def of_run(sub: argparse.ArgumentParser, config: str) -> None:
    source = sub.add_mutually_exclusive_group(required=True)
    source.add_argument("--study", type=Path, help="a study file; with --run-name, a run of it")
    source.add_argument("--config", type=Path, help=config)


def size(text: str) -> tuple[int, int]:
    """`128` or `640x480` as (width, height)."""
    width, _, height = text.partition("x")
    return int(width), int(height or width)


def short_side(text: str) -> int | str:
    """`256` as a number; `full` unchanged."""
    return text if text == "full" else int(text)


def sizes(text: str) -> tuple[int, ...]:
    """`4096,16384` as numbers."""
    return tuple(map(int, text.split(",")))


def exists_already(path: Path, about: Mapping[str, Any]) -> bool:
    """Whether the result that `about` describes is at `path`; says so."""
    if there := results.exists(path, about):
        print(f"{path}: exists already; nothing to do (`mlssl redo` lets it be made again)", file=sys.stderr)
    return there
