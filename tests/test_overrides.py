"""`--set`, the study that `mlssl run --images` writes, and `mlssl doctor`."""

import json
import os
import shlex
import sys

import pytest
import yaml
from snakemake.cli import parse_config
from snakemake_interface_executor_plugins.utils import format_cli_arg
from support.snakemake import snakemake, tiny, write

from mlssl.cli import main
from mlssl.errors import ConfigError
from mlssl.runtime import doctor
from mlssl.study import own
from mlssl.study.load import freeze, load, thaw
from mlssl.study.overrides import as_text, as_values, from_text


def test_overrides_are_read_as_in_a_study_file():
    assert as_values(["pretrain.epochs=20", "pretrain.lr=1e-3", "seeds=[0, 1]", "methods.mls.params.k=10"]) == {
        "pretrain": {"epochs": 20, "lr": 0.001},
        "seeds": [0, 1],
        "methods": {"mls": {"params": {"k": 10}}},
    }
    assert as_values(["about=a = b", "pictures=null"]) == {"about": "a = b", "pictures": None}


@pytest.mark.parametrize("given", [[], ["a=1"], ["a=1", "b.c=[2, 3]"], ["x='q \"w'", "y=50% & more: #1"]])
def test_overrides_reach_the_jobs_of_a_scheduler(given):
    assert from_text(as_text(given)) == tuple(given)
    words = shlex.split(format_cli_arg("--config", {"set": as_text(given)}))
    assert from_text(str(parse_config(words[1:]).get("set") or "")) == tuple(given)


@pytest.mark.parametrize("given", [["epochs"], ["=3"], ["pretrain..lr=3"], ["a=1", "a.b=2"], ["a=[1"]])
def test_what_is_no_override_is_refused(given):
    with pytest.raises(ConfigError, match=r"^--set: '"):
        as_values(given)


def test_a_study_with_overrides_has_other_runs_and_lists_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "study.yaml", tiny())
    given = ("pretrain.steps=6", "methods.mls.params.k=3", "search_benchmark=null")
    study, plain = load(path, overrides=given), load(path)
    assert {run.config.total_steps(48) for run in study.runs.values() if run.config.target} == {6}
    assert study.runs[study.compared["mls"]].config.params["k"] == 3
    assert study.search_benchmark is None
    assert not set(study.runs) & set(plain.runs) - {plain.compared["random"]}
    freeze(study)
    assert json.loads(study.frozen.read_text())["set"] == list(given)
    assert thaw(study.frozen) == study
    name = study.compared["mls"]
    words = ["mlssl", "resolve", name, "--study", str(path), "--out", "run.yaml", "--set", *given]
    monkeypatch.setattr(sys, "argv", words)
    assert main() == 0, capsys.readouterr().err
    assert yaml.safe_load((tmp_path / "run.yaml").read_text())["steps"] == 6


def called(monkeypatch, *words):
    """The command that `mlssl run <words>` would become."""
    found = []
    monkeypatch.setattr(os, "execv", lambda _, command: found.append(command))
    monkeypatch.setattr(sys, "argv", ["mlssl", "run", *words])
    assert main() == 0
    return found[0][found[0].index("--snakefile") + 2 :]


def test_run_hands_overrides_and_options_to_snakemake(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "own.yaml", tiny())
    given = called(
        monkeypatch, "own.yaml", "--set", "a=1", "b.c=[2, 3]", "--cores", "2", "--config", "gpu_slots=true"
    )
    overrides = "set=a=1&b.c=[2, 3]"
    assert given == ["--cores", "2", "--config", "study=own.yaml", overrides, "gpu_slots=true"]
    assert called(monkeypatch, "own.yaml") == ["--cores", "all", "--config", "study=own.yaml"]
    assert called(monkeypatch, "own.yaml", "-n")[:3] == ["-n", "--quiet", "rules"]
    assert called(monkeypatch, "own.yaml", "-np")[:2] == ["-np", "--config"]


def test_own_photos_become_a_study_file(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "My Shop").mkdir()
    (tmp_path / "My Shop" / "a.jpg").touch()
    (tmp_path / "labels.csv").write_text("a.jpg,cat\n")
    words = ("--images", "My Shop", "--labels", "labels.csv", "--method", "mls", "--cores", "2")
    assert called(monkeypatch, *words) == ["--cores", "2", "--config", "study=my-shop.yaml"]
    assert "my-shop.yaml: the study that runs" in capsys.readouterr().err
    study = load(tmp_path / "my-shop.yaml")
    assert study.name == "my-shop"
    assert study.file.compare == ("random", "mls")
    assert study.file.data.photos.folder == str(tmp_path / "My Shop")
    assert study.file.data.photos.labels == str(tmp_path / "labels.csv")
    assert study.absent() == []
    called(monkeypatch, *words)  # the same again
    monkeypatch.setattr(sys, "argv", ["mlssl", "run", "--images", "My Shop"])
    assert main() == 1
    assert "my-shop.yaml: exists already and has other settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("images", "labelled", "batch"),
    [
        (1000, True, 64),
        (92, True, 64),
        (91, True, 32),
        (60, True, 32),
        (60, False, 32),
        (68, False, 64),
        (3, True, 2),
    ],
)
def test_a_few_photos_fill_their_batches(tmp_path, monkeypatch, images, labelled, batch):
    """Training has at least 95 % of them without labels, and 70 % with: 0.7 x 92 = 64.4."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "café 1").mkdir()
    for i in range(images):
        (tmp_path / "café 1" / f"{i}.jpg").touch()
    (tmp_path / "l.csv").write_text("0.jpg,cat\n")
    called(monkeypatch, "--images", "café 1", *(("--labels", "l.csv") if labelled else ()), "--cores", "1")
    (path,) = tmp_path.glob("*.yaml")
    pretrain = next(run.config for run in load(path).runs.values() if run.config.target)
    assert (pretrain.batch_size, pretrain.lr) == (batch, pytest.approx(0.075 * batch / 64))


def test_a_budget_does_not_price_a_batch_that_the_photos_do_not_fill(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p").mkdir()
    for i in range(9):
        (tmp_path / "p" / f"{i}.jpg").touch()
    words = ["--images", "p", "--budget", "1d", "--cores", "1", "--set", "pretrain.batch_size=10"]
    monkeypatch.setattr(sys, "argv", ["mlssl", "run", *words])
    assert main() == 1
    assert "pretrain.batch_size: 10 is more than the 9 photos; give less" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.yaml"))


def test_a_wrong_override_beside_a_budget_names_no_temporary_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p").mkdir()
    for i in range(9):
        (tmp_path / "p" / f"{i}.jpg").touch()
    monkeypatch.setattr(
        sys, "argv", ["mlssl", "run", "--images", "p", "--budget", "1d", "--set", "pretrain.epoch=1"]
    )
    assert main() == 1
    assert capsys.readouterr().err.startswith("mlssl run: --set: pretrain: unknown key 'epoch' (did you mean 'ep")


@pytest.mark.parametrize(("text", "seconds"), [("30min", 1800), ("2h", 7200), ("1.5 d", 129600)])
def test_budgets(text, seconds):
    assert own.seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["2", "0h", "-1h", "two hours", "2 weeks"])
def test_what_is_no_budget_is_refused(text):
    with pytest.raises(ConfigError, match="give a time such as 30min, 2h or 1d"):
        own.seconds_of(text)


def test_a_budget_is_filled_with_epochs():
    def seconds(epochs):
        return 100 + 60 * epochs

    for budget in (160, 219, 220, 1000, 48099, 48100, 10**9):
        slow = max(epochs for epochs in range(1, 801) if seconds(epochs) <= budget)
        assert own.epochs_within(budget, seconds) == slow
    with pytest.raises(ConfigError, match="one epoch and its evaluation take about 3 min; give more"):
        own.epochs_within(159, seconds)


def test_the_doctor_finds_nothing_wrong_here(monkeypatch, capsys):
    assert [check.what for check in doctor.checks() if check.state == "fails"] == []
    monkeypatch.setattr(sys, "argv", ["mlssl", "doctor"])
    assert main() == 0
    assert "write access" in capsys.readouterr().out


def test_the_doctor_names_what_is_wrong(monkeypatch, tmp_path, capsys):
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 550.90\n")
    smi.chmod(0o755)
    assert doctor.driver_of(str(smi)) == "550.90"
    assert doctor.driver_of("no-such-program") is None
    monkeypatch.setattr(doctor.sys, "version_info", (3, 9, 0))
    assert doctor.python().state == "fails"
    monkeypatch.setattr(doctor, "DISK", 1e30)
    assert doctor.disk().remedy.startswith("free some")
    assert doctor.shared_memory(tmp_path / "none").state == "warning"
    monkeypatch.setattr(sys, "argv", ["mlssl", "doctor"])
    assert main() == 1
    printed = capsys.readouterr()
    assert "install Python 3.11.4 or later" in printed.out
    assert printed.err == "mlssl doctor: python: see above for the remedy\n"


@pytest.mark.slow
def test_snakemake_reads_overrides(tmp_path):
    output = snakemake(tmp_path, "tiny", "set=name=other&ablations=null", "-np")
    assert "4 runs, " in output
    assert "results/other/study.json" in output
