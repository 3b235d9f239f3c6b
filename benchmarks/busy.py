"""Run a command and print how busy the GPU was: `python -m benchmarks.busy snakemake --cores 16 …`.

Without a GPU the command still runs, and a message says that the GPU was not measured.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time

QUERY = ("nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits")
PERIOD = 1.0
"""Seconds between two samples; the driver averages over about the same time."""


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        print(__doc__)
        return 2
    started, samples = time.perf_counter(), []
    running = subprocess.Popen(sys.argv[1:])
    while True:
        try:
            running.wait(PERIOD)
            break
        except subprocess.TimeoutExpired:
            samples += utilisation()
    wall = time.perf_counter() - started
    if samples:
        busy, times = statistics.mean(samples), len(samples)
        print(f"GPU busy {busy:.0f} % of {wall:.0f} s (mean of {times} samples over all GPUs)", file=sys.stderr)
    else:
        print(f"GPU share not measured: no sample from {QUERY[0]} in {wall:.0f} s", file=sys.stderr)
    return running.returncode


def utilisation() -> list[float]:
    """Percentage of the last second in which each GPU ran a kernel; empty without a GPU."""
    if not shutil.which(QUERY[0]):
        return []
    done = subprocess.run(QUERY, capture_output=True, text=True, check=False)
    return [float(line) for line in done.stdout.split() if line.isdigit()]


if __name__ == "__main__":
    sys.exit(main())
