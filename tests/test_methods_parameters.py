"""The parameters of a method: read from its source, checked when a study is loaded, by one clear sentence."""

import importlib
import sys
from pathlib import Path

import pytest
import torch
import yaml
from support.study import MLS, REMOVED, loaded

from mlssl.errors import ConfigError
from mlssl.pretrain.build import build_method
from mlssl.study.methods import check_requirements, constructor, load_class, resolve
from mlssl.study.settings import Pretrain
from mlssl.study.validation import plain, read

OWN = '''
"""A method of one's own, in one file."""
import typing
from typing import Annotated, Literal as L

import numpy as np
from pydantic import Field

from mlssl.ranges import Count, Positive

Width = Annotated[int, Field(ge=4, le=512)]
Optional: typing.TypeAlias = Width | None
CONSTANT = 3


class Own:
    REQUIRES = ("smallest <= width", "0 < tau")

    def __init__(
        self,
        backbone,
        other=1,
        *,
        width: Width,
        kind: L["a", "b"] = "a",
        share: Annotated[float, Field(gt=0, lt=1)] = 0.5,
        most: Optional = None,
        tau: Positive = 0.2,
        names: tuple[str, ...] = ("x", "y"),
        smallest=1,
        loose=None,
        free,
        quoted: "Count" = 2,
        on: bool = False,
    ):
        ...
'''
"""Every way to declare a parameter."""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """A working directory of its own, which methods are found in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("own_method", "empty_package"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    importlib.invalidate_caches()
    constructor.cache_clear()


@pytest.fixture
def own():
    """The example with an own method instead of MLS; `own(text)` writes another file."""

    def write(text=OWN):
        Path("own_method.py").write_text(text, encoding="utf-8")
        importlib.invalidate_caches()
        constructor.cache_clear()
        method = {"target": "own_method.Own", "params": {"width": 8, "free": "x"}}
        return {"methods.own": method, "compare": ["own"], "ablations": REMOVED}

    return write


def refusal(places):
    """The message that a study with these values is refused with."""
    with pytest.raises(ConfigError) as refused:
        loaded(places)
    text = str(refused.value)
    assert text.startswith("study.yaml: ")
    assert "\n" not in text
    return text


BAD = [
    # parameter, value, the message's end
    ("k", 2.5, "2.5 is not allowed; give a whole number"),
    ("k", 5.0, "5.0 is not allowed; give a whole number"),
    ("k", 0, "0 is not allowed; give at least 1"),
    ("k", "five", "'five' is not allowed; give a whole number"),
    ("k", "5", "'5' is not allowed; give a whole number"),
    ("k", True, "True is not allowed; give a whole number"),
    ("k", None, "None is not allowed; give a whole number"),
    ("k", [5], "[5] is not allowed; give a whole number"),
    ("k", {"value": 5}, "{'value': 5} is not allowed; give a whole number"),
    ("k", 10**30, "1000000000000000000000000000000, dictionary_size is 64"),
    ("loss", "bcee", "'bcee' is not allowed; give 'bce', 'bce_pos', 'knn_softmax', 'bce_soft', 'focal', "),
    ("loss", None, "None is not allowed; give 'bce', "),
    ("rule", ["top_k"], "['top_k'] is not allowed; give 'top_k', "),
    ("lam", "half", "'half' is not allowed; give a number"),
    ("lam", True, "True is not allowed; give a number"),
    ("lam", -0.5, "-0.5 is not allowed; give at least 0"),
    ("lam", float("nan"), "nan is not allowed; give a finite number"),
    ("lam", float("inf"), "inf is not allowed; give a finite number"),
    ("tau", -1, "-1 is not allowed; give more than 0"),
    ("tau", 0, "0 is not allowed; give more than 0"),
    ("momentum", 1.1, "1.1 is not allowed; give at most 1"),
    ("threshold", -2, "-2 is not allowed; give at least -1"),
    ("hidden", -1, "-1 is not allowed; give at least 0"),
    ("projector_batch_norm", "yes", "'yes' is not allowed; give true or false"),
    ("projector_batch_norm", 1, "1 is not allowed; give true or false"),
    ("k", 65, "k <= dictionary_size must hold, but k is 65, dictionary_size is 64"),
    ("ml_from", 0.6, "ml_from <= nce_until must hold, but ml_from is 0.6, nce_until is 0.5"),
    ("normalise", "k", "'k' is not allowed; give 'dictionary', 'balanced' or 'positives'"),
    (
        "tua",
        0.2,
        "mlssl.method.mls.MLS has no such parameter (did you mean 'tau'?); it has k, dictionary_size, dim, tau, ",
    ),
]


@pytest.mark.parametrize(("name", "value", "words"), BAD, ids=str)
@pytest.mark.parametrize("section", ["params", "common", "values", "level"])
def test_a_value_that_a_method_does_not_take_is_refused_when_the_study_is_loaded(name, value, words, section):
    axis = {"values": {"method": "mls", "param": name, "values": [value]}}
    axis["level"] = {"levels": {"one": {"method": "mls", "params": {name: value}}}}
    places = {
        "params": {f"methods.mls.params.{name}": value},
        "common": {f"common.{name}": value},
        "values": {"ablations.axis": axis["values"]},
        "level": {"ablations.axis": axis["level"]},
    }[section]
    base = {"ablations": REMOVED, "methods.mls.params": {"nce_until": 0.5}, "common.dictionary_size": 64}
    text = refusal(base | places)
    assert name in text
    # What several parameters must fulfil together is said of the method.
    at = {"params": "methods.mls.params", "common": "methods.mls.params" if "must hold" in text else "common"}
    assert at.get(section, "ablations.axis") in text
    assert words in text or f"common.{name}: no method has this parameter" in text


def test_of_a_common_parameter_only_what_is_used_must_fit():
    assert loaded({"common.k": 1000}).runs  # MLS has its own
    assert "common.k" in refusal({"common.k": 1000.5, "methods.mls.params": REMOVED})


@pytest.mark.parametrize("target", [MLS, "baselines.moco_v2.MoCoV2", "baselines.densecl.DenseCL"])
def test_the_defaults_of_every_method_are_taken_as_they_are(target):
    takes = constructor(target)
    assert set(takes.defaults) == set(takes.types)
    found = resolve(target, {}, {}, "test")
    assert found == takes.defaults
    assert {key: type(value) for key, value in found.items()} == {k: type(v) for k, v in takes.defaults.items()}


def test_numbers_become_what_the_method_declares():
    found = resolve(MLS, {"tau": 1}, {"lam": 1, "k": 5}, "test")
    assert (type(found["tau"]), type(found["lam"]), type(found["k"])) == (float, float, int)


# --- A method outside of the package.

GOOD = [
    ({}, {"kind": "a", "share": 0.5, "most": None, "names": ("x", "y"), "smallest": 1, "loose": None, "quoted": 2}),
    ({"kind": "b", "most": 4, "names": [], "on": True}, {"kind": "b", "most": 4, "names": (), "on": True}),
    ({"loose": [1, {"a": "b"}], "free": None}, {"loose": [1, {"a": "b"}], "free": None}),
]


@pytest.mark.parametrize(("params", "wanted"), GOOD, ids=str)
def test_an_own_method_has_its_parameters_with_their_types(own, params, wanted):
    own()
    found = resolve("own_method.Own", {}, {"width": 8, "free": 1} | params, "test")
    assert found.items() >= wanted.items()
    takes = constructor("own_method.Own")
    assert set(takes.types) - set(takes.defaults) == {"width", "free"}
    assert "other" not in takes.types  # can be given by position, so it is none
    assert "numpy" not in sys.modules or "own_method" not in sys.modules  # it was read and not imported


OWN_BAD = [
    ({"width": REMOVED}, "own_method.Own needs 'width'; add it"),
    ({"free": REMOVED}, "own_method.Own needs 'free'; add it"),
    ({"width": 3}, "params.width: 3 is not allowed; give at least 4"),
    ({"width": 4.5}, "params.width: 4.5 is not allowed; give a whole number"),
    ({"width": 513}, "params.width: 513 is not allowed; give at most 512"),
    ({"kind": "c"}, "params.kind: 'c' is not allowed; give 'a' or 'b'"),
    ({"share": 1}, "params.share: 1 is not allowed; give less than 1.0"),
    ({"share": "all"}, "params.share: 'all' is not allowed; give a number"),
    ({"most": 3}, "params.most: 3 is not allowed; give at least 4"),
    ({"most": "all"}, "params.most: 'all' is not allowed; give a whole number"),
    ({"tau": 0}, "params.tau: 0 is not allowed; give more than 0.0"),
    ({"names": "x"}, "params.names: 'x' is not allowed; give a list"),
    ({"names": ["x", 1]}, "params.names.1: 1 is not allowed; give a text"),
    ({"smallest": 1.5}, "params.smallest: 1.5 is not allowed; give a whole number"),
    ({"smallest": True}, "params.smallest: True is not allowed; give a whole number"),
    ({"quoted": 0}, "params.quoted: 0 is not allowed; give at least 1"),
    ({"on": 0}, "params.on: 0 is not allowed; give true or false"),
    ({"other": 2}, "params.other: own_method.Own has no such parameter; it has width, kind, "),
    ({"smallest": 9}, "smallest <= width must hold, but smallest is 9, width is 8"),
    ({"loose": float("nan")}, "params.loose: nan is not allowed; give finite numbers"),
    ({"free": [1, float("-inf")]}, "params.free: [1, -inf] is not allowed; give finite numbers"),
]


@pytest.mark.parametrize(("params", "words"), OWN_BAD, ids=str)
def test_a_bad_value_of_an_own_method_is_refused_too(own, params, words):
    text = refusal(own() | {f"methods.own.params.{key}": value for key, value in params.items()})
    assert text.startswith("study.yaml: methods.own.params")
    assert words in text


UNREADABLE = "cannot be read"
NO_COMPARISON = "of own_method.Own is not a comparison of parameters and literals; fix it"
BROKEN = {
    "a type that is imported": (": Width", ": np.int64", f"width: its annotation 'np.int64' {UNREADABLE}"),
    "no type": (": Width", ": CONSTANT", f"width: its annotation 'CONSTANT' {UNREADABLE}"),
    "no expression": ('quoted: "Count"', "quoted: 'a b'", f"quoted: its annotation ''a b'' {UNREADABLE}"),
    "something called": ("width: Width", "width: len('x')", f"width: its annotation 'len('x')' {UNREADABLE}"),
    "a computed default": ("Positive = 0.2", "float = 1 / 5", "tau: its default '1 / 5' is not a literal; write"),
    "a default with a name": (
        "Positive = 0.2",
        "float = CONSTANT",
        "its default 'CONSTANT' is not a literal",
    ),
    "a default of another type": ("Positive = 0.2", "Positive = ''", "tau: '' is not allowed; give a number"),
    "REQUIRES of a name": ("0 < tau", "0 < nothing", f"REQUIRES '0 < nothing' {NO_COMPARISON}"),
    "REQUIRES of a call": ("0 < tau", "abs(tau) < 1", f"REQUIRES 'abs(tau) < 1' {NO_COMPARISON}"),
    "REQUIRES of a text": ("0 < tau", "kind", f"REQUIRES 'kind' {NO_COMPARISON}"),
    "REQUIRES of types": ("0 < tau", "kind < tau", f"REQUIRES 'kind < tau' {NO_COMPARISON}"),
    "REQUIRES of no Python": ("0 < tau", "0 <", f"REQUIRES '0 <' {NO_COMPARISON}"),
    "no Python": ("class Own:", "class Own", "own_method.py, line 16: is not valid Python (expected ':'); fix it"),
    "a null byte": ("class Own:", "\0", "own_method.py: is not valid Python"),
    "another class": ("class Own:", "class Other:", "its module has no class Own"),
}


@pytest.mark.parametrize(("old", "new", "words"), BROKEN.values(), ids=BROKEN)
def test_a_method_whose_source_cannot_be_read_is_refused_in_one_sentence(own, old, new, words):
    assert OWN.count(old) == 1
    text = refusal(own(OWN.replace(old, new)))
    assert text.startswith("study.yaml: methods.own")
    assert words in text


@pytest.mark.parametrize(
    ("requires", "holds"),
    [("= 'width <= 8'", True), (": tuple = ('width < 8',)", False), ("= ('most <= 3',)", True)],
)
def test_requirements_may_be_written_in_several_ways_and_null_fulfils_all(own, requires, holds):
    places = own(OWN.replace('REQUIRES = ("smallest <= width", "0 < tau")', f"REQUIRES{requires}"))
    if holds:
        assert loaded(places).runs
    else:
        assert "width < 8 must hold, but width is 8" in refusal(places)


def test_a_class_without_a_constructor_of_its_own_is_refused(own):
    assert "own_method.Own'" in (said := refusal(own("class Own:\n    pass\n")))
    assert "has no __init__ of its own; write one with its parameters" in said


def test_an_own_method_in_another_encoding_is_read_as_python_reads_it(own):
    places = own()
    Path("own_method.py").write_bytes(b"# -*- coding: latin-1 -*-\n# \xe9\n" + OWN.encode())
    assert loaded(places).runs


TARGETS = ("own_method", "own_method.", ".Own", "..Own", "nowhere.Own", "math.Own", "empty_package.Own")


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_that_is_not_there_is_refused(own, target):
    own()
    Path("empty_package").mkdir()
    text = refusal({"methods.mls.target": target})
    assert f"methods.mls: target '{target}'" in text
    with pytest.raises(ConfigError, match="target"):
        load_class(target)


# --- The same by hand: a run's own file.

RUN = {"data": {"root": "photos"}, "method": "mls", "target": MLS, "params": {"k": 5}}
BY_HAND = [
    ({"epochs": 0}, "epochs: 0 is not allowed; give more than 0.0"),
    ({"epochs": True}, "epochs: True is not allowed; give a number"),
    ({"epochs": float("nan")}, "epochs: nan is not allowed; give a finite number"),
    ({"epochs": float("inf")}, "epochs: inf is not allowed; give a finite number"),
    ({"epochs": None}, "give exactly one of epochs and steps"),
    ({"steps": 5}, "give exactly one of epochs and steps"),
    ({"steps": 2.5, "epochs": None}, "steps: 2.5 is not allowed; give a whole number"),
    ({"steps": 0, "epochs": None}, "steps: 0 is not allowed; give at least 1"),
    ({"batch_size": 1}, "batch_size: 1 is not allowed; give at least 2"),
    ({"batch_size": 8.0}, "batch_size: 8.0 is not allowed; give a whole number"),
    ({"lr": 0}, "lr: 0 is not allowed; give more than 0.0"),
    ({"lr": "1e-4x"}, "lr: '1e-4x' is not allowed; give a number"),
    ({"sgd_momentum": 1}, "sgd_momentum: 1 is not allowed; give less than 1.0"),
    ({"weight_decay": -1}, "weight_decay: -1 is not allowed; give at least 0.0"),
    ({"warmup": 1}, "warmup: 1 is not allowed; give less than 1.0"),
    ({"seed": -1}, "seed: -1 is not allowed; give at least 0"),
    ({"seed": "0"}, "seed: '0' is not allowed; give a whole number"),
    ({"backbone": 50}, "backbone: 50 is not allowed; give a text"),
    ({"batch_norm": "none"}, "batch_norm: 'none' is not allowed; give 'sync', 'local' or 'shuffle'"),
    ({"precision": "fp8"}, "precision: 'fp8' is not allowed; give 'auto', 'fp32', 'tf32', 'bf16' or 'fp16'"),
    ({"init": ""}, "init: '' is not allowed; give a text"),
    ({"views": {"hue": 0.6}}, "views.hue: 0.6 is not allowed; give at most 0.5"),
    ({"views": {"flip_p": 2}}, "views.flip_p: 2 is not allowed; give at most 1.0"),
    ({"views": {"scale": [0, 1]}}, "views.scale.0: 0 is not allowed; give more than 0.0"),
    ({"views": {"scale": 0.2}}, "views.scale: 0.2 is not allowed; give a list"),
    ({"views": {"crops": 3}}, "views: unknown key 'crops' (did you mean 'crop'?); known are crop, scale, "),
    ({"views": []}, "views: [] is not allowed; give a mapping such as {key: value}"),
    ({"data": {"root": "x", "short_side": 8}}, "data.short_side: 8 is not allowed; give pixels, at least 16"),
    ({"data": {}}, "data: key 'root' is missing; add it"),
    ({"data": REMOVED}, "key 'data' is missing; add it"),
    ({"method": REMOVED}, "key 'method' is missing; add it"),
    ({"params": [5]}, "params: [5] is not allowed; give a mapping such as {key: value}"),
    ({"lamda": 1}, "unknown key 'lamda'; known are data, method, target, params, "),
    ({"log_every": 0}, "log_every: 0 is not allowed; give at least 1"),
]


@pytest.mark.parametrize(("changes", "words"), BY_HAND, ids=str)
def test_a_bad_setting_of_a_run_is_refused_by_hand(changes, words):
    values = {key: value for key, value in (RUN | changes).items() if value is not REMOVED}
    Path("run.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError) as refused:
        read(Pretrain, Path("run.yaml"))
    assert str(refused.value).startswith("run.yaml: ")
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"k": 2.5}, "params.k: 2.5 is not allowed; give a whole number"),
        ({"kk": 2}, "params.kk: mlssl.method.mls.MLS has no such parameter"),
        ({"dictionary_size": 4, "k": 5}, "k <= dictionary_size must hold"),
    ],
)
def test_a_bad_parameter_of_a_run_is_refused_by_hand(params, words):
    Path("run.yaml").write_text(yaml.safe_dump(RUN | {"params": params, "backbone": "test_resnet"}))
    with pytest.raises(ConfigError) as refused:
        build_method(read(Pretrain, Path("run.yaml")), torch.device("cpu"))
    assert words in str(refused.value)


def test_a_run_written_out_reads_back_the_same():
    for run in loaded().runs.values():
        Path("run.yaml").write_text(yaml.safe_dump(plain(run.config)))
        assert read(Pretrain, Path("run.yaml")) == run.config


def test_of_requirements_joined_by_or_one_is_enough():
    needs = ("a == 1 or b != 'x'",)
    for values in ({"a": 1, "b": "x"}, {"a": 2, "b": "y"}, {"a": None, "b": "x"}):
        check_requirements(needs, values, "here", "Own")
    with pytest.raises(ConfigError, match=r"here: a == 1 or b != 'x' must hold, but a is 2, b is x"):
        check_requirements(needs, {"a": 2, "b": "x"}, "here", "Own")


@pytest.mark.parametrize("loss", ["knn_softmax", "positive_unlabelled"])
def test_a_loss_that_normalise_does_not_change_refuses_another_one(loss):
    with pytest.raises(ConfigError, match=f"loss is {loss}"):
        resolve("mlssl.method.mls.MLS", {}, {"loss": loss, "normalise": "balanced"}, "here")
