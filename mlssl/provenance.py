"""Where a number comes from: digests, the header of every result file, atomic writes. Imports no torch."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "torchvision", "timm", "pycocotools", "numpy")


def digest_of(values: Any) -> str:
    """Twelve hex digits that name plain values (dicts, lists, scalars), whatever the order of keys."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; it takes the name `path` only when all went well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        with open(part, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic(path) as part:
        part.write_text(text)


def write_json(path: Path, values: Any) -> None:
    """Write JSON atomically, indented, in the order of the keys given."""
    write_text(path, json.dumps(values, indent=1, allow_nan=False) + "\n")


def git_commit() -> str:
    """The commit of the source tree, with `-dirty` where it has local changes; `unknown` outside git."""
    root = Path(__file__).resolve().parent.parent
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
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
    *,
    run: str,
    method: str,
    seed: int,
    digest: str,
    backbone: str,
    config: Mapping[str, Any],
    device: str,
    threads: int,
    watch: Stopwatch,
    rows: Sequence[Mapping[str, Any]],
    peak_memory_mb: float | None = None,
    notes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of a result file: a header that says where its numbers come from, and rows.

    Each row has `protocol`, `metric`, `value` and `n` (the number of examples). `digest` names the
    pretraining configuration without its seed; `config` is that of the stage that made the rows. `device` is
    what computed; `peak_memory_mb` defaults to the process's peak resident memory. `notes` are facts to print
    with the numbers, such as head and schedule.
    """
    peak = peak_memory_mb or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    header = {
        "run": run,
        "method": method,
        "seed": seed,
        "digest": digest,
        "backbone": backbone,
        "config_digest": digest_of(config),
        "commit": git_commit(),
        "device": device,
        "threads": threads,
        "versions": {"python": platform.python_version(), **{lib: metadata.version(lib) for lib in LIBRARIES}},
        "wall_s": round(watch.seconds(), 2),
        "peak_memory_mb": round(peak, 1),
        "notes": dict(notes or {}),
        "config": dict(config),
    }
    return {"header": header, "rows": [dict(row) for row in rows]}


def write_result(path: Path, values: Mapping[str, Any]) -> None:
    """Write a result file atomically; one that stands already is left as it is (see `stands`)."""
    if stands(path, **values["header"]):
        print(f"{path}: has been made by another process meanwhile, and is left as it is", file=sys.stderr)
    else:
        write_json(path, values)


def stands(path: Path, *, run: str, seed: int, digest: str, config: Mapping[str, Any], **_: Any) -> bool:
    """Whether this very result is at `path` already, by an orphaned job, say; asked before the work and after it.

    The arguments are those of `result`. Raises FileExistsError for any other file there: none is ever replaced.
    """
    try:
        header = json.loads(Path(path).read_text())["header"]
        theirs = [header[key] for key in ("run", "seed", "digest", "config_digest")]
    except FileNotFoundError:
        return False
    except (ValueError, KeyError, TypeError):
        theirs = []
    if theirs != [run, seed, digest, digest_of(config)]:
        raise FileExistsError(f"{path}: there is another result already; delete it first, or write elsewhere")
    return True


def code_digest(*more: Path) -> str:
    """Twelve hex digits that name the sources of this package and `more` files, committed or not."""
    package = Path(__file__).parent
    files = {path.relative_to(package).as_posix(): path for path in package.rglob("*.py")}
    files |= {path.name: path for path in more}
    return digest_of({name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()})
