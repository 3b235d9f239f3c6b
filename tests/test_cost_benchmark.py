"""What a training step costs: passes, operations and memory against hand-made values; the table and the figure."""

import json
import math
from itertools import product
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from support.snakemake import ROOT, jobs, mlssl, small, tiny, write
from torch import nn

from mlssl.analysis.outputs import figure_names
from mlssl.cost.speed import Trainer
from mlssl.cost_benchmark import measure
from mlssl.cost_benchmark.measure import code_lines, count_passes, counts, median_interval, module_file, saved_bytes
from mlssl.cost_benchmark.table import markdown, read, rows_of, tsv
from mlssl.errors import ConfigError
from mlssl.figures.gain_cost import frontier
from mlssl.study.load import load
from mlssl.study.settings import CostBenchmark

CPU = torch.device("cpu")
PASSES = {
    # Views that a method embeds with gradient, and without.
    "moco_v2": (1, 1),
    "densecl": (1, 1),
    "mls": (1, 1),
    "knn_moco": (1, 1),
    "msf": (1, 1),
    "nnclr": (2, 0),
    "simsiam": (2, 0),
    "byol": (2, 2),
    "pixpro": (2, 2),
    "slotcon": (2, 2),
    "self_emd": (2, 2),
    "pixcontrast": (2, 2),
    "resim": (1, 1),
    "soco_random_boxes": (2, 2),
    "knn_moco_others": (1, 1),
    "mls_balanced": (1, 1),
    "mls_knn_softmax": (1, 1),
    "supervised": (1, 0),
}


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    """Every method of the competitors' study with a small network: name -> configuration."""
    folder = tmp_path_factory.mktemp("study")
    base = {"extends": str(ROOT / "config" / "competitors.yaml"), "name": "small", "seeds": [0]}
    data = {"scenes": {"images": 24, "val_images": 8, "size": [64, 64], "seed": 0}, "short_side": 64}
    pretrain = {"backbone": "test_resnet", "batch_size": 4, "epochs": None, "steps": 4, "views": {"crop": 32}}
    values = base | {
        "data": data,
        "pretrain": pretrain,
        "common": {"dictionary_size": 16},
        "transfers": {"linear": {}},
    }
    study = load(write(folder / "study.yaml", values))
    return {method: run.config for method, run in study.costed.items()}


def test_passes_of_every_method_are_those_of_its_paper(configs):
    found = {method: count_passes(Trainer(config, CPU)) for method, config in configs.items()}
    assert found == {method: PASSES[method] for method in configs}


def test_operations_are_those_of_the_convolutions_counted_by_hand(configs):
    trainer = Trainer(configs["moco_v2"], CPU)
    found = counts(trainer, configs["moco_v2"])
    layers = []

    def count(layer, inputs, output):
        taps = layer.in_channels // layer.groups * math.prod(layer.kernel_size)
        layers.append(2 * taps * output[0].numel())

    for layer in trainer.backbone.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(count)
    with torch.no_grad():
        trainer.backbone(torch.zeros(2, 3, 32, 32))
    # Key encoder: one pass. Query encoder: a pass, gradients of weights, and of inputs but for the first layer.
    by_hand = 4 * sum(layers) - layers[0]
    assert by_hand / 1e9 == pytest.approx(found["gflop"], rel=0.06)  # the rest are heads and logits
    assert by_hand / 1e9 < found["gflop"]
    backbone = sum(p.numel() for p in trainer.backbone.parameters())
    assert found["parameters_exported"] == backbone < found["parameters_trained"]
    assert found["state_mb"] > 4 * 2 * backbone / 1e6  # a query and a key encoder
    assert found["peak_mb"] is None


def test_tensors_kept_for_the_backward_pass_count_once_and_without_parameters():
    module = nn.Linear(8, 8, bias=False)
    x = torch.zeros(5, 8, requires_grad=True)

    def step():
        y = module(x).exp()  # keeps x, the weight and y
        (y * y).sum()  # keeps y again

    assert saved_bytes(SimpleNamespace(module=module, step=step)) == 4 * (5 * 8 + 5 * 8)


def test_turns_give_the_ratio_of_a_round_and_not_of_the_phases_of_the_machine(configs, monkeypatch):
    slow = iter([1.0, 1.0, 9.0, 9.0, 2.0, 2.0, 5.0, 5.0, 1.0, 1.0, 3.0, 3.0])
    factors = {"moco_v2": 1.0, "mls": 1.25}
    wanted = {method: configs[method] for method in factors}

    class Clock(Trainer):
        def seconds(self):
            return next(slow) * (1.25 if "mls" in str(type(self.module)) else 1.0)

    monkeypatch.setattr(measure, "Trainer", Clock)
    found = measure.benchmark(wanted, CostBenchmark(rounds=6, steps=1), CPU)
    assert found["moco_v2"]["relative"] == found["moco_v2"]["relative_high"] == 1
    assert found["mls"]["relative"] == found["mls"]["relative_low"] == pytest.approx(1.25)
    assert found["mls"]["images_per_s"] == pytest.approx(4 / found["mls"]["step_s"])


def test_the_interval_of_the_median_holds_at_its_rate():
    """Of all orders of values above and below the median, at least 95 % have it inside the interval."""
    for n in (6, 7, 9, 12):
        inside = 0
        for signs in product((-1, 1), repeat=n):
            low, high = median_interval([sign * (1 + i / 100) for i, sign in enumerate(signs)])
            inside += low <= 0 <= high
        assert 0.95 <= inside / 2**n < 1
    assert all(math.isnan(bound) for bound in median_interval([1.0] * 5))


def test_lines_of_code_are_those_without_comments_docstrings_and_blank_lines(tmp_path):
    file = tmp_path / "method.py"
    file.write_text(
        '"""A module.\n\nMore."""\n\nimport os  # why\n\n\n# A comment.\ndef f(\n    a,\n):\n    """Doc."""\n'
        '    text = """two\nlines"""\n    return text, a\n'
    )
    assert code_lines(file) == 1 + 3 + 2 + 1
    assert code_lines(module_file("baselines.moco_v2.MoCoV2")) < len(
        (ROOT / "baselines" / "moco_v2.py").read_text().splitlines()
    )


ROW = {
    "gflop": 0.5, "passes_trained": 1.0, "passes_frozen": 1.0, "saved_mb": 12.0, "peak_mb": None,
    "parameters_trained": 11_500_000, "parameters_exported": 11_000_000, "state_mb": 90.0, "code_lines": 40,
    "step_s": 0.5, "images_per_s": 128.0, "relative": 1.0, "relative_low": 1.0, "relative_high": 1.0,
}  # fmt: skip


def test_the_table_says_what_was_measured_and_is_read_back(tmp_path):
    rows = {"moco_v2": ROW, "simsiam": ROW | {"relative": 1.4, "relative_low": math.nan, "relative_high": math.nan}}
    rows["simsiam"] |= {"passes_trained": 2.0, "passes_frozen": 0.0}
    text = markdown(rows, CostBenchmark(), "cpu")
    assert "| moco_v2 | 1.000 [1.000, 1.000] | 128 | 0.5 | 1 + 1 | 12 | – | 11.50 | 90.0 | 40 |" in text
    assert "| simsiam | 1.400 | 128 | 0.5 | 2 |" in text
    (tmp_path / "cost.tsv").write_text(tsv(rows))
    assert read(tmp_path / "cost.tsv").relative.to_dict() == {"moco_v2": 1.0, "simsiam": 1.4}
    assert pd.isna(read(tmp_path / "cost.tsv").peak_mb).all()
    metrics = {(row["protocol"], row["metric"]): row["value"] for row in rows_of(rows)}
    assert metrics["cost simsiam", "relative"] == 1.4
    assert ("cost simsiam", "relative_low") not in metrics
    assert "needs proposals" not in text


def test_the_table_says_what_a_method_needs_before_its_training():
    rows = {"moco_v2": ROW, "soco": ROW | {"before_s": 1234.4, "before_mb": 2.04}}
    text = markdown(rows, CostBenchmark(), "cpu")
    assert "Before its training, soco needs proposals: 1,234 s of one core and 2.0 MB, once for all runs" in text
    metrics = [(row["protocol"], row["metric"]) for row in rows_of(rows)]
    assert ("cost soco", "before_s") in metrics
    assert ("cost moco_v2", "before_s") not in metrics


def test_a_method_is_ahead_if_none_is_cheaper_and_better():
    points = [(1.0, 3.0), (1.5, 4.0), (1.6, 2.0), (1.0, 3.0), (1.5, 3.9)]
    assert frontier(points) == [True, True, False, True, False]


def test_the_workflow_measures_once_and_the_figure_waits_for_it(tmp_path):
    study = write(
        tmp_path / "study.yaml", small(cost_benchmark={"rounds": 6}, compare=["random", "moco_v2", "mls"])
    )
    assert jobs(tmp_path, study)["cost_benchmark"] == 1
    assert "gain_cost" in figure_names(load(study))
    assert "gain_cost" not in figure_names(load(write(tmp_path / "other.yaml", small())))
    assert "cost_benchmark" not in jobs(tmp_path, tmp_path / "other.yaml")


@pytest.mark.slow
def test_the_command_writes_a_result_and_measures_it_once(tmp_path):
    study = write(
        tmp_path / "study.yaml", tiny(compare=["moco_v2", "mls"], cost_benchmark={"rounds": 6, "steps": 1})
    )
    out = tmp_path / "cost" / "cost.json"
    mlssl(tmp_path, "cost-benchmark", "--study", study, "--out", out)
    header = json.loads(out.read_text())["header"]
    assert header["stage"] == "cost_benchmark"
    assert header["methods"].keys() == {"moco_v2", "mls"}
    assert read(out.with_suffix(".tsv")).loc["moco_v2", "relative"] == 1
    assert "| mls |" in out.with_suffix(".md").read_text()
    assert "nothing to do" in mlssl(tmp_path, "cost-benchmark", "--study", study, "--out", out)


@pytest.mark.parametrize(("named", "compare"), [("byol", ["random", "mls"]), ("random", ["random", "mls"])])
def test_the_method_with_cost_1_must_be_compared_and_train(named, compare, tmp_path):
    study = write(tmp_path / "study.yaml", small(compare=compare, cost_benchmark={"relative_to": named}))
    with pytest.raises(
        ConfigError, match=rf"cost_benchmark\.relative_to: '{named}' is not compared.*give one of mls"
    ):
        load(study)
    plt.close("all")
