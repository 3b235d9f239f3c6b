# What every rule file uses: the study, expanded; the places of its files; what is finished of it.
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
"""The study as this call of Snakemake has read it: what its jobs read."""
DRY_RUN = any(re.fullmatch("-[a-zA-Z]*n[a-zA-Z]*|--dry-?run", word) for word in sys.argv)
"""Snakemake itself learns only later that it is one."""


def made(source):
    """What is there once a command has made a data set; nothing for a folder that nobody makes."""
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
except WorkflowError:  # a scheduler has no number of cores; its profile says what these rules get
    CORES = 1

# Data sets, pretrainings and transfers are offered to Snakemake only while they are not finished. So nothing makes it
# do them again, and delete them first: no newer input, no edited source, no touched file. `mlssl redo` does.
# A job sees all rules, since it may have ended once already; so does the report, which lists what was done.
ALL_RULES = not workflow.is_main_process or "--report" in sys.argv
CHANGED_CODE = "--changed-code" if config.get("changed_code") else ""
"""On request, unfinished runs that other code has begun go on."""


def unfinished(stage):
    """A pattern of the runs that still need this stage."""
    wanted = STUDY.runs if stage == "pretrain" else STUDY.transfer_runs.get(stage, ())
    finished = set() if ALL_RULES else PROGRESS.finished(stage)
    return "|".join(run for run in wanted if run not in finished) or "(?!)"


def code_of(stage):
    """A digest of the sources of a cheap stage, which follows every change of them."""
    return digest_of(stage_code(stage))


PER_NODE = STUDY.gpus_per_run // STUDY.nodes
"""GPUs of a run on each of its machines."""
SLOT = "{python} -m mlssl.runtime.gpu_slot --gpus {gpus} -- " if config.get("gpu_slots") else ""
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
        f""" bash -c {shlex.quote(LAUNCH + ' "$@"')} mlssl"""
    )
    # `gres` is per node, where `gpu` would be the job's total; without `mpi` the plugin starts one task on one node.
    RANKS = {"gres": f"gpu:{PER_NODE}", "nodes": STUDY.nodes, "tasks": STUDY.nodes, "tasks_per_gpu": 0, "mpi": "srun"}
"""The command of a stage that a run's GPUs share, and the resources of its job."""


def threads_per_rank(wildcards, threads):
    return max(1, threads // PER_NODE)


# By functions, because Snakemake looks for wildcards in plain texts.
CAPTION = {
    "about": lambda wildcards: STUDY.about,
    "budget": lambda wildcards: outputs.budget(STUDY),
    "seeds": lambda wildcards: ", ".join(map(str, STUDY.seeds)),
}
"""What the report's captions state."""


wildcard_constraints:
    run="|".join(STUDY.runs),
    method="|".join(STUDY.pictured) or "none",
