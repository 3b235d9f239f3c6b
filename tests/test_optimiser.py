"""Optimiser settings of a recipe: LARS, what is decayed, the predictor's rate; in the step and after a resume."""

import pytest
import torch
from test_methods import make, view

from baselines.byol import BYOL
from baselines.moco_v2 import MoCoV2
from baselines.simsiam import SimSiam
from mlssl.errors import ConfigError
from mlssl.pretrain.build import build_optimizer, parameter_groups, set_learning_rate
from mlssl.pretrain.schedule import cosine
from mlssl.pretrain.step import step
from mlssl.pretrain.training import Training
from mlssl.study.settings import Data, Pretrain

LARS = {"optimiser": "lars", "decay_norm_and_bias": False, "weight_decay": 0.01, "lr": 0.5, "trust": 0.02}
CONSTANT = {"predictor_schedule": "constant", "predictor_lr": 2.0, "lr": 0.1}


def config(**changes):
    return Pretrain(Data("x"), method="m", **changes)


def trained(method):
    return [p for p in method.parameters() if p.requires_grad]


def test_the_default_is_one_group_of_sgd_in_the_order_of_the_parameters():
    method = make(BYOL)
    optimizer = build_optimizer(config(), method)
    assert isinstance(optimizer, torch.optim.SGD)
    (group,) = optimizer.param_groups
    assert all(a is b for a, b in zip(group["params"], trained(method), strict=True))
    assert not {"lr_factor", "constant"} & set(group)
    assert parameter_groups(config(), torch.nn.Flatten()) == [{"params": []}]


def test_norm_layers_and_biases_are_not_decayed_where_a_recipe_says_so():
    method = make(BYOL)
    groups = parameter_groups(config(decay_norm_and_bias=False), method)
    decays = {id(p): group.get("weight_decay") for group in groups for p in group["params"]}
    assert len(decays) == len(trained(method))
    for name, p in method.named_parameters():
        if p.requires_grad:
            assert decays[id(p)] == (None if p.dim() > 1 else 0.0), name


def test_lars_is_a_slow_loop():
    """arXiv 1708.03888, with the rate outside of the momentum: v <- m v + trust |w| / (|g| + c |w|) (g + c w)."""
    method = make(BYOL)
    optimizer = build_optimizer(config(**LARS), method)
    weights = {name: p.detach().clone() for name, p in method.named_parameters() if p.requires_grad}
    momentum = {name: torch.zeros_like(w) for name, w in weights.items()}
    for at in range(3):
        set_learning_rate(optimizer, lr := 0.5 - 0.1 * at, 0.5)
        step(method, optimizer, (view(2 * at), view(2 * at + 1)), at / 3)
        for name, p in method.named_parameters():
            if p.requires_grad:
                w, g = weights[name], p.grad
                if w.dim() > 1:
                    g = 0.02 * w.norm() / (g.norm() + 0.01 * w.norm()) * (g + 0.01 * w)
                momentum[name] = 0.9 * momentum[name] + g
                weights[name] = w - lr * momentum[name]
                torch.testing.assert_close(p.detach(), weights[name], rtol=1e-4, atol=1e-6, msg=name)


def test_simsiams_predictor_keeps_its_rate_and_the_encoder_does_not():
    method = make(SimSiam)
    optimizer = build_optimizer(config(**CONSTANT), method)
    of_predictor = {id(p) for p in method.predictor.parameters()}
    rates = []
    for at in (0, 90):
        set_learning_rate(optimizer, cosine(at, 100, base=0.1), 0.1)
        rates.append({id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]})
    assert {p for p in rates[0] if rates[0][p] == rates[1][p] == 0.2} == of_predictor
    assert {rates[1][p] for p in rates[0] if p not in of_predictor} == {cosine(90, 100, base=0.1)}


def test_a_rate_of_a_predictor_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="predictor_lr and predictor_schedule: MoCoV2 has no predictor"):
        build_optimizer(config(**CONSTANT), make(MoCoV2))


@pytest.mark.parametrize("settings", [LARS, CONSTANT, LARS | CONSTANT])
def test_a_resumed_training_is_the_same_to_the_bit(settings):
    def begin():
        method = make(SimSiam)
        return Training(method, build_optimizer(config(**settings), method), images="", segments=[])

    def train(training, steps):
        for at in range(training.step, training.step + steps):
            set_learning_rate(training.optimizer, cosine(at, 6, base=0.1), 0.1)
            step(training.method, training.optimizer, (view(2 * at), view(2 * at + 1)), at / 6)
            training.step = at + 1

    whole, first, second = begin(), begin(), begin()
    train(whole, 6)
    train(first, 3)
    second.restore(first.state(), torch.device("cpu"))
    train(second, 3)
    for (name, a), b in zip(whole.method.state_dict().items(), second.method.state_dict().values(), strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, name
