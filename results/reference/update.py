"""Add finished runs of a study to a folder of reference results, and make its tables and figures again.

    python results/reference/update.py config/reference.yaml study ../elsewhere/results/study
    python results/reference/update.py config/competitors.yaml competitors --runs study

The first adds to results/reference/study each run that has all its results in ../elsewhere/results/study. The
second adds none; its tables also have the runs of results/reference/study that belong to the study. Of tables and
figures, those that the folder has already are written; --no-figures leaves the figures as they are.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from mlssl.analysis.collect import collect
from mlssl.figures.write import write_figures
from mlssl.project import PUBLISHED
from mlssl.study.load import load
from mlssl.tables.write import write_tables

REFERENCE = Path(__file__).resolve().parent
KEPT = ("metrics.tsv", "runs.tsv")


def copy(runs: Path, to: Path, wanted: dict[str, list[Path]]) -> list[str]:
    """Copy the result files and logs of complete runs that are not there yet; return the names of these runs."""
    added = []
    for run, files in wanted.items():
        if (to / run).exists() or not all((runs / run / file.name).exists() for file in files):
            continue
        (to / run).mkdir(parents=True)
        for file in [*files, *(runs / run).glob("log.jsonl")]:
            shutil.copy2(runs / run / file.name, to / run)
        added.append(run)
    return added


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="the study file, below config/")
    parser.add_argument("folder", help="name of the folder in results/reference")
    parser.add_argument("results", type=Path, nargs="?", help="a study's output with finished runs")
    parser.add_argument(
        "--runs", nargs="*", default=[], help="other folders here whose runs belong to the study too"
    )
    parser.add_argument("--no-figures", action="store_true", help="tables only")
    args = parser.parse_args()
    folder, source = REFERENCE / args.folder, args.results and args.results.resolve()
    relative = args.study.resolve().relative_to(REFERENCE.parents[1])
    with tempfile.TemporaryDirectory() as temporary:
        os.chdir(temporary)  # where no data set is, as in a fresh clone
        shutil.copytree(REFERENCE.parents[1] / "config", "config")
        study = load(relative)
        wanted = {run: [study.result(run, stage) for stage in study.stages(run)] for run in study.runs}
        if source:
            added = copy(source / "runs", folder / "runs", wanted)
            print(f"{len(added)} runs added to {folder}: {', '.join(added) or 'none'}", file=sys.stderr)
        for name in (args.folder, *args.runs):
            copy(REFERENCE / name / "runs", study.out / "runs", wanted)
        collect(study)
        write_tables(study, PUBLISHED)
        if not args.no_figures:
            write_figures(study)
        for name in KEPT:
            shutil.copy2(study.out / name, folder / name)
        drawn = [path for path in folder.glob("figures/*") if (study.out / "figures" / path.name).exists()]
        for path in [*folder.glob("tables/*"), *drawn]:
            shutil.copy2(study.out / path.relative_to(folder), path)
        os.chdir(REFERENCE)


if __name__ == "__main__":
    main()
