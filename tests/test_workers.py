"""Processes that read images for a GPU: their number, their shared memory, and what they hold."""

import os
import pickle
import warnings
from collections import namedtuple
from functools import partial

import numpy as np
import pytest
import torch
from support.tiny_coco import write_coco

from mlssl.data.coco import read_split
from mlssl.data.shared_records import SharedRecords
from mlssl.transfer import workers
from mlssl.transfer.detection.examples import as_lists, trainable, training_example
from mlssl.transfer.load import batches


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    return read_split(write_coco(tmp_path_factory.mktemp("data") / "coco", size=16), "train2017")


@pytest.mark.parametrize(
    ("threads", "cores", "jobs", "number"), [(16, 16, 1, 8), (1, 16, 1, 1), (16, 16, 4, 4), (4, 2, 4, 1)]
)
def test_workers_are_as_many_as_threads_and_the_share_of_the_cores(threads, cores, jobs, number):
    assert workers.wished(threads, cores, jobs) == number


def machine(monkeypatch, free):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(workers, "SHARED_MEMORY", workers.Path("/"))
    monkeypatch.setattr(workers.shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(free))


EXAMPLE = torch.zeros(3, 1000, 100, dtype=torch.uint8), {"masks": np.zeros((2, 1000, 100), np.uint8), "name": "x"}
"""500 kB; a worker with batches of 2 needs 6 MB."""


@pytest.mark.parametrize(
    ("free", "number", "said"),
    [
        (10**9, 4, ""),
        (13 * 10**6, 2, "2 of them read the images instead"),
        (10**6, 0, "/ has 1 MB free, and 4 processes that read images need 24 MB; the training process reads"),
    ],
)
def test_a_small_shared_memory_has_fewer_workers_and_one_sentence(monkeypatch, capsys, free, number, said):
    machine(monkeypatch, free)
    assert workers.size_of(EXAMPLE) == 500_000
    assert workers.count(EXAMPLE, 2) == number
    errors = capsys.readouterr().err
    assert said in errors
    assert errors.count("\n") == bool(said)


def test_shared_records_are_those_of_the_mapping_and_their_file_goes_with_them():
    records = {7: ["a"], -3: [], 2**40: [{"b": 1.5}]}
    shared = SharedRecords(records)
    copy = pickle.loads(pickle.dumps(shared))
    assert dict(copy) == dict(shared) == records
    assert len(copy) == 3
    for missing in (0, 2**41):
        with pytest.raises(KeyError):
            copy[missing]
    path = copy._path
    del copy
    assert path.exists()
    del shared
    assert not path.exists()
    assert dict(SharedRecords({})) == {}


def test_a_split_is_sent_to_workers_without_its_annotations(split):
    sent = pickle.dumps(split)
    assert len(sent) < len(pickle.dumps(split.annotations))
    there = pickle.loads(sent)
    assert dict(there.annotations) == split.annotations
    assert there.annotations._path == pickle.loads(pickle.dumps(split)).annotations._path  # one file for all
    assert isinstance(split.annotations, dict)
    for i in range(len(split)):
        assert np.array_equal(there.instances(i).boxes, split.instances(i).boxes)


@pytest.mark.slow
def test_workers_read_what_this_process_would(split, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    read = partial(training_example, split, trainable(split), 0)
    with warnings.catch_warnings():  # this machine may have no GPU to pin memory for
        warnings.filterwarnings("ignore", message=".*pin_memory.*")
        by_workers = batches(read, range(6), 2, torch.device("cuda"), as_lists)
        found = list(by_workers)
    assert by_workers.num_workers > 0
    assert by_workers.multiprocessing_context.get_start_method() == "forkserver"
    expected = list(batches(read, range(6), 2, torch.device("cpu"), as_lists))
    for (images, targets), (own_images, own_targets) in zip(found, expected, strict=True):
        assert all(torch.equal(x, y) and x.dtype == torch.uint8 for x, y in zip(images, own_images, strict=True))
        for target, own in zip(targets, own_targets, strict=True):
            assert all(torch.equal(target[name], own[name]) for name in own)
