"""Commands and resources of a stage on one GPU, on several of one machine, and on several machines."""

import json
import os
import shlex
import subprocess
import sys

import pytest
from support.snakemake import ROOT

from mlssl.runtime.launch import Layout, threads_beside

SLOT = "py -m mlssl.runtime.gpu_slot --gpus"
TORCHRUN = "py -m torch.distributed.run --standalone --nproc-per-node"


@pytest.mark.parametrize(
    ("layout", "command", "resources"),
    [
        (Layout(), "py -m mlssl", {"gpu": 1}),
        (Layout(slots=True), f"{SLOT} 1 -- py -m mlssl", {"gpu": 1}),
        (Layout(4), f"{TORCHRUN} 4 -m mlssl", {"gpu": 4, "tasks_per_gpu": 0}),
        (Layout(4, slots=True), f"{SLOT} 4 -- {TORCHRUN} 4 -m mlssl", {"gpu": 4, "tasks_per_gpu": 0}),
    ],
)
def test_one_node(layout, command, resources):
    assert layout.command("py") == command.split()
    assert layout.resources() == resources


@pytest.mark.parametrize("slots", [False, True])  # on several nodes Slurm assigns the GPUs
def test_several_nodes(slots):
    layout = Layout(8, 2, slots)
    *srun, bash, flag, program, zero = layout.command("py")
    assert srun == ["srun", "--nodes", "2", "--ntasks", "2", "--ntasks-per-node", "1", "--gres", "gpu:4"]
    assert (bash, flag, zero) == ("bash", "-c", "mlssl")
    assert program.startswith("exec py -m torch.distributed.run --nnodes 2 --nproc-per-node 4 --rdzv-backend c10d ")
    assert program.endswith(' -m mlssl "$@"')
    expected = {"gres": "gpu:4", "nodes": 2, "tasks": 2, "tasks_per_gpu": 0, "mpi": "srun"}
    assert layout.resources() == expected


SHOW = f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n"
SRUN = '#!/bin/sh\nwhile [ "$1" != bash ]; do shift; done\nexec "$@"\n'


@pytest.mark.parametrize("layout", [Layout(), Layout(2), Layout(8, 2)])
def test_the_words_survive_the_shells_between(tmp_path, layout):
    """A python that prints its arguments, in a folder with a space, started as the rules start it."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    for name, text in (("python", SHOW), ("srun", SRUN)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    stage = ["pretrain", "--study=my study.json", "--run-name=it's $HOME"]
    line = shlex.join([*layout.command(str(folder / "python")), *stage])
    slurm = {"SLURM_JOB_ID": "40007", "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.1"}
    environment = os.environ | slurm | {"PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run(line, shell=True, env=environment, capture_output=True, text=True, check=True)
    words = json.loads(done.stdout)
    assert words[-5:] == ["-m", "mlssl", *stage]
    if layout.nodes > 1:
        assert words[words.index("--rdzv-endpoint") + 1] == "10.0.0.1:20007"


def test_the_threads_of_a_job_are_divided_among_its_ranks():
    assert [Layout(8, 2).threads_per_rank(threads) for threads in (1, 4, 8, 11)] == [1, 1, 2, 2]


@pytest.mark.parametrize(("cores", "gpus", "threads"), [(16, 0, 1), (16, 4, 4), (64, 1, 8), (2, 4, 1)])
def test_jobs_on_gpus_share_the_cores(cores, gpus, threads):
    assert threads_beside(cores, gpus) == threads


def test_no_torch_is_imported():
    code = "import sys, mlssl.runtime.launch; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
