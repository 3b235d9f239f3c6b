"""What names an experiment: digests of runs and of transfers, and the names of runs. Imports no torch."""

from __future__ import annotations

import dataclasses
import re
import typing
from pathlib import Path
from typing import Annotated, Any

from mlssl.digest import digest_of
from mlssl.study.settings import LATER, Config, Kind, Preprocessing, Pretrain, Proposals
from mlssl.study.validation import hints, plain


def kind_of(cls: type, name: str) -> Kind:
    """The kind of a field of a class of settings."""
    return next((m for m in _marks(cls, name) if isinstance(m, Kind)), Kind.EXPERIMENT)


def _marks(cls: type, name: str) -> list[Any]:
    hint = hints(cls)[name]
    options = [hint, *(o for o in typing.get_args(hint) if typing.get_origin(o) is Annotated)]
    return [m for option in options for m in getattr(option, "__metadata__", ())]


def experiment(config: Any) -> dict[str, Any]:
    """The settings that can change a number, as plain values; runs and results are named by their digest.

    The seed of a run is left out: it is a part of the run's name itself. So is a setting that was declared LATER,
    where it has its default: runs that were named before keep their names.
    """
    values = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name == "seed" and isinstance(config, Pretrain):
            continue
        if field.name == "each_view":
            value = _differences(config)
        if LATER in _marks(type(config), field.name) and value == field.default:
            continue
        if kind_of(type(config), field.name) is Kind.EXPERIMENT:
            values[field.name] = experiment(value) if dataclasses.is_dataclass(value) else plain(value)
    if "data" in values:
        values["data"] = {key: values["data"][key] for key in read_of_data(config)}
    return values


def _differences(config: Pretrain) -> tuple[dict[str, Any], ...]:
    """`each_view` without what is the same in `views`."""
    base = vars(config.views)
    return tuple({k: v for k, v in changes.items() if v != base[k]} for changes in config.each_view)


def read_of_data(config: Config) -> tuple[str, ...]:
    """What a stage reads: pretraining the stored images, supervised also the labels; transfers the files."""
    if not isinstance(config, Pretrain):
        return ("data_id",)
    return ("short_side", "images_id", "data_id") if config.supervised else ("short_side", "images_id")


def weights_id(content: str, prefix: str | None, preprocessing: Preprocessing | None = None) -> str:
    """The identity of initial weights: of their file's content, of the network in it that is chosen by hand, and of
    their preprocessing where it is not this suite's."""
    named = content if prefix is None else f"{content}:{prefix.removesuffix('.')}"
    if preprocessing is None or preprocessing == Preprocessing():
        return named
    return f"{named}:{digest_of(plain(preprocessing))[:8]}"


def run_digest(config: Pretrain) -> str:
    """The name of a pretraining, without its seed."""
    return digest_of(experiment(config))


def run_name(config: Pretrain, digest: str, seed: int) -> str:
    """The class of the method, the digest and the seed: `mls-1a2b3c4d-s0`."""
    cls = config.target.rpartition(".")[2] if config.target else "weights" if config.init_id else "untrained"
    return f"{re.sub('[^a-z0-9]', '', cls.lower())}-{digest[:8]}-s{seed}"


def proposals_file(config: Proposals, store: Path) -> Path:
    """The file of proposals of an image store: one for all runs with these images and settings."""
    return store.with_name(f"{store.name}-proposals-{digest_of(experiment(config))[:8]}.npz")


def pairs_file(config: Pretrain, folder: Path) -> Path:
    """The file of paired boxes in the folder of the run whose network pairs them."""
    named = [experiment(config.pairs), experiment(config.proposals)]
    return folder / f"pairs-{digest_of(named)[:8]}.npz"


def about_run(config: Pretrain, name: str) -> dict[str, Any]:
    """The description of a run in the header of each of its files."""
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
    """The name of a transfer's protocol and of the data that it reads."""
    return digest_of({"stage": stage, **experiment(config)})


def about_transfer(stage: str, config: Config, run: dict[str, Any]) -> dict[str, Any]:
    """The description of a transfer in the header of its result; `run` is the run's `about_run`."""
    kept = ("run", "method", "target", "seed", "digest", "backbone")
    return {
        **{key: run[key] for key in kept},
        "stage": stage,
        "config_digest": transfer_digest(stage, config),
        "experiment": experiment(config),
        "config": plain(config),
    }
