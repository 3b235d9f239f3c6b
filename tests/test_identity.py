"""What names a run and a transfer: for every setting, whether another value is another experiment."""

import dataclasses
import os
import shutil
from pathlib import Path

import pytest
import yaml
from support.study import EXAMPLE, MLS, REMOVED, loaded
from support.tiny_coco import write_coco

from mlssl.digest import digest_of
from mlssl.errors import ConfigError, DataError
from mlssl.pretrain.prepare import identified
from mlssl.study import identity, settings
from mlssl.study import sources as sources_module
from mlssl.study.identity import kind_of
from mlssl.study.load import load
from mlssl.study.settings import (
    Classification,
    Correspondence,
    CostBenchmark,
    Data,
    Dataset,
    DataSource,
    Dense,
    Detection,
    Kind,
    Knn,
    Linear,
    Photos,
    Pictures,
    Preprocessing,
    Pretrain,
    PseudoLabels,
    Regions,
    Scenes,
    SearchBenchmark,
    Segmentation,
    Svm,
    Views,
)
from mlssl.study.sources import RECORD, contents, identify, read_source, record
from mlssl.study.validation import build


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


# --- Every setting of a run, and of a transfer. A new field must be put into one of both tables.

DATA = {"root": "photos", "images_id": "i", "data_id": "d"}
BASE = {
    Pretrain: {"data": DATA, "method": "mls", "target": MLS, "params": {"k": 5, "lam": 0.5}},
    Linear: {"data": DATA},
    Knn: {"data": DATA},
    Dense: {"data": DATA},
    Regions: {"data": DATA},
    Correspondence: {"data": DATA},
    Svm: {"data": DATA},
    Classification: {"data": DATA},
    Detection: {"data": DATA},
    Segmentation: {"data": DATA, "scale": [96, 96]},
    PseudoLabels: {"data": DATA},
}
FROZEN = {
    "size": 64,
    "batch_size": 8,
    "output_stride": 16,
    "train_images": 50,
    "eval_images": 5,
    "selection": 0.3,
}
RENAMES = {
    Pretrain: {
        "target": "mine.MLS",
        "params": {"k": 6, "lam": 0.5},
        "backbone": "resnet18",
        "zero_init_residual": True,
        "init_id": "w",
        "supervised": True,
        "epochs": 2,
        "steps": {"steps": 5, "epochs": None},
        "batch_size": 128,
        "lr": 0.1,
        "sgd_momentum": 0.8,
        "weight_decay": 0,
        "decay_norm_and_bias": False,
        "optimiser": "lars",
        "trust": 0.02,
        "predictor_lr": 10,
        "predictor_schedule": "constant",
        "warmup": 0.1,
        "each_view": [{}, {"blur_p": 0.1}],
        "proposals": {"k": 100},
        "pairs": {"pairs": {"method": "byol"}, "each_view": [{}, {"region": "pair"}]},
        "pairs_id": "other",
        "batch_norm": "local",
        "precision": "fp32",
    },
    Views: {
        "crop": 64,
        "scale": [0.3, 1],
        "ratio": [1, 1],
        "brightness": 0.5,
        "contrast": 0.5,
        "saturation": 0.5,
        "hue": 0.2,
        "jitter_p": 0,
        "grayscale_p": 0,
        "blur_sigma": [0.1, 1],
        "blur_p": 0,
        "flip_p": 0,
        "solarise_p": 0.1,
        "region": "box",
        # Of a later view alone.
        "overlap": {"each_view": [{}, {"overlap": 0.1}]},
        "overlap_view": {"each_view": [{}, {}, {"overlap": 0.1, "overlap_view": 2}]},
    },
    Linear: {
        "size": 64,
        "batch_size": 8,
        "fractions": [1.0, 0.5],
        "selection": 0.3,
        "weight_decays": [1, 2],
        "subsets": 2,
        "tolerance": 1e-4,
        "iterations": 5,
    },
    Knn: {"size": 64, "batch_size": 8, "neighbours": [3], "temperature": 1, "selection": 0.3},
    Dense: FROZEN | {"shrinkages": [0.5]},
    Regions: FROZEN
    | {"weight_decays": [1], "tolerance": 1e-4, "iterations": 5, "neighbours": [3], "temperature": 1},
    Correspondence: {"size": 64, "batch_size": 8, "eval_images": 5, "scale": [0.5, 1], "ratio": [1, 1]},
    Svm: {
        "size": 64,
        "resize": None,
        "batch_size": 8,
        "layers": ["c4"],
        "costs": [0.5],
        "folds": 2,
        "positive_weight": 1,
        "tolerance": 1e-3,
        "iterations": 5,
        "all_labels": False,
        "shots": [1],
        "samples": 2,
    },
    Classification: {
        "size": 64,
        "resize": 300,
        "crop": "centre",
        "scale": [0.5, 1],
        "ratio": [1, 1],
        "epochs": 5,
        "batch_size": 8,
        "lr": 0.1,
        "schedule": "steps",
        "milestones": [0.5],
        "weight_decay": 0,
        "frozen": True,
        "batch_norm": "eval",
    },
    Detection: {
        "head": "res5",
        "size": 64,
        "train_sizes": [640, 800],
        "iterations": 5,
        "batch_size": 8,
        "test_batch_size": 1,
        "aspect_groups": True,
        "warmup_factor": 0.001,
        "norm_weight_decay": 0,
        "precise_bn": 5,
        "initial_heads": "detectron2",
        "pretrained_parts": {"pretrained_parts": True, "head": "4conv1fc"},
        "masks": False,
        "smooth_l1_beta": 0,
        "roi_aligned": True,
        "roi_samples": 0,
        "candidates": [5, 5],
        "test_proposals": 5,
        "train_difficult": True,
        "metric": "voc07",
        "lr": 0.1,
        "milestones": [0.5],
        "warmup_iterations": 0,
        "weight_decay": 0,
        "fpn_channels": 8,
        "box_head_channels": 8,
        "mask_head_layers": 1,
        "proposals": 5,
        "rois_per_image": 5,
        "eval_images": 5,
    },
    Segmentation: {
        "head": "psp",
        "size": 64,
        "crop_width": 64,
        "scale": [64, 64],
        "largest_class": 0.5,
        "photometric": True,
        "lr_floor": 0.001,
        "auxiliary_weight": 0.4,
        "test": "whole",
        "slide_stride": 64,
        "align_corners": True,
        "mean_over": "all",
        "iterations": 5,
        "batch_size": 8,
        "lr": 0.1,
        "weight_decay": 0,
        "output_stride": 16,
        "head_channels": 8,
        "eval_images": 5,
    },
    PseudoLabels: {"visible": 0.3},
}
KEEPS = {
    Pretrain: {
        "method": "another",
        "pairs_file": "elsewhere.npz",
        "seed": 3,  # it is in the name of the run beside the digest
        "init": "elsewhere.pth",
        "init_prefix": {"init": "elsewhere.pth", "init_prefix": "encoder_k."},  # its choice is in init_id
        "init_preprocessing": {"init": "elsewhere.pth", "init_preprocessing": {"channels": "BGR"}},  # so is this
        "log_every": 3,
        "label_records": 3,
        "knn_every": 3,
        "log_to": ["tensorboard"],
        "checkpoint_seconds": 3,
    },
    Views: {},
    Linear: {},
    Knn: {},
    Dense: {},
    Regions: {},
    Correspondence: {},
    Svm: {},
    Classification: {},
    Detection: {},
    Segmentation: {},
    PseudoLabels: {},
}
SECTIONS = {"data", "views"}
"""Fields that are tested one by one."""
OF_DATA = {
    "root": ("elsewhere", "keeps", "keeps"),
    "train": ("train", "keeps", "keeps"),
    "val": ("val", "keeps", "keeps"),
    "short_side": ("full", "renames", "keeps"),
    "images_id": ("other", "renames", "keeps"),
    "data_id": ("other", "keeps", "renames"),
}
"""Field of `data` -> another value, what it does to a run, and to a transfer."""
STAGES = {cls: stage for stage, cls in settings.TRANSFERS.items()}


def digest(cls, **changes):
    config = build(cls, BASE[cls] | changes, "test")
    return identity.run_digest(config) if cls is Pretrain else identity.transfer_digest(STAGES[cls], config)


@pytest.mark.parametrize("cls", RENAMES, ids=lambda cls: cls.__name__)
def test_the_tables_have_every_setting_once(cls):
    assert sorted([*RENAMES[cls], *KEEPS[cls]]) == sorted({f.name for f in dataclasses.fields(cls)} - SECTIONS)
    assert set(OF_DATA) == {f.name for f in dataclasses.fields(Data)}
    assert set(RENAMES) == {Pretrain, Views, *settings.TRANSFERS.values()}
    assert all(kind_of(cls, field) is Kind.EXPERIMENT for field in RENAMES[cls])


ROWS = [
    (cls, field, value, outcome)
    for outcome, table in (("renames", RENAMES), ("keeps", KEEPS))
    for cls, fields in table.items()
    for field, value in fields.items()
]


@pytest.mark.parametrize(("cls", "field", "value", "outcome"), ROWS)
def test_another_value_of_a_setting_is_another_experiment_or_not(cls, field, value, outcome):
    changes = (
        value
        if field in ("steps", "init_prefix", "init_preprocessing", "pairs", "pretrained_parts")
        else {field: value}
    )
    if cls is Views:
        cls, changes = Pretrain, value if field.startswith("overlap") else {"views": changes}
    assert build(cls, BASE[cls] | changes, "test") != build(cls, BASE[cls], "test"), "is no other value"
    assert (digest(cls, **changes) != digest(cls)) == (outcome == "renames")


@pytest.mark.parametrize("cls", BASE, ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("field", OF_DATA)
def test_of_the_data_only_what_is_read_counts(cls, field):
    value, of_run, of_transfer = OF_DATA[field]
    outcome = of_run if cls is Pretrain else of_transfer
    assert (digest(cls, data=DATA | {field: value}) != digest(cls)) == (outcome == "renames")


def test_of_the_data_supervised_training_reads_the_annotations_too():
    names = {digest(Pretrain, supervised=True, data=DATA | {"data_id": labels}) for labels in ("d", "other")}
    assert len(names) == 2


def test_transfers_of_two_kinds_never_share_a_name():
    names = {stage: identity.transfer_digest(stage, Linear(Data(**DATA))) for stage in settings.TRANSFERS}
    assert len(set(names.values())) == len(names)


PICTURED = {
    Pictures: {"queries": 5, "neighbours": 5, "candidates": 5, "dictionary_size": 5, "seed": 5},
    SearchBenchmark: {
        "sizes": [8],
        "k": 2,
        "batch": 8,
        "batches": 3,
        "crops": 8,
        "samples": [2],
        "probes": [2],
        "graph_up_to": 8,
        "seed": 5,
    },
    CostBenchmark: {"rounds": 7, "steps": 3},
}


@pytest.mark.parametrize("cls", PICTURED, ids=lambda cls: cls.__name__)
def test_every_setting_of_the_search_and_of_pictures_counts(cls):
    base = {"method": "mls", "sizes": [64]} if cls is SearchBenchmark else {}
    assert set(PICTURED[cls]) == {f.name for f in dataclasses.fields(cls)} - {"method", "relative_to"}
    names = [digest_of(identity.experiment(build(cls, base, "test")))]
    for field, value in PICTURED[cls].items():
        names.append(digest_of(identity.experiment(build(cls, base | {field: value}, "test"))))
    assert len(set(names)) == len(names)


WRITTEN = {
    "methods": {"mls": {"target": MLS, "params": {"k": 5, "lam": 1.0, "dictionary_size": 64}}},
    "compare": ["mls"],
    "common": REMOVED,
    "ablations": REMOVED,
    "pretrain.lr": 1e-4,
    "pretrain.init": "~/w.pth",
}
PARAMS = WRITTEN["methods"]["mls"]["params"]
SAME = {
    "a whole number for a number": {"methods.mls.params": PARAMS | {"lam": 1}},
    "parameters in another order": {"methods.mls.params": dict(reversed(PARAMS.items()))},
    "a default of the method": {"methods.mls.params": PARAMS | {"tau": 0.2, "search": "exact"}},
    "a common parameter": {"methods.mls.params": {"k": 5, "lam": 1}, "common": {"dictionary_size": 64}},
    "2.0 epochs for 2": {"pretrain.epochs": 2.0},
    "a default of pretraining": {"pretrain.sgd_momentum": 0.9, "pretrain.steps": None},
    "settings in another order": {
        "pretrain": {"init": "~/w.pth", "lr": 1e-4, "batch_size": 4, "epochs": 2, "backbone": "resnet18"}
    },
    "a relative path": {"pretrain.init": "home/w.pth"},
    "no views": {"pretrain.views": {}},
    "a default of the views": {"pretrain.views": {"crop": 224, "scale": [0.2, 1]}},
    "a setting of the method": {"methods.mls.pretrain": {"lr": 1e-4, "views": {}}},
    "a default of the transfer": {"transfers.linear": {"size": 32, "fractions": [1, 0.1, 0.01]}},
    "another study": {"name": "other", "about": "Another.", "gpus_per_run": 2},
    "operation": {"pretrain.log_every": 3, "pretrain.checkpoint_seconds": 3, "pretrain.label_records": 3},
}


def names(study):
    """The names of the runs, and of the transfers' results."""
    return list(study.runs), [study.result("run", transfer).name for transfer in study.transfers]


@pytest.fixture
def weights():
    path = Path("home/w.pth")
    path.parent.mkdir()
    path.write_bytes(b"weights")
    return path


@pytest.mark.parametrize("places", SAME.values(), ids=SAME)
def test_the_same_in_other_words_has_the_same_names(places, weights):
    assert names(loaded(WRITTEN | places)) == names(loaded(WRITTEN))


def test_an_absolute_path_is_the_same_as_one_from_home(weights):
    assert names(loaded(WRITTEN | {"pretrain.init": str(weights.absolute())})) == names(loaded(WRITTEN))


def test_of_initial_weights_the_content_counts_and_not_the_place(weights):
    runs, transfers = names(loaded(WRITTEN))
    weights.rename("moved.pth")
    os.utime("moved.pth", (1, 1))
    assert names(loaded(WRITTEN | {"pretrain.init": "moved.pth"})) == (runs, transfers)
    Path("moved.pth").write_bytes(b"changed")
    others, same = names(loaded(WRITTEN | {"pretrain.init": "moved.pth"}))
    assert not set(others) & set(runs)
    assert same == transfers
    assert set(loaded(WRITTEN | {"pretrain.init": "nowhere.pth"}).weights.values()) == {"-"}


def test_another_network_of_the_file_of_initial_weights_is_another_run(weights):
    found = [names(loaded(WRITTEN))[0]]
    found += [names(loaded(WRITTEN | {"pretrain.init_prefix": p}))[0] for p in ("encoder_k", "encoder_q", "")]
    assert len({run for runs in found for run in runs}) == sum(map(len, found))
    dotted = loaded(WRITTEN | {"pretrain.init_prefix": "encoder_k."})
    assert names(dotted)[0] == found[1]
    by_hand = next(iter(dotted.runs.values())).config
    assert identified(dataclasses.replace(by_hand, init_id=None)).init_id == by_hand.init_id


PREPROCESSING = {
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "channels": "BGR",
    "pixel_range": 255,
    "stride_in_1x1": True,
}


def test_every_setting_of_the_preprocessing_of_initial_weights_is_another_run(weights):
    assert set(PREPROCESSING) == {f.name for f in dataclasses.fields(Preprocessing)}
    given = [None, *({field: value} for field, value in PREPROCESSING.items())]
    found = [names(loaded(WRITTEN | {"pretrain.init_preprocessing": p}))[0] for p in given]
    assert len({run for runs in found for run in runs}) == sum(map(len, found))
    assert names(loaded(WRITTEN | {"pretrain.init_preprocessing": {"channels": "RGB"}}))[0] == found[0]
    by_hand = next(iter(loaded(WRITTEN | {"pretrain.init_preprocessing": given[1]}).runs.values())).config
    assert identified(dataclasses.replace(by_hand, init_id=None)).init_id == by_hand.init_id


def test_a_row_of_weights_is_named_by_their_content_and_network(weights):
    def row(**given):
        methods = {"mls": WRITTEN["methods"]["mls"], "theirs": given}
        study = loaded(WRITTEN | {"methods": methods, "compare": ["mls", "theirs"], "pretrain.init": None})
        return [study.runs[c.run] for c in study.cells if c.level == "theirs"]

    first = row(weights="~/w.pth")
    assert [run.id.rpartition("-")[0] for run in first] == [f"weights-{first[0].digest[:8]}"] * 2
    assert all(run.config.target is None and run.config.total_steps(64) for run in first)
    assert row(pretrain={"init": "~/w.pth"}) == first
    others = [row(weights="~/w.pth", prefix="encoder_k"), row(weights="~/w.pth", preprocessing={"channels": "BGR"})]
    weights.rename("moved.pth")
    assert [run.id for run in row(weights="moved.pth")] == [run.id for run in first]
    Path("moved.pth").write_bytes(b"changed")
    others.append(row(weights="moved.pth"))
    assert len({run.id for runs in (first, *others) for run in runs}) == 8


def test_a_prefix_needs_a_file():
    with pytest.raises(ConfigError, match="init_prefix names a network in the file of init; give init too"):
        loaded(WRITTEN | {"pretrain.init": None, "pretrain.init_prefix": "encoder_q."})


@pytest.mark.parametrize(
    ("one", "other"), [("1e-4", "0.0001"), ("1.0e-04", "1E-4"), ("2", "2.0"), ("+1", "1"), (".5", "5e-1")]
)
def test_a_number_may_be_written_in_several_ways(one, other):
    rest, found = yaml.safe_dump({k: v for k, v in EXAMPLE.items() if k != "pretrain"}), []
    for text in (one, other):
        Path("study.yaml").write_text(f"{rest}pretrain: {{backbone: resnet18, batch_size: 4, lr: {text}}}\n")
        found.append(names(load("study.yaml")))
    assert found[0] == found[1]


# --- Every setting of a source.

SCENES = {"scenes": {"images": 12, "val_images": 6, "size": [64, 64], "seed": 0}}
DATASET = {"dataset": {"name": "voc2007", "source": "archives"}}
PHOTOS = {"photos": {"folder": "shop", "labels": "shop.csv", "people": "people.csv", "deny": "deny.txt"}}
OF_SOURCES = {
    Scenes: {
        "images": (16, "both"),
        "val_images": (7, "transfers"),
        "size": ([64, 48], "both"),
        "seed": (1, "both"),
    },
    Dataset: {
        "name": ("voc0712", "both"),
        "source": ("elsewhere", "nothing"),
        "download": (True, "nothing"),
    },
    Photos: {
        "folder": ("other", "both"),  # with other content
        "labels": ("other.csv", "both"),
        "val_share": (0.5, "both"),
        "seed": (1, "both"),
        "anonymise": ("blur", "both"),
        "people": ("faces", "both"),
        "deny": (None, "both"),
        "near": (3, "both"),
        "max_skipped": (0.5, "nothing"),
    },
    DataSource: {
        "root": ("elsewhere", "nothing"),  # a copy
        "train": ("val2017", "both"),
        "val": ("train2017", "transfers"),
        "short_side": ("full", "runs"),
    },
}
"""Class -> field -> another value, and what it renames."""
GIVEN = {Scenes: SCENES, Dataset: DATASET, Photos: PHOTOS, DataSource: {"root": "photos"}}


def renamed(before, after):
    """What differs between two `names`: `nothing`, `runs`, `transfers` or `both`."""
    runs, transfers = ({*one} & {*other} for one, other in zip(before, after, strict=True))
    assert len(runs) in (0, len(before[0]))
    assert len(transfers) in (0, len(before[1]))
    return {(1, 1): "nothing", (0, 1): "runs", (1, 0): "transfers", (0, 0): "both"}[bool(runs), bool(transfers)]


def on(data, **places):
    """The names of the example on other data."""
    transfers = {"linear": {"size": 32}, "pseudo_labels": {}}
    return names(loaded({"data": data, "transfers": transfers, "pretrain.batch_size": 2, **places}))


@pytest.fixture
def sources():
    """What the sources read: a data set and its copy, photos and labels."""
    write_coco(Path("photos"))
    shutil.copytree("photos", "elsewhere")
    for folder in ("shop", "other"):
        shutil.copytree("photos/train2017", folder)
        for file in ("", "people.", "deny."):
            Path(f"{folder}.{file}csv").write_text(f"a.jpg,{folder}{file}")
    Path("other/0000.png").write_bytes(b"another photo")
    Path("people.csv").write_text("a.jpg,1,2,3,4")
    Path("deny.txt").write_text("b.jpg")


def test_the_table_of_sources_has_every_setting():
    for cls, fields in OF_SOURCES.items():
        known = {f.name for f in dataclasses.fields(cls)} - {"scenes", "dataset", "photos"}
        assert set(fields) == known, cls
        for field, (_, wanted) in fields.items():
            kind = kind_of(cls, field)
            assert kind is not Kind.EXPERIMENT or wanted != "nothing", field
            assert kind is not Kind.OPERATION or wanted == "nothing", field


@pytest.mark.parametrize(
    ("cls", "field", "value", "wanted"),
    [(cls, field, *row) for cls, fields in OF_SOURCES.items() for field, row in fields.items()],
)
def test_what_a_setting_of_a_source_renames(cls, field, value, wanted, sources):
    data = GIVEN[cls]
    if cls is DataSource:
        other = data | {field: value}
    else:
        ((kind, own),) = data.items()
        other = {kind: own | {field: value}}
    assert renamed(on(data), on(other)) == wanted


@pytest.mark.parametrize(("key", "split", "wanted"), [("train", "test", "both"), ("val", "trainval", "transfers")])
def test_the_splits_of_a_public_data_set_count(key, split, wanted):
    assert renamed(on(DATASET), on(DATASET | {key: split})) == wanted


def write(name, text="other"):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text)


FOLDER_CHANGES = {
    "a training image": (lambda: write("photos/train2017/0003.png"), "both"),
    "one more training image": (lambda: write("photos/train2017/more.png"), "both"),
    "one training image less": (lambda: Path("photos/train2017/0003.png").unlink(), "both"),
    "a new name": (lambda: os.rename("photos/train2017/0003.png", "photos/train2017/x.png"), "both"),
    "annotations of training": (lambda: write("photos/annotations/instances_train2017.json"), "transfers"),
    "annotations of validation": (lambda: write("photos/annotations/instances_val2017.json"), "transfers"),
    "a validation image": (lambda: write("photos/val2017/0003.png"), "transfers"),
    "a semantic mask": (lambda: write("photos/semantic/val2017/0003.png"), "transfers"),
    "a hidden file": (lambda: write("photos/train2017/.DS_Store"), "nothing"),
    "a file beside": (lambda: write("photos/README.txt"), "nothing"),
    "another split": (lambda: write("photos/test2017/0000.png"), "nothing"),
    "times": (lambda: [os.utime(path, (1, 1)) for path in Path("photos").rglob("*")], "nothing"),
}


@pytest.mark.parametrize(("change", "wanted"), FOLDER_CHANGES.values(), ids=FOLDER_CHANGES)
def test_what_a_change_in_a_folder_renames(change, wanted, sources):
    data = {"root": "photos"}
    before = on(data)
    change()
    assert renamed(before, on(data)) == wanted
    if wanted != "nothing":
        assert load("study.yaml").changes == ()  # reported once
    shutil.rmtree("photos")
    shutil.copytree("elsewhere", "photos")
    assert on(data) == before


def test_what_has_changed_is_said_once(sources):
    on({"root": "photos"})
    write("photos/val2017/0003.png")
    (change,) = load("study.yaml").changes
    assert "val2017: 1 of 6 images has other contents (0003.png)" in change
    assert load("study.yaml").changes == ()


def test_a_copy_at_another_place_with_other_times_and_splits_has_the_same_names(sources):
    before = on({"root": "photos"})
    copy = Path("far/away").absolute()
    shutil.copytree("photos", copy, copy_function=shutil.copyfile)
    for split, name in (("train2017", "t"), ("val2017", "v")):
        (copy / split).rename(copy / name)
        (copy / f"annotations/instances_{split}.json").rename(copy / f"annotations/instances_{name}.json")
    for path in copy.rglob("*"):
        os.utime(path, (1, 1))
    assert on({"root": str(copy), "train": "t", "val": "v"}) == before


PHOTO_CHANGES = {
    "a photo": ("shop/0003.png", "both"),
    "one more photo": ("shop/deep/more.png", "both"),
    "labels": ("shop.csv", "both"),
    "people": ("people.csv", "both"),
    "deny": ("deny.txt", "both"),
    "a hidden file": ("shop/.DS_Store", "nothing"),
    "a file beside": ("shops.csv", "nothing"),
}


@pytest.mark.parametrize(("name", "wanted"), PHOTO_CHANGES.values(), ids=PHOTO_CHANGES)
def test_of_photos_and_their_labels_the_content_counts(name, wanted, sources):
    before = on(PHOTOS)
    write(name)
    assert renamed(before, on(PHOTOS)) == wanted


def test_photos_may_move(sources):
    before = on(PHOTOS)
    os.rename("shop", "shop2")
    os.rename("shop.csv", "labels.csv")
    moved = {"photos": PHOTOS["photos"] | {"folder": "shop2", "labels": "labels.csv"}}
    assert on(moved) == before


MISSING = {"root": {"root": "nowhere"}, "photos": {"photos": {"folder": "nowhere", "labels": "nowhere.csv"}}}


@pytest.mark.parametrize("data", [*MISSING.values(), SCENES, DATASET], ids=lambda data: next(iter(data)))
def test_a_study_can_be_loaded_before_its_data_are_there(data):
    study = loaded({"data": data})
    assert study.runs
    assert study.changes == ()
    assert not study.source.ready.exists()
    if "root" in data:
        assert (study.data.images_id, study.data.data_id) == ("-", "-")


# --- A data set that a command makes.


def made(data):
    """Makes what the source would, in its place, and returns that."""
    source = identify(read_source(build(DataSource, data, "test"), "test"))[0]
    root = write_coco(Path(source.data.root), splits={source.data.train: 12, source.data.val: 6})
    if not source.ready.exists():
        write(source.ready)
    return root, source


@pytest.mark.parametrize("data", [SCENES, DATASET, PHOTOS], ids=lambda data: next(iter(data)))
@pytest.mark.parametrize("recorded", [True, False])
def test_a_made_data_set_has_its_names_before_it_is_there_and_others_once_it_is_changed(data, recorded, sources):
    before = on(data)
    root, source = made(data)
    if recorded:  # as its command does; else the first look does
        record(source.data)
    assert on(data) == before
    for name, wanted in (
        (f"{source.data.train}/0003.png", "both"),
        (f"{source.data.val}/0003.png", "transfers"),
        (f"annotations/instances_{source.data.train}.json", "transfers"),
    ):
        content = (root / name).read_bytes()
        write(root / name)
        assert renamed(before, on(data)) == wanted
        (root / name).write_bytes(content)
        assert on(data) == before


def test_the_content_of_a_made_data_set_is_told_beside_its_names():
    _, source = made(SCENES)
    study = loaded({"data": SCENES})
    header = contents(study.data)
    assert (header["images_id"], header["data_id"]) == (study.data.images_id, study.data.data_id)
    assert header["images"] == record(source.data)["images"] != study.data.images_id
    assert header["all"] == record(source.data)["all"] != study.data.data_id


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"images": "x"}', "3"])
def test_a_broken_record_of_a_made_data_set_is_named(text):
    root, _ = made(SCENES)
    (root / RECORD).write_text(text)
    with pytest.raises(DataError, match=rf"{RECORD}: is not a fingerprint .*; remove the file"):
        loaded({"data": SCENES})


def test_a_made_data_set_that_cannot_be_written_to_stays_as_it_is(monkeypatch):
    root, _ = made(SCENES)

    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(sources_module, "write_json", refuse)
    before = on(SCENES)
    assert not (root / RECORD).exists()
    assert on(SCENES) == before


def test_pretraining_and_transfers_may_be_on_different_data(sources):
    base = {"data": {"root": "photos"}, "transfer_data": {"root": "elsewhere"}, "transfers.pseudo_labels": {}}
    study = loaded(base)
    assert study.transfers["linear"].data.root == "elsewhere"
    assert study.transfers["pseudo_labels"].data == study.data
    before = names(study)
    write("elsewhere/train2017/0003.png")
    after = names(load("study.yaml"))
    assert after[0] == before[0]
    assert [a == b for a, b in zip(after[1], before[1], strict=True)] == [False, False, True]
