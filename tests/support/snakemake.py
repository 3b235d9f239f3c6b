"""Calls of Snakemake as a user makes them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
SHIPPED = ("Snakefile", "workflow", "profiles", "config", "mlssl", "baselines", "results/published",
           "results/reference/rates.json")  # fmt: skip


def snakemake(cwd, study, *arguments, check=True, cores=2, project=ROOT):
    """Output of `snakemake` in `cwd`; unless `check` is off, the call must end well."""
    command = [
        sys.executable, "-m", "snakemake", "--snakefile", str(project / "Snakefile"), "--cores", str(cores),
        "--config", f"study={study}", *arguments,
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(project), "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(cwd)}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    if check:
        logs = "".join(f"--- {log}\n{log.read_text()[-2000:]}" for log in Path(cwd).rglob("logs/**/*.log"))
        assert done.returncode == 0, f"{output[-4000:]}\n{logs[-6000:]}"
    return output


def plan(cwd, study, *arguments, project=ROOT):
    """What a dry run would do (rule -> number of jobs, without `all`), and all that it prints."""
    output = snakemake(cwd, study, *arguments, "--dry-run", project=project)
    if "Nothing to be done" in output:
        return {}, output
    table = output.split("Job stats:")[1].split("total")[0].splitlines()[3:]
    found = {line.split()[0]: int(line.split()[1]) for line in table if line.split()}
    found.pop("all")
    return found, output


def jobs(*arguments, **options):
    """The first part of `plan`."""
    return plan(*arguments, **options)[0]


def mlssl(cwd, *arguments, check=True, project=ROOT):
    """Output of `mlssl` in `cwd`."""
    environment = os.environ | {"PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "mlssl", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def copy_project(to):
    """A checkout of its own, whose sources a test may edit."""
    for name in SHIPPED:
        source, target = ROOT / name, to / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)
    return to


def tiny(**changes):
    """The settings of the tiny study, with some sections replaced; None removes one."""
    values = yaml.safe_load((ROOT / "config" / "tiny.yaml").read_text())
    values |= changes
    return {key: value for key, value in values.items() if value is not None}


def small(**changes):
    """One method beside random weights, one probe: the least that has every kind of stage."""
    base = tiny()
    linear = {"linear": base["transfers"]["linear"], "pseudo_labels": {}}
    common = {"compare": ["random", "mls"], "ablations": {}, "transfers": linear, "search_benchmark": None}
    return tiny(**{**common, **changes})


def write(path, values):
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def contents(folder):
    """Every file below a folder -> its bytes."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
