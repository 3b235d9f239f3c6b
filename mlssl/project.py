"""Where the workflow, the studies that ship and the published numbers are. Imports nothing of this package."""

from __future__ import annotations

import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
PROJECT = _HERE.parent if (_HERE.parent / "Snakefile").is_file() else _HERE / "_project"
"""The checkout, or its copy inside an installed package (see `pyproject.toml`)."""
SNAKEFILE = PROJECT / "Snakefile"
PUBLISHED = PROJECT / "results" / "published"
"""The papers' numbers."""
REFERENCE = PROJECT / "results" / "reference"


def search_here() -> None:
    """Let dotted names be found in the working directory (own methods) and in this project (`baselines`) too."""
    for folder in (str(Path.cwd()), str(PROJECT)):
        if folder not in sys.path:
            sys.path.append(folder)


def study_file(given: str) -> Path:
    """A study by its path, or one that ships by its name: `demo`."""
    path, ships = Path(given).expanduser(), PROJECT / "config" / f"{given}.yaml"
    return ships if not path.exists() and ships.is_file() else path
