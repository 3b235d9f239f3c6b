"""The suite from Python: pretrain, evaluate, and load what came out ([docs/python.md](../docs/python.md)).

Settings are mappings with the keys of docs/settings.md, as in a study file. torch is imported by what needs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlssl.errors import ConfigError, DataError, did_you_mean
from mlssl.study.settings import TRANSFERS, Pretrain
from mlssl.study.validation import build

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

EVALUATORS = tuple(name for name in TRANSFERS if name != "pseudo_labels")
"""What `evaluate` runs; pseudo-labels are recorded in training, they are no property of a backbone."""


def pretrain(
    settings: Mapping[str, Any],
    out: Path | str,
    *,
    store: Path | str | None = None,
    device: str = "auto",
    threads: int | None = None,
    progress: bool = True,
) -> Path:
    """Pretrain a backbone by the `settings` of `pretrain` (docs/settings.md); returns the path of `backbone.pt`.

    `out` is the run's folder: an interrupted run resumes, a finished one returns at once. `store` is the image
    store, built if it does not exist (default: `out`/store), as are proposals beside it. Raises ConfigError and
    DataError.
    """
    config, out = build(Pretrain, settings, "pretrain"), Path(out)
    from mlssl.data import selective_search
    from mlssl.data.proposals import find_proposals
    from mlssl.data.store import ImageStore, build_store
    from mlssl.pretrain import loop
    from mlssl.pretrain.prepare import identified
    from mlssl.runtime import device as devices
    from mlssl.study.identity import proposals_file

    config, on = identified(config), devices.choose(device)
    devices.set_up(on, threads)
    data, store = config.data, Path(store) if store else out / "store"
    proposals = proposals_file(config.proposals, store)
    if config.takes_proposals:
        selective_search.check(proposals)
    build_store(Path(data.root) / data.train, store, short_side=data.short_side, images_id=data.images_id)
    if config.takes_proposals:
        find_proposals(ImageStore(store), proposals, config.proposals)
    score = None
    if config.knn_every is not None:
        from mlssl.transfer.during import Neighbours

        score = Neighbours(config, on)
    loop.pretrain(config, store, out, run=out.name, device=on, progress=progress, score=score)
    return out / "backbone.pt"


def evaluate(
    backbone: Path | str,
    evaluator: str,
    settings: Mapping[str, Any],
    *,
    seed: int | None = None,
    device: str = "auto",
) -> list[dict[str, Any]]:
    """Evaluate a `backbone.pt`; returns one row per score: `protocol`, `metric`, `value` (percent) and `n`.

    `evaluator` is one of EVALUATORS, `settings` are those of its section (docs/settings.md), `seed` is that of the
    pretraining if not given. Nothing is written. Raises ConfigError and DataError.
    """
    if evaluator not in EVALUATORS:
        like = did_you_mean(evaluator, EVALUATORS)
        raise ConfigError(f"evaluator: '{evaluator}' is not known{like}; give one of {', '.join(EVALUATORS)}")
    config = build(TRANSFERS[evaluator], settings, evaluator)
    import importlib

    from mlssl.runtime import device as devices
    from mlssl.transfer.load import load_backbone as load

    on = devices.choose(device)
    devices.set_up(on)
    if seed is None:
        seed = int(load(Path(backbone))[1]["seed"])
    module = importlib.import_module(f"mlssl.transfer.{evaluator}")
    rows: list[dict[str, Any]] = module.evaluate(Path(backbone), config, seed=seed, device=on)[0]
    return rows


def load_backbone(path: Path | str, *, output_stride: int = 32) -> nn.Module:
    """The backbone of a `backbone.pt`, in evaluation mode: a timm model without pooling and classifier.

    It maps images N x 3 x H x W, normalised by ImageNet's mean and standard deviation, to a map N x C x h x w,
    where h is H / `output_stride`. Raises ConfigError for a file of another kind.
    """
    from mlssl.transfer.load import load_backbone as load

    return load(Path(path), output_stride=output_stride)[0].eval()


def load_results(study: Path | str) -> pd.DataFrame:
    """All scores of a study: its `metrics.tsv`, one row per run, protocol and metric (columns: docs/results.md).

    `study` is the folder `results/<name>`, or the name alone. Raises DataError if it has no results.
    """
    import pandas as pd

    folder = Path(study)
    path = (folder if folder.is_dir() else Path("results") / folder) / "metrics.tsv"
    if not path.is_file():
        raise DataError(f"{path}: no such file; run the study, or `mlssl collect` it")
    return pd.read_csv(path, sep="\t")
