"""The benchmarks: what they report of given figures, and that the command runs to its tables."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from benchmarks import busy, first_hour, first_parts, inputs, measure
from benchmarks.cases import LARGE, METHODS, TARGETS, Case, Target
from benchmarks.report import markdown, ratio, targets
from mlssl.scenes import write_scenes
from mlssl.study.methods import constructor

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
TINY = Case("test_resnet", 32, 4, 32)
INPUT = next(t for t in TARGETS if t.group == "input")


def figures(ours, lightly):
    return pd.DataFrame(
        [
            measure.row("input", INPUT.case, name, repeat, images_per_s=value)
            for name, values in (("ours", ours), ("lightly", lightly))
            for repeat, value in enumerate(values)
        ]
    )


def test_a_ratio_is_taken_within_each_repetition():
    rows = figures(ours=[300, 30, 390], lightly=[100, 10, 100])  # the second hit a slow minute of the machine
    assert ratio(rows, "ours", "lightly", "images_per_s") == 3


@pytest.mark.parametrize(("ours", "verdict"), [([299], "MISSED"), ([300], "met")])
def test_a_target_applies_to_the_device_where_it_was_measured(ours, verdict):
    table = targets(figures(ours, [100]), "cpu")
    measured = table[table["measured"] != "–"]
    assert list(measured[""]) == [verdict]
    assert set(table[table["measured"] == "–"][""]) == {"not measured"}
    assert len(table) == len(TARGETS)
    assert "met" not in set(targets(figures(ours, [100]), "cuda")[""])  # a CPU's target says nothing of a GPU


def test_a_bound_from_above():
    target = Target("cpu", "step", "any", "mls", "moco_v2", at_most=1.1)
    assert target.met(1.1)
    assert not target.met(1.11)
    assert target.bound == "≤ 1.1"


def test_tables_name_median_and_spread():
    text = markdown(figures([300, 310, 290], [100, 101, 99]), "cpu", "about")
    assert "290 to 310" in text
    assert "3.00" in text


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("benchmark") / "scenes"
    write_scenes(root, images=6, val_images=1, size=(64, 48), seed=0, workers=1)
    return root / "train2017"


@pytest.mark.parametrize("name", ["limit", "ours", "kornia", "lightly", "torchvision"])
def test_everyone_gives_pairs_of_normalised_batches(photos, name):
    if name in inputs.PEERS:
        pytest.importorskip(name)
    feed = (inputs.TRAINING | inputs.INPUT)[name](TINY, photos, CPU)
    view1, view2 = next(feed)
    feed.close()
    assert view1.shape == view2.shape == (4, 3, 32, 32)
    assert not torch.equal(view1, view2)
    assert abs(view1.mean()) < 3


@pytest.mark.parametrize("name", METHODS)
def test_steps_are_timed_with_a_full_dictionary(name):
    skip = set(METHODS) - {name}
    if "ivf" in name:
        pytest.importorskip("faiss")
    rows = list(measure.steps([TINY], [512], CPU, skip=skip, repeats=2, count=1))
    assert [row["contender"] for row in rows] == [name, name]
    assert all(row["ms"] > 0 for row in rows)
    method, _ = measure.trainable(TINY, name, 512, CPU, filled=True)
    full = [m for m in method.modules() if isinstance(m, measure.Dictionary)]
    assert bool(full) == ("dictionary_size" in constructor(METHODS[name][0]).types)
    assert all(len(dictionary) == 512 for dictionary in full)


def test_only_mls_is_asked_for_the_largest_dictionary():
    assert measure.methods(LARGE, {"mls, ivf"}) == ["mls"]


def test_the_peak_is_that_of_this_process():
    before = measure.process_peak()
    held = torch.ones(int(before + 200) * 2**18)  # of 4 bytes each: 200 MB more than ever before
    assert measure.process_peak() >= before + 200
    assert before > 50
    del held


@pytest.mark.slow
@pytest.mark.long
def test_the_command_writes_tables_and_refuses_to_replace_them(tmp_path):
    """The store alone, and complete pretrainings."""
    out = tmp_path / "speed.json"
    command = [sys.executable, "-m", "benchmarks", "--out", out, "--groups", "store", "cost", "--images", "64"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    content = json.loads(out.read_text())
    assert {"commit", "device", "versions", "command", "cores"} <= set(content["header"])
    cases = [row["case"] for row in content["rows"]]
    assert cases == ["short side 128", "short side 256", *["resnet18, 64 px, batch 16"] * 6]
    assert "not measured" in out.with_suffix(".md").read_text()
    again = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 1
    assert "delete it first" in again.stderr


def test_a_command_without_a_gpu_runs_and_says_what_is_missing(monkeypatch, capfd):
    monkeypatch.setattr(busy.shutil, "which", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["busy", sys.executable, "-c", "raise SystemExit(3)"])
    assert busy.main() == 3
    assert "not measured" in capfd.readouterr().err


def test_the_gpus_share_is_the_mean_of_its_samples(monkeypatch, capfd):
    monkeypatch.setattr(busy, "utilisation", lambda: [40.0, 60.0])
    monkeypatch.setattr(busy, "PERIOD", 0.05)
    monkeypatch.setattr(sys, "argv", ["busy", sys.executable, "-c", "import time; time.sleep(0.3)"])
    assert busy.main() == 0
    assert "GPU busy 50 %" in capfd.readouterr().err


def hour(out, *more):
    return ["first_hour", "--out", str(out), "--device", "cpu", "--toy", *more]


def test_the_first_hour_leaves_out_what_is_there_and_names_what_is_not(tmp_path, monkeypatch, capsys):
    tried = []

    def alone(name, args):
        tried.append(name)
        if name == "profile":
            return "ended with 1"
        (args.out / f"{name}.json").write_text("{}")
        return None

    monkeypatch.setattr(first_hour, "alone", alone)
    monkeypatch.setattr(sys, "argv", hour(tmp_path))
    assert first_hour.main() == 1
    assert tried == list(first_parts.PARTS)
    assert "profile: ended with 1; the next call tries it again" in capsys.readouterr().err
    table = (tmp_path / "README.md").read_text()
    assert table.count("not measured") == 1
    assert "[waits.json](waits.json)" in table
    tried.clear()
    (tmp_path / "profile.json").write_text("{}")
    assert first_hour.main() == 0
    assert not tried
    assert "not measured" not in (tmp_path / "README.md").read_text()


def test_a_part_of_the_first_hour_that_takes_too_long_is_stopped(tmp_path, monkeypatch):
    started = []
    real = subprocess.Popen

    def sleeper(command, **how):
        started.append(command)
        return real(["sleep", "60"], **how)

    monkeypatch.setattr(first_hour.subprocess, "Popen", sleeper)
    args = first_hour.parser().parse_args(hour(tmp_path, "--limit", "1")[1:])
    assert first_hour.alone("waits", args) == "was stopped after 1 s"
    assert started[0][-7:] == ["--part", "waits", "--out", str(tmp_path), "--device", "cpu", "--toy"]


def test_a_part_of_the_first_hour_writes_its_file(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", hour(tmp_path, "--part", "environment"))
    assert first_hour.main() == 0
    content = json.loads((tmp_path / "environment.json").read_text())
    assert content["header"]["device"] == "cpu"
    assert content["header"]["toy"] is True
    assert content["found"]["auto"] == ["fp32", None]
    assert content["found"]["host_memory_free_gb"] > 0


def test_time_in_which_kernels_overlap_counts_once():
    assert first_parts.union([(5, 6), (0, 2), (1, 3), (1.5, 2)]) == 4
    assert first_parts.union([]) == 0


@pytest.mark.slow
def test_running_out_of_memory_is_measured_by_its_losses(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(first_parts, "TOY", Case("test_resnet", 32, 4, 32))
    found = first_parts.out_of_memory(first_parts.Bench(CPU, tmp_path, toy=True))
    assert found["undisturbed"]["losses"] == found["out of memory"]["losses"]
    assert len(found["undisturbed"]["losses"]) == 3
    assert found["undisturbed"]["store"].endswith("in GPU memory")
    assert found["out of memory"]["store"].endswith("in the page cache")


@pytest.mark.slow
@pytest.mark.long
def test_the_first_hour_goes_through_all_parts(tmp_path):
    command = [sys.executable, "-m", "benchmarks.first_hour", *hour(tmp_path)[1:]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {path.stem for path in tmp_path.glob("*.json")} == set(first_parts.PARTS)
