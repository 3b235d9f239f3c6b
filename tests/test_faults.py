"""What may go wrong in a training: killed processes, bad disks, clocks that jump, other trainers, losses of NaN."""

import errno
import itertools
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import time
from contextlib import contextmanager

import pytest
import torch
from test_engine import make_settings
from test_preemption import assert_same_end, at_step, tiny_store, train

from mlssl import tensors
from mlssl.errors import ConfigError, DataError
from mlssl.pretrain import loop as engine
from mlssl.pretrain import prepare
from mlssl.pretrain.log import NonFiniteLoss
from mlssl.pretrain.prepare import identified
from mlssl.pretrain.run import checkpoint, owner
from mlssl.pretrain.run.folder import OUTPUTS
from mlssl.study.identity import experiment

FORK = multiprocessing.get_context("fork")
KILL = lambda: os.kill(os.getpid(), signal.SIGKILL)  # noqa: E731
LOSSES = "mlssl/method/losses.py"
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return tiny_store(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def uninterrupted(images, tmp_path_factory):
    """A run that nothing happens to."""
    out = tmp_path_factory.mktemp("uninterrupted")
    torch.manual_seed(7)
    train(make_settings(), images, out)
    return out


@pytest.fixture
def state(images, tmp_path):
    """The state folder of a run of 6 steps that was stopped after the 4th."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ZeroDivisionError):
        at_step(patch, 5, lambda: 1 / 0)
        train(make_settings(), images, tmp_path)
    return tmp_path / "state"


def forked(action):
    """Run something in a process of its own; its exit code, which is negative after a signal."""
    child = FORK.Process(target=action)
    child.start()
    child.join(60)
    return child.exitcode


def steps_kept(state):
    return [
        checkpoint.load(path, experiment=experiment(identified(make_settings())))["step"]
        for path in checkpoint.all_of(state / "checkpoint.pt")[:2]
    ]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# Killed processes


def test_killed_in_a_step_it_goes_on_at_once_and_ends_alike(images, uninterrupted, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        at_step(patch, 4, KILL)
        assert forked(lambda: train(make_settings(), images, tmp_path)) == -signal.SIGKILL
    assert (tmp_path / "state" / "owner.lease").exists()
    train(make_settings(), images, tmp_path)
    assert "waiting" not in capsys.readouterr().err  # the dead process is not waited for
    assert_same_end(uninterrupted, tmp_path)


def test_killed_while_it_writes_a_checkpoint_it_goes_on_from_the_one_before(
    images, uninterrupted, tmp_path, monkeypatch
):
    writers, write = [], tensors.Summed.write

    def die_within_the_third_file(self, data):
        if self not in writers:
            writers.append(self)
        if len(writers) == 3:
            self.file.write(data[:7])
            self.file.flush()
            KILL()
        return write(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(tensors.Summed, "write", die_within_the_third_file)
        assert forked(lambda: train(make_settings(), images, tmp_path)) == -signal.SIGKILL
    assert len(list((tmp_path / "state").glob(".checkpoint.pt.*.part"))) == 1
    assert steps_kept(tmp_path / "state") == [2, 1]
    train(make_settings(), images, tmp_path)
    assert_same_end(uninterrupted, tmp_path)  # and the part is gone


def test_killed_between_the_renames_it_goes_on_from_the_previous_one(
    images, uninterrupted, tmp_path, monkeypatch, capsys
):
    real = os.replace

    def die_before_the_last(source, to):
        if tensors.previous(tmp_path / "state" / "checkpoint.pt").exists() and str(to).endswith("checkpoint.pt"):
            KILL()
        real(source, to)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", die_before_the_last)
        assert forked(lambda: train(make_settings(), images, tmp_path)) == -signal.SIGKILL
    assert not (tmp_path / "state" / "checkpoint.pt").exists()
    train(make_settings(), images, tmp_path)
    assert "checkpoint.pt: is missing; resuming from the previous one, of step 1" in capsys.readouterr().err
    assert_same_end(uninterrupted, tmp_path)


@pytest.mark.parametrize("before", ["pretrain.run.folder.write_json", "results.write_result"])
def test_killed_before_its_result_exists_it_ends_again(images, uninterrupted, tmp_path, monkeypatch, before):
    with monkeypatch.context() as patch:
        patch.setattr(f"mlssl.{before}", lambda *_: KILL())
        assert forked(lambda: train(make_settings(), images, tmp_path)) == -signal.SIGKILL
    assert not (tmp_path / "pretrain.json").exists()
    train(make_settings(), images, tmp_path)
    assert_same_end(uninterrupted, tmp_path)


# Outputs that Snakemake deletes at the next attempt, though an orphaned job has just made them


def never():
    raise AssertionError("a step was trained")


@pytest.fixture
def ended(images, tmp_path):
    """A run that has ended, and its outputs, which may be deleted."""
    train(make_settings(), images, tmp_path)
    return tmp_path, [path for path in tmp_path.iterdir() if path.is_file()]


def result_of(out):
    return json.loads((out / "pretrain.json").read_text())


def other_code(patch, digest="0123456789ab"):
    """Training by changed sources of the losses from now on."""
    real = prepare.stage_code
    patch.setattr(prepare, "stage_code", lambda *of: real(*of) | {LOSSES: digest})


@pytest.mark.parametrize("gone", [".", "backbone.pt", "checkpoint.pt", "log.jsonl", "pretrain.json"])
def test_what_a_run_left_is_written_again_without_training(images, uninterrupted, ended, monkeypatch, capsys, gone):
    out, files = ended
    result = result_of(out)
    for path in files:
        if gone in path.name:
            path.unlink()
    at_step(monkeypatch, 1, never)
    train(make_settings(), images, out)
    said = f"run: has been trained; its outputs are written again from {out / 'state' / 'checkpoint.pt'}"
    assert said in capsys.readouterr().err
    assert_same_end(uninterrupted, out)
    assert result_of(out) == result


def test_a_run_that_has_ended_is_left_as_it_is(images, ended, monkeypatch, capsys):
    out, files = ended
    before = {path: path.stat().st_mtime_ns for path in files}
    at_step(monkeypatch, 1, never)
    train(make_settings(), images, out)
    assert capsys.readouterr().err == "run: has ended already; nothing is left to do\n"
    assert {path: path.stat().st_mtime_ns for path in files} == before


def test_the_last_state_takes_no_disk(ended):
    out, _ = ended
    assert (out / "checkpoint.pt").samefile(out / "state" / "checkpoint.pt")


def test_where_there_are_no_hard_links_the_last_state_is_copied(images, uninterrupted, tmp_path, monkeypatch):
    def refused(*_):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refused)
    train(make_settings(), images, tmp_path)
    assert not (tmp_path / "checkpoint.pt").samefile(tmp_path / "state" / "checkpoint.pt")
    assert_same_end(uninterrupted, tmp_path)


@pytest.mark.parametrize("result_kept", [True, False])
def test_what_a_run_left_is_written_again_by_other_code_and_names_the_code_that_trained(
    images, uninterrupted, ended, monkeypatch, result_kept
):
    out, files = ended
    result = result_of(out)
    for path in files:
        path.unlink()
    if not result_kept:
        (out / "state" / "result.json").unlink()
    at_step(monkeypatch, 1, never)
    other_code(monkeypatch)
    train(make_settings(), images, out)
    assert_same_end(uninterrupted, out)
    again = result_of(out)
    assert again["header"]["code"] == result["header"]["code"]
    assert "segments" not in again["header"]["notes"]
    assert again == result or not result_kept


def test_a_run_of_other_code_in_the_middle_is_refused(images, state, monkeypatch):
    other_code(monkeypatch)
    at_step(monkeypatch, 1, never)
    before = contents(state)
    match = rf"step 4 of 6 .* other code \({LOSSES}\); .*--changed-code.*redo"
    with pytest.raises(ConfigError, match=match) as error:
        train(make_settings(), images, state.parent)
    assert "\n" not in str(error.value)
    assert contents(state) == before


def test_with_changed_code_a_run_goes_on_and_its_result_lists_the_parts(images, uninterrupted, state, monkeypatch):
    code = prepare.stage_code("pretrain", make_settings().target)
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        other_code(patch)
        at_step(patch, 2, lambda: 1 / 0)
        train(make_settings(), images, state.parent, changed_code=True)
    with monkeypatch.context() as patch:
        other_code(patch)
        train(make_settings(), images, state.parent)  # who has allowed it once is not asked again
    assert_same_end(uninterrupted, state.parent, same_code=False)
    header = result_of(state.parent)["header"]
    assert [part["from_step"] for part in header["notes"]["segments"]] == [0, 4]
    assert len({part["code"] for part in header["notes"]["segments"]}) == 2
    assert header["code"] == code | {LOSSES: f"{code[LOSSES]}+0123456789ab"}


def test_a_run_whose_state_is_gone_too_is_trained_anew_and_has_a_result_of_its_own(images, ended, monkeypatch):
    out, files = ended
    result = result_of(out)
    for path in [*files, out / "state" / "checkpoint.pt"]:
        path.unlink()
    other_code(monkeypatch)
    train(make_settings(), images, out)
    assert result_of(out)["header"]["code"] == result["header"]["code"] | {LOSSES: "0123456789ab"}
    assert json.loads((out / "state" / "result.json").read_text()) == result_of(out)
    assert json.loads((out / "state" / "result.json.old1").read_text()) == result


@pytest.mark.parametrize("when", ["ended", "in the middle"])
@pytest.mark.parametrize("changed_code", [False, True])
def test_a_state_of_other_images_is_refused_and_kept(request, tmp_path_factory, monkeypatch, when, changed_code):
    if when == "ended":
        out, files = request.getfixturevalue("ended")
        for path in files:
            path.unlink()
    else:
        out = request.getfixturevalue("state").parent
    before = contents(out / "state")
    other = tiny_store(tmp_path_factory.mktemp("other"), seed=1)
    at_step(monkeypatch, 1, never)
    with pytest.raises(DataError, match=r"checkpoint\.pt: was trained on other images, .*redo") as error:
        train(make_settings(), other, out, changed_code=changed_code)
    assert "\n" not in str(error.value)
    assert contents(out / "state") == before
    assert [path.name for path in out.iterdir()] == ["state"]


def test_a_store_of_other_images_is_refused(state, tmp_path_factory):
    other = tiny_store(tmp_path_factory.mktemp("other"), seed=1, images_id="others")
    before = contents(state)
    with pytest.raises(DataError, match=r"was built from other images \(others\) than .* this run \(images\)"):
        train(make_settings(), other, state.parent)
    assert contents(state) == before


def test_a_log_torn_by_a_power_cut_is_made_whole_from_the_state(images, uninterrupted, state):
    log = state / "log.jsonl"
    log.write_bytes(log.read_bytes()[:-200] + b'{"step": \0\0\0')
    train(make_settings(), images, state.parent)
    assert_same_end(uninterrupted, state.parent)


# Damaged states; tests/test_tensors.py has other readers' answers


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def cut(path, place):
    path.write_bytes(path.read_bytes()[:place])


DAMAGES = [(flip, 0), (flip, 100_000), (flip, -1), (flip, -40), (cut, 0), (cut, 50), (cut, 100_000), (cut, -1)]


@pytest.mark.parametrize(("damage", "place"), DAMAGES)
def test_a_damaged_state_is_noticed_and_the_previous_one_used(images, uninterrupted, state, capsys, damage, place):
    assert steps_kept(state) == [4, 3]
    damage(state / "checkpoint.pt", place)
    asked = experiment(identified(make_settings()))
    newest = checkpoint.load_newest(state / "checkpoint.pt", experiment=asked)
    assert newest.values["step"] == 3
    assert "checkpoint.pt: " in newest.problem
    assert "\n" not in newest.problem
    if place == 100_000:
        train(make_settings(), images, state.parent)
        printed = capsys.readouterr().err
        assert printed == f"{newest.problem}; resuming from the previous one, of step 3\n"
        assert_same_end(uninterrupted, state.parent)


def test_a_damaged_state_never_replaces_the_previous_one(images, state, monkeypatch):
    flip(state / "checkpoint.pt", 100_000)
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        at_step(patch, 2, lambda: 1 / 0)
        train(make_settings(), images, state.parent)
    assert steps_kept(state) == [4, 3]


def test_without_a_whole_state_it_does_not_begin_anew_by_itself(images, state):
    flip(state / "checkpoint.pt", 100_000)
    cut(state / "checkpoint.previous.pt", 100_000)
    with pytest.raises(
        DataError, match=r"checkpoint\.pt: .*checksum.*previous\.pt: is cut off.*to start over"
    ) as error:
        train(make_settings(), images, state.parent)
    assert "\n" not in str(error.value)
    assert (state / "checkpoint.pt").exists()


class Harm:
    def __reduce__(self):
        return os.mkdir, ("harm",)


@pytest.mark.parametrize("with_checksum", [False, True])
def test_a_foreign_pickle_is_refused_unread(images, state, tmp_path, monkeypatch, with_checksum):
    monkeypatch.chdir(tmp_path)
    tensors.previous(state / "checkpoint.pt").unlink()
    if with_checksum:
        tensors.save(state / "checkpoint.pt", {"meta": Harm()})
    else:
        (state / "checkpoint.pt").write_bytes(pickle.dumps(Harm()))
    with pytest.raises(DataError, match="not a checkpoint" if with_checksum else "no checksum at its end") as error:
        train(make_settings(), images, state.parent)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "harm").exists()


def test_the_state_of_another_configuration_is_no_damage(images, state):
    with pytest.raises(ConfigError, match="another lr"):
        train(make_settings(lr=0.01), images, state.parent)
    assert steps_kept(state) == [4, 3]


# Full and faulty disks


@contextmanager
def disk_full(patch, from_file=1, to_file=10**9):
    """Checkpoints written meanwhile, counted from 1, meet a full disk when they are half written."""
    writers, write = [], tensors.Summed.write

    def full(self, data):
        if self not in writers:
            writers.append(self)
        if from_file <= len(writers) <= to_file and self.file.tell() > 10_000:
            raise FULL
        return write(self, data)

    with patch.context() as inner:
        inner.setattr(tensors.Summed, "write", full)
        yield


def test_with_a_full_disk_it_trains_on_and_says_so_each_time(images, uninterrupted, tmp_path, monkeypatch, capsys):
    with disk_full(monkeypatch, 2, 3):
        train(make_settings(), images, tmp_path)
    said = [line for line in capsys.readouterr().err.splitlines() if "could not be saved" in line]
    assert len(said) == 2
    for line, step in zip(said, (2, 3), strict=True):
        assert (
            f"step {step} could not be saved ([Errno 28] No space left on device), that of step 1 is kept" in line
        )
        assert "training continues" in line
    assert_same_end(uninterrupted, tmp_path)


def test_a_disk_full_at_the_end_loses_nothing(images, uninterrupted, tmp_path, monkeypatch):
    with (
        disk_full(monkeypatch, 7),
        pytest.raises(OSError, match=r"No space left.*same command again to resume from the last state"),
    ):
        train(make_settings(), images, tmp_path)  # 6 states, then the 7th file is the final checkpoint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state"]
    assert steps_kept(tmp_path / "state") == [6, 5]
    train(make_settings(), images, tmp_path)
    assert_same_end(uninterrupted, tmp_path)


def test_a_disk_that_does_not_keep_what_it_is_given_is_noticed(state, monkeypatch):
    write = tensors.Summed.write
    values = checkpoint.load(state / "checkpoint.pt", experiment=experiment(identified(make_settings())))

    def otherwise(self, data):
        write(self, data)
        self.file.seek(-1, os.SEEK_CUR)
        self.file.write(bytes([bytes(data)[-1] ^ 1]))

    monkeypatch.setattr(tensors.Summed, "write", otherwise)
    with pytest.raises(OSError, match="was not read back"):
        tensors.save(state / "checkpoint.pt", values, keep_previous=True)
    assert steps_kept(state) == [4, 3]
    assert not list(state.glob(".*.part"))


# Clocks


def test_a_clock_that_jumps_changes_nothing(images, tmp_path, monkeypatch):
    days, real, saves = itertools.cycle((86_400, -86_400)), time.time, []
    save = tensors.save
    monkeypatch.setattr(time, "time", lambda: real() + next(days))
    monkeypatch.setattr(tensors, "save", lambda path, *a, **k: (saves.append(path.name), save(path, *a, **k)))
    train(make_settings(checkpoint_seconds=3600.0), images, tmp_path)
    assert saves == ["checkpoint.pt", "backbone.pt"]  # none in between, and no lease was lost


# Other trainers of the run


@pytest.fixture
def short_lease(monkeypatch):
    monkeypatch.setattr(owner, "LEASE", 0.6)


@contextmanager
def held(folder):
    """A process that has a folder until the block ends, or until it is killed."""
    (begun, say), (end, ended) = os.pipe(), os.pipe()

    def hold():
        os.close(ended)
        with owner.own(folder):
            os.write(say, b"1")
            os.read(end, 1)

    child = FORK.Process(target=hold)
    child.start()
    os.close(end)
    assert os.read(begun, 1)
    try:
        yield child
    finally:
        os.close(ended)
        child.join(10)


@pytest.mark.usefixtures("short_lease")
def test_a_second_trainer_gives_way_to_one_that_lives(images, tmp_path, monkeypatch, capsys):
    days, real = itertools.cycle((86_400, -86_400)), time.time
    with held(tmp_path / "state") as child:
        monkeypatch.setattr(time, "time", lambda: real() + next(days))
        began = time.monotonic()
        with pytest.raises(owner.RunInUse, match=rf"process {child.pid} on .* is training this run"):
            train(make_settings(), images, tmp_path)
        assert time.monotonic() - began >= 1.2  # twice the lease
        assert f"process {child.pid} on" in capsys.readouterr().err
        assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["owner.lease", "owner.lock"]
    train(make_settings(steps=1), images, tmp_path)  # it has released its lease


def test_a_second_trainer_goes_on_when_the_first_has_ended(tmp_path, capsys):
    with held(tmp_path) as child:
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        with owner.own(tmp_path) as mine:
            mine.check()
        assert "waiting" not in capsys.readouterr().err
    assert not (tmp_path / "owner.lease").exists()


def test_a_run_that_another_trainer_ends_while_this_one_waits_is_left_as_it_is(
    images, uninterrupted, tmp_path, monkeypatch, capsys
):
    real = engine.own

    @contextmanager
    def own(folder):
        with real(folder) as mine:
            for name in (*OUTPUTS, "pretrain.json"):
                shutil.copy2(uninterrupted / name, tmp_path)
            yield mine

    monkeypatch.setattr(engine, "own", own)
    at_step(monkeypatch, 1, never)
    train(make_settings(), images, tmp_path)
    assert capsys.readouterr().err == "run: has ended already; nothing is left to do\n"
    assert (tmp_path / "pretrain.json").read_text() == (uninterrupted / "pretrain.json").read_text()


@pytest.mark.usefixtures("short_lease")
@pytest.mark.parametrize("lease", [b"", b"\0\0\0\0", b'00000\n{"host": "elsewhere", "pid": 1}\n'])
def test_a_lease_of_another_machine_is_taken_once_its_counter_stops(tmp_path, lease, capsys):
    (tmp_path / "owner.lease").write_bytes(lease)
    began = time.monotonic()
    with owner.own(tmp_path):
        assert not lease or time.monotonic() - began >= 0.6
    assert ("waiting" in capsys.readouterr().err) == bool(lease)


@pytest.mark.usefixtures("short_lease")
def test_an_orphan_that_wakes_up_stops_and_writes_nothing(images, uninterrupted, tmp_path, monkeypatch):
    """As after the loss of a node: frozen in the middle of a step, replaced, and awake again."""

    def orphan():
        at_step(monkeypatch, 3, lambda: os.kill(os.getpid(), signal.SIGSTOP))
        try:
            train(make_settings(), images, tmp_path)
        except owner.TakenOver as error:
            os._exit(owner.NOT_OWNER if "taken over and has ended since" in str(error) else 1)

    child = FORK.Process(target=orphan)
    child.start()
    os.waitid(os.P_PID, child.pid, os.WSTOPPED)
    train(make_settings(), images, tmp_path)
    assert_same_end(uninterrupted, tmp_path)
    paths = [path for path in tmp_path.rglob("*") if path.name not in ("owner.lock", "state")]
    before = {path: path.stat().st_mtime_ns for path in paths}
    os.kill(child.pid, signal.SIGCONT)
    child.join(30)
    assert child.exitcode == owner.NOT_OWNER
    assert_same_end(uninterrupted, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in paths} == before


def test_what_was_taken_over_is_not_renamed_into_place(tmp_path):
    with owner.own(tmp_path) as mine:
        tensors.save(tmp_path / "a.pt", {"by": "me"}, writing=mine.writing)
        lease = (tmp_path / "owner.lease").read_bytes()
        (tmp_path / "owner.lease").unlink()  # as by replacing: the holder's file is another one from now on
        (tmp_path / "owner.lease").write_bytes(lease.replace(mine.token.encode(), b"theirs"))
        with pytest.raises(owner.TakenOver, match="was taken over by process"):
            tensors.save(tmp_path / "a.pt", {"by": "the orphan"}, writing=mine.writing)
    assert torch.load(tmp_path / "a.pt", weights_only=True) == {"by": "me"}
    assert [path.name for path in tmp_path.glob("*.lease")] == ["owner.lease"]  # it is not ours to remove


@pytest.mark.usefixtures("short_lease")
def test_of_many_that_wait_for_a_dead_lease_one_gets_it_at_a_time(tmp_path):
    (tmp_path / "owner.lease").write_bytes(b'0\n{"host": "elsewhere", "pid": 1}\n')

    def enter():
        try:
            with owner.own(tmp_path) as mine:
                os.close(os.open(tmp_path / "inside", os.O_CREAT | os.O_EXCL))
                time.sleep(0.05)
                mine.check()
                (tmp_path / "inside").unlink()
                with open(tmp_path / "entered", "a") as file:
                    file.write("x")
        except owner.RunInUse:
            os._exit(0)

    children = [FORK.Process(target=enter) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(30)
    assert [child.exitcode for child in children] == [0] * 4
    assert (tmp_path / "entered").read_text()


# Losses without a value


@pytest.mark.parametrize("where", ["loss", "update"])
def test_a_batch_of_nan_ends_the_run_with_the_state_from_before(images, tmp_path, monkeypatch, where):
    real, steps = engine.step, []

    def step(method, *args):
        losses = real(method, *args)
        steps.append(1)
        if len(steps) == 4:
            with torch.no_grad():
                next(method.parameters()).fill_(torch.nan)
            if where == "loss":
                losses["loss"] = losses["loss"].detach() * torch.nan
        return losses

    monkeypatch.setattr(engine, "step", step)
    with pytest.raises(NonFiniteLoss, match=r"step 4: the .* not finite.*; lower lr.*keeps the last state"):
        train(make_settings(), images, tmp_path)
    assert steps_kept(tmp_path / "state") == [3, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state"]
    assert "step 4" in json.loads((tmp_path / "state" / "failed.json").read_text())["reason"]


def test_weights_that_end_without_a_value_are_no_result(images, tmp_path, monkeypatch):
    (tmp_path / "backbone.pt").write_text("of an attempt that was killed before its result was written")
    real = engine.step

    def step(method, *args):
        losses = real(method, *args)
        with torch.no_grad():
            next(method.parameters()).fill_(torch.inf)
        return losses

    with monkeypatch.context() as patch, pytest.raises(NonFiniteLoss, match="step 1: the weights"):
        patch.setattr(engine, "step", step)
        train(make_settings(steps=1), images, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state"]
    train(make_settings(steps=1), images, tmp_path)
    assert not (tmp_path / "state" / "failed.json").exists()
