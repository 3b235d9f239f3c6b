"""A method with its own recipe: killed and resumed; the study that gives each its own; a collapse is said."""

import dataclasses
import json
from pathlib import Path

import pytest
from test_engine import assert_same, make_settings, store, train  # noqa: F401

from mlssl.pretrain import result
from mlssl.study.load import load

ROOT = Path(__file__).parents[1]
LARS = {"optimiser": "lars", "decay_norm_and_bias": False, "weight_decay": 1e-5, "lr": 0.25}
BYOL = [{"blur_p": 1.0}, {"blur_p": 0.1, "solarise_p": 0.2, "overlap": 0.01}]
SMALL = {"crop": 32, "scale": [0.05, 0.14], "overlap": 0.1, "overlap_view": 2}
RECIPES = {
    "slotcon": LARS | {"each_view": BYOL},
    "simsiam": {"predictor_schedule": "constant", "predictor_lr": 2.0},
    "knn_moco": {"each_view": [{"crop": 40}, {"crop": 40}, SMALL, SMALL]},
}


@pytest.mark.parametrize(
    "method", [name if name == "slotcon" else pytest.param(name, marks=pytest.mark.long) for name in RECIPES]
)
def test_a_killed_run_ends_bit_for_bit_with_its_own_recipe_too(store, tmp_path, monkeypatch, method):  # noqa: F811
    settings = make_settings(method, **RECIPES[method])
    whole = train(settings, store, tmp_path / "whole")
    resumed = train(settings, store, tmp_path / "resumed", kill_after=3, monkeypatch=monkeypatch)
    for values in (whole, resumed):
        values.pop("seconds")
        values.pop("log")  # holds rates
    assert_same(whole, resumed)


def logged(path, *spreads):
    lines = [{"step": i} if s is None else {"step": i, "diagnostics": {"spread": s}} for i, s in enumerate(spreads)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_run_that_ends_collapsed_says_so_in_its_result(store, tmp_path, monkeypatch):  # noqa: F811
    assert result.collapse(logged(tmp_path / "a", 0.9, 0.02, 0.8)) == {}  # recovered
    assert result.collapse(logged(tmp_path / "b", None, None)) == {}
    note = result.collapse(logged(tmp_path / "c", 0.9, 0.0213))["collapse"]
    assert note == (
        "the embeddings have collapsed: their spread is 0.0213 at the end; random directions have 1, and less "
        "than 0.1 counts as a collapse"
    )
    for limit, expected in ((0.0, False), (9.0, True)):
        monkeypatch.setattr(result, "COLLAPSED", limit)
        train(make_settings("simsiam", steps=1), store, tmp_path / str(limit))
        notes = json.loads((tmp_path / str(limit) / "pretrain.json").read_text())["header"]["notes"]
        assert ("collapse" in notes) == expected


PUBLISHED = {
    "moco_v2": (0.3, 1e-4, "sgd"),
    "densecl": (0.3, 1e-4, "sgd"),
    "mls": (0.3, 1e-4, "sgd"),
    "mls_balanced": (0.3, 1e-4, "sgd"),
    "resim": (0.3, 1e-4, "sgd"),
    "knn_moco": (0.3, 1e-4, "sgd"),
    "knn_moco_others": (0.3, 1e-4, "sgd"),
    "nnclr": (0.3, 1e-6, "lars"),
    "msf": (0.05, 1e-4, "sgd"),
    "byol": (0.2, 1e-4, "sgd"),
    "self_emd": (0.2, 1e-4, "sgd"),
    "simsiam": (0.05, 1e-4, "sgd"),
    "pixpro": (1.0, 1e-5, "lars"),
    "pixcontrast": (1.0, 1e-5, "lars"),
    "soco_random_boxes": (1.0, 1e-5, "lars"),
    "slotcon": (1.0, 1e-5, "lars"),
}
"""Learning rate per 256 images, weight decay, optimiser."""
OF_A_RECIPE = {
    "optimiser",
    "lr",
    "weight_decay",
    "decay_norm_and_bias",
    "warmup",
    "each_view",
    "predictor_schedule",
    "zero_init_residual",
}


def test_the_second_study_differs_from_the_first_in_published_recipes_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = []
    for name in ("competitors", "competitors_recipes"):
        study = load(ROOT / "config" / f"{name}.yaml")
        assert len(study.file.compare) == len(set(study.file.compare))
        found.append({run.config.method: run.config for run in study.runs.values()})
    assert found[0].keys() == found[1].keys()
    for method, (rate, decay, optimiser) in PUBLISHED.items():
        one, other = found[0][method], found[1][method]
        differ = {f.name for f in dataclasses.fields(one) if getattr(one, f.name) != getattr(other, f.name)}
        assert differ <= OF_A_RECIPE, method
        assert other.lr == pytest.approx(rate * other.batch_size / 256), method
        assert (other.weight_decay, other.optimiser) == (decay, optimiser), method
        assert other.decay_norm_and_bias == (optimiser == "sgd"), method
        assert other.predictor_schedule == ("constant" if method == "simsiam" else "cosine")
    same = found[0].keys() - PUBLISHED.keys()
    assert same == {"random", "supervised"}
    assert all(found[0][method] == found[1][method] for method in same)
