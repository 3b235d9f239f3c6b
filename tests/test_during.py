"""Scores during pretraining, and logging to other tools: neither changes the training."""

import importlib.util
import json
import struct
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
from support.tiny_coco import write_coco
from torch.nn import functional as F

from mlssl import api
from mlssl.data.coco import read_split
from mlssl.errors import ConfigError, DataError
from mlssl.parts.backbone import create_backbone, image_features
from mlssl.pretrain import loop
from mlssl.pretrain.schedule import score_steps
from mlssl.study.settings import Pretrain
from mlssl.study.validation import build
from mlssl.tensors import read_own
from mlssl.transfer import during
from mlssl.transfer.load import image_tensor, normalise, resize

CPU = torch.device("cpu")
SETTINGS = {
    "method": "mls",
    "target": "mlssl.method.mls.MLS",
    "params": {"dictionary_size": 12, "k": 2, "dim": 8, "hidden": 8},
    "backbone": "test_resnet",
    "epochs": 2,
    "batch_size": 6,
    "log_every": 2,
    "views": {"crop": 32},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return {
        "root": str(write_coco(tmp_path_factory.mktemp("data") / "scenes", splits={"train2017": 20, "val2017": 4}))
    }


def trained(data, out, **changes):
    torch.manual_seed(0)
    settings = {**SETTINGS, "data": data, **changes}
    store = Path(data["root"]).parent / "store"
    api.pretrain(settings, out, store=store, device="cpu", threads=1, progress=False)
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return read_own(out / "checkpoint.pt", "a state", {"method"}, missing="", broken=""), lines


@pytest.fixture(scope="module")
def plain(data, tmp_path_factory):
    return trained(data, tmp_path_factory.mktemp("plain") / "run")


@pytest.fixture(scope="module")
def scored(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("scored") / "run"
    return *trained(data, out, knn_every=1), json.loads((out / "pretrain.json").read_text())


def same(a, b):
    assert a["step"] == b["step"] == 6
    for part in ("method", "optimizer", "random"):
        assert equal(a[part], b[part]), part


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def test_scores_change_no_bit_of_the_training(plain, scored):
    state, lines, result = scored
    same(state, plain[0])
    with_score = [line for line in lines if "knn_mAP" in line]
    # 3 steps per epoch, and a line after every 2: the lines at or after steps 3 and 6.
    assert [line["step"] for line in with_score] == [4, 6]
    assert all(0 < line["knn_mAP"] <= 100 and line["knn_seconds"] > 0 for line in with_score)
    assert not any("knn_mAP" in line for line in plain[1])
    rest = [
        {k: v for k, v in line.items() if k not in ("knn_mAP", "knn_seconds", "images_per_s")} for line in lines
    ]
    assert rest == [{k: v for k, v in line.items() if k != "images_per_s"} for line in plain[1]]
    note = result["header"]["notes"]["knn_during_training"]
    assert note["scores"] == 2
    assert note["last_mAP"] == with_score[-1]["knn_mAP"]


def test_the_time_of_scores_is_not_that_of_training(data, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "timed_score", lambda *_: (50.0, 10_000.0))
    _, lines = trained(data, tmp_path / "run", knn_every=1)
    result = json.loads((tmp_path / "run" / "pretrain.json").read_text())
    seconds = next(row["value"] for row in result["rows"] if row["metric"] == "seconds")
    # Far more than has passed is subtracted, at steps 4 and 6, so both times are negative.
    assert -20_000 < seconds < -19_000
    rates = {line["step"]: line["images_per_s"] for line in lines}
    assert [step for step, rate in rates.items() if rate <= 0] == [6]
    assert result["header"]["notes"]["knn_during_training"]["seconds_beside_training"] == 20_000


def test_a_stopped_run_resumes_with_the_same_scores(data, scored, tmp_path, monkeypatch):
    whole, expected, _ = scored
    call, calls = during.Neighbours.__call__, []

    def dies(self, backbone):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return call(self, backbone)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(during.Neighbours, "__call__", dies)
        trained(data, tmp_path / "run", knn_every=1, checkpoint_seconds=0)
    state, lines = trained(data, tmp_path / "run", knn_every=1)
    same(state, whole)
    assert [(x["step"], x["knn_mAP"]) for x in lines if "knn_mAP" in x] == [
        (x["step"], x["knn_mAP"]) for x in expected if "knn_mAP" in x
    ]


def test_the_score_is_that_of_a_slow_loop(data):
    config = build(Pretrain, {**SETTINGS, "data": data, "knn_every": 1}, "test")
    before = torch.get_rng_state()
    score = during.Neighbours(config, CPU)
    torch.testing.assert_close(torch.get_rng_state(), before, rtol=0, atol=0)
    backbone = create_backbone("test_resnet").train()
    weights = {name: value.clone() for name, value in backbone.state_dict().items()}
    found = score(backbone)
    assert backbone.training
    assert equal(dict(backbone.state_dict()), weights)
    # From the definition: cosine of pooled features, softmax weights of all 16 keys, AP of ranked queries.
    split = read_split(data["root"], "train2017")
    order = torch.randperm(20, generator=torch.Generator().manual_seed(during.seed_of(0, "during", "images")))
    images = torch.stack([resize(image_tensor(split, int(i)), 32) for i in order])
    with torch.no_grad():
        x = F.normalize(image_features(backbone.eval(), normalise(images)), dim=1)
    y = torch.from_numpy(split.labels())[order]
    queries, keys = range(4), range(4, 20)
    precisions = []
    for c in range(y.shape[1]):
        truth = [bool(y[q, c]) for q in queries]
        if all(truth) or not any(truth):
            continue
        votes = []
        for q in queries:
            weight = [float(torch.exp(x[q] @ x[k] / 0.07)) for k in keys]
            votes.append(sum(w for w, k in zip(weight, keys, strict=True) if y[k, c]) / sum(weight))
        ranked = [t for _, t in sorted(zip(votes, truth, strict=True), key=lambda pair: -pair[0])]
        at = [sum(ranked[: i + 1]) / (i + 1) for i, t in enumerate(ranked) if t]
        precisions.append(sum(at) / len(at))
    assert found == pytest.approx(100 * sum(precisions) / len(precisions), abs=1e-3)


def test_the_validation_split_is_not_read(data, tmp_path):
    root = write_coco(tmp_path / "scenes", splits={"train2017": 20})
    trained({"root": str(root), "data_id": "given"}, tmp_path / "run", epochs=1, knn_every=1)


def test_images_without_annotations_are_refused_before_training(data, tmp_path):
    root = write_coco(tmp_path / "scenes", splits={"train2017": 20})
    file = root / "annotations" / "instances_train2017.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"annotations": []}))
    with pytest.raises(DataError, match=r"^knn_every: .*instances_train2017.json: no category is on some"):
        trained({"root": str(root), "data_id": "given"}, tmp_path / "run", knn_every=1)
    assert not (tmp_path / "run" / "state").exists()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, set()),
        ({"knn_every": 2}, {4, 8, 10}),  # 20 images in batches of 8: 2 steps per epoch
        ({"knn_every": 2, "log_every": 3}, {6, 9, 10}),
        ({"knn_every": 0.001}, set(range(1, 11))),
        ({"knn_every": 100}, {10}),
    ],
)
def test_steps_of_scores(changes, expected):
    settings = {**SETTINGS, "data": {"root": "x"}, "epochs": 5, "batch_size": 8, "log_every": 1}
    assert score_steps(build(Pretrain, settings | changes, "test"), 20, 10) == expected


# --- Logging to other tools


class Recorder:
    """A fake of a library's module: every call is noted with its arguments."""

    def __init__(self):
        self.calls = []

    def note(self, name, result=None):
        def function(*args, **named):
            self.calls.append((name, args, named))
            return result

        return function

    def named(self, name):
        return [(args, named) for called, args, named in self.calls if called == name]


class ToolError(Exception):
    """In place of the errors of a library."""


def fake(monkeypatch, kind):
    """A recorder, as the library of this name would be imported."""
    seen = Recorder()
    if kind == "tensorboard":
        writer = types.SimpleNamespace(add_scalar=seen.note("write"), close=seen.note("close"))
        module, name = types.SimpleNamespace(SummaryWriter=seen.note("open", writer)), "torch.utils.tensorboard"
    elif kind == "wandb":
        run = types.SimpleNamespace(log=seen.note("write"), finish=seen.note("close"))
        module, name = types.SimpleNamespace(init=seen.note("open", run), Error=ToolError), "wandb"
    else:
        run = types.SimpleNamespace(info=types.SimpleNamespace(run_id="abc"))
        module = types.SimpleNamespace(
            start_run=seen.note("open", run),
            log_params=seen.note("params"),
            log_metrics=seen.note("write"),
            end_run=seen.note("close"),
            MlflowException=ToolError,
        )
        name = "mlflow"
    monkeypatch.setitem(sys.modules, name, module)
    return seen


def test_the_tools_get_the_lines_of_the_log(data, plain, tmp_path, monkeypatch):
    tools = {kind: fake(monkeypatch, kind) for kind in ("tensorboard", "wandb", "mlflow")}
    state, lines = trained(data, tmp_path / "run", log_to=list(tools), knn_every=2)
    same(state, plain[0])
    for kind, seen in tools.items():
        assert len(seen.named("open")) == len(seen.named("close")) == 1
        got = {}
        for args, named in seen.named("write"):
            if kind == "tensorboard":
                name, value, step = args
                got.setdefault(step, {})[name] = value
            else:
                got[named["step"]] = args[0]
        assert sorted(got) == [line["step"] for line in lines]
        for line in lines:
            inner = {f"diagnostics/{name}": value for name, value in line.pop("diagnostics", {}).items()}
            line.update(inner)
            assert got[line["step"]] == {key: value for key, value in line.items() if key != "step"}
    opened = {kind: seen.named("open")[0][1] for kind, seen in tools.items()}
    assert opened["tensorboard"] == {"log_dir": str(tmp_path / "run" / "tensorboard"), "purge_step": 1}
    assert opened["wandb"]["id"] == "run"
    assert opened["wandb"]["resume"] == "allow"
    assert opened["wandb"]["config"]["batch_size"] == 6
    ((params,), _) = tools["mlflow"].named("params")[0]
    assert params["views/crop"] == "32"
    assert (tmp_path / "run" / "mlflow_run_id").read_text() == "abc"


def test_a_resumed_run_continues_the_tools_runs(data, tmp_path, monkeypatch):
    tools = {kind: fake(monkeypatch, kind) for kind in ("tensorboard", "mlflow")}
    monkeypatch.setattr(during.Neighbours, "__call__", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    how = {"log_to": list(tools), "checkpoint_seconds": 0}
    with pytest.raises(KeyboardInterrupt):
        trained(data, tmp_path / "run", knn_every=2, **how)
    assert all(len(tool.named("close")) == 1 for tool in tools.values())
    trained(data, tmp_path / "run", **how)
    assert tools["tensorboard"].named("open")[1][1]["purge_step"] == 5
    assert tools["mlflow"].named("open")[1][1] == {"run_id": "abc"}


@pytest.mark.parametrize("kind", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_library_is_one_sentence(kind, data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard" if kind == "tensorboard" else kind, None)
    with pytest.raises(ConfigError, match=rf"^log_to: {kind}: cannot be imported .*; run `pip install {kind}`, or"):
        trained(data, tmp_path / "run", log_to=[kind])


@pytest.mark.parametrize(("kind", "opens"), [("wandb", "init"), ("mlflow", "start_run")])
def test_a_tool_that_cannot_begin_stops_the_run_before_its_first_step(kind, opens, data, tmp_path, monkeypatch):
    fake(monkeypatch, kind)
    monkeypatch.setattr(sys.modules[kind], opens, raises("no account."))
    with pytest.raises(ConfigError, match=rf"^log_to: {kind}: no account; (set|check) .*, or take {kind} out of"):
        trained(data, tmp_path / "run", log_to=[kind])
    assert not (tmp_path / "run" / "log.jsonl").exists()


def test_a_tool_that_fails_later_is_left_out_and_the_run_goes_on(data, plain, tmp_path, monkeypatch, capsys):
    seen, other = fake(monkeypatch, "mlflow"), fake(monkeypatch, "tensorboard")
    monkeypatch.setattr(sys.modules["mlflow"], "log_metrics", raises("no answer"))
    state, lines = trained(data, tmp_path / "run", log_to=["mlflow", "tensorboard"])
    same(state, plain[0])
    said = "log_to: MLflow failed (no answer); the run goes on without it, log.jsonl has all lines"
    assert capsys.readouterr().err.count(said) == 1
    assert len({args[2] for args, _ in other.named("write")}) == len(lines)
    assert not seen.named("close")


def raises(text):
    def function(*_, **__):
        raise ToolError(text)

    return function


def test_nothing_is_imported_unless_asked():
    code = (
        "import sys; import mlssl.pretrain.loggers, mlssl.pretrain.schedule\n"
        "print([m for m in ('torch.utils.tensorboard', 'tensorboard', 'wandb', 'mlflow', 'mlssl.transfer') "
        "if m in sys.modules])"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_reads_what_was_written(data, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, lines = trained(data, tmp_path / "run", log_to=["tensorboard"])
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [e.step for e in events.Scalars("loss")] == [line["step"] for line in lines]
    assert [e.value for e in events.Scalars("loss")] == pytest.approx([line["loss"] for line in lines])


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="mlflow is not installed")
def test_mlflow_reads_what_was_written(data, tmp_path, monkeypatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    _, lines = trained(data, tmp_path / "run", log_to=["mlflow"])
    run = (tmp_path / "run" / "mlflow_run_id").read_text()
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    assert client.get_run(run).data.params["views/crop"] == "32"
    assert client.get_run(run).info.status == "FINISHED"
    got = [(m.step, m.value) for m in client.get_metric_history(run, "loss")]
    assert got == [(line["step"], line["loss"]) for line in lines]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_keeps_what_was_written_offline(data, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    _, lines = trained(data, tmp_path / "run", log_to=["wandb"])
    (file,) = (tmp_path / "run" / "wandb").glob("offline-run-*/run-run.wandb")
    rows = [json_of(r.history.item) for r in wandb_records(file) if r.WhichOneof("record_type") == "history"]
    assert [(row["_step"], row["loss"]) for row in rows] == [(line["step"], line["loss"]) for line in lines]


def json_of(items):
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def wandb_records(file):
    """The records of a file of wandb: 7 bytes, then LevelDB's log of protobuf messages in 32 KiB blocks."""
    from wandb.proto import wandb_internal_pb2

    content, at, whole = file.read_bytes(), 7, b""
    assert content[:4] == b":W&B"
    while at + 7 <= len(content):
        if 2**15 - at % 2**15 < 7:  # no head of a part fits into the rest of the block
            at += 2**15 - at % 2**15
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        whole, at = whole + content[at + 7 : at + 7 + length], at + 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            yield record
