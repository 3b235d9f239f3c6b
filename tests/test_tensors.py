"""Files of tensors: every reader of ours refuses what is not, byte for byte, what was written."""

from functools import partial

import pytest
import torch
from support.tiny_coco import write_backbone
from test_engine import make_settings
from test_preemption import tiny_store, train

from mlssl import tensors
from mlssl.checkpoints.load import load
from mlssl.errors import ConfigError, DataError
from mlssl.parts.backbone import create_backbone
from mlssl.pretrain.prepare import identified
from mlssl.pretrain.run import checkpoint
from mlssl.pretrain.trained import read_run
from mlssl.study.identity import experiment
from mlssl.transfer.load import load_backbone

EXPERIMENT = experiment(identified(make_settings()))
BACKBONE = make_settings().backbone


def initial(path):
    return load(create_backbone(BACKBONE), path).network.prefix


READERS = {
    "load_backbone": ("backbone.pt", load_backbone),
    "read_own": ("backbone.pt", partial(tensors.read_own, what="a file", keys={"meta"}, missing="-", broken="-")),
    "read_run": ("checkpoint.pt", read_run),
    "checkpoint.load": ("checkpoint.pt", partial(checkpoint.load, experiment=EXPERIMENT)),
    "init, backbone": ("backbone.pt", initial),
    "init, checkpoint": ("checkpoint.pt", initial),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run that has ended."""
    root = tmp_path_factory.mktemp("run")
    train(make_settings(), tiny_store(root / "data"), root / "out")
    return root / "out"


@pytest.fixture(params=READERS)
def reader(request, run, tmp_path):
    """One who reads a file, and a copy of it to be damaged."""
    name, read = READERS[request.param]
    path = tmp_path / name
    path.write_bytes((run / name).read_bytes())
    return read, path


def flip(content, place):
    return content[:place] + bytes([content[place] ^ 1]) + content[place:][1:]


def cut(content, place):
    return content[:place]


DAMAGES = {
    "first byte": partial(flip, place=0),
    "a weight": partial(flip, place=100_000),
    "end of the archive": partial(flip, place=-tensors.TRAILER - 5),
    "mark": partial(flip, place=-tensors.TRAILER + 3),
    "checksum": partial(flip, place=-40),
    "last byte": partial(flip, place=-1),
    "empty": partial(cut, place=0),
    "beginning": partial(cut, place=50),
    "half": partial(cut, place=100_000),
    "without checksum": partial(cut, place=-tensors.TRAILER),
    "half a checksum": partial(cut, place=-20),
    "without the last byte": partial(cut, place=-1),
}


def refused(read, path):
    with pytest.raises((ConfigError, DataError)) as error:
        read(path)
    said = str(error.value)
    assert said.removeprefix("init: ").startswith(f"{path}: "), said
    assert "\n" not in said


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused_by_every_reader(reader, damage):
    read, path = reader
    read(path)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    refused(read, path)


def test_a_file_of_ours_that_others_saved_again_is_refused_by_every_reader(reader):
    read, path = reader
    torch.save(torch.load(path, weights_only=True), path)
    refused(read, path)


def test_a_missing_file_is_named_by_every_reader(reader):
    read, path = reader
    path.unlink()
    with pytest.raises((ConfigError, FileNotFoundError)) as error:  # without a state a run simply begins
        read(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("prefix", ["", "module.encoder_q."])
@pytest.mark.parametrize("inside", [None, "state_dict", "model"])
def test_a_foreign_file_needs_no_checksum_to_start_from(tmp_path, prefix, inside):
    weights = create_backbone(BACKBONE).state_dict()
    content = {prefix + name: value for name, value in weights.items()} | {"fc.weight": torch.zeros(2, 3)}
    path = tmp_path / "foreign.pt"
    torch.save({inside: content, "meta": {"epoch": 3}} if inside else content, path)
    backbone = create_backbone(BACKBONE)
    assert load(backbone, path).network.prefix == prefix
    assert all(torch.equal(value, weights[name]) for name, value in backbone.state_dict().items())


def test_a_run_starts_from_files_of_ours(run):
    assert initial(run / "backbone.pt") == ""
    assert initial(run / "checkpoint.pt") == "encoders.query.backbone."


def test_a_backbone_is_no_state(tmp_path):
    path = write_backbone(tmp_path / "backbone.pt")
    experiment = torch.load(path, weights_only=True)["meta"]["experiment"]
    with pytest.raises(tensors.Damaged, match="is not a checkpoint of a pretraining"):
        checkpoint.load(path, experiment=experiment)


def test_other_readers_pass_over_the_checksum(tmp_path):
    tensors.save(tmp_path / "a.pt", {"a": torch.arange(5)})
    assert torch.load(tmp_path / "a.pt", weights_only=True)["a"].tolist() == [0, 1, 2, 3, 4]
    tensors.verify(tmp_path / "a.pt")
