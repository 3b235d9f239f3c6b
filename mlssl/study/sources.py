"""Where a study's images come from: a folder, drawn scenes, a public data set or own photos. Imports no torch.

Each has two identities: `images_id` of what pretraining reads, `data_id` of what transfers read. A folder's
identity is its content (see `fingerprint`). A data set that a command makes is named by what it is made of, so that
its runs have their names before it is there; if somebody changes it afterwards, its content is part of its identity
too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlssl.datasets.counts import SINGLE_LABEL, SPLITS
from mlssl.digest import digest_of
from mlssl.errors import ConfigError, DataError, did_you_mean
from mlssl.files import write_json
from mlssl.study.fingerprint import Fingerprint, content_id, fingerprint
from mlssl.study.identity import experiment
from mlssl.study.settings import SOURCES, Data, Dataset, DataSource, Photos, Scenes
from mlssl.study.validation import plain

KINDS = ("scenes", "dataset", "photos")
"""What a command makes; anything else is a folder that is there already."""
READY = {"dataset": "prepared.json", "photos": "import.json"}
"""The file that is written last into a folder; drawn scenes are renamed into place when complete."""
RECORD = "fingerprint.json"
"""In a data set that a command made: its fingerprint when it was new."""
CACHE = Path("results/data/fingerprints")


@dataclass(frozen=True)
class Source:
    """A data set in COCO's layout, and how a command makes it."""

    kind: str
    """`root`, or one of KINDS."""
    settings: Scenes | Dataset | Photos | None
    data: Data

    @property
    def ready(self) -> Path:
        """The file or folder that is there once the data set is complete."""
        root = Path(self.data.root)
        return root / READY[self.kind] if self.kind in READY else root

    @property
    def labelled(self) -> bool:
        return not isinstance(self.settings, Photos) or self.settings.labels is not None

    @property
    def exclusive(self) -> bool:
        """Whether each image has one category by the kind of the source: classification sets and class folders."""
        s = self.settings
        if isinstance(s, Photos):
            return s.labels is not None and Path(s.labels) == Path(s.folder)
        return isinstance(s, Dataset) and s.name in SINGLE_LABEL

    def command(self) -> list[str]:
        """The command that makes it: the words after `mlssl`. Values are joined to options by `=`."""
        s = self.settings
        out = f"--out={self.data.root}"
        if isinstance(s, Scenes):
            size = "x".join(map(str, s.size))
            counts = [f"--images={s.images}", f"--val-images={s.val_images}"]
            return ["scenes", out, *counts, f"--size={size}", f"--seed={s.seed}"]
        if isinstance(s, Dataset):
            words = ["dataset", s.name, out, "--splits", *self.splits]
            words += [f"--source={s.source}"] if s.source else []
            return words + (["--download"] if s.download else [])
        assert isinstance(s, Photos)
        options = {key: value for key, value in sorted(plain(s).items()) if key != "folder" and value is not None}
        return [
            "import",
            f"--photos={s.folder}",
            out,
            *(f"--{k.replace('_', '-')}={v}" for k, v in options.items()),
        ]

    @property
    def splits(self) -> list[str]:
        return list(dict.fromkeys((self.data.train, self.data.val)))

    def images(self) -> tuple[int | None, int | None]:
        """Training and validation images; published numbers where the data are not there, None where unknown."""
        if isinstance(self.settings, Scenes):
            return self.settings.images, self.settings.val_images
        folders = [Path(self.data.root) / split for split in (self.data.train, self.data.val)]
        if self.ready.exists() and all(folder.is_dir() for folder in folders):
            train, val = (sum(1 for _ in folder.iterdir()) for folder in folders)
            return train, val
        if isinstance(self.settings, Dataset):
            published = SPLITS[self.settings.name]
            return published[self.data.train], published[self.data.val]
        return None, None


def read_source(given: DataSource, where: str) -> Source:
    """A `data` section of a study, not yet identified; `where` (file and section) opens every message."""
    kind = next(key for key in SOURCES if getattr(given, key) is not None)
    settings = None if kind == "root" else getattr(given, kind)
    names = {"train": "train2017", "val": "val2017"}
    allowed = {key: [name] for key, name in names.items()}
    if isinstance(settings, Dataset):
        if settings.name not in SPLITS:
            like = did_you_mean(settings.name, SPLITS)
            raise ConfigError(
                f"{where}.dataset.name: '{settings.name}' is not known{like}; one of {', '.join(SPLITS)}"
            )
        splits = list(SPLITS[settings.name])
        names, allowed = {"train": splits[0], "val": splits[-1]}, dict.fromkeys(names, splits)
    elif isinstance(settings, Photos):
        names, allowed = {"train": "train", "val": "val"}, {"train": ["train"], "val": ["val"]}
    for key in names:
        split = getattr(given, key)
        if split is not None and settings is not None and split not in allowed[key]:
            made = settings.name if isinstance(settings, Dataset) else kind
            raise ConfigError(f"{where}.{key}: {made} has no split '{split}'; give {' or '.join(allowed[key])}")
        names[key] = split or names[key]
    return Source(kind, settings, Data(given.root or "-", short_side=given.short_side, **names))


def identify(source: Source, cache: Path = CACHE) -> tuple[Source, list[str]]:
    """The source with its place and identities, and sentences on what has changed since the last call.

    Checks size and times of each file. A folder that does not exist has the identity `-`.
    """
    if source.settings is None:
        found, changes = _look(source.data, cache)
        return _with(source, images_id=found.images, data_id=found.all), changes
    images, everything, made_again = recipe(source, cache)
    name = source.settings.name if isinstance(source.settings, Dataset) else source.kind
    source = _with(source, root=f"results/data/{name}-{digest_of(everything)[:8]}")
    ids, changes = {"images_id": digest_of(images), "data_id": digest_of(everything)}, made_again
    if source.ready.exists():
        found, edited = _look(source.data, cache)
        changes = made_again + edited
        made = record(source.data, found)
        if made["images"] != found.images:
            ids["images_id"] = digest_of([ids["images_id"], found.images])
        if made["all"] != found.all:
            ids["data_id"] = digest_of([ids["data_id"], found.all])
    return _with(source, **ids), changes


def _with(source: Source, **values: Any) -> Source:
    return dataclasses.replace(source, data=dataclasses.replace(source.data, **values))


def _look(data: Data, cache: Path) -> tuple[Fingerprint, list[str]]:
    if not (Path(data.root) / data.train).is_dir():
        return Fingerprint("-", "-", {}), []
    return fingerprint(Path(data.root), data.train, data.val, cache=cache, progress=True)


def recipe(source: Source, cache: Path = CACHE) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """What decides the training images of a data set that a command makes, and what decides all of it.

    The third value has sentences on the files of one's own that have changed since the last call.
    """
    s = source.settings
    if isinstance(s, Scenes):
        everything = plain(s)
        images = {key: value for key, value in everything.items() if key != "val_images"}
        return {"scenes": images}, {"scenes": everything}, []
    if isinstance(s, Dataset):
        images = {"dataset": s.name, "train": source.data.train}
        return images, images | {"val": source.data.val}, []
    assert isinstance(s, Photos)
    contents, changes = {}, []
    for key in ("folder", "labels", "people", "deny"):
        contents[key] = path = getattr(s, key)
        if path not in (None, "faces"):
            contents[key], changed = content_id(labels_of(Path(path)), cache)
            changes += [text for text in changed if text not in changes]
    made_of = {"photos": experiment(s) | contents}
    return made_of, made_of, changes


def labels_of(path: Path) -> Path:
    """The path whose content counts: of a data.yaml, the folder, because the import reads the labels in it."""
    return path.parent if path.suffix.lower() in (".yaml", ".yml") and path.is_file() else path


def record(data: Data, found: Fingerprint | None = None) -> dict[str, str]:
    """The fingerprint that a made data set had when it was new; written at the first call, from `found`."""
    path = Path(data.root) / RECORD
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return {key: values[key] for key in ("images", "all")}
    except FileNotFoundError:
        found = found or fingerprint(Path(data.root), data.train, data.val, cache=CACHE)[0]
        values = {"images": found.images, "all": found.all}
        with contextlib.suppress(OSError):  # A read-only data set has no record.
            write_json(path, values)
        return values
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: is not a fingerprint ({error!r}); remove the file") from None


def by_content(data: Data) -> Data:
    """`data` with its identities: as given, or else by its content."""
    if data.images_id and data.data_id:
        return data
    found = fingerprint(Path(data.root), data.train, data.val, cache=CACHE, progress=True)[0]
    return dataclasses.replace(data, images_id=data.images_id or found.images, data_id=data.data_id or found.all)


def contents(data: Data) -> dict[str, str | None]:
    """For the header of a result: the identities of the data, and where a command made it, its content then."""
    made = record(data) if (Path(data.root) / RECORD).exists() else {}
    return {
        "images_id": data.images_id,
        "data_id": data.data_id,
        "images": made.get("images", data.images_id),
        "all": made.get("all", data.data_id),
    }
