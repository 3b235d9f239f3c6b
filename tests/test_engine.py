"""Pretraining: resume to the bit, data order, schedules, the log, failures."""

import dataclasses
import errno
import json
import math
import os
import random
import shutil
from contextlib import nullcontext
from functools import partial
from itertools import pairwise

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from support.tiny_coco import IDENTIFIED, write_backbone

from mlssl import files, tensors
from mlssl.data import store as store_module
from mlssl.data.loader import batch_indices
from mlssl.data.store import ImageStore, build_store
from mlssl.errors import ConfigError, DataError
from mlssl.pretrain import loop as engine
from mlssl.pretrain.log import LossLog, NonFiniteLoss
from mlssl.pretrain.prepare import identified
from mlssl.pretrain.run import checkpoint
from mlssl.pretrain.schedule import cosine
from mlssl.pretrain.training import Training
from mlssl.study import methods
from mlssl.study import settings as config
from mlssl.study.fingerprint import content_id
from mlssl.study.identity import experiment
from mlssl.study.sources import CACHE
from mlssl.study.validation import build

CPU = torch.device("cpu")
TARGETS = {
    "mls": "mlssl.method.mls.MLS",
    "moco_v2": "baselines.moco_v2.MoCoV2",
    "densecl": "baselines.densecl.DenseCL",
    "knn_moco": "baselines.knn_moco.KNNMoCo",
    "nnclr": "baselines.nnclr.NNCLR",
    "msf": "baselines.msf.MSF",
    "byol": "baselines.byol.BYOL",
    "simsiam": "baselines.simsiam.SimSiam",
    "pixpro": "baselines.pixpro.PixPro",
    "pixcontrast": "baselines.pixcontrast.PixContrast",
    "slotcon": "baselines.slotcon.SlotCon",
    "self_emd": "baselines.self_emd.SelfEMD",
    "resim": "baselines.resim.ReSim",
    "soco": "baselines.soco.SoCo",
    "soco_fpn": "baselines.soco_fpn.SoCoFPN",
}
SMALL = {
    "dictionary_size": 10,
    "dim": 8,
    "k": 2,
    "hidden": 8,
    "predictor_hidden": 4,
    "prototypes": 3,
    "pyramid": 8,
    "boxes": 2,
    "box_head": 8,
}
"""Of these, a method is given those that it has."""
VIEWS = {"soco_fpn": ({}, {}, {})}
"""Of methods that take more than two."""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    (root / "images").mkdir()
    for i in range(20):
        pixels = rng.integers(0, 256, (36 + i % 3, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{i:03}.png")
    build_store(root / "images", root / "store", short_side=64, images_id="images", workers=1)
    return root / "store"


def make_settings(method="mls", **changes):
    takes = methods.constructor(TARGETS[method]).types if method in TARGETS else {}
    values = {
        "data": {"root": "unused", **IDENTIFIED},
        "method": method,
        "target": TARGETS.get(method),
        "params": {name: value for name, value in SMALL.items() if name in takes},
        "backbone": "test_resnet",
        "epochs": None,
        "steps": 6,
        "batch_size": 4,
        "lr": 0.05,
        "precision": "fp32",
        "log_every": 1,
        "checkpoint_seconds": 0.0,
        "views": {"crop": 32},
        "each_view": VIEWS.get(method, ({}, {})),
    }
    return build(config.Pretrain, values | changes, "test")


class Killed(BaseException):
    """Simulates kill -9: nothing in the engine catches it."""


def train(settings, store, out, *, kill_after=None, monkeypatch=None):
    if kill_after is not None:
        save = tensors.save

        def save_then_die(path, values, **how):
            save(path, values, **how)
            if values.get("step") == kill_after:
                raise Killed

        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(tensors, "save", save_then_die)
            engine.pretrain(settings, store, out, run="run", device=CPU, progress=False)
        # Whatever global randomness there was is gone with the process.
        torch.manual_seed(99)
        np.random.seed(99)
        random.seed(99)
    engine.pretrain(settings, store, out, run="run", device=CPU, progress=False)
    return torch.load(out / "checkpoint.pt", weights_only=True)


def assert_same(a, b, where=""):
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}.{key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{where}[{i}]")
    else:
        assert a == b, where


QUICK = ("mls", "densecl", "byol", "slotcon", "soco_fpn")
"""Methods with dictionaries, on maps, with a predictor, with prototypes, on boxes; the others are long tests."""


@pytest.mark.parametrize(
    "method", [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in TARGETS]
)
def test_a_killed_run_ends_bit_for_bit_as_if_it_had_not_been(store, tmp_path, monkeypatch, method):
    uninterrupted = train(make_settings(method), store, tmp_path / "uninterrupted")
    resumed = train(make_settings(method), store, tmp_path / "resumed", kill_after=3, monkeypatch=monkeypatch)
    for values in (uninterrupted, resumed):
        values.pop("seconds")
        values.pop("log")  # compared below, without its rates
    assert_same(uninterrupted, resumed)

    def lines(name):
        logged = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        return [{k: v for k, v in line.items() if k != "images_per_s"} for line in logged]

    assert lines("uninterrupted") == lines("resumed")
    if method == "mls":
        uninterrupted, resumed = (
            np.load(tmp_path / name / "pseudo_labels.npz") for name in ("uninterrupted", "resumed")
        )
        assert uninterrupted["step"].tolist() == [2, 3, 4, 5, 6]  # at the first step nothing could be a label
        assert all(np.array_equal(uninterrupted[column], resumed[column]) for column in uninterrupted)
    assert [line["step"] for line in lines("uninterrupted")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("search", ["sample", "ivf"])
def test_a_killed_run_with_a_cheaper_search_ends_bit_for_bit_too(store, tmp_path, monkeypatch, search):
    params = {"k": 2, "dictionary_size": 12, "dim": 8, "search": search, "sample": 4}
    uninterrupted = train(make_settings(params=params), store, tmp_path / "uninterrupted")
    resumed = train(
        make_settings(params=params), store, tmp_path / "resumed", kill_after=4, monkeypatch=monkeypatch
    )
    for values in (uninterrupted, resumed):
        values.pop("seconds")
        values.pop("log")  # holds rates
    assert_same(uninterrupted, resumed)


def test_training_moves_the_query_encoder_and_lets_the_key_encoder_follow(store, tmp_path):
    before = train(make_settings("random"), store, tmp_path / "random")
    after = train(make_settings("mls"), store, tmp_path / "mls")
    exported = torch.load(tmp_path / "mls" / "backbone.pt", weights_only=True)
    name = "layer4.0.conv2.weight"
    start = torch.load(tmp_path / "random" / "backbone.pt", weights_only=True)["backbone"][name]
    query, key = (after["method"][f"encoders.{side}.backbone.{name}"] for side in ("query", "key"))
    assert torch.equal(before["method"][name], start)
    assert torch.equal(exported["backbone"][name], query)
    assert 0 < (key - start).norm() < (query - start).norm()


def test_methods_share_initial_backbone_data_order_and_views(store, tmp_path, monkeypatch):
    seen = {}
    for method in TARGETS:
        cls = methods.load_class(TARGETS[method])

        def step(self, view1, view2, *others, progress, method=method):
            first = next(iter(self.encoders.query.backbone.parameters()))
            seen.setdefault(method, []).append((view1, view2, first.detach().clone()))
            return {"loss": 0 * sum(p.sum() for p in self.encoders.query.parameters())}

        monkeypatch.setattr(cls, "step", step)
        engine.pretrain(
            make_settings(method, steps=2), store, tmp_path / method, run=method, device=CPU, progress=False
        )
    for method in TARGETS:
        assert_same(seen["mls"][0], seen[method][0])
        assert_same(seen["mls"][1][:2], seen[method][1][:2])


def test_a_result_is_never_replaced(store, tmp_path):
    train(make_settings(), store, tmp_path)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    with pytest.raises(FileExistsError, match="another result"):
        train(make_settings(lr=0.01), store, tmp_path)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_a_checkpoint_of_another_configuration_is_refused(store, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(engine, "cosine", lambda step, *_, **__: 0.1 if step < 2 else 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(make_settings(), store, tmp_path)
    with pytest.raises(ConfigError, match="another lr; give another --out"):
        train(make_settings(lr=0.01), store, tmp_path)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_both_precisions_train_and_keep_losses_in_float32(store, tmp_path, precision):
    final = train(make_settings(precision=precision), store, tmp_path)
    assert all(v.isfinite().all() for v in final["method"].values() if isinstance(v, torch.Tensor))
    notes = json.loads((tmp_path / "pretrain.json").read_text())["header"]["notes"]
    assert notes["precision"] == precision


def test_a_loss_that_is_not_finite_stops_and_names_step_and_parts(store, tmp_path):
    diverging = make_settings(lr=1e30, log_every=3)
    with pytest.raises(NonFiniteLoss, match=r"step \d+: the loss is not finite .*info_nce"):
        train(diverging, store, tmp_path)
    reason = json.loads((tmp_path / "state" / "failed.json").read_text())["reason"]
    assert "not finite" in reason
    assert not (tmp_path / "backbone.pt").exists()


@pytest.mark.parametrize(
    ("value", "refused"), [(float("nan"), True), (float("-inf"), True), (1e38, False), (0.0, False)]
)
def test_one_weight_that_is_not_finite_is_refused(value, refused):
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    with torch.no_grad():
        model[0].weight[1, 2] = value
        model[1].weight.fill_(value if value == 1e38 else 1.0)  # large ones must not overflow together
    training = Training(model, torch.optim.SGD(model.parameters()), images="", segments=[])
    with pytest.raises(NonFiniteLoss, match="weights") if refused else nullcontext():
        training.refuse_non_finite()


def test_a_loss_that_is_not_finite_is_reported_with_its_step():
    log = LossLog()
    for value in (1.0, math.nan, 2.0):
        log.add({"loss": torch.tensor(value)})
    with pytest.raises(NonFiniteLoss, match="step 12"):
        log.flush(13, {})


def test_diagnostics_have_a_place_of_their_own_in_a_line():
    log = LossLog()
    for value in (1.0, 3.0):
        log.add({"loss": torch.tensor(value)})
    assert log.flush(2, {"label_force": torch.tensor(0.5)}, lr=0.1) == [
        {"step": 2, "loss": 2.0, "lr": 0.1, "diagnostics": {"label_force": 0.5}}
    ]


def test_the_result_has_the_mean_of_every_diagnostic(store, tmp_path):
    train(make_settings("mls", log_every=1), store, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    forces = [line["diagnostics"]["grad_labels"] for line in lines if "diagnostics" in line]
    rows = {row["metric"]: row for row in json.loads((tmp_path / "pretrain.json").read_text())["rows"]}
    assert 0 < len(forces) < len(lines)  # the first step has no dictionary yet
    assert rows["grad_labels"]["value"] == pytest.approx(sum(forces) / len(forces))
    assert rows["grad_labels"]["n"] == len(forces)


def test_every_epoch_sees_every_image_once():
    for epoch in range(3):
        seen = torch.cat([batch_indices(epoch * 5 + s, 20, 4, seed=1) for s in range(5)])
        assert sorted(seen.tolist()) == list(range(20))
    assert not torch.equal(batch_indices(0, 20, 4, 1), batch_indices(5, 20, 4, 1))
    assert not torch.equal(batch_indices(0, 20, 4, 1), batch_indices(0, 20, 4, 2))


def test_cosine_rises_then_falls_to_nothing():
    rates = [cosine(s, 100, base=0.3, warmup=0.1) for s in range(100)]
    assert rates[9] == pytest.approx(0.3)
    assert rates[0] == pytest.approx(0.03)
    assert rates[55] == pytest.approx(0.15)
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert cosine(0, 10, base=1.0) == 1.0


def test_random_state_is_put_back_for_every_kind():
    state = checkpoint.random_state()
    first = torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()
    checkpoint.set_random_state(state)
    assert first == (torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random())


def test_two_epochs_read_no_image_file(tmp_path):
    (tmp_path / "images").mkdir()
    for i in range(4):
        Image.new("RGB", (40, 36), (9 * i, 0, 0)).save(tmp_path / "images" / f"{i}.jpg")
    build_store(tmp_path / "images", tmp_path / "store", short_side=64, images_id="images", workers=1)
    shutil.rmtree(tmp_path / "images")
    train(make_settings(steps=None, epochs=2.0), tmp_path / "store", tmp_path / "run")
    assert json.loads((tmp_path / "run" / "pretrain.json").read_text())["rows"][0]["value"] == 2


def test_a_run_without_identities_is_named_by_the_content_of_its_images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("data", "copy", "other"):
        photos(tmp_path / name / "train2017", 4)
    Image.new("RGB", (40, 36), (0, 9, 0)).save(tmp_path / "other" / "train2017" / "003.png")
    here, copy, other = (make_settings(data={"root": str(tmp_path / name)}) for name in ("data", "copy", "other"))
    ids = [identified(settings).data for settings in (here, copy, other)]
    assert ids[0].images_id == ids[1].images_id != ids[2].images_id
    settings = identified(make_settings())
    assert identified(settings) == settings
    made_of = {"short_side": 64, "images_id": ids[0].images_id, "workers": 0}
    build_store(tmp_path / "data" / "train2017", tmp_path / "store", **made_of)
    train(here, tmp_path / "store", tmp_path / "run")
    result = (tmp_path / "run" / "pretrain.json").read_text()
    assert json.loads(result)["header"]["data"]["images_id"] == ids[0].images_id
    train(copy, tmp_path / "store", tmp_path / "run")
    assert (tmp_path / "run" / "pretrain.json").read_text() == result
    with pytest.raises(FileExistsError, match="another result"):
        train(other, tmp_path / "store", tmp_path / "run")
    with pytest.raises(DataError, match="was built from other images"):
        train(other, tmp_path / "store", tmp_path / "new")


def test_a_run_is_named_by_the_content_of_its_initial_weights(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = [write_backbone(tmp_path / f"{i}.pt", name="test_resnet", seed=i % 2) for i in range(3)]
    first, other, copy = (identified(make_settings(init=str(path))) for path in paths)
    assert first.init_id == copy.init_id != other.init_id
    assert experiment(first) != experiment(other)
    final = train(make_settings("random", init=str(paths[1])), store, tmp_path / "run")
    weights = torch.load(paths[1], weights_only=True)["backbone"]
    assert_same(dict(final["method"]), weights)


@pytest.mark.parametrize("known", [False, True], ids=["new since", "replaced"])
def test_initial_weights_that_changed_since_the_run_was_named_are_refused(store, tmp_path, monkeypatch, known):
    """A job reads the name from the frozen study; the file may have come or changed while others trained."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "w.pt"
    if known:
        write_backbone(path, name="test_resnet", seed=0)
    named = dataclasses.replace(make_settings("random", init=str(path)), init_id=content_id(path, CACHE)[0])
    write_backbone(path, name="test_resnet", seed=1)
    with pytest.raises(ConfigError, match=r"init: .*w.pt: has other contents .* call snakemake again"):
        train(named, store, tmp_path / "run")
    assert not (tmp_path / "run" / "pretrain.json").exists()


@pytest.mark.slow
@pytest.mark.long
def test_memory_does_not_grow_over_a_thousand_steps(store, tmp_path, monkeypatch):
    held, one = [], engine.step

    def step(*arguments):
        held.append(psutil.Process().memory_info().rss / 2**20)
        return one(*arguments)

    monkeypatch.setattr(engine, "step", step)
    train(make_settings(steps=1000, log_every=10, checkpoint_seconds=1.0), store, tmp_path / "run")
    assert len(held) == 1000
    assert max(held[900:]) - max(held[100:200]) < 4, "MB"


def test_a_dataset_smaller_than_the_batch_is_refused(store, tmp_path):
    with pytest.raises(ConfigError, match=r"batch_size: 21 is more than the 20 training images"):
        train(make_settings(batch_size=21), store, tmp_path)


def test_unknown_scalars_and_methods_are_named(store, tmp_path):
    with pytest.raises(ConfigError, match=r"params\.kk"):
        train(make_settings(params={"kk": 1}), store, tmp_path)
    with pytest.raises(ConfigError, match="no_such"):
        train(make_settings(target="baselines.no_such.Method"), store, tmp_path)


def test_the_store_holds_every_image_as_decoded(tmp_path):
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(1)
    originals = [rng.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in ((30, 20), (16, 48), (100, 50))]
    for i, pixels in enumerate(originals):
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
    Image.new("L", (25, 25), 7).save(tmp_path / "images" / "3.png")
    build_store(tmp_path / "images", tmp_path / "store", short_side=40, workers=2)
    store = ImageStore(tmp_path / "store")
    assert store.sizes.tolist() == [[30, 20], [16, 48], [80, 40], [25, 25]]
    gray, wide, tall = store.batch(torch.tensor([3, 1, 0]))
    assert gray.shape == (25, 25, 3)
    assert (gray == 7).all()
    assert np.array_equal(wide, originals[1])
    assert np.array_equal(tall, originals[0])
    build_store(tmp_path / "images", tmp_path / "full", short_side="full", workers=1)
    assert np.array_equal(ImageStore(tmp_path / "full").image(2), originals[2])


def test_a_store_appears_whole_or_not_at_all(tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "images" / "a.png")
    (tmp_path / "images" / "b.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"b\.jpg") as error:
        build_store(tmp_path / "images", tmp_path / "store", short_side=16, workers=1)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "store").exists()
    (tmp_path / "images" / "b.jpg").unlink()
    build_store(tmp_path / "images", tmp_path / "store", short_side=16, workers=1)
    with pytest.raises(DataError, match="short_side 16"):
        build_store(tmp_path / "images", tmp_path / "store", short_side=20, workers=1)
    with open(tmp_path / "store" / "pixels.bin", "r+b") as file:
        file.write(b"x")
    with pytest.raises(DataError, match="checksum"):
        ImageStore(tmp_path / "store").verify()
    with open(tmp_path / "store" / "pixels.bin", "ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match="rebuild"):
        ImageStore(tmp_path / "store")


@pytest.mark.parametrize("journal_cut", [0, 5])
def test_a_killed_store_build_goes_on_where_it_was(tmp_path, monkeypatch, journal_cut):
    rng = np.random.default_rng(1)
    (tmp_path / "images").mkdir()
    for i in range(9):
        pixels = rng.integers(0, 256, (16 + i, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
    monkeypatch.setattr(store_module, "CHUNK", 2)
    decoded, load = [], store_module.load_resized

    def load_or_die(path, short_side, until=None):
        if until is not None and path.name == until:
            raise Killed
        decoded.append(path.name)
        return load(path, short_side)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(store_module, "load_resized", partial(load_or_die, until="5.png"))
        build_store(tmp_path / "images", tmp_path / "store", short_side=16, workers=0)
    journal = tmp_path / ".store.part" / "journal.jsonl"
    journal.write_text(journal.read_text()[: -journal_cut or None])
    with open(journal.parent / "pixels.bin", "ab") as file:  # of a chunk whose line was not written any more
        file.write(b"half an image")

    decoded.clear()
    monkeypatch.setattr(store_module, "load_resized", load_or_die)
    build_store(tmp_path / "images", tmp_path / "store", short_side=16, workers=0)
    assert decoded == [f"{i}.png" for i in range(2 if journal_cut else 4, 9)]
    store = ImageStore(tmp_path / "store")
    store.verify()
    for i, path in enumerate(sorted((tmp_path / "images").iterdir())):
        assert np.array_equal(store.image(i), load(path, 16))
    assert sorted(p.name for p in (tmp_path / "store").iterdir()) == ["index.json", "pixels.bin"]


def test_what_is_left_of_a_build_of_other_images_is_not_used(tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    for i, grey in enumerate((10, 20, 30)):
        Image.new("RGB", (20, 20), (grey,) * 3).save(tmp_path / "images" / f"{i}.png")
    monkeypatch.setattr(store_module, "CHUNK", 1)
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(store_module, "write_json", lambda *_: 1 / 0)
        build_store(tmp_path / "images", tmp_path / "store", short_side=16, workers=0)
    Image.new("RGB", (24, 20), (99,) * 3).save(tmp_path / "images" / "0.png")
    build_store(tmp_path / "images", tmp_path / "store", short_side=16, workers=0)
    assert (ImageStore(tmp_path / "store").image(0) == 99).all()


def photos(folder, count):
    folder.mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", (40, 36), (i, 0, 0)).save(folder / f"{i:03}.png")


def test_an_image_that_cannot_be_used_is_skipped_and_named(tmp_path, capsys):
    photos(tmp_path / "images", 39)
    (tmp_path / "images" / "sub").mkdir()
    (tmp_path / "images" / "sub" / "000.png").write_bytes((tmp_path / "images" / "000.png").read_bytes()[:60])
    build_store(tmp_path / "images", tmp_path / "store", short_side=32, workers=0)
    store = ImageStore(tmp_path / "store")
    assert len(store) == 39
    assert [name for name, _ in store.skipped] == ["sub/000.png"]
    assert "1 images cannot be used (sub/000.png is" in capsys.readouterr().err
    store.verify()


def test_too_many_unusable_images_stop_the_build(tmp_path):
    photos(tmp_path / "images", 9)
    (tmp_path / "images" / "empty.jpg").touch()
    with pytest.raises(DataError, match=r"1 of 10 images cannot be used, more than 5% \(empty.jpg is empty"):
        build_store(tmp_path / "images", tmp_path / "store", short_side=32, workers=0)
    assert not (tmp_path / "store").exists()
    build_store(tmp_path / "images", tmp_path / "store", short_side=32, workers=0, max_skipped=0.1)
    assert len(ImageStore(tmp_path / "store")) == 9


def test_a_full_disk_leaves_what_is_done_to_go_on_with(tmp_path, monkeypatch):
    photos(tmp_path / "images", 5)
    monkeypatch.setattr(store_module, "CHUNK", 2)
    syncs, sync = [], os.fsync

    def full(descriptor):
        syncs.append(descriptor)
        if len(syncs) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(store_module.os, "fsync", full)
    with pytest.raises(DataError, match="the disk is full; make room and call again"):
        build_store(tmp_path / "images", tmp_path / "store", short_side=32, workers=0)
    assert not (tmp_path / "store").exists()
    monkeypatch.setattr(store_module.os, "fsync", sync)
    build_store(tmp_path / "images", tmp_path / "store", short_side=32, workers=0)
    ImageStore(tmp_path / "store").verify()
    assert len(ImageStore(tmp_path / "store")) == 5


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(ZeroDivisionError), files.atomic(path) as part:
        part.write_text("half")
        1 / 0  # noqa: B018
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
