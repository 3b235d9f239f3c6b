"""Collecting, averaging, tables, figures and contact sheet, on result files with values known by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.text import Text
from PIL import Image
from support.results import put

from mlssl.analysis import aggregate, outputs
from mlssl.analysis.aggregate import Summary
from mlssl.analysis.collect import collect
from mlssl.analysis.names import in_words, label_in_words
from mlssl.claims.evaluate import Samples
from mlssl.claims.findings import finding
from mlssl.errors import ConfigError
from mlssl.figures import write
from mlssl.figures.curves import training_curves
from mlssl.figures.forces import label_force
from mlssl.figures.style import apart, dots, interval, span
from mlssl.figures.write import ablation, write_figures
from mlssl.figures.write import labels as label_curve
from mlssl.figures.write import main as main_figure
from mlssl.pictures.contact_sheet import write_contact_sheet
from mlssl.study.load import load
from mlssl.tables.write import escape, write_tables

PAPER = Path(__file__).parents[1] / "results" / "published"
STUDY = {
    "name": "tiny",
    "about": "Drawn scenes, to test 100 % of the analysis.",
    "data": {"scenes": {"images": 3000, "val_images": 100, "size": [64, 64], "seed": 0}},
    "seeds": [0, 1, 2],
    "pretrain": {"backbone": "resnet10t", "epochs": 2, "batch_size": 64, "views": {"crop": 32}},
    "methods": {
        "mls": {"target": "mlssl.method.mls.MLS", "params": {"k": 5}},
        "moco_v2": {"target": "baselines.moco_v2.MoCoV2"},
        "random": {},
    },
    "compare": ["random", "moco_v2", "mls"],
    "ablations": {
        "k": {"method": "mls", "param": "k", "values": [1, 5]},
        "dictionary_size": {"method": "mls", "param": "dictionary_size", "values": [128, 4096]},
        "loss": {"levels": {"infonce": {"method": "moco_v2"}, "infonce+bce": {"method": "mls"}}},
    },
    "transfers": {
        "linear": {"fractions": [1.0, 0.1]},
        "detection": {"runs": "compare", "seeds": [0], "iterations": 10},
    },
}
ONE_COLUMN = 89 / 25.4
"""Inches."""
NOTES = {"protocols": {"linear": {"train_images": 1000}, "linear_10pct": {"train_images": 100}}}
MAP = {0: 40.0, 1: 42.0, 2: 47.0}
"""Mean 43; deviations -3, -1, 4; sample variance 26 / 2 = 13."""


MADE = {"commit": "12e4", "threads": 2, "wall_s": 90.0}


def rows(protocol, scores, n=100):
    return [{"protocol": protocol, "metric": m, "value": v, "n": n} for m, v in scores.items()]


def find(study, method, seed, **params):
    return next(
        r
        for r in study.runs.values()
        if r.config.method == method
        and r.config.seed == seed
        and all(r.config.params[k] == v for k, v in params.items())
    )


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study with every result there."""
    monkeypatch.chdir(tmp_path)
    return filled(STUDY)


def filled(values):
    """The study of these values, with every result there, in the working directory."""
    Path("study.yaml").write_text(yaml.safe_dump(values))
    study = load("study.yaml")
    for run in study.runs.values():
        put(study, run, "pretrain", rows("pretrain", {"steps": 92}), **MADE)
        lines = [{"step": t, "loss": 9 / t, "info_nce": 8 / t, "lr": 0.1, "images_per_s": 9.0} for t in (10, 20)]
        log = lines if run.config.target else []
        (study.out / "runs" / run.id / "log.jsonl").write_text("".join(json.dumps(x) + "\n" for x in log))
        value = MAP[run.config.seed] - (10 if run.config.target is None else 0)
        linear = rows("linear", {"mAP": value}) + rows("linear_10pct", {"mAP": value / 2})
        put(study, run, "linear", linear, notes=NOTES, **MADE)
        if run.id in study.transfer_runs["detection"]:
            dense = {"AP_bbox": 20.0, "AP50_bbox": 30.0, "AP_segm": 18.0}
            if run.config.target is None:
                dense = {metric: value / 2 for metric, value in dense.items()}
            put(study, run, "detection", rows("detection", dense), **MADE)
    return study


def tables(study):
    collect(study)
    write_tables(study, PAPER)
    return {
        name: pd.read_csv(study.out / "tables" / f"{name}.tsv", sep="\t", keep_default_na=False).set_index(axis)
        for name, axis in {outputs.stem(a): a for a in study.axes()}.items()
    }


def diverge(study, run):
    for stage in ("pretrain", "linear", "detection"):
        study.result(run.id, stage).unlink(missing_ok=True)
    (study.out / "runs" / run.id / "log.jsonl").unlink()
    state = study.out / "runs" / run.id / "state"
    state.mkdir()
    (state / "failed.json").write_text(json.dumps({"reason": "step 7: the loss is not finite\t(loss = nan)"}))


def test_means_and_spreads(study):
    main = tables(study)["main"]
    assert float(main.loc["mls", "linear_mAP_mean"]) == 43
    assert float(main.loc["mls", "linear_mAP_std"]) == pytest.approx(math.sqrt(13), abs=1e-6)
    assert main.loc["mls", "linear_mAP_n"] == 3
    assert float(main.loc["mls", "linear_10pct_mAP_mean"]) == 21.5
    assert float(main.loc["mls", "pretrain_minutes_mean"]) == 1.5
    assert main.loc["mls", "detection_AP_bbox_n"] == main.loc["mls", "detection_AP_bbox_n_expected"] == 1
    assert main.loc["mls", "detection_AP_bbox_std"] == "NA"
    line = next(x for x in (study.out / "tables/main.md").read_text().splitlines() if x.startswith("| mls"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1] == "43.00 ± 3.61"
    assert "20.00 (n = 1)" in cells


def test_without_transfers_nothing_is_beside_the_papers_scores(study):
    Path("study.yaml").write_text(yaml.safe_dump(STUDY | {"transfers": {}}))
    without = load("study.yaml")
    main = tables(without)["main"]
    assert float(main.loc["mls", "pretrain_minutes_mean"]) == 1.5
    assert not [column for column in main if "paper" in column]
    assert "Transfer: none." in (without.out / "tables" / "main.md").read_text()


def test_every_row_names_its_origin(study):
    collect(study)
    metrics = aggregate.read_metrics(study)
    assert len(metrics) == 15 * 6 + 3 * 3
    assert set(metrics["status"]) == {"ok"}
    assert set(metrics["commit"]) == {"12e4"}
    assert set(metrics["digest"]) == {run.digest for run in study.runs.values()}
    pretrained = metrics["protocol"] == "pretrain"
    assert set(metrics[pretrained]["images"]) == {study.data.images_id}
    assert set(metrics[~pretrained]["data"]) == {study.transfers["linear"].data.data_id}
    assert metrics[~pretrained]["images"].isna().all()
    assert metrics[pretrained]["data"].isna().all()
    assert metrics["other_code"].isna().all()
    runs = pd.read_csv(study.out / "runs.tsv", sep="\t")
    assert len(runs) == len(study.cells)
    assert set(runs["status"]) == {"ok"}
    assert runs["other_code"].isna().all()


def test_numbers_of_the_header_are_rows_too(study):
    run = find(study, "mls", 2, k=1)
    put(study, run, "pretrain", rows("pretrain", {"steps": 92}), **MADE | {"wall_s": 75.0})
    collect(study)
    own = aggregate.read_metrics(study).query("run == @run.id").set_index(["protocol", "metric"])["value"]
    assert own.to_dict() == {
        ("pretrain", "steps"): 92,
        ("pretrain", "minutes"): 1.25,
        ("linear", "mAP"): 47,
        ("linear", "train_images"): 1000,
        ("linear_10pct", "mAP"): 23.5,
        ("linear_10pct", "train_images"): 100,
    }


def test_label_savings_come_from_metrics_alone(study):
    for seed, value in ((0, 20.0), (1, 21.0), (2, 23.5)):  # what the others reach with a tenth of the labels
        run = find(study, "random", seed)
        put(study, run, "linear", rows("linear", {"mAP": value}) + rows("linear_10pct", {"mAP": 5.0}), notes=NOTES)
    collect(study)
    for path in study.out.glob("runs/*/*.json"):
        path.unlink()
    write_tables(study, PAPER)
    text = (study.out / "tables" / "label_savings.md").read_text()
    assert (
        "mls: labels saved: undecided (needs n = 6). With pretraining, 3 of 3 seeds reach the mAP that all" in text
    )


def test_scores_without_groups_of_images_are_kept_for_their_spread(study):
    run = find(study, "mls", 0, k=1)
    linear = rows("linear", {"mAP": 1.0}) + rows("linear_10pct", {"mAP": 2.0})
    linear[0]["jackknife"] = [1.5, 0.25]
    put(study, run, "linear", linear)
    collect(study)
    about = {"run": run.id, "method": "mls", "seed": 0, "digest": run.digest, "protocol": "linear", "metric": "mAP"}
    found = pd.read_csv(study.out / "image_groups.tsv", sep="\t", dtype={"digest": str})
    assert found.to_dict("records") == [about | {"group": 0, "value": 1.5}, about | {"group": 1, "value": 0.25}]
    assert list(aggregate.read_metrics(study).columns) == outputs.METRICS


def test_what_has_changed_in_the_code_since_is_said(study):
    run = find(study, "mls", 0, k=1)
    code = json.loads(study.result(run.id, "linear").read_text())["header"]["code"]
    code |= {"mlssl/seeds.py": "0" * 12, "mlssl/gone.py": "0" * 12}
    put(study, run, "linear", rows("linear", {"mAP": 1.0}) + rows("linear_10pct", {"mAP": 1.0}), code=code)
    collect(study)
    metrics = aggregate.read_metrics(study).query("run == @run.id").groupby("protocol").first()
    assert metrics.loc["linear", "other_code"] == "mlssl/gone.py mlssl/seeds.py"
    assert pd.isna(metrics.loc["pretrain", "other_code"])
    changed = pd.read_csv(study.out / "runs.tsv", sep="\t").set_index("run")["other_code"].dropna()
    assert changed.to_dict() == {run.id: "linear: mlssl/gone.py mlssl/seeds.py"}


def test_missing_and_failed_show_as_such(study):
    study.result(find(study, "moco_v2", 1).id, "linear").unlink()
    for seed in (0, 1, 2):
        diverge(study, find(study, "mls", seed, k=1))
    diverge(study, find(study, "mls", 0, k=5, dictionary_size=4096))
    found = tables(study)
    metrics = (study.out / "metrics.tsv").read_text()
    assert "failed: step 7: the loss is not finite (loss = nan)" in metrics
    assert "\t\t" not in metrics
    absent = aggregate.read_metrics(study).query("metric == '-'")
    assert len(absent) == 2 + 4 * 3 + 1
    assert absent["value"].isna().all()

    assert found["main"].loc["moco_v2", "linear_mAP_status"] == "missing (1 of 3 seeds)"
    assert found["main"].loc["moco_v2", "linear_mAP_n"] == 2
    assert float(found["main"].loc["moco_v2", "linear_mAP_mean"]) == 43.5
    assert found["main"].loc["moco_v2", "pretrain_minutes_status"] == "ok"
    assert found["main"].loc["mls", "detection_AP_bbox_mean"] == "NA"
    assert found["k"].loc[1, "linear_mAP_mean"] == "NA"
    text = "failed: step 7: the loss is not finite (3 of 3 seeds)"
    assert found["k"].loc[1, "linear_mAP_status"] == text
    assert f"| {text} " in (study.out / "tables" / "k.md").read_text()
    assert "43.50 ± 4.95 (n = 2); missing (1 of 3 seeds)" in (study.out / "tables" / "main.md").read_text()
    runs = pd.read_csv(study.out / "runs.tsv", sep="\t")
    assert "missing: linear, linear_10pct" in set(runs["status"])
    write_figures(study)


@pytest.mark.parametrize("axis", ["k", "loss"])
@pytest.mark.parametrize("far", [-20.0, 40.0])
def test_floor_and_baseline_are_on_the_axis_of_every_ablation(study, axis, far):
    tables(study)
    metrics = aggregate.read_metrics(study)
    metrics.loc[(metrics["method"] == "moco_v2") & (metrics["metric"] == "mAP"), "value"] += far
    figure = ablation(study, metrics, finding(Samples(study, metrics, None), axis))
    (ax,) = figure.axes
    low, high = ax.get_xlim()
    at = {line.get_label(): line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == ":"}
    for method, name in (("random", "untrained"), ("moco_v2", "MoCo-v2")):
        own = (metrics["method"] == method) & (metrics["protocol"] == "linear") & (metrics["metric"] == "mAP")
        rows = metrics[own].drop_duplicates("run")
        assert at[name] == pytest.approx(rows["value"].mean())
        assert low < at[name] < high
    assert [t.get_text() for t in ax.get_yticklabels()][-2:] == ["untrained", "MoCo-v2"]
    assert {t.get_text() for t in ax.texts} == {"n = 3"}
    plt.close(figure)


def test_an_ablation_draws_every_seed_and_the_interval_of_the_mean(study):
    tables(study)
    metrics = aggregate.read_metrics(study)
    figure = ablation(study, metrics, finding(Samples(study, metrics, None), "k"))
    (ax,) = figure.axes
    for at, k in enumerate((1, 5)):
        own = [study.runs[find(study, "mls", seed, k=k).id] for seed in (0, 1, 2)]
        names = [run.id for run in own]
        chosen = metrics["run"].isin(names) & (metrics["protocol"] == "linear") & (metrics["metric"] == "mAP")
        values = metrics[chosen]["value"].to_numpy()
        drawn = [np.sort(line.get_xdata()) for line in ax.lines if list(set(line.get_ydata())) == [at]]
        half = 4.302652729911275 * values.std(ddof=1) / math.sqrt(3)  # t, two degrees of freedom
        for wanted in (np.sort(values), [values.mean()], [values.mean() - half, values.mean() + half]):
            assert any(len(x) == len(wanted) and np.allclose(x, wanted) for x in drawn), (k, wanted)
    plt.close(figure)


def test_two_seeds_have_points_but_no_interval_and_one_seed_an_open_mark(study):
    _, ax = plt.subplots()
    dots(ax, 0, Summary({0: 40.0, 1: 42.0}, 2), "black", "D")
    assert [len(line.get_xdata()) for line in ax.lines] == [2, 1]
    dots(ax, 1, Summary({0: 40.0}, 1), "black", "D")
    assert [len(line.get_xdata()) for line in ax.lines] == [2, 1, 1]
    assert ax.lines[-1].get_markerfacecolor() == "white"
    assert interval(Summary({0: 40.0, 1: 42.0}, 2)) is None
    plt.close("all")


def test_panels_of_the_main_comparison_have_one_scale_and_none_below_zero(study):
    tables(study)
    metrics = aggregate.read_metrics(study)
    figure = main_figure(study, metrics, Samples(study, metrics, None))
    panels = [ax for ax in figure.axes if ax.axison and "%" in ax.get_xlabel()]
    widths = [high - low for low, high in (ax.get_xlim() for ax in panels)]
    assert len(widths) > 1
    assert widths == pytest.approx([widths[0]] * len(widths))
    assert figure.get_suptitle().startswith("MLS − MoCo-v2: ")
    plt.close(figure)
    assert span(0.5, 1.0, 10.0)[0] == pytest.approx(-0.2)  # a margin for the mark at 0, no more
    assert span(40.0, 42.0, 10.0) == (36.0, 46.0)


@pytest.mark.parametrize(
    ("values", "wanted"), [([1, 5], [1, 5]), ([5, 5.2], [4.6, 5.6]), ([0, 0.5, 0.6], [-0.6333, 0.3667, 1.3667])]
)
def test_labels_of_lines_are_moved_apart_around_their_centre(values, wanted):
    assert apart(values, 1.0) == pytest.approx(wanted, abs=1e-3)


def test_equal_subsets_of_labels_are_one_point(study):
    tables(study)
    metrics = aggregate.read_metrics(study)
    known = metrics[(metrics["metric"] == "mAP") & metrics["protocol"].isin(["linear", "linear_10pct"])]
    for images, ticks in (
        ({"linear": 75, "linear_10pct": 75}, ["75"]),
        ({"linear": 3000, "linear_10pct": 300}, ["300", "3,000"]),
    ):
        counts = known.assign(metric="train_images", value=known["protocol"].map(images).astype(float))
        with_counts = pd.concat([metrics[metrics["metric"] != "train_images"], counts], ignore_index=True)
        figure = label_curve(study, with_counts, [])
        assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ticks
        assert "number of labelled images" in figure.axes[0].get_xlabel()
        plt.close(figure)


def test_texts_are_legible_in_one_column_and_name_no_identifier(study, monkeypatch):
    tables(study)
    sizes, words = [], []

    def record(figure, path):
        texts = [t for t in figure.findobj(Text) if t.get_text().strip() and t.get_visible()]
        sizes.extend(t.get_fontsize() * ONE_COLUMN / figure.get_figwidth() for t in texts)
        words.extend(t.get_text() for t in texts)
        plt.close(figure)

    monkeypatch.setattr(write, "save", record)
    write_figures(study)
    assert min(sizes) >= 5
    shown = " ".join(words)
    for name in ("moco_v2", "dictionary_size", "infonce+bce", "AP_bbox", "AP_segm", "info_nce"):
        assert name not in shown


def test_a_name_without_words_stays_as_it_is_written():
    assert in_words("lam") == "λ"
    assert in_words("my_method") == "my_method"
    assert label_in_words("mls − my_mls_2") == "MLS − my_mls_2"
    assert (
        label_in_words("dictionary_size 512 − dictionary_size 128") == "dictionary size 512 − dictionary size 128"
    )
    assert label_in_words("infonce+bce_pos − infonce") == "InfoNCE + BCE⁺ − InfoNCE"


def test_a_level_without_a_value_is_on_the_axis_with_the_word(study):
    for seed in (0, 1, 2):
        diverge(study, find(study, "mls", seed, k=1))
    tables(study)
    metrics = aggregate.read_metrics(study)
    figure = ablation(study, metrics, finding(Samples(study, metrics, None), "k"))
    (ax,) = figure.axes
    assert ax.get_yticklabels()[0].get_text() == "1"
    assert [text.get_text() for text in ax.texts] == ["failed", "n = 3", "n = 3", "n = 3"]
    assert figure.get_suptitle().startswith("K: no result yet")
    plt.close(figure)


def test_the_title_of_an_ablation_is_its_finding(study):
    for seed in (0, 1, 2):
        run = find(study, "mls", seed, k=1)
        study.result(run.id, "linear").unlink()
        put(study, run, "linear", rows("linear", {"mAP": MAP[seed] - 5 + 0.1 * seed}), notes=NOTES, **MADE)
    tables(study)
    metrics = aggregate.read_metrics(study)
    figure = ablation(study, metrics, finding(Samples(study, metrics, None), "k"))
    title = " ".join(figure.get_suptitle().split())
    assert title == "K: 5 against 1: +4.9 points of linear mAP, 100 % of labels, 95 % CI [4.7, 5.1], n = 3"
    plt.close(figure)


def test_metrics_of_another_version_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("study.yaml").write_text(yaml.safe_dump(STUDY))
    study = load("study.yaml")
    (study.out / "runs").mkdir(parents=True)
    (study.out / "metrics.tsv").write_text("run\tmethod\tseed\tvalue\n")
    with pytest.raises(ConfigError, match=r"metrics\.tsv: has no column .*another version; run `mlssl collect"):
        write_figures(study)


def test_nothing_there_at_all(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("study.yaml").write_text(yaml.safe_dump(STUDY))
    study = load("study.yaml")
    with pytest.raises(ConfigError, match="collect"):
        write_figures(study)
    assert set(tables(study)["main"]["linear_mAP_status"]) == {"missing (3 of 3 seeds)"}
    write_figures(study)
    assert all(path.exists() for path in outputs.figure_files(study))


def test_only_the_studys_own_results_are_gathered(study):
    run = find(study, "mls", 0, k=1)
    path = study.result(run.id, "linear")
    path.with_name("linear-12345678.json").write_text(path.read_text())  # of other settings
    other = path.parent.with_name("another-12345678-s0") / path.name
    other.parent.mkdir()
    other.write_text("{")
    collect(study)
    assert len(aggregate.read_metrics(study)) == 15 * 6 + 3 * 3


@pytest.mark.parametrize(("stage", "key"), [("pretrain", "images"), ("linear", "all")])
def test_results_on_different_data_are_not_put_together(study, stage, key):
    run, first = find(study, "mls", 0, k=1), study.result(next(iter(study.runs)), stage)
    other = {"images": study.data.images_id, "all": study.data.data_id, key: "another"}
    path = put(study, run, stage, rows(stage, {"mAP": 1.0}), data=other)
    with pytest.raises(ConfigError, match="different data") as refused:
        collect(study)
    assert str(path) in str(refused.value)
    assert str(first) in str(refused.value)


@pytest.mark.parametrize("key", ["digest", "config_digest", "seed"])
def test_a_result_of_another_configuration_is_refused(study, key):
    wrong = 7 if key == "seed" else "0" * 12
    path = put(study, find(study, "mls", 0, k=1), "linear", rows("linear", {"mAP": 1.0}), **{key: wrong})
    with pytest.raises(ConfigError, match=key) as error:
        collect(study)
    assert str(path) in str(error.value)
    assert "study.yaml" in str(error.value)


def test_published_numbers_stand_beside_ours(study):
    found = {name: frame.astype(str) for name, frame in tables(study).items()}

    def paper(name, level, metric="AP_bbox"):
        column = next(c for c in found[name] if c.startswith(f"paper {metric}"))
        return found[name].loc[level, column]

    assert (paper("main", "mls"), paper("main", "moco_v2"), paper("main", "random")) == ("40.5", "38.5", "–")
    assert (paper("k", 1), paper("k", 5, "AP_segm")) == ("39.7", "36.1")
    assert (paper("loss", "infonce"), paper("loss", "infonce+bce")) == ("38.8", "40.1")
    assert set(found["dictionary_size"]["paper"]) == {"curve only (figure 5a)"}
    assert "another budget" in (study.out / "tables" / "main.md").read_text()


def test_captions_state_dataset_budget_and_seeds(study):
    tables(study)
    for path in outputs.table_files(study):
        if path.suffix != ".tsv":
            first = path.read_text().splitlines()[0]
            assert "Drawn scenes" in first
            assert "resnet10t backbone, 32 px crops, 2 epochs of 3,000 images, batch 64" in first
            assert "seeds 0, 1, 2 (detection: 0)" in first
            assert "cpu, 2 threads" in first
    text = (study.out / "tables" / "main.tex").read_text()
    assert r"moco\_v2 & 43.00 $\pm$ 3.61" in text
    assert r"100 \% of the analysis" in text
    assert escape("a_b & 5 %") == r"a\_b \& 5 \%"


@pytest.mark.slow
@pytest.mark.long
def test_all_that_is_named_is_written_and_the_same_again(study):
    tables(study)
    write_figures(study)
    files = outputs.table_files(study) + outputs.figure_files(study)
    assert set(files) == {p for folder in ("tables", "figures") for p in (study.out / folder).iterdir()}
    assert {p.stem for p in outputs.figure_files(study)} == {
        *("main", "k", "dictionary_size", "loss", "labels", "training_curves", "label_force", "gains", "claims")
    }
    before = {path: path.read_bytes() for path in files}
    tables(study)
    write_figures(study)
    for path in files:
        assert path.read_bytes() == before[path], path
        if path.suffix == ".png":
            with Image.open(path) as image:
                assert min(image.size) > 300
                assert len(image.convert("L").getcolors()) > 10


def test_contact_sheet(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val").mkdir()
    images, notes = [], []
    for i in range(3):
        Image.new("RGB", (40, 30), "white").save(tmp_path / "val" / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png", "width": 40, "height": 30})
    square = [10, 10, 20, 10, 20, 20, 10, 20]
    notes = [
        {"id": 1, "image_id": 0, "category_id": 4, "bbox": [10, 10, 10, 10], "segmentation": [square]},
        {"id": 2, "image_id": 1, "category_id": 4, "bbox": [10, 10, 10, 10], "segmentation": [square]},
    ]
    content = {"images": images, "annotations": notes, "categories": [{"id": 4, "name": "cup"}]}
    (tmp_path / "annotations" / "instances_val.json").write_text(json.dumps(content))
    out = tmp_path / "figures" / "contact_sheet.png"
    write_contact_sheet(tmp_path, "val", out, images=2)
    first = out.read_bytes()
    with Image.open(out) as sheet:
        assert sheet.width == pytest.approx(2 * 256 + 8, abs=1)
        assert (0, 114, 178) in {colour for _, colour in sheet.convert("RGB").getcolors(2**20)}
    assert out.with_suffix(".pdf").exists()
    write_contact_sheet(tmp_path, "val", out, images=2)
    assert out.read_bytes() == first


def test_a_score_that_cannot_tell_trained_from_untrained_is_marked_in_tables(study):
    for run in study.runs.values():
        if run.id in study.transfer_runs["detection"]:
            study.result(run.id, "detection").unlink()
            put(study, run, "detection", rows("detection", {"AP_bbox": 0.01, "AP50_bbox": 30.0}), **MADE)
    main = tables(study)["main"]
    assert float(main.loc["mls", "detection_AP_bbox_mean"]) == 0.01
    text = (study.out / "tables" / "main.md").read_text()
    assert "‡: below resolution, as floor and ceiling of the score differ by less than δ" in text
    line = next(x for x in text.splitlines() if x.startswith("| mls"))
    marked = [x.strip() for x in line.split("|") if "‡" in x]
    assert marked == ["0.01 (n = 1)‡", "30.00 (n = 1)‡"]  # AP50 is alike for all methods
    assert "43.00 ± 3.61 " in line
    assert r"0.01 (n = 1)\ddag{}" in (study.out / "tables" / "main.tex").read_text()


def test_an_evaluator_that_cannot_use_the_data_is_left_out_by_name(study):
    why = "instances_val2017.json: no image has an object; annotate boxes"
    for run in study.runs.values():
        if run.id in study.transfer_runs["detection"]:
            study.result(run.id, "detection").unlink()
            put(study, run, "detection", [], notes={"left_out": why}, **MADE)
    main = tables(study)["main"]
    assert main.loc["mls", "detection_AP_bbox_status"] == "left out (1 of 1 seed)"
    text = (study.out / "tables" / "main.md").read_text()
    assert f"Left out: detection ({why})." in text
    metrics = pd.read_csv(study.out / "metrics.tsv", sep="\t")
    assert set(metrics[metrics.protocol == "detection"].status) == {f"left out: {why}"}
    assert set(pd.read_csv(study.out / "runs.tsv", sep="\t").status) == {"ok"}


def test_a_metric_that_the_data_do_not_give_is_left_out_by_name_and_the_others_stay(study):
    why = "instances_train2017.json: no object has a mask (key 'segmentation'); annotate masks"
    for run in study.runs.values():
        if run.id in study.transfer_runs["detection"]:
            study.result(run.id, "detection").unlink()
            found = rows("detection", {"AP_bbox": 20.0, "AP50_bbox": 30.0})
            put(study, run, "detection", found, notes={"metrics_left_out": {"AP_segm": why}}, **MADE)
    main = tables(study)["main"]
    assert float(main.loc["mls", "detection_AP_bbox_mean"]) == 20
    assert main.loc["mls", "detection_AP_segm_status"] == "left out (1 of 1 seed)"
    assert f"Left out: detection AP_segm ({why})." in (study.out / "tables" / "main.md").read_text()
    assert set(pd.read_csv(study.out / "runs.tsv", sep="\t").status) == {"ok"}


def test_training_curves_have_a_panel_of_the_scores_during_training_where_runs_have_them(study):
    plain = training_curves(study)
    assert [ax.get_title(loc="left") for ax in plain.axes if ax.axison] == ["total loss", "InfoNCE"]
    per_epoch = {}
    for run in study.runs.values():
        path = study.out / "runs" / run.id / "log.jsonl"
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        if run.config.method == "mls":
            lines = [x | {"knn_mAP": 30.0 + x["step"] + 6 * run.config.seed, "knn_seconds": 1.0} for x in lines]
        path.write_text("".join(json.dumps(x) + "\n" for x in lines))
        per_epoch[run.config.method] = study.source.images()[0] // run.config.batch_size
    figure = training_curves(study)
    *losses, scores = [ax for ax in figure.axes if ax.axison]
    assert [ax.get_title(loc="left") for ax in losses] == ["total loss", "InfoNCE"]
    for before, after in zip(plain.axes, losses, strict=True):
        assert [line.get_xydata().tolist() for line in before.lines] == [
            line.get_xydata().tolist() for line in after.lines
        ]
    assert (scores.get_xlabel(), scores.get_ylabel()) == ("epoch", "kNN mAP, %")
    (mean,) = [line for line in scores.lines if line.get_linewidth() > 1]  # MoCo-v2 has no scores
    assert list(mean.get_xdata()) == [10 / per_epoch["mls"], 20 / per_epoch["mls"]]
    added = 6 * sum(study.seeds) / len(study.seeds)
    assert list(mean.get_ydata()) == pytest.approx([40 + added, 50 + added])
    assert scores.get_xlim()[1] < losses[0].get_xlim()[1]


def test_the_strength_of_the_labels_is_that_of_their_mean_gradient(study):
    for run in study.runs.values():
        study.result(run.id, "pretrain").unlink()
        gradients = {"grad_info_nce": 4.0, "grad_labels": 0.1} if "k" in run.config.params else {}
        put(study, run, "pretrain", rows("pretrain", {"steps": 92, **gradients}), **MADE)
    assert float(tables(study)["k"].loc[5, "pretrain_label_force_mean"]) == 2.5
    main = (study.out / "tables" / "main.md").read_text()
    assert "gradient of the labels" not in main


def test_the_figure_of_the_labels_gradients_draws_their_share_of_info_nce(study):
    for run in study.runs.values():
        seed = run.config.seed
        lines = [
            {"step": t, "diagnostics": {"grad_info_nce": 4.0 + 4 * seed, "grad_labels": 0.2 * t}} for t in (10, 20)
        ]
        log = lines if "k" in run.config.params else []
        (study.out / "runs" / run.id / "log.jsonl").write_text("".join(json.dumps(x) + "\n" for x in log))
    tables(study)
    figure = label_force(study, aggregate.read_metrics(study))
    panels = {ax.get_title("left"): ax for ax in figure.axes if ax.axison}
    assert sorted(panels) == ["K", "dictionary size", "method"]  # one level of "loss" has labels
    thick = {title: [line for line in ax.lines if line.get_linewidth() > 1] for title, ax in panels.items()}
    by_k = dict(zip(study.axes()["k"], thick["K"], strict=True))
    assert {text.get_text().split(" (")[0] for text in panels["K"].texts} == set(by_k)
    shares = [[100 * 0.2 * t / (4 + 4 * seed) for seed in study.seeds] for t in (10, 20)]
    assert list(by_k["5"].get_xdata()) == [10, 20]
    assert list(by_k["5"].get_ydata()) == pytest.approx([sum(share) / len(share) for share in shares])
    # MoCo-v2 has no labels: neither a line nor a missing log.
    assert len(thick["method"]) == 1
    assert [text.get_text() for text in panels["method"].texts] == [f"MLS (n = {len(study.seeds)})"]
    assert "Not available" not in figure.get_suptitle()
