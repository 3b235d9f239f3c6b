"""Run Snakemake's jobs as Kubernetes Jobs, with kubectl: `submit` prints a name for `status` and `cancel`.

MLSSL_IMAGE    container image with this package installed
MLSSL_VOLUME   name of a persistent volume claim that several nodes can mount
MLSSL_MOUNT    where it is mounted: the same path as on the machine that Snakemake runs on
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from typing import Any


def manifest(args: argparse.Namespace) -> dict[str, Any]:
    """Manifest of a Job that runs Snakemake's job script once; Snakemake does the retries."""
    missing = [name for name in ("MLSSL_IMAGE", "MLSSL_VOLUME", "MLSSL_MOUNT") if name not in os.environ]
    if missing:
        sys.exit(f"{', '.join(missing)}: not set; {sys.argv[0]} --help describes them")
    needs: dict[str, Any] = {"cpu": args.cpus, "memory": f"{args.memory}M"}
    limits = {"memory": needs["memory"]} | ({"nvidia.com/gpu": args.gpus} if args.gpus else {})
    container = {
        "name": "job",
        "image": os.environ["MLSSL_IMAGE"],
        "command": ["bash", args.script],
        "workingDir": os.getcwd(),
        "resources": {"requests": needs, "limits": limits},
        "volumeMounts": [
            {"name": "shared", "mountPath": os.environ["MLSSL_MOUNT"]},
            {"name": "memory", "mountPath": "/dev/shm"},
        ],
    }
    volumes = [
        {"name": "shared", "persistentVolumeClaim": {"claimName": os.environ["MLSSL_VOLUME"]}},
        {"name": "memory", "emptyDir": {"medium": "Memory"}},  # for worker processes; the default is 64 MB
    ]
    # A pod that is terminated gets SIGTERM and has this time to save its state.
    pod = {
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 60,
        "containers": [container],
        "volumes": volumes,
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"generateName": "mlssl-"},
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": 60 * args.minutes,
            "ttlSecondsAfterFinished": 86_400,
            "template": {"spec": pod},
        },
    }


def kubectl(*arguments: str, text: str | None = None) -> str:
    done = subprocess.run(["kubectl", *arguments], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()


def submit(args: argparse.Namespace) -> None:
    print(kubectl("create", "-f", "-", "-o", "name", text=json.dumps(manifest(args))))


def status(args: argparse.Namespace) -> None:
    state = json.loads(kubectl("get", args.job, "-o", "json")).get("status", {})
    print("success" if state.get("succeeded") else "failed" if state.get("failed") else "running")


def cancel(args: argparse.Namespace) -> None:
    kubectl("delete", *args.jobs, "--wait=false")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    sub = commands.add_parser("submit")
    sub.set_defaults(function=submit)
    for name in ("gpus", "memory", "cpus", "minutes"):
        sub.add_argument(f"--{name}", type=int, required=True)
    sub.add_argument("script")
    sub = commands.add_parser("status")
    sub.set_defaults(function=status)
    sub.add_argument("job")
    sub = commands.add_parser("cancel")
    sub.set_defaults(function=cancel)
    sub.add_argument("jobs", nargs="+")
    args = parser.parse_args()
    args.function(args)


if __name__ == "__main__":
    main()
