"""What every test gets: one thread, float32, and a finished study that is made once per session."""

import pytest
import torch
from support.finished import finished_study

# Tiny tensors on several threads wait more than they compute.
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def one_thread():
    """One thread whatever a test before has set, so that sums keep their order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def float32_unless_asked(monkeypatch):
    """A CPU with AMX tiles would take bfloat16 by itself; tests compare in float32 and ask for bf16 by name."""
    for module in ("runtime.precision", "transfer.load", "transfer.features"):
        monkeypatch.setattr(f"mlssl.{module}.gains_from_bf16", lambda device: False)


@pytest.fixture(scope="session")
def finished(tmp_path_factory, worker_id):
    """The folder of a finished tiny study, the same for all processes of pytest-xdist; not to be written in."""
    base = tmp_path_factory.getbasetemp()
    return finished_study((base if worker_id == "master" else base.parent) / "finished")
