"""Studies about one's own photos: what a dry run says of them, and what stops them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from PIL import Image
from support.snakemake import small, snakemake, write
from support.study import changed, loaded

from mlssl.cost import estimate, own_photos, rates
from mlssl.cost.near import near
from mlssl.errors import ConfigError
from mlssl.pictures.size import sizes
from mlssl.study.load import load
from mlssl.study.settings import Pictures

PHOTOS = {"photos": {"folder": "shop", "labels": "shop.csv"}}
KNOWN = {
    "pretrain mlssl.method.mls.MLS, resnet10t, crop 64, batch 64, auto": 0.4,
    "pretrain baselines.moco_v2.MoCoV2, resnet18, crop 96, batch 64, auto": 1.0,
    "linear, resnet10t, size 64": 0.003,
    "no pretraining, resnet10t": 0.1,
    "pseudo_labels, resnet10t, settings a87b315da6de": 0.2,
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder, on a machine without a GPU and without reference rates."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rates, "this_device", lambda: "cpu")
    return tmp_path


def shop(count, folder="shop"):
    """A folder of `count` files that an import would look at, one of another kind, and labels."""
    (Path(folder) / "sub").mkdir(parents=True)
    for i in range(count):
        (Path(folder) / ("sub" if i % 2 else "") / f"{i}.{'JPG' if i % 3 else 'png'}").touch()
    (Path(folder) / "notes.txt").touch()
    Path("shop.csv").write_text("0.png,cup\n")


# What a dry run says


@pytest.mark.parametrize(
    ("data", "key", "named"),
    [
        ({"photos": {"folder": "nowhere"}}, "data.photos.folder", "nowhere"),
        ({"photos": {"folder": "shop", "labels": "lost.csv"}}, "data.photos.labels", "lost.csv"),
        ({"photos": {"folder": "shop", "anonymise": "blur", "people": "p.json"}}, "data.photos.people", "p.json"),
        ({"photos": {"folder": "shop", "deny": "deny.txt"}}, "data.photos.deny", "deny.txt"),
        ({"dataset": {"name": "voc2007", "source": "archives"}}, "data.dataset.source", "archives"),
        ({"root": "coco"}, "data.root", "coco"),
    ],
)
def test_what_is_named_but_not_there_is_one_sentence(here, data, key, named):
    shop(12)
    study = loaded({"data": data, "transfers": {}})
    (sentence,) = study.absent()
    assert sentence.startswith(f"study.yaml: {key}: {named}: no such ")
    assert "check the path" in sentence
    assert sentence in estimate.report(study, 2, reference=Path("none.json"))


def test_weights_to_start_from_and_data_of_the_transfers_are_named_too(here):
    study = loaded({"pretrain.init": "lost.pth", "transfer_data": {"root": "other"}})
    assert [s.partition(": no such")[0] for s in study.absent()] == [
        "study.yaml: transfer_data.root: other",
        "study.yaml: pretrain.init: lost.pth",
    ]


def test_what_is_there_or_made_by_a_command_is_not_missing(here):
    shop(12)
    assert loaded({"data": PHOTOS}).absent() == []
    assert loaded({"data": {"dataset": {"name": "voc2007", "source": "new", "download": True}}}).absent() == []
    assert loaded().absent() == []
    faces = {"folder": "shop", "anonymise": "blur", "people": "faces"}
    assert loaded({"data": {"photos": faces}, "transfers": {}}).absent() == []


def test_photos_are_counted_before_they_are_imported(here):
    shop(20)
    study = loaded({"data": PHOTOS})
    assert own_photos.images(study.source) == (20, 5)
    assert "photos: 20 found in shop, not imported yet" in estimate.report(study, 2, reference=Path("none.json"))
    text = estimate.report(loaded({"data": PHOTOS, "pretrain.batch_size": 32}), 2, reference=Path("none.json"))
    assert "study.yaml: pretrain.batch_size: 32 is more than these; give less" in text


def test_the_cost_of_own_photos_comes_from_scaled_rates(here):
    shop(40)
    study = loaded({"data": PHOTOS, "pictures": {"dictionary_size": 4096}})
    Path("rates.json").write_text(json.dumps({"machine": "m", "device": "cpu", "threads": 1, "seconds": KNOWN}))
    source = rates.sources(Path("results"), device="cpu", reference=Path("rates.json"))[:2]
    found = {(job.run, job.stage): job for job in estimate.jobs(study, source)}
    mls = next(run for run in study.runs.values() if run.config.method == "mls")
    # The same method comes before the same backbone; 2 epochs of 40 photos in batches of 4; crops of 224 px.
    step = 0.4 * (1.8 / 1.1) * (224 / 64) ** 2 * (4 / 64)
    assert found[mls.id, "pretrain"].seconds == pytest.approx(20 * step)
    assert found[mls.id, "pretrain"].scaled
    assert found[mls.id, "linear"].seconds == pytest.approx((40 + 10) * 0.003 * (1.8 / 1.1) * (32 / 64) ** 2)
    # 40 candidates and 8 crops of each photo; histograms embed them twice.
    crop = found[study.pictured["mls"], "neighbours"].seconds / (40 + 8 * 40)
    assert found[study.pictured["mls"], "histograms"].seconds == pytest.approx(2 * (40 + 8 * 40) * crop)
    text = estimate.report(study, 2, reference=Path("rates.json"))
    assert "~ scaled from other settings, within a factor of 3 either way" in text
    assert "scaled from: linear, resnet10t, size 64" in text
    assert "neighbours" in text.splitlines()[2]


@pytest.mark.parametrize(
    ("wanted", "base", "ratio"),
    [
        ("pretrain mlssl.method.mls.MLS, resnet10t, crop 128, batch 64, auto", "pretrain mlssl", 4),
        ("pretrain mlssl.method.mls.MLS, resnet10t, crop 64, batch 16, fp32", "pretrain mlssl", 1 / 4),
        ("pretrain my.Method, resnet18, crop 96, batch 64, auto", "pretrain baselines", 1),
        ("linear, resnet18, size 64", "linear", 1.8 / 1.1),
        ("no pretraining, resnet50", "no pretraining", 4.1 / 1.1),
        ("linear, my_backbone, size 64", None, None),
        ("knn, resnet18, size 64", None, None),
        ("pseudo_labels, resnet10t, settings 0123", None, None),
    ],
)
def test_the_nearest_rate_is_scaled_or_there_is_none(wanted, base, ratio):
    found = near(wanted, KNOWN)
    if base is None:
        assert found is None
    else:
        assert found.key.startswith(base)
        assert found.seconds == pytest.approx(ratio * KNOWN[found.key])


def test_every_known_rate_is_its_own_nearest():
    for key in KNOWN:
        if not key.startswith("pseudo_labels"):
            assert near(key, KNOWN) == near(key, {key: KNOWN[key]})
            assert near(key, KNOWN).seconds == KNOWN[key]


def test_rates_of_another_device_are_not_scaled(here):
    source = [rates.Source("gpu", KNOWN, "H200")]
    wanted = "linear, resnet18, size 64"
    assert estimate.rate_or_near(source, wanted, "cpu") == (None, None, False)
    assert estimate.rate_or_near(source, wanted, "H200")[2]
    assert estimate.rate_or_near(source, "linear, resnet10t, size 64", "cpu") == (0.003, "gpu", False)


def test_pictures_are_no_larger_than_the_study():
    assert sizes(Pictures(), 20) == {"queries": 20, "dictionary": 160}
    assert sizes(Pictures(), 3000) == {"queries": 60, "dictionary": 4096}


# Extending a study


@pytest.mark.parametrize("kind", ["root", "dataset", "photos", "scenes"])
@pytest.mark.parametrize("section", ["data", "transfer_data"])
def test_another_source_replaces_that_of_the_base(here, kind, section):
    sources = {
        "root": {"root": "coco", "train": "mine"},
        "dataset": {"dataset": {"name": "voc2007", "source": "voc"}, "val": "test"},
        "photos": PHOTOS,
        "scenes": {"scenes": {"images": 8, "val_images": 4, "size": [64, 64], "seed": 0}},
    }
    for other in sources.keys() - {kind}:
        base = changed({section: sources[other] | {"short_side": 99}})
        Path("base.yaml").write_text(yaml.safe_dump(base))
        Path("own.yaml").write_text(yaml.safe_dump({"extends": "base.yaml", "name": "own", section: sources[kind]}))
        study = load("own.yaml")
        source = study.source if section == "data" else study.transfer_source
        assert source.kind == kind
        assert source.data.short_side == 99


def test_the_same_kind_of_source_is_merged_and_two_at_once_are_refused(here):
    Path("base.yaml").write_text(yaml.safe_dump(changed({"data": PHOTOS})))
    Path("own.yaml").write_text("extends: base.yaml\nname: own\ndata: {photos: {val_share: 0.5}}\n")
    settings = load("own.yaml").source.settings
    assert (settings.folder, settings.val_share) == ("shop", 0.5)
    Path("own.yaml").write_text("extends: base.yaml\nname: own\ndata: {root: a, photos: {folder: b}}\n")
    with pytest.raises(ConfigError, match="root and photos are given; give one of"):
        load("own.yaml")


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({}, "8 drawn scenes"),
        ({"about": "Mine."}, "Mine."),
        ({"data": {"photos": {"folder": "/a/b/shop"}}, "transfers": None}, "Own photos (shop), without labels"),
        ({"data": PHOTOS}, "Own photos (shop), labels of shop.csv"),
        ({"data": {"root": "coco"}}, "The images of coco"),
        ({"transfer_data": PHOTOS}, "8 drawn scenes; transfers: Own photos (shop), labels of shop.csv"),
    ],
)
def test_what_another_study_is_about_is_not_inherited(here, own, words):
    Path("base.yaml").write_text(yaml.safe_dump(changed()))
    Path("middle.yaml").write_text("extends: base.yaml\nabout: The middle.\n")
    if "transfers" in own:
        own = {**own, "transfers": {"linear": None, "detection": None}}
    Path("own.yaml").write_text(yaml.safe_dump({"extends": "middle.yaml", "name": "own", **own}))
    assert load("own.yaml").about == words


# A call of Snakemake


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("broken", ["data", "transfer_data"])
def test_a_failed_preparation_is_shown_and_nothing_is_trained(tmp_path, broken):
    (tmp_path / "shop").mkdir()
    for i in range(12):
        Image.new("RGB", (64, 64), (20 * i, 99, 0)).save(tmp_path / "shop" / f"{i}.png")
    (tmp_path / "shop.csv").write_text("".join(f"other{i}.png,cup\n" for i in range(12)))
    photos = {"photos": {"folder": "shop", "labels": "shop.csv"}, "short_side": 32}
    study = write(tmp_path / "study.yaml", small(**{broken: photos}))
    output = snakemake(tmp_path, study, check=False)
    assert "mlssl import: " in output  # the error itself, not only the name of its log
    assert not list((tmp_path / "results" / "tiny").glob("runs/*/state"))
    assert not list((tmp_path / "results" / "tiny").glob("runs/*/*.json"))
    assert "failed: " in (tmp_path / "results" / "tiny" / "runs.tsv").read_text()
