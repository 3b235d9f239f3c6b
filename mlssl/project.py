"""Paths of the workflow, the included studies and the published numbers. Imports nothing of this package."""

from __future__ import annotations

import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
PROJECT = _HERE.parent if (_HERE.parent / "Snakefile").is_file() else _HERE / "_project"
"""The checkout, or its copy inside an installed package (see `pyproject.toml`)."""
SNAKEFILE = PROJECT / "Snakefile"
PUBLISHED = PROJECT / "results" / "published"
"""Numbers that the papers report."""
REFERENCE = PROJECT / "results" / "reference"


def search_here() -> None:
    """Add the working directory (own methods) and this project (`baselines`) to the end of `sys.path`."""
    for folder in (str(Path.cwd()), str(PROJECT)):
        if folder not in sys.path:
            sys.path.append(folder)


def included() -> list[str]:
    """The names of the included studies."""
    return sorted(path.stem for path in (PROJECT / "config").glob("*.yaml"))


def study_file(given: str) -> Path:
    """Path of a study that is given by its path, or by the name of an included one: `demo`."""
    path, included = Path(given).expanduser(), PROJECT / "config" / f"{given}.yaml"
    return included if not path.exists() and included.is_file() else path
