"""A method with its own loss, and an evaluator of a backbone, in one file outside the package.

The method is Barlow Twins (Zbontar et al., ICML 2021, arXiv 2103.03230). In a study:

    methods:
      barlow_twins: {target: own_method.BarlowTwins, params: {dim: 512}}
    compare: [barlow_twins]

with this file in the directory where the command is called. The evaluator is RankMe (Garrido et al., ICML 2023,
arXiv 2210.02885); it needs no labels:

    python own_method.py results/demo/runs/RUN/backbone.pt scenes/val2017
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mlssl.export.embed import embed
from mlssl.parts.backbone import channels
from mlssl.parts.encoder import Encoder
from mlssl.parts.heads import mlp
from mlssl.parts.view import View
from mlssl.ranges import Count, Positive


def redundancy(z1: Tensor, z2: Tensor, off_diagonal: float) -> Tensor:
    """Eq. 1 of Barlow Twins: cross-correlation of two views' projections B x d against the identity."""
    z1, z2 = ((z - z.mean(dim=0)) / z.std(dim=0, correction=0).clamp_min(1e-6) for z in (z1, z2))
    c = z1.T @ z2 / len(z1)
    on = (1 - c.diagonal()).square().sum()
    return on + off_diagonal * (c.square().sum() - c.diagonal().square().sum())


class BarlowTwins(nn.Module):
    """Parameters are keyword-only; a study's values are checked against their types and ranges."""

    def __init__(self, backbone: nn.Module, *, dim: Count = 8192, off_diagonal: Positive = 0.005) -> None:
        super().__init__()
        head = mlp([channels(backbone), dim, dim, dim], bias=False, last_bias=False)
        self.encoders = nn.ModuleDict({"query": Encoder(backbone, head)})
        self.off_diagonal = off_diagonal

    def step(self, view1: View, view2: View, progress: float) -> dict[str, Tensor]:
        """`loss` is minimised; what else is returned is averaged into the log."""
        encoder = self.encoders["query"]
        z1, z2 = (encoder(view.pixels)[1].float() for view in (view1, view2))
        loss = redundancy(z1, z2, self.off_diagonal)
        return {"loss": loss, "redundancy": loss.detach()}


def effective_rank(features: np.ndarray) -> float:
    """RankMe, eq. 2: exp of the entropy of the singular values of features N x C; from 1 to min(N, C)."""
    singular = np.linalg.svd(features, compute_uv=False)
    p = singular / singular.sum() + 1e-7
    return float(np.exp(-(p * np.log(p)).sum()))


def evaluate(backbone: Path | str, images: Path | str, *, size: int = 128) -> float:
    """Effective rank of the backbone's features of all images below a folder, resized to size x size pixels."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "features.npz"
        embed(
            Path(backbone), Path(images), out, size=size, batch_size=64, device=torch.device("cpu"), progress=False
        )
        return effective_rank(np.load(out)["features"])


if __name__ == "__main__":
    print(f"effective rank: {evaluate(sys.argv[1], sys.argv[2]):.1f}")
