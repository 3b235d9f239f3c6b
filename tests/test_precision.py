"""Which precision a device trains in, what its float32 products are, and training in float16 with a scaled loss."""

import copy
import json
import warnings

import pytest
import torch
from test_engine import CPU, Killed, assert_same, engine, make_settings, store, train  # noqa: F401 - a fixture
from torch import nn

from mlssl import tensors
from mlssl.pretrain import prepare
from mlssl.pretrain.build import prepare_method
from mlssl.pretrain.step import step
from mlssl.runtime import device as devices
from mlssl.runtime import precision
from mlssl.runtime.device import float32_products, set_float32_products
from mlssl.runtime.precision import effective

CUDA = torch.device("cuda:0")


@pytest.fixture(autouse=True)
def products_as_before():
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def a_gpu(monkeypatch, name, *capability):
    """A GPU that is not there; emulated bfloat16 is supported on all, as torch says."""

    def supported(including_emulation=True):
        return including_emulation or capability >= (8, 0)

    class Nowhere:
        def __init__(self, device): ...
        def __enter__(self): ...
        def __exit__(self, *error): ...

    monkeypatch.setattr(torch.cuda, "device", Nowhere)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    monkeypatch.setattr(precision, "gains_from_bf16", devices.gains_from_bf16)


V100, T4, P100, A100 = ("V100", 7, 0), ("T4", 7, 5), ("P100", 6, 0), ("A100", 8, 0)


@pytest.mark.parametrize(
    ("gpu", "name", "chosen", "said"),
    [
        (A100, "auto", "bf16", None),
        (V100, "auto", "fp16", "V100 has no bfloat16 hardware; training uses fp16 with loss scaling"),
        (T4, "auto", "fp16", "T4 has no bfloat16 hardware"),
        (P100, "auto", "fp32", "no hardware for bfloat16 and float16 products; training uses fp32"),
        (A100, "tf32", "tf32", None),
        (V100, "tf32", "fp32", "V100 has no TF32; training uses fp32"),
        (V100, "bf16", "bf16", "emulated and slow, auto is faster"),
        (V100, "fp32", "fp32", None),
        (A100, "fp16", "fp16", None),
    ],
)
def test_the_precision_of_a_gpu_is_one_that_its_hardware_has(monkeypatch, gpu, name, chosen, said):
    a_gpu(monkeypatch, *gpu)
    found, remark = effective(name, CUDA)
    assert found == chosen
    assert (said in remark and "\n" not in remark) if said else remark is None


@pytest.mark.parametrize("amx", [False, True])
def test_the_precision_of_a_cpu(monkeypatch, amx):
    monkeypatch.setattr(precision, "gains_from_bf16", lambda device: amx)
    assert effective("auto", CPU) == ("bf16" if amx else "fp32", None)
    assert effective("fp16", CPU) == ("fp16", None)
    assert effective("tf32", CPU) == ("fp32", "precision: tf32 is for NVIDIA GPUs; a CPU computes in fp32")


@pytest.mark.parametrize(
    ("name", "products"), [("tf32", "tf32"), ("fp32", "ieee"), ("bf16", "ieee"), ("fp16", "ieee")]
)
def test_training_sets_convolutions_and_matrix_products(monkeypatch, name, products):
    a_gpu(monkeypatch, *A100)
    set_float32_products(tf32=products == "ieee")
    encoders = nn.ModuleDict({"query": nn.Linear(2, 2)})
    method = nn.Module()
    method.encoders, method.step = encoders, lambda view1, view2, progress: {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="CUDA is not available")
        prepare_method(make_settings(precision=name), method, CUDA)
    assert float32_products() == {"convolution": products, "matmul": products}
    newer = torch.backends.cudnn.conv.fp32_precision, torch.backends.cuda.matmul.fp32_precision
    assert [value == "tf32" for value in newer] == [products == "tf32"] * 2


def test_every_stage_starts_with_exact_products_and_its_result_says_so(monkeypatch):
    set_float32_products(tf32=True)
    devices.set_up(CPU, 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A100")
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 2**21)
    assert devices.facts(CUDA)["float32_products"] == {"convolution": "ieee", "matmul": "ieee"}
    assert "float32_products" not in devices.facts(CPU)


class Squares:
    """A loss of one weight, whose gradient is `slope`."""

    def __init__(self, slope):
        self.weight, self.slope = nn.Parameter(torch.ones(1)), slope

    def step(self, view1, view2, progress):
        return {"loss": (self.weight * self.slope).sum()}


def test_a_scaled_step_is_an_unscaled_one_and_one_that_overflows_is_left_out():
    scaled, plain = Squares(0.25), Squares(0.25)
    optimizers = [torch.optim.SGD([m.weight], lr=0.5, momentum=0.9, fused=True) for m in (scaled, plain)]
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for _ in range(3):
        step(scaled, optimizers[0], (None, None), 0.0, scaler)
        step(plain, optimizers[1], (None, None), 0.0)
    assert torch.equal(scaled.weight, plain.weight)
    before, scaled.slope = scaled.weight.clone(), 1e38
    step(scaled, optimizers[0], (None, None), 0.0, scaler)
    assert torch.equal(scaled.weight, before)
    assert scaler.get_scale() == 512.0


def test_a_run_in_float16_resumes_with_its_scale(store, tmp_path, monkeypatch):  # noqa: F811
    settings = make_settings("moco_v2", precision="fp16", steps=3)
    uninterrupted = train(settings, store, tmp_path / "uninterrupted")
    resumed = train(settings, store, tmp_path / "resumed", kill_after=2, monkeypatch=monkeypatch)
    assert uninterrupted["scaler"]["scale"] > 1
    for values in (uninterrupted, resumed):
        values.pop("seconds")
        values.pop("log")  # it has the speed
    assert_same(uninterrupted, resumed)
    notes = json.loads((tmp_path / "resumed" / "pretrain.json").read_text())["header"]["notes"]
    assert notes["precision"] == "fp16"
    assert "segments" not in notes


def test_a_run_that_resumes_in_another_precision_or_on_another_device_lists_it(store, tmp_path, monkeypatch):  # noqa: F811
    """As one with `auto` that moves to another GPU; here the hardware changes under it."""
    settings, facts = make_settings(precision="auto"), prepare.facts

    def die_after_3(path, values, save=tensors.save, **how):
        save(path, values, **how)
        if values.get("step") == 3:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(precision, "gains_from_bf16", lambda device: True)
        patch.setattr(tensors, "save", die_after_3)
        patch.setattr(prepare, "facts", lambda device: facts(device) | {"device": "another"})
        engine.pretrain(settings, store, tmp_path, run="run", device=CPU, progress=False)
    train(settings, store, tmp_path)
    notes = json.loads((tmp_path / "pretrain.json").read_text())["header"]["notes"]
    parts = [[part[key] for key in ("from_step", "device", "precision")] for part in notes["segments"]]
    assert parts == [[0, "another", "bf16"], [3, "cpu", "fp32"]]
    assert notes["segments"][0]["code"] == notes["segments"][1]["code"]


def test_a_state_that_does_not_say_what_computed_it_resumes_in_one_part(store, tmp_path, monkeypatch):  # noqa: F811
    """States of earlier versions have no device, precision and scaler."""
    save = tensors.save

    def as_before(path, values, **how):
        values = copy.copy(values)
        values.pop("scaler", None)
        values["segments"] = [
            {k: v for k, v in s.items() if k not in ("device", "precision")} for s in values["segments"]
        ]
        save(path, values, **how)
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(tensors, "save", as_before)
        engine.pretrain(make_settings(), store, tmp_path, run="run", device=CPU, progress=False)
    train(make_settings(), store, tmp_path)
    assert "segments" not in json.loads((tmp_path / "pretrain.json").read_text())["header"]["notes"]
