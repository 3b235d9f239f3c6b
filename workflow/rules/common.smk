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
MLSSL = f"{PYTHON} -m mlssl"
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
try:
    CORES = workflow.cores or 1
except WorkflowError:  # a scheduler has no number of cores; its profile says what these rules get
    CORES = 1
PER_NODE = STUDY.gpus_per_run // STUDY.nodes
"""GPUs of a run on each of its machines."""
SLOT = "{python} -m mlssl.gpu_slot --gpus {gpus} -- " if config.get("gpu_slots") else ""
"""Before a command: takes GPUs that no other job of this machine has (workflow/profiles/workstation)."""
ON_GPU = SLOT.format(python=PYTHON, gpus=1) + MLSSL
"""The command of a stage that computes on one GPU."""
if STUDY.gpus_per_run == 1:
    BY_RANKS, RANKS = ON_GPU, {"gpu": 1}
elif STUDY.nodes == 1:
    BY_RANKS = SLOT.format(python=PYTHON, gpus=PER_NODE) + (
        f"{PYTHON} -m torch.distributed.run --standalone --nproc-per-node {PER_NODE} -m mlssl"
    )
    RANKS = {"gpu": PER_NODE, "tasks_per_gpu": 0}  # one task, the launcher; Slurm's plugin would start one per GPU
else:
    # One launcher per node. srun tells them where it runs itself: on the first node, so that is where they meet.
    LAUNCH = (
        f"exec {PYTHON} -m torch.distributed.run --nnodes {STUDY.nodes} --nproc-per-node {PER_NODE}"
        " --rdzv-backend c10d --rdzv-id $SLURM_JOB_ID"
        " --rdzv-endpoint $SLURM_LAUNCH_NODE_IPADDR:$((20000 + SLURM_JOB_ID % 20000)) -m mlssl"
    )
    BY_RANKS = (
        f"srun --nodes {STUDY.nodes} --ntasks {STUDY.nodes} --ntasks-per-node 1 --gres gpu:{PER_NODE}"
        f""" bash -c '{LAUNCH} "$@"' mlssl"""
    )
    # `gres` is per node, where `gpu` would be the job's total; without `mpi` the plugin starts one task on one node.
    RANKS = {"gres": f"gpu:{PER_NODE}", "nodes": STUDY.nodes, "tasks": STUDY.nodes, "tasks_per_gpu": 0, "mpi": "srun"}
"""The command of a stage that a run's GPUs share, and the resources of its job."""


def threads_per_rank(wildcards, threads):
    return max(1, threads // PER_NODE)


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


SHARED = ["mlssl/config.py", "mlssl/seeds.py", "mlssl/provenance.py", "mlssl/device.py", "mlssl/ranks.py", "mlssl/weights.py"]
"""Sources of everything that computes a number."""
VIEWS = [f"mlssl/data/{name}.py" for name in ("views", "colour", "warp", "store")]
