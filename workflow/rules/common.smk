# What every rule file uses: the study, expanded; the places of its files; the sources of each stage.
import os
import sys
from pathlib import Path

ROOT = Path(workflow.basedir)
sys.path.insert(0, str(ROOT))

from mlssl import study as studies
from mlssl.analysis import outputs
from mlssl.config import ConfigError
from mlssl.provenance import digest_of

PYTHON = sys.executable
try:
    STUDY = studies.load(config.get("study", ROOT / "config" / "demo.yaml"))
except ConfigError as error:
    raise WorkflowError(str(error)) from None
OUT = STUDY.out
DATA, TRANSFER_DATA = STUDY.source.ready, STUDY.transfer_source.ready
PRETRAINED = [OUT / "runs" / run / "pretrain.json" for run in STUDY.runs]
TRANSFERRED = [OUT / "runs" / run / f"{t}.json" for t, runs in STUDY.transfer_runs.items() for run in runs]
TABLES = outputs.table_files(STUDY)
FIGURES = outputs.figure_files(STUDY)
CAPTION = {"about": STUDY.about, "budget": outputs.budget(STUDY), "seeds": ", ".join(map(str, STUDY.seeds))}
"""What the report's captions state."""


wildcard_constraints:
    run="|".join(STUDY.runs),
    transfer="|".join(STUDY.transfers),
    protocol="|".join(STUDY.transfers),
    method="|".join(STUDY.pictured) or "none",


def sources(*patterns):
    """Source files of a stage, as inputs: Snakemake's own code trigger does not see imported modules."""
    files = sorted(file for pattern in patterns for file in ROOT.glob(pattern))
    return [os.path.relpath(file) for file in files]


SHARED = ["mlssl/config.py", "mlssl/seeds.py", "mlssl/provenance.py", "mlssl/device.py"]
"""Sources of everything that computes a number."""
VIEWS = [f"mlssl/data/{name}.py" for name in ("views", "colour", "warp", "store")]
