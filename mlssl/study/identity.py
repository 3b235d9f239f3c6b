"""What names an experiment: digests of runs and of transfers, and the names of runs. Imports no torch."""

from __future__ import annotations

import re
from typing import Any

from mlssl.digest import digest_of
from mlssl.study.settings import Config, Pretrain, experiment, plain


def run_digest(config: Pretrain) -> str:
    """Names a pretraining without its seed."""
    return digest_of(experiment(config))


def run_name(config: Pretrain, digest: str, seed: int) -> str:
    """The class of the method, the digest and the seed: `mls-1a2b3c4d-s0`."""
    cls = config.target.rpartition(".")[2] if config.target else "untrained"
    return f"{re.sub('[^a-z0-9]', '', cls.lower())}-{digest[:8]}-s{seed}"


def about_run(config: Pretrain, name: str) -> dict[str, Any]:
    """What every file of a run says about it."""
    named = run_digest(config)
    return {
        "run": name,
        "stage": "pretrain",
        "method": config.method,
        "target": config.target,
        "seed": config.seed,
        "digest": named,
        "config_digest": named,
        "backbone": config.backbone,
        "experiment": experiment(config),
        "config": plain(config),
    }


def transfer_digest(stage: str, config: Config) -> str:
    """Names the protocol of a transfer, and the data that it reads."""
    return digest_of({"stage": stage, **experiment(config)})


def about_transfer(stage: str, config: Config, run: dict[str, Any]) -> dict[str, Any]:
    """What a transfer's result says about it; `run` is what the run's files say about the pretraining."""
    kept = ("run", "method", "target", "seed", "digest", "backbone")
    return {
        **{key: run[key] for key in kept},
        "stage": stage,
        "config_digest": transfer_digest(stage, config),
        "experiment": experiment(config),
        "config": plain(config),
    }
