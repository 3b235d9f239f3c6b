"""Every setting that a study or a stage takes, declared once: type, range, default, and what it does.

The checks, the JSON schema and `docs/settings.md` all come from these declarations (see `reference`). The defaults
are the paper's values (MLS section 4.1; DenseCL's recipe where MLS is silent). The parameters of a method are
declared in its constructor (see `methods`). Imports no torch.

A setting is of one kind. An experiment setting can change a number, so it is part of the name of a run; operation
settings (logging, checkpoints), places (paths) and labels are not.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import typing
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from mlssl.errors import ConfigError
from mlssl.ranges import (
    Count,
    Inside,
    Name,
    NotNegative,
    Pixels,
    Positive,
    Probability,
    Range,
    Seed,
    Share,
    ShareRange,
)


class Kind(Enum):
    """What a setting decides. EXPERIMENT unless the declaration says otherwise."""

    EXPERIMENT = "experiment"
    OPERATION = "operation"
    PLACE = "place"
    LABEL = "label"


OPERATION, PLACE, LABEL = Kind.OPERATION, Kind.PLACE, Kind.LABEL

# Strict: a text or a truth value is no number. `validate` reads by way of JSON, where a list may become a tuple.
_STRICT = ConfigDict(strict=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
settings = dataclass(frozen=True, config=_STRICT)

Path_ = Annotated[str, Field(min_length=1), AfterValidator(lambda path: str(Path(path).expanduser())), PLACE]
"""A path; `~` is the home folder."""


def _short_side(value: int | str) -> int | str:
    if value != "full" and (isinstance(value, str) or value < 16):
        raise ValueError("give pixels, at least 16, or full")
    return value


def _axis(name: str) -> str:
    if name == "method":
        raise ValueError("the main comparison has this name; give another")
    return name


@settings
class Data:
    """A folder in COCO's layout: `root/<split>/*.jpg`, `root/annotations/instances_<split>.json`."""

    root: Path_
    """The folder."""
    train: Annotated[str, PLACE] = "train2017"
    """Name of the training split."""
    val: Annotated[str, PLACE] = "val2017"
    """Name of the validation split."""
    short_side: Annotated[int | str, AfterValidator(_short_side)] = 256
    """Pixels of the short side in the image store that pretraining reads; smaller images keep their size, and with
    `full` all do."""
    images_id: str | None = None
    """Identity of the training images (see `sources`); null: their content is looked at."""
    data_id: str | None = None
    """Identity of the images and annotations of both splits; null: their content is looked at."""


@settings
class Views:
    """MoCo-v2's augmentation (arXiv 2003.04297; MLS section 4.1). Probabilities `*_p` are per sample."""

    crop: Pixels = 224
    """Pixels of a view's side."""
    scale: ShareRange = (0.2, 1.0)
    """Share of the image's area that a crop covers."""
    ratio: Range = (3 / 4, 4 / 3)
    """Width over height of a crop, before it is resized to a square."""
    brightness: NotNegative = 0.4
    """Largest change of brightness, as a share."""
    contrast: NotNegative = 0.4
    """Largest change of contrast, as a share."""
    saturation: NotNegative = 0.4
    """Largest change of saturation, as a share."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    """Largest turn of the hue, as a share of the colour circle."""
    jitter_p: Probability = 0.8
    """Of the four changes of colour above, in random order."""
    grayscale_p: Probability = 0.2
    """Of no colour at all."""
    blur_sigma: Range = (0.1, 2.0)
    """In pixels of the crop."""
    blur_p: Probability = 0.5
    """Of a Gaussian blur."""
    flip_p: Probability = 0.5
    """Of a horizontal flip."""


@settings
class Pretrain:
    """One pretraining run."""

    data: Data
    method: Annotated[str, LABEL]
    """Name of the method in the study."""
    target: str | None = None
    """Dotted path of the method's class; null leaves the backbone untrained."""
    params: dict[str, Any] = Field(default_factory=dict)
    """The parameters of the method's constructor."""
    seed: Seed = 0
    """Of the initial weights, the data order and the views."""
    backbone: str = "resnet50"
    """Name of a timm model with a B x C x h x w feature map."""
    init: Annotated[Path_ | None, PLACE] = None
    """File of weights that the backbone starts from, own or published; null draws them from the seed."""
    init_id: str | None = None
    """Identity of that file; null: its content is looked at."""
    epochs: Positive | None = 400.0
    """Length in passes over the training images."""
    steps: Count | None = None
    """Length in optimiser steps instead of epochs; exactly one of the two is set."""
    batch_size: Annotated[int, Field(ge=2)] = 256
    """Images per optimiser step, over all GPUs."""
    lr: Positive = 0.3
    """Learning rate of SGD at its peak; it falls to zero along a cosine."""
    sgd_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of SGD; the momentum of a key encoder is a parameter of the method."""
    weight_decay: NotNegative = 1e-4
    """Of all weights, norm layers and biases included, as in MoCo."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the run in which the learning rate rises linearly from zero."""
    views: Views = Field(default_factory=Views)
    """The augmentation."""
    batch_norm: Literal["sync", "local", "shuffle"] = "sync"
    """With several ranks, whose samples a batch norm sees: `sync` those of all, so that the result does not depend
    on their number; `local` its own rank's; `shuffle` as local, with the keys dealt to the ranks anew (MoCo)."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto` is bf16 where the device gains from it, else fp32."""
    log_every: Annotated[Count, OPERATION] = 10
    """Steps between two lines of the log; losses are read back from the device only then."""
    label_records: Annotated[int, Field(ge=0), OPERATION] = 20
    """How often in the run, evenly spread, the pseudo-labels of a step are kept, to be judged afterwards."""
    checkpoint_seconds: Annotated[NotNegative, OPERATION] = 60.0
    """Seconds between two checkpoints."""

    @model_validator(mode="after")
    def _one_length(self) -> typing.Self:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give exactly one of epochs and steps, set the other to null")
        return self

    def total_steps(self, images: int) -> int:
        """Optimiser steps of the whole run over `images` training images (incomplete batches are dropped)."""
        if self.steps is not None:
            return self.steps
        return round(self.epochs * (images // self.batch_size))


@settings
class Linear:
    """Multi-label linear probe on frozen features of whole images."""

    data: Data
    size: Pixels = 224
    """Images are resized to size x size pixels, so that every labelled object stays in view."""
    batch_size: Count = 64
    """Images per forward pass; it changes nothing but the memory."""
    fractions: Annotated[tuple[Share, ...], Field(min_length=1)] = (1.0, 0.1, 0.01)
    """Shares of the labelled training images, nested; each is a protocol of its own."""
    selection: Inside = 0.2
    """Share of those images held out to choose the regularisation; never the reported split."""
    weight_decays: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    """Candidates for the L2 penalty on standardised features."""
    subsets: Count = 5
    """Random subsets of each share below 1; the result is their mean. Subsets depend on the seed alone."""
    tolerance: Positive = 1e-6
    """A fit has converged when no entry of the gradient exceeds it (mean loss, principal components)."""
    iterations: Count = 100
    """Largest number of Newton steps per fit; the notes of a result list the fits that reach it."""

    @staticmethod
    def protocol(fraction: float) -> str:
        """Name of the protocol that trains on this share of the labels: linear, linear_10pct, …"""
        return "linear" if fraction == 1 else f"linear_{100 * fraction:g}pct"


@settings
class Knn:
    """Multi-label k-nearest-neighbour classification with frozen features of whole images; nothing is trained."""

    data: Data
    size: Pixels = 224
    """Images are resized to size x size pixels."""
    batch_size: Count = 64
    """Images per forward pass; it changes nothing but the memory."""
    neighbours: Annotated[tuple[Count, ...], Field(min_length=1)] = (5, 10, 20, 50, 100, 200)
    """Candidates for the number of neighbours."""
    temperature: Positive = 0.07
    """Of the softmax over the neighbours' cosine similarities, which gives their weights."""
    selection: Inside = 0.2
    """Share of the training images held out to choose the number of neighbours; never the reported split."""


@settings
class Dense:
    """Linear segmentation on frozen maps: a classifier of cells in closed form; classes as in segmentation."""

    data: Data
    size: Annotated[int, Field(ge=32, multiple_of=32)] = 224
    """Images are resized to size x size pixels."""
    batch_size: Count = 64
    """Images per forward pass; it changes nothing but the memory."""
    output_stride: Literal[8, 16, 32] = 32
    """Input pixels per cell of C5; 8 and 16 replace strides by dilation, and C4 has at most this stride."""
    train_images: Annotated[int, Field(ge=4)] | None = 5000
    """Train on this number of training images, drawn by the seed; null takes all."""
    eval_images: Count | None = None
    """Evaluate on this number of validation images, the first ones; null takes all."""
    selection: Inside = 0.2
    """Share of those training images held out to choose the regularisation; never the reported split."""
    shrinkages: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1e-4, 1e-3, 1e-2, 1e-1)
    """Candidates for the regularisation of the covariance, relative to its mean variance."""


@settings
class Regions:
    """Classification of annotated boxes by RoIAligned frozen maps: linear softmax layer and nearest neighbours."""

    data: Data
    size: Annotated[int, Field(ge=32, multiple_of=32)] = 224
    """Images are resized to size x size pixels."""
    batch_size: Count = 64
    """Images per forward pass; it changes nothing but the memory."""
    output_stride: Literal[8, 16, 32] = 32
    """Input pixels per cell of C5; 8 and 16 replace strides by dilation, and C4 has at most this stride."""
    train_images: Annotated[int, Field(ge=4)] | None = 5000
    """Train on this number of training images, drawn by the seed; null takes all."""
    eval_images: Count | None = None
    """Evaluate on this number of validation images, the first ones; null takes all."""
    selection: Inside = 0.2
    """Share of those training images held out to choose the regularisation; never the reported split."""
    weight_decays: Annotated[tuple[Positive, ...], Field(min_length=1)] = (3e-4, 1e-3, 1e-2, 1e-1)
    """Candidates for the L2 penalty on standardised features."""
    tolerance: Positive = 1e-5
    """A fit has converged when no entry of the gradient exceeds it (mean loss, principal components)."""
    iterations: Count = 100
    """Largest number of Newton steps per fit; the notes of a result list the fits that reach it."""
    neighbours: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 3, 5, 10, 20, 50)
    """Candidates for the number of neighbours."""
    temperature: Positive = 0.07
    """Of the softmax over the neighbours' cosine similarities, which gives their weights."""


@settings
class Correspondence:
    """Local features without training: matching cells between two crops of an image, and retrieving objects."""

    data: Data
    size: Annotated[int, Field(ge=32, multiple_of=32)] = 224
    """Images and crops are resized to size x size pixels."""
    batch_size: Count = 64
    """Images per forward pass; it changes nothing but the memory."""
    eval_images: Count | None = None
    """Evaluate on this number of validation images, the first ones; null takes all."""
    scale: ShareRange = (0.3, 1.0)
    """Share of the image's area that a crop covers."""
    ratio: Range = (3 / 4, 4 / 3)
    """Width over height of a crop, before it is resized to a square."""


@settings
class Detection:
    """Mask R-CNN with an FPN, all layers trained; the defaults are COCO's 1x schedule."""

    data: Data
    size: Pixels = 800
    """Short side in pixels; the long side is at most 5/3 of it."""
    iterations: Count = 90_000
    """Optimiser steps."""
    batch_size: Count = 16
    """Images per optimiser step, over all GPUs."""
    lr: Positive = 0.02
    """Learning rate of SGD before the first milestone."""
    milestones: tuple[Inside, ...] = (2 / 3, 8 / 9)
    """Shares of the run after which the learning rate falls tenfold."""
    warmup_iterations: Annotated[int, Field(ge=0)] = 1000
    """Steps in which the learning rate rises linearly."""
    weight_decay: NotNegative = 1e-4
    """Of all weights that are trained."""
    fpn_channels: Count = 256
    """Channels of the feature pyramid."""
    box_head_channels: Count = 1024
    """Width of the two fully connected layers of the box head."""
    mask_head_layers: Count = 4
    """Convolutions of the mask head."""
    proposals: Count = 1000
    """Region proposals kept per image, after non-maximum suppression."""
    rois_per_image: Count = 512
    """Proposals sampled per image to train the heads."""
    eval_images: Count | None = None
    """Evaluate on this number of validation images, the first ones; null takes all."""


@settings
class Segmentation:
    """FCN head on the backbone, all layers trained; classes are background and the data's categories."""

    data: Data
    size: Pixels = 512
    """Images and masks are resized to size x size for training; scores are taken at full resolution."""
    iterations: Count = 40_000
    """Optimiser steps."""
    batch_size: Annotated[int, Field(ge=2)] = 16
    """Images per optimiser step, over all GPUs."""
    lr: Positive = 0.01
    """Learning rate of SGD at the start; it falls to zero polynomially."""
    weight_decay: NotNegative = 5e-4
    """Of all weights that are trained."""
    output_stride: Literal[8, 16, 32] = 8
    """Input pixels per cell of the backbone's last map."""
    head_channels: Annotated[int, Field(ge=4)] = 256
    """Channels of the FCN head."""
    eval_images: Count | None = None
    """Evaluate on this number of validation images, the first ones; null takes all."""


@settings
class PseudoLabels:
    """Quality of a run's pseudo-labels while it trained, judged by annotations that training never saw."""

    data: Data
    visible: Share = 0.5
    """A crop shows a category if at least this share of the box of one of its objects is inside."""


@settings
class Pictures:
    """Neighbours and scores of the compared methods' first seed, to look at (figures 3 and 4 of MLS)."""

    queries: Count = 4
    """Rows of the sheet of neighbours."""
    neighbours: Count = 4
    """Nearest entries of each query."""
    candidates: Count = 60
    """Number of queries of which the best, the worst and some others are drawn."""
    dictionary_size: Annotated[int, Field(ge=2)] = 4096
    """Entries, one a crop."""
    seed: Seed = 0
    """Of the images and crops."""


@settings
class SearchBenchmark:
    """Time and recall of the searches over the size of the dictionary, with the features of one compared run."""

    method: Annotated[str, LABEL]
    """One of those compared; its first seed."""
    sizes: Annotated[tuple[Annotated[int, Field(ge=2)], ...], Field(min_length=1)]
    """Numbers of dictionary entries, D."""
    k: Count = 20
    """Neighbours per query."""
    batch: Count = 64
    """Queries searched, and keys enqueued, per step."""
    batches: Annotated[int, Field(ge=2)] = 9
    """Batches of queries; the first one warms up and is not timed."""
    crops: Annotated[int, Field(ge=2)] = 32768
    """Crops put through the key encoder; larger dictionaries are filled up with entries made from them."""
    samples: tuple[Count, ...] = (4096, 16384)
    """Entries that a sampled search looks at."""
    probes: tuple[Count, ...] = (1, 4, 16, 64)
    """Lists of the inverted file that are searched."""
    graph_up_to: Count = 65536
    """Largest dictionary for which a graph (HNSW) is built: that takes minutes beyond."""
    seed: Seed = 0
    """Of the images and crops."""


@settings
class Scenes:
    """Draw the embedded data set."""

    images: Count
    """Training images."""
    val_images: Count
    """Validation images."""
    size: tuple[Pixels, Pixels]
    """Width and height in pixels."""
    seed: Seed
    """An image depends on it, its split and its place in the split alone."""


@settings
class Dataset:
    """A public data set, from a folder or its archives, else fetched."""

    name: str
    """coco2017, voc2007, voc0712, cityscapes, …"""
    source: Path_ | None = None
    """Folder with the images, or with the archives."""
    download: Annotated[bool, OPERATION] = False
    """Fetch what is not under `source`."""


@settings
class Photos:
    """Your own photos; without labels they are trained on and looked at."""

    folder: Path_
    """Folder of photos, of any depth."""
    labels: Path_ | None = None
    """COCO JSON, folder of VOC XML or YOLO txt, or CSV of file,label;label."""
    val_share: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """Share of the labelled photos to validate on."""
    seed: Seed = 0
    """Draws those."""
    anonymise: Literal["blur", "pixelate"] | None = None
    """How `people` are hidden in every copy."""
    people: Path_ | None = None
    """Where people are: boxes or masks in one of the formats of `labels`, or the word `faces` for a detector."""
    deny: Path_ | None = None
    """Text file with names or patterns of photos to leave out."""
    near: Annotated[int, Field(ge=0, le=16)] = 6
    """Bits of 63 in which near-duplicates may differ."""
    max_skipped: Annotated[Probability, OPERATION] = 0.05
    """Share of unusable photos above which the import stops."""


@settings
class DataSource:
    """Where images come from: exactly one of `root`, `scenes`, `dataset` and `photos`."""

    root: Path_ | None = None
    """A folder in COCO's layout that is there already."""
    scenes: Scenes | None = None
    """The embedded data set, drawn."""
    dataset: Dataset | None = None
    """A public data set."""
    photos: Photos | None = None
    """Your own photos."""
    train: Annotated[str | None, PLACE] = None
    """Name of the training split."""
    val: Annotated[str | None, PLACE] = None
    """Name of the validation split."""
    short_side: Annotated[int | str, AfterValidator(_short_side)] = 256
    """Pixels of the short side in the image store; `full` keeps the size of all images."""

    @model_validator(mode="after")
    def _one_source(self) -> typing.Self:
        given = [key for key in SOURCES if getattr(self, key) is not None]
        if len(given) != 1:
            found = f"{' and '.join(given)} are given" if given else "none is given"
            raise ValueError(
                f"{found}; give one of {', '.join(SOURCES)}, and set another that a base study has to null"
            )
        return self


SOURCES = ("root", "scenes", "dataset", "photos")


@settings
class Method:
    """A method of a study."""

    target: str | None = None
    """Dotted path of the class; null leaves the backbone untrained."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Parameters of its constructor."""
    pretrain: dict[str, Any] = Field(default_factory=dict)
    """In place of the study's `pretrain`, for this method."""


@settings
class Level:
    """One level of an ablation."""

    method: str
    """Name of a method of the study."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Parameters that differ from the method's."""


@settings
class Ablation:
    """One axis of a study: `method`, `param` and `values`, or `levels`."""

    method: str | None = None
    """Name of a method of the study."""
    param: str | None = None
    """The parameter that is varied."""
    values: Annotated[tuple[Any, ...], Field(min_length=1)] | None = None
    """Its values, one level each."""
    levels: Annotated[dict[str, Level], Field(min_length=1)] | None = None
    """Level -> a method and the parameters that differ."""

    @model_validator(mode="after")
    def _one_form(self) -> typing.Self:
        by_value = (self.method, self.param, self.values)
        if (self.levels is None) == (None in by_value) or (self.levels and any(v is not None for v in by_value)):
            raise ValueError("give method, param and values, or levels")
        if self.values is not None and len({json.dumps(v) for v in self.values}) < len(self.values):
            raise ValueError("values: each may be given once")
        return self


@settings
class Selection:
    """Which pretrainings go through a transfer."""

    runs: Literal["all", "compare"] = "all"
    """All of the study, or those of the main comparison."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] | None = None
    """A subset of the study's seeds; null takes all."""


@settings
class StudyFile:
    """A study. `extends: other.yaml` takes what is not given here from another file.

    Mappings are merged key by key; null removes one.
    """

    name: Annotated[str, Field(pattern="^[a-z0-9][a-z0-9_-]*$"), LABEL]
    """Results go to results/<name>/."""
    about: Annotated[str, LABEL]
    """One or two sentences for the captions: data set, budget, purpose."""
    data: DataSource
    """What is pretrained on."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]
    """Every run is trained once with each."""
    pretrain: dict[str, Any]
    """How all methods are trained."""
    methods: Annotated[dict[Name, Method], Field(min_length=1)]
    """By name, as the tables show them."""
    compare: Annotated[tuple[str, ...], Field(min_length=1)]
    """Names of the methods of the main comparison."""
    transfers: dict[str, dict[str, Any]]
    """What every backbone goes through."""
    transfer_data: DataSource | None = None
    """What the transfers train and test on, if not `data`."""
    gpus_per_run: Annotated[Count, OPERATION] = 1
    """GPUs (without any: processes) that share a pretraining, a detection or a segmentation."""
    nodes: Annotated[Count, OPERATION] = 1
    """Machines that those GPUs are on, the same number on each."""
    common: dict[str, Any] = Field(default_factory=dict)
    """Parameters set alike for every method that has them."""
    ablations: dict[Annotated[Name, AfterValidator(_axis)], Ablation] = Field(default_factory=dict)
    """By axis: a table and a figure each."""
    pictures: Pictures | None = None
    """Sheets of neighbours and histograms of scores; null draws none."""
    search_benchmark: SearchBenchmark | None = None
    """Benchmark of the searches; null runs none."""

    @model_validator(mode="after")
    def _no_twice(self) -> typing.Self:
        for key in ("seeds", "compare"):
            if len(set(getattr(self, key))) < len(getattr(self, key)):
                raise ValueError(f"{key}: each may be given once")
        return self


TRANSFERS: dict[str, type] = {
    "linear": Linear,
    "knn": Knn,
    "dense": Dense,
    "regions": Regions,
    "correspondence": Correspondence,
    "detection": Detection,
    "segmentation": Segmentation,
    "pseudo_labels": PseudoLabels,
}
FROZEN = ("linear", "knn", "dense", "regions", "correspondence")
"""Transfers that read a frozen backbone, on one device."""
Config = Pretrain | Linear | Knn | Dense | Regions | Correspondence | Detection | Segmentation | PseudoLabels
RESOLVED = {"data", "method", "target", "params", "seed", "init_id"}
"""Fields of a stage's settings that a study gives elsewhere, or that are found by looking at files."""


def validate(annotation: Any, value: Any, where: str) -> Any:
    """`value`, as read from YAML, as the type `annotation`; ConfigError says what is wrong and what is allowed."""
    text = json.dumps(value, default=str)
    try:
        return adapter(annotation).validate_json(text)
    except ValidationError as error:
        raise ConfigError(_sentence(error, annotation, json.loads(text), where)) from None


@functools.lru_cache(maxsize=256)
def adapter(annotation: Any) -> TypeAdapter:
    """Reads values as the type `annotation`, strictly."""
    config = None if dataclasses.is_dataclass(annotation) else _STRICT
    return TypeAdapter(annotation, config=config)


ALLOWED = {
    "greater_than": "give more than {gt}",
    "greater_than_equal": "give at least {ge}",
    "less_than": "give less than {lt}",
    "less_than_equal": "give at most {le}",
    "literal_error": "give {expected}",
    "int_type": "give a whole number",
    "int_from_float": "give a whole number",
    "float_type": "give a number",
    "finite_number": "give a finite number",
    "bool_type": "give true or false",
    "string_type": "give a text",
    "string_too_short": "give a text",
    "string_pattern_mismatch": "give a text of the form {pattern}",
    "tuple_type": "give a list",
    "list_type": "give a list",
    "too_short": "give at least {min_length}",
    "too_long": "give {max_length}",
    "dict_type": "give a mapping of keys to values",
    "dataclass_type": "give a mapping of keys to values",
    "dataclass_exact_type": "give a mapping of keys to values",
    "value_error": "{error}",
}
UNKNOWN = ("unexpected_keyword_argument", "extra_forbidden")
MISSING = ("missing", "missing_argument")


def _sentence(error: ValidationError, annotation: Any, value: Any, where: str) -> str:
    """One error: where it is, the value, and what is allowed there."""
    found = [(_place(e, value), e) for e in error.errors(include_url=False)]
    # What is misspelt is unknown, and the right key is missing; the first says more.
    place, first = next((f for f in found if f[1]["type"] in UNKNOWN), found[0])
    key, section = _key(where, place), _key(where, place[:-1])
    if first["type"] in UNKNOWN:
        return f"{section}: unknown key '{place[-1]}'; known are {', '.join(known_keys(annotation, place[:-1]))}"
    if first["type"] in MISSING:
        what = f"key '{place[-1]}'" if isinstance(place[-1], str) else f"value {place[-1] + 1}"
        return f"{section}: {what} is missing; add it"
    if first["type"] == "value_error" and isinstance(first["input"], dict):  # of a section: it names the keys
        return f"{key}: {first['ctx']['error']}"
    # Where several types are allowed, each has its error.
    allowed = list(dict.fromkeys(_allowed(e) for at, e in found if at == place))
    allowed[1:] = [text.removeprefix("give ") for text in allowed[1:]]
    shown = repr(first["input"])
    shown = shown if len(shown) <= 60 else f"{shown[:57]}…"
    return f"{key}: {shown} is not allowed; {' or '.join(allowed)}"


def _place(error: Mapping[str, Any], value: Any) -> list[str | int]:
    """The keys that lead to the error within `value`; pydantic's own list names types among them."""
    place = []
    for part in error["loc"]:
        if part in (value if isinstance(value, dict) else range(len(value) if isinstance(value, list) else 0)):
            value = value[part]
            place.append(part)
    return [*place, error["loc"][-1]] if error["type"] in MISSING else place


def _key(where: str, place: list[str | int]) -> str:
    """`file: section.key`, where `where` is `file` or `file: section`."""
    return where + ("." if ": " in where else ": ") + ".".join(map(str, place)) if place else where


def _allowed(error: Mapping[str, Any]) -> str:
    text = ALLOWED.get(error["type"])
    return text.format(**error.get("ctx", {})) if text else error["msg"]


def known_keys(annotation: Any, place: list[str | int]) -> list[str]:
    """The keys of the section at `place` within a class of settings."""
    for part in place:
        is_class = dataclasses.is_dataclass(annotation)
        annotation = _section(_hints(annotation)[part] if is_class else typing.get_args(annotation)[-1])
    return [f.name for f in dataclasses.fields(annotation)] if dataclasses.is_dataclass(annotation) else []


def _section(annotation: Any) -> Any:
    """The class of settings, or the mapping, that an annotation has among its options."""
    options = [annotation]
    while options and not dataclasses.is_dataclass(options[0]) and typing.get_origin(options[0]) is not dict:
        options = [*typing.get_args(options[0]), *options[1:]]
    return options[0] if options else None


def check_section(cls: type, values: Mapping[str, Any], where: str, *, without: set[str] = frozenset()) -> None:
    """Check the given keys of `cls` each for itself; missing ones are no error. Raises ConfigError."""
    known = {f.name: hint for f, hint in zip(dataclasses.fields(cls), _hints(cls).values(), strict=True)}
    known = {name: hint for name, hint in known.items() if name not in without}
    for key, value in values.items():
        if key not in known:
            raise ConfigError(f"{where}: unknown key '{key}'; known are {', '.join(known)}")
        validate(known[key], value, f"{where}.{key}")


def build(cls: type, values: Mapping[str, Any], where: str) -> Any:
    """Make the frozen settings `cls` from plain values, as read from YAML.

    `where` (file and section) opens every message. Raises ConfigError for an unknown or missing key, or a value of
    another type or outside of the range.
    """
    return validate(cls, dict(values), where)


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)


def kind_of(cls: type, name: str) -> Kind:
    """Whether a setting is one of the experiment, the operation, a place or a label."""
    hint = _hints(cls)[name]
    options = [hint, *(o for o in typing.get_args(hint) if typing.get_origin(o) is Annotated)]
    found = [m for option in options for m in getattr(option, "__metadata__", ()) if isinstance(m, Kind)]
    return found[0] if found else Kind.EXPERIMENT


def experiment(config: Any) -> dict[str, Any]:
    """The settings that can change a number, as plain values: what a run or a result is named by.

    Without the seed of a run, which its name has beside it.
    """
    values = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name == "seed" and isinstance(config, Pretrain):
            continue
        if kind_of(type(config), field.name) is Kind.EXPERIMENT:
            values[field.name] = experiment(value) if dataclasses.is_dataclass(value) else _plain(value)
    if "data" in values:  # pretraining reads the training images alone, transfers read them as they are
        used = ("short_side", "images_id") if isinstance(config, Pretrain) else ("data_id",)
        values["data"] = {key: values["data"][key] for key in used}
    return values


def plain(config: Any) -> dict[str, Any]:
    """The settings as nested dicts and lists, ready for YAML or JSON."""
    return _plain(dataclasses.asdict(config))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


class _Loader(yaml.SafeLoader):
    """YAML in which `1e-4` is a number, as in JSON and YAML 1.2, and a key given twice is an error."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node, seen = super().compose_mapping_node(anchor), set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"key '{key.value}' is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return node


_Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(path: Path) -> Any:
    """Parse a YAML file; ConfigError names the file and the place when it cannot be read."""
    try:
        values = yaml.load(Path(path).read_text(encoding="utf-8-sig"), Loader=_Loader)
        json.dumps(values, default=str)
        return values
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; check the path") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    except (TypeError, ValueError, RecursionError) as error:  # a date as a key, a list within itself
        raise ConfigError(f"{path}: is no JSON either ({error}); give texts, numbers, lists and mappings") from None


def read(cls: type, path: Path) -> Any:
    """Read the settings `cls` from a YAML file."""
    values = read_yaml(path)
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path}: holds {type(values).__name__}; give a mapping of keys to values")
    return build(cls, values, str(path))
