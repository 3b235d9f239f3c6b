"""A real Slurm on this machine, for a test: three nodes on loopback, two of them with two GPUs that are none.

Its files are in one folder, except links to the configuration in /etc/slurm: Snakemake's plugin drops SLURM_CONF.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

ETC = Path("/etc/slurm")
MARK = "MLSSL_TEST_CLUSTER"
"""In the environment of every process of a cluster: its folder."""
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol")
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# cred_expire: how long a job of a lost node waits before it runs again (120 s if not said).
AuthInfo=socket={state}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={state}/ctld
SlurmctldPidFile={state}/slurmctld.pid
SlurmctldLogFile={state}/slurmctld.log
SlurmdPidFile={state}/slurmd.%n.pid
SlurmdLogFile={state}/slurmd.%n.log
SlurmdSpoolDir={state}/spool.%n
SlurmdParameters=config_overrides
SwitchType=switch/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
GresTypes=gpu
ReturnToService=2
SlurmctldTimeout=10
SlurmdTimeout=5
KillWait=5
MinJobAge=300
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=1,sched_interval=1,bf_interval=2
AccountingStorageType=accounting_storage/none
{nodes}
PartitionName=gpu Nodes=gpu1,gpu2 State=UP
PartitionName=cpu Nodes=cpu1 Default=YES State=UP
"""
NODES = {"gpu1": "Gres=gpu:2", "gpu2": "Gres=gpu:2", "cpu1": ""}


def missing() -> str:
    """Why no cluster can be had here; empty if one can."""
    absent = [program for program in PROGRAMS if not shutil.which(program)]
    if absent:
        packages = "slurmctld slurmd slurm-client munge"
        return f"{', '.join(absent)} not installed; on Debian: apt-get install --no-install-recommends {packages}"
    if (ETC / "slurm.conf").exists():
        return f"{ETC}/slurm.conf: this machine belongs to a cluster already"
    return "" if os.geteuid() == 0 else "Slurm's daemons are to be started as root here"


@contextmanager
def cluster(state: Path):
    """A running cluster; gives the environment in which its commands find it."""
    environment = os.environ | {MARK: str(state)}
    configure(state)
    links = [ETC / name for name in ("slurm.conf", "gres.conf", "cgroup.conf")]
    ETC.mkdir(exist_ok=True)
    for link in links:
        link.unlink(missing_ok=True)
        link.symlink_to(state / link.name)
    try:
        start(state, environment)
        yield environment
    finally:
        stop(state)
        for link in links:
            link.unlink()


def configure(state: Path) -> None:
    host, ports = socket.gethostname().split(".")[0], iter(free_ports(1 + len(NODES)))
    (state / "ctld").mkdir(parents=True)
    (state / "munge").mkdir(mode=0o700)
    key = state / "munge" / "key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    port = next(ports)
    nodes = "\n".join(
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={next(ports)} CPUs=8 RealMemory=64000 {gres}"
        for name, gres in NODES.items()
    )
    (state / "slurm.conf").write_text(CONF.format(host=host, port=port, state=state, nodes=nodes))
    for number in range(2):  # Slurm wants character devices; these are /dev/null's
        os.mknod(state / f"gpu{number}", 0o20666, os.makedev(1, 3))
    (state / "gres.conf").write_text(f"AutoDetect=off\nNodeName=gpu1,gpu2 Name=gpu File={state}/gpu[0-1]\n")
    (state / "cgroup.conf").write_text("CgroupAutomount=no\n")


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def start(state: Path, environment: dict[str, str]) -> None:
    munge = state / "munge"
    files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    options = [f"--{name}={munge / file}" for name, file in files.items()]
    run(["munged", "--force", *options], environment)
    run(["slurmctld", "-c"], environment)
    until(lambda: "UP" in run(["scontrol", "ping"], environment, check=False), f"slurmctld, see {state}")
    for name in NODES:
        start_node(name, environment)
    until(
        lambda: set(run(["sinfo", "-h", "-N", "-o", "%T"], environment).split()) == {"idle"}, f"nodes, see {state}"
    )


def start_node(name: str, environment: dict[str, str]) -> None:
    run(["slurmd", "-N", name], environment)


def stop(state: Path) -> None:
    """End every process of the cluster, its jobs too."""
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(MARK) == str(state):
                process.kill()
    with suppress(FileNotFoundError, ProcessLookupError):
        os.kill(int((state / "munge" / "pid").read_text()), signal.SIGKILL)


def lose_node(state: Path, node: str, job: str) -> None:
    """What a power cut does to a node with a job on it: every process stops, nothing is cleaned up."""
    daemon = psutil.Process(int((state / f"slurmd.{node}.pid").read_text()))
    steps = [p for p in psutil.process_iter() if any(f"[{job}." in part for part in p.cmdline()[:2])]
    lost = {daemon, *(child for step in steps for child in step.children(recursive=True)), *steps}
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for process in lost:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)


def run(command: list[str], environment: dict[str, str], *, check: bool = True) -> str:
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=30, stdin=subprocess.DEVNULL
    )
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr}")
    return done.stdout


def until(condition, what: str, seconds: float = 30):
    """Wait for what `condition` gives to be true, and give it."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:g} s in vain for {what}")
        time.sleep(0.1)
    return found
