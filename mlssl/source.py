"""Where a study's images come from: a folder, drawn scenes, a public dataset or own photos. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlssl.config import ConfigError, Data, build
from mlssl.data.public.counts import SPLITS
from mlssl.provenance import digest_of

KINDS = ("scenes", "dataset", "photos")
"""What can be made ready by a verb; anything else is a folder that is there already."""
READY = {"dataset": "prepared.json", "photos": "import.json"}
"""The file that says a folder is whole; drawn scenes appear whole themselves."""


@dataclass(frozen=True)
class Source:
    """A dataset in COCO's layout, and how it is made where it is not simply there."""

    kind: str
    """`root`, or one of KINDS."""
    settings: dict[str, Any]
    data: Data

    @property
    def ready(self) -> Path:
        """The file or folder that is there once the dataset is whole."""
        root = Path(self.data.root)
        return root / READY[self.kind] if self.kind in READY else root

    @property
    def labelled(self) -> bool:
        return self.kind != "photos" or self.settings.get("labels") is not None

    def command(self) -> list[str]:
        """The verb that makes it ready, with its options: `python -m mlssl` and this."""
        s = self.settings
        if self.kind == "scenes":
            size = "x".join(map(str, s["size"]))
            counts = ["--images", s["images"], "--val-images", s["val_images"]]
            words = ["scenes", "--out", self.data.root, *counts, "--size", size, "--seed", s["seed"]]
        elif self.kind == "dataset":
            splits = list(dict.fromkeys((self.data.train, self.data.val)))
            words = ["dataset", s["name"], "--out", self.data.root, "--splits", *splits]
            words += ["--source", s["source"]] if s.get("source") else []
            words += ["--download"] if s.get("download") else []
        else:
            words = ["import", "--photos", s["folder"], "--out", self.data.root]
            for key in sorted(s.keys() - {"folder"}):
                words += ["--" + key.replace("_", "-"), s[key]] if s[key] is not None else []
        return list(map(str, words))

    def images(self) -> tuple[int | None, int | None]:
        """Training and validation images; published numbers where the data are not there, None where unknown."""
        if self.kind == "scenes":
            return self.settings["images"], self.settings["val_images"]
        folders = [Path(self.data.root) / split for split in (self.data.train, self.data.val)]
        if self.ready.exists() and all(folder.is_dir() for folder in folders):
            train, val = (sum(1 for _ in folder.iterdir()) for folder in folders)
            return train, val
        if self.kind == "dataset":
            published = SPLITS[self.settings["name"]]
            return published[self.data.train], published[self.data.val]
        return None, None


def read_source(values: Mapping[str, Any], where: str) -> Source:
    """The `data` section of a study, as the schema has checked it; `where` opens every message."""
    kind = next((kind for kind in KINDS if kind in values), "root")
    settings = dict(values.get(kind, {})) if kind != "root" else {}
    rest = {key: value for key, value in values.items() if key not in KINDS}
    if kind == "dataset":
        name = settings["name"]
        if name not in SPLITS:
            raise ConfigError(f"{where}.dataset.name: '{name}' is not known; one of {', '.join(SPLITS)}")
        splits = list(SPLITS[name])
        rest = {"train": splits[0], "val": splits[-1]} | rest
        for key in ("train", "val"):
            if rest[key] not in splits:
                raise ConfigError(f"{where}.{key}: {name} has no split '{rest[key]}'; give {' or '.join(splits)}")
    elif kind == "photos":
        rest = {"train": "train", "val": "val"} | rest
    if kind != "root":
        place = settings["name"] if kind == "dataset" else kind
        rest["root"] = f"results/data/{place}-{digest_of(settings)[:8]}"
    return Source(kind, settings, build(Data, rest, where))
