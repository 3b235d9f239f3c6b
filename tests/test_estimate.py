"""Rates learned from result files with times known by hand, and estimates made of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from support.results import put as put_result
from support.tiny_coco import write_backbone, write_coco

from mlssl import results
from mlssl.cost import calibration, estimate, rates
from mlssl.cost.near import STEP, near
from mlssl.cost.speed import measure
from mlssl.data.store import build_store
from mlssl.errors import ConfigError
from mlssl.pretrain.loop import pretrain
from mlssl.runtime import device
from mlssl.study.load import load
from mlssl.study.settings import TRANSFERS, Classification, Data, Svm
from mlssl.study.validation import plain
from mlssl.transfer.linear import evaluate

ROOT = Path(__file__).parents[1]
NOWHERE = Path("nowhere.json")
STUDY = {
    "name": "small",
    "about": "Drawn scenes.",
    "data": {"scenes": {"images": 80, "val_images": 20, "size": [64, 64], "seed": 0}},
    "seeds": [0, 1],
    "pretrain": {"backbone": "test_resnet", "epochs": 5, "batch_size": 8, "views": {"crop": 32}},
    "methods": {
        "mls": {"target": "mlssl.method.mls.MLS", "params": {"k": 5}},
        "moco_v2": {"target": "baselines.moco_v2.MoCoV2"},
        "random": {},
    },
    "compare": ["random", "moco_v2", "mls"],
    "ablations": {"k": {"method": "mls", "param": "k", "values": [1, 5]}},
    "transfers": {
        "linear": {"size": 32, "fractions": [0.5, 0.1]},
        "detection": {"runs": "compare", "seeds": [0], "iterations": 10, "batch_size": 2, "eval_images": 15},
    },
}
STEPS = 5 * (80 // 8)


@pytest.fixture
def loaded(tmp_path, monkeypatch):
    """A study without results, on a machine without a GPU."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rates, "this_device", lambda: "cpu")
    Path("study.yaml").write_text(yaml.safe_dump(STUDY, sort_keys=False))
    return load("study.yaml")


def put(loaded, run, stage, wall_s, *, job_s=None, out=None, device="cpu", threads=1, **config):
    """A result file as the stage writes it, and its job's benchmark."""
    settings = plain(run.config if stage == "pretrain" else loaded.transfers[stage]) | config
    notes = {
        "pretrain": {},
        "linear": {"eval_images": 20, "protocols": {"linear_50pct": {"train_images": 40}}},
        "detection": {"eval_images": 15},
    }[stage]
    header = {"backbone": "test_resnet", "config": settings, "notes": notes, "wall_s": wall_s}
    header |= {"device": device, "threads": threads}
    steps = settings.get("steps") or (STEPS if settings.get("target") else 0)
    rows = [{"metric": "steps", "value": steps}] if stage == "pretrain" else [{"metric": "mAP", "value": 1.0}]
    folder = out or loaded.out
    path = folder / "runs" / run.id / loaded.result(run.id, stage).name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"header": header, "rows": rows}))
    if job_s is not None:
        benchmark = folder / "benchmarks" / stage / f"{run.id}.tsv"
        benchmark.parent.mkdir(parents=True, exist_ok=True)
        benchmark.write_text(f"s\th:m:s\tmax_rss\n{job_s}\t0:00:01\t1\n")
    return path


def runs(loaded, method, **params):
    return [
        run
        for run in loaded.runs.values()
        if run.config.method == method and all(run.config.params[k] == v for k, v in params.items())
    ]


def learned(**more):
    return {k.split(",")[0]: round(v, 9) for k, v in rates.learn(Path("results"), device="cpu", **more).items()}


def test_rates_are_the_times_divided_by_the_work(loaded):
    one, two = runs(loaded, "mls", k=5)
    put(loaded, one, "pretrain", 100.0)
    put(loaded, two, "pretrain", 200.0)
    put(loaded, runs(loaded, "mls", k=1)[0], "pretrain", 800.0)
    put(loaded, runs(loaded, "random")[0], "pretrain", 0.5)
    put(loaded, one, "linear", 30.0)
    put(loaded, one, "detection", 150.0)
    assert learned() == {
        "pretrain mlssl.method.mls.MLS": 200.0 / STEPS,  # the median, k not being part of the key
        "no pretraining": 0.5,
        "linear": 30.0 / (80 + 20),
        "detection": 150.0 / (3 * 10 * 2 + 15),
    }


def test_the_work_of_fine_tuned_and_of_frozen_classification():
    """Five epochs of 40 training images, each with a test on 10; a step costs three evaluated images."""
    config = {"size": 32, "epochs": 5, "frozen": False}
    images = {"steps": 0, "train_images": 40, "val_images": 10}
    assert rates.units("classification", config, **images) == 5 * (3 * 40 + 10)
    assert rates.units("classification", config | {"frozen": True}, **images) == 5 * (40 + 10)
    assert rates.units("classification", config, **images | {"val_images": None}) is None
    keys = [rates.key("classification", "resnet18", config | {"frozen": frozen}) for frozen in (False, True)]
    assert keys == [f"classification, resnet18, size 32, frozen {frozen}" for frozen in (False, True)]
    bigger = keys[0].replace("size 32", "size 64")
    assert near(bigger, {keys[0]: 1.0}).seconds == 4.0


def test_a_method_without_a_rate_has_that_of_another_scaled_by_their_measured_steps():
    key = "pretrain {}, resnet18, crop {}, batch 64, auto".format
    known = {key("baselines.moco_v2.MoCoV2", 64): 2.0}
    assert near(key("baselines.byol.BYOL", 64), known).seconds == pytest.approx(2.0 * 1.95)
    assert near(key("baselines.byol.BYOL", 32), known).seconds == pytest.approx(2.0 * 1.95 / 4)
    assert near(key("own.Method", 64), known).seconds == 2.0
    own = {**known, key("baselines.byol.BYOL", 32): 1.0}  # that of the method itself is nearer
    assert near(key("baselines.byol.BYOL", 64), own).seconds == 4.0


def test_the_steps_of_methods_are_those_of_the_benchmarks():
    first: dict[str, float] = {}
    for name, file in (("competitors", "costs"), ("competitors_proposals", "costs_proposals")):
        measured = pd.read_csv(
            ROOT / "results" / "reference" / "benchmarks" / f"{file}.tsv", sep="\t", index_col="method"
        )
        study = load(ROOT / "config" / f"{name}.yaml")
        for method, relative in measured.relative.items():
            config = study.runs[study.compared[method]].config
            sides = [view.get("crop", config.views.crop) for view in config.each_view]
            pixels = sum(side**2 for side in sides) / (2 * config.views.crop**2)
            first.setdefault(config.target, round(relative / pixels, 2))
    assert first == STEP


def test_a_job_takes_longer_than_its_work(loaded):
    one, two = runs(loaded, "mls", k=5)
    put(loaded, one, "pretrain", 100.0, job_s=104.0)
    put(loaded, two, "pretrain", 100.0, job_s=40.0)  # went on from a checkpoint
    put(loaded, runs(loaded, "mls", k=1)[0], "pretrain", 100.0, job_s=102.0)
    assert learned()[rates.START] == 2.0


def test_results_of_another_device_or_thread_count_do_not_count(loaded):
    one, two = runs(loaded, "mls", k=5)
    put(loaded, one, "pretrain", 100.0, device="NVIDIA H100")
    put(loaded, two, "pretrain", 100.0, threads=4)
    assert learned() == {}
    assert learned(threads=4) == {"pretrain mlssl.method.mls.MLS": 2.0}


@pytest.mark.parametrize(
    "change", [{"target": "my.Method"}, {"batch_size": 16}, {"views": {"crop": 48}}, {"precision": "fp32"}]
)
def test_what_changes_the_cost_of_a_step_is_in_the_key(loaded, change):
    config = plain(runs(loaded, "mls", k=5)[0].config)
    before = rates.key("pretrain", "test_resnet", config)
    assert rates.key("pretrain", "test_resnet", config | change) != before
    assert rates.key("pretrain", "resnet50", config) != before
    assert rates.key("pretrain", "test_resnet", config | {"seed": 7, "lr": 7.0, "epochs": 7.0}) == before


def test_a_broken_result_is_named(loaded):
    path = put(loaded, runs(loaded, "mls", k=5)[0], "pretrain", 100.0)
    path.write_text("{")
    with pytest.raises(ConfigError, match=path.name):
        learned()


def everything(loaded, seconds=100.0, out=None):
    """Results of another study with the same settings, one second a job to start."""
    for method in ("mls", "moco_v2", "random"):
        run = runs(loaded, method)[0]
        put(loaded, run, "pretrain", seconds if run.config.target else 1.0, job_s=seconds + 1, out=out)
    put(loaded, run, "linear", 30.0, job_s=31.0, out=out)
    put(loaded, run, "detection", 150.0, job_s=151.0, out=out)


def test_totals_by_hand(loaded):
    everything(loaded, out=Path("results/other"))
    found = estimate.jobs(loaded, rates.sources(Path("results"), device="cpu", reference=NOWHERE))
    assert len(found) == 8 + 8 + 3
    assert all(job.seconds is not None for job in found)
    by_stage = {(job.run, job.stage): job.seconds for job in found}
    mls = runs(loaded, "mls", k=5)[0].id
    # 50 steps of 2 s; 100 images of 0.3 s; 10 iterations of 2 images, thrice, and 15 images, of 2 s: and 1 s each.
    assert by_stage[mls, "pretrain"] == pytest.approx(101)
    assert by_stage[mls, "linear"] == pytest.approx(31)
    assert by_stage[mls, "detection"] == pytest.approx(151)
    computing = 6 * 101 + 2 * 2 + 8 * 31 + 3 * 151
    assert estimate.total(found) == pytest.approx(computing)
    assert estimate.wall_clock(found, 1) == pytest.approx(computing)
    assert estimate.wall_clock(found, 4) == pytest.approx(computing / 4)
    assert estimate.wall_clock(found, 100) == pytest.approx(101 + 151)  # a pretraining, then its detection

    text = estimate.report(loaded, 4, reference=NOWHERE)
    assert "study.yaml: 8 runs, 19 jobs" in text
    assert "\naxis k: 4 runs, 11 min of computing; about 4 min on 4 cores" in text
    minutes = computing / 60
    assert f"all: 19 jobs, {minutes:.0f} min of computing; about {minutes / 4:.0f} min on 4 cores" in text
    assert "19 jobs by results under results/ on cpu" in text
    assert "start of a job: 1.0 s, by results under results/ on cpu" in text
    assert "disk: store 1 MB, if photos are 64 x 64; weights unknown" in text
    assert "unknown" not in text.replace("weights unknown", "")
    line = next(line for line in text.splitlines() if line.startswith(mls))
    assert line.split() == [mls, "50", "2", "min", "31", "s", "3", "min"]


def test_every_job_of_snakemake_is_counted_once():
    planned = ["pretrain"] * 2 + ["linear"] + ["store", "scenes", "search_benchmark", "tables", "collect", "all"]
    assert estimate.counted(planned, ("pretrain", "linear")) == (
        "9 jobs of Snakemake: 3 of them are in the estimate, the other 6: 2 of seconds each (collect, tables); "
        "3 not priced (scenes, search_benchmark, store); `all`, which does nothing."
    )
    assert estimate.counted(["linear", "axis_k"], ["linear"]) == (
        "2 jobs of Snakemake: 1 of them are in the estimate, the other 1: `axis_k`, which does nothing."
    )
    assert estimate.counted(["linear"], ["linear"]) == (
        "1 jobs of Snakemake: 1 of them are in the estimate, no other."
    )


def test_what_is_done_is_not_still_to_do(loaded):
    everything(loaded)
    text = estimate.report(loaded, 1, reference=NOWHERE)
    assert "\nstill to do: 14 jobs" in text
    assert text.count("(done)") == 5
    # Four trainings of 101 s and linear probes of 31 s, and one detection of 151 s; one training is done.
    left = "still to do: 8 jobs, 10 min of computing; about 10 min on one core"
    assert f"\naxis k: 4 runs, 11 min of computing; {left}" in text
    for run in {cell.run for cell in loaded.cells if cell.axis == "k"}:
        for stage in loaded.stages(run):
            put(loaded, loaded.runs[run], stage, 30.0)
    assert re.search(r"\naxis k: 4 runs, [^;]+; done ", estimate.report(loaded, 1, reference=NOWHERE))


def test_unknown_stays_unknown(loaded):
    run = runs(loaded, "mls", k=5)[0]
    put(loaded, run, "pretrain", 100.0)
    found = estimate.jobs(loaded, rates.sources(Path("results"), device="cpu", reference=NOWHERE))
    assert {job.key.split(",")[0] for job in found if job.seconds is None} == {
        *("no pretraining", "linear", "detection")
    }
    text = estimate.report(loaded, 2, reference=NOWHERE)
    assert "at least 7 min of computing" in text
    assert "unknown, 8 jobs: linear, test_resnet, size 32" in text
    assert "--measure" in text


def test_without_any_rate_nothing_is_invented(loaded):
    text = estimate.report(loaded, 2, reference=NOWHERE)
    assert "all: 19 jobs, unknown time of computing\n" in text
    assert " min" not in text


def test_a_folder_that_is_not_there_cannot_be_counted(loaded):
    values = STUDY | {"data": {"root": "photos"}}
    Path("photos.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    photos = load("photos.yaml")
    assert photos.source.images() == (None, None)
    everything(loaded)
    text = estimate.report(photos, 2, reference=NOWHERE)
    line = next(line for line in text.splitlines() if line.startswith("mls-"))
    assert line.split()[1:4] == ["unknown"] * 3
    for split, count in (("train2017", 80), ("val2017", 20)):
        folder = Path("photos") / split
        folder.mkdir(parents=True)
        for i in range(count):
            (folder / f"{i}.jpg").touch()
    assert photos.source.images() == (80, 20)


def test_reference_rates_say_that_they_are_not_of_this_machine(loaded):
    everything(loaded)
    found = rates.learn(Path("results"), device="cpu")
    rates.save(Path("reference.json"), found, device="cpu")
    bare = load(Path("study.yaml"))
    text = estimate.report(bare, 2, results=Path("empty"), reference=Path("reference.json"))
    assert f"19 jobs by rates of {rates.machine()}, not of this machine" in text
    assert "not of this machine" not in estimate.report(bare, 2, reference=Path("reference.json"))


def test_measured_rates_are_preferred_and_kept_per_device(loaded):
    everything(loaded, out=Path("results/other"))
    config = plain(runs(loaded, "mls", k=5)[0].config)
    key = rates.key("pretrain", "test_resnet", config)
    rates.save(Path("results/rates.json"), {key: 7.0}, device="cpu")
    rates.save(Path("results/rates.json"), {"pretrain x": 1.0}, device="cpu")
    assert rates.read(Path("results/rates.json"))["seconds"] == {key: 7.0, "pretrain x": 1.0}
    found = estimate.jobs(loaded, rates.sources(Path("results"), device="cpu", reference=NOWHERE))
    assert {job.seconds for job in found if job.key == key} == {7.0 * STEPS + 1}
    found = rates.sources(Path("results"), device="NVIDIA H100", reference=NOWHERE)
    assert [source.seconds for source in found] == [{}]
    rates.save(Path("results/rates.json"), {key: 0.1}, device="NVIDIA H100")
    assert rates.read(Path("results/rates.json"))["seconds"] == {key: 0.1}


def test_the_reference_rates_cover_the_default_study(loaded, monkeypatch):
    monkeypatch.chdir(ROOT)
    demo = load(ROOT / "config" / "demo.yaml")
    found = estimate.jobs(demo, rates.sources(Path("nowhere"), device="cpu"))
    assert all(job.seconds for job in found)
    assert 30 < estimate.wall_clock(found, 2) / 60 < 45  # 80 minutes of one core


def test_every_evaluator_can_be_measured():
    assert set(calibration.STAGES) == set(TRANSFERS) - {"pseudo_labels"}  # which costs next to nothing


@pytest.mark.parametrize(
    "config", [Classification(Data("-"), size=32, resize=32), Svm(Data("-"), size=64, costs=(1.0,))]
)
def test_classification_and_svms_are_measured_at_two_lengths(config, tmp_path):
    stage = type(config).__name__.lower()
    for images in (calibration.FEW, calibration.MORE):
        write_coco(tmp_path / str(images), splits={"train2017": images, "val2017": images // 2})
    file = write_backbone(tmp_path / "backbone.pt")
    short, long = calibration.lengths(config, tmp_path)
    assert calibration.units(stage, long) == 4 * calibration.units(stage, short)
    assert calibration.timed(stage, short, file, torch.device("cpu")) > 0


def test_measuring_takes_real_steps(loaded):
    wanted = estimate.pretrainings(loaded)
    assert len(wanted) == 2  # k does not count, nor does the untrained backbone
    found = measure(wanted, torch.device("cpu"), steps=2)
    assert set(found) == set(wanted)
    assert all(0 < seconds < 60 for seconds in found.values())


@pytest.mark.alone
def test_an_estimate_comes_true(loaded):
    """The times of seed 0 predict those of seed 1, on the same data, through the real stages."""
    values = STUDY | {"data": {"root": str(write_coco(Path("photos")))}, "ablations": {}}
    values["pretrain"] = STUDY["pretrain"] | {"epochs": None, "steps": 30}
    values["transfers"] = {"linear": {"size": 64, "fractions": [1.0], "iterations": 20}}
    Path("real.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    real = load("real.yaml")
    build_store(Path("photos/train2017"), real.store, short_side=256, images_id=real.data.images_id, workers=1)
    cpu = torch.device("cpu")
    took = {0: 0.0, 1: 0.0}
    for run in sorted(real.runs.values(), key=lambda run: run.config.seed):
        if run.config.seed == 1 and not took[1]:
            expected = [
                job
                for job in estimate.jobs(real, rates.sources(Path("results"), device="cpu", reference=NOWHERE))
                if real.runs[job.run].config.seed == 1
            ]
        took[run.config.seed] += train_and_probe(real, run, cpu)
    assert {job.done for job in expected} == {False}
    assert estimate.total(expected) == pytest.approx(took[1], rel=0.5)


def train_and_probe(real, run, cpu):
    """Both stages as the commands run them; their wall time in seconds."""
    watch = results.Stopwatch()
    out = real.out / "runs" / run.id
    pretrain(run.config, real.store, out, run=run.id, device=cpu, progress=False)
    linear, probe = results.Stopwatch(), real.transfers["linear"]
    rows, notes = evaluate(out / "backbone.pt", probe, seed=run.config.seed, device=cpu, progress=False)
    facts = device.facts(cpu) | {"wall_s": linear.seconds()}
    put_result(real, run, "linear", rows, notes=notes, **facts)
    return watch.seconds()
