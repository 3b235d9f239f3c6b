"""The results page: its numbers are those of metrics.tsv and of the claims, and it is one safe, offline file."""

from __future__ import annotations

import base64
import copy
import io
import math
import re
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from support.results import put
from test_analysis import MADE, MAP, NOTES, STUDY, diverge, filled, find, rows

from mlssl.analysis.aggregate import read_metrics, scores_of
from mlssl.analysis.collect import collect
from mlssl.analysis.names import in_words
from mlssl.analysis.outputs import GAIN_COST, METRICS, picture_files
from mlssl.claims.best import best_levels
from mlssl.claims.evaluate import Samples, evaluate, read_groups
from mlssl.claims.findings import finding
from mlssl.claims.gains import gains
from mlssl.cost_benchmark.table import tsv
from mlssl.errors import ConfigError
from mlssl.figures.write import write_figures
from mlssl.page.content import gather
from mlssl.page.write import write_page
from mlssl.study.load import load
from mlssl.study.study import COMPARE
from mlssl.tables.differences import differences_table

VOID = {"meta", "link", "img", "input", "br"}


class Reader(HTMLParser):
    """Checks that all elements are closed in order; keeps elements, visible text, and the tables' cells."""

    def __init__(self, page):
        super().__init__()
        self.open, self.elements, self.text = [], [], []
        self.tables, self.cells = [], None
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "script" in self.open or "style" in self.open:
            return
        self.text.append(data)
        if "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def read(study):
    return Reader(write_page(study).read_text(encoding="utf-8"))


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = filled(STUDY)
    collect(study)
    return study


def test_every_number_of_the_main_table_is_that_of_metrics(study):
    (head, *lines) = read(study).tables[0]
    metrics = read_metrics(study)
    scores = scores_of(study, COMPARE)
    assert head == [COMPARE, *(score.label for score in scores)]
    assert [line[0] for line in lines] == [in_words(method) for method in STUDY["compare"]]
    names = [cell.get("data-name") for cell in read(study).of("th") if cell["scope"] == "row"]
    assert names[: len(lines)] == STUDY["compare"]
    checked = 0
    for method, (_, *cells) in zip(STUDY["compare"], lines, strict=True):
        runs = [cell.run for cell in study.cells if (cell.axis, cell.level) == (COMPARE, method)]
        for score, cell in zip(scores, cells, strict=True):
            own = metrics[(metrics["protocol"] == score.protocol) & (metrics["metric"] == score.metric)]
            values = own[own["run"].isin(runs)]["value"]
            spread = f" ± {values.std():.{score.digits}f}" if len(values) > 1 else ""
            assert cell.startswith(f"{values.mean():.{score.digits}f}{spread} ({len(values)})")
            assert cell.replace("★", "").split(")")[1].split() == [f"{v:.{score.digits}f}" for v in values]
            checked += 1
    assert checked == 3 * len(scores) > 15


def test_verdicts_gains_and_findings_are_those_of_the_claims(study):
    page, metrics, groups = gather(study), read_metrics(study), read_groups(study)
    text = " ".join("".join(read(study).text).split())
    claims = evaluate(study, metrics, groups)
    assert [row[-1].text.split(" (needs ")[0] for row in page.claims.rows] == [
        (row.verdict + (f" ({row.because})" if row.because else "")).split(" (needs ")[0] for row in claims
    ]
    (counted,) = [question for question in page.questions if "claims" in question.title]
    assert sum(int(answer.name.split()[0]) for answer in counted.answers) == len({r.claim.number for r in claims})
    samples = Samples(study, metrics, groups)
    for ablation in page.ablations:
        found = finding(samples, ablation.name)
        assert f"{ablation.words}: {ablation.finding}" == found.sentence
        assert found.sentence in text
    own = {in_words(g.method): g for g in gains(Samples(study, metrics, groups)) if g.score.protocol == "linear"}
    assert [answer.name for answer in page.gain.answers] == ["MoCo-v2", "MLS"]
    for answer in page.gain.answers:
        low, high = own[answer.name].found.interval()
        assert answer.text.startswith(f"{own[answer.name].found.mean:+.2f} [{low:.2f}, {high:.2f}], n = 3")


def test_differences_are_those_of_the_table(study):
    page, reader = gather(study), read(study)
    _, tidy, _ = differences_table(study, read_metrics(study))
    shown = {COMPARE: page.main_differences} | {a.name: a.differences for a in page.ablations}
    known = tidy.dropna(subset=["difference"])
    assert {axis for axis, table in shown.items() if table.rows} == set(known["axis"]) >= {COMPARE, "k"}
    for axis, table in shown.items():
        values = [cell.key for row in table.rows for cell in row[1:] if cell.key is not None]
        assert values == pytest.approx(known[known["axis"] == axis]["difference"].tolist(), abs=1e-6)
        for row in table.rows:
            assert [row[0].text, *(cell.text for cell in row[1:])] in (line for t in reader.tables for line in t)


def test_the_best_are_a_set(study):
    for seed, more in enumerate((5.0, 5.5, 6.0)):
        run = find(study, "mls", seed, k=5)
        both = rows("linear", {"mAP": MAP[seed] + more}) + rows("linear_10pct", {"mAP": 20.0 + (-1) ** seed})
        put(study, run, "linear", both, notes=NOTES, **MADE)
    collect(study)
    samples = Samples(study, read_metrics(study), None)
    scores = {score.protocol: score for score in scores_of(study, COMPARE)}
    assert best_levels(samples, COMPARE, scores["linear"]) == {"mls"}
    assert best_levels(samples, COMPARE, scores["linear_10pct"]) >= {"moco_v2", "mls"}  # within noise
    assert best_levels(samples, COMPARE, scores["detection"]) == set()  # one seed
    assert best_levels(samples, COMPARE, scores["pretrain"]) == set()  # a cost
    stars = [["★" in cell for cell in line[1:3]] for line in read(study).tables[0][1:]]
    assert stars[2] == [True, True]
    assert stars[1] == [False, True]


def test_it_is_one_offline_file_with_text_for_every_picture(study):
    write_figures(study)
    reader = read(study)
    for tag, attributes in reader.elements:
        assert "http" not in attributes.get("href", "") + attributes.get("src", ""), tag
        assert not {name for name in attributes if name.startswith("on")}
    pictures = reader.of("img")
    assert len(pictures) >= 7
    assert all(picture["alt"].strip() and picture["src"].startswith("data:image/webp") for picture in pictures)
    for link in reader.of("a"):
        target = link["href"]
        assert (
            target[1:] in {a.get("id") for _, a in reader.elements}
            if target[0] == "#"
            else (study.out / target).exists()
        )
    assert {link["href"] for link in reader.of("a")} >= {f"runs/{run}/" for run in study.runs}
    ids = [a["id"] for _, a in reader.elements if "id" in a]
    assert len(ids) == len(set(ids))
    assert (study.out / "index.html").stat().st_size < 3_000_000
    assert [tag for tag, _ in reader.elements if tag in ("h1", "main", "header", "nav")] == [
        "header",
        "h1",
        "main",
        "nav",
    ]


def test_photographs_are_scaled_and_charts_are_not_changed(study):
    folder = study.out / "figures"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (900, 2000, 3), dtype=np.uint8)
    for name in ("contact_sheet", "gains"):
        Image.fromarray(noise if name == "contact_sheet" else noise[:40, :50]).save(folder / f"{name}.png")
    page = gather(study)
    assert (page.data_picture.width, page.data_picture.height) == (1400, 630)
    assert (page.main_figure.width, page.main_figure.height) == (50, 40)
    data = base64.b64decode(page.main_figure.source.split(",")[1])
    assert (np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) == noise[:40, :50]).all()
    assert page.claims_figure.source == ""
    assert "Missing: this figure has not been made yet." in "".join(read(study).text)


HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }}{% raw %}",
    "métôde ‮ 方法 🦆 & ' `",
    "x" * 300,
)


def test_hostile_names_are_text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = copy.deepcopy(STUDY)
    levels = values["ablations"]["loss"]["levels"]
    levels |= {name: {"method": "mls", "params": {"k": 6 + i}} for i, name in enumerate(HOSTILE)}
    values["methods"][HOSTILE[-1]] = {"target": "mlssl.method.mls.MLS", "params": {"k": 40}}  # others are refused
    values["compare"].append(HOSTILE[-1])
    values["about"] = "".join(HOSTILE)
    study = filled(values)
    collect(study)
    reader = read(study)
    assert len(reader.of("script")) == 1
    assert not reader.of("img")
    text = "".join(reader.text)
    assert all(name in text for name in HOSTILE)
    first = {line[0] for table in reader.tables for line in table}
    assert set(HOSTILE) <= first


def test_a_failed_and_a_missing_run_say_so(study):
    diverge(study, find(study, "mls", 0, k=5))
    study.result(find(study, "moco_v2", 1).id, "linear").unlink()
    collect(study)
    reader = read(study)
    text = "".join(reader.text)
    cells = {line[0]: line[1] for line in reader.tables[0][1:]}
    assert cells["MLS"].startswith("44.50 ± 3.54 (2); failed: step 7: the loss is not finite (1 of 3 seeds)")
    assert cells["MoCo-v2"].startswith("43.50 ± 4.95 (2 of 3)")
    assert "; 2 missing, 4 failed." in text
    assert "step 7: the loss is not finite" in text.split("Missing or failed results")[1]


def test_a_study_without_any_result(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("study.yaml").write_text(yaml.safe_dump(STUDY))
    study = load("study.yaml")
    with pytest.raises(ConfigError, match="mlssl collect"):
        write_page(study)
    assert not (study.out / "index.html").exists()
    collect(study)
    reader = read(study)
    text = "".join(reader.text)
    assert "0 of " in text
    assert "no result yet" in text
    assert all("missing" in cell for line in reader.tables[0][1:] for cell in line[1:])
    assert not reader.of("img")


@pytest.mark.parametrize("change", [{"transfers": {}}, {"compare": ["mls"], "ablations": {}}, {"seeds": [0]}])
def test_smaller_studies_have_a_page(tmp_path, monkeypatch, change):
    monkeypatch.chdir(tmp_path)
    Path("study.yaml").write_text(yaml.safe_dump(STUDY | change))
    study = load("study.yaml")
    for run in study.runs.values():
        put(study, run, "pretrain", rows("pretrain", {"steps": 92}), **MADE)
        if study.transfers:
            put(study, run, "linear", rows("linear", {"mAP": 50.0 + run.config.seed}), notes=NOTES, **MADE)
    collect(study)
    text = "".join(read(study).text)
    assert ("Not measured" in text) == ("seeds" not in change)
    assert picture_files(study) == []


def test_cost_counts_every_result_file_once(study):
    page = gather(study)
    facts = {fact.term: fact.text for fact in page.cost}
    assert facts["one pretraining, wall time"].endswith(("(MoCo-v2)", "(MLS)"))
    assert page.costs.columns[2] == "relative to MoCo-v2"
    assert [row[0].text for row in page.costs.rows] == [in_words(method) for method in STUDY["compare"]]
    files = len(list(study.out.glob("runs/*/*.json")))
    assert facts["all results so far"] == f"{files * 1.5:.1f} minutes of computing"
    relative = {row[0].name: row[2].text for row in page.costs.rows}
    assert relative["moco_v2"] == relative["mls"] == "1.00 ×"


def test_the_cost_of_a_step_is_that_of_the_benchmark_and_absent_without_one(study, tmp_path, monkeypatch):
    assert gather(study).step_costs is None
    study = filled(STUDY | {"cost_benchmark": {"rounds": 6}})
    collect(study)
    page = gather(study)
    assert page.step_costs is None  # it has not run yet
    assert "Missing: this figure has not been made yet" in "".join(read(study).text)
    row = dict.fromkeys(("gflop", "saved_mb", "state_mb", "passes_trained", "step_s", "images_per_s"), 2.0)
    row |= {"passes_frozen": 1.0, "peak_mb": None, "parameters_trained": 2_000_000, "code_lines": 40}
    row |= {"relative_low": 1.0, "relative_high": 1.0}
    costs = {"moco_v2": row | {"relative": 1.0}, "mls": row | {"relative": 1.125, "relative_high": 1.25}}
    study.cost_out.mkdir(parents=True)
    (study.cost_out / "cost.tsv").write_text(tsv(costs))
    monkeypatch.setattr("mlssl.figures.write.figure_names", lambda study: [GAIN_COST])
    write_figures(study)
    page = gather(study)
    assert [row[1].text for row in page.step_costs.rows] == ["1.000 [1.000, 1.000]", "1.125 [1.000, 1.250]"]
    assert "Cost of one training step" in [region.get("aria-label") for region in read(study).of("div")]
    assert page.gain_cost.source


def test_a_thousand_runs_with_twenty_metrics_in_ten_seconds_and_five_megabytes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = copy.deepcopy(STUDY) | {"seeds": list(range(5))}
    values["methods"] = {"mls": values["methods"]["mls"], "random": {}, "moco_v2": values["methods"]["moco_v2"]}
    params = {
        "k": range(1, 41),
        "lam": np.linspace(0.1, 0.9, 40).round(3),
        "tau": np.linspace(0.1, 0.9, 40).round(3),
    }
    params |= {"dim": range(64, 104), "dictionary_size": range(128, 4096, 100)}
    values["ablations"] = {
        name: {
            "method": "mls",
            "param": name,
            "values": [float(x) if name in ("lam", "tau") else int(x) for x in xs],
        }
        for name, xs in params.items()
    }
    fractions = [1.0, *(round(0.05 * i, 2) for i in range(1, 18))]
    values["transfers"] = {"linear": {"fractions": fractions}, "knn": {}, "regions": {}}
    Path("study.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    study = load("study.yaml")
    protocols = {score.protocol: score.metric for score in scores_of(study, COMPARE)}
    rng, lines = np.random.default_rng(0), []
    for run in study.runs.values():
        about = dict.fromkeys(METRICS) | {"run": run.id, "method": run.config.method, "seed": run.config.seed}
        about |= {
            "status": "ok",
            "commit": "12e4",
            "device": "cpu",
            "threads": 1,
            "torch": "2",
            "wall_s": 9.0,
            "n": 100,
        }
        lines += [about | {"protocol": p, "metric": m, "value": 50 + rng.normal()} for p, m in protocols.items()]
    assert len(study.runs) >= 990
    assert len(protocols) >= 20
    study.out.mkdir(parents=True)
    pd.DataFrame(lines, columns=METRICS).to_csv(study.out / "metrics.tsv", sep="\t", index=False, na_rep="NA")
    start = time.process_time()
    path = write_page(study)
    assert time.process_time() - start < 10
    assert path.stat().st_size < 5_000_000


def test_no_table_of_the_page_has_nan(study):
    page = gather(study)
    for table in (page.main_table, page.claims, page.costs, page.runs, *(a.table for a in page.ablations)):
        for row in table.rows:
            assert len(row) == len(table.columns)
            assert all(cell.key is None or math.isfinite(cell.key) for cell in row)
            assert not any(re.search(r"\bnan\b", cell.text) for cell in row)
