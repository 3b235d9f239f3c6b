"""Supervised training: its labels, its loss, and where it is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.study import loaded
from support.tiny_coco import write_coco

from baselines.supervised import Supervised
from mlssl.data.coco import read_split
from mlssl.data.store import ImageStore, build_store
from mlssl.errors import ConfigError, DataError
from mlssl.parts.backbone import create_backbone, global_average_pool
from mlssl.parts.view import View
from mlssl.pretrain.labels import image_labels
from mlssl.study.identity import run_digest
from mlssl.study.settings import Data

SUPERVISED = {
    "methods": {"s": {"target": "baselines.supervised.Supervised"}},
    "compare": ["s"],
    "ablations": {},
    "common": {},
}


@pytest.fixture
def coco(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return write_coco(tmp_path / "coco")


def store_of(data, path):
    build_store(Path(data.root) / data.train, path, short_side=32)
    return ImageStore(path)


def test_labels_are_in_the_order_of_the_store(coco, tmp_path):
    data = Data(str(coco), "train2017", "val2017")
    store = store_of(data, tmp_path / "store")
    split = read_split(coco, "train2017")
    found = image_labels(store, data).numpy()
    assert len(found) == len(store.names) > 1
    for name, row in zip(store.names, found, strict=True):
        (i,) = [i for i, image in enumerate(split.images) if image["file_name"] == name]
        own = {a["category_id"] for a in split.annotations[split.images[i]["id"]] if not a.get("iscrowd", 0)}
        assert {split.categories[c]["id"] for c in np.flatnonzero(row)} == own


def test_an_image_without_annotations_is_named(coco, tmp_path):
    data = Data(str(coco), "train2017", "val2017")
    store = store_of(data, tmp_path / "store")
    store.names[0] = "other.jpg"
    with pytest.raises(DataError, match=r"other\.jpg"):
        image_labels(store, data)


def test_the_loss_is_the_sum_of_binary_cross_entropies_of_the_first_view():
    torch.manual_seed(0)
    labels = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]]).bool()
    method = Supervised(create_backbone("test_resnet"), labels).eval()
    image = torch.tensor([2, 0])
    box, flip = torch.zeros(2, 4, dtype=torch.int64), torch.zeros(2).bool()
    views = [View(torch.randn(2, 3, 32, 32), image, box, flip) for _ in range(2)]
    encoder = method.encoders["query"]
    logits = encoder.linear(global_average_pool(encoder.backbone(views[0].pixels)))
    expected = 0.0
    for b in range(2):
        for c in range(3):
            p = torch.sigmoid(logits[b, c])
            expected += -(torch.log(p) if labels[image[b], c] else torch.log(1 - p)) / 2
    assert torch.allclose(method.step(*views, 0.0)["loss"], expected, rtol=1e-5)


def test_labels_are_no_part_of_the_checkpoint():
    method = Supervised(create_backbone("test_resnet"), torch.ones(5, 3).bool())
    assert not any("labels" in name for name in method.state_dict())


def test_a_supervised_run_is_named_by_its_annotations_too(coco):
    study = loaded({**SUPERVISED, "data": {"root": str(coco)}})
    run = next(iter(study.runs.values()))
    assert run.config.supervised
    other = replace(run.config, data=replace(run.config.data, data_id="other"))
    assert run_digest(other) != run_digest(run.config)


def test_it_is_refused_where_the_photos_have_no_labels(coco):
    with pytest.raises(ConfigError, match="trains with labels"):
        loaded({**SUPERVISED, "data": {"photos": {"folder": str(coco / "train2017")}}})
