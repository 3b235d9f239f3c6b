"""What one run is told: frozen, typed configurations, and the only home of their defaults.

The defaults are the paper's values (MLS section 4.1; DenseCL's recipe where MLS is silent). A method's own
scalars (k, lambda, dictionary size, …) default in its constructor. This module imports no torch.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml


class ConfigError(ValueError):
    """A configuration that cannot be used; the message names file, key, value and remedy."""


class DataError(ValueError):
    """Data that cannot be used; the message names file, key, value and remedy."""


@dataclass(frozen=True)
class Data:
    """A folder in COCO's layout: `root/<split>/*.jpg`, `root/annotations/instances_<split>.json`."""

    root: str
    train: str = "train2017"
    val: str = "val2017"
    short_side: int | str = 256
    """Pixels of the short side in the image store that pretraining reads; smaller images keep their size.

    `full` keeps all at their size.
    """

    def __post_init__(self) -> None:
        if isinstance(self.short_side, str) and self.short_side != "full":
            raise ConfigError(f"short_side: '{self.short_side}' is not known; give pixels, or full")


@dataclass(frozen=True)
class Views:
    """MoCo-v2's augmentation (arXiv 2003.04297; MLS section 4.1). Probabilities `*_p` are per sample."""

    crop: int = 224
    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    jitter_p: float = 0.8
    grayscale_p: float = 0.2
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    """In pixels of the crop."""
    blur_p: float = 0.5
    flip_p: float = 0.5


BATCH_NORMS = ("sync", "local", "shuffle")


@dataclass(frozen=True)
class Pretrain:
    """One pretraining run."""

    data: Data
    method: str
    """Name of the method in the study."""
    target: str | None = None
    """Dotted path of the method's class; None leaves the backbone untrained."""
    params: dict[str, Any] = field(default_factory=dict)
    """The scalars of the method's constructor."""
    seed: int = 0
    backbone: str = "resnet50"
    init: str | None = None
    """File of weights that the backbone starts from, own or published; None draws them from the seed."""
    epochs: float | None = 400.0
    steps: int | None = None
    """Length in optimiser steps instead of epochs; exactly one of the two is set."""
    batch_size: int = 256
    lr: float = 0.3
    sgd_momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup: float = 0.0
    """Share of the run in which the learning rate rises linearly from zero, in [0, 1)."""
    views: Views = field(default_factory=Views)
    batch_norm: str = "sync"
    """With several ranks, whose samples a batch norm sees: `sync` those of all, so that the result does not depend
    on their number; `local` its own rank's; `shuffle` as local, with the keys dealt to the ranks anew (MoCo)."""
    precision: str = "auto"
    """fp32, bf16, or auto: bf16 where the device gains from it."""
    log_every: int = 10
    """Steps between two lines of the log; losses are read back from the device only then."""
    label_records: int = 20
    """How often in the run, evenly spread, the pseudo-labels of a step are kept, to be judged afterwards."""
    checkpoint_seconds: float = 60.0

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise ConfigError("give exactly one of epochs and steps, set the other to null")
        if self.batch_norm not in BATCH_NORMS:
            raise ConfigError(f"batch_norm: '{self.batch_norm}' is not known; give sync, local or shuffle")

    def total_steps(self, images: int) -> int:
        """Optimiser steps of the whole run over `images` training images (incomplete batches are dropped)."""
        if self.steps is not None:
            return self.steps
        return round(self.epochs * (images // self.batch_size))


@dataclass(frozen=True)
class Linear:
    """Multi-label linear probe on frozen features of whole images."""

    data: Data
    size: int = 224
    """Images are resized to size x size pixels, so that every labelled object stays in view."""
    batch_size: int = 64
    fractions: tuple[float, ...] = (1.0, 0.1, 0.01)
    """Shares of the labelled training images, nested; each is a protocol of its own."""
    selection: float = 0.2
    """Share of those images held out to choose the regularisation; never the reported split."""
    weight_decays: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    """Candidates for the L2 penalty on standardised features."""
    iterations: int = 100
    """At most so many L-BFGS iterations per fit."""

    def __post_init__(self) -> None:
        for fraction in self.fractions:
            if not 0 < fraction <= 1:
                raise ConfigError(f"fractions: {fraction} is no share; give numbers in (0, 1]")

    @staticmethod
    def protocol(fraction: float) -> str:
        """Name of the protocol that trains on this share of the labels: linear, linear_10pct, …"""
        return "linear" if fraction == 1 else f"linear_{100 * fraction:g}pct"


@dataclass(frozen=True)
class Detection:
    """Mask R-CNN with an FPN, all layers trained; the defaults are COCO's 1x schedule."""

    data: Data
    size: int = 800
    """Short side in pixels; the long side is at most 5/3 of it."""
    iterations: int = 90_000
    batch_size: int = 16
    lr: float = 0.02
    milestones: tuple[float, ...] = (2 / 3, 8 / 9)
    """Shares of the run after which the learning rate falls tenfold."""
    warmup_iterations: int = 1000
    weight_decay: float = 1e-4
    fpn_channels: int = 256
    box_head_channels: int = 1024
    mask_head_layers: int = 4
    proposals: int = 1000
    """Region proposals kept per image, after non-maximum suppression."""
    rois_per_image: int = 512
    """Proposals sampled per image to train the heads."""
    eval_images: int | None = None
    """Evaluate on the first so many validation images; None takes all."""


@dataclass(frozen=True)
class Segmentation:
    """FCN head on the backbone, all layers trained; classes are background and the data's categories."""

    data: Data
    size: int = 512
    """Images and masks are resized to size x size for training; scores are taken at full resolution."""
    iterations: int = 40_000
    batch_size: int = 16
    lr: float = 0.01
    weight_decay: float = 5e-4
    output_stride: int = 8
    """Input pixels per cell of the backbone's last map: 8, 16 or 32."""
    head_channels: int = 256
    eval_images: int | None = None


@dataclass(frozen=True)
class PseudoLabels:
    """How good a run's pseudo-labels were while it trained, judged by annotations it never saw."""

    data: Data
    visible: float = 0.5
    """A crop shows a category if at least this share of the box of one of its objects lies inside."""


@dataclass(frozen=True)
class Pictures:
    """Neighbours and scores of a pretrained run, to look at (figures 3 and 4 of MLS)."""

    queries: int = 4
    neighbours: int = 4
    candidates: int = 60
    """The worst query is the worst of so many."""
    dictionary_size: int = 4096
    seed: int = 0


Config = Pretrain | Linear | Detection | Segmentation | PseudoLabels


def build(cls: type, values: Mapping[str, Any], where: str) -> Any:
    """Make the frozen configuration `cls` from plain values, as read from YAML.

    `where` (file and section) opens every message. Raises ConfigError for an unknown or missing key, or a
    value of another type than the field's.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            raise ConfigError(f"{where}: unknown key '{key}'; known are {', '.join(fields)}")
    missing = [
        name
        for name, f in fields.items()
        if name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{where}: key '{missing[0]}' is missing; add it")
    typed = {key: _typed(hints[key], value, f"{where}.{key}") for key, value in values.items()}
    try:
        return cls(**typed)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _typed(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return build(hint, value, where)
    if origin is types.UnionType:
        if value is None and type(None) in args:
            return None
        kinds = [a for a in args if a is not type(None)]
        return _typed(next((a for a in kinds if type(value) is a), kinds[0]), value, where)
    if origin is tuple and isinstance(value, list | tuple):
        if args[-1] is not Ellipsis and len(value) != len(args):
            raise ConfigError(f"{where}: {value!r} has {len(value)} values; give {len(args)}")
        return tuple(_typed(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict and isinstance(value, Mapping):
        return dict(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    name = getattr(hint, "__name__", str(hint))
    raise ConfigError(f"{where}: {value!r} is a {type(value).__name__}; give a {name}")


def plain(config: Any) -> dict[str, Any]:
    """The configuration as nested dicts and lists, ready for YAML or JSON."""
    return _plain(dataclasses.asdict(config))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def read_yaml(path: Path) -> Any:
    """Parse a YAML file; ConfigError names the file and the place when it cannot be read."""
    try:
        return yaml.safe_load(Path(path).read_text())
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; check the path") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None


def read(cls: type, path: Path) -> Any:
    """Read the configuration `cls` from a YAML file."""
    values = read_yaml(path)
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path}: holds {type(values).__name__}; give a mapping of keys to values")
    return build(cls, values, str(path))
