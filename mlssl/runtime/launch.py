"""How a stage is started on its GPUs: the words of its command, and the resources of its job.

Pure functions of the layout, for the rules of the workflow. Imports no torch.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass

TORCHRUN = ("-m", "torch.distributed.run")
RENDEZVOUS = (
    "--rdzv-backend c10d --rdzv-id $SLURM_JOB_ID"
    " --rdzv-endpoint $SLURM_LAUNCH_NODE_IPADDR:$((20000 + SLURM_JOB_ID % 20000))"
)
"""Where the launchers of several nodes meet: on the first node, where srun runs, at a port that depends on the job.
The shell on each node expands this text."""


MOST_THREADS = 8
"""Threads of a job for each of its GPUs: enough to read images as fast as one GPU computes."""


def threads_beside(cores: int, gpus: int) -> int:
    """CPU threads for each GPU of a machine whose `cores` are shared by jobs on all `gpus`; 1 without a GPU."""
    return max(1, min(cores // gpus, MOST_THREADS)) if gpus else 1


@dataclass(frozen=True)
class Layout:
    """The GPUs of one job: `gpus` in all, divided equally among `nodes`. With `slots`, each job on one node first
    reserves GPUs of the machine that no other job uses (`gpu_slot`)."""

    gpus: int = 1
    nodes: int = 1
    slots: bool = False

    @property
    def per_node(self) -> int:
        """GPUs per node, which is also the number of ranks per node."""
        return self.gpus // self.nodes

    def command(self, python: str = sys.executable) -> list[str]:
        """The words of the command up to the name of the stage.

        For one GPU they are `python -m mlssl`. On one node torchrun starts a rank for each GPU; on several nodes
        srun starts a torchrun on each.
        """
        if self.nodes > 1:
            ranks = ["--nnodes", str(self.nodes), "--nproc-per-node", str(self.per_node)]
            launcher = f"exec {shlex.join([python, *TORCHRUN, *ranks])} {RENDEZVOUS} -m mlssl"
            tasks = ["--nodes", str(self.nodes), "--ntasks", str(self.nodes), "--ntasks-per-node", "1"]
            # The word after bash's program is its $0; "$@" are the stage's words.
            return ["srun", *tasks, "--gres", f"gpu:{self.per_node}", "bash", "-c", f'{launcher} "$@"', "mlssl"]
        slot = [python, "-m", "mlssl.runtime.gpu_slot", "--gpus", str(self.gpus), "--"] if self.slots else []
        ranks = [*TORCHRUN, "--standalone", "--nproc-per-node", str(self.gpus)] if self.gpus > 1 else []
        return [*slot, python, *ranks, "-m", "mlssl"]

    def resources(self) -> dict[str, int | str]:
        """Resources of the job, as Snakemake's plugin for Slurm and the shipped profiles read them."""
        if self.nodes > 1:
            # `gres` counts per node, `gpu` per job; without `mpi` the plugin starts one task on one node.
            nodes: dict[str, int | str] = {"nodes": self.nodes, "tasks": self.nodes, "mpi": "srun"}
            return nodes | {"gres": f"gpu:{self.per_node}", "tasks_per_gpu": 0}
        if self.gpus > 1:
            return {"gpu": self.gpus, "tasks_per_gpu": 0}  # one task, torchrun; the plugin would start one per GPU
        return {"gpu": 1}

    def threads_per_rank(self, threads: int) -> int:
        """CPU threads of each rank if the job has `threads` on each node; at least 1."""
        return max(1, threads // self.per_node)
