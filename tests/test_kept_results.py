"""A finished result is never lost, never stale, never mixed: what is planned after a change, as a user sees it."""

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import yaml
from support.finished import copied, with_data
from support.snakemake import contents, copy_project, jobs, mlssl, plan, small, snakemake, write
from support.tiny_coco import write_coco

pytestmark = pytest.mark.slow
CHEAP = {"collect": 1, "tables": 1, "figures": 1, "page": 1}


@pytest.fixture(scope="module")
def edited(finished, tmp_path_factory):
    """A checkout of its own and the finished study: project, working directory, study."""
    folder = tmp_path_factory.mktemp("edited")
    project, cwd = copy_project(folder / "project"), copied(finished, folder)
    assert jobs(cwd, cwd / "study.yaml", project=project) == {}
    return project, cwd, cwd / "study.yaml"


@pytest.fixture
def own(finished, tmp_path):
    """A checkout of its own and a small study, of which all but the tables is finished, for one test alone.

    Its runs are some of the finished study's, under the same names.
    """
    cwd = copied(finished, tmp_path)
    return copy_project(tmp_path / "project"), cwd, write(cwd / "study.yaml", small(pictures=None))


def results(cwd):
    found = contents(cwd / "results" / "tiny" / "runs")
    return {path: data for path, data in found.items() if path.suffix != ".lock"}


EDITS = {
    "what changes no number": (
        [
            ("mlssl/study/settings.py", '"""Every setting', '"""Each setting'),
            ("mlssl/method/losses.py", "def info_nce", "# a comment\ndef info_nce"),
            ("mlssl/pretrain/loop.py", "def train(", "\n\n\ndef train("),
            ("mlssl/scenes/themes.py", "from collections", "CHANGED = 1\nfrom collections"),
            ("mlssl/cli/__init__.py", "def main(", "CHANGED = 1\n\n\ndef main("),
        ],
        {},
    ),
    "a loss, a method and a probe": (
        [
            ("mlssl/method/losses.py", "def info_nce", "CHANGED = 1\n\n\ndef info_nce"),
            ("mlssl/method/mls.py", "class MLS", "CHANGED = 1\n\n\nclass MLS"),
            ("mlssl/transfer/linear.py", "def evaluate", "CHANGED = 1\n\n\ndef evaluate"),
        ],
        CHEAP,
    ),
    "the augmentation": (
        [("mlssl/data/augment/parameters.py", "MEAN = ", "CHANGED = 1\nMEAN = ")],
        {**CHEAP, "neighbours": 2, "histograms": 2, "histogram_sheet": 1},
    ),
    "a table": ([("mlssl/tables/label_savings.py", "def savings", "CHANGED = 1\n\n\ndef savings")], {"tables": 1}),
    "the neighbours": (
        [("mlssl/pictures/neighbours.py", "def write_neighbours", "CHANGED = 1\n\n\ndef write_neighbours")],
        {"neighbours": 2, "histograms": 2, "histogram_sheet": 1},
    ),
    "the contact sheet's reader": ([("mlssl/data/formats/coco.py", "Record = ", "CHANGED = 1\nRecord = ")], None),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_of_sources_plans_cheap_stages_alone(edited, name):
    project, cwd, study = edited
    edits, planned = EDITS[name]
    before = {path: (project / path).read_text() for path, _, _ in edits}
    for path, old, new in edits:
        assert old in before[path]
        (project / path).write_text(before[path].replace(old, new, 1))
    try:
        found, output = plan(cwd, study, project=project)
        if planned is None:  # whatever is cheap
            assert "contact_sheet" in found
            assert not found.keys() & {"scenes", "store", "pretrain", "linear", "pseudo_labels"}
        else:
            assert {k: n for k, n in found.items() if k not in CHEAP} == {
                k: n for k, n in planned.items() if k not in CHEAP
            }
            assert found.keys() >= planned.keys()
            assert bool(found) == bool(planned)
        assert ("made by other code" in output) == ("collect" in found)
        if "collect" in found:
            assert all(path in output for path in before)
    finally:
        for path, text in before.items():
            (project / path).write_text(text)


CHANGES = {
    "log_every": ({"pretrain": {"log_every": 1}}, 0, 0),
    "checkpoint_seconds": ({"pretrain": {"checkpoint_seconds": 5}}, 0, 0),
    "label_records": ({"pretrain": {"label_records": 7}}, 0, 0),
    "the name of a method": ({"methods": {"ours": {"target": "mlssl.method.mls.MLS", "params": {"k": 2}}},
                              "compare": ["random", "ours"]}, 0, 0),
    "a default written out": ({"methods": {"mls": {"params": {"lam": 0.5, "rule": "top_k"}}}}, 0, 0),
    "the parameter k": ({"methods": {"mls": {"params": {"k": 3}}}}, 1, 1),
    "the learning rate": ({"pretrain": {"lr": 0.02}}, 2, 2),
    "a setting of the probe": ({"transfers": {"linear": {"iterations": 9}}}, 0, 2),
    "one more seed": ({"seeds": [0, 1]}, 2, 2),
    "validation images": ({"data": {"scenes": {"val_images": 25}}}, 0, 2),
}  # fmt: skip


def merged(base, over):
    result = copy.deepcopy(base)
    for key, value in over.items():
        result[key] = merged(result[key], value) if isinstance(value, dict) and key in result else value
    return result


QUICK = ("log_every", "the parameter k", "a setting of the probe", "one more seed", "validation images")
"""Those of `CHANGES` that are not among the long tests: nothing, and each kind of stage."""


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.long) for name in CHANGES]
)
def test_a_change_of_a_setting_plans_what_it_can_change(edited, name):
    project, cwd, _ = edited
    change, pretrainings, probes = CHANGES[name]
    study = write(cwd / "changed.yaml", merged(small(), change))
    found = jobs(cwd, study, project=project)
    assert (found.get("pretrain", 0), found.get("linear", 0)) == (pretrainings, probes), found


@pytest.mark.long
def test_one_call_ends_with_all_there_and_every_old_result_untouched(own):
    """Its data sets are gone, a seed is new, and a transfer has other settings."""
    project, cwd, study = own
    before = results(cwd)
    shutil.rmtree(cwd / "results" / "data")
    # Deleted data are made again for what needs them, and for nothing else.
    assert not jobs(cwd, study, project=project).keys() & {"scenes", "store", "pretrain", "linear"}
    change = {"seeds": [0, 1], "transfers": {"linear": {"iterations": 9}}}
    changed = write(cwd / "changed.yaml", merged(small(pictures=None), change))
    planned = jobs(cwd, changed, project=project)
    training = {"pretrain": 2, "linear": 4, "pseudo_labels": 1}
    assert planned == {"scenes": 1, "store": 1, "check": 1, "contact_sheet": 1, **training, **CHEAP}
    snakemake(cwd, changed, project=project)
    assert jobs(cwd, changed, project=project) == {}
    metrics = pd.read_csv(cwd / "results/tiny/metrics.tsv", sep="\t")
    assert (metrics.run.nunique(), metrics.value.notna().all()) == (4, True)
    after = results(cwd)
    assert {path: after.get(path) for path in before} == before
    snakemake(cwd, study, project=project)
    assert pd.read_csv(cwd / "results/tiny/metrics.tsv", sep="\t").run.nunique() == 2


@pytest.mark.long
def test_results_by_other_code_are_marked_and_made_again_on_request(own):
    project, cwd, study = own
    source = project / "mlssl/method/losses.py"
    source.write_text(source.read_text().replace("def info_nce", "CHANGED = 1\n\n\ndef info_nce", 1))
    snakemake(cwd, study, project=project)
    out = cwd / "results" / "tiny"
    runs = pd.read_csv(out / "runs.tsv", sep="\t")
    marked = runs[runs.other_code.notna()]
    assert set(marked.method) == {"mls"}  # random weights have no loss
    assert "mlssl/method/losses.py" in marked.other_code.iloc[0]
    assert "†" in (out / "tables" / "main.md").read_text()
    run = marked.run.iloc[0]
    assert "mlssl/method/losses.py" in mlssl(cwd, "status", "--study", study, project=project)
    kept = contents(out / "runs" / run)
    assert "moved to" in mlssl(cwd, "redo", "--study", study, project=project)
    moved = contents(out / "old" / f"{run}.1")
    assert {p.name: d for p, d in moved.items()} == {p.name: d for p, d in kept.items()}
    assert jobs(cwd, study, project=project)["pretrain"] == 1
    snakemake(cwd, study, project=project)
    assert pd.read_csv(out / "runs.tsv", sep="\t").other_code.isna().all()
    assert "†" not in (out / "tables" / "main.md").read_text()


@pytest.mark.long
def test_a_kept_data_set_and_a_new_study_end_in_one_call(finished, tmp_path):
    """A data folder that is older than the sources beside a study that has not run (snakemake#4166)."""
    data = with_data(finished, tmp_path) / "results" / "data"
    for path in [data, *data.rglob("*")]:
        os.utime(path, (1e9, 1e9))
    linear = {"linear": small()["transfers"]["linear"]}
    study = write(tmp_path / "study.yaml", small(compare=["random"], transfers=linear, pictures=None))
    snakemake(tmp_path, study)
    assert (tmp_path / "results/tiny/tables/main.md").exists()
    assert jobs(tmp_path, study) == {}


@pytest.mark.long
def test_data_changed_in_place_is_noticed_and_never_mixed(tmp_path):
    root = write_coco(tmp_path / "coco", splits={"train2017": 24, "val2017": 12})
    values = small(compare=["mls"], data={"root": str(root), "short_side": 32}, pictures=None)
    values["transfers"].pop("pseudo_labels")
    study = write(tmp_path / "study.yaml", values)
    snakemake(tmp_path, study)
    before = results(tmp_path)

    path = root / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    content["annotations"].pop()
    path.write_text(json.dumps(content))
    planned, output = plan(tmp_path, study)
    assert "annotations/instances_val2017.json has other contents" in output
    assert (planned.get("pretrain", 0), planned["linear"]) == (0, 1)
    write(study, values | {"seeds": [0, 1]})
    snakemake(tmp_path, study)
    metrics = pd.read_csv(tmp_path / "results/tiny/metrics.tsv", sep="\t")
    assert metrics[metrics.protocol == "linear"]["data"].nunique() == 1
    assert len(metrics[(metrics.protocol == "linear") & (metrics.metric == "mAP")]) == 2
    after = results(tmp_path)
    assert {path: after.get(path) for path in before} == before

    image = next((root / "train2017").iterdir())
    shutil.copy(next(p for p in (root / "val2017").iterdir()), image)
    planned = jobs(tmp_path, study)
    assert (planned["store"], planned["pretrain"], planned["linear"]) == (1, 2, 2)


def test_results_of_two_data_sets_are_refused(own):
    project, cwd, study = own
    runs = pd.read_csv(cwd / "results/tiny/runs.tsv", sep="\t")
    compared = runs[(runs.axis == "method") & runs.method.isin(["random", "mls"])].run
    linear = sorted(next((cwd / "results/tiny/runs" / run).glob("linear-*.json")) for run in compared)
    assert len(linear) == 2
    content = json.loads(linear[0].read_text())
    content["header"]["data"]["all"] = "another"
    linear[0].write_text(json.dumps(content))
    output = mlssl(cwd, "collect", "--study", study, check=False, project=project)
    assert "different data" in output
    assert str(linear[0].relative_to(cwd)) in output
    assert str(linear[1].relative_to(cwd)) in output


@pytest.mark.long
def test_a_run_in_the_middle_goes_on_with_changed_code_on_request(finished, tmp_path):
    project = copy_project(tmp_path / "project")
    with_data(finished, tmp_path)
    values = small(compare=["mls"], pictures=None)
    values["pretrain"] |= {"steps": 60, "log_every": 1, "checkpoint_seconds": 0.0}
    values["transfers"].pop("pseudo_labels")
    study = write(tmp_path / "study.yaml", values)
    run = mlssl(tmp_path, "status", "--study", study, project=project).split("missing: ")[1].split()[0]
    environment = os.environ | {"PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "mlssl", "pretrain", "--study", str(study), "--run-name", run]
    with open(tmp_path / "log", "w") as log:
        trainer = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
        while not (state := list(tmp_path.glob("results/tiny/runs/*/state/checkpoint.pt"))):
            assert trainer.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.02)
        trainer.send_signal(signal.SIGTERM)
        assert trainer.wait(timeout=300) == 75, (tmp_path / "log").read_text()
    kept = state[0].read_bytes()
    source = project / "mlssl/method/losses.py"
    source.write_text(source.read_text() + "\nCHANGED = 1\n")
    output = snakemake(tmp_path, study, check=False, project=project)
    refused = next((tmp_path / "results/tiny/logs/pretrain").glob("*.log")).read_text()
    assert "by other code (mlssl/method/losses.py)" in refused, output
    assert state[0].read_bytes() == kept
    snakemake(tmp_path, study, "changed_code=true", project=project)
    header = json.loads((state[0].parents[1] / "pretrain.json").read_text())["header"]
    segments = header["notes"]["segments"]
    assert len(segments) == 2
    assert segments[0]["from_step"] == 0 < segments[1]["from_step"]
    assert segments[0]["code"] != segments[1]["code"]
    assert "+" in header["code"]["mlssl/method/losses.py"]


HOSTILE = 'a {place} it\'s "ü" $HOME -x'


@pytest.mark.long
def test_every_path_works(tmp_path):
    """Spaces, braces, quotes, unicode, dollar signs and leading dashes, in every path that a user chooses."""
    home = tmp_path / HOSTILE
    project, cwd = copy_project(home / "check out"), home / "work"
    photos = write_coco(tmp_path / "coco", splits={"train2017": 24, "val2017": 12})
    (cwd / "-photos {1}").mkdir(parents=True)
    rows = []
    for i, path in enumerate(sorted((photos / "train2017").iterdir())):
        path.rename(cwd / "-photos {1}" / f"it's {{{i}}}.png")
        rows.append(f"it's {{{i}}}.png,{('red', 'green')[i % 2]}")
    (cwd / "-la bels.csv").write_text("\n".join(rows))
    values = small(compare=["mls"], about="braces {} and {wildcards}, it's \"quoted\"", data={
        "photos": {"folder": "-photos {1}", "labels": "-la bels.csv", "near": 0}, "short_side": 32})  # fmt: skip
    study = write(cwd / "-my {study}.yaml", values)
    snakemake(cwd, study.name, project=project)
    assert jobs(cwd, study.name, project=project) == {}
    assert "missing" not in (cwd / "results/tiny/metrics.tsv").read_text()
    snakemake(cwd, study.name, "--report", "-re {port}.html".removeprefix("-"), project=project)
    assert "{wildcards}" in (cwd / "re {port}.html").read_text()


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_coco(tmp_path / "coco")
    values = small(data={"root": "~/coco", "short_side": 32})
    (tmp_path / "work").mkdir()
    write(tmp_path / "study.yaml", values)
    assert jobs(tmp_path / "work", "~/study.yaml")["pretrain"] == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data": {"root": "nowhere", "short_side": 32}}, "data.root: nowhere: no such folder"),
        ({"transfer_data": {"root": "nowhere"}}, "transfer_data.root: nowhere: no such folder"),
        ({"pretrain": small()["pretrain"] | {"init": "nowhere.pth"}}, "pretrain.init: nowhere.pth: no such file"),
    ],
    ids=["data", "transfer_data", "weights"],
)
def test_a_run_without_its_files_says_so_before_anything_runs(tmp_path, change, words):
    study = write(tmp_path / "study.yaml", small(**change))
    assert words in snakemake(tmp_path, study, check=False)
    assert not (tmp_path / "results" / "tiny").exists()


def test_the_configuration_names_no_other_file(edited):
    """The frozen study is what jobs read; it names the study that it was made of."""
    _, cwd, study = edited
    frozen = json.loads((cwd / "results/tiny/study.json").read_text())
    assert frozen["path"].endswith(".yaml")
    assert yaml.safe_load(study.read_text())["name"] == frozen["study"]["name"]
