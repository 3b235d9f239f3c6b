"""What reports about one's own photos show: counts, reasons of failures, contact sheets."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from support.results import put
from support.study import loaded

from mlssl.analysis import failures, outputs
from mlssl.analysis.aggregate import read_metrics
from mlssl.analysis.collect import collect
from mlssl.claims.evaluate import Samples
from mlssl.claims.findings import finding
from mlssl.data.coco import read_split
from mlssl.figures.style import finish
from mlssl.figures.write import labels as labels_figure
from mlssl.figures.write import same_images
from mlssl.page.content import gather
from mlssl.page.write import write_page
from mlssl.pictures.contact_sheet import TILE, palette, tag_rows, tile, write_contact_sheet
from mlssl.study.load import load
from mlssl.tables.write import paper_columns, write_tables

PHOTOS = {"photos": {"folder": "shop", "labels": "shop.csv"}}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder."""
    monkeypatch.chdir(tmp_path)


def test_captions_count_the_photos_that_pretraining_reads(here):
    study = loaded({"data": PHOTOS})
    assert "2 epochs of train's images" in outputs.budget(study)
    root = Path(study.data.root)
    for split, count in (("train", 9), ("val", 3)):
        (root / split).mkdir(parents=True)
        for i in range(count):
            (root / split / f"{i}.jpg").touch()
    (root / "import.json").touch()
    assert "2 epochs of 9 of 12 photos" in outputs.budget(study)
    assert "2 epochs of train's images" in outputs.budget(study, counted=False)


@pytest.mark.parametrize(
    ("places", "shown"),
    [
        ({}, True),
        ({"data": {"dataset": {"name": "coco2017"}}}, True),
        ({"data": {"root": "coco"}}, True),
        ({"data": {"root": "coco"}, "transfers": {"linear": {"size": 32}}}, False),
        ({"data": PHOTOS}, False),
        ({"transfer_data": PHOTOS}, False),
    ],
)
def test_the_papers_tables_are_for_its_own_tasks(here, places, shown):
    names = {path.stem for path in outputs.table_files(loaded(places))}
    assert ("paper_table1" in names, "paper_table5" in names, "main" in names) == (shown, shown, True)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("epoch 1\nmlssl linear: shop.csv: no label fits; give others\n", "shop.csv: no label fits; give others"),
        ("Traceback (most recent call last):\n  …\nIndexError: list index\n", "IndexError: list index"),
        ("50%|###\r100%|####\ntorch.OutOfMemoryError: of 8 GiB\n\n", "torch.OutOfMemoryError: of 8 GiB"),
        ("mlssl pretrain: m: stopped by SIGTERM after step 3; run the same command again to resume", None),
        ("mlssl pretrain: runs/m: worker-1 is training this run; wait until it ends, or end it", None),
        ("100%|####| 9/9\n", None),
        ("", None),
    ],
)  # fmt: skip
def test_the_reason_of_a_failure_is_the_end_of_its_log(tmp_path, text, error):
    log = tmp_path / "run.log"
    log.write_text(text)
    assert failures.last_error(log) == error


def test_a_preparation_that_failed_is_the_reason_of_all_that_needs_it(here):
    study = loaded({"data": PHOTOS})
    run = next(iter(study.runs.values()))
    assert failures.reason(study, run, "linear") is None
    log = study.out / "logs" / f"{Path(study.data.root).name}.log"
    log.parent.mkdir(parents=True)
    log.write_text("mlssl import: shop: 3 of 12 photos cannot be used; remove them\n")
    assert failures.reason(study, run, "linear") == "failed: shop: 3 of 12 photos cannot be used; remove them"
    own = study.out / "logs" / "linear" / f"{run.id}.log"
    own.parent.mkdir()
    own.write_text("MemoryError\n")
    assert failures.reason(study, run, "linear") == "failed: MemoryError"


def boxes(tmp_path):
    """Two images: a cup with a mask, and the same cup as box alone with a dish without a segmentation."""
    (tmp_path / "annotations").mkdir()
    (tmp_path / "val").mkdir()
    images = [{"id": i, "file_name": f"{i}.png", "width": 64, "height": 64} for i in range(2)]
    for image in images:
        Image.new("RGB", (64, 64), "white").save(tmp_path / "val" / image["file_name"])
    square = [8, 8, 40, 8, 40, 40, 8, 40]
    notes = [
        {"id": 1, "image_id": 0, "category_id": 7, "bbox": [8, 8, 32, 32], "segmentation": [square]},
        {"id": 2, "image_id": 1, "category_id": 3, "bbox": [40, 40, 20, 20], "segmentation": []},
        {"id": 3, "image_id": 1, "category_id": 7, "bbox": [8, 8, 32, 32], "segmentation": []},
    ]
    categories = [{"id": 3, "name": "dish"}, {"id": 7, "name": "cup"}]
    content = {"images": images, "annotations": notes, "categories": categories}
    (tmp_path / "annotations" / "instances_val.json").write_text(json.dumps(content))
    return read_split(tmp_path, "val")


def test_a_contact_sheet_outlines_boxes_where_there_are_no_masks(tmp_path):
    data = boxes(tmp_path)
    colour = palette(data)
    assert colour == {1: "#0072B2", 0: "#D55E00"}  # the more frequent category first
    masked, boxed = (tile(data, i, colour) for i in range(2))
    edge, middle = (160, 100), (100, 100)  # of the cup's right side, 4 times as large
    for drawn in (masked, boxed):
        assert any(drawn.getpixel((x, edge[1])) == (0, 114, 178) for x in range(edge[0] - 3, edge[0] + 3))
        assert drawn.getpixel(middle) == (255, 255, 255)
    assert any(boxed.getpixel((x, 200)) == (213, 94, 0) for x in range(237, 243))


def test_each_category_has_a_colour_of_its_own(tmp_path):
    data = boxes(tmp_path)
    data.categories.extend({"id": 100 + i, "name": str(i)} for i in range(78))
    assert len(set(palette(data).values())) == 80


def test_shares_of_few_labels_that_are_the_same_images_are_named(here):
    study = loaded({"data": PHOTOS, "transfers": {"linear": {"size": 64, "fractions": [1.0, 0.25, 0.1, 0.02]}}})
    protocols = ["linear", "linear_25pct", "linear_10pct", "linear_2pct"]

    def said(*counts):
        rows = [
            {"protocol": p, "metric": "train_images", "value": n} for p, n in zip(protocols, counts, strict=True)
        ]
        return same_images(study, pd.DataFrame(rows, columns=["protocol", "metric", "value"]))

    assert said(36.0, 10.0, 10.0, 10.0) == ". The same 10 images: 25, 10, 2 %"
    assert said(600.0, 150.0, 60.0, 12.0) == ""
    assert same_images(study, pd.DataFrame({"protocol": [], "metric": [], "value": []})) == ""


PUBLISHED = Path(__file__).parents[1] / "results" / "published"
SHARES = {"linear": 75, "linear_50pct": 38, "linear_10pct": 10, "linear_2pct": 10}
SCORES = {
    "random": {0: 45.0, 1: 46.0, 2: 38.0},
    "moco_v2": {0: 42.0, 1: 38.0, 2: 40.0},
    "mls": {0: 43.0, 1: 37.0, 2: 44.0},
}


def with_results(places, scores=SCORES):
    """A study of these places with a linear probe of every method and seed; shares but the first are alike."""
    probe = {"linear": {"size": 64, "fractions": [1.0, 0.5, 0.1, 0.02]}}
    study = loaded({"seeds": [0, 1, 2], "transfers": probe, "ablations": {}, **places})
    images = {"protocols": {protocol: {"train_images": n} for protocol, n in SHARES.items()}}
    for run in study.runs.values():
        put(study, run, "pretrain", [{"protocol": "pretrain", "metric": "steps", "value": 9, "n": 9}])
        values = {"linear": scores[run.config.method][run.config.seed]} | dict.fromkeys(list(SHARES)[1:], 24.0)
        lines = [{"protocol": p, "metric": "mAP", "value": v, "n": 25} for p, v in values.items()]
        put(study, run, "linear", lines, notes=images)
    collect(study)
    return study


def test_the_page_of_own_photos_has_nothing_about_the_papers_claims(here):
    study = with_results({"data": PHOTOS})
    write_tables(study, PUBLISHED)
    text = write_page(study).read_text(encoding="utf-8")
    assert "not in this study" not in text
    assert 'id="main-table"' in text
    assert not [word for word in ('href="#claims"', 'id="claims"', "claims.png", "claims.tsv") if word in text]
    assert "claims" not in {path.stem for path in outputs.table_files(study) + outputs.figure_files(study)}
    assert {p.stem for p in (study.out / "tables").iterdir()} == {
        "main",
        "gains",
        "label_savings",
        "differences",
        "noise",
    }
    assert gather(study).claims is None


@pytest.mark.parametrize("places", [{}, {"data": {"root": "coco"}}, {"data": {"dataset": {"name": "coco2017"}}}])
def test_other_studies_keep_the_claims(here, places):
    study = loaded(places)
    assert "claims" in outputs.figure_names(study)
    assert "claims" in {path.stem for path in outputs.table_files(study)}


@pytest.mark.parametrize(
    ("axis", "levels", "columns"),
    [("k", ["2", "3"], 0), ("k", ["3", "20"], 2), ("method", ["our_method", "other"], 0), ("lam", ["0.5"], 1)],
)
def test_a_column_of_the_paper_without_a_number_is_left_out(axis, levels, columns):
    assert len(paper_columns(axis, levels, PUBLISHED)) == columns


@pytest.mark.parametrize(
    ("compare", "best", "worst"),
    [
        (["random", "moco_v2", "mls"], "mls", "moco_v2"),
        (["random", "mls", "moco_v2"], "mls", "moco_v2"),
        (["random", "mls"], None, None),
    ],
)
def test_untrained_weights_are_no_choice_between_methods(here, compare, best, worst):
    study = with_results({"data": PHOTOS, "compare": compare})
    questions = [q for q in gather(study).questions if q.title == "Which choices matter"]
    if best is None:
        assert not questions
        return
    found = finding(Samples(study, read_metrics(study), None), "method")
    assert (found.pair.better, found.pair.worse, found.pairs) == (best, worst, 1)
    ((answer,),) = (q.answers for q in questions)
    assert answer.text.startswith("MLS against MoCo-v2: +1.3 points")
    assert answer.word == "undecided; this budget or this number of labelled images cannot show it"


def test_numbers_below_resolution_are_shown_with_a_mark(here):
    study = with_results({"data": PHOTOS})
    write_tables(study, PUBLISHED)
    text = (study.out / "tables" / "main.md").read_text(encoding="utf-8")
    row = next(line for line in text.splitlines() if line.startswith("| mls"))
    assert [cell.strip() for cell in row.split("|")[3:6]] == ["24.00 ± 0.00‡"] * 3
    assert "‡: below resolution" in text
    table = gather(study).main_table
    assert "‡: below resolution" in table.caption
    mls = next(cells for cells in table.rows if cells[0].text == "MLS")
    assert [cell.text for cell in mls[1:5]] == ["41.33 ± 3.79 (3)", *["24.00 ± 0.00 (3)‡"] * 3]
    assert all(cell.key == 24.0 for cell in mls[2:5])


def test_shares_that_are_the_same_images_are_one_point(here):
    study = with_results({"data": PHOTOS})
    figure = labels_figure(study, read_metrics(study), [])
    ax = figure.axes[0]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["10", "38", "75"]
    lines = [line for line in ax.lines if len(line.get_xdata()) == 3 and line.get_linewidth() == 0.7]
    assert len(lines) == 3
    plt.close(figure)


@pytest.mark.parametrize("words", range(20, 40))
def test_no_line_of_a_caption_is_a_unit_alone(words):
    figure = plt.figure(figsize=(5.2, 3))
    finish(figure, "A finding", f"{'word ' * words}. The same 10 images: 10, 5, 2, 1 %")
    *_, last = figure.get_supxlabel().split("\n")
    assert last.strip() != "%."
    assert "1\N{NO-BREAK SPACE}%." in last
    plt.close(figure)


def tagged(tmp_path, names, size=(64, 48)):
    """A photo with a label of the whole photo for each name, and a box of the first category inside it."""
    (tmp_path / "annotations").mkdir(parents=True)
    (tmp_path / "val").mkdir()
    Image.new("RGB", size, "white").save(tmp_path / "val" / "0.png")
    whole = {"image_id": 0, "bbox": [0, 0, *size], "segmentation": []}
    notes = [{"id": i + 1, "category_id": i + 1, **whole} for i in range(len(names))]
    notes.append({"id": 999, "image_id": 0, "category_id": 1, "bbox": [16, 12, 16, 12], "segmentation": []})
    content = {
        "images": [{"id": 0, "file_name": "0.png", "width": size[0], "height": size[1]}],
        "annotations": notes,
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(names)],
    }
    (tmp_path / "annotations" / "instances_val.json").write_text(json.dumps(content))
    return read_split(tmp_path, "val")


@pytest.mark.parametrize("names", [["cup"], [f"tag number {i}" for i in range(14)], ["cup", "a name " * 12]])
def test_labels_of_a_whole_photo_are_rows_below_it(tmp_path, names):
    data = tagged(tmp_path, names)
    rows = tag_rows(data, 0)
    assert [label for row in rows for label, *_ in row] == list(range(len(names)))
    assert all(sum(width + 4 for *_, width in row) - 4 <= TILE for row in rows)
    drawn = np.asarray(tile(data, 0, palette(data)))
    top = (TILE - 192) // 2  # the photo is drawn 256 x 192, with margins above and below
    border = np.concatenate([drawn[top, :], drawn[top + 191, :], drawn[top : top + 192, 0]])
    assert (border == 255).all()  # no outline around the photo, no name at its edge
    assert not (drawn == 255).all(axis=2)[top + 48, 64]  # but the box inside it is outlined
    out = tmp_path / "sheet.png"
    write_contact_sheet(tmp_path, "val", out)
    with Image.open(out) as sheet:
        assert sheet.height == pytest.approx(44 + TILE + 22 * len(rows), abs=2)


def test_sheets_of_neighbours_are_titled_by_method(here):
    study = with_results({"data": PHOTOS, "pictures": {"queries": 2}})
    titles = [picture.title for picture in gather(study).embeddings if "nearest" in picture.title]
    assert [title.split(":")[0] for title in titles] == ["untrained", "MoCo-v2", "MLS"]


@pytest.mark.parametrize(
    "photos", [{"folder": "shop"}, {"folder": "shop", "labels": "shop.csv"}, {"folder": "a", "labels": "labels"}]
)
def test_own_photos_have_three_seeds_by_default(here, photos):
    base = Path(__file__).parents[1] / "config" / "photos.yaml"
    Path("own.yaml").write_text(json.dumps({"extends": str(base), "name": "own", "data": {"photos": photos}}))
    assert load("own.yaml").seeds == [0, 1, 2]
