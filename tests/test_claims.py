"""The paper's claims on studies with simulated results."""

from __future__ import annotations

import copy
import itertools
import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import yaml

from mlssl.claims.differences import differences, subtracted
from mlssl.claims.evaluate import NO_RESULT, NOT_IN_STUDY, Samples, evaluate
from mlssl.claims.gains import gains
from mlssl.claims.margins import MARGIN
from mlssl.claims.noise import noise
from mlssl.claims.paper import CLAIMS
from mlssl.claims.resolution import below_resolution
from mlssl.figures.forest import claims as forest
from mlssl.figures.gains import gains as gains_figure
from mlssl.study.load import load
from mlssl.study.study import COMPARE
from mlssl.tables.claims import claims_table, noise_table, paper_numbers
from mlssl.tables.differences import differences_table
from mlssl.tables.gains import gains_table
from mlssl.tables.write import markdown, read_paper

ROOT = Path(__file__).parents[1]
PUBLISHED = read_paper(ROOT / "results" / "published")
ABLATIONS = yaml.safe_load((ROOT / "config" / "ablations.yaml").read_text())
MLS_DEFAULT = {
    (COMPARE, "mls"),
    ("loss", "infonce+bce"),
    ("dictionaries", "q_g_and_q_z"),
    ("k", "5"),
    ("lam", "0.5"),
}
GROUPS = 10
ORIGIN = ("device", "threads", "torch", "commit")


@pytest.fixture
def study_of(tmp_path, monkeypatch):
    """A study like config/ablations.yaml with other seeds, transfers and axes."""
    monkeypatch.chdir(tmp_path)

    def make(seeds=(0, 1, 2, 3, 4), axes=(), axis_seeds=None, ceiling=False, **transfers):
        values = copy.deepcopy(ABLATIONS) | {"seeds": list(seeds)}
        if ceiling:
            values["methods"]["supervised"] = {"target": "baselines.supervised.Supervised"}
            values["compare"].append("supervised")
        fewer = {"seeds": axis_seeds} if axis_seeds else {}
        values["ablations"] = {name: values["ablations"][name] | fewer for name in axes}
        values["transfers"] = {"linear": {"fractions": [1.0]}} | transfers
        Path("study.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
        return load("study.yaml")

    return make


BASE = {("linear", "mAP"): 50.0, ("detection", "AP_bbox"): 20.0}
LABELS = {("pseudo_labels", "shared"): 40.0, ("pseudo_labels", "chance"): 30.0}


def simulate(study, means=None, *, noise=0.1, images=0.0, failed=(), seed=1):
    """Metrics and image groups: a score is its base, the mean of its level, and noise shared or not by seeds.

    `means` has (axis, level) -> difference from the base, for all metrics but `chance`; `failed` levels diverge.
    Random weights are 20 points below the base, so that no score is below resolution.
    """
    rng = np.random.default_rng(seed)
    shift, gone = {}, set()
    for cell in study.cells:
        place = (cell.axis, cell.level)
        floor = -20.0 if place == (COMPARE, "random") else 0.0
        shift[cell.run] = shift.get(cell.run, 0.0) + (means or {}).get(place, floor)
        gone |= {cell.run} if (cell.axis, cell.level) in failed else set()
    common = {s: rng.normal() for s in study.seeds}
    rows, groups = [], []
    for run in study.runs.values():
        about = {"run": run.id, "other_code": None, "wall_s": 60.0} | dict.fromkeys(ORIGIN, "known")
        seen = {"protocol": "pretrain", "metric": "images_seen", "value": 17664.0}
        why = "failed: the loss is not finite" if run.id in gone else "ok"
        rows.append(about | (seen if why == "ok" else seen | {"metric": "-", "value": math.nan}) | {"status": why})
        for (protocol, metric), base in (BASE | LABELS).items():
            if run.id not in study.transfer_runs.get(protocol, ()):
                continue
            name = {"protocol": protocol, "metric": metric}
            if why != "ok":
                rows.append(about | name | {"metric": "-", "value": math.nan, "status": why})
                continue
            value = base + common[run.config.seed] + noise * rng.normal()
            value += shift[run.id] if metric != "chance" else 0.0
            rows.append(about | name | {"value": value, "status": "ok"})
            of_level = np.random.default_rng([seed, int(run.digest[:6], 16)]).normal(size=GROUPS)
            out = value - images * (of_level - of_level.mean()) / (GROUPS - 1) * math.sqrt(GROUPS)
            groups += [about | name | {"group": g, "value": out[g]} for g in range(GROUPS) if images]
    return pd.DataFrame(rows), pd.DataFrame(groups) if groups else None


def verdicts(study, *data):
    """Claim -> the verdict that counts."""
    return {row.claim.number: row.verdict for row in evaluate(study, *data) if row.primary}


@pytest.mark.parametrize(
    ("gain", "word"),
    [(3.0, "supported"), (-3.0, "contradicted"), (0.0, "no difference larger than 1")],
)
def test_a_true_difference_gets_its_word(study_of, gain, word):
    study = study_of()
    found = verdicts(study, *simulate(study, {(COMPARE, "mls"): gain}))
    assert found[1] == found[2] == word


def test_one_seed_has_no_verdict(study_of):
    study = study_of(seeds=[0])
    rows = evaluate(study, *simulate(study, {(COMPARE, "mls"): 3.0}))
    assert rows[0].verdict == "one seed"
    printed = claims_table(study, simulate(study)[0], PUBLISHED)[2]
    assert "[" not in printed.loc[0, "difference [95 % interval]"]


def test_without_results_no_claim_has_a_verdict_and_all_levels_have_their_names(study_of):
    study = study_of(axes=ABLATIONS["ablations"], pseudo_labels={})
    empty = pd.DataFrame(columns=["run", "protocol", "metric", "value", "status", "other_code", "wall_s"])
    assert set(verdicts(study, empty, None).values()) == {NO_RESULT}
    assert len(verdicts(study, empty, None)) == len(CLAIMS) == 10


def test_what_the_study_lacks_is_named(study_of):
    study = study_of(axes=["k"])
    rows = {row.claim.number: row for row in evaluate(study, *simulate(study))}
    assert rows[4].verdict == NOT_IN_STUDY
    assert "loss = infonce+bce_pos" in rows[4].missing
    assert rows[7].missing == "dictionary_size with three levels or more"
    assert "regions" in rows[3].missing


def test_the_evaluator_that_decides_depends_on_the_study_alone(study_of):
    detection = {"runs": "compare", "iterations": 10}
    study = study_of(detection=detection)
    data = simulate(study, {(COMPARE, "mls"): 3.0})
    first, second = (row for row in evaluate(study, *data) if row.claim.number == 1)
    assert (first.score.protocol, first.primary, second.score.protocol) == ("detection", True, "linear")
    assert second.verdict == "supported"
    study = study_of(detection=detection | {"seeds": [0]})
    first, second = (row for row in evaluate(study, *simulate(study)) if row.claim.number == 1)
    assert (first.score.protocol, second.score.protocol, second.verdict) == ("linear", "detection", "one seed")


def test_all_steps_of_an_order_must_hold(study_of):
    study = study_of(axes=["loss"])
    order = ("infonce", "infonce+knn_softmax", "infonce+bce_pos", "infonce+bce")
    means = {("loss", level): 3.0 * i for i, level in enumerate(order)}
    assert verdicts(study, *simulate(study, means))[4] == "supported"
    reverse = means | {("loss", "infonce+bce_pos"): 0.0}
    row = next(r for r in evaluate(study, *simulate(study, reverse)) if r.claim.number == 4)
    assert (row.verdict, row.because) == ("contradicted", "infonce+bce_pos − infonce+knn_softmax")


def test_one_size_between_is_enough(study_of):
    study = study_of(axes=["dictionary_size"])
    assert verdicts(study, *simulate(study, {("dictionary_size", "2048"): 3.0}))[7] == "supported"
    rising = {("dictionary_size", size): 3.0 * i for i, size in enumerate(("128", "512", "2048", "8192"))}
    assert verdicts(study, *simulate(study, rising))[7] == "contradicted"


def test_a_weight_of_zero_is_moco(study_of):
    study = study_of(axes=["lam", "loss"])
    means = {("lam", level): 3.0 for level in ("0.1", "1.0", "2.0")} | {("lam", "0.5"): 6.0}
    rows = [r for r in evaluate(study, *simulate(study, means)) if r.claim.number == 8]
    assert rows[0].verdict == "supported"
    assert rows[0].outcomes[0].label == "lam 0.1 − infonce"
    assert len(rows[0].outcomes) == 4 + 3


def test_runs_that_fail_are_counted(study_of):
    study, alone = study_of(axes=["loss"]), ("loss", "bce alone")
    assert verdicts(study, *simulate(study, {(COMPARE, "random"): -5.0}, failed=[alone]))[9] == "supported"
    assert verdicts(study, *simulate(study, {alone: -25.0}))[9] == "supported"
    assert verdicts(study, *simulate(study, {(COMPARE, "random"): -5.0}))[9] == "contradicted"
    study = study_of(axes=["loss"], seeds=[0, 1])
    assert verdicts(study, *simulate(study, failed=[alone]))[9] == "undecided (needs n = 5)"


def test_one_seed_that_fails_has_no_verdict(study_of):
    study, alone = study_of(axes=["loss"], seeds=[0]), ("loss", "bce alone")
    assert verdicts(study, *simulate(study, {alone: -25.0}))[9] == "one seed"


def test_runs_that_all_fail_so_far_need_five_seeds_at_most(study_of):
    study, alone = study_of(axes=["loss"], seeds=[0, 1, 2]), ("loss", "bce alone")
    noisy = {(COMPARE, "random"): 0.0, alone: -3.0, ("loss", "infonce+bce"): 20.0}
    row = next(row for row in evaluate(study, *simulate(study, noisy, noise=2.5)) if row.claim.number == 9)
    assert row.outcomes[0].counts == ((3, 0), (0, 3))
    assert row.outcomes[1].found.half_width() > row.outcomes[1].found.mean
    assert row.verdict == "undecided (needs n = 5)"


def test_labels_of_the_backbone_are_compared_with_chance_and_with_projections(study_of):
    study = study_of(axes=["dictionaries"], pseudo_labels={})
    assert verdicts(study, *simulate(study, {("dictionaries", "q_z_only"): -3.0}))[10] == "supported"
    assert verdicts(study, *simulate(study, {("dictionaries", "q_z_only"): 3.0}))[10] == "contradicted"


def test_without_one_part_a_claim_can_only_be_refuted(study_of):
    study = study_of()
    assert verdicts(study, *simulate(study, {(COMPARE, "mls"): 3.0}))[3] == NOT_IN_STUDY
    assert verdicts(study, *simulate(study, {(COMPARE, "mls"): -3.0}))[3] == "contradicted"


def test_noise_of_the_images_widens_the_interval_and_cannot_be_cured_by_seeds(study_of):
    study = study_of()
    metrics, groups = simulate(study, {(COMPARE, "mls"): 1.0}, images=3.0)
    with_images, fixed = evaluate(study, metrics, groups)[0], evaluate(study, metrics, None)[0]
    assert fixed.verdict == "supported"
    assert with_images.verdict == "undecided (needs more evaluation images)"
    assert with_images.outcomes[0].found.half_width() > 3 * fixed.outcomes[0].found.half_width()
    # A run without groups leaves the images fixed.
    some = groups[groups["run"] != next(run.id for run in study.runs.values() if run.config.method == "moco_v2")]
    assert [bool(row.outcomes[0].found.images) for row in evaluate(study, metrics, some)[:2]] == [False, True]


def test_a_score_that_cannot_tell_trained_from_untrained_decides_nothing(study_of):
    study = study_of(detection={"runs": "compare"})
    metrics, groups = simulate(study, {(COMPARE, "mls"): 3.0})
    assert not below_resolution(study, metrics)
    detection = metrics["protocol"] == "detection"
    metrics.loc[detection, "value"] = 0.01
    assert {score.protocol for score in below_resolution(study, metrics)} == {"detection"}
    row = evaluate(study, metrics, groups)[0]
    assert row.score.protocol == "linear"
    assert row.verdict == "supported"


def test_a_gain_is_a_share_of_the_way_to_supervised(study_of):
    study = study_of(ceiling=True)
    means = {(COMPARE, "random"): -10.0, (COMPARE, "supervised"): 10.0, (COMPARE, "mls"): 5.0}
    metrics, _ = simulate(study, means)
    share = evaluate(study, metrics, None)[0].outcomes[0].share
    assert share.low < 0.25 < share.high
    assert (share.mean, share.n) == (pytest.approx(0.25, abs=0.02), 5)
    without = study_of()
    assert evaluate(without, simulate(without, means)[0], None)[0].outcomes[0].share is None


def test_gains_over_untrained_weights_are_paired_and_have_a_share(study_of):
    study = study_of(ceiling=True)
    metrics, groups = simulate(
        study, {(COMPARE, "random"): -10.0, (COMPARE, "supervised"): 10.0, (COMPARE, "mls"): 5.0}, images=0.5
    )
    found = {gain.method: gain for gain in gains(Samples(study, metrics, groups))}
    assert list(found) == [method for method in study.axes()[COMPARE] if method != "random"]
    values = metrics[metrics["metric"] == "mAP"].set_index("run")["value"]
    by_seed = {
        method: [values[run.id] for run in study.runs.values() if run.config.method == method]
        for method in ("mls", "random", "supervised")
    }
    differences = [a - b for a, b in zip(by_seed["mls"], by_seed["random"], strict=True)]
    assert found["mls"].found.mean == pytest.approx(sum(differences) / 5)
    assert found["mls"].found.images
    assert found["mls"].share.mean == pytest.approx(0.75, abs=0.02)
    assert found["supervised"].share is None
    text, tidy, printed = gains_table(study, metrics)
    assert "share of the way" in text
    assert list(printed["evaluator"]) == ["linear mAP, 100 % of labels, %"]
    assert printed.loc[0, "mls"].startswith(f"{found['mls'].found.mean:+.2f} [")
    assert ", n = 5; 75 % [" in printed.loc[0, "mls"]
    assert set(tidy["method"]) == set(found)


def test_without_results_or_untrained_weights_the_gains_are_empty(study_of):
    study = study_of()
    empty = pd.DataFrame(columns=["run", "protocol", "metric", "value", "status", "other_code", "wall_s"])
    assert [gain.found for gain in gains(Samples(study, empty, None))] == [None] * 3
    _, _, printed = gains_table(study, empty)
    assert set(printed.iloc[0, 1:]) == {"–"}
    one = study_of(seeds=[0])
    cell = gains_table(one, simulate(one)[0])[2].loc[0, "mls"]
    assert cell.endswith(", n = 1")
    assert "[" not in cell


def test_levels_are_compared_with_the_studys_own_choice(study_of):
    study = study_of(axes=["loss", "k", "dictionaries", "search"])
    samples = Samples(study, *simulate(study))
    assert {axis: subtracted(samples, axis) for axis in samples.axes} == {
        COMPARE: "moco_v2",
        "loss": "infonce",
        "k": "5",
        "dictionaries": "q_g_and_q_z",
        "search": "exact",
    }
    rows = differences(samples)
    assert {(one.axis, one.level) for one in rows if one.axis == COMPARE} == {
        (COMPARE, "densecl"),
        (COMPARE, "mls"),
    }
    assert all(one.level != one.less for one in rows)
    assert len(rows) == sum(map(len, samples.axes.values())) - len(samples.axes) - 1  # and no untrained weights


def test_the_first_level_is_subtracted_where_none_is_a_compared_method(study_of):
    study = study_of(axes=["k"])
    values = yaml.safe_load(Path("study.yaml").read_text())
    values["ablations"]["k"]["values"] = [40, 20]
    values["compare"] = ["random", "mls"]
    Path("study.yaml").write_text(yaml.safe_dump(values))
    study = load("study.yaml")
    found = differences(Samples(study, *simulate(study)))
    assert [(one.axis, one.level, one.less) for one in found] == [(COMPARE, "mls", "random"), ("k", "20", "40")]


def test_differences_of_levels_are_paired_and_have_a_word(study_of):
    study = study_of(axes=["k"])
    metrics, groups = simulate(study, {("k", "1"): 3.0, ("k", "20"): -3.0}, noise=0.01, images=0.1)
    found = {one.level: one for one in differences(Samples(study, metrics, groups)) if one.axis == "k"}
    assert {level: one.word for level, one in found.items()} == {
        "1": "better",
        "20": "worse",
        "40": "no difference larger than 1",
    }
    linear = metrics[metrics["metric"] == "mAP"].set_index("run")["value"]
    by_level = {
        level: [linear[cell.run] for cell in study.cells if (cell.axis, cell.level) == ("k", level)]
        for level in study.axes()["k"]
    }
    for level, one in found.items():
        by_hand = np.subtract(by_level[level], by_level["5"])
        assert one.found.mean == pytest.approx(by_hand.mean())
        assert one.found.seeds == pytest.approx(by_hand.var(ddof=1) / 5)
        assert one.found.images
    _, tidy, printed = differences_table(study, metrics)
    column = "linear mAP, 100 % of labels, %"
    cells = printed[printed["axis"] == "k"].set_index("level")[column]
    assert [cells[level].split("] ")[1] for level in ("1", "20", "40")] == ["*, n = 5", "*, n = 5", "=, n = 5"]
    assert cells["1"].startswith("+3.0")
    of_1 = tidy[(tidy["axis"] == "k") & (tidy["level"] == "1")].iloc[0]
    assert (of_1["less"], of_1["n"], of_1["verdict"]) == ("5", 5, "better")
    assert cells["1"].startswith(f"{of_1['difference']:+.2f} [{of_1['low']:.2f}, {of_1['high']:.2f}]")


def test_differences_without_results_or_of_one_seed_have_no_interval(study_of):
    study = study_of(axes=["k"])
    empty = pd.DataFrame(columns=["run", "protocol", "metric", "value", "status", "other_code", "wall_s"])
    _, tidy, printed = differences_table(study, empty)
    assert set(tidy["verdict"]) == {NO_RESULT}
    assert set(printed["linear mAP, 100 % of labels, %"]) == {"–"}
    one = study_of(seeds=[0], axes=["k"])
    _, tidy, printed = differences_table(one, simulate(one)[0])
    assert set(tidy["verdict"]) == {"one seed"}
    assert not printed.map(lambda cell: "[" in cell or "*" in cell or "=" in cell.replace("n = 1", "")).any(
        axis=None
    )


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: str(claim.number))
def test_the_papers_numbers_are_looked_up(claim):
    text = paper_numbers(claim, PUBLISHED)
    if isinstance(claim.paper, str):
        assert text == claim.paper
        return
    known = PUBLISHED.set_index(["table", "metric", "pretrain_epochs", "method"])["value"]
    for numbers in claim.paper:
        values = [known[numbers.table, numbers.metric, numbers.epochs, method] for method in numbers.methods]
        assert f"{numbers.metric} {', '.join(values)}" in text


def test_tables_say_what_was_found(study_of):
    study = study_of(axes=["k"])
    metrics, _ = simulate(study, {(COMPARE, "mls"): 3.0})
    text, tidy, printed = claims_table(study, metrics, PUBLISHED)
    assert "δ: mAP 1" in text
    assert "resnet50 backbone, 224 px crops" in text
    first = tidy.iloc[0]
    assert (first["comparison"], first["n"], first["verdict"]) == ("mls − moco_v2", 5, "supported")
    assert first["low"] < first["difference"] < first["high"]
    assert first["image_views_of_paper"] == f"1/{118_287 * 800 / 17664:,.0f}"
    assert printed.loc[0, "verdict"] == "supported"
    assert "n = 5, images fixed" in printed.loc[0, "difference [95 % interval]"]
    missing = printed[printed["claim"].str.startswith("4.")].iloc[0]
    assert missing["verdict"].startswith("not in this study (needs loss = infonce+bce")
    assert markdown(printed, text)


def test_noise_is_the_mean_over_all_pairs_of_levels(study_of):
    study = study_of(axes=["k"])
    metrics, groups = simulate(study, noise=0.7, images=1.0)
    (found,) = noise(study, metrics, groups)
    values = metrics[metrics["metric"] == "mAP"].set_index("run")["value"]
    trained = {}
    for run in study.runs.values():
        if run.config.target:
            trained.setdefault(run.digest, []).append(values[run.id])
    assert found.levels == len(trained) == 3 + 3  # k = 5 is MLS itself
    variance = np.mean([np.var(np.subtract(a, b), ddof=1) for a, b in itertools.combinations(trained.values(), 2)])
    assert found.sd_paired == pytest.approx(math.sqrt(variance))
    assert found.sd_seeds == pytest.approx(math.sqrt(np.mean([np.var(v, ddof=1) for v in trained.values()])))
    assert found.sd_images > 0.3
    assert found.detectable > found.sd_paired


@pytest.mark.parametrize("axis_seeds", [[0], [0, 1]])
def test_levels_of_fewer_seeds_do_not_hide_the_noise_of_the_others(study_of, axis_seeds):
    study = study_of(axes=["k"], axis_seeds=axis_seeds)
    (found,) = noise(study, *simulate(study, noise=0.7))
    assert (found.levels, found.n) == (3, 5)
    assert found.sd_paired > 0.1


def test_a_share_of_fewer_seeds_than_its_gain_says_so(study_of):
    study = study_of(ceiling=True)
    metrics, _ = simulate(study, {(COMPARE, "supervised"): 10.0, (COMPARE, "mls"): 5.0})
    missing = [run.id for run in study.runs.values() if run.config.method == "supervised" and run.config.seed > 0]
    _, tidy, printed = gains_table(study, metrics[~metrics["run"].isin(missing)])
    of_mls = tidy.set_index("method").loc["mls"]
    assert (of_mls["n"], of_mls["share_n"]) == (5, 1)
    assert printed.loc[0, "mls"].endswith("% (n = 1)")
    assert "% (n" not in gains_table(study, metrics)[2].loc[0, "mls"]


def test_only_evaluators_of_untrained_weights_show_gains(study_of):
    study = study_of(pseudo_labels={})
    metrics, _ = simulate(study)
    assert {gain.score.protocol for gain in gains(Samples(study, metrics, None))} == {"linear"}


def test_a_share_without_bounds_is_left_out(study_of):
    study = study_of(ceiling=True)
    metrics, _ = simulate(study, {(COMPARE, "random"): -4.0}, noise=4.0, seed=3)
    share = next(gain.share for gain in gains(Samples(study, metrics, None)) if gain.method == "mls")
    assert (share.low, share.high) == (-math.inf, math.inf)
    assert gains_table(study, metrics)[2].loc[0, "mls"].endswith("n = 5")


def test_runs_made_again_show_the_noise_of_repeating(study_of):
    study = study_of()
    metrics, _ = simulate(study)
    again = metrics.assign(value=metrics["value"] + np.where(np.arange(len(metrics)) % 2, 0.3, -0.3))
    (found,) = noise(study, metrics, None, again)
    assert found.sd_repeat == pytest.approx(0.3 / math.sqrt(2))
    assert math.isnan(noise(study, metrics, None)[0].sd_repeat)
    study.out.mkdir(parents=True)
    again.to_csv(study.out / "repeats.tsv", sep="\t", index=False, na_rep="NA")
    assert noise_table(study, metrics)[1].loc[0, "sd_repeat"] == pytest.approx(0.3 / math.sqrt(2), abs=1e-5)


def test_the_figure_has_every_comparison_and_verdict(study_of):
    study = study_of(axes=["k", "loss"])
    means = {(COMPARE, "mls"): 1.0, ("k", "40"): -9.0}
    figure = forest(study, evaluate(study, *simulate(study, means, failed=[("loss", "bce alone")])))
    (ax,) = figure.axes
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert {"MLS − MoCo-v2, n = 5", "K 20 − K 40, n = 5"} <= {label.replace("\u00a0", " ") for label in labels}
    texts = " ".join(t.get_text().replace("\n", " ") for t in ax.texts)
    assert "supported" in texts
    assert "5 of 5 against 0 of 5" in texts
    assert "▸" in texts  # k = 40 is off the axis
    plt.close(figure)


def test_every_margin_is_positive():
    assert all(margin > 0 for margin in MARGIN.values())


def test_the_figure_of_gains_draws_floor_ceiling_and_intervals(study_of):
    study = study_of(ceiling=True)
    metrics, groups = simulate(
        study, {(COMPARE, "random"): -10.0, (COMPARE, "supervised"): 10.0, (COMPARE, "mls"): 5.0}, images=0.5
    )
    found = gains(Samples(study, metrics, groups))
    figure = gains_figure(study, found)
    ax = figure.axes[0]
    by_method = {gain.method: gain.found for gain in found}
    assert [label.get_text() for label in ax.get_yticklabels()] == ["MoCo-v2", "DenseCL", "MLS"]
    upright = [
        line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == "--" or line.get_color() == "0.2"
    ]
    assert sorted(upright) == pytest.approx([0.0, by_method["supervised"].mean])
    intervals = [tuple(line.get_xdata()) for line in ax.lines if len(set(line.get_xdata())) == 2]
    assert intervals == [pytest.approx(by_method[m].interval()) for m in ("moco_v2", "densecl", "mls")]
