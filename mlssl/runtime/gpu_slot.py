"""`python -m mlssl.runtime.gpu_slot -- command`: run a command on a GPU that no other such command uses.

A GPU is reserved by a file lock, which the system releases when the last process that holds it ends for any reason.
The command inherits the lock, so its GPU stays reserved even if only this process is killed. Without a GPU the
command runs unchanged.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time

from mlssl.errors import ConfigError
from mlssl.runtime.machine_lock import folder, locked

POLL = 0.5
"""Seconds between two attempts to reserve a GPU."""
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)


def visible() -> list[str]:
    """The names of the GPUs that may be reserved, from CUDA_VISIBLE_DEVICES or nvidia-smi; empty without one."""
    devices = os.environ.get("CUDA_VISIBLE_DEVICES")
    if devices is not None:
        return [name for name in devices.split(",") if name not in ("", "-1")]
    return [row[0] for row in listed("index")]


def listed(*fields: str) -> list[list[str]]:
    """These fields of each GPU as nvidia-smi says; empty if it is missing or reports no GPU."""
    if not shutil.which("nvidia-smi"):
        return []
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    rows = done.stdout.splitlines() if done.returncode == 0 else []
    return [[field.strip() for field in row.split(",")] for row in rows if row.strip()]


def take(names: list[str], count: int) -> dict[str, int]:
    """Reserve `count` of the GPUs, each by its locked file: all or none, which prevents deadlocks."""
    reported = False
    while True:
        taken: dict[str, int] = {}
        for name in names:
            if len(taken) < count and (file := locked(folder() / name.replace("/", "-"))) is not None:
                taken[name] = file
        if len(taken) == count:
            return taken
        for file in taken.values():
            os.close(file)
        if not reported:
            print(f"gpu_slot: waiting for {count} of the GPUs {', '.join(names)} to be free", file=sys.stderr)
            reported = True
        # Random, because two processes that retry at the same pace could block each other forever.
        time.sleep(POLL * (0.5 + int.from_bytes(os.urandom(1), "big") / 255))


def run(command: list[str], count: int) -> int:
    """The command's exit code, 128 + n if signal n ended it; signals to this process are forwarded to it."""
    names, environment = visible(), dict(os.environ)
    taken: dict[str, int] = {}
    if names:
        if count > len(names):
            print(f"gpu_slot: {count} GPUs are requested, this machine has {', '.join(names)}", file=sys.stderr)
            return 1
        taken = take(names, count)
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(taken)
    child = subprocess.Popen(command, env=environment, pass_fds=list(taken.values()))
    for number in PASSED_ON:
        signal.signal(number, lambda number, _: child.send_signal(number))
    code = child.wait()
    return code if code >= 0 else 128 - code


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m mlssl.runtime.gpu_slot", description=__doc__.split("\n\n")[0])
    parser.add_argument("--gpus", type=int, default=1, help="number of GPUs for the command")
    parser.add_argument("command", nargs="+", help="after --, with its arguments")
    args = parser.parse_args()
    if args.gpus < 1:
        parser.error(f"--gpus: {args.gpus} is not allowed; give at least 1")
    try:
        return run(args.command, args.gpus)
    except ConfigError as error:
        print(f"gpu_slot: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
