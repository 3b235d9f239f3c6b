"""Where a study's images come from, and a study that extends another."""

import pytest
import torch
import yaml

from mlssl.cli import parser
from mlssl.errors import ConfigError
from mlssl.parts.backbone import create_backbone
from mlssl.pretrain.build import build_method
from mlssl.study.load import load as load_study
from mlssl.study.settings import Data, DataSource, Pretrain
from mlssl.study.sources import identify, read_source
from mlssl.study.validation import build

SCENES = {"scenes": {"images": 80, "val_images": 20, "size": [64, 48], "seed": 3}}
STUDY = {
    "name": "one",
    "about": "A test.",
    "data": SCENES,
    "seeds": [0],
    "pretrain": {"backbone": "test_resnet", "epochs": 1, "batch_size": 8},
    "methods": {"mls": {"target": "mlssl.method.mls.MLS", "params": {"dictionary_size": 64, "k": 4}}, "random": {}},
    "compare": ["mls", "random"],
    "transfers": {"linear": {}, "pseudo_labels": {}},
}


@pytest.fixture
def load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def load(changes, base=STUDY):
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(base | changes))
        return load_study(tmp_path / "study.yaml")

    return load


def source(values):
    return identify(read_source(build(DataSource, values, "test"), "test"))[0]


def test_a_folder_is_used_as_it_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = source({"root": "photos"})
    assert (found.kind, found.settings, str(found.ready)) == ("root", None, "photos")
    assert found.data == Data("photos", images_id="-", data_id="-")


def test_drawn_scenes_have_a_place_that_their_settings_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = source(SCENES)
    assert found.command() == [
        "scenes", f"--out={found.data.root}", "--images=80", "--val-images=20", "--size=64x48", "--seed=3",
    ]  # fmt: skip
    assert found.images() == (80, 20)
    assert source({"scenes": {**SCENES["scenes"], "seed": 4}}).data.root != found.data.root


def test_a_public_dataset_brings_its_splits_and_counts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = source({"dataset": {"name": "voc2007", "source": "/voc", "download": True}})
    assert (found.data.train, found.data.val) == ("trainval", "test")
    assert found.images() == (5011, 4952)
    words = ["dataset", "voc2007", f"--out={found.data.root}", "--splits", "trainval", "test"]
    assert found.command() == [*words, "--source=/voc", "--download"]
    assert found.ready.name == "prepared.json"
    with pytest.raises(ConfigError, match="no split 'train2017'; give trainval or test"):
        source({"dataset": {"name": "voc2007"}, "train": "train2017"})
    with pytest.raises(ConfigError, match="'imagenet' is not known; one of coco2017"):
        source({"dataset": {"name": "imagenet"}})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (SCENES | {"train": "val2017"}, "test.train: scenes has no split 'val2017'; give train2017"),
        ({"photos": {"folder": "x"}, "val": "val2017"}, "test.val: photos has no split 'val2017'; give val"),
    ],
)
def test_what_a_command_makes_has_splits_of_its_own(given, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=words):
        source(given)
    assert source(SCENES | {"train": "train2017", "val": None}).data == source(SCENES).data


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "none is given; give one of root, scenes, dataset, photos"),
        ({"root": "here", **SCENES}, "root and scenes are given; give one of"),
    ],
)
def test_there_is_exactly_one_source(given, words):
    with pytest.raises(ConfigError, match=words):
        source(given)


def test_options_survive_whatever_a_name_begins_with(tmp_path, monkeypatch):
    """A folder `-x` would be an option of its own, were it not joined by `=`."""
    monkeypatch.chdir(tmp_path)
    photos = {"folder": "-shop", "labels": "-a.csv", "anonymise": "blur", "people": "faces"}
    command = source({"photos": photos}).command()
    read = parser().parse_args(command)
    assert (str(read.photos), str(read.labels), read.anonymise, read.people) == ("-shop", "-a.csv", "blur", "faces")
    assert (read.near, read.max_skipped, read.val_share, read.seed) == (6, 0.05, 0.25, 0)


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        ({"shop/0.jpg": "other"}, "shop: 1 of 2 images has other contents (0.jpg)"),
        ({"shop/2.jpg": "new"}, "shop: 1 image more (2.jpg)"),
        ({"labels.csv": "0.jpg,mug\n"}, "labels.csv has other contents"),
        ({"deny.txt": "0.jpg\n"}, "deny.txt is new"),
        ({"start.pt": "other weights"}, "start.pt has other contents"),
    ],
)
def test_files_of_ones_own_that_changed_are_named_once(load, tmp_path, edit, sentence):
    files = {"shop/0.jpg": "a", "shop/1.jpg": "b", "labels.csv": "0.jpg,cup\n", "start.pt": "weights"}
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    photos = {"photos": {"folder": "shop", "labels": "labels.csv", "deny": "deny.txt"}}
    changes = {"data": photos, "pretrain": {**STUDY["pretrain"], "init": "start.pt"}}
    assert load(changes).changes == ()
    for name, text in edit.items():
        (tmp_path / name).write_text(text)
    assert load(changes).changes == (f"{tmp_path}: {sentence}",)
    assert load(changes).changes == ()


def test_photos_without_labels_are_not_transferred_to(load):
    plain = load({"data": {"photos": {"folder": "shop"}}})
    assert plain.transfers == {}
    assert set(plain.compared) == {"mls", "random"}
    labelled = load({"data": {"photos": {"folder": "shop", "labels": "shop.csv"}}})
    assert set(labelled.transfers) == {"linear", "pseudo_labels"}
    assert "--labels=shop.csv" in labelled.source.command()


def test_transfers_may_be_on_other_images_than_pretraining(load):
    loaded = load({"transfer_data": {"root": "elsewhere"}})
    assert loaded.transfers["linear"].data == Data("elsewhere", images_id="-", data_id="-")
    assert loaded.transfers["pseudo_labels"].data == loaded.data
    assert all(run.config.data == loaded.data for run in loaded.runs.values())


def test_a_method_may_have_its_own_budget(load):
    methods = {**STUDY["methods"], "mls": {**STUDY["methods"]["mls"], "pretrain": {"epochs": 3}}}
    loaded = load({"methods": methods})
    assert loaded.runs[loaded.compared["mls"]].config.epochs == 3
    assert loaded.runs[loaded.compared["random"]].config.epochs == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"methods": {"mls": {"target": "mlssl.method.mls.MLS", "params": {"dictionary_size": 64, "k": 65}}}},
         ["k <= dictionary_size must hold, but k is 65, dictionary_size is 64"]),
        ({"methods": {"mls": {"target": "mlssl.method.mls.MLS", "params": {"dictionary_size": 4, "k": 2}}}},
         ["dictionary_size 4", "batch_size 8", "at least 8"]),
        ({"pretrain": {**STUDY["pretrain"], "batch_size": 64},
          "data": {"scenes": {**SCENES["scenes"], "images": 63}}}, ["batch_size 64", "63 images"]),
    ],
)  # fmt: skip
def test_sizes_that_do_not_fit_are_refused_before_any_work(load, changes, words):
    with pytest.raises(ConfigError) as refused:
        load({"compare": ["mls"], **changes})
    for word in ["study.yaml", *words]:
        assert word in str(refused.value)


def test_an_empty_validation_split_is_refused(load, tmp_path):
    (tmp_path / "photos" / "train2017").mkdir(parents=True)
    (tmp_path / "photos" / "val2017").mkdir()
    for i in range(8):
        (tmp_path / "photos" / "train2017" / f"{i}.jpg").touch()
    with pytest.raises(ConfigError, match="split 'val2017' is empty"):
        load({"data": {"root": "photos"}})


def test_an_extending_study_says_only_what_differs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(STUDY))
    (tmp_path / "own").mkdir()
    own = tmp_path / "own" / "mine.yaml"
    own.write_text(
        "extends: ../base.yaml\nname: mine\ndata: {scenes: null, root: photos}\n"
        "pretrain: {epochs: null, steps: 5}\ntransfers: {pseudo_labels: null}\n"
    )
    loaded = load_study(own)
    assert (loaded.name, loaded.data.root) == ("mine", "photos")
    config = loaded.runs[loaded.compared["mls"]].config
    assert (config.epochs, config.steps, config.batch_size) == (None, 5, 8)
    assert set(loaded.transfers) == {"linear"}
    own.write_text("extends: elsewhere/base.yaml\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml: extends: elsewhere/base\.yaml: no file"):
        load_study(own)
    own.write_text("extends: mine.yaml\n")
    with pytest.raises(ConfigError, match="extends itself"):
        load_study(own)


def test_a_run_starts_from_its_initial_weights(tmp_path):
    torch.manual_seed(1)
    theirs = create_backbone("test_resnet").state_dict()
    torch.save({"backbone": theirs, "meta": {}}, tmp_path / "backbone.pt")
    config = Pretrain(Data("unused"), method="none", backbone="test_resnet", init=str(tmp_path / "backbone.pt"))
    _, backbone = build_method(config, torch.device("cpu"))
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, theirs[key]), key
