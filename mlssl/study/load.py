"""A study, read from its file and checked, and written for the jobs of Snakemake."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from mlssl.errors import ConfigError, did_you_mean
from mlssl.files import write_json
from mlssl.project import included
from mlssl.study.expand import expand, levels
from mlssl.study.extends import merged, read_extended
from mlssl.study.fingerprint import content_id
from mlssl.study.methods import check_common
from mlssl.study.overrides import as_values
from mlssl.study.settings import RESOLVED, TRANSFERS, Pretrain, StudyFile
from mlssl.study.sources import CACHE, identify, read_source
from mlssl.study.study import COMPARE, FROZEN, Study, initial_weights
from mlssl.study.validation import build, check_section, plain


def load(path: Path | str, *, in_job: bool = False, overrides: Iterable[str] = ()) -> Study:
    """Read, check and expand a study; ConfigError names file, key, value and remedy.

    `overrides`, such as `pretrain.epochs=20`, replace what the file says; a frozen study has its own.

    Checks size and times of every file of its data. A file written by `freeze` is read instead, without this check,
    if `path` is one, or if a job of Snakemake asks (`in_job`) and the study has one.
    """
    path = Path(path)
    if path.suffix == ".json":
        return thaw(path)
    if not path.exists():
        like, names = did_you_mean(path.stem, included()), ", ".join(included())
        raise ConfigError(f"{path}: no such file{like}; give the path of a study, or the name of one of {names}")
    values = read_extended(path)
    if not isinstance(values, dict):
        held = "nothing" if values is None else type(values).__name__
        raise ConfigError(f"{path}: holds {held}; give a mapping of keys to values")
    overrides = tuple(overrides)
    values = merged(values, as_values(overrides))
    if in_job and (frozen := Path("results") / str(values.get("name")) / FROZEN).exists():
        return thaw(frozen)
    file = build(StudyFile, values, str(path))
    check_sections(file, path)
    source, changes = identify(read_source(file.data, f"{path}: data"))
    transfer_source = source
    if file.transfer_data:
        transfer_source, more = identify(read_source(file.transfer_data, f"{path}: transfer_data"))
        changes += more
    weights = {}
    for init in initial_weights(file):
        weights[init], more = content_id(Path(init), CACHE)
        changes += more
    return replace(expand(file, path, source, transfer_source, weights, tuple(changes)), overrides=overrides)


def freeze(study: Study) -> None:
    """Write a study, with the identities of its data, to `study.frozen`: its jobs need not compute them again."""
    sources = [
        {"root": s.data.root, "images_id": s.data.images_id, "data_id": s.data.data_id}
        for s in (study.source, study.transfer_source)
    ]
    write_json(
        study.frozen,
        {
            "path": str(study.path),
            "set": list(study.overrides),
            "study": plain(study.file),
            "sources": sources,
            "init": study.weights,
        },
    )


def thaw(path: Path) -> Study:
    """The study that `freeze` wrote to `path`."""
    try:
        frozen = json.loads(path.read_text(encoding="utf-8"))
        origin, values, given, weights = (frozen[key] for key in ("path", "study", "sources", "init"))
        overrides = tuple(frozen.get("set", ()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: is not a frozen study ({error!r}); give the study file") from None
    file, origin = build(StudyFile, values, origin), Path(origin)
    data, sources = (file.data, file.transfer_data or file.data), []
    for section, found in zip(data, given, strict=True):
        source = read_source(section, f"{origin}: data")
        sources.append(replace(source, data=replace(source.data, **found)))
    source, transfer_source = sources
    study = expand(file, origin, source, source if file.transfer_data is None else transfer_source, weights, ())
    return replace(study, overrides=overrides)


def check_sections(file: StudyFile, path: Path) -> None:
    """Check what is given for each stage and method, where it is given."""
    check_section(Pretrain, file.pretrain, f"{path}: pretrain", without=RESOLVED)
    for name, method in file.methods.items():
        check_section(Pretrain, method.pretrain, f"{path}: methods.{name}.pretrain", without=RESOLVED)
    for name, settings in file.transfers.items():
        if name not in TRANSFERS:
            raise ConfigError(
                f"{path}: transfers: unknown key '{name}'{did_you_mean(name, TRANSFERS)}; "
                f"known are {', '.join(TRANSFERS)}"
            )
        own = {key: value for key, value in settings.items() if key not in ("runs", "seeds")}
        check_section(TRANSFERS[name], own, f"{path}: transfers.{name}", without=RESOLVED)
    check_common({name: m.target for name, m in file.methods.items()}, file.common, str(path))
    for axis, level, named, _ in levels(file):
        if named not in file.methods:
            known = ", ".join(file.methods)
            place = "compare" if axis == COMPARE else f"ablations.{axis}: {level}"
            like = did_you_mean(named, file.methods)
            raise ConfigError(f"{path}: {place}: method '{named}' is not under methods{like}; known are {known}")
    search = file.search_benchmark
    if search and search.method not in file.compare:
        raise ConfigError(
            f"{path}: search_benchmark.method: '{search.method}' is not compared; give one of "
            f"{', '.join(file.compare)}"
        )
    cost = file.cost_benchmark
    trained = [method for method in file.compare if method in file.methods and file.methods[method].target]
    if cost and cost.relative_to not in trained:
        raise ConfigError(
            f"{path}: cost_benchmark.relative_to: '{cost.relative_to}' is not compared, or trains nothing; "
            f"give one of {', '.join(trained) or 'the methods with a target, after adding one to compare'}"
        )
