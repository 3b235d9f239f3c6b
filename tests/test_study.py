"""A study file becomes runs: shared, named by what they are, and refused when it cannot work."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mlssl import config, scalars, study

ROOT = Path(__file__).parents[1]


@pytest.fixture
def values():
    return {
        "name": "small",
        "about": "a test",
        "data": {"scenes": {"images": 8, "val_images": 4, "size": [64, 64], "seed": 0}},
        "seeds": [0, 1],
        "pretrain": {"backbone": "resnet18", "epochs": 2, "batch_size": 4},
        "common": {"dictionary_size": 64},
        "methods": {
            "mls": {"target": "mlssl.method.mls.MLS", "params": {"k": 5}},
            "moco_v2": {"target": "baselines.moco_v2.MoCoV2"},
            "random": {},
        },
        "compare": ["random", "moco_v2", "mls"],
        "ablations": {
            "k": {"method": "mls", "param": "k", "values": [1, 5]},
            "loss": {
                "levels": {
                    "infonce": {"method": "moco_v2"},
                    "infonce+bce": {"method": "mls", "params": {"loss": "bce"}},
                    "infonce+bce_pos": {"method": "mls", "params": {"loss": "bce_pos"}},
                }
            },
        },
        "transfers": {"linear": {"size": 32}, "detection": {"runs": "compare", "seeds": [1]}},
    }


@pytest.fixture
def load(tmp_path):
    def write_and_load(values):
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump(values))
        return study.load(path)

    return write_and_load


def test_runs_that_two_tables_want_are_trained_once(load, values):
    loaded = load(values)
    by_cell = {}
    for cell in loaded.cells:
        by_cell.setdefault((cell.axis, cell.level), []).append(cell.run)
    assert by_cell["method", "mls"] == by_cell["k", "5"] == by_cell["loss", "infonce+bce"]
    assert by_cell["method", "moco_v2"] == by_cell["loss", "infonce"]
    assert len(loaded.runs) == 2 * 5  # random, moco_v2, mls, k = 1, bce_pos
    assert all(len(runs) == 2 for runs in by_cell.values())


def test_only_what_a_change_concerns_gets_a_new_name(load, values):
    before = set(load(values).runs)
    values["ablations"]["k"]["values"] = [2, 5]
    after = set(load(values).runs)
    assert len(before - after) == len(after - before) == 2
    values["transfers"]["linear"]["size"] = 64
    assert set(load(values).runs) == after
    values["pretrain"]["lr"] = 0.01
    assert not after & set(load(values).runs)


def test_seeds_share_a_digest_and_defaults_are_written_out(load, values):
    runs = list(load(values).runs.values())
    assert len({run.digest for run in runs}) == len(runs) / 2
    mls = next(run.config for run in runs if run.config.method == "mls")
    defaults = scalars.constructor_defaults("mlssl.method.mls.MLS")
    assert mls.params == defaults | {"k": 5, "dictionary_size": 64}
    assert defaults["k"] == 20


def test_transfers_serve_the_runs_asked_for(load, values):
    loaded = load(values)
    assert len(loaded.transfer_runs["linear"]) == 10
    served = [loaded.runs[r].config for r in loaded.transfer_runs["detection"]]
    assert [(c.method, c.seed) for c in served] == [("random", 1), ("moco_v2", 1), ("mls", 1)]


def broken(path, value):
    def change(values):
        *parents, last = path.split(".")
        for key in parents:
            values = values[key]
        values[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (broken("colour", 1), ["colour"]),
        (broken("pretrain.epoch", 3), ["pretrain", "epoch"]),
        (broken("pretrain.views", {"crops": 3}), ["pretrain.views", "crops"]),
        (broken("pretrain.batch_size", "many"), ["pretrain.batch_size", "many"]),
        (broken("pretrain.steps", 3), ["exactly one of epochs and steps"]),
        (broken("transfers.linear.sizes", 3), ["transfers.linear", "sizes"]),
        (broken("transfers.knn", {}), ["transfers", "knn"]),
        (broken("common.dictionary", 3), ["common.dictionary", "dictionary_size"]),
        (broken("methods.mls.params.kk", 3), ["methods.mls", "params.kk", "dictionary_size"]),
        (broken("methods.mls.target", "mlssl.method.mls.SLM"), ["SLM"]),
        (broken("methods.mls.target", "mlssl.method.slm.MLS"), ["mlssl.method.slm"]),
        (broken("compare", ["mls", "byol"]), ["byol", "moco_v2"]),
        (broken("ablations.k.param", "kk"), ["params.kk"]),
        (broken("data.root", "here"), ["data"]),
        (broken("seeds", []), ["seeds"]),
        (broken("name", "../up"), ["name"]),
    ],
)
def test_a_study_that_cannot_work_is_refused_with_file_and_key(load, values, change, words):
    change(values)
    with pytest.raises(config.ConfigError) as refused:
        load(values)
    for word in ["study.yaml", *words]:
        assert word in str(refused.value)


@pytest.mark.parametrize(("cls", "where"), [(config.Pretrain, "pretrain"), *study.TRANSFERS.items()])
def test_schema_and_configurations_know_the_same_keys(cls, where):
    if isinstance(cls, str):
        cls, where = where, cls
    schema = yaml.safe_load(study.SCHEMA.read_text())["properties"]
    properties = (
        schema["pretrain"]["properties"]
        if where == "pretrain"
        else schema["transfers"]["properties"][where]["properties"]
    )
    elsewhere = {"data", "method", "target", "params", "seed"} if where == "pretrain" else {"data"}
    selecting = set() if where == "pretrain" else {"runs", "seeds"}
    assert set(properties) - selecting == {f.name for f in dataclasses.fields(cls)} - elsewhere
    if where == "pretrain":
        assert set(properties["views"]["properties"]) == {f.name for f in dataclasses.fields(config.Views)}


@pytest.mark.parametrize("path", sorted(ROOT.glob("config/*.yaml")), ids=lambda p: p.name)
def test_every_study_that_ships_is_valid(path):
    assert study.load(path).runs


def test_expansion_imports_no_torch():
    code = "import sys; from mlssl import study; study.load('config/demo.yaml'); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_plain_configuration_reads_back_the_same(tmp_path, load, values):
    for run in load(values).runs.values():
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(config.plain(run.config)))
        assert config.read(config.Pretrain, path) == run.config


@pytest.mark.parametrize(
    ("text", "word"), [("lr: [1", "not valid YAML"), ("3", "mapping"), ("lr: 1", "'data' is missing")]
)
def test_a_run_file_that_cannot_be_read_is_named(tmp_path, text, word):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(config.ConfigError, match=word) as refused:
        config.read(config.Pretrain, path)
    assert "run.yaml" in str(refused.value)
