"""Result files: rows of numbers, under a header that says where they come from. Imports no torch."""

from __future__ import annotations

import functools
import json
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from mlssl.errors import ConfigError
from mlssl.files import write_json

FORMAT = 2
"""Version of the header. Files of version 1 (before 2026-12) name no data and no code, and are refused."""
LIBRARIES = ("torch", "torchvision", "timm", "pycocotools", "numpy")
SAME = ("stage", "digest", "config_digest", "seed")
"""Keys of the header that say which experiment a result belongs to."""


@functools.cache
def git_commit() -> str:
    """The commit of the source tree, with `-dirty` where it has local changes; `unknown` outside git."""
    root = Path(__file__).resolve().parent.parent
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    if not (root / ".git").exists():
        return "unknown"
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unknown"
    return found.stdout.strip() or "unknown"


@dataclass
class Stopwatch:
    """Wall time since it was made, in seconds, on top of what earlier parts of the same run took."""

    before: float = 0.0
    started: float = field(default_factory=time.monotonic)

    def seconds(self) -> float:
        return self.before + time.monotonic() - self.started


def result(
    about: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    *,
    code: Mapping[str, str],
    data: Mapping[str, str | None],
    device: str,
    threads: int,
    watch: Stopwatch,
    peak_memory_mb: float | None = None,
    float32_products: Mapping[str, str] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of a result file: a header, and rows of `protocol`, `metric`, `value` and `n` (examples).

    A row may have one more key, `jackknife`: a list of G floats, the metric computed without each of G groups of
    the n evaluation images. Image i belongs to group i mod G, and G = min(n, 50). `collect` writes the list to
    `image_groups.tsv`, from which the standard error of the metric over images can be estimated.

    `about` says which experiment the numbers belong to (see `study.identity`). `code` has the digest of every
    source file that the stage imports, `data` that of every part of the data that it read. `device` is what
    computed; `peak_memory_mb` defaults to the process's peak resident memory. `float32_products` says how a GPU
    computes convolutions and matrix products of float32: `ieee` or `tf32`. `notes` are facts to print with the
    numbers, such as head and schedule.
    """
    peak = peak_memory_mb or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    header = {
        "format": FORMAT,
        **about,
        "data": dict(data),
        "commit": git_commit(),
        "device": device,
        "threads": threads,
        **({"float32_products": dict(float32_products)} if float32_products else {}),
        "versions": {"python": platform.python_version(), **{lib: metadata.version(lib) for lib in LIBRARIES}},
        "wall_s": round(watch.seconds(), 2),
        "peak_memory_mb": round(peak, 1),
        "notes": dict(notes or {}),
        "code": dict(code),
    }
    return {"header": header, "rows": [dict(row) for row in rows]}


def read_result(path: Path) -> dict[str, Any] | None:
    """A result file's header and rows; None if there is none.

    Raises ConfigError for a file that is no result, or one of another version of the header.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ConfigError(f"{path}: not valid JSON ({error}); {MOVE}") from None
    if not isinstance(content, dict) or not isinstance(content.get("header"), dict) or "rows" not in content:
        raise ConfigError(f"{path}: keys 'header' and 'rows' are missing; {MOVE}")
    found = content["header"].get("format", 1)
    if found != FORMAT:
        raise ConfigError(f"{path}: has header format {found}, this version reads {FORMAT}; {MOVE}")
    return content


LEFT_OUT = "left_out"
"""Note of a result without rows: why the evaluator cannot use the data."""
METRICS_LEFT_OUT = "metrics_left_out"
"""Note of a result with rows: why the data do not give a metric, by metric."""
MOVE = "move it away and run this stage again"


def exists(path: Path, about: Mapping[str, Any]) -> bool:
    """Whether the result of this very experiment is at `path` already; asked before the work and after it.

    Raises FileExistsError for any other file there: no result is ever replaced.
    """
    try:
        found = read_result(path)
    except ConfigError:
        found = {"header": {}}
    if found is None:
        return False
    if [found["header"].get(key) for key in SAME] != [about[key] for key in SAME]:
        raise FileExistsError(f"{path}: there is another result already; move it away, or write elsewhere")
    return True


def write_result(path: Path, values: Mapping[str, Any]) -> None:
    """Write a result file atomically; one that is there already is kept (see `exists`)."""
    if exists(path, values["header"]):
        print(f"{path}: another process has written it meanwhile; its result is kept", file=sys.stderr)
    else:
        write_json(path, values)
