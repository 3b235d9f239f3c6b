"""What to measure in the first hour on a GPU: `python -m benchmarks.first_hour --out results/reference/gpu`.

Every part runs alone, for at most 8 minutes, and writes PART.json when it ends. A part that has its file is left
out, so the same command goes on after any stop. `--toy` goes through all parts at the sizes of a test, on any
device.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.first_parts import PARTS, ROOT, Bench, what
from mlssl import files, results
from mlssl.runtime import device as devices

LIMIT = 480
"""Seconds that a part may take."""
GRACE = 60
"""Seconds that a stopped part has to save what it can."""


def main() -> int:
    args = parser().parse_args()
    args.out = args.out.resolve()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.part:
        run(args)
        return 0
    for name in PARTS:
        if (args.out / f"{name}.json").exists():
            print(f"{name}: is there already", file=sys.stderr)
            continue
        print(f"{name}: {what(name)}", file=sys.stderr)
        problem = alone(name, args)
        if problem:
            print(f"{name}: {problem}; the next call tries it again", file=sys.stderr)
    files.write_text(args.out / "README.md", overview(args.out))
    return 1 if missing(args.out) else 0


def alone(name: str, args: argparse.Namespace) -> str | None:
    """Run a part in a process of its own; what went wrong, if it has not written its result."""
    command = [sys.executable, "-m", "benchmarks.first_hour", "--part", name, "--out", str(args.out)]
    command += ["--device", args.device, *(["--toy"] if args.toy else [])]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    try:
        code = process.wait(args.limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)  # with all that it has started
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return f"was stopped after {args.limit} s"
    return f"ended with {code}" if code else None


def run(args: argparse.Namespace) -> None:
    """Measure one part, and write its result."""
    device, watch = devices.choose(args.device), results.Stopwatch()
    devices.set_up(device)
    with tempfile.TemporaryDirectory() as scratch:
        found = PARTS[args.part](Bench(device, Path(scratch), args.toy))
    header = {
        "command": " ".join(["python -m benchmarks.first_hour", *sys.argv[1:]]),
        "commit": results.git_commit(),
        **devices.facts(device),
        "wall_s": round(watch.seconds(), 1),
        "toy": args.toy,
    }
    files.write_json(args.out / f"{args.part}.json", {"header": header, "found": found})


def missing(out: Path) -> list[str]:
    return [name for name in PARTS if not (out / f"{name}.json").exists()]


def overview(out: Path) -> str:
    """A table of the parts: what each measures, and whether it was."""
    absent = missing(out)
    lines = [
        f"| {name} | {what(name)} | " + ("not measured" if name in absent else f"[{name}.json]({name}.json)") + " |"
        for name in PARTS
    ]
    return "\n".join(["| part | what it measures | result |", "| --- | --- | --- |", *lines]) + "\n"


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.first_hour", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--toy", action="store_true", help="sizes of a test; the figures mean nothing")
    parser.add_argument("--limit", type=int, default=LIMIT, help=f"seconds that a part may take (default: {LIMIT})")
    parser.add_argument("--part", choices=PARTS, help="measure this part alone")
    return parser


if __name__ == "__main__":
    sys.exit(main())
