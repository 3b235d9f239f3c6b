"""One finished study for all tests of a session, and copies of it for those that change something."""

from __future__ import annotations

import shutil
from pathlib import Path

from filelock import FileLock

from support.snakemake import snakemake, tiny, write

METHODS = ["random", "mls"]
"""Those that the finished study compares; MoCo-v2 is a level of its losses."""
AXES = ["k", "loss"]
"""The ablations of config/tiny.yaml that it has."""
LEFT_OUT = ("knn", "dense", "regions", "correspondence")
"""Transfers that only the tiny study itself runs through Snakemake, in a long test: each job imports torch anew."""


def finished_study(shared: Path) -> Path:
    """Folder with `study.yaml` and its `results/`, run to its end by the first process that asks for it.

    `shared` is a folder that all processes of the session know. Nobody may write in the study's: see `copied`.
    """
    shared.mkdir(parents=True, exist_ok=True)
    cwd, complete = shared / "study", shared / "complete"
    with FileLock(shared / "lock"):
        if not complete.exists():
            shutil.rmtree(cwd, ignore_errors=True)
            cwd.mkdir()
            given = tiny()
            transfers = {name: options for name, options in given["transfers"].items() if name not in LEFT_OUT}
            ablations = {axis: given["ablations"][axis] for axis in AXES}
            study = tiny(compare=METHODS, ablations=ablations, transfers=transfers)
            snakemake(cwd, write(cwd / "study.yaml", study))
            complete.touch()
    return cwd


def copied(finished: Path, to: Path) -> Path:
    """A working directory with a copy of the finished study, for Snakemake to write in."""
    # Not by links: logs and Snakemake's records are written in place. Times are kept.
    return Path(shutil.copytree(finished, to / "work", symlinks=True))


def with_data(finished: Path, to: Path) -> Path:
    """A working directory that has the scenes and the image store of the finished study, and no results."""
    to.mkdir(parents=True, exist_ok=True)
    shutil.copytree(finished / "results" / "data", to / "results" / "data")
    return to
