"""Methods on boxes: ReSim, SoCo; boxes through crop and flip, hand-computed numbers and slow loops."""

import copy
import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from baselines import resim, soco, soco_fpn
from baselines.resim import ReSim
from baselines.soco import SoCo
from baselines.soco_fpn import SoCoFPN
from mlssl.errors import ConfigError
from mlssl.parts import boxes
from mlssl.parts.backbone import create_backbone, stage_channels, stage_maps
from mlssl.parts.view import View
from mlssl.pretrain.step import step
from mlssl.pretrain.training import Training
from mlssl.study.methods import resolve
from mlssl.study.settings import Data
from mlssl.study.settings import Detection as DetectionSettings
from mlssl.transfer.detection.model import build_model as build_detector

B, SIDE = 6, 32
SMALL = {
    ReSim: {"dictionary_size": 16, "dim": 8, "pyramid": 12, "projector_batch_norm": True},
    SoCo: {"dim": 8, "hidden": 12, "boxes": 3},
    SoCoFPN: {"dim": 8, "hidden": 12, "boxes": 3, "pyramid": 10, "box_head": 14},
}
METHODS = pytest.mark.parametrize("cls", SMALL)


def build(cls, **scalars):
    torch.manual_seed(0)
    return cls(create_backbone("test_resnet"), **SMALL[cls] | scalars).train()


def crops(*rows, flips=None):
    """Views without pixels."""
    box = torch.tensor(rows)
    flip = torch.zeros(len(box)).bool() if flips is None else torch.tensor(flips)
    return View(torch.empty(len(box), 0), torch.arange(len(box)), box, flip)


def placed(seed):
    """A view of B images, whose crops overlap with those of other seeds but for the last image's."""
    generator = torch.Generator().manual_seed(seed)
    at = torch.arange(B)
    box = torch.stack([at + seed, 2 * at, 60 + at + 3 * seed, 70 - at - seed], dim=1)
    box[-1] = torch.tensor([200 * seed, 0, 30, 30])
    flip = torch.rand(B, generator=generator) < 0.5
    return View(torch.randn(B, 3, SIDE, SIDE, generator=generator), at + 100 * seed, box, flip)


def given(cls, one, two):
    """The views of a step: two, and for SoCo-FPN a third of half the side."""
    return (one, two, two._replace(pixels=two.pixels[..., ::2, ::2])) if cls is SoCoFPN else (one, two)


def moved(method):
    with torch.no_grad():
        for p in method.encoders.query.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return method


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def px(*corners):
    """A box of a view of 224 pixels."""
    return torch.tensor([[c / 224 for c in corners]])


# Boxes through crop and flip


def test_boxes_of_a_view_by_hand():
    view = crops((100, 50, 40, 20), (100, 50, 40, 20), flips=[False, True])
    image = boxes.to_image(torch.tensor([[0.0, 0.5, 0.25, 1.0]]), view)
    assert image.tolist() == [[[100, 60, 110, 70]], [[130, 60, 140, 70]]]
    back = boxes.to_view(torch.tensor([[[90.0, 50, 110, 70]]]).expand(2, 1, 4), view)
    assert back[0, 0].tolist() == pytest.approx([-0.25, 0, 0.25, 1])
    assert back[1, 0].tolist() == pytest.approx([0.75, 0, 1.25, 1])


def test_a_box_carried_there_and_back_is_itself():
    view, other = placed(1), placed(2)
    box = normal(B, 5, 4).float()
    there = boxes.to_view(boxes.to_image(box, view), other)
    torch.testing.assert_close(boxes.to_view(boxes.to_image(there, other), view), box, atol=1e-4, rtol=0)
    flip = torch.rand(B) < 0.5
    torch.testing.assert_close(boxes.mirrored(boxes.mirrored(box, flip), flip), box)


def test_pooled_values_of_a_linear_map_are_those_of_the_centres():
    """A map that says where its cells are, in shares of the view; away from borders."""
    place = (torch.arange(14) + 0.5) / 14
    maps = torch.stack([place.expand(14, 14), place[:, None].expand(14, 14)]).expand(3, 2, 14, 14)
    box = torch.tensor([[0.2, 0.3, 0.4, 0.9], [0.1, 0.1, 0.13, 0.12], [0.05, 0.5, 0.9, 0.51]]).expand(3, 3, 4)
    found = boxes.pooled(maps, box, 1, samples=4).flatten(2)
    torch.testing.assert_close(found, (box[..., :2] + box[..., 2:]) / 2, atol=1e-5, rtol=0)
    quarters = boxes.pooled(maps, box[:, :1], 2, samples=2)[0, 0]
    torch.testing.assert_close(quarters[:, 0, 1], torch.tensor([0.35, 0.45]), atol=1e-5, rtol=0)


# ReSim

CPU = torch.device("cpu")


def test_there_are_36_and_64_windows_as_published():
    for name, stride, side in (("c4", 32, 48), ("c3", 24, 32)):
        found = resim.windows(resim.GRIDS[name], CPU) * 224
        n = {"c4": 6, "c3": 8}[name]
        expected = [
            [stride * c, stride * r, stride * c + side, stride * r + side] for r in range(n) for c in range(n)
        ]
        torch.testing.assert_close(found, torch.tensor(expected).float())
        assert len(found) == {"c4": 36, "c3": 64}[name]


def test_windows_are_carried_as_computed_by_hand():
    one = crops((100, 100, 112, 112))
    same, inside = resim.carried(px(32, 32, 80, 80), one, one)
    torch.testing.assert_close(same[0], px(32, 32, 80, 80))
    assert inside.tolist() == [[True]]
    there, _ = resim.carried(px(32, 32, 80, 80), one, crops((100, 100, 224, 224)))
    torch.testing.assert_close(there[0], px(16, 16, 40, 40))
    there, _ = resim.carried(px(32, 32, 80, 80), one, crops((100, 100, 224, 224), flips=[True]))
    torch.testing.assert_close(there[0], px(184, 16, 208, 40))
    both = resim.carried(px(32, 32, 80, 80), one._replace(flip=torch.tensor([True])), crops((100, 100, 224, 224)))
    torch.testing.assert_close(both[0][0], px(72, 16, 96, 40))
    _, inside = resim.carried(resim.windows(resim.GRIDS["c4"], CPU), one, crops((156, 100, 112, 112)))
    # 64 pixels of the view to the right: windows that begin at 128 and 160 begin at 16 and 48 there.
    assert inside.reshape(6, 6).tolist() == [[False] * 4 + [True] * 2] * 6


def test_the_loss_of_regions_is_a_slow_loop():
    q, k = (F.normalize(normal(3, 4, 5, seed=s), dim=2) for s in (0, 1))
    negatives, inside = F.normalize(normal(7, 5, seed=2), dim=1), normal(3, 4, seed=3) > 0
    inside[1] = False
    terms = []
    for b in range(3):
        for i in range(4):
            if inside[b, i]:
                positive = math.exp((q[b, i] @ k[b, i]).item() / 0.2)
                others = sum(math.exp((q[b, i] @ negative).item() / 0.2) for negative in negatives)
                terms.append(-math.log(positive / (positive + others)))
    found = resim.region_loss(q, k, negatives, inside, 0.2)
    assert found.item() == pytest.approx(sum(terms) / len(terms), rel=1e-9)
    alike = torch.ones(2, 3, 5).double() / 5**0.5
    found = resim.region_loss(alike, alike, alike[0, :1].expand(9, 5), torch.ones(2, 3).bool(), 0.2)
    assert found.item() == pytest.approx(math.log(10))


def test_without_a_common_part_the_windows_have_no_loss_and_no_nan():
    method = build(ReSim)
    apart = placed(1), placed(2)._replace(box=torch.tensor([[900, 900, 40, 40]]).expand(B, 4))
    parts = method.step(*apart, progress=0.0)
    parts["loss"].backward()
    assert parts["c4"].item() == parts["c3"].item() == parts["inside_c4"].item() == 0
    assert all(p.grad.isfinite().all() for p in method.encoders.query.parameters())
    assert not method.encoders.query.pyramid.inner_blocks[0][0].weight.grad.any()


def test_the_pyramids_maps_are_a_slow_loop():
    encoder = build(ReSim).encoders.query.eval()
    pixels = placed(1).pixels
    z, p4, p3 = encoder(pixels)
    _, *stages = stage_maps(encoder.backbone, pixels)
    lateral = [encoder.pyramid.inner_blocks[i](stages[i]) for i in range(3)]
    top = lateral[1] + lateral[2].repeat_interleave(2, 2).repeat_interleave(2, 3)
    low = lateral[0] + top.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(p4, encoder.pyramid.layer_blocks[1](top))
    torch.testing.assert_close(p3, encoder.pyramid.layer_blocks[0](low))
    torch.testing.assert_close(z, encoder.projector(encoder.backbone(pixels).mean(dim=(2, 3))))
    blocks = [b for b in encoder.pyramid.modules() if isinstance(b, torch.nn.Conv2d)]
    assert [b.kernel_size for b in blocks] == [(1, 1)] * 3 + [(3, 3)] * 2
    assert all(b.bias is not None and not b.bias.any() for b in blocks)


def test_resims_step_is_its_three_losses():
    method = moved(build(ReSim, momentum=0.6))
    method.step(placed(3), placed(4), progress=0.0)
    reference = copy.deepcopy(method)
    parts = method.step(placed(1), placed(2), progress=0.0)
    q = reference.encoders.query(placed(1).pixels)
    reference.encoders.update(0.6)
    k = reference.encoders.key(placed(2).pixels)
    queue = reference.dictionary.read()["z"]
    logits = torch.stack([F.cosine_similarity(q[0], k[0]), *F.cosine_similarity(q[0][None], queue[:, None], dim=2)])
    expected = (logits / 0.2).logsumexp(0).mean() - logits[0].mean() / 0.2
    for level, name in ((1, "c4"), (2, "c3")):
        grid = resim.windows(resim.GRIDS[name], CPU)
        there, inside = resim.carried(grid, placed(1), placed(2))
        assert inside.any()
        assert not inside[-1].any()
        r_q = F.normalize(boxes.pooled(q[level], grid.expand(B, -1, -1), 1, 4).flatten(2), dim=2)
        r_k = F.normalize(boxes.pooled(k[level], there, 1, 4).flatten(2), dim=2)
        side = q[level].shape[-1]  # 2 and 4 cells: one window, and 2 x 2 of 3 x 3 cells
        size = min(3, side)
        means = [
            k[level][b, :, r : r + size, c : c + size].mean(dim=(1, 2))
            for b in range(B)
            for r in range(side - size + 1)
            for c in range(side - size + 1)
        ]
        one = resim.region_loss(r_q, r_k, F.normalize(torch.stack(means), dim=1), inside, 0.2)
        torch.testing.assert_close(parts[name], one)
        expected = expected + one
    torch.testing.assert_close(parts["loss"], expected)
    torch.testing.assert_close(method.dictionary.read()["z"][B : 2 * B], F.normalize(k[0], dim=1).detach())


def test_negatives_are_drawn_evenly_if_there_are_more():
    method, maps = build(ReSim, negatives=10), normal(B, 12, 5, 5).float()
    few = method._negatives(maps)
    everyone = build(ReSim)._negatives(maps)
    assert len(everyone) == B * 9
    assert 10 <= len(few) < 20
    at = [int((everyone == row).all(dim=1).nonzero()) for row in few]
    assert {b - a for a, b in pairwise(at)} == {5}


def test_a_backbone_without_stages_is_refused():
    assert stage_channels(create_backbone("resnet18")) == [64, 128, 256, 512]
    with pytest.raises(ConfigError, match="does not give the maps of its stages; use one such as resnet50"):
        stage_channels(torch.nn.Conv2d(3, 4, 1))


# SoCo


def overlapping(seed):
    return placed(seed)._replace(box=torch.tensor([[10 * seed, 20, 90, 60]]).expand(B, 4))


@pytest.mark.parametrize("whole", [(0, 0, 640, 480), (7, 9, 60, 80), (0, 0, 100, 240)])
def test_random_boxes_pass_the_published_filter(whole):
    x, y, w, h = whole
    view, other = crops(whole), crops((x + w // 2, y, w // 2, h // 2))
    numbers = torch.rand(1, 2000, 4, generator=torch.Generator().manual_seed(0))
    numbers[0, :16] = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 4)  # their ends
    left, top, right, bottom = soco.random_boxes(view, other, numbers)[0].double().unbind(1)
    size = ((right - left) * (bottom - top)).sqrt() / (w * h) ** 0.5
    assert 0.3 - 1e-5 <= size.min() < 0.31
    assert 0.79 < size.max() <= 0.8 + 1e-5
    aspect = (right - left) / (bottom - top)
    assert aspect.min() >= 1 / 3 - 1e-5
    assert aspect.max() <= 3 + 1e-5
    assert min((left - x).min(), (top - y).min(), (x + w - right).min(), (y + h - bottom).min()) >= -1e-3
    assert (right > x + w // 2).all()  # they touch what both views show
    assert (top < y + h // 2).all()


def test_a_random_box_by_hand():
    """Size 0.55 of sqrt(640 * 480) = 554.3, square: 304.8; its centre in that of the right half, (480, 240)."""
    view, other = crops((0, 0, 640, 480)), crops((320, 0, 320, 480))
    box = soco.random_boxes(view, other, torch.full((1, 1, 4), 0.5))[0, 0].tolist()
    assert box == pytest.approx([480 - 152.42, 240 - 152.42, 480 + 152.42, 240 + 152.42], abs=0.01)
    wide = soco.random_boxes(view, view, torch.tensor([[[1.0, 1.0, 0.5, 0.5]]]))[0, 0].tolist()
    # Size 443.4 at aspect 3 would be 768 wide: cut to 640, and 443.4² / 640 = 307.2 high.
    assert wide == pytest.approx([0, 240 - 153.6, 640, 240 + 153.6], abs=0.01)


def test_jitter_by_hand():
    box = torch.tensor([[[100.0, 100, 200, 150]]]).expand(1, 4, 4)
    numbers = torch.tensor([
        [0.5, 0.5, 0.5, 0.5, 0.0],  # in the middle of all ranges
        [1.0, 0.0, 0.5, 0.5, 0.49],  # 10 to the right, 5 up
        [0.5, 0.5, 1.0, 1.0, 0.0],  # 10 wider, 5 higher
        [1.0, 1.0, 1.0, 1.0, 0.5],  # not at all
    ])  # fmt: skip
    expected = [[100, 100, 200, 150], [110, 95, 210, 145], [95, 97.5, 205, 152.5], [100, 100, 200, 150]]
    torch.testing.assert_close(soco.jittered(box, numbers[None])[0], torch.tensor(expected))


def test_agreement_is_a_slow_loop():
    p, z, shared = normal(3, 4, 5), normal(3, 4, 5, seed=1), normal(3, 4, seed=2) > 0
    shared[2] = False
    total = 0.0
    for b in range(3):
        near = [F.cosine_similarity(p[b, i], z[b, i], dim=0).item() for i in range(4) if shared[b, i]]
        total += -2 * sum(near) / (len(near) + 1e-6) / 3
    assert soco.agreement(p, z, shared).item() == pytest.approx(total, rel=1e-9)
    every = torch.ones(3, 4).bool()
    both = soco.agreement(p, 3 * p, every) + soco.agreement(p, p, every)
    assert both.item() == pytest.approx(-4, abs=1e-5)
    none = soco.agreement(p.requires_grad_(), z, ~every)
    none.backward()
    assert none.item() == 0
    assert not p.grad.any()


def test_the_last_stage_sees_each_box_as_a_crop_of_c4():
    """A box that is the whole view is C4 itself, so the encoder gives the backbone's own feature."""
    encoder = build(SoCo).encoders.query.eval()
    pixels = placed(1).pixels
    whole = torch.tensor([[0.0, 0, 1, 1]]).expand(B, 1, 4)
    pooling = boxes.pooled

    def once(maps, box, size, samples):  # with one sample per cell RoIAlign of the whole map is exact
        return pooling(maps, box, size, 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(soco, "pooled", once)
        (z,) = encoder(pixels, whole)
    torch.testing.assert_close(z[:, 0], encoder.projector(encoder.backbone(pixels).mean(dim=(2, 3))))


def test_socos_step_is_its_equations():
    method = moved(build(SoCo, momentum=0.6))
    reference = copy.deepcopy(method)
    views = placed(1), placed(2)
    torch.manual_seed(3)
    parts = method.step(*views, progress=0.5)
    torch.manual_seed(3)
    numbers = torch.rand(B, 3, 9)
    box = soco.random_boxes(*views, numbers[..., :4])
    seen = soco.jittered(box, numbers[..., 4:]), box
    seen = [boxes.to_view(b, v).clamp(0, 1) for b, v in zip(seen, views, strict=True)]
    shared = torch.stack([((b[..., 2:] - b[..., :2]) > 0).all(dim=2) for b in seen]).all(dim=0)
    assert shared[:-1].all()
    assert not shared[-1].any()
    z = [reference.encoders.query(v.pixels, b)[0] for v, b in zip(views, seen, strict=True)]
    p = [reference.predictor(x.flatten(0, 1)).reshape(x.shape) for x in z]
    reference.encoders.update(0.8)
    target = [reference.encoders.key(v.pixels, b)[0] for v, b in zip(views, seen, strict=True)]
    expected = soco.agreement(p[0], target[1], shared) + soco.agreement(p[1], target[0], shared)
    torch.testing.assert_close(parts["loss"], expected)
    assert parts["shared"].item() == pytest.approx((B - 1) / B)
    assert method.diagnostics()["spread"] > 0


def test_equal_views_without_jitter_share_every_box():
    same = overlapping(1)
    box = soco.random_boxes(same, same, torch.rand(B, 4, 4))
    seen = boxes.to_view(box, same)
    assert seen.min() >= -1e-5
    assert seen.max() <= 1 + 1e-5
    assert (seen[..., 2:] > seen[..., :2]).all()


def test_soco_needs_a_resnet():
    with pytest.raises(ConfigError, match="whose last stage is `layer4`, not Conv2d; use resnet50"):
        soco.BoxEncoder(torch.nn.Conv2d(3, 4, 1), torch.nn.Identity())


# SoCo with an FPN


def test_levels_are_the_published_ones():
    sizes = torch.tensor([1.0, 48, 49, 96, 97, 192, 193, 224, 225])
    assert soco_fpn.level(sizes).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4]


def test_each_box_is_pooled_from_its_own_level_and_one_without_a_level_from_none():
    encoder = build(SoCoFPN).encoders.query
    reference = copy.deepcopy(encoder)
    pixels = placed(1).pixels
    corner = 0.5 * torch.rand(B, 5, 2, generator=torch.Generator().manual_seed(1))
    box, levels = torch.cat([corner, corner + 0.4], dim=2), torch.arange(5).expand(B, 5)
    (z,) = encoder(pixels, box, levels)
    maps = [*reference.fpn(dict(enumerate(stage_maps(reference.backbone, pixels)))).values()]
    assert [m.shape[-1] for m in maps] == [8, 4, 2, 1]
    regions = []
    for b in range(B):
        for i in range(4):
            regions.append(boxes.pooled(maps[i][b : b + 1], box[b : b + 1, i : i + 1], 7, 2)[0, 0])
        regions.append(torch.zeros_like(regions[0]))
    expected = reference.projector(reference.box_head(torch.stack(regions)))
    torch.testing.assert_close(z.flatten(0, 1), expected)


def test_an_object_is_on_a_finer_level_in_the_view_of_half_the_side():
    """An eighth of the area of views 1 and 2 is 79 of 224 pixels, P3; in view 3 it is 40, P2."""
    method, seen = build(SoCoFPN), []
    method.encoders.query.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[2]))
    view = overlapping(1)._replace(flip=torch.zeros(B).bool())
    x, y, w, h = view.box[0].tolist()
    side = (1 / 8) ** 0.5
    box = torch.tensor([x, y, x + w * side, y + h * side]).expand(B, 3, 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(soco_fpn, "random_boxes", lambda *rest: box)
        patch.setattr(soco_fpn, "jittered", lambda b, numbers: b)
        parts = method.step(*given(SoCoFPN, view, view), progress=0.0)
    assert [levels.unique().tolist() for levels in seen] == [[1], [1], [0]]
    assert parts["shared"] == 1


def test_the_step_of_soco_with_an_fpn_is_its_equations():
    method = moved(build(SoCoFPN, momentum=0.6))
    reference = copy.deepcopy(method)
    views = given(SoCoFPN, placed(1), placed(2))
    torch.manual_seed(3)
    parts = method.step(*views, progress=0.5)
    torch.manual_seed(3)
    numbers = torch.rand(B, 3, 9)
    box = soco.random_boxes(*views[:2], numbers[..., :4])
    seen = soco.jittered(box, numbers[..., 4:]), box, box
    seen = [boxes.to_view(b, v).clamp(0, 1) for b, v in zip(seen, views, strict=True)]
    there = [((b[..., 2:] - b[..., :2]) > 0).all(dim=2) for b in seen]
    sides = [((b[..., 2:] - b[..., :2]).prod(dim=2)) ** 0.5 for b in seen]
    inputs = [
        (v.pixels, b, soco_fpn.level(s * pixels))
        for v, b, s, pixels in zip(views, seen, sides, (224, 224, 112), strict=True)
    ]
    z = [reference.encoders.query(*x)[0] for x in inputs]
    p = [reference.predictor(x.flatten(0, 1)).reshape(x.shape) for x in z]
    reference.encoders.update(0.8)
    target = [reference.encoders.key(*x)[0] for x in inputs]
    terms = []
    for i, j in ((0, 1), (1, 0), (0, 2), (2, 0)):
        terms.append(soco.agreement(p[i], target[j], there[i] & there[j]))
    torch.testing.assert_close(parts["loss"], sum(terms))
    torch.testing.assert_close(parts["agreement_at_half_size"], terms[2] + terms[3])
    assert parts["shared"].item() == pytest.approx((B - 1) / B)
    assert method.diagnostics()["spread"] > 0


def test_pyramid_and_box_head_are_those_of_the_detector():
    config = DetectionSettings(Data("unused"), fpn_channels=10, box_head_channels=14, head="4conv1fc")
    detector = build_detector(create_backbone("test_resnet"), config, categories=3)
    encoder = build(SoCoFPN).encoders.query
    shapes = [
        {name: value.shape for name, value in module.state_dict().items()}
        for module in (encoder.fpn, encoder.box_head)
    ]
    found = [
        {name: value.shape for name, value in module.state_dict().items()}
        for module in (detector.backbone.fpn, detector.roi_heads.box_head)
    ]
    assert found == shapes


# All of them: the contract


@METHODS
def test_gradient_reaches_all_that_is_trained_and_nothing_else(cls):
    method = moved(build(cls))
    method.step(*given(cls, placed(3), placed(4)), progress=0.0)
    parts = method.step(*given(cls, placed(1), placed(2)), progress=0.0)
    parts["loss"].backward()
    assert all((p.grad is not None) == p.requires_grad for p in method.parameters())
    assert all(p.grad.any() for p in method.encoders.query.backbone.layer1.parameters())
    assert all(p.grad is None for p in method.encoders.key.parameters())
    assert all(not v.requires_grad for name, v in parts.items() if name != "loss")


@METHODS
def test_keys_follow_by_the_momentum_and_have_statistics_of_their_own(cls):
    method = moved(build(cls, momentum=0.8 if cls is ReSim else 0.6))
    before = copy.deepcopy(method.encoders)
    method.step(*given(cls, placed(1), placed(2)), progress=0.5)  # SoCo's has risen to 0.8
    for (name, new), old in zip(method.encoders.key.named_parameters(), before.key.parameters(), strict=True):
        torch.testing.assert_close(new, 0.8 * old + 0.2 * before.query.get_parameter(name), msg=name)
    query, key = method.encoders.query.backbone.bn1, method.encoders.key.backbone.bn1
    assert not torch.allclose(key.running_mean, query.running_mean)


@METHODS
def test_the_order_of_the_images_is_of_no_consequence(cls):
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    views = given(cls, placed(3), placed(4))
    found = moved(build(cls)).step(*views, progress=0.0)
    permuted = [View(*(column[order] for column in v[:4])) for v in views]
    with pytest.MonkeyPatch.context() as patch:  # the random numbers go with the images
        if cls is not ReSim:
            draw = soco.random_numbers
            for module in (soco, soco_fpn):
                patch.setattr(module, "random_numbers", lambda *shape, device: draw(*shape, device=device)[order])
        again = moved(build(cls)).step(*permuted, progress=0.0)
    torch.testing.assert_close(again["loss"], found["loss"], rtol=1e-4, atol=1e-5)


@METHODS
def test_a_resumed_training_is_the_same_to_the_bit(cls):
    def begin():
        method = build(cls, **({"negatives": 5} if cls is ReSim else {}))  # a sample, which is drawn
        trained = [p for p in method.parameters() if p.requires_grad]
        return Training(method, torch.optim.SGD(trained, lr=0.05, momentum=0.9), images="", segments=[])

    def train(training, steps):
        for at in range(training.step, training.step + steps):
            step(training.method, training.optimizer, given(cls, placed(at), placed(at + 1)), at / 4)
            training.step = at + 1

    whole, first, second = begin(), begin(), begin()
    torch.manual_seed(1)
    train(whole, 4)
    torch.manual_seed(1)
    train(first, 2)
    state = first.state()
    torch.rand(9)
    second.restore(state, CPU)
    train(second, 2)
    for (name, a), b in zip(whole.method.state_dict().items(), second.method.state_dict().values(), strict=True):
        assert torch.equal(torch.as_tensor(a), torch.as_tensor(b)) if isinstance(a, torch.Tensor) else a == b, name


@METHODS
def test_the_loss_falls(cls):
    method = build(cls, dim=16)
    images = torch.randn(12, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(100))
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.05, momentum=0.9)
    found = []
    for at in range(12):
        generator = torch.Generator().manual_seed(at)
        index = torch.randperm(12, generator=generator)[:B]
        box = torch.tensor([[0, 0, 90, 90]]).expand(B, 4)
        noisy = [images[index] + 0.3 * torch.randn(B, 3, SIDE, SIDE, generator=generator) for _ in range(2)]
        pair = [View(x, index, box, torch.zeros(B).bool()) for x in noisy]
        found.append(step(method, optimizer, given(cls, *pair), at / 12)["loss"].item())
    assert sum(found[-4:]) / 4 < sum(found[2:5]) / 3 - 0.1
    assert all(map(math.isfinite, found))


@pytest.mark.parametrize(
    ("target", "params", "words"),
    [
        ("resim.ReSim", {"negatives": 0}, "negatives: 0 is not allowed; give at least 1"),
        ("soco.SoCo", {"boxes": 0}, "boxes: 0 is not allowed; give at least 1"),
        ("soco_fpn.SoCoFPN", {"pyramid": 0}, "pyramid: 0 is not allowed; give at least 1"),
        (
            "soco.SoCo",
            {"proposals": "edge_boxes"},
            "proposals: 'edge_boxes' is not allowed; give 'random' or 'selective_search'",
        ),
        ("resim.ReSim", {"tau": 0.0}, "tau: 0.0 is not allowed; give more than 0"),
    ],
)
def test_parameters_that_cannot_work_are_refused(target, params, words):
    with pytest.raises(ConfigError, match=words):
        resolve(f"baselines.{target}", {}, params, "methods.x")
