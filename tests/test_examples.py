"""The files under examples/: a method of one's own in a study, its evaluator, and the cells of the notebook."""

import json
import shutil
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from support.snakemake import ROOT, small, write
from support.tiny_coco import write_coco

from mlssl.data.store import build_store
from mlssl.errors import ConfigError
from mlssl.pretrain.loop import pretrain
from mlssl.study.load import load

EXAMPLES = ROOT / "examples"


@pytest.fixture
def own_method(tmp_path, monkeypatch):
    """The example as a module, from a copy in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    shutil.copy(EXAMPLES / "own_method.py", tmp_path)
    import own_method

    yield own_method
    monkeypatch.delitem(sys.modules, "own_method")


def test_a_study_trains_the_own_method_and_its_evaluator_scores_the_backbone(own_method, tmp_path):
    root = write_coco(tmp_path / "coco")
    methods = {"ours": {"target": "own_method.BarlowTwins", "params": {"dim": 8}}}
    values = small(data={"root": str(root), "short_side": 32}, methods=methods, compare=["ours"], common={})
    study = load(write(tmp_path / "study.yaml", values))
    (run,) = study.runs.values()
    assert run.config.params == {"dim": 8, "off_diagonal": 0.005}
    build_store(root / "train2017", study.store, short_side=32, images_id=study.data.images_id, workers=0)
    pretrain(run.config, study.store, tmp_path / "run", run=run.id, device=torch.device("cpu"), progress=False)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert all(line["redundancy"] == line["loss"] for line in log)
    rank = own_method.evaluate(tmp_path / "run" / "backbone.pt", root / "val2017", size=32)
    assert 1 <= rank <= 6  # images
    values["methods"]["ours"]["params"] = {"off_diagonal": 0}
    with pytest.raises(ConfigError, match=r"methods\.ours\.params\.off_diagonal: 0 is not allowed"):
        load(write(tmp_path / "study.yaml", values))


def test_the_effective_rank_of_known_features(own_method):
    # Singular values 2, 2, 2: three directions of equal strength. One direction only: rank 1.
    assert own_method.effective_rank(2 * np.eye(5, 3)) == pytest.approx(3, abs=1e-4)
    assert own_method.effective_rank(np.ones((5, 3))) == pytest.approx(1, abs=1e-4)
    # 3 and 1: entropy of 3/4 and 1/4.
    expected = np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))
    assert own_method.effective_rank(np.diag([3.0, 1.0])) == pytest.approx(expected, abs=1e-4)


def test_the_cells_of_the_notebook_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "demo").symlink_to(ROOT / "results" / "reference" / "demo")
    notebook = nbformat.read(EXAMPLES / "tour.ipynb", as_version=4)
    nbformat.validate(notebook)
    names = {"__name__": "__main__"}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs, "outputs are not stored"
            exec(compile(cell.source, "examples/tour.ipynb", "exec"), names)
    assert Path(names["backbone"]).is_file()
    assert names["features"].shape[0] == len(names["names"]) == 12
    assert names["figure"].axes
    assert len(names["scores"])
