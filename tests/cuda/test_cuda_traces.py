"""What a training step asks of a GPU, without one: no mixed devices, no waits, dtypes, launches and memory."""

import json
import tempfile
from pathlib import Path

import pytest
from runtime import compiler, run_with_ghost

HERE = Path(__file__).parent
QUICK = ("mls", "moco_v2", "densecl", "supervised", "segmentation", "detection")
LONG = (
    "moco_v2_fp16",
    "knn_moco",
    "nnclr",
    "msf",
    "byol",
    "simsiam",
    "pixpro",
    "pixcontrast",
    "self_emd",
    "resim",
    "soco",
    "soco_fpn",
    "orl",
    "mls_mutual",
    "photos",
)
BUDGET = json.loads((HERE / "budget.json").read_text())
"""Most launches and peak MB per part, 3 % above those of torch 2.15; executed, this file prints them."""


def traced(names, folder):
    """Trace -> part -> what was counted, in one process without a GPU."""
    return json.loads(run_with_ghost(HERE / "traces.py", list(names), folder).splitlines()[-1])


@pytest.fixture(scope="session")
def libraries(tmp_path_factory):
    if compiler() is None:
        pytest.skip("needs a C compiler: autograd asks a CUDA runtime for its device, which is compiled here")
    return tmp_path_factory.mktemp("ghost")


@pytest.fixture(scope="session")
def quick(libraries):
    return traced(QUICK, libraries)


@pytest.fixture(scope="session")
def long(libraries):
    return traced(LONG, libraries)


@pytest.fixture(params=[*QUICK, *(pytest.param(name, marks=[pytest.mark.slow, pytest.mark.long]) for name in LONG)])
def trace(request):
    return request.param, request.getfixturevalue("quick" if request.param in QUICK else "long")[request.param]


def test_the_host_waits_for_nothing_in_views_and_step(trace):
    name, parts = trace
    waits = {at: n for part in ("views", "step") if part in parts for at, n in parts[part]["waits"].items()}
    if name == "detection":  # anchors and proposals are selected by their values
        waits = {at: n for at, n in waits.items() if "(torchvision)" not in at and "detection/heads.py" not in at}
    assert not waits


def test_losses_norms_and_similarities_are_float32(trace):
    _, parts = trace
    assert parts["dtypes"]["losses"] == ["torch.float32"]
    assert parts["dtypes"].get("dictionary") in (None, [], ["torch.float32"])
    assert parts["step"]["batch_norms"] == ["torch.float32"]


def test_encoders_give_float32(trace):
    """Of DenseCL, the embedding of the image; its map and cells are bfloat16 until they are normalised."""
    name, parts = trace
    outputs = parts["dtypes"].get("outputs", [])
    expected = ["bfloat16", "float32", "bfloat16"] if name == "densecl" else ["float32"] * len(outputs)
    assert outputs == [f"torch.{dtype}" for dtype in expected]


def test_views_are_in_the_memory_format_of_the_encoders(trace):
    _, parts = trace
    dtype, strides = parts["dtypes"].get("views", ["torch.float32", [0, 1]])
    assert (dtype, strides[1]) == ("torch.float32", 1)  # channels_last


def test_launches_and_memory_keep_within_their_budget(trace):
    name, parts = trace
    for part, most in BUDGET[name].items():
        assert parts[part]["launches"] <= most["launches"]
        assert parts[part]["peak_mb"] <= most["peak_mb"]


def test_the_memory_reserved_for_training_is_enough_and_not_far_more(trace):
    name, parts = trace
    if name not in ("segmentation", "detection"):
        needed, estimated = (parts["training_mb"][key] for key in ("needed", "estimated"))
        assert estimated <= 3 * needed
        # Pyramids, box heads and products with negatives are not counted.
        assert needed <= estimated or name in ("resim", "soco_fpn")


def test_what_the_tracer_sees(libraries):
    """A wait of each kind is found at its line, mixed devices raise, and memory is counted."""
    found = json.loads(run_with_ghost(HERE / "selftest.py", [], libraries))
    assert found.pop("waits") == [
        "a value is read",
        "boolean index",
        "download",
        "nonzero",
        "upload from pageable memory",
    ]
    assert found == {"mixed": True, "peak": 4000, "launches": 1, "uploads": 1}


def table(found):
    """Markdown rows: waits, uploads, launches, bytes touched and peak of each part."""
    rows = ["| trace | part | waits | uploads | launches | GB touched | peak, GB |", "| --- " * 7 + "|"]
    for name, parts in found.items():
        for part, t in parts.items():
            if part not in ("dtypes", "training_mb"):
                numbers = sum(t["waits"].values()), t["uploads"], t["launches"]
                memory = f"{t['touched_mb'] / 1000:.1f}", f"{t['peak_mb'] / 1000:.2f}"
                rows.append("| " + " | ".join(map(str, (name, part, *numbers, *memory))) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    import sys

    with tempfile.TemporaryDirectory() as folder:
        found = traced(sys.argv[1:] or [*QUICK, *LONG], Path(folder))
    print(table(found))
    for name, parts in found.items():
        print(name, json.dumps(parts))
