"""ORL: its filter of boxes, its pairs, its views, its loss, and the stages of a study."""

import dataclasses
import itertools
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from support.boxes import ORL_VIEWS, with_random_pairs, write_proposals
from support.results import put
from support.snakemake import ROOT, plan, small, write
from support.study import loaded
from test_engine import assert_same, make_settings, store, train  # noqa: F401
from torchvision.transforms.v2.functional import resized_crop

from baselines.byol import BYOL, regression
from baselines.orl import ORL
from mlssl import cli, tensors
from mlssl.analysis import collect
from mlssl.cost import estimate, rates
from mlssl.cost.rates import Source as Rates
from mlssl.cost.rates import key
from mlssl.cost.speed import Trainer
from mlssl.cost_benchmark import table
from mlssl.cost_benchmark.measure import share_of_steps
from mlssl.data import selective_search
from mlssl.data.augment import gpu
from mlssl.data.augment.regions import LEAST_IOU, moved
from mlssl.data.loader import Steps
from mlssl.data.pairs import PairFile, described, read_pairs_about, write_pairs
from mlssl.data.selective_search import apart, kept, overlaps
from mlssl.data.store import ImageStore
from mlssl.errors import ConfigError, DataError
from mlssl.page.provenance import runs_table
from mlssl.parts.backbone import create_backbone
from mlssl.parts.view import View
from mlssl.pretrain.pairs import BATCH, boxes_of, centres, cut, find_pairs, nearest, paired
from mlssl.pretrain.prepare import identified
from mlssl.pretrain.trained import features, read_run
from mlssl.study.identity import run_digest
from mlssl.study.load import load
from mlssl.study.progress import Progress
from mlssl.study.settings import Proposals
from mlssl.study.sources import Source
from mlssl.study.validation import plain

CPU = torch.device("cpu")
ORLS_FILTER = Proposals(
    strategy="fast", k=150, sigma=0.8, size=(0.01, 1.0), least_side=0.2, most_overlap=0.5, at_most=100
)
PARAMS = {"dim": 8, "hidden": 8}


def settings(**changes):
    values = {"target": "baselines.orl.ORL", "params": PARAMS, "each_view": ORL_VIEWS}
    values["pairs"] = {"method": "byol", "neighbours": 3, "share": 0.5}
    return make_settings("orl", **values | changes)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def made(store, tmp_path):  # noqa: F811
    """Settings with files of random boxes and pairs, the store, and the two files."""
    (tmp_path / "store").symlink_to(store)
    config, boxes, pairs = with_random_pairs(settings(), tmp_path / "store", tmp_path)
    return config, ImageStore(tmp_path / "store"), boxes, pairs


# The filter of boxes


def test_the_published_filter_by_hand():
    """Of COCO's 480 pixels, 96 are 0.2; A and B overlap by 8100 of 11900."""
    a, b, c, d = [0, 0, 100, 100], [10, 10, 100, 100], [100, 0, 100, 100], [0, 0, 95, 300]
    assert overlaps(np.array(a), np.array([b, c, a])).tolist() == pytest.approx([0.6807, 0, 1], abs=1e-4)
    assert kept(np.array([a, b, c, d]), 640, 480, ORLS_FILTER)[0].tolist() == [a, c]
    whole, rule = kept(np.array([d]), 640, 480, ORLS_FILTER)
    assert (whole.tolist(), selective_search.RULES[rule]) == ([[0, 0, 640, 480]], "whole image")
    narrow = np.array([[0, 0, 96, 288], [100, 0, 96, 289]])
    assert kept(narrow, 640, 480, ORLS_FILTER)[0].tolist() == [[0, 0, 96, 288]]


def test_boxes_are_kept_apart_as_by_a_slow_loop_from_the_smallest():
    rng = np.random.default_rng(0)
    boxes = np.concatenate([rng.integers(0, 60, (200, 2)), rng.integers(1, 60, (200, 2))], axis=1)
    taken = []
    for box in sorted(boxes.tolist(), key=lambda b: b[2] * b[3]):
        mask = np.zeros((130, 130, len(taken) + 1), dtype=bool)
        for n, (x, y, w, h) in enumerate([*taken, box]):
            mask[y : y + h, x : x + w, n] = True
        both, either = (mask & mask[..., -1:]).sum((0, 1)), (mask | mask[..., -1:]).sum((0, 1))
        if (both[:-1] / either[:-1] <= 0.3).all():
            taken.append(box)
    assert 10 < len(taken) < 100
    assert boxes[apart(boxes, 0.3, None)].tolist() == sorted(taken, key=boxes.tolist().index)
    assert boxes[apart(boxes, 0.3, 7)].tolist() == sorted(taken[:7], key=boxes.tolist().index)
    assert apart(boxes, 1.0, None).all()


def test_both_strategies_of_opencv_find_boxes():
    cv2 = pytest.importorskip("cv2", reason="opencv-contrib-python-headless is not installed")
    if not hasattr(cv2, "ximgproc"):
        pytest.skip("OpenCV is installed without its contributed modules")
    pixels = np.full((120, 160, 3), 90, dtype=np.uint8)
    pixels[30:90, 40:120] = (200, 40, 40)
    found = [selective_search.search(pixels, Proposals(strategy=how)) for how in ("single", "fast")]
    for boxes in found:
        assert (abs(boxes - np.array([40, 30, 80, 60])) <= 2).all(axis=1).any()
    assert len(found[1]) >= len(found[0])


# Moved boxes


def test_a_moved_box_is_inside_and_overlaps_or_is_the_box_itself():
    rng = torch.Generator().manual_seed(0)
    sizes = torch.tensor([[90, 120]]).expand(400, 2)
    box = torch.cat(
        [torch.randint(0, 40, (400, 2), generator=rng), torch.randint(8, 50, (400, 2), generator=rng)], 1
    )
    found = moved(box, sizes, rng)
    changed = (found != box).any(dim=1)
    assert changed.float().mean() > 0.9
    for (x, y, w, h), (a, b, c, d), new in zip(found.tolist(), box.tolist(), changed.tolist(), strict=True):
        assert 0 <= x < x + w <= 120
        assert 0 <= y < y + h <= 90
        both = max(0, min(x + w, a + c) - max(x, a)) * max(0, min(y + h, b + d) - max(y, b))
        assert both / (w * h + c * d - both) > LEAST_IOU or not new
    shares = (found[:, 2] * found[:, 3]) / (box[:, 2] * box[:, 3])
    assert 0.5 < shares.min() < 0.7
    assert 1.4 < shares.max() < 2.1


def test_a_box_as_wide_as_its_image_that_no_draw_fits_stays():
    box = torch.tensor([[0, 0, 300, 2]])
    assert torch.equal(moved(box, torch.tensor([[2, 300]]), torch.Generator().manual_seed(0)), box)


# Neighbours and pairs


def test_pairs_by_hand():
    """Similarities .9 .1 / .2 .8: a tenth of two boxes is one pair, of twenty two."""
    theirs = torch.tensor([[0.9, 0.2], [0.1, 0.8]])
    g = torch.cat([torch.eye(2), theirs])
    count, rows = paired(g, torch.tensor([2, 2]), torch.tensor([[1], [0]]), 0.1)
    assert count.tolist() == [[1], [1]]
    assert rows.tolist() == [[0, 0], [0, 0]]
    twenty = torch.cat([torch.eye(2), torch.zeros(18, 2), theirs])
    count, rows = paired(twenty, torch.tensor([20, 2]), torch.tensor([[1], [0]]), 0.1)
    assert count.tolist() == [[2], [1]]
    assert rows.tolist() == [[0, 0], [1, 1], [0, 0]]


def test_pairs_are_those_of_a_slow_loop():
    rng = torch.Generator().manual_seed(0)
    number = [3, 1, 5, 2]
    each = [torch.nn.functional.normalize(torch.randn(n, 6, generator=rng), dim=1) for n in number]
    neighbours = [[2, 1], [0, 3], [3, 0], [1, 2]]
    count, rows = paired(torch.cat(each), torch.tensor(number), torch.tensor(neighbours), 0.5)
    expected = []
    for i, others in enumerate(neighbours):
        for place, other in enumerate(others):
            cosines = {
                (a, b): float(each[i][a] @ each[other][b])
                for a, b in itertools.product(range(number[i]), range(number[other]))
            }
            best = sorted(cosines, key=cosines.get, reverse=True)[: max(1, math.floor(0.5 * number[i]))]
            assert count[i, place] == len(best)
            expected += best
    assert [tuple(row) for row in rows.tolist()] == expected


def test_no_image_is_its_own_neighbour_even_if_another_is_the_same():
    z = torch.nn.functional.normalize(torch.randn(1500, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    z[1200] = z[3]
    found = nearest(z, 5)
    assert found[3, 0] == 1200
    assert found[1200, 0] == 3
    assert not (found == torch.arange(1500)[:, None]).any()
    cosine = (z @ z.T).fill_diagonal_(-2)
    torch.testing.assert_close(cosine.gather(1, found), cosine.sort(dim=1, descending=True).values[:, :5])


@pytest.fixture(scope="module")
def first_stage(store, tmp_path_factory):  # noqa: F811
    """The folder of a trained BYOL."""
    out = tmp_path_factory.mktemp("byol")
    train(make_settings("byol"), store, out)
    return out


def test_the_pairs_of_a_trained_network_are_those_of_its_embeddings(first_stage, store, tmp_path):  # noqa: F811
    (tmp_path / "store").symlink_to(store)
    images, run = ImageStore(tmp_path / "store"), read_run(first_stage / "checkpoint.pt")
    config = dataclasses.replace(
        settings(), pairs_id=run_digest(run.config), pairs_file=str(tmp_path / "pairs.npz")
    )
    rng = np.random.default_rng(1)
    given = [[[*rng.integers(0, 12, 2).tolist(), 20, 22] for _ in range(1 + i % 4)] for i in range(len(images))]
    boxes = write_proposals(images, config.proposals, given)
    assert len([*boxes_of(images, boxes)]) % BATCH  # the last batch is not full
    find_pairs(run, images, boxes, config, CPU)

    encoder = run.encoders(CPU)[0]

    def embed(i, box):
        x, y, w, h = box
        pixels = resized_crop(images.image(i).permute(2, 0, 1), y, x, h, w, [32, 32], antialias=True) / 255
        mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        with torch.no_grad():
            g, z = features(encoder, ((pixels - mean) / std)[None])
        return torch.nn.functional.normalize(g[0], dim=0), torch.nn.functional.normalize(z[0], dim=0)

    whole = {i: box for i, box in centres(images)}
    assert whole[1] == [(40 - 32) // 2, (37 - 32) // 2, 32, 32]  # of an image of 40 x 37 pixels
    z = torch.stack([embed(i, whole[i])[1] for i in range(len(images))])
    with np.load(tmp_path / "pairs.npz") as file:
        neighbours, count, rows = (file[name] for name in ("neighbours", "count", "rows"))
    cosine = (z @ z.T).fill_diagonal_(-2)
    for i, others in enumerate(neighbours):
        best = cosine[i].topk(3).values
        torch.testing.assert_close(cosine[i, torch.from_numpy(others).long()], best, atol=1e-5, rtol=0)
    g = [torch.stack([embed(i, box)[0] for box in image]) for i, image in enumerate(given)]
    place = 0
    for i, (others, numbers) in enumerate(zip(neighbours, count, strict=True)):
        for other, number in zip(others, numbers, strict=True):
            assert number == max(1, len(given[i]) // 2)
            similar = g[i] @ g[other].T
            chosen = torch.stack([similar[tuple(row)] for row in rows[place : place + number].astype(int)])
            torch.testing.assert_close(chosen, similar.flatten().topk(number).values, atol=2e-3, rtol=0)
            place += number
    assert place == len(rows)

    before = (tmp_path / "pairs.npz").read_bytes()
    find_pairs(run, images, boxes, config, CPU)  # finished: nothing is done again
    assert (tmp_path / "pairs.npz").read_bytes() == before
    about = read_pairs_about(tmp_path / "pairs.npz")
    assert (about["run"], about["pairs"], about["images"]) == ("run", len(rows), 20)
    assert "mlssl/pretrain/pairs.py" in about["code"]


def test_another_network_and_too_few_images_are_refused(first_stage, made):
    config, images, boxes, _ = made
    run = read_run(first_stage / "checkpoint.pt")
    with pytest.raises(ConfigError, match=r"checkpoint.pt: is run, not the run of byol with seed 0"):
        find_pairs(run, images, boxes, config, CPU)
    config = dataclasses.replace(config, pairs_id=run_digest(run.config))
    with pytest.raises(ConfigError, match="not the run of byol with seed 1"):
        find_pairs(run, images, boxes, dataclasses.replace(config, seed=1), CPU)
    many = dataclasses.replace(config, pairs=dataclasses.replace(config.pairs, neighbours=20))
    with pytest.raises(ConfigError, match="neighbours: 20 of 20 images are too many; give less"):
        find_pairs(run, images, boxes, many, CPU)
    with pytest.raises(ConfigError, match="byol has none, so there is nothing to find"):
        find_pairs(run, images, boxes, run.config, CPU)


def test_a_file_of_something_else_is_refused(made, tmp_path):
    config, _, boxes, pairs = made
    for changed, why in [
        (dataclasses.replace(config, pairs_id="other"), "network network, not other"),
        (dataclasses.replace(config, seed=1), "seed 0, not 1"),
        (dataclasses.replace(config, pairs=dataclasses.replace(config.pairs, neighbours=2)), "settings"),
    ]:
        with pytest.raises(DataError, match=f"was made with .*{why}.*`mlssl pairs` makes it again"):
            PairFile(pairs.path, changed, boxes)
    with pytest.raises(DataError, match=r"none.npz: no such file; make it with `mlssl pairs`"):
        PairFile(tmp_path / "none.npz", config, boxes)
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(DataError, match=r"text.npz: is no file of pairs"):
        PairFile(tmp_path / "text.npz", config, boxes)
    with np.load(pairs.path) as file:
        values = dict(file)
    values["rows"] = values["rows"][::-1]
    np.savez(tmp_path / "turned.npz", **values)
    with pytest.raises(DataError, match="its pairs are not those that were written"):
        PairFile(tmp_path / "turned.npz", config, boxes)


# What is drawn of them


def test_a_drawn_pair_is_in_the_file_and_all_are_drawn(made):
    _, images, boxes, pairs = made
    with np.load(pairs.path) as file:
        neighbours, count, rows = (file[name].astype(int) for name in ("neighbours", "count", "rows"))
    first = np.concatenate([[0], count.flatten().cumsum()[:-1]]).reshape(count.shape)
    listed = {
        (i, other, *map(int, rows[start + j]))
        for i, others in enumerate(neighbours)
        for other, start, number in zip(others.tolist(), first[i], count[i], strict=True)
        for j in range(number)
    }
    everyone = torch.arange(len(images))
    places = {}
    for i in range(len(images)):
        image = torch.tensor([i])
        for row in range(int(boxes.count(image))):
            places.setdefault((i, *boxes.rows(image, torch.tensor([row]))[0].tolist()), set()).add(row)
    seen = set()
    rng = torch.Generator().manual_seed(0)
    for _ in range(200):
        found = pairs.draw(everyone, rng)
        for i, box, other, its in zip(*(x.tolist() for x in (everyone, *found)), strict=True):
            mine, theirs = places[(i, *box)], places[(other, *its)]
            hit = {(i, other, a, b) for a in mine for b in theirs} & listed
            assert hit
            seen |= hit
    assert seen == listed


def test_the_views_show_the_boxes_resized_without_a_crop(made):
    config, images, boxes, pairs = made
    plain_views = {"jitter_p": 0.0, "grayscale_p": 0.0, "blur_p": 0.0, "flip_p": 0.0}
    config = dataclasses.replace(config, each_view=tuple(view | plain_views for view in ORL_VIEWS))
    view1, view2, box, moved_box, pair, other = Steps(images, config, CPU, proposals=boxes, pairs=pairs)[0]
    for view in (view1, view2, box, moved_box, pair):
        assert torch.equal(view.image, view1.image)
    assert not (other.image == view1.image).any()
    assert not torch.equal(box.box, view1.box)
    for view in (box, pair, other):
        for pixels, image, place in zip(view.pixels, view.image.tolist(), view.box.tolist(), strict=True):
            rows = boxes.batch(torch.tensor([image]))[0][0].tolist()
            x, y, w, h = place
            assert [x, y, x + w, y + h] in rows
            expected = cut(images.image(image), place, 32) / 255
            mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
            torch.testing.assert_close(pixels, (expected - mean) / std, atol=0.02, rtol=0)
    assert (moved_box.box != box.box).any()


def test_colours_and_crops_are_those_of_other_methods_and_ranks_share_a_batch(made):
    config, images, boxes, pairs = made
    whole = Steps(images, config, CPU, proposals=boxes, pairs=pairs)[2]
    half = Steps(images, config, CPU, slice(2, 4), boxes, pairs)[2]
    for a, b in zip(whole, half, strict=True):
        for one, part in zip(a[:4], b[:4], strict=True):
            assert torch.equal(one[2:4], part)
    alone = Steps(images, make_settings("byol"), CPU)[2]
    for a, b in zip(whole, alone, strict=False):
        assert_same(tuple(a), tuple(b))


def test_the_path_for_a_gpu_shows_the_same_boxes(made, monkeypatch):
    config, images, boxes, pairs = made
    on_cpu = Steps(images, config, CPU, proposals=boxes, pairs=pairs)[1]
    from mlssl.data.augment import views as module

    def elsewhere(images, index, views, rng, device, **more):
        return real(images, index, views, rng, SimpleDevice(), **more)

    class SimpleDevice:
        type = "elsewhere"

    real = module.make_views
    monkeypatch.setattr(gpu, "upload", lambda tensors, device: tensors)
    padded = gpu.padded
    monkeypatch.setattr(gpu, "padded", lambda images, boxes, device: padded(images, boxes, CPU))
    monkeypatch.setattr("mlssl.data.loader.make_views", elsewhere)
    found = Steps(images, config, CPU, proposals=boxes, pairs=pairs)[1]
    for a, b in zip(on_cpu, found, strict=True):
        assert torch.equal(a.image, b.image)
        assert torch.equal(a.box, b.box)
        assert (a.pixels - b.pixels).abs().mean() < 0.01  # a CPU rounds crops to bytes


# The loss


def views_of(*pixels):
    n = len(pixels[0])
    zero = torch.zeros(n, dtype=torch.long), torch.zeros(n, 4, dtype=torch.long), torch.zeros(n, dtype=torch.bool)
    return [View(x, *zero) for x in pixels]


def test_with_one_predictor_and_the_crops_as_boxes_the_loss_is_three_times_byols():
    torch.manual_seed(0)
    method = ORL(create_backbone("test_resnet"), **PARAMS)
    torch.manual_seed(0)
    byol = BYOL(create_backbone("test_resnet"), **PARAMS)
    for predictor in method.predictor:
        predictor.load_state_dict(byol.predictor.state_dict())
    byol.encoders.load_state_dict(method.encoders.state_dict())
    one, two = views_of(torch.randn(4, 3, 32, 32), torch.randn(4, 3, 32, 32))
    parts = method.step(one, two, one, two, one, two, progress=0.3)
    torch.testing.assert_close(parts["loss"], 3 * byol.step(one, two, progress=0.3)["loss"])


def test_each_part_is_byols_regression_by_its_own_predictor():
    torch.manual_seed(0)
    method = ORL(create_backbone("test_resnet"), momentum=1.0, **PARAMS)
    views = views_of(*(torch.randn(4, 3, 32, 32) for _ in range(6)))
    parts = method.step(*views, progress=0.0)
    online, target = method.encoders.query, method.encoders.key
    for at, (name, predictor) in enumerate(zip(("global", "intra", "inter"), method.predictor, strict=True)):
        a, b = views[2 * at : 2 * at + 2]
        z = [online(v.pixels)[1] for v in (a, b)]
        t = [target(v.pixels)[1] for v in (a, b)]
        expected = regression(predictor(z[0]), predictor(z[1]), *t)
        torch.testing.assert_close(parts[name], expected.detach())
    torch.testing.assert_close(parts["loss"].detach(), parts["global"] + parts["intra"] + parts["inter"])
    parts["loss"].backward()
    assert all(p.grad is not None for p in [*online.parameters(), *method.predictor.parameters()])
    assert all(p.grad is None for p in target.parameters())


def test_a_killed_run_ends_bit_for_bit_as_if_it_had_not_been(made, tmp_path, monkeypatch):
    config, images, _, _ = made
    whole = train(config, images.path, tmp_path / "whole")
    resumed = train(config, images.path, tmp_path / "resumed", kill_after=3, monkeypatch=monkeypatch)
    for values in (whole, resumed):
        values.pop("seconds")
        values.pop("log")  # holds rates
    assert_same(whole, resumed)
    notes = json.loads((tmp_path / "whole" / "pretrain.json").read_text())["header"]["notes"]
    assert notes["pairs"]["run"] == "by hand"
    assert notes["pairs"]["network"] == "network"
    assert notes["proposals"]["boxes"] > 20


def test_a_run_does_not_resume_with_pairs_that_were_found_again(made, tmp_path, monkeypatch):
    config, images, boxes, pairs = made

    class FoundAgain(Exception):
        pass

    def save_then_pair(path, values, **how):
        save(path, values, **how)
        raise FoundAgain

    save = tensors.save
    with monkeypatch.context() as patch, pytest.raises(FoundAgain):
        patch.setattr(tensors, "save", save_then_pair)
        train(config, images.path, tmp_path / "run")
    with np.load(pairs.path) as file:
        neighbours, count, rows = (file[name] for name in ("neighbours", "count", "rows"))
    pairs.path.unlink()
    about = {
        **described(config, boxes),
        "run": "again",
        "images": len(images),
        "run_seconds": 2.0,
        "seconds": 1.0,
        "device": "cpu",
    }
    write_pairs(pairs.path, neighbours, count, rows * 0, about)
    with pytest.raises(DataError, match="was trained on other images, or boxes of them, than there are now"):
        train(config, images.path, tmp_path / "run")


def test_a_run_without_its_file_is_refused_before_training(made, tmp_path):
    config, images, _, pairs = made
    with pytest.raises(
        ConfigError, match=r"pairs_file: pairs need it; give the file that `mlssl pairs` has written"
    ):
        train(dataclasses.replace(config, pairs_file=None), images.path, tmp_path / "run")
    pairs.path.unlink()
    with pytest.raises(DataError, match=r"pairs-.*.npz: no such file; make it with `mlssl pairs`"):
        train(config, images.path, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoint.pt").exists()


def test_a_step_can_be_timed_without_files():
    parts = {}
    trainer = Trainer(
        settings(data={"root": "x", "short_side": 48, "images_id": "i", "data_id": "d"}), CPU, batch=2
    )
    trainer.module.register_forward_hook(lambda *_: parts)
    assert trainer.seconds() > 0


# Settings and studies


def test_views_with_pairs_need_their_settings_and_the_other_way_round():
    for changes in ({"pairs": None}, {"each_view": [{}, {}]}):
        with pytest.raises(ConfigError, match="pairs: views with the region pair or pair_of_neighbour need it"):
            settings(**changes)
    alone = settings(pairs=None, each_view=[{}, {"region": "box"}], target="baselines.byol.BYOL")
    assert alone.takes_proposals
    assert not alone.takes_pairs
    with pytest.raises(ConfigError, match="region"):
        settings(each_view=[{}, {"region": "bocks"}])


METHODS = {
    "byol": {"target": "baselines.byol.BYOL"},
    "orl": {"target": "baselines.orl.ORL", "pretrain": {"pairs": {"method": "byol"}, "each_view": ORL_VIEWS}},
    "moco_v2": {"target": "baselines.moco_v2.MoCoV2"},
}
PLACES = {"methods": METHODS, "compare": ["moco_v2", "orl"], "ablations": {}, "pretrain.batch_size": 4}
PLACES |= {"transfers": {"linear": {"runs": "all"}}}


def of(study, method):
    return [run for run in study.runs.values() if run.config.method == method]


def test_a_study_brings_the_first_stage_of_each_seed_and_does_not_evaluate_it():
    study = loaded(PLACES)
    assert [len(of(study, method)) for method in METHODS] == [2, 2, 2]
    for run in of(study, "orl"):
        first = study.runs[run.first_stage]
        assert (first.config.method, first.config.seed) == ("byol", run.config.seed)
        assert run.config.pairs_id == first.digest
        assert Path(run.config.pairs_file).parent == study.out / "runs" / first.id
        assert Path(run.config.pairs_file) in study.pairs
    evaluated = {study.runs[run].config.method for run in study.transfer_runs["linear"]}
    assert evaluated == {"moco_v2", "orl"}
    assert {cell.level for cell in study.cells} == {"moco_v2", "orl"}
    both = loaded(PLACES | {"compare": ["byol", "orl"]})
    assert len(both.runs) == 4  # compared, the first stage is the same run
    assert not loaded().pairs


def test_images_are_counted_as_often_for_many_levels_as_for_one(monkeypatch):
    calls, count = [], Source.images

    def counted(self):
        calls.append(self)
        return count(self)

    monkeypatch.setattr(Source, "images", counted)
    numbers = []
    for compared in (["moco_v2"], ["moco_v2", "byol", "orl"]):
        calls.clear()
        loaded(PLACES | {"compare": compared})
        numbers.append(len(calls))
    assert numbers[0] == numbers[1]


def test_a_run_is_named_by_its_first_stage_and_by_what_is_paired():
    def digest(**changed):
        methods = {**METHODS, "byol": METHODS["byol"] | changed.get("byol", {})}
        methods["orl"] = METHODS["orl"] | {"pretrain": METHODS["orl"]["pretrain"] | changed.get("orl", {})}
        return of(loaded(PLACES | {"methods": methods}), "orl")[0].digest

    names = [
        digest(),
        digest(byol={"params": {"momentum": 0.9}}),
        digest(orl={"pairs": {"method": "byol", "neighbours": 4}}),
        digest(orl={"proposals": {"k": 100}}),
    ]
    assert len(set(names)) == 4
    assert digest() == names[0]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("bjol", "'bjol' is not under methods.*did you mean 'byol'"),
        ("orl", "'orl' trains nothing, trains with labels, or needs pairs itself"),
        ("random", "'random' trains nothing, trains with labels, or needs pairs itself"),
    ],
)
def test_a_first_stage_that_cannot_pair_is_refused(name, why):
    orl = METHODS["orl"] | {"pretrain": METHODS["orl"]["pretrain"] | {"pairs": {"method": name}}}
    with pytest.raises(ConfigError, match=rf"methods.orl.pretrain.pairs.method: {why}"):
        loaded(PLACES | {"methods": {**METHODS, "random": {}, "orl": orl}})


def test_the_estimate_has_the_pairs_and_waits_for_the_first_stage():
    study = loaded(PLACES | {"transfers": {}})
    first = of(study, "byol")[0].config
    source = Rates("by hand", {key("pretrain", run.config.backbone, plain(run.config)): 8.0
                                for run in study.runs.values()}, "cpu")  # fmt: skip
    jobs = estimate.jobs(study, [source])
    pairs = [job for job in jobs if job.stage == "pairs"]
    assert [job.run for job in pairs] == [run.id for run in of(study, "orl")]
    crops = 8 * (1 + rates.BOXES)
    assert pairs[0].seconds == pytest.approx(crops * 8.0 / (estimate.PASSES * first.batch_size))
    steps = first.total_steps(8)
    longest = estimate.wall_clock(jobs, 100, first_stages=study.first_stages)
    assert longest == pytest.approx(2 * 8.0 * steps + pairs[0].seconds)
    assert estimate.table(study, jobs)[0].split()[2:5] == ["proposals", "pairs", "pretrain"]


def collected(study, method):
    """Results of the runs of a method as they come from another machine: without weights."""
    for run in of(study, method):
        put(study, run, "pretrain", [])
        (study.out / "runs" / run.id / "log.jsonl").write_text("")


def test_results_that_were_collected_without_weights_ask_for_no_pairs():
    study = loaded(PLACES | {"transfers": {}, "compare": ["byol", "orl"]})
    assert not any(job.done for job in estimate.jobs(study, []) if job.stage == "pairs")
    collected(study, "byol")
    first = {run.id for run in of(study, "byol")}
    assert not Progress(study).finished("pretrain") & first  # its weights are to pair the boxes of ORL
    collected(study, "orl")
    assert Progress(study).finished("pretrain") == study.runs.keys()
    assert all(job.done for job in estimate.jobs(study, []) if job.stage == "pairs")
    assert not study.pairs_of(study.runs.keys() - Progress(study).finished("pretrain"))


@pytest.mark.slow
def test_snakemake_plans_the_costs_of_collected_results_without_their_weights(tmp_path):
    values = small() | {"methods": METHODS, "compare": ["moco_v2", "byol", "orl"], "seeds": [0]}
    values |= {"ablations": {}, "transfers": {}, "common": {"dim": 8}, "cost_benchmark": {}, "pictures": None}
    path = write(tmp_path / "study.yaml", values)
    study = load(path)
    for method in METHODS:
        collected(study, method)
    found, _ = plan(tmp_path, path)
    assert found["cost_benchmark"] == 1
    assert not {"pairs", "pretrain"} & found.keys()


def test_the_cost_of_a_first_stage_is_added_to_a_step():
    first, config = make_settings("byol", steps=6), settings(steps=3)
    assert share_of_steps(first, config) == 2
    longer = dataclasses.replace(first, steps=None, epochs=8.0, batch_size=8)
    assert share_of_steps(longer, dataclasses.replace(config, steps=None, epochs=2.0)) == 2
    assert math.isnan(share_of_steps(longer, config))
    costs = pd.DataFrame(
        {"relative": {"orl": 2.0, "moco_v2": 1.0}, "first_stage": {"orl": 1.5, "moco_v2": math.nan}}
    )
    assert table.with_first_stage(costs).to_dict() == {"orl": 3.5, "moco_v2": 1.0}
    assert table.with_first_stage(costs[["relative"]]).to_dict() == {"orl": 2.0, "moco_v2": 1.0}
    text = table.before({"orl": {"first_stage": 1.5, "pairs_s": 12.3}, "moco_v2": {}})
    sentence = (
        "The number after the + is the training of the network that pairs boxes for orl; the pairing took 12 s."
    )
    assert text == f" {sentence}"


def test_the_minutes_of_a_run_are_those_of_all_its_stages():
    header = {"wall_s": 60.0, "notes": {"pairs": {"seconds": 30.0, "run_seconds": 90.0}}}
    result = SimpleNamespace(stage="pretrain", content={"header": header, "rows": []}, header=header)
    assert collect.rows_of(result)[0]["value"] == 3.0
    header["notes"].pop("pairs")
    assert collect.rows_of(result)[0]["value"] == 1.0


def test_the_page_lists_the_runs_of_the_first_stage():
    study = loaded(PLACES)
    table = runs_table(study, pd.DataFrame({"run": [], "metric": [], "status": []}))
    places = {row[0].text: row[1].text for row in table.rows}
    for run in of(study, "orl"):
        assert places[run.id] == "method = orl"
        assert places[run.first_stage] == f"first stage of {run.id}"


def test_the_shipped_study_trains_orl_after_byol_on_the_published_filter():
    study = load(ROOT / "config" / "competitors_proposals.yaml")
    orl = of(study, "orl")
    assert len(orl) == len(study.seeds)
    for run in orl:
        assert study.runs[run.first_stage].config.method == "byol"
        assert run.config.proposals == ORLS_FILTER
        assert [view.region for view in run.config.view_set()] == [view.get("region", "crop") for view in ORL_VIEWS]
    assert len(study.proposals) == 2  # those of SoCo, those of ORL


def test_the_command_pairs_by_the_checkpoint_of_the_first_stage(first_stage, made, tmp_path, monkeypatch):
    config, images, _, _ = made
    run = read_run(first_stage / "checkpoint.pt")
    config = dataclasses.replace(config, pairs_id=None, pairs_file=str(tmp_path / "found.npz"))
    (tmp_path / "run.yaml").write_text(json.dumps(plain(config)))
    words = ["mlssl", "pairs", "--config", str(tmp_path / "run.yaml"), "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit):  # needs a store and a checkpoint
        cli.main()
    more = ["--store", str(images.path), "--checkpoint", str(first_stage / "checkpoint.pt")]
    monkeypatch.setattr(sys, "argv", [*words, *more])
    assert cli.main() == 0
    assert read_pairs_about(tmp_path / "found.npz")["pairs"] > 0
    assert identified(config).pairs_id == run_digest(run.config)
