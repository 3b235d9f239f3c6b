"""Every setting that a study or a stage takes, declared once: type, range, default, and what it does.

Declarations only, in this order: pretraining, the transfers, what is drawn and timed, where images come from, and
the study file that combines them. `validation` checks values against them, `reference` makes the JSON schema and
docs/settings.md of them, `identity` names runs by them. The defaults are the paper's values (MLS section 4.1;
DenseCL's recipe where MLS gives none). The parameters of a method are declared in its constructor (see `methods`).
Imports no torch.
"""

from __future__ import annotations

import importlib.util
import json
import typing
from dataclasses import fields, replace
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from mlssl.ranges import (
    EACH_ONCE,
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
    """What a setting affects; EXPERIMENT where the annotation of a setting has no kind."""

    EXPERIMENT = "experiment"
    """It can change a number, so it is part of the name of a run or a result."""
    OPERATION = "operation"
    """How a run is executed: logging, checkpoints, number of GPUs."""
    PLACE = "place"
    """A path, or a name of a folder."""
    LABEL = "label"
    """What people read in tables and captions."""


OPERATION, PLACE, LABEL = Kind.OPERATION, Kind.PLACE, Kind.LABEL


class Added(Enum):
    """Marks a setting of the experiment that was declared after results had been named."""

    LATER = "later"
    """It names a run only where it differs from its default, which is what was done before."""


LATER = Added.LATER

STRICT = ConfigDict(strict=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)
"""No conversion between texts, truth values and numbers; no unknown keys; no infinite numbers."""

C = TypeVar("C")


@dataclass_transform(frozen_default=True, field_specifiers=(Field,))
def settings(cls: type[C]) -> type[C]:
    """Make a class of settings: a frozen dataclass that pydantic checks, with a docstring below each field."""
    return dataclass(frozen=True, config=STRICT)(cls)  # type: ignore[return-value]


Path_ = Annotated[str, Field(min_length=1), AfterValidator(lambda path: str(Path(path).expanduser())), PLACE]
"""A path; `~` is the home folder."""


def _weights_file(value: str) -> str:
    if not value.startswith(INSTALLED):
        return str(Path(value).expanduser())
    package, _, inside = value.removeprefix(INSTALLED).partition("/")
    found = importlib.util.find_spec(package) if package.isidentifier() else None
    if found is None or found.origin is None:
        raise ValueError(f"install the Python package '{package}', or give the path of a file")
    return str(Path(found.origin).parent / inside)


INSTALLED = "package:"
WeightsFile = Annotated[str, Field(min_length=1), AfterValidator(_weights_file), PLACE]
"""A path, or `package:NAME/PATH`, a file in an installed Python package."""


def _short_side(value: int | str) -> int | str:
    if value != "full" and (isinstance(value, str) or value < 16):
        raise ValueError("give pixels, at least 16, or full")
    return value


ShortSide = Annotated[int | str, AfterValidator(_short_side)]
"""Pixels, or the word `full`."""

# Pretraining


@settings
class Data:
    """A folder in COCO's layout: `root/<split>/*.jpg`, `root/annotations/instances_<split>.json`."""

    root: Path_
    """The folder."""
    train: Annotated[str, PLACE] = "train2017"
    """Name of the training split."""
    val: Annotated[str, PLACE] = "val2017"
    """Name of the validation split."""
    short_side: ShortSide = 256
    """Pixels of the short side in the image store that pretraining reads; smaller images keep their size, and with
    `full` all images do."""
    images_id: str | None = None
    """Identity of the training images (see `sources`); null: a digest of their content."""
    data_id: str | None = None
    """Identity of the images and annotations of both splits; null: a digest of their content."""


Region = Literal["crop", "box", "moved_box", "pair", "pair_of_neighbour"]


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
    """Largest shift of the hue, as a share of the colour circle."""
    jitter_p: Probability = 0.8
    """Of the four changes of colour above, which are applied in random order."""
    grayscale_p: Probability = 0.2
    """Of conversion to grayscale."""
    blur_sigma: Range = (0.1, 2.0)
    """Standard deviation of the Gaussian blur, in pixels of the crop."""
    blur_p: Probability = 0.5
    """Of a Gaussian blur."""
    flip_p: Probability = 0.5
    """Of a horizontal flip."""
    solarise_p: Annotated[Probability, LATER] = 0.0
    """Of solarising after the blur: values of at least half the range are inverted."""
    overlap: Annotated[Probability, LATER] = 0.0
    """Least share of the crop that lies in an earlier view's crop, `overlap_view`; redrawn at most ten times."""
    overlap_view: Annotated[Count, LATER] = 1
    """Which view, counted from 1."""
    region: Annotated[Region, LATER] = "crop"
    """What of the image is shown: a random `crop`; a random one of its proposals (`box`), or that one moved and
    resized (`moved_box`); a box that looks like one of a neighbour (`pair`), or that one (`pair_of_neighbour`), see
    `pairs`. A box is resized to the view; `scale`, `ratio` and `overlap` are those of a crop."""


def _view_changes(values: dict[str, Any]) -> dict[str, Any]:
    known = [field.name for field in fields(Views)]
    for key in values:
        if key not in known:
            raise ValueError(f"unknown key '{key}'; known are {', '.join(known)}")
    try:
        found = TypeAdapter(Views).validate_json(json.dumps(values))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"{first['loc'][0]}: {first['input']!r} is not allowed; {first['msg']}") from None
    return {key: getattr(found, key) for key in values}


ViewChanges = Annotated[dict[str, Any], AfterValidator(_view_changes)]
"""Settings of `views` that differ for one view."""


@settings
class Preprocessing:
    """How published weights were trained, which their tensors do not show: a wrong one loads without an error."""

    mean: tuple[float, float, float] | None = None
    """Per channel, in the order of `channels` and in the unit of `pixel_range`; null: ImageNet's."""
    std: tuple[Positive, Positive, Positive] | None = None
    """Standard deviation per channel, as `mean`; null: ImageNet's."""
    channels: Literal["RGB", "BGR"] = "RGB"
    """Order of the input's channels."""
    pixel_range: Literal[1, 255] = 1
    """Value of a white pixel before the mean is subtracted."""
    stride_in_1x1: bool = False
    """Whether the blocks of a ResNet have their stride in the first 1x1 convolution (MSRA, caffe) and not in the
    3x3 (torchvision, timm)."""


@settings
class Proposals:
    """Selective search on the stored images, for methods that train on boxes, and which of its boxes are kept. The
    defaults are SoCo's (arXiv 2106.02637)."""

    k: Count = 300
    """Scale of the segmentation that the search begins with: larger regions for larger values."""
    sigma: Positive = 0.9
    """Standard deviation of the blur before it, in pixels."""
    size: ShareRange = (0.3, 0.8)
    """Square root of a box's share of the image's area."""
    aspect: Annotated[float, Field(ge=1)] = 3.0
    """Largest ratio of a box's longer side to its shorter one."""
    strategy: Annotated[Literal["single", "fast"], LATER] = "single"
    """OpenCV's: regions of one segmentation, of HSV, are merged (`single`), or of six, of HSV and Lab with the
    scales k, 2 k and 3 k, each in two ways (`fast`)."""
    least_side: Annotated[Share, LATER] = 32 / 480
    """Least side of a box, as a share of the image's short side."""
    most_overlap: Annotated[Share, LATER] = 1.0
    """Largest intersection over union with a smaller box that is kept."""
    at_most: Annotated[Count | None, LATER] = None
    """Boxes kept of an image, the smallest; null: all."""


@settings
class Pairs:
    """Boxes of an image and of its nearest neighbours that look alike to a trained network, for views with the
    region `pair`. The defaults are ORL's (arXiv 2106.11952)."""

    method: Annotated[str, LABEL]
    """Method of the study whose run of the same seed is that network: images are neighbours by its projections,
    boxes look alike by its pooled features."""
    neighbours: Count = 10
    """Nearest images of each image."""
    share: Share = 0.1
    """Pairs kept of an image and a neighbour, the most similar, as a share of the number of the image's boxes; at
    least one."""


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
    zero_init_residual: bool = False
    """Start the last norm layer of each residual branch with scale 0 instead of 1 (arXiv 1706.02677). MoCo and
    DenseCL start with 1, timm with 0."""
    init: Annotated[Path_ | None, PLACE] = None
    """File of weights that the backbone starts from, own or published; null draws them from the seed."""
    init_prefix: Annotated[str | None, PLACE] = None
    """Start of the names of the network in that file, as `module.encoder_q.`, where it holds several; null takes
    the one that papers evaluate (see docs/checkpoints.md)."""
    init_preprocessing: Annotated[Preprocessing | None, PLACE] = None
    """How the weights in that file were trained; null: as this suite trains."""
    init_id: str | None = None
    """Identity of that file, prefix and preprocessing; null: a digest of its content."""
    supervised: bool = False
    """Whether the method trains with image labels; read from its constructor."""
    epochs: Positive | None = 400.0
    """Length in passes over the training images."""
    steps: Count | None = None
    """Length in optimiser steps instead of epochs; exactly one of the two is set."""
    batch_size: Annotated[int, Field(ge=2)] = 256
    """Images per optimiser step, over all GPUs."""
    lr: Positive = 0.3
    """Learning rate at its peak; it falls to zero along a cosine."""
    sgd_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of SGD and of LARS; the momentum of a key encoder is a parameter of the method."""
    weight_decay: NotNegative = 1e-4
    """Of all weights, norm layers and biases included, as in MoCo; see `decay_norm_and_bias`."""
    decay_norm_and_bias: Annotated[bool, LATER] = True
    """Whether weight decay is of norm layers and biases too, that is, of parameters with one dimension."""
    optimiser: Annotated[Literal["sgd", "lars"], LATER] = "sgd"
    """`sgd`, SGD with momentum, or `lars`, which makes the step of each decayed weight proportional to its length
    (arXiv 1708.03888), as recipes for large batches do."""
    trust: Annotated[Positive, LATER] = 1e-3
    """Trust coefficient of LARS; unused by SGD."""
    predictor_lr: Annotated[Positive, LATER] = 1.0
    """Learning rate of the method's `predictor`, as a multiple of that of all other weights."""
    predictor_schedule: Annotated[Literal["cosine", "constant"], LATER] = "cosine"
    """`cosine` as all other weights; `constant` stays at `lr` times `predictor_lr` all along (SimSiam)."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the run in which the learning rate rises linearly from zero."""
    views: Views = Field(default_factory=Views)
    """The augmentation."""
    each_view: Annotated[tuple[ViewChanges, ...], Field(min_length=2), LATER] = ({}, {})
    """One mapping per view that the method takes, in order: the settings of `views` that differ for it. More than
    two, of other sizes, for a method that takes more (multi-crop)."""
    proposals: Annotated[Proposals, LATER] = Proposals()
    """How the boxes are found that a method with `proposals: selective_search`, or with a `region` in its views,
    trains on."""
    pairs: Annotated[Pairs | None, LATER] = None
    """How boxes of different images are paired, for views with the region `pair`; null: no view has it."""
    pairs_id: Annotated[str | None, LATER] = None
    """Identity of the pretraining whose network pairs them; null without `pairs`."""
    pairs_file: Annotated[Path_ | None, PLACE] = None
    """File of the pairs; a study names it."""
    batch_norm: Literal["sync", "local", "shuffle"] = "sync"
    """With several ranks, the samples that a batch norm uses: `sync` those of all ranks, so that the result does
    not depend on their number; `local` those of its own rank; `shuffle` as local, with the keys shuffled among the
    ranks (MoCo)."""
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"
    """Of the encoders. `auto` is bf16 on devices with hardware for it, fp16 with loss scaling on older GPUs with
    tensor cores (V100, T4), else fp32. `tf32` lets a GPU round the factors of all float32 products to 11 bits."""
    log_every: Annotated[Count, OPERATION] = 10
    """Steps between two lines of the log; losses are read back from the device only then."""
    label_records: Annotated[int, Field(ge=0), OPERATION] = 20
    """Number of steps, evenly spread over the run, whose pseudo-labels are saved for `pseudo_labels`."""
    checkpoint_seconds: Annotated[NotNegative, OPERATION] = 60.0
    """Seconds between two checkpoints."""
    knn_every: Annotated[Positive | None, OPERATION] = None
    """Epochs between two scores by nearest neighbours during training (`knn_mAP` in the log), on training images
    alone; null: none. They need annotations of the training images, and do not change the training."""
    log_to: Annotated[tuple[Literal["tensorboard", "wandb", "mlflow"], ...], EACH_ONCE, OPERATION] = ()
    """Where the lines of the log go besides log.jsonl; the library has to be installed."""

    @model_validator(mode="after")
    def _one_length(self) -> typing.Self:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give exactly one of epochs and steps, set the other to null")
        return self

    @model_validator(mode="after")
    def _prefix_of_a_file(self) -> typing.Self:
        if self.init_prefix is not None and self.init is None:
            raise ValueError("init_prefix names a network in the file of init; give init too, or set it to null")
        if self.init_preprocessing is not None and self.init is None:
            raise ValueError("init_preprocessing is that of the weights in init; give init too, or set it to null")
        return self

    @model_validator(mode="after")
    def _overlap_with_an_earlier_view(self) -> typing.Self:
        for number, view in enumerate(self.view_set(), start=1):
            if view.overlap and view.overlap_view >= number:
                raise ValueError(
                    f"each_view: view {number} has overlap {view.overlap:g} with view {view.overlap_view}, "
                    "which is drawn later or is itself; give overlap to a later view alone"
                )
        return self

    @model_validator(mode="after")
    def _pairs_for_views(self) -> typing.Self:
        if self.takes_pairs != (self.pairs is not None):
            raise ValueError(
                "pairs: views with the region pair or pair_of_neighbour need it, and other views do not use it; "
                "give both or neither"
            )
        return self

    @property
    def regions(self) -> set[Region]:
        """The regions of the views."""
        return {view.region for view in self.view_set()}

    @property
    def takes_pairs(self) -> bool:
        """Whether the method trains on boxes that are paired over images beforehand."""
        return not self.regions.isdisjoint(("pair", "pair_of_neighbour"))

    @property
    def boxes_with_views(self) -> int:
        """How many proposals go with the views, for a method whose parameter `proposals` is `selective_search`."""
        return int(self.params["boxes"]) if self.params.get("proposals") == "selective_search" else 0

    @property
    def takes_proposals(self) -> bool:
        """Whether the method trains on boxes that are found beforehand."""
        return self.boxes_with_views > 0 or self.regions != {"crop"}

    def view_set(self) -> tuple[Views, ...]:
        """The augmentation of each view that the method takes."""
        return tuple(replace(self.views, **changes) for changes in self.each_view)

    def total_steps(self, images: int) -> int:
        """Optimiser steps of the run over `images` training images (incomplete batches are dropped)."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None  # see _one_length
        return round(self.epochs * (images // self.batch_size))


# Transfers: what a pretrained backbone is evaluated on


@settings
class Linear:
    """Multi-label linear probe on frozen features of whole images."""

    data: Data
    size: Pixels = 224
    """Images are resized to size x size pixels, so that every labelled object stays in view."""
    batch_size: Count = 64
    """Images per forward pass; it affects only memory and speed."""
    fractions: Annotated[tuple[Share, ...], Field(min_length=1), EACH_ONCE] = (1.0, 0.1, 0.01)
    """Shares of the labelled training images, nested; each is a protocol of its own."""
    selection: Inside = 0.2
    """Share of the labelled training images that is held out to choose the L2 penalty."""
    weight_decays: Annotated[tuple[Positive, ...], Field(min_length=1), EACH_ONCE] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
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
    neighbours: Annotated[tuple[Count, ...], Field(min_length=1), EACH_ONCE] = (5, 10, 20, 50, 100, 200)
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
    shrinkages: Annotated[tuple[Share, ...], Field(min_length=1), EACH_ONCE] = (1e-4, 1e-3, 1e-2, 1e-1)
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
    weight_decays: Annotated[tuple[Positive, ...], Field(min_length=1), EACH_ONCE] = (3e-4, 1e-3, 1e-2, 1e-1)
    """Candidates for the L2 penalty on standardised features."""
    tolerance: Positive = 1e-5
    """A fit has converged when no entry of the gradient exceeds it (mean loss, principal components)."""
    iterations: Count = 100
    """Largest number of Newton steps per fit; the notes of a result list the fits that reach it."""
    neighbours: Annotated[tuple[Count, ...], Field(min_length=1), EACH_ONCE] = (1, 3, 5, 10, 20, 50)
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
class Svm:
    """Linear support vector machines on frozen maps, one per category, of scikit-learn: VOC07's protocol.

    With all labels, and with few of each category; all-point average precision.
    """

    data: Data
    size: Pixels = 224
    """Images are resized to size x size pixels; the aspect ratio is not kept."""
    resize: Pixels | None = 256
    """Before that, pixels of the short side that images are resized to; null: not before."""
    batch_size: Count = 64
    """Images per forward pass; it changes nothing but the memory."""
    layers: Annotated[tuple[Literal["c1", "c2", "c3", "c4", "c5"], ...], Field(min_length=1), EACH_ONCE] = ("c5",)
    """The maps whose features are classified: the first convolution's, and the last of each stage."""
    costs: Annotated[tuple[Positive, ...], Field(min_length=1), EACH_ONCE] = (
        0.01,
        0.1,
        1.0,
        2.0,
        5.0,
        10.0,
        15.0,
        20.0,
        50.0,
        100.0,
        1000.0,
    )
    """Candidates for the cost of an error."""
    folds: Annotated[int, Field(ge=2)] = 3
    """Parts of the training images in the cross-validation that chooses the cost, per category."""
    positive_weight: Positive = 2.0
    """Weight of an image with the category; one without it has weight 1."""
    tolerance: Positive = 1e-4
    """Tolerance of the solver."""
    iterations: Count = 2000
    """Largest number of its iterations; the notes of a result count the fits that reach it."""
    all_labels: bool = True
    """Whether to train with all labels."""
    shots: Annotated[tuple[Count, ...], EACH_ONCE] = ()
    """Numbers k of images per category to train with, each a protocol of its own."""
    samples: Count = 5
    """Random samples for each k; the result is their mean."""

    def protocols(self) -> list[str]:
        """Names of the protocols: svm, svm_c4, svm_k1, svm_c4_k1, …"""
        named = ["svm" if layer == "c5" else f"svm_{layer}" for layer in self.layers]
        shots = ([""] if self.all_labels else []) + [f"_k{k}" for k in self.shots]
        return [f"{name}{shot}" for name in named for shot in shots]


@settings
class Classification:
    """Classification of whole images by a linear layer on the backbone, all layers trained or the last alone.

    Softmax where every image has one category, else one logistic output per category.
    """

    data: Data
    size: Pixels = 224
    """Pixels of a crop's side."""
    resize: Pixels = 256
    """Pixels of the short side that images are resized to: before the centre crop of evaluation, and before random
    crops of training."""
    crop: Literal["random_resized", "random", "centre"] = "random_resized"
    """Crops of training: of random area and shape; of random place; or those of evaluation."""
    scale: ShareRange = (0.08, 1.0)
    """Share of the image's area that a `random_resized` crop covers."""
    ratio: Range = (3 / 4, 4 / 3)
    """Width over height of a `random_resized` crop, before it is resized to a square."""
    epochs: Count = 120
    """Passes over the training images."""
    batch_size: Annotated[int, Field(ge=2)] = 64
    """Images per optimiser step."""
    lr: Positive = 0.01
    """Learning rate of SGD with momentum 0.9 at the start."""
    schedule: Literal["cosine", "steps"] = "cosine"
    """How it falls: per step to zero along a cosine, or tenfold at each of `milestones`."""
    milestones: tuple[Inside, ...] = (1 / 3, 2 / 3)
    """Shares of the epochs after which `steps` falls."""
    weight_decay: NotNegative = 5e-4
    """Of all weights that are trained."""
    frozen: bool = False
    """Train only the linear layer; the backbone stays in eval mode."""
    batch_norm: Literal["train", "eval"] = "train"
    """Whether batch norms use the statistics of the batch in training, or keep those of pretraining."""


@settings
class Detection:
    """Mask R-CNN, all layers trained; config/protocols has the settings of published protocols."""

    data: Data
    head: Annotated[Literal["2fc", "4conv1fc", "res5"], LATER] = "2fc"
    """The box head: `2fc` and `4conv1fc` on an FPN, without norm and with batch norm in box and mask head;
    `res5`, the backbone's last stage and a batch norm, on the map before it (C4), without an FPN."""
    size: Pixels = 800
    """Short side in pixels; the long side is at most 5/3 of it."""
    train_sizes: Annotated[tuple[Pixels, ...], EACH_ONCE, LATER] = ()
    """Short sides in training, one drawn for each image; empty: `size`."""
    iterations: Count = 90_000
    """Optimiser steps."""
    batch_size: Count = 16
    """Images per optimiser step, over all GPUs."""
    test_batch_size: Annotated[Count | None, LATER] = None
    """Images per forward pass at test, on each GPU; they are padded to the largest. null: `batch_size`."""
    aspect_groups: Annotated[bool, LATER] = False
    """Whether the images of a batch are all wider than high, or all not, so that they are padded less."""
    lr: Positive = 0.02
    """Learning rate of SGD before the first milestone."""
    milestones: tuple[Inside, ...] = (2 / 3, 8 / 9)
    """Shares of the run after which the learning rate falls tenfold."""
    warmup_iterations: Annotated[int, Field(ge=0)] = 1000
    """Steps in which the learning rate rises linearly."""
    warmup_factor: Annotated[Probability | None, LATER] = None
    """Share of the learning rate at iteration 0; null: one step of the rise."""
    weight_decay: NotNegative = 1e-4
    """Of all weights that are trained."""
    norm_weight_decay: Annotated[NotNegative | None, LATER] = None
    """Of the weights and biases of norm layers; null: `weight_decay`."""
    precise_bn: Annotated[int, Field(ge=0), LATER] = 0
    """Training batches whose mean statistics the batch norms use at test; 0: their running averages."""
    fpn_channels: Count = 256
    """Channels of the feature pyramid."""
    box_head_channels: Count = 1024
    """Width of the fully connected layers of the box head."""
    mask_head_layers: Count = 4
    """Convolutions of the mask head on an FPN."""
    initial_heads: Annotated[Literal["torchvision", "detectron2"], LATER] = "torchvision"
    """Whose distributions the heads' fully connected and last layers are drawn from."""
    pretrained_parts: Annotated[bool, LATER] = False
    """Start from the pyramid and the box head too, where the method has trained them (SoCo-FPN); needs the head
    `4conv1fc`. Such a detector starts from more than a backbone: compare it with detectors that do too."""
    masks: Annotated[bool, LATER] = True
    """Train and score masks, if every object has one; without them it is Faster R-CNN."""
    smooth_l1_beta: Annotated[NotNegative, LATER] = 1 / 9
    """Below this error the losses of boxes are quadratic; 0 is the L1 loss."""
    roi_aligned: Annotated[bool, LATER] = False
    """Whether RoIAlign shifts regions by half a cell, so that its samples lie on the pixels' centres."""
    roi_samples: Annotated[int, Field(ge=0), LATER] = 2
    """Samples per bin and direction in RoIAlign; 0: one per cell of the map."""
    candidates: Annotated[tuple[Count, Count] | None, LATER] = None
    """Best-scored anchors of each map before non-maximum suppression, in training and at test; null: twice
    `proposals`, and `proposals`."""
    proposals: Count = 1000
    """Region proposals kept per image, after non-maximum suppression."""
    test_proposals: Annotated[Count | None, LATER] = None
    """The same at test; null: `proposals`."""
    rois_per_image: Count = 512
    """Proposals sampled per image to train the heads."""
    train_difficult: Annotated[bool, LATER] = False
    """Whether objects marked difficult (Pascal VOC) are trained on; they are never scored."""
    metric: Annotated[Literal["coco", "voc07", "voc10"], LATER] = "coco"
    """Average precision: `coco`, COCO's; `voc07`, Pascal VOC's at 11 points of recall, and `voc10`, at all of them,
    both with COCO's ten overlaps."""
    eval_images: Count | None = None
    """Evaluate on this number of validation images, the first ones; null takes all."""

    @model_validator(mode="after")
    def _tested_size_is_trained(self) -> typing.Self:
        if self.train_sizes and self.size not in self.train_sizes:
            raise ValueError(f"train_sizes has no {self.size}, the size at test; add it, or change size")
        return self

    @model_validator(mode="after")
    def _parts_fit(self) -> typing.Self:
        if self.pretrained_parts and self.head != "4conv1fc":
            raise ValueError(
                f"pretrained_parts is not for the head {self.head}; give head: 4conv1fc, or leave it out"
            )
        return self


@settings
class Segmentation:
    """FCN, PSPNet or PSANet, all layers trained; classes are those of semantic masks, else background and the
    data's categories. config/protocols has the settings of published protocols."""

    data: Data
    head: Annotated[Literal["fcn", "fcn_d8", "psp", "psa"], LATER] = "fcn"
    """`fcn`: one 3x3 convolution. `fcn_d8`: two, concatenated with the backbone's map by a third (DenseCL's).
    `psp`: pyramid pooling (PSPNet). `psa`: pointwise attention (PSANet)."""
    size: Pixels = 512
    """Side of the training crops in pixels; scores are taken at full resolution."""
    crop_width: Annotated[Pixels | None, LATER] = None
    """Width of the training crops, if it is not `size`; needs `scale`."""
    scale: Annotated[tuple[Pixels, Pixels] | None, LATER] = None
    """Long and short side within which an image is resized, its aspect ratio kept; in training 0.5 to 2 times as
    large. null: images are resized to squares of `size`."""
    largest_class: Annotated[Share, LATER] = 1.0
    """Largest share of one class among a crop's labelled pixels; up to 10 crops are drawn to stay below it."""
    photometric: Annotated[bool, LATER] = False
    """Whether brightness, contrast, saturation and hue are distorted at random, as in SSD."""
    iterations: Count = 40_000
    """Optimiser steps."""
    batch_size: Annotated[int, Field(ge=2)] = 16
    """Images per optimiser step, over all GPUs."""
    lr: Positive = 0.01
    """Learning rate of SGD at the start; it falls polynomially."""
    lr_floor: Annotated[NotNegative, LATER] = 0.0
    """Learning rate to which it falls."""
    weight_decay: NotNegative = 5e-4
    """Of all weights that are trained."""
    output_stride: Literal[8, 16, 32] = 8
    """Input pixels per cell of the backbone's last map."""
    head_channels: Annotated[int, Field(ge=4)] = 256
    """Channels of the head."""
    auxiliary_weight: Annotated[NotNegative, LATER] = 0.0
    """Weight of the loss of an auxiliary FCN head on the third stage; 0: no such head."""
    test: Annotated[Literal["square", "whole", "slide"], LATER] = "square"
    """Input at test: `square`, size x size; `whole`, the image within `scale`; `slide`, crops of `size` of that."""
    slide_stride: Annotated[Pixels | None, LATER] = None
    """Pixels between two crops of `slide`; null: two thirds of `size`."""
    align_corners: Annotated[bool, LATER] = False
    """Whether logits are upsampled with the corners' centres on each other."""
    mean_over: Annotated[Literal["labelled", "all"], LATER] = "labelled"
    """Pixels that the sum of the losses is divided by; `all` counts those without a class (mmsegmentation 0.x)."""
    eval_images: Count | None = None
    """Evaluate on this number of validation images, the first ones; null takes all."""

    @model_validator(mode="after")
    def _scale_of_what_needs_it(self) -> typing.Self:
        needs = {
            "crop_width": self.crop_width is not None,
            "largest_class": self.largest_class < 1,
            "photometric": self.photometric,
            f"test: {self.test}": self.test != "square",
        }
        if self.scale is None and any(needs.values()):
            which = next(name for name, needed in needs.items() if needed)
            raise ValueError(f"{which} needs images that keep their aspect ratio; give scale, or leave it out")
        return self


@settings
class PseudoLabels:
    """Quality of a run's pseudo-labels during training, measured by annotations that training does not use."""

    data: Data
    visible: Share = 0.5
    """A crop shows a category if at least this share of the box of one of its objects is inside."""


Transfer = (
    Linear | Knn | Dense | Regions | Correspondence | Svm | Classification | Detection | Segmentation | PseudoLabels
)
"""The settings of a transfer."""
TRANSFERS: dict[str, type[Transfer]] = {
    "linear": Linear,
    "knn": Knn,
    "dense": Dense,
    "regions": Regions,
    "correspondence": Correspondence,
    "svm": Svm,
    "classification": Classification,
    "detection": Detection,
    "segmentation": Segmentation,
    "pseudo_labels": PseudoLabels,
}
"""Stage -> its settings."""
FROZEN = ("linear", "knn", "dense", "regions", "correspondence", "svm")
"""Transfers that read a frozen backbone, on one device."""
ONE_DEVICE = (*FROZEN, "classification")
"""Transfers that run on one device."""
Config = Pretrain | Transfer
"""The settings of a pretraining or a transfer."""
RESOLVED = {"data", "method", "target", "params", "seed", "init_id", "pairs_id", "pairs_file", "supervised"}
"""Fields of a stage's settings that a study file gives in other sections, or that are computed from files."""

# Pictures and the benchmark of searches


@settings
class Pictures:
    """Pictures of neighbours and scores, of the compared methods' first seed (figures 3 and 4 of MLS)."""

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
    """One of the methods under `compare`; its first seed is used."""
    sizes: Annotated[tuple[Annotated[int, Field(ge=2)], ...], Field(min_length=1), EACH_ONCE]
    """Numbers of dictionary entries, D."""
    k: Count = 20
    """Neighbours per query."""
    batch: Count = 64
    """Queries searched, and keys enqueued, per step."""
    batches: Annotated[int, Field(ge=2)] = 9
    """Batches of queries; the first one warms up and is not timed."""
    crops: Annotated[int, Field(ge=2)] = 32768
    """Crops put through the key encoder; larger dictionaries are filled up with entries made from them."""
    samples: Annotated[tuple[Count, ...], EACH_ONCE] = (4096, 16384)
    """Numbers of entries that a sampled search compares with a query."""
    probes: Annotated[tuple[Count, ...], EACH_ONCE] = (1, 4, 16, 64)
    """Numbers of lists of the inverted file (IVF) that are searched."""
    graph_up_to: Count = 65536
    """Largest dictionary for which a graph (HNSW) is built; larger ones take minutes."""
    seed: Seed = 0
    """Of the images and crops."""


@settings
class CostBenchmark:
    """What a training step of each compared method costs, measured in turns on random images."""

    relative_to: Annotated[str, LABEL] = "moco_v2"
    """One of the methods under `compare`, whose step has the cost 1."""
    rounds: Annotated[int, Field(ge=6)] = 9
    """Turns of every method; an interval of 95 % needs six."""
    steps: Count = 2
    """Timed steps per turn, after one that is not."""


# Where images come from


@settings
class Scenes:
    """The embedded data set of synthetic scenes, drawn by a command."""

    images: Count
    """Training images."""
    val_images: Count
    """Validation images."""
    size: tuple[Pixels, Pixels]
    """Width and height in pixels."""
    seed: Seed
    """An image depends only on it, its split and its position in the split."""


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
    """Your own photos; without labels there are runs and pictures, but no transfers."""

    folder: Path_
    """Folder of photos, of any depth."""
    labels: Path_ | None = None
    """COCO JSON, folder of VOC XML, YOLO txt or semantic masks, CSV of file,label;label, or the photos' own folder
    whose folders are classes."""
    val_share: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """Share of the labelled photos to validate on, if the labels have no official splits."""
    seed: Seed = 0
    """Of the draw of validation photos."""
    anonymise: Literal["blur", "pixelate"] | None = None
    """How `people` are hidden in every copy; null: not at all."""
    people: Path_ | None = None
    """Where people are: boxes or masks in one of the formats of `labels`, or the word `faces` for a detector."""
    deny: Path_ | None = None
    """Text file with names or patterns of photos to leave out."""
    near: Annotated[int, Field(ge=0, le=16)] = 6
    """Bits of 64 in which near-duplicates may differ."""
    max_skipped: Annotated[Probability, OPERATION] = 0.05
    """Share of unusable photos above which the import stops."""


SOURCES = ("root", "scenes", "dataset", "photos")


@settings
class DataSource:
    """Where images come from: exactly one of `root`, `scenes`, `dataset` and `photos`."""

    root: Path_ | None = None
    """An existing folder in COCO's layout."""
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
    short_side: ShortSide = 256
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


# The study file


@settings
class Method:
    """A method of a study."""

    target: str | None = None
    """Dotted path of the class; null leaves the backbone untrained."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Parameters of its constructor."""
    pretrain: dict[str, Any] = Field(default_factory=dict)
    """Settings that replace those of the study's `pretrain` for this method."""
    weights: Annotated[WeightsFile | None, PLACE] = None
    """File of weights, own or published, that are evaluated as they are, without training. `package:NAME/PATH` is a
    file in an installed Python package."""
    prefix: Annotated[str | None, PLACE] = None
    """Start of the names of the network in that file, where it holds several (see `pretrain.init_prefix`)."""
    preprocessing: Preprocessing | None = None
    """How those weights were trained; null: as this suite trains."""

    @model_validator(mode="after")
    def _evaluated_as_they_are(self) -> typing.Self:
        if self.weights is None and (self.prefix is not None or self.preprocessing is not None):
            raise ValueError("prefix and preprocessing are those of weights; give weights too")
        if self.weights is not None and self.target is not None:
            raise ValueError(
                "weights are evaluated without training, and target trains; leave one out, or start the training "
                "from them with pretrain: {init: …}"
            )
        if self.weights is not None and any(key.startswith("init") for key in self.pretrain):
            raise ValueError("weights and pretrain.init both name a file; give one")
        return self


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
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1), EACH_ONCE] | None = None
    """A subset of the study's seeds; null takes all."""

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
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1), EACH_ONCE] | None = None
    """A subset of the study's seeds; null takes all."""


def _axis(name: str) -> str:
    if name == "method":
        raise ValueError("the main comparison has this name; give another")
    return name


@settings
class StudyFile:
    """A study. `extends: other.yaml` takes what is not given here from another file, `extends: [a.yaml, b.yaml]`
    from several, each over those before it.

    Mappings are merged key by key; null removes one.
    """

    name: Annotated[str, Field(pattern="^[a-z0-9][a-z0-9_-]*$"), LABEL]
    """Results go to results/<name>/."""
    about: Annotated[str, LABEL]
    """One or two sentences for the captions: data set, budget, purpose."""
    data: DataSource
    """What is pretrained on."""
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1), EACH_ONCE]
    """Every run is trained once with each seed."""
    pretrain: dict[str, Any]
    """How all methods are trained."""
    methods: Annotated[dict[Name, Method], Field(min_length=1)]
    """By name, as the tables show them."""
    compare: Annotated[tuple[str, ...], Field(min_length=1), EACH_ONCE]
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
    """Parameters that are set for every method that has them."""
    ablations: dict[Annotated[Name, AfterValidator(_axis)], Ablation] = Field(default_factory=dict)
    """Ablations by axis; each gives a table and a figure."""
    pictures: Pictures | None = None
    """Sheets of neighbours and histograms of scores; null draws none."""
    search_benchmark: SearchBenchmark | None = None
    """Benchmark of the searches; null runs none."""
    cost_benchmark: CostBenchmark | None = None
    """Benchmark of the compared methods' costs; null runs none."""
