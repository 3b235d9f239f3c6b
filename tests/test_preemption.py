"""A run that is stopped by a signal: it saves its state, says so, and ends later as if nothing had happened."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from support.tiny_coco import IDENTIFIED
from test_engine import CPU, assert_same, make_settings

from mlssl import tensors
from mlssl.data import placement
from mlssl.data.store import build_store
from mlssl.pretrain import loop as engine
from mlssl.pretrain.prepare import identified
from mlssl.pretrain.run import checkpoint
from mlssl.pretrain.run.signals import RUN_AGAIN_LATER, SIGNALS, Interrupted, listening
from mlssl.study.identity import experiment
from mlssl.study.validation import plain

ROOT = Path(__file__).parents[1]


def tiny_store(root, seed=0, images_id="images"):
    rng = np.random.default_rng(seed)
    (root / "train2017").mkdir(parents=True)
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (36 + i % 3, 40, 3), dtype=np.uint8)).save(
            root / f"train2017/{i:03}.png"
        )
    build_store(root / "train2017", root / "store", short_side=256, images_id=images_id, workers=0)
    return root / "store"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return tiny_store(tmp_path_factory.mktemp("data"))


def train(settings, images, out, stop=None, **how):
    engine.pretrain(settings, images, out, run="run", device=CPU, progress=False, stop=stop, **how)


def at_step(monkeypatch, number, action):
    """Do something in the middle of the given training step, counted from 1 in this process."""
    steps, real = [], engine.step

    def step(*args):
        steps.append(1)
        if len(steps) == number:
            action()
        return real(*args)

    monkeypatch.setattr(engine, "step", step)


def assert_same_end(one, other, *, same_code=True):
    """Every output, but for the times in it, and for two generators that each process seeds anew and none uses.

    Without `same_code` the sources that trained may be others, as if a part was trained by changed code.
    """
    states = [torch.load(out / "checkpoint.pt", weights_only=True) for out in (one, other)]
    for state in states:
        state.pop("seconds")
        state.pop("log")  # compared below, without its rates
        del state["random"]["numpy"], state["random"]["python"]
        if not same_code:
            del state["segments"]
    assert_same(*states)
    assert_same(*(torch.load(out / "backbone.pt", weights_only=True) for out in (one, other)))
    lines = [[json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()] for out in (one, other)]
    for line in (*lines[0], *lines[1]):
        line.pop("images_per_s")
    assert lines[0] == lines[1]
    assert lines[0]
    records = [np.load(out / "pseudo_labels.npz") for out in (one, other)]
    assert records[0].files == records[1].files
    assert all(np.array_equal(records[0][column], records[1][column]) for column in records[0])
    assert (other / "pretrain.json").read_text() == (other / "state" / "result.json").read_text()
    kept = ["checkpoint.pt", "owner.lock", "result.json"]
    assert sorted(path.name for path in (other / "state").iterdir()) == kept


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_saves_after_the_step_and_the_run_ends_bit_for_bit_alike(images, tmp_path, monkeypatch, number):
    settings = make_settings(steps=7, log_every=3, checkpoint_seconds=1e9)
    train(settings, images, tmp_path / "uninterrupted")
    old = [signal.getsignal(n) for n in SIGNALS]
    with monkeypatch.context() as patch, listening() as stop:
        at_step(patch, 5, lambda: os.kill(os.getpid(), number))  # between two lines of the log
        with pytest.raises(
            Interrupted, match=rf"{number.name} after step 5 of 7; its state is saved .* same command"
        ):
            train(settings, images, tmp_path / "resumed", stop)
    assert [signal.getsignal(n) for n in SIGNALS] == old
    assert not (tmp_path / "resumed" / "checkpoint.pt").exists()
    torch.manual_seed(99)
    train(settings, images, tmp_path / "resumed")
    assert_same_end(tmp_path / "uninterrupted", tmp_path / "resumed")


def test_a_run_stopped_after_every_step_ends_alike_too(images, tmp_path, monkeypatch):
    settings = make_settings(steps=5, log_every=2)
    train(settings, images, tmp_path / "uninterrupted")
    for _ in range(4):
        with monkeypatch.context() as patch, listening() as stop, pytest.raises(Interrupted):
            at_step(patch, 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
            train(settings, images, tmp_path / "resumed", stop)
    train(settings, images, tmp_path / "resumed")
    assert_same_end(tmp_path / "uninterrupted", tmp_path / "resumed")


def test_a_signal_in_the_last_step_lets_the_run_end(images, tmp_path, monkeypatch):
    with listening() as stop:
        at_step(monkeypatch, 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
        train(make_settings(steps=3), images, tmp_path, stop)
    assert (tmp_path / "pretrain.json").exists()


@pytest.mark.parametrize("where", ["prepare.build_method", "memory.placement.free_memory", "loop.own"])
def test_before_the_first_step_a_signal_ends_it_at_once(images, tmp_path, monkeypatch, where):
    def signalled(*args, **settings):
        os.kill(os.getpid(), signal.SIGUSR1)
        pytest.fail("went on")

    with monkeypatch.context() as patch, listening() as stop:
        patch.setattr(f"mlssl.pretrain.{where}", signalled)
        with pytest.raises(Interrupted, match="SIGUSR1 before a step was done"):
            train(make_settings(), images, tmp_path, stop)
    train(make_settings(steps=1), images, tmp_path)


def test_a_signal_lost_in_a_callback_is_heard_before_the_first_step(images, tmp_path, monkeypatch):
    def swallow(*args, **settings):
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), signal.SIGTERM)
        return placement.FreeMemory(0, None)

    monkeypatch.setattr(placement, "free_memory", swallow)
    with listening() as stop, pytest.raises(Interrupted, match="before a step"):
        train(make_settings(), images, tmp_path, stop)


def test_ctrl_c_twice_does_not_wait(images, tmp_path, monkeypatch):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    at_step(monkeypatch, 2, twice)
    with listening() as stop, pytest.raises(KeyboardInterrupt):
        train(make_settings(checkpoint_seconds=1e9), images, tmp_path, stop)


def test_outside_the_main_thread_no_handler_is_touched():
    seen = []

    def listen():
        with listening() as stop:
            seen.append((stop.requested, [signal.getsignal(n) for n in SIGNALS]))

    before = [signal.getsignal(n) for n in SIGNALS]
    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


def test_forked_workers_leave_the_first_signal_to_their_parent():
    with listening() as stop:
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGTERM
    assert not stop.requested


def test_a_stop_with_a_full_disk_says_from_where_it_goes_on(images, tmp_path, monkeypatch):
    settings, writers, write = make_settings(steps=3), [], tensors.Summed.write

    def full_from_the_second_file_on(self, data):
        writers.append(self)
        if self is not writers[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, data)

    with monkeypatch.context() as patch, listening() as stop:
        patch.setattr(tensors.Summed, "write", full_from_the_second_file_on)
        at_step(patch, 2, lambda: os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(
            Interrupted, match=r"step 2 could not be saved .*No space left.* that of step 1 is kept"
        ):
            train(settings, images, tmp_path, stop)
    asked = experiment(identified(settings))
    kept = checkpoint.load(tmp_path / "state" / "checkpoint.pt", experiment=asked)
    assert kept["step"] == 1


@pytest.mark.slow
def test_the_command_exits_with_75_and_goes_on_when_called_again(images, tmp_path):
    settings = make_settings(
        steps=40, log_every=4, checkpoint_seconds=1e9, data={"root": str(images.parent), **IDENTIFIED}
    )
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(plain(settings)))
    out = tmp_path / "out"
    command = [sys.executable, "-m", "mlssl", "pretrain", "--config", file, "--out", out, "--store", images]
    command += ["--run-name", "run", "--threads", "1", "--device", "cpu"]
    running = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    log = out / "state" / "log.jsonl"
    while not (log.exists() and log.read_text()):
        assert running.poll() is None, running.stderr.read()
        time.sleep(0.01)
    running.send_signal(signal.SIGTERM)
    _, said = running.communicate(timeout=120)
    assert running.returncode == RUN_AGAIN_LATER == 75
    assert said.strip().splitlines()[-1].startswith("mlssl pretrain: run: stopped by SIGTERM after step ")
    assert "Traceback" not in said
    assert (out / "state" / "checkpoint.pt").exists()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    train(settings, images, tmp_path / "uninterrupted")
    assert_same_end(tmp_path / "uninterrupted", out)
