"""The contract every method keeps, and the traps of each paper."""

import copy
from typing import get_args

import pytest
import torch
import torch.nn.functional as F

from baselines.byol import BYOL
from baselines.densecl import DenseCL
from baselines.knn_moco import KNNMoCo
from baselines.moco_v2 import MoCoV2
from baselines.msf import MSF
from baselines.nnclr import NNCLR
from baselines.simsiam import SimSiam
from mlssl.errors import ConfigError
from mlssl.method.losses import MULTI_LABEL
from mlssl.method.mls import MLS
from mlssl.parts.dictionary import Dictionary
from mlssl.parts.momentum import MomentumPair
from mlssl.parts.view import View
from mlssl.pretrain.build import build_method
from mlssl.study.methods import constructor, resolve
from mlssl.study.settings import Data, Pretrain

B = 6


class SmallBackbone(torch.nn.Module):
    num_features = 10

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 10, 3, stride=2)
        self.norm = torch.nn.BatchNorm2d(10)

    def forward(self, x):
        return F.relu(self.norm(self.conv(x)))


def make(cls, **scalars):
    torch.manual_seed(0)
    small = {"dictionary_size": 16, "dim": 8, "k": 3, "predictor_hidden": 4}
    small["hidden"] = 0 if cls in CONTRASTIVE else 12
    takes = constructor(f"{cls.__module__}.{cls.__name__}").types
    return cls(SmallBackbone(), **{name: value for name, value in small.items() if name in takes} | scalars).train()


def view(seed):
    generator = torch.Generator().manual_seed(seed)
    return View(
        torch.randn(B, 3, 9, 9, generator=generator),
        torch.arange(B) + 100 * seed,
        torch.full((B, 4), seed),
        torch.arange(B) % 2 == 0,
    )


CONTRASTIVE = [MLS, MoCoV2, DenseCL, KNNMoCo]
"""With InfoNCE against the dictionary."""
EVERY = pytest.mark.parametrize("cls", [*CONTRASTIVE, NNCLR, MSF, BYOL, SimSiam])
WITH_DICTIONARY = pytest.mark.parametrize("cls", [*CONTRASTIVE, NNCLR, MSF])
WITH_KEYS = pytest.mark.parametrize("cls", [*CONTRASTIVE, MSF])
METHODS = pytest.mark.parametrize("cls", CONTRASTIVE)


@WITH_KEYS
def test_keys_ignore_the_query_encoder_until_the_momentum_update(cls):
    """With momentum 1 the key encoder stays: what the dictionary holds must not feel a changed query encoder."""
    method = make(cls, momentum=1.0)
    changed = copy.deepcopy(method)
    with torch.no_grad():
        for p in changed.encoders.query.parameters():
            p.add_(torch.randn_like(p))
    for m in (method, changed):
        m.step(view(1), view(2), progress=0.0)
    for name, column in method.dictionary.read().items():
        assert torch.equal(column, changed.dictionary.read()[name]), name


@WITH_KEYS
def test_keys_come_from_the_second_view_after_the_momentum_update(cls):
    method = make(cls, momentum=0.5)
    with torch.no_grad():
        for p in method.encoders.query.parameters():
            p.add_(0.1)
    key = copy.deepcopy(method.encoders)
    key.update(0.5)
    z = F.normalize(key.key(view(2).pixels)[1].float(), dim=1)
    method.step(view(1), view(2), progress=0.0)
    torch.testing.assert_close(method.dictionary.read()["z"], z.detach())


@EVERY
def test_gradient_reaches_all_that_is_trained_and_nothing_else(cls):
    method = make(cls)
    method.step(view(1), view(2), progress=0.0)["loss"].backward()
    method.zero_grad()
    parts = method.step(view(3), view(4), progress=0.0)
    parts["loss"].backward()
    assert all(p.grad is not None and p.grad.any() for p in method.encoders.query.backbone.conv.parameters())
    assert all((p.grad is not None) == p.requires_grad for p in method.parameters())
    if hasattr(method.encoders, "key"):
        assert all(p.grad is None for p in method.encoders.key.parameters())
    assert all(not v.requires_grad for name, v in parts.items() if name != "loss")


@EVERY
def test_the_order_of_the_images_in_the_batch_is_of_no_consequence(cls):
    method = make(cls)
    method.step(view(1), view(2), progress=0.0)
    other, order = copy.deepcopy(method), torch.tensor([3, 0, 5, 1, 4, 2])
    found = method.step(view(3), view(4), progress=0.0)
    permuted = other.step(*(View(*(column[order] for column in v[:4])) for v in (view(3), view(4))), progress=0.0)
    for name, value in found.items():
        torch.testing.assert_close(permuted[name], value, rtol=1e-4, atol=1e-5, msg=name)


@METHODS
def test_the_batch_is_not_among_its_own_negatives(cls):
    """The first step has an empty dictionary: nothing to tell apart, so no loss at all."""
    method = make(cls)
    assert method.step(view(1), view(2), progress=0.0)["loss"].item() == 0
    assert len(method.dictionary) == B


@WITH_DICTIONARY
def test_a_batch_larger_than_the_dictionary_is_refused(cls):
    with pytest.raises(ValueError, match="dictionary_size"):
        make(cls, dictionary_size=B - 1).step(view(1), view(2), progress=0.0)


def test_mls_step_is_equations_7_to_10():
    method = make(MLS, k=3, lam=0.7, momentum=0.9)
    method.step(view(1), view(2), progress=0.0)
    method.step(view(3), view(4), progress=0.0)
    reference = copy.deepcopy(method)
    q_g, q_z = (reference.dictionary.read()[c].clone() for c in ("g", "z"))
    parts = method.step(view(5), view(6), progress=0.0)

    g1, z1 = reference.encoders.query(view(5).pixels)
    reference.encoders.update(0.9)
    _, z2 = reference.encoders.key(view(6).pixels)
    g1, z1, z2 = g1.detach(), F.normalize(z1, dim=1).detach(), F.normalize(z2, dim=1)
    nce = ml = 0.0
    for b in range(B):
        p = [float(z1[b] @ q) / 0.2 for q in q_z]
        near = sorted(range(len(q_g)), key=lambda i: -float(g1[b] @ q_g[i]))[:3]
        positive = float(z1[b] @ z2[b]) / 0.2
        nce += float(torch.tensor([positive, *p]).logsumexp(0)) - positive
        ml += sum(float(F.softplus(torch.tensor(-x if i in near else x))) for i, x in enumerate(p)) / len(p)
    assert parts["info_nce"].item() == pytest.approx(nce / B, rel=1e-5)
    assert parts["bce"].item() == pytest.approx(ml / B, rel=1e-5)
    assert parts["loss"].item() == pytest.approx(nce / B + 0.7 * ml / B, rel=1e-5)


def test_mls_keeps_both_dictionaries_in_one_order():
    method = make(MLS, k=2)
    for seed in range(1, 9, 2):  # 24 keys through 16 slots
        method.step(view(seed), view(seed + 1), progress=0.0)
    entries = method.dictionary.read()
    assert sorted(entries["image"][:, 0].tolist()) == sorted([*range(402, 406), *range(600, 606), *range(800, 806)])
    torch.testing.assert_close(entries["box"][:, 0], entries["image"][:, 0] // 100)
    newest = entries["image"][:, 0] >= 800
    assert torch.equal(entries["flip"][newest, 0], entries["image"][newest, 0] % 2 == 0)
    g2, z2 = method.encoders.key(view(8).pixels)
    for column, key in (("g", g2), ("z", z2)):
        at = [int((entries["image"][:, 0] == image).nonzero()) for image in view(8).image]
        torch.testing.assert_close(entries[column][at], F.normalize(key, dim=1).detach())
    for column in ("g", "z"):
        torch.testing.assert_close(entries[column].norm(dim=1), torch.ones(16))


def test_mls_labels_carry_no_gradient_and_lambda_scales_the_multi_label_loss():
    zero, half = make(MLS, k=2, lam=0.0), make(MLS, k=2, lam=0.5)
    for method in (zero, half):
        method.step(view(1), view(2), progress=0.0)
    g1, _ = half.encoders.query(view(3).pixels)
    y = half.pseudo_labels(g1, half.dictionary.read()["g"])
    assert not y.similarity.requires_grad
    a, b = (m.step(view(3), view(4), progress=0.0) for m in (zero, half))
    assert a["loss"].item() == pytest.approx(a["info_nce"].item())
    assert b["loss"].item() == pytest.approx(b["info_nce"].item() + 0.5 * b["bce"].item())


@pytest.mark.parametrize(("labels_from", "logits_from"), [("g", "g"), ("z", "z"), ("g", "z"), ("z", "g")])
def test_mls_takes_labels_and_logits_from_the_dictionaries_of_table_7(labels_from, logits_from):
    method = make(MLS, k=3, labels_from=labels_from, logits_from=logits_from)
    method.step(view(1), view(2), progress=0.0)
    reference = copy.deepcopy(method)
    entries = {name: column.clone() for name, column in reference.dictionary.read().items()}
    parts = method.step(view(5), view(6), progress=0.0)
    query = dict(zip("gz", reference.encoders.query(view(5).pixels), strict=True))
    ml = 0.0
    for b in range(B):
        cosine = {c: F.cosine_similarity(query[c][b : b + 1], entries[c]).tolist() for c in "gz"}
        near = sorted(range(B), key=lambda i: -cosine[labels_from][i])[:3]
        logits = torch.tensor(cosine[logits_from]) / 0.2
        ml += sum(float(F.softplus(-x if i in near else x)) for i, x in enumerate(logits)) / B
    assert parts["bce"].item() == pytest.approx(ml / B, rel=1e-5)


@pytest.mark.parametrize(
    ("scalars", "progress", "weights"),
    [
        ({}, 0.0, (1, 0.5)),
        ({"nce_until": 0.0, "lam": 1.0}, 0.0, (0, 1)),  # the multi-label loss alone
        ({"nce_until": 0.3, "ml_from": 0.3}, 0.29, (1, 0)),  # warm-up
        ({"nce_until": 0.3, "ml_from": 0.3}, 0.3, (0, 0.5)),
    ],
)
def test_mls_alone_and_after_a_warm_up(scalars, progress, weights):
    method = make(MLS, **scalars)
    method.step(view(1), view(2), progress=progress)["loss"].backward()  # nothing to be a label yet
    parts = method.step(view(3), view(4), progress=progress)
    expected = weights[0] * parts["info_nce"] + weights[1] * parts["bce"]
    torch.testing.assert_close(parts["loss"].detach(), expected)


@pytest.mark.parametrize("rule", ["threshold", "quantile", "mutual"])
@pytest.mark.parametrize("loss", ["bce", "knn_softmax", "positive_unlabelled"])
def test_mls_trains_with_every_rule_and_says_how_many_labels_there_were(rule, loss):
    method = make(MLS, rule=rule, loss=loss, threshold=0.5, most=5)
    method.step(view(1), view(2), progress=0.0)
    parts = method.step(view(3), view(4), progress=0.0)
    parts["loss"].backward()
    record = method.label_record()
    assert parts["positives"].item() == pytest.approx(record["positive"].sum().item() / B)
    assert 0 < parts["positives"] <= (5 if rule != "mutual" else 3)


def test_a_sample_represents_the_complete_dictionary():
    method = make(MLS, k=2, search="sample", sample=4)
    for seed in (1, 3, 5):
        method.step(view(seed), view(seed + 1), progress=0.0)["loss"].backward()
    record = method.label_record()
    assert record["filled"] == 4
    images = set(record["dictionary_image"].tolist())
    assert len(images) == 4
    assert set(record["image"].flatten().tolist()) <= images


def test_a_record_tells_the_crops_of_query_and_labels():
    method = make(MLS, k=2)
    assert method.label_record() == {}
    method.step(view(1), view(2), progress=0.0)
    assert method.label_record() == {}
    entries = method.dictionary.read()["g"].clone()
    g1, _ = method.encoders.query(view(3).pixels)
    method.step(view(3), view(4), progress=0.0)
    record = method.label_record()
    nearest = F.cosine_similarity(g1[:, None], entries[None], dim=2).topk(2).indices
    assert torch.equal(record["image"], 200 + nearest)  # view 2's images are 200 .. 205
    assert record["box"].eq(2).all()
    assert record["box"].shape == (B, 2, 4)
    assert torch.equal(record["query_image"], view(3).image)
    assert torch.equal(record["query_box"], view(3).box)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"k": 17}, "k <= dictionary_size must hold, but k is 17, dictionary_size is 16"),
        ({"k": 0}, "k: 0 is not allowed; give at least 1"),
        ({"loss": "hinge"}, "loss: 'hinge' is not allowed; give 'bce', 'bce_pos'"),
        ({"rule": "best"}, "rule: 'best' is not allowed; give 'top_k'"),
        ({"search": "fast"}, "search: 'fast' is not allowed; give 'exact'"),
        ({"labels_from": "q"}, "labels_from: 'q' is not allowed; give 'g' or 'z'"),
        ({"logits_from": "q"}, "logits_from: 'q' is not allowed; give 'g' or 'z'"),
        # Nothing would train in between.
        ({"nce_until": 0.1, "ml_from": 0.2}, "ml_from <= nce_until must hold, but ml_from is 0.2, nce_until"),
    ],
)
def test_mls_refuses_parameters_that_cannot_work(params, words):
    given = {"dictionary_size": 16, "k": 3} | params
    with pytest.raises(ConfigError, match=words) as error:
        resolve("mlssl.method.mls.MLS", {}, given, "methods.mls")
    assert str(error.value).startswith("methods.mls.params")
    config = Pretrain(
        Data("unused"), method="mls", target="mlssl.method.mls.MLS", params=given, backbone="test_resnet"
    )
    with pytest.raises(ConfigError, match=words):  # by hand, without a study
        build_method(config, torch.device("cpu"))


def test_every_choice_of_mls_is_one_that_it_knows():
    """Annotations say what is allowed, the code what there is."""
    assert set(get_args(constructor("mlssl.method.mls.MLS").types["loss"])) == set(MULTI_LABEL)


@METHODS
@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"tau": 0.0}, "tau: 0.0 is not allowed; give more than 0"),
        ({"momentum": 1.1}, "momentum: 1.1 is not allowed; give at most 1"),
        ({"dictionary_size": 0}, "dictionary_size: 0 is not allowed; give at least 1"),
        ({"dim": 2.5}, "dim: 2.5 is not allowed; give a whole number"),
        ({"hidden": -1}, "hidden: -1 is not allowed; give at least 0"),
        ({"projector_batch_norm": 1}, "projector_batch_norm: 1 is not allowed; give true or false"),
    ],
)
def test_every_method_refuses_values_outside_of_their_range(cls, params, words):
    with pytest.raises(ConfigError, match=words):
        resolve(f"{cls.__module__}.{cls.__name__}", {}, params, "methods.x")


def test_densecl_matches_by_backbone_and_takes_keys_from_the_key_encoder():
    method = make(DenseCL, lam=0.3, momentum=1.0)
    with torch.no_grad():
        for p in method.encoders.query.parameters():
            p.add_(0.2 * torch.randn_like(p))
    method.step(view(1), view(2), progress=0.0)
    reference = copy.deepcopy(method)
    queues = {name: column.clone() for name, column in reference.dictionary.read().items()}
    parts = method.step(view(3), view(4), progress=0.0)

    f1, _, q = reference.encoders.query(view(3).pixels)
    f2, _, k = reference.encoders.key(view(4).pixels)
    f1, f2 = f1.flatten(2), f2.flatten(2)
    total, cells = 0.0, f1.shape[2]
    for b in range(B):
        for i in range(cells):
            j = int(F.cosine_similarity(f1[b, :, i : i + 1], f2[b], dim=0).argmax())
            query, key = F.normalize(q[b, :, i], dim=0), F.normalize(k[b, :, j], dim=0)
            logits = torch.cat([(query @ key)[None], queues["dense"] @ query]) / 0.2
            total += (logits.logsumexp(0) - logits[0]).item()
    assert parts["dense"].item() == pytest.approx(total / (B * cells), rel=1e-4)
    assert parts["loss"].item() == pytest.approx(
        0.7 * parts["info_nce"].item() + 0.3 * parts["dense"].item(), rel=1e-5
    )
    newest = method.dictionary.read()["dense"][B : 2 * B]
    torch.testing.assert_close(newest, F.normalize(k.mean(dim=2), dim=1).detach())


def test_papers_defaults():
    shared = {"tau": 0.2, "projector_batch_norm": False, "hidden": 0}
    mls = {"k": 20, "dictionary_size": 4096, "dim": 256, "momentum": 0.995, "lam": 0.5, "loss": "bce"}
    mls["normalise"] = "dictionary"
    baseline = {"dictionary_size": 65536, "dim": 128, "momentum": 0.999}
    mls |= {
        "nce_until": 1.0,
        "ml_from": 0.0,
        "labels_from": "g",
        "logits_from": "z",
        "rule": "top_k",
        "search": "exact",
    }
    own = {"threshold": 0.9, "most": 100, "sample": 4096}  # not the paper's: of rules and searches it has not
    assert constructor("mlssl.method.mls.MLS").defaults == shared | mls | own
    assert constructor("baselines.moco_v2.MoCoV2").defaults == shared | baseline
    assert constructor("baselines.densecl.DenseCL").defaults == shared | baseline | {"lam": 0.5}
    knn = {"k": 20, "momentum": 0.995, "lam": 0.4, "denominator": "all"}
    assert constructor("baselines.knn_moco.KNNMoCo").defaults == shared | baseline | knn
    nnclr = {"dictionary_size": 98304, "dim": 256, "tau": 0.1, "hidden": 2048, "predictor_hidden": 4096}
    assert constructor("baselines.nnclr.NNCLR").defaults == nnclr
    msf = {"k": 5, "dictionary_size": 128000, "dim": 512, "momentum": 0.99, "hidden": 4096}
    assert constructor("baselines.msf.MSF").defaults == msf
    assert constructor("baselines.byol.BYOL").defaults == {"dim": 256, "momentum": 0.99, "hidden": 4096}
    assert constructor("baselines.simsiam.SimSiam").defaults == {"dim": 2048, "predictor_hidden": 512}
    maps = {"dim": 256, "momentum": 0.99, "hidden": 4096}
    assert constructor("baselines.orl.ORL").defaults == maps
    assert constructor("baselines.pixpro.PixPro").defaults == maps | {"gamma": 2.0, "threshold": 0.7}
    assert constructor("baselines.pixcontrast.PixContrast").defaults == maps | {"tau": 0.3, "threshold": 0.7}
    assert constructor("baselines.self_emd.SelfEMD").defaults == maps | {"eps": 0.05, "iterations": 10}
    resim = {"pyramid": 256, "negatives": 16384}
    assert constructor("baselines.resim.ReSim").defaults == shared | baseline | resim
    assert constructor("baselines.soco.SoCo").defaults == maps | {"proposals": "random", "boxes": 4}
    soco_fpn = {"proposals": "random", "boxes": 4, "pyramid": 256, "box_head": 1024}
    assert constructor("baselines.soco_fpn.SoCoFPN").defaults == maps | soco_fpn
    slotcon = {"prototypes": 256, "tau": 0.2, "student_tau": 0.1, "teacher_tau": 0.07}
    slotcon |= {"centre_momentum": 0.9, "lam": 0.5}
    assert constructor("baselines.slotcon.SlotCon").defaults == maps | slotcon


def test_dictionary_is_first_in_first_out_and_never_shows_an_empty_slot():
    dictionary = Dictionary(5, {"a": (1, torch.float32), "b": (2, torch.int64)})
    expected: list[int] = []
    assert len(dictionary) == 0
    assert dictionary.read()["a"].shape == (0, 1)
    for first in range(0, 21, 3):
        rows = torch.arange(first, first + 3)
        dictionary.enqueue(a=rows[:, None].float(), b=torch.stack([rows, -rows], dim=1))
        expected = (expected + rows.tolist())[-5:]
        entries = dictionary.read()
        assert sorted(entries["a"][:, 0].tolist()) == expected
        torch.testing.assert_close(entries["b"][:, 0].float(), entries["a"][:, 0])
        torch.testing.assert_close(entries["b"][:, 1], -entries["b"][:, 0])


def test_dictionary_goes_on_from_its_state_dict():
    one = Dictionary(4, {"a": (1, torch.float32)})
    one.enqueue(a=torch.tensor([[1.0], [2.0], [3.0]]))
    two = Dictionary(4, {"a": (1, torch.float32)})
    two.load_state_dict(one.state_dict())
    for d in (one, two):
        d.enqueue(a=torch.tensor([[4.0], [5.0]]))
    assert torch.equal(one.read()["a"], two.read()["a"])
    assert two.read()["a"][:, 0].tolist() == [5, 2, 3, 4]


def test_enqueue_leaves_what_the_backward_pass_still_needs():
    dictionary = Dictionary(4, {"z": (2, torch.float32)})
    dictionary.enqueue(z=torch.eye(2).repeat(2, 1))
    z1 = torch.tensor([[1.0, 2.0]], requires_grad=True)
    p = z1 @ dictionary.read()["z"].T
    dictionary.enqueue(z=torch.full((4, 2), 9.0))
    p.sum().backward()
    assert z1.grad.tolist() == [[2.0, 2.0]]
    assert dictionary.read()["z"].eq(9).all()


def test_momentum_pair_follows_slowly_and_takes_no_gradient():
    pair = MomentumPair(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2)))
    before = [p.clone() for p in pair.key.parameters()]
    with torch.no_grad():
        for p in pair.query.parameters():
            p.add_(1.0)
    pair.update(0.9)
    for old, new in zip(before, pair.key.parameters(), strict=True):
        torch.testing.assert_close(new, old + 0.1)
        assert not new.requires_grad
    pair.query(torch.randn(4, 2))
    assert pair.key[1].num_batches_tracked == 0  # statistics of its own


@pytest.mark.parametrize("name", ["MLS", "MoCoV2", "DenseCL"])
def test_encoders_in_bfloat16_pool_and_project_in_float32(name):
    encoder = make({cls.__name__: cls for cls in CONTRASTIVE}[name]).encoders.query
    maps = []
    encoder.backbone.register_forward_hook(lambda module, inputs, output: maps.append(output))
    with torch.autocast("cpu", torch.bfloat16):
        found = encoder(view(0).pixels)
    z = found[1]
    g = maps[0].float().mean(dim=(2, 3))
    assert maps[0].dtype == torch.bfloat16
    assert z.dtype == torch.float32
    torch.testing.assert_close(z, encoder.projector(g), atol=1e-6, rtol=0)
