"""What keeps tests alike on every machine."""

import pytest
import torch

# Tiny tensors on several threads wait more than they compute.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def float32_unless_asked(monkeypatch):
    """A CPU with AMX tiles would take bfloat16 by itself; tests compare in float32 and ask for bf16 by name."""
    for module in ("pretrain.build", "transfer.load", "transfer.features"):
        monkeypatch.setattr(f"mlssl.{module}.gains_from_bf16", lambda device: False)
