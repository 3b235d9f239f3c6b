"""What a method is given: the number of views, their sizes, and the augmentation of each of them."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torchvision.transforms.functional as TF
from support.study import loaded

from mlssl.cost.rates import mean_crop
from mlssl.data.augment import cpu, gpu, operations
from mlssl.data.augment.parameters import crop_boxes, draw, intersection
from mlssl.data.augment.views import make_views
from mlssl.data.loader import Steps
from mlssl.errors import ConfigError
from mlssl.study.identity import run_digest
from mlssl.study.methods import check_views, constructor
from mlssl.study.settings import Pretrain, Views
from mlssl.study.validation import build, plain

N = 12
CPU = torch.device("cpu")
SIZES = torch.tensor([[50, 70]]).expand(N, 2)
BYOL = ({"blur_p": 1.0}, {"blur_p": 0.1, "solarise_p": 0.2})
MULTI_CROP = ({}, {}, *({"crop": 32, "scale": [0.05, 0.14], "overlap": 0.1, "overlap_view": 2},) * 4)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def images(height=50, width=70):
    return list(torch.randint(0, 256, (N, height, width, 3), dtype=torch.uint8, generator=rng()))


def pretrain(*each_view, **changes):
    values = {"data": {"root": "x", "images_id": "i"}, "method": "m", "views": {"crop": 48}} | changes
    return build(Pretrain, values | ({"each_view": list(each_view)} if each_view else {}), "pretrain")


# Operations and parameters


def test_solarise_is_torchvisions():
    x = torch.rand(3, 3, 9, 9, generator=rng())
    x[0, 0, 0, :3] = torch.tensor([0.0, 0.5, 1.0])
    before = x.clone()
    assert torch.equal(operations.solarise(x), TF.solarize(x, 0.5))
    assert operations.solarise(x)[0, 0, 0, :3].tolist() == [0.0, 0.5, 0.0]
    assert torch.equal(x, before)


def test_solarise_comes_after_the_blur_on_every_path(monkeypatch):
    monkeypatch.setattr(cpu, "compiled", lambda function: function)
    p = draw(SIZES, Views(crop=32, solarise_p=0.5, blur_p=0.5), rng(1))
    plain_ones = replace(p, solarise=None)
    assert 0 < p.solarise.sum() < N
    assert (p.solarise & p.blur).any()
    mean, std = (torch.tensor(values)[:, None, None] for values in (operations.MEAN, operations.STD))
    stacked = torch.stack(images()).permute(0, 3, 1, 2)
    for make, raw in ((cpu.one_by_one, images()), (cpu.in_chunks, images()), (gpu.augment, stacked)):
        solarised, without = make(raw, p, 32), make(raw, plain_ones, 32)
        expected = (TF.solarize((without * std + mean).clamp(0, 1), 0.5) - mean) / std
        chosen = p.solarise[:, None, None, None]
        difference = (torch.where(chosen, expected, without) - solarised).abs()
        assert (difference > 1e-4).float().mean() < 1e-4  # a value at the threshold may fall on either side


def test_two_plain_views_are_drawn_as_they_always_were():
    """The random numbers of two views, written out: another order would give other views for a seed."""
    g, found = rng(3), []
    for _ in range(2):
        box = crop_boxes(SIZES, (0.2, 1.0), (3 / 4, 4 / 3), g)
        flip, jitter = torch.rand(N, generator=g) < 0.5, torch.rand(N, generator=g) < 0.8
        order = torch.rand(N, 4, generator=g).argsort(dim=1)
        ranges = ((0.6, 1.4), (0.6, 1.4), (0.6, 1.4), (-0.1, 0.1))
        factors = torch.stack([torch.empty(N).uniform_(*r, generator=g) for r in ranges], dim=1)
        gray, blur = torch.rand(N, generator=g) < 0.2, torch.rand(N, generator=g) < 0.5
        sigma = torch.empty(N).uniform_(0.1, 2.0, generator=g)
        found.append((box, flip, jitter, order, factors, gray, blur, sigma))
    g = rng(3)
    for expected in found:
        p = draw(SIZES, Views(), g)
        assert p.solarise is None
        assert all(torch.equal(a, b) for a, b in zip(p.columns().values(), expected, strict=True))


def test_probabilities_of_byols_two_views():
    first, second = pretrain(*BYOL).view_set()
    p, q = (draw(torch.full((4000, 2), 64), views, rng()) for views in (first, second))
    assert p.blur.all()
    assert p.solarise is None
    assert q.blur.float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert q.solarise.float().mean().item() == pytest.approx(0.2, abs=0.02)


def test_the_area_that_boxes_share():
    a = torch.tensor([[0, 0, 10, 10], [0, 0, 10, 10], [5, 5, 4, 2], [0, 0, 3, 3]])
    b = torch.tensor([[5, 6, 10, 10], [10, 0, 5, 5], [0, 0, 20, 20], [7, 7, 2, 2]])
    assert intersection(a, b).tolist() == [20, 0, 8, 0]


def test_overlapping_crops_are_redrawn_until_they_share_enough():
    views = Views(scale=(0.05, 0.14), overlap=0.5)
    sizes = torch.full((3000, 2), 100)
    other = draw(sizes, Views(scale=(0.05, 0.14)), rng(1))
    share = []
    for one in (replace(views, overlap=0.0), views):
        box = draw(sizes, one, rng(2), [other]).box
        share.append(intersection(box, other.box) / (box[:, 2] * box[:, 3]))
    already = share[0] >= 0.5
    assert torch.equal(share[0][already], share[1][already])  # kept as drawn
    p, found = (enough.double().mean().item() for enough in (already, share[1] >= 0.5))
    assert found == pytest.approx(1 - (1 - p) ** 11, abs=0.05)


# The views themselves


def test_a_view_set_is_made_of_these_sizes_and_settings():
    config = pretrain(*MULTI_CROP)
    raw, index = images(), torch.arange(N) + 5
    views = make_views(raw, index, config.view_set(), rng(1), CPU)
    assert [view.pixels.shape[-1] for view in views] == [48, 48, 32, 32, 32, 32]
    assert all(torch.equal(view.image, index) for view in views)
    area = [(view.box[:, 2] * view.box[:, 3]).double().mean() / (50 * 70) for view in views]
    assert min(area[:2]) > 0.3
    assert max(area[2:]) < 0.16
    two = make_views(raw, index, config.view_set()[:2], rng(1), CPU)
    for one, same in zip(two, views[:2], strict=True):  # the first views do not know of later ones
        assert all(torch.equal(a, b) for a, b in zip(one[:4], same[:4], strict=True))


def test_a_part_of_a_batch_has_the_views_of_the_whole():
    config = pretrain(*MULTI_CROP[:3], dict(BYOL[1]))
    raw, index = images(), torch.arange(N)
    whole = make_views(raw, index, config.view_set(), rng(1), CPU)
    part = make_views(raw, index, config.view_set(), rng(1), CPU, part=slice(4, 9))
    for view, piece in zip(whole, part, strict=True):
        assert all(torch.equal(a[4:9], b) for a, b in zip(view[:4], piece[:4], strict=True))


def test_a_device_makes_the_same_view_set_as_a_cpu(monkeypatch):
    """The way of a device, on the CPU: same boxes, flips and, but for the rounding of crops to bytes, pixels."""
    config = pretrain(*MULTI_CROP[:4], dict(BYOL[1]))
    raw, index = [image[: 50 - i] for i, image in enumerate(images())], torch.arange(N)  # of several sizes
    here = make_views(raw, index, config.view_set(), rng(1), CPU)
    padded, upload = gpu.padded, gpu.upload
    monkeypatch.setattr(gpu, "padded", lambda images, boxes, device: padded(images, boxes, CPU))
    monkeypatch.setattr(gpu, "upload", lambda tensors, device: upload(tensors, CPU))
    there = make_views(raw, index, config.view_set(), rng(1), SimpleNamespace(type="device"))
    for one, other in zip(here, there, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one[1:4], other[1:4], strict=True))
        assert one.pixels.shape == other.pixels.shape
        assert ((one.pixels - other.pixels).abs() > 0.05).float().mean() < 0.01  # at the threshold of solarising


def test_the_loader_makes_the_view_set_of_its_run():
    config = pretrain(*MULTI_CROP, batch_size=4)

    class Store:
        def __len__(self):
            return N

        def batch(self, index):
            return [images()[i] for i in index.tolist()]

    views = Steps(Store(), config, CPU)[0]
    assert [tuple(view.pixels.shape) for view in views] == [(4, 3, side, side) for side in (48, 48, 32, 32, 32, 32)]


# The settings


def test_plain_views_do_not_name_a_run_and_others_do():
    names = {
        run_digest(config)
        for config in (
            pretrain(),
            pretrain({}, {}),
            pretrain({"blur_p": 0.5}, {"crop": 48}),  # as in `views`
        )
    }
    assert len(names) == 1
    assert len(names | {run_digest(pretrain(*BYOL)), run_digest(pretrain(*MULTI_CROP))}) == 3
    assert build(Pretrain, plain(pretrain(*MULTI_CROP)), "again") == pretrain(*MULTI_CROP)


@pytest.mark.parametrize(
    ("each_view", "words"),
    [
        ([{}], "pretrain: each_view: .* give at least 2"),
        ([{}, {"blur": 1.0}], "pretrain: each_view.1: unknown key 'blur'; known are crop, scale"),
        ([{"blur_p": 2.0}, {}], "pretrain: each_view.0: blur_p: 2.0 is not allowed"),
        ([{"overlap": 0.1}, {}], "view 1 has overlap 0.1 with view 1, which is drawn later or is itself"),
        ([{}, {"overlap": 0.1, "overlap_view": 3}, {}], "view 2 has overlap 0.1 with view 3"),
    ],
)
def test_views_that_cannot_be_are_refused(each_view, words):
    with pytest.raises(ConfigError, match=words):
        pretrain(*each_view)


def test_a_method_says_by_its_signature_how_many_views_it_takes():
    assert constructor("baselines.byol.BYOL").views == (2, 2)
    check_views("baselines.byol.BYOL", 2, "x")
    check_views(None, 2, "x")
    with pytest.raises(ConfigError, match=r"x.pretrain.each_view: baselines.byol.BYOL takes 2 views, but 3"):
        check_views("baselines.byol.BYOL", 3, "x.pretrain")


@pytest.mark.parametrize(
    ("signature", "expected"),
    [
        ("self, view1, view2, progress", (2, 2)),
        ("self, view1, view2, view3=None, *, progress", (2, 3)),
        ("self, view1, view2, *more, progress", (2, None)),
        ("self, *views, progress", (0, None)),
    ],
)
def test_signatures(tmp_path, monkeypatch, signature, expected):
    name = f"signature_{abs(hash(signature))}"
    (tmp_path / f"{name}.py").write_text(
        f"class M:\n    def __init__(self, backbone):\n        pass\n\n    def step({signature}):\n        pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert constructor(f"{name}.M").views == expected


def test_a_study_that_gives_another_number_of_views_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"methods.mls.pretrain.each_view: .* takes 2 views, but 3 are given"):
        loaded({"methods.mls.pretrain": {"each_view": [{}, {}, {"crop": 32}]}})


def test_a_view_set_costs_what_its_pixels_do():
    assert mean_crop(plain(pretrain())) == mean_crop({"views": {"crop": 48}}) == 48
    assert mean_crop(plain(pretrain({}, {}, {"crop": 64}, {"crop": 32}))) == round(4864**0.5)  # pixels
