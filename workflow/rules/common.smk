# Shared by all rule files: the expanded study, the paths of its files, and the finished results.
import re
import shlex
import sys
from pathlib import Path

ROOT = Path(workflow.basedir)
sys.path.insert(0, str(ROOT))

from mlssl.analysis import outputs
from mlssl.digest import digest_of
from mlssl.errors import ConfigError, DataError
from mlssl.study import expand
from mlssl.study.code import stage_code
from mlssl.study.progress import Progress
from mlssl.study.sources import KINDS

PYTHON = shlex.quote(sys.executable)
MLSSL = f"{PYTHON} -m mlssl"
try:
    GIVEN = Path(config.get("study", ROOT / "config" / "demo.yaml")).expanduser()
    STUDY = expand.load(GIVEN, in_job=not workflow.is_main_process)
    PROGRESS = Progress(STUDY)
except (ConfigError, DataError) as error:
    raise WorkflowError(str(error)) from None
OUT = STUDY.out
FROZEN = STUDY.frozen
"""The study file as this Snakemake call read it; the jobs read this copy."""
DRY_RUN = any(re.fullmatch("-[a-zA-Z]*n[a-zA-Z]*|--dry-?run", word) for word in sys.argv)
"""Whether this is a dry run; Snakemake sets its own flag only later."""


def made(source):
    """The file that marks a finished data set; empty for a folder that no command creates."""
    if source.kind in KINDS:
        return [source.ready]
    if not DRY_RUN and not Path(source.data.root).is_dir():
        raise WorkflowError(f"{STUDY.path}: data.root: {source.data.root}: no such folder; check the path")
    return []


DATA, TRANSFER_DATA = made(STUDY.source), made(STUDY.transfer_source)
PRETRAINED = [STUDY.result(run, "pretrain") for run in STUDY.runs]
TRANSFERRED = [STUDY.result(run, t) for t, runs in STUDY.transfer_runs.items() for run in runs]
TABLES = outputs.table_files(STUDY)
FIGURES = outputs.figure_files(STUDY)
try:
    CORES = workflow.cores or 1
except WorkflowError:  # schedulers set no number of cores; the profile sets the threads of these rules
    CORES = 1

# Snakemake sees data sets, pretrainings and transfers only while they are unfinished. So a newer input, an edited
# source or a touched file never makes it delete and repeat finished results; only `mlssl redo` does.
# Jobs see all rules, because a job may have finished before; so does the report, which lists finished results.
ALL_RULES = not workflow.is_main_process or "--report" in sys.argv
CHANGED_CODE = "--changed-code" if config.get("changed_code") else ""
"""With `changed_code`, unfinished runs that other code started are resumed."""


def unfinished(stage):
    """Wildcard pattern of the runs that still need this stage."""
    wanted = STUDY.runs if stage == "pretrain" else STUDY.transfer_runs.get(stage, ())
    finished = set() if ALL_RULES else PROGRESS.finished(stage)
    return "|".join(run for run in wanted if run not in finished) or "(?!)"


def code_of(stage):
    """Digest of the source code of a cheap stage; the stage runs again when it changes."""
    return digest_of(stage_code(stage))


PER_NODE = STUDY.gpus_per_run // STUDY.nodes
"""GPUs of a run per node."""
SLOT = "{python} -m mlssl.runtime.gpu_slot --gpus {gpus} -- " if config.get("gpu_slots") else ""
"""Command prefix that reserves GPUs not used by other jobs on this machine (workflow/profiles/workstation)."""
ON_GPU = SLOT.format(python=PYTHON, gpus=1) + MLSSL
"""Command of a stage that runs on one GPU."""
if STUDY.gpus_per_run == 1:
    BY_RANKS, RANKS = ON_GPU, {"gpu": 1}
elif STUDY.nodes == 1:
    BY_RANKS = SLOT.format(python=PYTHON, gpus=PER_NODE) + (
        f"{PYTHON} -m torch.distributed.run --standalone --nproc-per-node {PER_NODE} -m mlssl"
    )
    RANKS = {"gpu": PER_NODE, "tasks_per_gpu": 0}  # one task, the launcher; Slurm's plugin would start one per GPU
else:
    # One launcher per node. The rendezvous is on the first node, where srun runs (SLURM_LAUNCH_NODE_IPADDR).
    LAUNCH = (
        f"exec {PYTHON} -m torch.distributed.run --nnodes {STUDY.nodes} --nproc-per-node {PER_NODE}"
        " --rdzv-backend c10d --rdzv-id $SLURM_JOB_ID"
        " --rdzv-endpoint $SLURM_LAUNCH_NODE_IPADDR:$((20000 + SLURM_JOB_ID % 20000)) -m mlssl"
    )
    BY_RANKS = (
        f"srun --nodes {STUDY.nodes} --ntasks {STUDY.nodes} --ntasks-per-node 1 --gres gpu:{PER_NODE}"
        f""" bash -c {shlex.quote(LAUNCH + ' "$@"')} mlssl"""
    )
    # `gres` counts per node, `gpu` per job; without `mpi` the plugin starts one task on one node.
    RANKS = {"gres": f"gpu:{PER_NODE}", "nodes": STUDY.nodes, "tasks": STUDY.nodes, "tasks_per_gpu": 0, "mpi": "srun"}
"""Command of a stage that uses all GPUs of a run, and the resources of its job."""


def threads_per_rank(wildcards, threads):
    return max(1, threads // PER_NODE)


# Functions, because Snakemake expands wildcards in plain strings.
CAPTION = {
    "about": lambda wildcards: STUDY.about,
    "budget": lambda wildcards: outputs.budget(STUDY),
    "seeds": lambda wildcards: ", ".join(map(str, STUDY.seeds)),
}
"""Text for the report's captions."""


wildcard_constraints:
    run="|".join(STUDY.runs),
    method="|".join(STUDY.pictured) or "none",
