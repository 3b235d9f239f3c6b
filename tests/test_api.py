"""The functions of `mlssl.api`, and the code of docs/python.md."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.tiny_coco import write_backbone, write_coco

from mlssl import api
from mlssl.errors import ConfigError, DataError

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def test_the_code_of_the_page_on_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    write_coco(tmp_path / "scenes")
    blocks = BLOCK.findall((ROOT / "docs" / "python.md").read_text())
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "demo").symlink_to(ROOT / "results" / "reference" / "demo")
    names = {}
    shutil.copy(ROOT / "examples" / "own_method.py", tmp_path)
    for code in blocks:
        exec(compile(code, "docs/python.md", "exec"), names)
    assert (tmp_path / "runs" / "mls" / "backbone.pt") == tmp_path / names["backbone"]
    assert names["own"].exists()
    assert names["features"].shape[0] == 4
    assert names["row"]["n"] > 0
    # Eq. 1 by loops: correlations of standardised columns.
    z1, z2 = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = 0.0
    for i in range(3):
        for j in range(3):
            a, b = z1[:, i] - z1[:, i].mean(), z2[:, j] - z2[:, j].mean()
            c = (a * b).sum() / (a.square().sum() * b.square().sum()).sqrt()
            expected += (1 - c) ** 2 if i == j else 0.1 * c**2
    own = sys.modules["own_method"]
    torch.testing.assert_close(own.redundancy(z1, z2, 0.1), expected)
    monkeypatch.delitem(sys.modules, "own_method")


def test_mistakes_are_sentences(tmp_path):
    backbone = write_backbone(tmp_path / "backbone.pt")
    with pytest.raises(ConfigError, match=r"'lineer' is not known \(did you mean 'linear'\?\); give one of linear"):
        api.evaluate(backbone, "lineer", {})
    with pytest.raises(ConfigError, match=r"^pretrain: unknown key 'epoch' \(did you mean 'epochs'\?\)"):
        api.pretrain({"epoch": 1}, tmp_path / "run")
    with pytest.raises(DataError, match=r"metrics\.tsv: no such file; run the study"):
        api.load_results(tmp_path)


def test_the_reference_results_load():
    scores = api.load_results(ROOT / "results" / "reference" / "demo")
    assert {"run", "protocol", "metric", "value"} <= set(scores)
    assert scores["value"].notna().any()


def test_importing_it_imports_no_torch():
    code = "import sys, mlssl.api; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
