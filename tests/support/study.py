"""A small study, for tests to change."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

from mlssl.study.load import load
from mlssl.study.study import Study

MLS = "mlssl.method.mls.MLS"
EXAMPLE: dict[str, Any] = {
    "name": "small",
    "about": "a test",
    "data": {"scenes": {"images": 8, "val_images": 4, "size": [64, 64], "seed": 0}},
    "seeds": [0, 1],
    "pretrain": {"backbone": "resnet18", "epochs": 2, "batch_size": 4},
    "common": {"dictionary_size": 64},
    "methods": {
        "mls": {"target": MLS, "params": {"k": 5}},
        "moco_v2": {"target": "baselines.moco_v2.MoCoV2"},
        "random": {},
    },
    "compare": ["random", "moco_v2", "mls"],
    "ablations": {
        "k": {"method": "mls", "param": "k", "values": [1, 5]},
        "loss": {
            "levels": {
                "infonce": {"method": "moco_v2"},
                "infonce+bce": {"method": "mls", "params": {"loss": "bce"}},
                "infonce+bce_pos": {"method": "mls", "params": {"loss": "bce_pos"}},
            }
        },
    },
    "transfers": {"linear": {"size": 32}, "detection": {"runs": "compare", "seeds": [1]}},
}
REMOVED = "(removed)"
"""Takes a key away."""


def changed(places: dict[str, Any] | None = None, base: dict[str, Any] = EXAMPLE) -> dict[str, Any]:
    """A copy of a study's values; `places` has new values for keys such as `pretrain.views.crop`."""
    values = copy.deepcopy(base)
    for place, value in (places or {}).items():
        *sections, last = place.split(".")
        section = values
        for key in sections:
            section = section.setdefault(key, {})
        if value is REMOVED:
            del section[last]
        else:
            section[last] = copy.deepcopy(value)
    return values


def loaded(places: dict[str, Any] | None = None, base: dict[str, Any] = EXAMPLE) -> Study:
    """The study of these values, by way of a file `study.yaml` in the working directory."""
    path = Path("study.yaml")
    path.write_text(yaml.safe_dump(changed(places, base), sort_keys=False), encoding="utf-8")
    return load(path)
