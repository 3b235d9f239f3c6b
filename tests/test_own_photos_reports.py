"""What reports about one's own photos show: counts, reasons of failures, contact sheets."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from support.study import loaded

from mlssl.analysis import failures, outputs
from mlssl.data.coco import read_split
from mlssl.figures.write import same_images
from mlssl.pictures.contact_sheet import palette, tile

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
