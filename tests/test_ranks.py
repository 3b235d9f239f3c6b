"""Several ranks train as one process does: same keys, same dictionaries, same gradients, same end."""

import copy
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import nullcontext, suppress
from functools import partial
from multiprocessing import set_forkserver_preload
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import torch.multiprocessing as mp
import yaml
from support.boxes import ORL_VIEWS, with_pairs_in, with_random_pairs
from support.tiny_coco import IDENTIFIED, write_backbone, write_coco
from test_engine import CPU, make_settings
from test_preemption import tiny_store
from timm.layers import BatchNormAct2d
from torch import nn

from mlssl.data.loader import Steps
from mlssl.data.store import ImageStore
from mlssl.errors import ConfigError
from mlssl.pretrain import loop as engine
from mlssl.pretrain.build import build_method, build_optimizer
from mlssl.pretrain.prepare import read_boxes
from mlssl.pretrain.step import step
from mlssl.runtime import batch_norm, distributed
from mlssl.runtime.parallel import parallel
from mlssl.study import settings as config
from mlssl.study.validation import build, plain
from mlssl.tensors import previous
from mlssl.transfer import segmentation

ROOT = Path(__file__).parents[1]
STEPS = 3
BATCH_NORMS = ("sync", "local", "shuffle")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """A store, with boxes and pairs for ORL beside it."""
    store = tiny_store(tmp_path_factory.mktemp("data"))
    with_random_pairs(SETTINGS["orl"], store, store.parent)
    return store


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def as_rank(rank, world, port, function, out):
    variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in variables.items()})
    torch.set_num_threads(1)
    with distributed.joined("cpu"):
        torch.save(function(), out / f"{world}-{rank}.pt")


def by_ranks(world, function, out):
    """What `function` gives on each of `world` ranks: processes, forked from one that has torch loaded."""
    set_forkserver_preload(["mlssl.pretrain.loop", "mlssl.transfer.segmentation"])
    mp.start_processes(as_rank, (world, free_port(), function, out), nprocs=world, start_method="forkserver")
    return [torch.load(out / f"{world}-{rank}.pt", weights_only=True) for rank in range(world)]


def trained(settings, images):
    """A few steps: losses, gradients, dictionaries and weights after them, all in double precision."""
    if settings.pairs:
        settings = with_pairs_in(settings, images.parent)
    method, _ = build_method(settings, CPU)
    method.double()
    optimizer = build_optimizer(settings, method)
    together = parallel(method, settings.batch_norm, CPU)
    boxes = read_boxes(settings, ImageStore(images), {})
    views = Steps(ImageStore(images), settings, CPU, distributed.part(settings.batch_size), *boxes)
    losses = []
    for at in range(STEPS):
        pair = [view._replace(pixels=view.pixels.double()) for view in views[at]]
        with patch.object(torch.Tensor, "float", torch.Tensor.double):  # methods cast to float32 for their losses
            losses.append({k: v.detach() for k, v in step(together, optimizer, pair, 0.0).items()})
    return {
        "losses": losses,
        "gradients": {name: p.grad for name, p in method.named_parameters() if p.grad is not None},
        "state": {k: v for k, v in method.state_dict().items() if isinstance(v, torch.Tensor)},
    }


def assert_close(one, other, path=""):
    assert type(one) is type(other), path
    if isinstance(one, dict):
        assert one.keys() == other.keys(), path
        for key in one:
            assert_close(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), path
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_close(a, b, f"{path}[{i}]")
    else:
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-8, msg=lambda m: f"{path}: {m}")


SETTINGS = {
    "mls": make_settings("mls", steps=STEPS),
    "mls, sampled": make_settings(
        "mls", steps=STEPS, params={"k": 2, "dictionary_size": 10, "dim": 8, "search": "sample", "sample": 3}
    ),
    "moco_v2": make_settings(
        "moco_v2", steps=STEPS, params={"dictionary_size": 10, "dim": 8, "projector_batch_norm": True}
    ),
    "densecl": make_settings("densecl", steps=STEPS),
    "knn_moco": make_settings("knn_moco", steps=STEPS),
    "nnclr": make_settings("nnclr", steps=STEPS),
    "msf": make_settings("msf", steps=STEPS),
    "byol": make_settings("byol", steps=STEPS),
    "simsiam": make_settings("simsiam", steps=STEPS),
    "pixpro": make_settings("pixpro", steps=STEPS),
    "pixcontrast": make_settings("pixcontrast", steps=STEPS),
    "slotcon": make_settings("slotcon", steps=STEPS),
    "self_emd": make_settings("self_emd", steps=STEPS),
    "resim": make_settings("resim", steps=STEPS),
    "soco": make_settings("soco", steps=STEPS),
    "soco_fpn": make_settings("soco_fpn", steps=STEPS),
    "orl": make_settings(
        "orl",
        steps=STEPS,
        target="baselines.orl.ORL",
        params={"dim": 8, "hidden": 8},
        each_view=ORL_VIEWS,
        pairs={"method": "byol", "neighbours": 3},
    ),
}
WITHOUT_DICTIONARY = ("byol", "simsiam", "pixpro", "pixcontrast", "slotcon", "self_emd", "soco", "soco_fpn", "orl")


QUICK = ("mls", "densecl", "byol", "slotcon", "orl")
"""Methods with dictionaries, on maps, with a predictor, with prototypes and on boxes."""
SLOW = [pytest.mark.slow, pytest.mark.long]


@pytest.mark.parametrize(
    ("world", "names"),
    [(2, QUICK), pytest.param(2, (*SETTINGS,), marks=SLOW), pytest.param(4, (*SETTINGS,), marks=SLOW)],
    ids=["2 ranks", "2 ranks, all methods", "4 ranks, all methods"],
)
def test_losses_gradients_and_dictionaries_are_those_of_one_process(images, tmp_path, world, names):
    found = by_ranks(world, partial(trained_all, names, images), tmp_path)
    for name in names:
        alone = trained(SETTINGS[name], images)
        assert alone["gradients"]
        for other in found:
            assert_close(alone, other[name], name)
    for other in found[1:]:  # to the bit, or the ranks would drift apart
        for name in names:
            columns = [key for key in found[0][name]["state"] if key.startswith("dictionary.")]
            assert columns or name in WITHOUT_DICTIONARY
            for key in columns:
                assert torch.equal(found[0][name]["state"][key], other[name]["state"][key]), key


def trained_all(names, images):
    return {name: trained(SETTINGS[name], images) for name in names}


class Encoder(nn.Module):
    """Returns each image, its mean, and the mean of all images in the forward pass."""

    def forward(self, x):
        means = x.mean(dim=(1, 2, 3))
        return x, means, means * 0 + x.mean()


def encoded(images):
    """Pixels of this rank's part, what the key encoder makes of them, plain and shuffled; running statistics."""
    settings = make_settings("moco_v2", steps=STEPS)
    pixels = Steps(ImageStore(images), settings, CPU, distributed.part(settings.batch_size))[0][0].pixels
    norm = nn.BatchNorm2d(3)
    encoder = Encoder()
    batch_norm.shuffle_over_ranks(encoder)
    torch.manual_seed(5)
    same, means, companions = encoder(pixels)
    norm = batch_norm.synchronise(norm, CPU)
    norm(pixels)
    return {
        "kept": torch.equal(same, pixels) and torch.equal(means, pixels.mean(dim=(1, 2, 3))),
        "companions": companions,
        "own": pixels.mean(),
        "mean": norm.running_mean,
        "var": norm.running_var,
    }


def test_shuffled_keys_meet_others_and_come_back_to_their_queries(images, tmp_path):
    found = by_ranks(2, partial(encoded, images), tmp_path)
    settings = make_settings("moco_v2", steps=STEPS)
    pixels = Steps(ImageStore(images), settings, CPU)[0][0].pixels
    torch.manual_seed(5)
    halves = torch.randperm(4).split(2)
    for rank, values in enumerate(found):
        assert values["kept"]
        for i, met in enumerate(values["companions"]):
            (half,) = [h for h in halves if 2 * rank + i in h]
            torch.testing.assert_close(met, pixels[half].mean())
    norm = nn.BatchNorm2d(3)
    norm(pixels)
    for values in found:
        torch.testing.assert_close(values["mean"], norm.running_mean)
        torch.testing.assert_close(values["var"], norm.running_var)


@pytest.mark.parametrize("device_type", ["cpu", "cuda"])
def test_a_synchronised_norm_of_timm_keeps_its_activation_and_the_names_of_its_state(device_type):
    model = nn.Sequential(BatchNormAct2d(3))
    state = model.state_dict()
    batch_norm.synchronise(model, torch.device(device_type))
    assert isinstance(model[0].act, nn.ReLU)
    assert list(model.state_dict()) == list(state)


def test_a_synchronised_norm_of_timm_gives_what_the_norm_gives():
    torch.manual_seed(0)
    x, norm = torch.randn(4, 3, 2, 2), BatchNormAct2d(3)
    synchronised = batch_norm.synchronise(copy.deepcopy(norm), CPU)
    for training in (True, False):
        expected = norm.train(training)(x)
        assert (expected == 0).any()
        torch.testing.assert_close(synchronised.train(training)(x), expected)


class NoMethod(nn.Module):
    pass


def test_a_class_without_a_step_is_refused():
    with pytest.raises(ConfigError, match=r"NoMethod has no step\(view1, view2, progress\)"):
        parallel(NoMethod(), "sync", CPU)


@pytest.mark.parametrize("name", ["nnclr", "simsiam"])
def test_shuffled_keys_of_a_method_without_a_key_encoder_are_refused(name, monkeypatch):
    monkeypatch.setattr(distributed, "count", lambda: 2)
    method, _ = build_method(SETTINGS[name], CPU)
    with pytest.raises(ConfigError, match=f"{type(method).__name__} has no key encoder; give 'sync'"):
        parallel(method, "shuffle", CPU)


def settings_by_norm(images):
    found = {}
    for how in BATCH_NORMS:
        settings = make_settings("mls", steps=STEPS, batch_norm=how)
        found[how] = trained(settings, images)["state"]
    return found


def test_local_and_shuffled_statistics_differ_and_dictionaries_agree_all_the_same(images, tmp_path):
    one, other = by_ranks(2, partial(settings_by_norm, images), tmp_path)
    for how in BATCH_NORMS:
        for key in one[how]:
            if "running" not in key or how == "sync":
                assert torch.equal(one[how][key], other[how][key]), (how, key)
    assert not torch.allclose(one["local"]["dictionary.z"], one["sync"]["dictionary.z"])
    assert not torch.allclose(one["local"]["dictionary.z"], one["shuffle"]["dictionary.z"])


def test_a_batch_that_cannot_be_shared_is_refused(monkeypatch):
    monkeypatch.setattr(distributed, "count", lambda: 3)
    with pytest.raises(ConfigError, match="batch_size 4 cannot be shared evenly by 3 ranks; give a multiple"):
        distributed.part(4)


def test_an_unknown_batch_norm_is_refused():
    with pytest.raises(ConfigError, match="batch_norm: 'ghost' is not allowed; give 'sync', 'local' or 'shuffle'"):
        make_settings(batch_norm="ghost")


# Transfers


def segmented(file, settings):
    """Segmentation's scores and weights on each rank, in float32, without dropout, which each rank draws."""
    models, train = [], segmentation.train

    def remember(model, *args, **settings):
        models.append(model)
        train(model, *args, **settings)

    rooms = "mlssl.transfer.segmentation"
    with (
        patch(f"{rooms}.train", remember),
        patch(f"{rooms}.model.DROPOUT", 0.0),
        # As names of modules: the package has a function `train` too.
        patch.object(sys.modules[f"{rooms}.train"], "autocast", nullcontext),
        patch.object(sys.modules[f"{rooms}.predict"], "autocast", nullcontext),
    ):
        rows, notes = segmentation.evaluate(file, settings, seed=0, device=CPU, progress=False)
    assert notes["eval_images"] == rows[0]["n"]
    return {"scores": {row["metric"]: row["value"] for row in rows}, "model": models[0].state_dict()}


@pytest.mark.long
def test_segmentation_by_two_ranks_is_that_of_one_process(tmp_path):
    data = {"root": str(write_coco(tmp_path / "coco"))}
    given = {"data": data, "size": 32, "iterations": 3, "batch_size": 4, "head_channels": 8, "output_stride": 32}
    settings, file = build(config.Segmentation, given, "test"), write_backbone(tmp_path / "backbone.pt")
    alone = segmented(file, settings)
    for other in by_ranks(2, partial(segmented, file, settings), tmp_path):
        for name, value in alone["model"].items():
            torch.testing.assert_close(other["model"][name], value, rtol=1e-3, atol=1e-4)
        assert other["scores"] == pytest.approx(alone["scores"], abs=0.5)


@pytest.mark.long
@pytest.mark.slow
def test_detection_by_two_ranks_sees_every_image_and_writes_one_result(tmp_path):
    data = {"root": str(write_coco(tmp_path / "coco")), **IDENTIFIED}
    small = {
        "fpn_channels": 8,
        "box_head_channels": 16,
        "mask_head_layers": 1,
        "proposals": 20,
        "rois_per_image": 16,
    }
    given = {"data": data, "size": 48, "iterations": 2, "batch_size": 2, **small}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(given))
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "mlssl"]
    verb = [
        "detection",
        "--backbone",
        write_backbone(tmp_path / "backbone.pt"),
        "--config",
        tmp_path / "run.yaml",
        "--device",
        "cpu",
    ]
    command = [*start, *verb, "--out", tmp_path / "detection.json", "--threads", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    notes = json.loads((tmp_path / "detection.json").read_text())["header"]["notes"]
    assert notes["ranks"] == 2
    assert notes["eval_images"] == len(list((tmp_path / "coco" / "val2017").iterdir()))


# Whole runs, by torchrun


def command(world, out, settings, images):
    out.mkdir(parents=True, exist_ok=True)
    (out / "run.yaml").write_text(yaml.safe_dump(plain(settings)))
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)] if world > 1 else []
    verb = ["-m", "mlssl", "pretrain", "--config", out / "run.yaml", "--store", images, "--out", out / "run"]
    return [sys.executable, *start, *verb, "--threads", "1", "--device", "cpu"]


def launch(world, out, settings, images):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command(world, out, settings, images),
        cwd=out,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture
def with_images(images):
    """Settings whose data lie where the verb looks for them."""
    return partial(make_settings, data={"root": str(images.parent), **IDENTIFIED})


def workers(launcher):
    import psutil

    return [p for p in psutil.Process(launcher.pid).children() if "pretrain" in p.cmdline()]


def until(condition, seconds=300):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return found


def step_of(state_file):
    """Of the newest state; 0 where there is none."""
    for path in (state_file, previous(state_file)):
        with suppress(FileNotFoundError):
            return torch.load(path, weights_only=True)["step"]
    return 0


def end_of(out):
    assert (out / "run" / "pretrain.json").exists()
    state = torch.load(out / "run" / "checkpoint.pt", weights_only=True)
    lines = [json.loads(line) for line in (out / "run" / "log.jsonl").read_text().splitlines()]
    return state, lines, json.loads((out / "run" / "pretrain.json").read_text())


@pytest.mark.slow
@pytest.mark.long
def test_a_run_goes_on_with_another_number_of_ranks_and_ends_as_with_one(images, with_images, tmp_path):
    # With closed residual branches at the start, differences of rounding grow slowly enough for 40 steps.
    settings = with_images(steps=40, log_every=4, label_records=3, lr=0.01, zero_init_residual=True)
    engine.pretrain(settings, images, tmp_path / "alone" / "run", run="run", device=CPU, progress=False)
    state_file, steps = tmp_path / "shared" / "run" / "state" / "checkpoint.pt", [0]
    for world in (1, 2, 4):
        running = launch(world, tmp_path / "shared", settings, images)
        until(lambda seen=steps[-1], r=running: step_of(state_file) > seen or r.poll() is not None)
        running.send_signal(signal.SIGTERM)
        _, err = running.communicate(timeout=100)
        assert "same command again to resume" in err
        assert running.returncode == (75 if world == 1 else 1)  # torchrun's own, for any end but a good one
        steps.append(step_of(state_file))
    assert 0 < steps[1] < steps[2] < steps[3] < 40
    running = launch(2, tmp_path / "shared", settings, images)
    running.communicate(timeout=100)
    (one, lines, _), (other, others, result) = end_of(tmp_path / "alone"), end_of(tmp_path / "shared")
    assert [line["step"] for line in lines] == [line["step"] for line in others] == list(range(4, 41, 4))
    for a, b in zip(lines, others, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-3)
    for key, value in one["method"].items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            torch.testing.assert_close(value, other["method"][key], rtol=1e-2, atol=1e-3)
    assert result["header"]["notes"]["ranks"] == 2
    for a, b in zip(one["labels"], other["labels"], strict=True):
        assert a["step"] == b["step"]
        assert torch.equal(a["query_image"], b["query_image"])


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("who", ["rank", "launcher"])
def test_kill_9_of_a_rank_or_of_the_launcher_ends_all_and_the_rerun_goes_on(images, with_images, tmp_path, who):
    settings = with_images(steps=10_000, log_every=1)
    state_file = tmp_path / "run" / "state" / "checkpoint.pt"
    running = launch(2, tmp_path, settings, images)
    until(lambda: step_of(state_file) > 2)
    ended = workers(running)
    assert len(ended) == 2
    os.kill(ended[1].pid if who == "rank" else running.pid, signal.SIGKILL)
    running.communicate(timeout=60)
    assert running.returncode != 0
    until(lambda: not any(p.is_running() and p.status() != "zombie" for p in ended), seconds=60)
    before = step_of(state_file)
    again = launch(2, tmp_path, settings, images)
    until(lambda: step_of(state_file) > before or again.poll() is not None)
    assert again.poll() is None, again.stderr.read()
    os.kill(again.pid, signal.SIGTERM)
    _, err = again.communicate(timeout=60)
    assert "its state is saved" in err
    assert step_of(state_file) > before
