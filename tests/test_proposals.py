"""Proposals: selective search and its filter, the file, and the way of boxes through the loader to SoCo's loss."""

import dataclasses
import importlib
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.boxes import ORL_VIEWS
from support.snakemake import ROOT, plan, small, snakemake, write
from support.study import loaded
from support.tiny_coco import IDENTIFIED, write_coco
from test_engine import assert_same, make_settings, store, train  # noqa: F401

from baselines import soco
from mlssl import api, cli, tensors
from mlssl.cost import estimate
from mlssl.cost.rates import Source
from mlssl.cost.speed import Trainer
from mlssl.data import proposals, selective_search
from mlssl.data.augment import gpu
from mlssl.data.augment import proposals as beside_views
from mlssl.data.augment.parameters import Parameters, draw
from mlssl.data.augment.proposals import Candidates
from mlssl.data.augment.views import make_views
from mlssl.data.loader import Steps
from mlssl.data.proposals import ProposalFile, find_proposals
from mlssl.data.selective_search import kept
from mlssl.data.store import ImageStore
from mlssl.errors import ConfigError, DataError
from mlssl.parts.boxes import to_view
from mlssl.parts.view import View
from mlssl.study.identity import proposals_file, run_digest
from mlssl.study.settings import Proposals, Views
from mlssl.study.validation import build, plain

CPU = torch.device("cpu")
SEARCHED = {"proposals": "selective_search", "dim": 8, "hidden": 8, "boxes": 2}


def settings(**changes):
    return make_settings("soco", **{"params": SEARCHED} | changes)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def by_hand(monkeypatch):
    """Boxes that are given by the size of the image in place of OpenCV's: 40 x 36, 37 or 38 pixels."""
    calls = []

    def search(pixels, config):
        calls.append(pixels.shape)
        height, width, _ = pixels.shape
        few = [[0, 0, 2, 2], [0, 0, width, height], [10, 5, 20, 20], [0, 16, 18, 20], [30, 0, 10, 30]]
        return np.array(few[: 2 + height - 35])  # the first two never pass

    monkeypatch.setattr(selective_search, "library", lambda: None)
    monkeypatch.setattr(selective_search, "version", lambda: "by hand")
    monkeypatch.setattr(selective_search, "search", search)
    return calls


@pytest.fixture
def made(store, tmp_path, by_hand):  # noqa: F811
    """A store with its file of proposals beside it."""
    (tmp_path / "store").symlink_to(store)
    images = ImageStore(tmp_path / "store")
    find_proposals(images, proposals_file(Proposals(), images.path), Proposals(), workers=0)
    return images


# The filter


def filtered(*sides, width=640, height=480, **config):
    boxes = np.array([[0, 0, w, h] for w, h in sides])
    found, rule = kept(boxes, width, height, Proposals(**config))
    return [tuple(box[2:]) for box in found.tolist()], selective_search.RULES[rule]


def test_the_published_filter_by_hand():
    """sqrt(640 * 480) = 554.26: 0.3 of it is 166.3, and 0.8 is 443.4."""
    assert filtered((166, 166), (167, 167), (443, 443), (444, 444)) == ([(167, 167), (443, 443)], "size and aspect")
    assert filtered((300, 100), (301, 100), (100, 300), (100, 301)) == ([(300, 100), (100, 300)], "size and aspect")
    assert filtered((300, 100), (301, 100), aspect=3.02)[0] == [(300, 100), (301, 100)]
    assert filtered((166, 166), (300, 300), size=(0.2, 0.6))[0] == [(166, 166), (300, 300)]


def test_the_filter_is_relative_to_the_image():
    assert filtered((33, 33), (34, 34), width=128, height=96) == ([(34, 34)], "size and aspect")  # 0.3 is 33.3


def test_an_image_without_such_a_box_keeps_others_in_the_published_order():
    assert filtered((100, 100), (640, 60)) == ([(100, 100)], "aspect alone")
    assert filtered((640, 60), (20, 20)) == ([(640, 60)], "size alone")
    assert filtered((31, 31), (32, 32)) == ([(32, 32)], "aspect alone")  # least side: 480 / 15
    assert filtered((640, 31), (31, 31)) == ([(640, 480)], "whole image")


def test_the_filter_is_a_slow_loop():
    rng = np.random.default_rng(0)
    boxes = np.concatenate([rng.integers(0, 40, (500, 2)), rng.integers(1, 300, (500, 2))], axis=1)
    found, rule = kept(boxes, 320, 240, Proposals())
    expected = []
    for x, y, w, h in boxes.tolist():
        if 1 / 3 <= w / h <= 3 and 0.3 <= math.sqrt(w * h) / math.sqrt(320 * 240) <= 0.8:
            expected.append([x, y, w, h])
    assert found.tolist() == expected
    assert 50 < len(expected) < 450
    assert rule == 0


def test_random_boxes_pass_the_same_filter():
    assert Proposals().size == soco.SIZES
    assert Proposals().aspect == soco.ASPECT


# The search itself


def opencv():
    cv2 = pytest.importorskip("cv2", reason="opencv-contrib-python-headless is not installed")
    if not hasattr(cv2, "ximgproc"):
        pytest.skip("OpenCV is installed without its contributed modules, which have selective search")


def test_selective_search_finds_a_rectangle_on_plain_ground():
    opencv()
    pixels = np.full((120, 160, 3), 90, dtype=np.uint8)
    pixels[30:90, 40:120] = (200, 40, 40)
    pixels[10:20, 5:15] = (40, 200, 40)
    found = selective_search.search(pixels, Proposals())
    rectangle, small = np.array([40, 30, 80, 60]), np.array([5, 10, 10, 10])
    assert (abs(found - rectangle) <= 2).all(axis=1).any()  # the blur moves edges
    assert (abs(found - small) <= 2).all(axis=1).any()
    assert found.tolist() == sorted(found.tolist())
    assert len({tuple(box) for box in found.tolist()}) == len(found)
    passing, rule = kept(found, 160, 120, Proposals())
    assert rule == 0
    assert (abs(passing - rectangle) <= 2).all(axis=1).any()
    assert not (abs(passing - small) <= 2).all(axis=1).any()


def test_a_search_by_several_processes_is_the_same(store, tmp_path):  # noqa: F811
    opencv()
    images = ImageStore(store)
    for workers in (0, 2):
        find_proposals(images, tmp_path / f"{workers}.npz", Proposals(), workers=workers)
    alone, several = (np.load(tmp_path / f"{workers}.npz") for workers in (0, 2))
    for name in ("boxes", "count"):
        assert np.array_equal(alone[name], several[name])


@pytest.mark.parametrize("installed", [None, SimpleNamespace(__version__="4")])
def test_without_the_library_a_sentence_says_what_to_install(store, tmp_path, monkeypatch, installed):  # noqa: F811
    monkeypatch.setitem(sys.modules, "cv2", installed)  # absent, and without `ximgproc`
    with pytest.raises(ConfigError, match=r"needs opencv-contrib-python-headless, .* `pip install 'mlssl\[prop"):
        find_proposals(ImageStore(store), tmp_path / "x.npz", Proposals())
    with pytest.raises(ConfigError, match="needs opencv-contrib"):  # before the images are stored
        api.pretrain(settings_of_api(tmp_path), tmp_path / "run")
    assert not (tmp_path / "run" / "store").exists()
    (tmp_path / "x.npz").touch()
    selective_search.check(tmp_path / "x.npz")  # what is there needs no library


def settings_of_api(tmp_path):
    return {
        "data": {"root": str(tmp_path), "images_id": "i", "data_id": "d"},
        "method": "soco",
        "target": "baselines.soco.SoCo",
        "params": SEARCHED,
    }


# The file


def test_the_file_has_every_images_boxes_and_how_they_were_found(made, by_hand):
    path = proposals_file(Proposals(), made.path)
    assert path.parent == made.path.parent
    with np.load(path) as file:
        assert file["count"].tolist() == [(1, 2, 3)[i % 3] for i in range(20)]
        assert file["boxes"][:3].tolist() == [[10, 5, 20, 20], [10, 5, 20, 20], [0, 16, 18, 20]]
        about = json.loads(str(file["about"]))
    assert (about["images"], about["boxes"], about["bytes"]) == (20, 39, 39 * 8 + 20 * 4)
    assert about["kept_by"] == {"size and aspect": 20, "aspect alone": 0, "size alone": 0, "whole image": 0}
    assert about["images_id"] == "images"
    assert about["store_crc32"] == made.crc32
    assert about["settings"]["k"] == 300
    assert about["seconds"] >= about["core_seconds"] > 0
    assert "mlssl/data/selective_search.py" in about["code"]
    assert len(by_hand) == 20
    find_proposals(made, path, Proposals())  # is there already
    assert len(by_hand) == 20
    assert [p.name for p in path.parent.iterdir() if p.name.endswith(".journal")] == []


def test_a_batch_of_boxes_by_hand(made):
    file = ProposalFile(proposals_file(Proposals(), made.path), made, Proposals())
    boxes, there = file.batch(torch.tensor([2, 0]))
    assert there.tolist() == [[True] * 3, [True, False, False]]
    assert boxes[0].tolist() == [[10, 5, 30, 25], [0, 16, 18, 36], [30, 0, 40, 30]]
    assert boxes[1, 0].tolist() == [10, 5, 30, 25]


def test_a_killed_search_goes_on_where_it_ended(made, tmp_path, by_hand, monkeypatch):
    monkeypatch.setattr(proposals, "CHUNK", 4)
    search, whole = selective_search.search, np.load(proposals_file(Proposals(), made.path))

    def killed(pixels, config):
        if len(by_hand) == 10:
            raise KeyboardInterrupt
        return search(pixels, config)

    by_hand.clear()
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(selective_search, "search", killed)
        find_proposals(made, tmp_path / "x.npz", Proposals(), workers=0)
    journal = tmp_path / ".x.npz.journal"
    assert not (tmp_path / "x.npz").exists()
    with open(journal, "a") as file:
        file.write('{"images": [[[[0, 0')  # the line that was being written
    by_hand.clear()
    find_proposals(made, tmp_path / "x.npz", Proposals(), workers=0)
    assert len(by_hand) == 12  # 8 of 20 were in the journal
    assert not journal.exists()
    again = np.load(tmp_path / "x.npz")
    assert all(np.array_equal(whole[name], again[name]) for name in ("boxes", "count"))


def test_a_journal_of_other_settings_is_not_continued(made, tmp_path, by_hand):
    (tmp_path / ".x.npz.journal").write_text('{"made_of": "something else"}\n{"images": [], "seconds": 1.0}\n')
    by_hand.clear()
    find_proposals(made, tmp_path / "x.npz", Proposals(), workers=0)
    assert len(by_hand) == 20


def rewritten(path, **changes):
    with np.load(path) as file:
        np.savez(path, **{name: changes.get(name, file[name]) for name in file.files})


def test_files_that_do_not_belong_are_refused(made, tmp_path):
    path = proposals_file(Proposals(), made.path)
    with pytest.raises(DataError, match=r"was made with .*'k': 300.*, not .*'k': 200.*; move the file away"):
        ProposalFile(path, made, Proposals(k=200))
    with pytest.raises(DataError, match="no such file; make it with `mlssl proposals`"):
        ProposalFile(tmp_path / "none.npz", made)
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(DataError, match="is no file of proposals"):
        ProposalFile(tmp_path / "text.npz", made)
    with pytest.raises(DataError, match="has the proposals of other images than those of"):
        ProposalFile(path, SimpleNamespace(crc32=1, path="store", __len__=lambda: 20))
    rewritten(path, boxes=np.load(path)["boxes"] + np.uint16(1))
    with pytest.raises(DataError, match="its boxes are not those that were written; move the file away"):
        ProposalFile(path, made)


# Boxes beside the views


def crops(*boxes):
    """Parameters of which only the crops are read."""
    nothing = torch.zeros(len(boxes))
    names = [field.name for field in dataclasses.fields(Parameters) if field.name not in ("box", "solarise")]
    return Parameters(box=torch.tensor(boxes), **dict.fromkeys(names, nothing))


def test_which_boxes_touch_what_both_views_show():
    views = crops((0, 0, 60, 60)), crops((40, 20, 60, 60))  # both show x 40 to 60, y 20 to 60
    rows = [(41, 21, 42, 22), (0, 0, 41, 21), (0, 0, 40, 60), (0, 0, 90, 90), (60, 20, 90, 60), (45, 30, 55, 40)]
    candidates = Candidates(torch.tensor([rows]).float(), torch.tensor([[True] * 5 + [False]]), 2)
    assert beside_views.touching(candidates, views).tolist() == [[True, True, False, True, False, False]]
    apart = crops((0, 0, 10, 10)), crops((50, 0, 10, 10))  # a box over both does not touch what both show
    assert not beside_views.touching(candidates, apart).any()


def test_boxes_are_drawn_evenly_repeated_if_few_and_zero_if_none():
    views = [crops(*[(0, 0, 50, 50)] * 3)] * 2
    rows = torch.tensor([[0, 0, 10 + i, 10] for i in range(6)]).float().expand(3, 6, 4).clone()
    rows[2, :, ::2] += 100  # outside
    there = torch.ones(3, 6, dtype=torch.bool)
    there[1, 2:] = False
    candidates, rng = Candidates(rows, there, 4), torch.Generator().manual_seed(0)
    drawn = [beside_views.chosen(candidates, views, rng) for _ in range(300)]
    seen = torch.zeros(6)
    for many, few, none in drawn:
        assert len({row[2] for row in many.tolist()}) == 4  # none twice
        seen += torch.bincount(many[:, 2].long() - 10, minlength=6)
        assert sorted(row[2] for row in few.tolist()) == [10, 10, 11, 11]
        assert not none.any()
    assert (seen / 1200 - 1 / 6).abs().max() < 0.03


def test_crops_are_drawn_again_where_the_views_share_too_few_boxes():
    n, side = 200, 100
    sizes, rng = torch.full((n, 2), side), torch.Generator().manual_seed(0)
    views = [Views(crop=32, scale=(0.05, 0.3))] * 2
    drawn = [draw(sizes, one, rng) for one in views]
    rows = torch.rand(n, 6, 2, generator=rng) * 50
    candidates = Candidates(torch.cat([rows, rows + 40], dim=2), torch.ones(n, 6, dtype=torch.bool), 4)
    before = beside_views.touching(candidates, drawn).sum(dim=1)
    again = beside_views.redrawn(drawn, candidates, sizes, views, rng)
    after = beside_views.touching(candidates, again).sum(dim=1)
    enough = before >= 2
    assert 20 < enough.sum() < n - 20
    for old, new in zip(drawn, again, strict=True):
        assert torch.equal(new.box[enough], old.box[enough])
        assert torch.equal(new.flip, old.flip)
    lacking = (before < 2).sum() - (after < 1).sum()
    assert (after < 1).sum() < 0.5 * (before < 1).sum()
    assert lacking > 0


def noise(n, height=50, width=70):
    return list(torch.randint(0, 256, (n, height, width, 3), dtype=torch.uint8, generator=torch.manual_seed(0)))


def some(n):
    corner = torch.rand(n, 5, 2, generator=torch.Generator().manual_seed(1)) * 20
    return Candidates(torch.cat([corner, corner + 28], dim=2), torch.rand(n, 5) < 2, 3)


def test_views_bring_the_same_boxes_on_a_device_and_in_a_part(monkeypatch):
    n, views = 8, [Views(crop=32)] * 2
    raw, index = noise(n), torch.arange(n)

    def made_by(device, **how):
        return make_views(raw, index, views, torch.Generator().manual_seed(3), device, candidates=some(n), **how)

    one, two = made_by(CPU)
    assert one.proposals.shape == (n, 3, 4)
    assert torch.equal(one.proposals, two.proposals)
    assert all(row in some(n).boxes[i].tolist() for i in range(n) for row in one.proposals[i].tolist())
    for view, piece in zip((one, two), made_by(CPU, part=slice(2, 5)), strict=True):
        assert all(torch.equal(a[2:5], b) for a, b in zip(view, piece, strict=True))
    padded, upload = gpu.padded, gpu.upload
    monkeypatch.setattr(gpu, "padded", lambda images, boxes, device: padded(images, boxes, CPU))
    monkeypatch.setattr(gpu, "upload", lambda tensors, device: upload(tensors, CPU))
    for here, there in zip((one, two), made_by(SimpleNamespace(type="device")), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(here[1:], there[1:], strict=True))


def test_the_crops_of_other_methods_are_those_of_this_one_where_enough_is_shared():
    n, views, raw = 8, [Views(crop=32)] * 2, noise(8)
    plain = make_views(raw, torch.arange(n), views, torch.Generator().manual_seed(3), CPU)
    everywhere = Candidates(torch.tensor([0.0, 0, 70, 50]).expand(n, 4, 4), torch.ones(n, 4, dtype=torch.bool), 2)
    shared = (torch.minimum(*[v.box[:, :2] + v.box[:, 2:] for v in plain])
              > torch.maximum(*[v.box[:, :2] for v in plain])).all(dim=1)  # fmt: skip
    with_boxes = make_views(
        raw, torch.arange(n), views, torch.Generator().manual_seed(3), CPU, candidates=everywhere
    )
    assert shared.sum() > n / 2
    for a, b in zip(plain, with_boxes, strict=True):
        assert a.proposals is None
        assert torch.equal(a.pixels[shared], b.pixels[shared])


# From the file to the loss


def test_the_loader_gives_the_boxes_of_the_file(made):
    config = settings()
    file = ProposalFile(proposals_file(config.proposals, made.path), made)
    for view in Steps(made, config, CPU, proposals=file)[0]:
        assert view.proposals.shape == (4, 2, 4)
        for image, rows in zip(view.image.tolist(), view.proposals.tolist(), strict=True):
            boxes, there = file.batch(torch.tensor([image]))
            assert all(row in [*boxes[there].tolist(), [0, 0, 0, 0]] for row in rows)
    assert Steps(made, settings(params={}), CPU)[0][0].proposals is None


def test_a_step_trains_on_the_boxes_of_its_views_as_on_random_ones(made):
    """The loss is that of random boxes, if these are the same; test_region_methods.py has its equations."""
    config = settings()
    views = Steps(made, config, CPU, proposals=ProposalFile(proposals_file(config.proposals, made.path), made))[0]
    found = []
    for how in ("selective_search", "random"):
        torch.manual_seed(0)
        method = Trainer(dataclasses.replace(config, params=SEARCHED | {"proposals": how}), CPU).module
        torch.manual_seed(1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(soco, "random_boxes", lambda one, *rest: one.proposals)
            given = [v if how == "selective_search" else View(*v[:4], v.proposals) for v in views]
            found.append(method.step(*given, progress=0.0))
    assert_same(*found)
    inside = [(to_view(v.proposals, v).clamp(0, 1)) for v in views]
    shared = torch.stack([(b[..., 2:] > b[..., :2]).all(dim=2) for b in inside]).all(dim=0).float().mean()
    assert 0.5 < found[0]["shared"] <= shared + 0.01  # jitter may move one out of view


def test_images_without_a_shared_box_have_no_loss_and_no_nan(made):
    config = settings()
    views = Steps(made, config, CPU, proposals=ProposalFile(proposals_file(config.proposals, made.path), made))[0]
    none = [view._replace(proposals=torch.zeros(4, 2, 4)) for view in views]
    parts = Trainer(config, CPU).module.step(*none, progress=0.0)
    parts["loss"].backward()
    assert parts["loss"] == parts["shared"] == 0


def test_views_without_boxes_are_refused(made):
    views = Steps(made, settings(params={}), CPU)[0]
    with pytest.raises(ValueError, match="proposals: selective_search needs views with proposals"):
        Trainer(settings(), CPU).module.step(*views, progress=0.0)


def test_a_run_on_proposals_says_what_they_cost_and_resumes_to_the_bit(made, tmp_path, monkeypatch):
    whole = train(settings(), made.path, tmp_path / "whole")
    resumed = train(settings(), made.path, tmp_path / "resumed", kill_after=3, monkeypatch=monkeypatch)
    other = train(settings(params=SEARCHED | {"proposals": "random"}), made.path, tmp_path / "random")
    for values in (whole, resumed):
        values.pop("seconds")
        values.pop("log")  # holds rates
    assert_same(whole, resumed)
    weights = "encoders.query.backbone.conv1.weight"
    name = weights if weights in whole["method"] else next(n for n in whole["method"] if n.endswith("weight"))
    assert not torch.equal(whole["method"][name], other["method"][name])
    note = json.loads((tmp_path / "whole" / "pretrain.json").read_text())["header"]["notes"]["proposals"]
    path = proposals_file(Proposals(), made.path)
    assert note["file"] == str(path)
    assert note["bytes"] == path.stat().st_size
    assert (note["boxes"], note["opencv"]) == (39, "by hand")
    assert note["seconds"] > 0
    random = json.loads((tmp_path / "random" / "pretrain.json").read_text())["header"]["notes"]
    assert "proposals" not in random


@pytest.mark.parametrize(("kept", "resumes"), [("images alone", True), ("other boxes", False)])
def test_a_state_from_before_boxes_were_checked_resumes(made, tmp_path, monkeypatch, kept, resumes):
    class Stopped(Exception):
        pass

    def save_and_stop(path, values, **how):
        images = values["images"].partition("+")[0]
        save(path, values | {"images": images if kept == "images alone" else f"{images}+00000000"}, **how)
        raise Stopped

    save = tensors.save
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(tensors, "save", save_and_stop)
        train(settings(), made.path, tmp_path / "run")
    if resumes:
        assert train(settings(), made.path, tmp_path / "run")["step"] == 6
    else:
        with pytest.raises(DataError, match="other images, or boxes of them"):
            train(settings(), made.path, tmp_path / "run")


def test_a_run_without_its_file_is_refused_before_training(store, tmp_path):  # noqa: F811
    (tmp_path / "store").symlink_to(store)
    with pytest.raises(DataError, match=r"store-proposals-.*.npz: no such file; make it with `mlssl proposals`"):
        train(settings(), tmp_path / "store", tmp_path / "run")


def test_a_run_from_python_finds_its_boxes_itself(tmp_path, by_hand):
    root = write_coco(tmp_path / "coco", size=40)
    config = plain(settings(steps=1, data={"root": str(root), **IDENTIFIED}))
    api.pretrain({**config, "init_id": None}, tmp_path / "run", device="cpu", progress=False)
    note = json.loads((tmp_path / "run" / "pretrain.json").read_text())["header"]["notes"]["proposals"]
    assert note["boxes"] == 3 * 12
    assert Path(note["file"]).parent == tmp_path / "run"


def test_the_command_writes_the_file_beside_the_store(store, tmp_path, by_hand, monkeypatch):  # noqa: F811
    (tmp_path / "store").symlink_to(store)
    (tmp_path / "run.yaml").write_text(json.dumps(plain(settings(proposals={"k": 200}))))
    words = ["mlssl", "proposals", "--config", "run.yaml", "--workers", "1"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit):  # needs a store
        cli.main()
    monkeypatch.setattr(sys, "argv", [*words, "--store", str(tmp_path / "store")])
    assert cli.main() == 0
    file = ProposalFile(proposals_file(Proposals(k=200), tmp_path / "store"), ImageStore(store), Proposals(k=200))
    assert file.about["workers"] == 1


# A study


METHODS = {
    "soco": {"target": "baselines.soco.SoCo", "params": {"proposals": "selective_search"}},
    "random_boxes": {"target": "baselines.soco.SoCo"},
    "moco_v2": {"target": "baselines.moco_v2.MoCoV2"},
}
PLACES = {"methods": METHODS, "compare": [*METHODS], "ablations": {}, "pretrain.batch_size": 4, "transfers": {}}


def test_a_study_has_one_file_for_equal_settings_and_another_for_others():
    assert not loaded().proposals
    study = loaded(PLACES)
    named = [run for run in study.runs.values() if run.config.takes_proposals]
    assert study.proposals == {proposals_file(Proposals(), study.store): named[0].id}
    assert len(named) == 2  # seeds
    finer = METHODS["soco"] | {"pretrain": {"proposals": {"k": 100}}}
    both = loaded(PLACES | {"methods": {**METHODS, "finer": finer}, "compare": [*METHODS, "finer"]})
    assert len(both.proposals) == 2
    assert set(study.proposals) < set(both.proposals)


def test_the_estimate_prices_the_search_once_by_pixels():
    study = loaded(PLACES)
    source = Source("by hand", {"proposals": 2.0, "start of a job": 1.0}, "cpu")
    (job,) = (job for job in estimate.jobs(study, [source]) if job.stage == "proposals")
    assert job.seconds == pytest.approx(8 * 64 * 64 / 1e6 * 2 + 1)
    assert job.run == study.proposals[proposals_file(Proposals(), study.store)]
    assert not job.done
    (job,) = (job for job in estimate.jobs(study, []) if job.stage == "proposals")
    assert job.seconds is None
    header = estimate.table(study, [job])[0]
    assert header.split()[2:4] == ["proposals", "pretrain"]
    assert "proposals" not in estimate.table(loaded(), [])[0]


def test_the_cost_that_documents_and_rates_state_was_measured():
    measured = json.loads((ROOT / "results/reference/benchmarks/proposals.json").read_text())
    each = {size: measured[size]["core_seconds_per_million_pixels"] for size in ("128x128", "341x256")}
    rate = json.loads((ROOT / "results/reference/rates.json").read_text())["seconds"]["proposals"]
    assert rate == round(each["341x256"], 2)
    text = " ".join((ROOT / "docs/performance.md").read_text(encoding="utf-8").split())
    assert f"takes {each['128x128']:.2f} s of one core" in text
    assert f"and {rate:.2f} s of scenes of 341 x 256" in text
    assert f"take {118_287 * 640 * 480 * (256 / 480) ** 2 / 1e6 * rate / 3600:.1f} hours of one core" in text
    kept = [measured[size]["boxes"] / measured[size]["images"] for size in each]
    assert "keeps {:.0f} and {:.0f} boxes of an image".format(*kept) in text


def test_settings_of_the_search_name_only_runs_that_change_them():
    config = make_settings("soco")
    assert run_digest(config) == run_digest(dataclasses.replace(config, proposals=Proposals(k=300)))
    assert run_digest(config) != run_digest(dataclasses.replace(config, proposals=Proposals(k=301)))


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="aspect"):
        build(Proposals, {"aspect": 0.5}, "pretrain.proposals")
    with pytest.raises(ConfigError, match="give the smaller number first"):
        build(Proposals, {"size": [0.8, 0.3]}, "pretrain.proposals")


@pytest.mark.slow
def test_snakemake_plans_the_search_once_and_refuses_to_begin_without_the_library(tmp_path):
    values = small()
    orl = {"target": "baselines.orl.ORL", "pretrain": {"pairs": {"method": "byol"}, "each_view": ORL_VIEWS}}
    methods = {"random": {}, "soco": METHODS["soco"], "byol": {"target": "baselines.byol.BYOL"}, "orl": orl}
    values |= {"methods": methods, "compare": ["random", "soco", "orl"], "seeds": [0, 1]}
    study = write(tmp_path / "study.yaml", values | {"ablations": {}, "transfers": {}, "common": {"dim": 8}})
    found, output = plan(tmp_path, study)
    assert found["proposals"] == 1
    assert found["pairs"] == 2  # after BYOL, which is not compared
    assert found["pretrain"] == 8
    if importlib.util.find_spec("cv2"):
        pytest.skip("OpenCV is installed")
    assert "needs opencv-contrib-python-headless" in output  # a plan says so, a run stops there
    refused = snakemake(tmp_path, study, check=False)
    assert "needs opencv-contrib-python-headless" in refused.splitlines()[-1]
    assert not Path(tmp_path / "results" / "data").is_dir() or not list(
        Path(tmp_path, "results/data").glob("scenes-*")
    )


def test_a_method_that_does_not_say_how_many_boxes_it_takes_is_refused(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "few_boxes.py").write_text(
        "class Few:\n"
        "    def __init__(self, backbone, *, proposals: str = 'selective_search'): ...\n"
        "    def step(self, view1, view2, progress): ...\n"
    )
    with pytest.raises(ConfigError, match=r"methods.few.params.proposals: few_boxes.Few has no parameter 'boxes'"):
        loaded(PLACES | {"methods": {**METHODS, "few": {"target": "few_boxes.Few"}}, "compare": ["few"]})


def test_the_shipped_study_trains_soco_on_both_kinds_of_boxes():
    from mlssl.study.load import load

    study = load(ROOT / "config" / "competitors_proposals.yaml")
    params = {m: study.runs[run].config.params for m, run in study.compared.items() if m.startswith("soco")}
    assert {name: values.pop("proposals") for name, values in params.items()} == {
        "soco_random_boxes": "random",
        "soco": "selective_search",
        "soco_fpn": "selective_search",
    }
    assert params["soco"] == params["soco_random_boxes"]
    assert params["soco_fpn"] == params["soco"] | {"pyramid": 64, "box_head": 256}
    assert study.runs[study.compared["soco"]].config.proposals == Proposals()
