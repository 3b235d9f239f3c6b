"""ORL: unsupervised object-level representation learning from scene images (Xie et al., NeurIPS 2021,
arXiv 2106.11952), its third stage.

The first stage is `baselines/byol.py` or another method on whole images; in the second, its network finds boxes of
different images that look alike (`mlssl pairs`). The third trains a new network on three pairs of views:

global  two crops of an image
intra   a box of the image, and the same box moved and resized
inter   a box of the image, and a box of a neighbour that looks like it
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from baselines.byol import regression
from mlssl.parts.backbone import channels
from mlssl.parts.embeddings import spread
from mlssl.parts.encoder import Encoder
from mlssl.parts.heads import mlp
from mlssl.parts.momentum import MomentumPair, ramp
from mlssl.parts.view import View
from mlssl.ranges import Count, Probability

LEVELS = ("global", "intra", "inter")


class ORL(nn.Module):
    """BYOL's loss of crops, of boxes within an image, and of boxes over images, each with a predictor of its own.

    Args:
        backbone: gives a B x d x h x w map.
        dim: of the projection.
        momentum: of the target network at the start; it rises to 1 (`parts.momentum.ramp`).
        hidden: width of the hidden layers of projector and predictors.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        dim: Count = 256,
        momentum: Probability = 0.99,
        hidden: Count = 4096,
    ) -> None:
        super().__init__()
        self.encoders = MomentumPair(Encoder(backbone, mlp([channels(backbone), hidden, dim], last_bias=False)))
        self.predictor = nn.ModuleList(mlp([dim, hidden, dim], last_bias=False) for _ in LEVELS)
        self.momentum = momentum
        self._last: Tensor | None = None

    def step(
        self, view1: View, view2: View, box: View, moved_box: View, pair: View, other: View, progress: float
    ) -> dict[str, Tensor]:
        """One training step's losses: `loss` with gradient, in [0, 24], its parts without.

        `other` is the box of the neighbour. The views' settings are those of `each_view`, in this order.
        """
        views = (view1, view2, box, moved_box, pair, other)
        z = [self.encoders.query(view.pixels)[1].float() for view in views]

        # With the weights that the last optimiser step left, as in BYOL.
        self.encoders.update(ramp(self.momentum, progress))
        with torch.no_grad():
            targets = [self.encoders.key(view.pixels)[1].float() for view in views]
        parts = {
            level: regression(predict(z[i]), predict(z[i + 1]), targets[i], targets[i + 1])
            for level, predict, i in zip(LEVELS, self.predictor, (0, 2, 4), strict=True)
        }
        loss = torch.stack([*parts.values()]).sum()

        self._last = z[0].detach()
        return {"loss": loss, **{level: part.detach() for level, part in parts.items()}}

    def diagnostics(self) -> dict[str, Tensor]:
        """`spread` of the last step's projections of view 1 (`parts.embeddings.spread`), for the log."""
        return {"spread": spread(self._last)} if self._last is not None else {}
