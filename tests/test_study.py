"""A study file becomes runs: shared, named by what they are, and refused when it cannot work."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from support.study import EXAMPLE, MLS, REMOVED, changed, loaded
from support.tiny_coco import write_coco

from mlssl.errors import ConfigError
from mlssl.study.load import freeze, load, thaw
from mlssl.study.methods import constructor
from mlssl.study.study import FROZEN

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_runs_that_two_tables_want_are_trained_once():
    study = loaded()
    by_cell = {}
    for cell in study.cells:
        by_cell.setdefault((cell.axis, cell.level), []).append(cell.run)
    assert by_cell["method", "mls"] == by_cell["k", "5"] == by_cell["loss", "infonce+bce"]
    assert by_cell["method", "moco_v2"] == by_cell["loss", "infonce"]
    assert len(study.runs) == 2 * 5  # random, moco_v2, mls, k = 1, bce_pos
    assert all(len(runs) == 2 for runs in by_cell.values())


def test_methods_that_differ_in_their_name_alone_share_a_run():
    same = {"methods.again": EXAMPLE["methods"]["mls"], "compare": ["again", "mls"], "ablations": REMOVED}
    study = loaded(same)
    assert len(study.runs) == 2
    assert [(c.level, study.runs[c.run].config.method) for c in study.cells] == [
        *[("again", "again")] * 2,
        *[("mls", "again")] * 2,
    ]


def test_only_what_a_change_concerns_gets_a_new_name():
    before = set(loaded().runs)
    after = set(loaded({"ablations.k.values": [2, 5]}).runs)
    assert len(before - after) == len(after - before) == 2
    assert set(loaded({"transfers.linear.size": 64}).runs) == before
    assert not before & set(loaded({"pretrain.lr": 0.01}).runs)


def test_seeds_share_a_digest_and_defaults_are_written_out():
    runs = list(loaded().runs.values())
    assert len({run.digest for run in runs}) == len(runs) / 2
    mls = next(run for run in runs if run.config.method == "mls" and run.config.seed == 1)
    defaults = constructor(MLS).defaults
    assert mls.config.params == defaults | {"k": 5, "dictionary_size": 64}
    assert defaults["k"] == 20
    assert mls.id == f"mls-{mls.digest[:8]}-s1"


def test_transfers_serve_the_runs_asked_for():
    study = loaded()
    assert len(study.transfer_runs["linear"]) == 10
    served = [study.runs[r].config for r in study.transfer_runs["detection"]]
    assert [(c.method, c.seed) for c in served] == [("random", 1), ("moco_v2", 1), ("mls", 1)]


SEARCH = {"method": "mls", "sizes": [64]}
REFUSED = [
    # Keys that nobody knows, at every depth.
    ({"colour": 1}, "unknown key 'colour'", "search_benchmark"),
    ({"data.colour": 1}, "data: unknown key 'colour'", "scenes"),
    ({"data.scenes.colour": 1}, "data.scenes: unknown key 'colour'", "val_images"),
    ({"transfer_data": {"root": "x", "colour": 1}}, "transfer_data: unknown key 'colour'", "photos"),
    ({"pretrain.epoch": 3}, "pretrain: unknown key 'epoch'", "epochs"),
    ({"pretrain.seed": 3}, "pretrain: unknown key 'seed'", "known are"),
    ({"pretrain.init_id": "x"}, "pretrain: unknown key 'init_id'", "known are"),
    ({"pretrain.views.crops": 3}, "pretrain.views: unknown key 'crops'", "flip_p"),
    ({"methods.mls.colour": 3}, "methods.mls: unknown key 'colour'", "params"),
    ({"methods.mls.params.kk": 3}, "methods.mls.params.kk: mlssl.method.mls.MLS has no such", "dictionary_size"),
    ({"methods.mls.pretrain.lrs": 3}, "methods.mls.pretrain: unknown key 'lrs'", "lr,"),
    ({"methods.mls.pretrain.views.crops": 3}, "methods.mls.pretrain.views: unknown key 'crops'", "flip_p"),
    ({"methods.random.params.k": 3}, "methods.random.params.k", "without a target"),
    ({"common.dictionary": 3}, "common.dictionary", "dictionary_size"),
    ({"ablations.k.colour": 3}, "ablations.k: unknown key 'colour'", "levels"),
    ({"ablations.k.param": "kk"}, "ablations.k.values.params.kk", "no such parameter"),
    ({"ablations.loss.levels.infonce.param": 3}, "ablations.loss.levels.infonce: unknown key 'param'", "params"),
    ({"ablations.loss.levels.infonce.params": {"k": 3}}, "ablations.loss.levels.infonce.params.k", "MoCoV2 has no"),
    ({"transfers.nn": {}}, "transfers: unknown key 'nn'", "linear"),
    ({"transfers.linear.sizes": 3}, "transfers.linear: unknown key 'sizes'", "fractions"),
    ({"pictures": {"query": 3}}, "pictures: unknown key 'query'", "queries"),
    ({"search_benchmark": SEARCH | {"size": 3}}, "search_benchmark: unknown key 'size'", "sizes"),
    # Keys that are missing.
    ({"methods": REMOVED}, "key 'methods' is missing", "add it"),
    ({"data.scenes.seed": REMOVED}, "data.scenes: key 'seed' is missing", "add it"),
    ({"search_benchmark": {"method": "mls"}}, "search_benchmark: key 'sizes' is missing", "add it"),
    ({"ablations.loss.levels.infonce": {}}, "ablations.loss.levels.infonce: key 'method' is missing", "add it"),
    # Values of another type, or out of range.
    ({"pretrain.batch_size": "many"}, "pretrain.batch_size: 'many'", "whole number"),
    ({"pretrain.views.crop": 8}, "pretrain.views.crop: 8", "at least 32"),
    ({"pretrain.views.scale": [1.0, 0.2]}, "pretrain.views.scale: [1.0, 0.2]", "the smaller number first"),
    ({"pretrain.steps": 3}, "pretrain", "exactly one of epochs and steps"),
    ({"pretrain.epochs": None}, "pretrain", "exactly one of epochs and steps"),
    ({"pretrain.epochs": 0.1}, "epochs 0.1 of 8 images in batches of 4 are 0 steps", "give more"),
    ({"pretrain.backbone": "resnet5o"}, "pretrain.backbone: timm knows no model 'resnet5o'", "resnet50"),
    ({"pretrain.backbone": "qqqqqqqq"}, "timm knows no model 'qqqqqqqq'", "timm.list_models()"),
    ({"transfers.linear.size": 8}, "transfers.linear.size: 8", "at least 32"),
    ({"transfers.linear": 3}, "transfers.linear: 3", "a mapping"),
    ({"transfers.detection.runs": "some"}, "transfers.detection.runs: 'some'", "'all' or 'compare'"),
    ({"transfers.detection.seeds": [7]}, "transfers.detection.seeds: 7 is not a seed of the study", "it has 0, 1"),
    ({"pretrain.views": {"scale": [0.2, 1.5]}}, "pretrain.views.scale", "at most 1"),
    ({"ablations.k.seeds": [7]}, "ablations.k.seeds: 7 is not a seed of the study", "it has 0, 1"),
    ({"ablations.k.seeds": []}, "ablations.k.seeds: []", "at least 1"),
    ({"transfers.detection.seeds": []}, "transfers.detection.seeds: []", "at least 1"),
    ({"data.scenes.size": [64]}, "data.scenes.size: value 2 is missing", "add it"),
    ({"data.scenes.size": [64, 64, 64]}, "data.scenes.size: [64, 64, 64]", "give 2"),
    ({"data.short_side": 32.5}, "data.short_side: 32.5", "whole number or a text"),
    ({"data.scenes.images": 0}, "data.scenes.images: 0", "at least 1"),
    ({"data.short_side": 8}, "data.short_side: 8", "at least 16, or full"),
    ({"data.short_side": "all"}, "data.short_side: 'all'", "at least 16, or full"),
    ({"seeds": []}, "seeds: []", "at least 1"),
    ({"seeds": [0, 0]}, "seeds", "each may be given once"),
    ({"ablations.k.seeds": [0, 0]}, "ablations.k.seeds: [0, 0] is", "each may be given once"),
    ({"transfers.linear.seeds": [1, 1]}, "transfers.linear.seeds: [1, 1] is", "each may be given once"),
    ({"transfers.linear.fractions": [1, 0.1, 1.0]}, "transfers.linear.fractions: [1", "each may be given once"),
    ({"transfers.knn": {"neighbours": [5, 5]}}, "transfers.knn.neighbours: [5, 5] is", "each may be given once"),
    ({"transfers.dense": {"shrinkages": [1, 1.0]}}, "transfers.dense.shrinkages: [1", "each may be given once"),
    ({"transfers.dense": {"shrinkages": [2]}}, "transfers.dense.shrinkages.0: 2", "at most 1"),
    ({"search_benchmark": {"method": "mls", "sizes": [8, 8]}}, "search_benchmark.sizes", "each may be given once"),
    ({"seeds": 3}, "seeds: 3", "a list"),
    ({"seeds": [-1]}, "seeds.0: -1", "at least 0"),
    ({"name": "../up"}, "name: '../up'", "give lower-case letters, digits"),
    ({"about": 3}, "about: 3", "a text"),
    ({"gpus_per_run": 0}, "gpus_per_run: 0", "at least 1"),
    ({"pictures": {"dictionary_size": 1}}, "pictures.dictionary_size: 1", "at least 2"),
    # What does not fit together.
    ({"compare": ["mls", "byol"]}, "compare: method 'byol'", "known are mls, moco_v2, random"),
    ({"compare": ["mls", "mls"]}, "compare", "each may be given once"),
    ({"compare": []}, "compare: []", "at least 1"),
    ({"data.root": "here"}, "data: root and scenes are given", "give one of"),
    ({"data": {}}, "data: none is given", "give one of"),
    ({"methods.mls.target": "mlssl.method.mls.SLM"}, "methods.mls: target", "no class SLM"),
    ({"methods.mls.target": "mlssl.method.slm.MLS"}, "methods.mls: target", "mlssl.method.slm"),
    ({"methods.mls.target": "MLS"}, "methods.mls: target 'MLS'", "package.module.Class"),
    ({"methods.mls.target": ""}, "methods.mls: target ''", "package.module.Class"),
    ({"methods.mls.target": "sys.MLS"}, "methods.mls: target 'sys.MLS'", "package.module.Class"),
    ({"methods.BYOL": {}}, "methods.BYOL", "give lower-case letters, digits"),
    ({"ablations.method": {"levels": {"a": {"method": "mls"}}}}, "ablations.method", "give another"),
    ({"ablations.k.values": [5, 5]}, "ablations.k: values", "each may be given once"),
    ({"ablations.k.values": []}, "ablations.k.values: []", "at least 1"),
    ({"ablations.k.values": REMOVED}, "ablations.k: give method, param and values, or levels", ""),
    ({"ablations.k.levels": {"a": {"method": "mls"}}}, "ablations.k: give method, param and values, or levels", ""),
    ({"ablations.loss.levels": {}}, "ablations.loss.levels: {}", "at least 1"),
    ({"ablations.k.method": "slm"}, "ablations.k: 1: method 'slm' is not under methods", "known are"),
    ({"search_benchmark": SEARCH | {"method": "byol"}}, "search_benchmark.method: 'byol' is not compared", "mls"),
    ({"pretrain.batch_size": 9}, "batch_size 9 is larger than the dataset of 8 images", "give less"),
    ({"common.dictionary_size": 3, "methods.mls.params.k": 1}, "dictionary_size 3", "at least 4"),
    ({"gpus_per_run": 3}, "4 cannot be shared evenly by 3 GPUs", "give a multiple"),
    ({"gpus_per_run": 4, "nodes": 3}, "gpus_per_run 4 cannot be shared evenly by 3 nodes", "give a multiple"),
]


@pytest.mark.parametrize(("places", "words", "remedy"), REFUSED, ids=lambda v: str(v)[:60])
def test_a_study_that_cannot_work_is_refused_with_file_key_and_remedy(places, words, remedy):
    with pytest.raises(ConfigError) as refused:
        loaded(places)
    text = str(refused.value)
    assert text.startswith("study.yaml: ")
    assert words in text
    assert remedy in text
    assert "\n" not in text


LEVELS = "ablations: {k: {levels: {one: {method: mls}, one: {method: random}}}}\n"
FILES = {
    "not UTF-8": (b"name: caf\xe9\n", "byte 9 is not UTF-8; save the file as UTF-8"),
    "UTF-16": ("name: small\n".encode("utf-16"), "byte 0 is not UTF-8; save the file as UTF-8"),
    "empty": (b"", "holds nothing; give a mapping of keys to values"),
    "only a comment": (b"# nothing\n", "holds nothing; give a mapping of keys to values"),
    "a list": (b"- name: small\n", "holds list; give a mapping of keys to values"),
    "a text": (b"small", "holds str; give a mapping of keys to values"),
    "tabs": (b"pretrain:\n\tlr: 1\n", "not valid YAML"),
    "open bracket": (b"seeds: [0\n", "not valid YAML"),
    "a null byte": (b"name: sm\0all\n", "not valid YAML"),
    "two documents": (b"name: small\n---\nname: large\n", "not valid YAML"),
    "a key twice": (b"name: small\nabout: x\nname: large\n", "key 'name' is given twice"),
    "a level twice": (LEVELS.encode(), "key 'one' is given twice"),
    "a date as a key": (b"2020-01-01: 3\n", "give texts, numbers, lists, mappings"),
    "itself within": (b"seeds: &seeds [*seeds]\n", "give texts, numbers, lists, mappings"),
    "an object": (b"name: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
}


@pytest.mark.parametrize("in_job", [False, True])
@pytest.mark.parametrize(("content", "words"), FILES.values(), ids=FILES)
def test_a_file_that_is_no_study_is_refused_in_one_sentence(content, words, in_job):
    Path("odd.yaml").write_bytes(content)
    with pytest.raises(ConfigError) as refused:
        load("odd.yaml", in_job=in_job)
    assert str(refused.value).startswith("odd.yaml: ")
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_folder_and_a_missing_file_are_refused():
    Path("folder.yaml").mkdir()
    with pytest.raises(ConfigError, match=r"folder\.yaml: cannot be read \(Is a directory\); check the path"):
        load("folder.yaml")
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file; give the path of a study"):
        load("none.yaml")


def test_a_byte_order_mark_and_windows_line_ends_are_accepted():
    text = yaml.safe_dump(EXAMPLE).replace("\n", "\r\n")
    Path("study.yaml").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert load("study.yaml").runs == loaded().runs


def test_a_key_that_a_merge_brings_may_be_given_again():
    text = yaml.safe_dump({k: v for k, v in EXAMPLE.items() if k != "pretrain"})
    text += "pretrain: {<<: &base {backbone: resnet18, epochs: 9}, epochs: 2, batch_size: 4}\n"
    Path("study.yaml").write_text(text)
    assert load("study.yaml").runs == loaded().runs


@pytest.mark.parametrize(
    ("base", "own", "words"),
    [
        ("- 1", "extends: base.yaml", "own.yaml: extends: base.yaml is not a study"),
        ("name: caf\xe9", "extends: base.yaml", "base.yaml: byte 9 is not UTF-8"),
        ("colour: 1", "extends: base.yaml", "own.yaml: unknown key 'colour'"),
        ("", "extends: [base.yaml]", "own.yaml: extends: base.yaml is not a study"),
        ("name: a", "extends: [base.yaml, none.yaml]", "own.yaml: extends: none.yaml: no file"),
    ],
)
def test_the_file_at_fault_is_named_in_a_chain(base, own, words):
    Path("base.yaml").write_text(base, encoding="latin-1")
    Path("own.yaml").write_text(own)
    with pytest.raises(ConfigError) as refused:
        load("own.yaml")
    assert words in str(refused.value)


@pytest.mark.parametrize("middle", ["note", "section"])
@pytest.mark.parametrize(
    ("section", "key"), [("ablations", None), ("ablations", "k"), ("transfers", "detection"), ("methods", "mls")]
)
def test_null_removes_a_mapping_from_whichever_file_of_a_chain_it_is(section, key, middle):
    base = changed({"compare": ["moco_v2"], "ablations": {"k": EXAMPLE["ablations"]["k"] | {"method": "moco_v2"}}})
    base["ablations"]["k"] |= {"param": "dictionary_size", "values": [64, 128]}
    Path("base.yaml").write_text(yaml.safe_dump(base))
    given = {section: {"k2": base["ablations"]["k"]} if section == "ablations" else base[section]}
    values = {"note": {"about": "in between"}, "section": given}[middle]
    Path("middle.yaml").write_text(yaml.safe_dump({"extends": "base.yaml"} | values))
    Path("own.yaml").write_text(yaml.safe_dump({"extends": "middle.yaml", section: key and {key: None}}))
    left = getattr(load("own.yaml").file, section)
    assert (key not in left) if key else not left


@pytest.mark.parametrize("path", sorted(ROOT.glob("config/*.yaml")), ids=lambda p: p.name)
def test_every_study_that_ships_is_valid(path):
    assert load(path).runs


def test_the_axes_of_label_force_go_on_from_the_runs_of_the_reference_study():
    further, reference = (load(ROOT / "config" / f"{name}.yaml") for name in ("label_force", "reference"))
    at_512 = {cell.run for cell in further.cells if cell.level.startswith("D = 512")}
    assert len(at_512) == 6
    assert at_512 < further.runs.keys() & reference.runs.keys()
    grid = {cell.run for cell in further.cells if cell.axis == "k_by_dictionary_size_at_force"}
    params = [further.runs[run].config.params for run in grid]
    assert {(p["normalise"], p["lam"]) for p in params} == {("balanced", 4.0)}
    assert all(p["k"] <= 0.01 * p["dictionary_size"] for p in params)


# --- Frozen for the jobs of Snakemake.

FOLDER = {"data": {"root": "photos"}, "transfers.pseudo_labels": {}, "pretrain.init": "w.pth"}
FROZEN_STUDIES = {
    "scenes": {},
    "folder": FOLDER,
    "two folders": FOLDER | {"transfer_data": {"root": "others"}},
    "levels of all types": {"ablations.lam": {"method": "mls", "param": "lam", "values": [1, 0.5, 1e-4]}},
    "pictures": {"pictures": {"queries": 2}, "search_benchmark": SEARCH, "gpus_per_run": 2},
    "unlabelled photos": {"data": {"photos": {"folder": "photos/train2017"}}, "pretrain.epochs": 4},
    "a public data set": {"data": {"dataset": {"name": "voc2007"}}},
    "a method's own": {"methods.mls.pretrain": {"views": {"crop": 64}, "epochs": None, "steps": 5}},
}


@pytest.mark.parametrize("places", FROZEN_STUDIES.values(), ids=FROZEN_STUDIES)
@pytest.mark.parametrize("by", ["thaw", "in_job", "json"])
def test_a_frozen_study_is_the_same_without_a_look_at_its_data(places, by):
    for name, seed in (("photos", 0), ("others", 1)):
        write_coco(Path(name), seed=seed)
    Path("w.pth").write_bytes(b"weights")
    study = loaded(places)
    freeze(study)
    assert study.frozen == Path("results/small") / FROZEN
    for gone in ("photos", "others"):
        shutil.rmtree(gone)
    Path("w.pth").unlink()
    again = {
        "thaw": lambda: thaw(study.frozen),
        "in_job": lambda: load("study.yaml", in_job=True),
        "json": lambda: load(study.frozen),
    }[by]()
    for key in ("path", "file", "runs", "cells", "transfers", "transfer_runs", "weights", "store", "out"):
        assert getattr(again, key) == getattr(study, key), key
    for key in ("source", "transfer_source"):
        assert getattr(again, key) == getattr(study, key), key
    freeze(again)
    assert again == thaw(again.frozen)
    if "root" in places.get("data", {}):
        assert set(load("study.yaml").runs).isdisjoint(study.runs)  # which does look


@pytest.mark.parametrize("text", ["", "[]", "{}", "3", '{"path": "study.yaml"}', '{"path": 3, "study": {}}'])
def test_a_file_that_is_no_frozen_study_is_named(text):
    Path("study.json").write_text(text)
    with pytest.raises(ConfigError, match=r"study\.json: is not a frozen study .*; give the study file"):
        load("study.json")


def test_a_frozen_study_is_plain_text():
    study = loaded()
    freeze(study)
    frozen = json.loads(study.frozen.read_text())
    assert frozen["path"] == "study.yaml"
    assert frozen["study"]["pretrain"] == changed()["pretrain"]


def test_an_axis_may_have_fewer_seeds_than_the_comparison():
    study = loaded({"ablations.k.seeds": [1]})
    seeds = {}
    for cell in study.cells:
        seeds.setdefault((cell.axis, cell.level), []).append(study.runs[cell.run].config.seed)
    assert seeds["k", "1"] == seeds["k", "5"] == [1]
    assert seeds["method", "mls"] == seeds["loss", "infonce+bce"] == [0, 1]
