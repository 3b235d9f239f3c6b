"""Which results of a study are there, by which code they were made, and how they are moved away."""

import json
from pathlib import Path

import pytest
from support.results import put
from support.study import loaded

from mlssl.analysis.outputs import count_files, picture_files
from mlssl.errors import ConfigError
from mlssl.study.code import stage_code
from mlssl.study.progress import Progress, redo, refuse_mixed, some

PLACES = {"seeds": [0], "ablations": {}, "transfers.pseudo_labels": {}, "transfers.detection": {"runs": "compare"}}
FILES = ("log.jsonl", "backbone.pt", "pseudo_labels.npz", "checkpoint.pt")
STAGES = ("pretrain", "linear", "detection", "pseudo_labels")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def mls(study):
    return study.runs[study.compared["mls"]]


def make(study, run, stages=STAGES, files=FILES, **header):
    """The results of a run, and the files that its pretraining leaves behind."""
    for stage in stages:
        if stage == "pretrain" or run.id in study.transfer_runs[stage]:
            put(study, run, stage, [{"protocol": stage, "metric": "x", "value": 1.0, "n": 1}], **header)
    for name in files:
        (study.out / "runs" / run.id / name).write_text(name)


def test_without_results_nothing_is_finished():
    study = loaded(PLACES)
    progress = Progress(study)
    assert progress.results == progress.other_code == {}
    assert not any(progress.finished(stage) for stage in STAGES)
    assert progress.report() == ""
    assert progress.status().splitlines()[1].startswith("pretrain       0 of 3; missing: untrained-")


PICTURES = {"pictures": {"queries": 2}}
SEARCH = {"search_benchmark": {"method": "mls", "sizes": [64]}}
NEEDED = [
    # what the study has beside, results that are there, files that are gone, whether the pretraining is finished
    ({}, STAGES, (), True),
    ({}, STAGES, ("backbone.pt", "pseudo_labels.npz", "checkpoint.pt"), True),
    ({}, STAGES, ("log.jsonl",), False),
    ({}, STAGES[1:], (), False),
    ({}, ("pretrain",), (), True),
    ({}, ("pretrain",), ("checkpoint.pt",), True),
    ({}, ("pretrain", "linear", "detection"), ("backbone.pt",), True),
    ({}, ("pretrain", "linear", "detection"), ("pseudo_labels.npz",), False),
    ({}, ("pretrain", "linear", "pseudo_labels"), ("backbone.pt",), False),
    ({}, ("pretrain", "detection", "pseudo_labels"), ("backbone.pt",), False),
    (PICTURES, STAGES, (), True),
    (PICTURES, STAGES, ("checkpoint.pt",), False),
    (SEARCH, STAGES, (), True),
    (SEARCH, STAGES, ("checkpoint.pt",), False),
]


@pytest.mark.parametrize(("more", "stages", "gone", "finished"), NEEDED)
def test_a_pretraining_is_finished_if_what_others_need_of_it_is_there(more, stages, gone, finished):
    study = loaded(PLACES | more)
    run = mls(study)
    make(study, run, stages, [name for name in FILES if name not in gone])
    progress = Progress(study)
    assert progress.finished("pretrain") == ({run.id} if finished else set())
    for stage in STAGES[1:]:
        assert progress.finished(stage) == ({run.id} if stage in stages else set())


@pytest.mark.parametrize(
    ("drawn", "checkpoint", "finished", "counted"),
    [
        (["neighbours_mls.png", "histograms_mls.png"], False, True, []),  # by an earlier version
        (["neighbours_mls.png", "histograms_mls.png"], True, True, ["mls"]),
        (["neighbours_mls.png", "histograms_mls.json"], False, True, ["mls"]),
        (["neighbours_mls.png"], False, False, ["mls"]),
    ],
)
def test_a_sheet_of_histograms_never_costs_a_pretraining_whose_histograms_are_there(
    drawn, checkpoint, finished, counted
):
    study = loaded(PLACES | PICTURES)
    run = mls(study)
    make(study, run, files=[name for name in FILES if checkpoint or name != "checkpoint.pt"])
    (study.out / "figures").mkdir()
    for name in drawn:
        (study.out / "figures" / name).write_text(name)
    assert Progress(study).finished("pretrain") == ({run.id} if finished else set())
    methods = [file.stem.removeprefix("histograms_") for file in count_files(study)]
    assert [method for method in methods if method == "mls"] == counted
    assert (study.out / "figures" / "histograms.png") in picture_files(study)


def test_a_benchmark_of_searches_that_is_there_needs_no_checkpoint():
    study = loaded(PLACES | SEARCH)
    run = mls(study)
    make(study, run, files=FILES[:3])
    path = put(study, run, "pretrain", [])
    study.search_out.mkdir(parents=True)
    (study.search_out / "search.json").write_text(path.read_text())
    assert Progress(study).finished("pretrain") == {run.id}


def test_only_results_of_this_study_count():
    study, other = loaded(PLACES), loaded(PLACES | {"pretrain.lr": 0.1, "transfers.linear.size": 64})
    for run in other.runs.values():
        make(other, run)
    progress = Progress(study)
    assert progress.results == {}
    assert "3 other runs are kept in results/small/runs" in progress.status()
    for run in study.runs.values():
        make(study, run)
    same = loaded(PLACES | {"transfers.linear.size": 64})  # other settings of one transfer
    assert {stage: len(Progress(same).finished(stage)) for stage in STAGES} == {
        "pretrain": 3,
        "linear": 0,
        "detection": 3,
        "pseudo_labels": 1,
    }


def code_of(stage, run, changes):
    """The code of a stage, but for some files; None removes one."""
    code = stage_code(stage, run.config.target if stage == "pretrain" else None) | changes
    return {file: digest for file, digest in code.items() if digest}


def test_results_by_other_code_are_told_by_change():
    study = loaded(PLACES)
    assert not Progress(study).other_code
    for run in study.runs.values():
        make(study, run)
    assert not Progress(study).other_code
    run = mls(study)
    edited, moved = {"mlssl/seeds.py": "0" * 12}, {"mlssl/method/mls.py": None, "mine.py": "0" * 12}
    for other in study.runs.values():
        put(study, other, "linear", [], code=code_of("linear", other, edited))
    put(study, run, "pretrain", [], code=code_of("pretrain", run, moved))
    progress = Progress(study)
    assert progress.other_code == {
        **{(other, "linear"): ["mlssl/seeds.py"] for other in study.runs},
        (run.id, "pretrain"): ["mine.py", "mlssl/method/mls.py"],
    }
    lines = progress.report().splitlines()
    assert lines[0] == "4 finished results were made by other code, and are kept:"
    assert sorted(lines[1:3]) == sorted(
        [
            f"  mine.py, mlssl/method/mls.py: {run.id} (pretrain)",
            f"  mlssl/seeds.py: {some(f'{other} (linear)' for other in study.runs)}",
        ]
    )
    assert lines[3] == "  `mlssl redo --study=study.yaml` lets them be made again."
    assert progress.report() in progress.status()
    assert progress.finished("pretrain") == set(study.runs)  # which are kept


def test_long_lists_are_cut():
    assert some(["a", "b", "c"]) == "a, b, c"
    assert some(f"{i}" for i in range(5)) == "0, 1, 2 and 2 more"


def test_a_result_of_another_experiment_in_its_place_is_refused_with_the_way_out():
    study = loaded(PLACES)
    run = mls(study)
    for stage, key in (("pretrain", "digest"), *(("linear", key) for key in ("config_digest", "seed", "stage"))):
        path = put(study, run, stage, [], **{key: "other"})
        with pytest.raises(ConfigError) as refused:
            Progress(study)
        wanted = f"{path}: {key} is other, but study.yaml asks for "
        assert str(refused.value).startswith(wanted)
        assert f"`mlssl redo --study=study.yaml --stage={stage} {run.id}` moves it away" in str(refused.value)
        redo(study, [(run.id, stage)])
        assert not Progress(study).results


def test_a_file_that_is_no_result_is_refused():
    study = loaded(PLACES)
    path = put(study, mls(study), "linear", [])
    content = json.loads(path.read_text())
    for broken in ("{", "[]", json.dumps(content | {"header": content["header"] | {"format": 1}})):
        path.write_text(broken)
        with pytest.raises(ConfigError, match=f"{path}: .*; move it away and run this stage again"):
            Progress(study)
    path.write_text(json.dumps({"header": {"format": 2}, "rows": []}))
    with pytest.raises(ConfigError, match="stage is None"):
        Progress(study)


@pytest.mark.parametrize(
    ("stage", "key", "mixed"),
    [
        ("pretrain", "images", True),
        ("pretrain", "all", False),
        ("linear", "all", True),
        ("linear", "images", False),
        ("detection", "all", True),
    ],
)
def test_results_of_one_stage_are_on_the_same_data(stage, key, mixed):
    study = loaded(PLACES)
    for run in study.runs.values():
        make(study, run)
    header = json.loads(study.result(mls(study).id, stage).read_text())["header"]
    odd = put(study, mls(study), stage, [], data=header["data"] | {key: "other"})
    found = list(Progress(study).results.values())
    if not mixed:
        refuse_mixed(found)
        return
    with pytest.raises(ConfigError) as refused:
        refuse_mixed(found)
    first = study.result(next(iter(study.runs)), stage)
    assert f"{odd} and {first}: were made on different data (other and {header['data'][key]})" in str(refused.value)
    assert f"`mlssl redo --stage={stage} " in str(refused.value)
    assert "\n" not in str(refused.value)


# --- Moved away to be made again.


def kept(folder):
    """Every file below a folder -> its text."""
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_transfer_is_moved_alone_and_a_pretraining_with_all_that_follows():
    study = loaded(PLACES)
    for run in study.runs.values():
        make(study, run)
    before, run = kept(study.out / "runs"), mls(study).id
    linear = study.result(run, "linear").name

    (to,) = redo(study, [(run, "linear")])
    assert to == study.out / "old" / f"{run}.1"
    assert kept(to) == {linear: before[f"{run}/{linear}"]}
    assert Progress(study).finished("linear") == set(study.runs) - {run}
    assert Progress(study).finished("pretrain") == set(study.runs)

    (to,) = redo(study, [(run, "linear"), (run, "pretrain"), (run, "detection")])
    assert to == study.out / "old" / f"{run}.2"
    assert kept(to) == {f: text for f, text in before.items() if f.startswith(run) and not f.endswith(linear)}
    for stage in STAGES[:3]:
        assert Progress(study).finished(stage) == set(study.runs) - {run}
    assert kept(study.out / "runs") == {f: text for f, text in before.items() if not f.startswith(run)}


def test_nothing_is_ever_deleted_or_written_over():
    study = loaded(PLACES)
    run = mls(study)
    assert redo(study, [(run.id, "pretrain"), (run.id, "linear")]) == []
    assert not (study.out / "old").exists()
    for n, stage in enumerate(("pretrain", "linear", "pretrain"), start=1):
        make(study, run, notes={"n": n})
        (to,) = redo(study, [(run.id, stage)])
        assert to == study.out / "old" / f"{run.id}.{n}"
        assert redo(study, [(run.id, stage)]) == []
    for n in (1, 2, 3):
        (path,) = (study.out / "old" / f"{run.id}.{n}").rglob(study.result(run.id, "linear").name)
        assert json.loads(path.read_text())["header"]["notes"] == {"n": n}


def test_several_runs_are_moved_at_once_and_other_stages_stay():
    study = loaded(PLACES)
    for run in study.runs.values():
        make(study, run)
    moved = redo(study, [(run, stage) for run in study.runs for stage in ("detection", "pseudo_labels")])
    assert [to.name for to in moved] == [f"{run}.1" for run in study.runs]
    progress = Progress(study)
    assert {stage: len(progress.finished(stage)) for stage in STAGES} == {
        "pretrain": 3,
        "linear": 3,
        "detection": 0,
        "pseudo_labels": 0,
    }


def test_a_result_of_other_settings_stays_when_this_ones_is_moved():
    study, other = loaded(PLACES), loaded(PLACES | {"transfers.linear.size": 64})
    for each in (study, other):
        make(each, mls(each))
    redo(study, [(mls(study).id, "linear")])
    assert Progress(other).finished("linear") == {mls(other).id}
    assert Path(other.result(mls(other).id, "linear")).exists()
