"""`mlssl status`, for studies that run, were interrupted, failed in part or are finished."""

import json
import os
import shutil
import sys
import time
from pathlib import Path

import pytest
from support.results import put
from support.snakemake import small, write

from mlssl.cli import main, status
from mlssl.cost import estimate
from mlssl.errors import ConfigError
from mlssl.study.load import freeze, load


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return load(write(tmp_path / "study.yaml", small(pictures=None)))


def begin(study, text, age=0.0):
    """A state with this log, last written `age` seconds ago; returns the run."""
    run = study.compared["mls"]
    log = study.out / "runs" / run / "state" / "log.jsonl"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(text)
    os.utime(log, (time.time() - age,) * 2)
    return run


LINES = '{"step": 2, "images_per_s": 99.0}\n{"step": 3, "images_per_s": 4.0}\n'


def test_a_running_pretraining_has_step_rate_and_time_left(study):
    run = begin(study, LINES + '{"step": 4, "ima')
    found = status.training(study, study.runs[run])
    # The last whole line: 1 of 4 steps is left, 8 images at 4 per second.
    assert (found.step, found.total, found.left) == (3, 4, 2.0)
    assert f"  {run}: step 3 of 4, 4 img/s, 2 s left (last news " in status.report(study)


def test_a_pretraining_without_news_may_be_interrupted(study):
    run = begin(study, LINES, age=7200)
    text = status.report(study)
    assert f"{run}: step 3 of 4, 4 img/s (last news 120 min ago: interrupted?" in text.replace(
        "2 h 0 min", "120 min"
    )
    assert " left (" not in text


def test_a_study_that_has_not_begun_lists_no_training(study):
    assert "training:" not in status.report(study)
    begin(study, "")
    assert "training:" not in status.report(study)


def test_axes_have_the_number_of_their_finished_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ablations = {"k": {"levels": {"the same": {"method": "mls"}, "one": {"method": "mls", "params": {"k": 1}}}}}
    study = load(write(Path("study.yaml"), small(pictures=None, ablations=ablations)))
    assert "runs by axis: method 0 of 2, k 0 of 2; `mlssl run study.yaml axis_method` makes" in status.report(study)
    for run in study.compared.values():
        for stage in study.stages(run):
            put(study, study.runs[run], stage, [])
    text = status.report(study)
    assert "runs by axis: method 2 of 2, k 1 of 2; `mlssl run study.yaml axis_k` makes one axis" in text
    assert "runs by axis" not in status.report(load(write(Path("one.yaml"), small(pictures=None))))


def test_the_first_error_of_a_failed_stage_is_shown(study):
    run = begin(study, LINES)
    (study.out / "runs" / run / "state" / "failed.json").write_text(json.dumps({"reason": "step 4: not finite"}))
    text = status.report(study)
    assert "training:" not in text
    assert f"failed: step 4: not finite: {run} (pretrain), {run} (linear), {run} (pseudo_labels)" in text


def test_running_transfers_have_the_last_line_of_their_log(study):
    run = study.compared["mls"]
    log = study.out / "logs" / "linear" / f"{run}.log"
    log.parent.mkdir(parents=True)
    log.write_text("features 1/2\rfeatures 2/2\r\n")
    text = status.report(study)
    assert f"evaluating:\n  {run} (linear): features 2/2 (last news 0 s ago)" in text
    os.utime(log, (time.time() - 7200,) * 2)
    assert "features 2/2 (last news 2 h 0 min ago: silent for long, or interrupted" in status.report(study)
    log.write_text("mlssl linear: no labels\n")
    assert "evaluating:" not in status.report(study)
    put(study, study.runs[run], "linear", [])
    log.write_text("features 2/2\n")
    assert "evaluating:" not in status.report(study)


def test_failed_tables_and_figures_have_their_error(study):
    logs = study.out / "logs"
    logs.mkdir(parents=True)
    for name in ("tables", "figures"):
        (logs / f"{name}.log").write_text("Traceback (most recent call last):\nOSError: disk full\n")
    assert "failed: OSError: disk full: tables, figures\n" in status.report(study)
    (logs / "tables.log").write_text("")
    assert "failed: OSError: disk full: figures\n" in status.report(study)


def test_files_alone_are_enough_on_another_machine(study, tmp_path, monkeypatch, capsys):
    begin(study, LINES)
    freeze(study)
    here = status.report(load(study.frozen))
    copied = tmp_path / "elsewhere" / "results" / study.name
    shutil.copytree(study.out, copied)
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.chdir(other)
    monkeypatch.setattr(sys, "argv", ["mlssl", "status", str(copied)])
    assert main() == 0
    there = capsys.readouterr().out
    assert "step 3 of 4" in there
    assert [line for line in there.splitlines() if " of " in line and "news" not in line] == [
        line for line in here.splitlines() if " of " in line and "news" not in line
    ]
    monkeypatch.chdir(other)
    monkeypatch.setattr(sys, "argv", ["mlssl", "status", str(tmp_path)])
    assert main() == 1
    assert "is no folder results/<study> with study.json; give it, or a study file" in capsys.readouterr().err


def test_time_left_is_by_known_rates(study, monkeypatch):
    def unknown(*_):
        raise ConfigError("no rate")

    monkeypatch.setattr(status, "seconds_left", unknown)
    assert "time left: unknown" in status.report(study)
    monkeypatch.setattr(status, "seconds_left", lambda *_: 600.0)
    assert "time left: about 10 min, by rates measured before" in status.report(study)
    monkeypatch.setattr(status, "seconds_left", lambda *_: 0.0)
    assert status.report(study).endswith("finished")


def test_what_is_left_is_the_time_of_the_missing_jobs(study, monkeypatch):
    jobs = [
        estimate.Job("a", "pretrain", "k", 100.0, "s", True),
        estimate.Job("b", "pretrain", "k", 60.0, "s", False),
    ]
    monkeypatch.setattr(estimate, "jobs", lambda *_: jobs)
    monkeypatch.setattr(estimate.rates, "this_device", lambda: "cpu")
    assert estimate.seconds_left(study, 2) == 60
    jobs.append(estimate.Job("c", "linear", "unknown key", None, None, False))
    study.transfers.setdefault("linear", None)
    with pytest.raises(ConfigError, match="how fast 'unknown key' is here is not known"):
        estimate.seconds_left(study, 2)
