"""Each thing that `ghost` counts, once; prints JSON for `test_cuda_traces`."""

import json

import torch
from ghost import ghost_cuda

if __name__ == "__main__":
    with ghost_cuda() as mode:
        x = torch.empty(1000, device="cuda")
        peak = mode.trace.peak
        mode.begin()
        x.add_(1)
        launches = sum(mode.trace.launches.values())
        torch.zeros(3).pin_memory().to("cuda", non_blocking=True)
        uploads, waits = mode.trace.uploads, dict(mode.trace.waits)
        assert not waits, waits
        for work in (x[0].item, (x > 0).nonzero, lambda: x[x > 0], x.cpu, lambda: torch.zeros(3).to("cuda")):
            work()
        kinds = sorted({at.split(": ")[1] for at in mode.trace.waits})
        try:
            x + torch.zeros(1000)
            mixed = False
        except RuntimeError:
            mixed = True
    print(json.dumps({"waits": kinds, "mixed": mixed, "peak": peak, "launches": launches, "uploads": uploads}))
