"""The paper's tables filled in by a study whose values are known, and the document that compares defaults."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml
from support.results import put

from mlssl.analysis import outputs
from mlssl.analysis.aggregate import read_metrics
from mlssl.analysis.collect import collect
from mlssl.claims.paper import TABLE_5
from mlssl.study import settings
from mlssl.study.load import load
from mlssl.study.methods import constructor
from mlssl.tables.paper import CLASSIFIED, PROTOCOLS, paper_tables, protocol_of
from mlssl.tables.write import paper_columns, read_paper, write_tables

ROOT = Path(__file__).parents[1]
PUBLISHED = ROOT / "results" / "published"
STUDY = {
    "name": "small",
    "about": "Drawn scenes.",
    "data": {"scenes": {"images": 100, "val_images": 20, "size": [64, 64], "seed": 0}},
    "seeds": [0, 1],
    "pretrain": {"backbone": "resnet10t", "epochs": None, "steps": 1500, "batch_size": 8, "views": {"crop": 32}},
    "methods": {
        "mls": {"target": "mlssl.method.mls.MLS"},
        "moco_v2": {"target": "baselines.moco_v2.MoCoV2"},
        "densecl": {"target": "baselines.densecl.DenseCL"},
        "random": {},
    },
    "compare": ["random", "moco_v2", "densecl", "mls"],
    "transfers": {"detection": {"iterations": 10}},
}
AP = {("mls", 0): 10.0, ("mls", 1): 14.0, ("densecl", 0): 9.0}
"""Mean 12; sample variance (4 + 4) / 1 = 8. DenseCL lacks a seed, MoCo-v2 both."""


def rows(stage, scores):
    return [{"protocol": stage, "n": 20, "metric": metric, "value": value} for metric, value in scores.items()]


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("study.yaml").write_text(yaml.safe_dump(STUDY))
    study = load("study.yaml")
    for run in study.runs.values():
        put(study, run, "pretrain", rows("pretrain", {"steps": 1500}))
        value = AP.get((run.config.method, run.config.seed))
        if value is not None:
            put(study, run, "detection", rows("detection", {"AP_bbox": value, "AP_segm": value}))
    collect(study)
    write_tables(study, PUBLISHED)
    return study


def tidy(study, name):
    return pd.read_csv(study.out / "tables" / f"{name}.tsv", sep="\t", dtype=str, keep_default_na=False)


def printed(study, name):
    """Rows of the Markdown table: first cells joined -> column -> cell."""
    lines = [x for x in (study.out / "tables" / f"{name}.md").read_text().splitlines() if x.startswith("|")]
    header, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_every_published_number_has_its_row(study):
    paper = pd.read_csv(PUBLISHED / "mls_iccv2023.csv", dtype=str, keep_default_na=False)
    for name in outputs.PAPER_TABLES:
        rows = tidy(study, name)
        wanted = paper[paper["table"] == name.removeprefix("paper_")]
        assert len(wanted) == len(rows) > 0
        assert rows["published"].tolist() == wanted["value"].tolist()
        assert rows["method"].tolist() == wanted["method"].tolist()
        assert not (rows == "").any(axis=None)


def test_measured_values_stand_beside_the_published_ones(study):
    rows = tidy(study, "paper_table1").set_index(["method", "pretrain_epochs", "metric"])
    for epochs, published in (("400", "40.1"), ("800", "40.5")):
        row = rows.loc[("mls", epochs, "AP_bbox")]
        assert (row["published"], row["measured_n"], row["status"]) == (published, "2", "ok")
        assert float(row["measured_mean"]) == 12
        assert float(row["measured_std"]) == pytest.approx(8**0.5, abs=1e-6)
    assert rows.loc[("mls", "800", "AP75_bbox"), "status"] == "undefined (2 of 2 seeds)"
    assert rows.loc[("densecl", "800", "AP_bbox"), "status"] == "missing (1 of 2 seeds)"
    assert float(rows.loc[("densecl", "800", "AP_bbox"), "measured_mean"]) == 9
    assert rows.loc[("moco_v2", "800", "AP_bbox"), "measured_mean"] == "NA"
    assert rows.loc[("moco_v2", "800", "AP_bbox"), "status"] == "missing (2 of 2 seeds)"
    assert rows.loc[("byol", "800", "AP_bbox"), "status"] == "no run"


def test_the_study_has_rows_of_its_own_below(study):
    rows = printed(study, "paper_table1")
    published, own = rows[:12], rows[12:]
    assert not [row for row in published if "this study" in row["method"]]
    assert all("this study" in row["method"] for row in own)
    by_method = {row["method"].removesuffix(", this study"): row for row in own}
    assert list(by_method) == list(dict.fromkeys(row["method"] for row in published))
    mls = by_method["mls"]
    assert (mls["pretrain_data"], mls["pretrain_epochs"], mls["AP_bbox"]) == (
        "small",
        "1,500 steps",
        "12.00 ± 2.83",
    )
    assert by_method["densecl"]["AP_segm"] == "9.00 (n = 1); missing (1 of 2 seeds)"
    assert {by_method["byol"][m] for m in mls if m.startswith("AP")} == {"no run"}
    assert next(row for row in published if row["method"] == "self_emd")["AP_segm"] == "–"


def test_no_cell_is_blank_or_zero_without_a_run(study):
    for name in outputs.PAPER_TABLES[1:]:
        rows = printed(study, name)
        assert all(cell for row in rows for cell in row.values())
        metrics = [m for m in rows[0] if m in set(tidy(study, name)["metric"])]
        own = [row for row in rows if "this study" in row["method"]]
        assert {row[m] for row in own for m in metrics} == {"no run"}
        assert set(tidy(study, name)["status"]) == {"no run"}
        assert set(tidy(study, name)["measured_mean"]) == {"NA"}


def test_captions_tell_the_other_budget(study):
    for name in outputs.PAPER_TABLES:
        first = (study.out / "tables" / f"{name}.md").read_text().splitlines()[0]
        assert "another budget" in first
        assert "Drawn scenes" in first
        assert "1,500 steps over 100 images" in first
    assert "detection 10 iterations" in (study.out / "tables" / "paper_table1.md").read_text()
    assert "none of this kind" in (study.out / "tables" / "paper_table5.md").read_text()


def test_a_protocol_is_known_for_every_benchmark_of_the_paper():
    paper = read_paper(PUBLISHED)
    tables = paper[paper["table"].isin([name.removeprefix("paper_") for name in outputs.PAPER_TABLES])]
    assert set(PROTOCOLS) == set(zip(tables["benchmark"], tables["architecture"], strict=True))
    assert {p[0] for p in PROTOCOLS.values() if p} <= set(settings.TRANSFERS)
    assert tuple(CLASSIFIED) == TABLE_5
    assert set(tables[tables["table"] == "table5"]["metric"]) == set(CLASSIFIED)


def test_another_protocol_fills_another_table(study, monkeypatch):
    """A benchmark the suite gets later is one entry in PROTOCOLS; the untrained backbone then says so."""
    monkeypatch.setitem(PROTOCOLS, ("coco_instances", "mask_rcnn_r50_c4"), ("detection", ("2fc",)))
    rows = paper_tables(study, read_metrics(study), read_paper(PUBLISHED))["paper_table2"].printed.set_index(
        "method"
    )
    assert rows.loc["mls, this study", "AP_bbox"] == "12.00 ± 2.83"
    assert rows.loc["random, this study", ["pretrain_data", "pretrain_epochs"]].tolist() == ["none", "0"]


HEADS = {
    "2fc": ({"head": "2fc"}, None, "paper_table1", "AP_bbox"),
    "4conv1fc": ({"head": "4conv1fc"}, None, "paper_table1", "AP_bbox"),
    "res5": ({"head": "res5"}, None, "paper_table2", "AP_bbox"),
    "res5 on VOC": ({"head": "res5", "metric": "voc07"}, "voc0712", "paper_table4", "AP"),
    "res5 on VOC, COCO's metric": ({"head": "res5"}, "voc0712", None, ""),
}
"""Settings, transfer data, the one table of detection that they fill, and a metric of it."""


@pytest.mark.parametrize("name", HEADS)
def test_a_head_fills_the_rows_of_its_architecture_and_is_named_beside_them(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings, dataset, filled, metric = HEADS[name]
    own = {"transfers": {"detection": {"iterations": 10, **settings}}}
    own |= {"transfer_data": {"dataset": {"name": dataset}}} if dataset else {}
    Path("study.yaml").write_text(yaml.safe_dump(STUDY | own))
    study = load("study.yaml")
    for run in study.runs.values():
        put(study, run, "pretrain", rows("pretrain", {"steps": 1500}))
        put(study, run, "detection", rows("detection", {"AP_bbox": 40.0, "AP_segm": 30.0}))
    collect(study)
    write_tables(study, PUBLISHED)
    for table in ("paper_table1", "paper_table2", "paper_table4"):
        found = tidy(study, table)
        ok = found[found["status"] == "ok"]
        assert (len(ok) > 0) == (table == filled), table
        assert set(ok["measured_head"]) <= {settings["head"]}
        assert set(found[found["status"] == "no run"]["measured_head"]) <= {"NA"}
    if filled:
        by_method = {row["method"]: row for row in printed(study, filled)}
        assert by_method["mls"]["head"] == "not stated"
        assert by_method["mls, this study"]["head"] == settings["head"]
        assert by_method["mls, this study"][metric] == "40.00 ± 0.00"
    main = printed(study, "main")
    assert {row["detection head"] for row in main} == {settings["head"]}
    assert any("R50-FPN" in column for column in main[0]) == (settings["head"] != "res5")
    metrics = pd.read_csv(study.out / "metrics.tsv", sep="\t", keep_default_na=False).set_index("protocol")
    assert set(metrics.loc["detection", "head"]) == {settings["head"]}
    assert set(metrics.loc["pretrain", "head"]) == {"NA"}


def test_table_3_is_filled_by_segmentation_of_cityscapes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name, tables = "cityscapes", {}
    for dataset in (name, "camvid"):
        transfers = {"segmentation": {"iterations": 10}}
        own = {"transfer_data": {"dataset": {"name": dataset}}, "name": dataset, "transfers": transfers}
        Path("study.yaml").write_text(yaml.safe_dump(STUDY | own))
        study = load("study.yaml")
        for run in study.runs.values():
            put(study, run, "pretrain", rows("pretrain", {"steps": 1500}))
            put(study, run, "segmentation", rows("segmentation", {"mIoU": 50.0, "mAcc": 60.0, "aAcc": 90.0}))
        collect(study)
        tables[dataset] = paper_tables(study, read_metrics(study), read_paper(PUBLISHED))["paper_table3"]
    own = tables[name].printed.set_index("method").loc["mls, this study"]
    assert own["mIoU"].tolist() == ["50.00 ± 0.00"] * 2
    assert "segmentation 10 iterations of 16 images at 512 px, head fcn." in tables[name].text
    assert set(tables["camvid"].tidy["status"]) == {"no run"}
    assert "none of this kind" in tables["camvid"].text


def test_the_study_of_table_3_repeats_the_pretrainings_of_coco(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    coco, cityscapes = (load(ROOT / "config" / f"{name}.yaml") for name in ("coco", "cityscapes"))
    assert set(cityscapes.runs) < set(coco.runs)
    assert list(cityscapes.transfers) == ["segmentation"]


def test_the_dictionaries_of_table_7():
    columns = paper_columns("dictionaries", ["q_g_only", "q_z_only", "q_g_and_q_z"], PUBLISHED)
    assert list(columns.values()) == [["39.5", "39.8", "40.1"], ["35.7", "36.0", "36.2"]]


DOCUMENT = ROOT / "docs" / "faithfulness.md"
CELL = re.compile(r"(?<!\\)\|")


def document_rows():
    """(target or None, setting, our default, value in a study) of every row of the tables of settings."""
    target, explains = None, False
    for line in DOCUMENT.read_text().splitlines():
        if line.startswith("#"):
            explains = line.startswith("### ")
        if explains:
            continue
        if line.startswith("## "):
            found = re.search(r": `(.+)`", line)
            target = found and found[1]
        elif line.startswith("| ") and "`" in line.split("|")[2]:
            cells = [cell.strip() for cell in CELL.split(line.strip("|"))]
            assert len(cells) == 6, line
            assert all(cells), line
            yield target, cells[1].strip("`"), yaml.safe_load(cells[3]), yaml.safe_load(cells[4])


STUDIES = [ROOT / "config" / f"{name}.yaml" for name in ("demo", "competitors", "competitors_proposals")]
"""Of a method, the table has the values in the first of these that has it."""


def methods_of(path):
    """Target -> the settings of the first run of the first method that has it, in the order of the file."""
    study = load(path)
    runs = {name: next(r for r in study.runs.values() if r.config.method == name) for name in study.file.compare}
    return {run.config.target: run.config for run in reversed(runs.values()) if run.config.target}


def in_code(target, setting, demo):
    """Default and value of a setting in the demo study or the competitors', from the code."""
    if target:
        methods = {t: config for path in reversed(STUDIES) for t, config in methods_of(path).items()}
        return constructor(target).defaults[setting], methods[target].params[setting]
    cls, name = setting.split(".")
    run = next(r.config for r in demo.runs.values() if r.config.target)
    used = {
        "Pretrain": run,
        "Views": run.views,
        "Data": run.data,
        **{t.title(): c for t, c in demo.transfers.items()},
    }
    default = next(f.default for f in dataclasses.fields(getattr(settings, cls)) if f.name == name)
    return default, getattr(used[cls], name)


@pytest.mark.parametrize(("target", "setting", "default", "demo_value"), list(document_rows()))
def test_the_document_tells_our_values(target, setting, default, demo_value):
    ours, demo = map(plain_value, in_code(target, setting, load(ROOT / "config" / "demo.yaml")))
    assert default == ours, f"{DOCUMENT.name}: our default of {setting} is {ours!r}, it says {default!r}"
    assert demo_value == demo, f"{DOCUMENT.name}: {setting} is {demo!r} in the study, it says {demo_value!r}"


def plain_value(value):
    return list(value) if isinstance(value, tuple) else value


def test_the_document_leaves_out_no_scalar_and_no_part_of_the_augmentation():
    rows = [(target, setting) for target, setting, _, _ in document_rows()]
    assert len(rows) == len(set(rows))
    targets = {target for target, _ in rows if target}
    assert targets == {t for path in STUDIES for t in methods_of(path) if constructor(t).types}
    for target in targets:
        assert {s for t, s in rows if t == target} == set(constructor(target).types)
    assert {f"Views.{f.name}" for f in dataclasses.fields(settings.Views)} <= {s for _, s in rows}


@pytest.mark.parametrize(
    ("dataset", "metric", "column"), [("voc2007", "mAP", "voc07_mAP"), ("stanford_cars", "top1", "cars_top1")]
)
def test_table_5_is_filled_in_one_column_by_fine_tuning_on_its_data(dataset, metric, column, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    filled = {}
    for frozen in (False, True):
        own = {"transfer_data": {"dataset": {"name": dataset}}, "transfers": {"classification": {"frozen": frozen}}}
        Path("study.yaml").write_text(yaml.safe_dump(STUDY | own | {"name": "frozen" if frozen else "tuned"}))
        study = load("study.yaml")
        for run in study.runs.values():
            put(study, run, "pretrain", rows("pretrain", {"steps": 1500}))
            put(study, run, "classification", rows("classification", {"mAP": 70.0, "top1": 70.0, "mAcc": 60.0}))
        collect(study)
        filled[frozen] = paper_tables(study, read_metrics(study), read_paper(PUBLISHED))["paper_table5"].tidy
    ok = filled[False][filled[False]["status"] == "ok"]
    assert set(ok["metric"]) == {column}
    assert set(ok["measured_mean"]) == {70.0}
    assert "mls" in set(ok["method"])
    assert set(filled[True]["status"]) == {"no run"}  # a linear layer is another protocol


@pytest.mark.parametrize(
    ("file", "column", "dataset"),
    [("table5", "voc07_mAP", "voc2007"), ("table5_cub200", "cub200_top1", "cub200")],
)
def test_columns_of_table_5_are_studies(file, column, dataset, tmp_path, monkeypatch):
    """Each has the rows of the paper that it fills: the methods, and the length of pretraining."""
    monkeypatch.chdir(tmp_path)
    study = load(PUBLISHED.parents[1] / "config" / "paper" / f"{file}.yaml")
    assert [key for key in PROTOCOLS if protocol_of(study, *key)] == [("classification", "resnet50_finetune")]
    assert set(study.transfers) == {"classification"}
    paper = read_paper(PUBLISHED)
    rows_of_it = paper[(paper["metric"] == column) & (paper["pretrain_data"] == "coco")]
    epochs = {run.config.method: f"{run.config.epochs:g}" for run in study.runs.values()}
    assert epochs == dict(zip(rows_of_it["method"], rows_of_it["pretrain_epochs"], strict=True))
    (missing,) = [line for line in study.absent() if "transfer_data" in line]
    assert missing.endswith("no such folder; check the path, or set download to true")
    assert study.transfer_source.settings.name == dataset
