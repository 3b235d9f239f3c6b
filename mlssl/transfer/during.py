"""A score of a backbone while it is pretrained: nearest neighbours among training images.

For a look at a run that goes wrong, not for a table: the images are few, and the reported split is never read.
"""

from __future__ import annotations

from dataclasses import asdict

import torch
from torch import Tensor, nn

from mlssl.data.coco import read_split
from mlssl.errors import DataError
from mlssl.parts.backbone import create_backbone, image_features
from mlssl.seeds import seed_of
from mlssl.study.settings import Knn, Pretrain
from mlssl.transfer.knn import vote
from mlssl.transfer.linear import hold_out
from mlssl.transfer.load import autocast, image_tensor, normalise, private_rng, random_order, resize
from mlssl.transfer.metrics import mean_average_precision, scorable

IMAGES = 1000
"""Most training images that are read; a fifth of them are the queries, whose neighbours are the others."""
NEIGHBOURS = 20
"""Images that vote; all, if there are fewer."""
BATCH = 64
"""Images per forward pass."""


class Neighbours:
    """Scores backbones on the same training images, drawn by the seed 0, whatever the seed of the run.

    Images are resized to the side of a view. They stay in memory, 3 x side x side bytes each. The network that is
    scored is a copy in evaluation mode, so weights, batch-norm statistics and memory layout of the one that is
    trained do not change; no random number is drawn from a global generator.

    Raises DataError if no category can be scored on the queries, or the annotations lack an image.
    """

    def __init__(self, config: Pretrain, device: torch.device) -> None:
        self.device, self.temperature = device, Knn(data=config.data).temperature
        split = read_split(config.data.root, config.data.train)
        chosen = random_order(len(split), seed_of(0, "during", "images"))[:IMAGES]
        if len(chosen) < 4:
            raise DataError(
                f"knn_every: {split.folder} has {len(split)} images; give at least 4, or set it to null"
            )
        keys, queries = hold_out(torch.arange(len(chosen)), Knn(data=config.data).selection)
        self.keys, self.queries = keys, queries
        self.labels = torch.from_numpy(split.labels())[chosen].to(device)
        if not scorable(self.labels[queries]).any():
            raise DataError(
                f"knn_every: {split.annotation_file}: no category is on some and missing on others of the "
                f"{len(queries)} training images that are scored; annotate more images, or set knn_every to null"
            )
        self.images = torch.stack([resize(image_tensor(split, int(i)), config.views.crop) for i in chosen])
        preprocessing = asdict(config.init_preprocessing) if config.init_preprocessing else None
        with private_rng(device):
            self.copy = create_backbone(config.backbone, preprocessing=preprocessing)
        self.copy.eval().requires_grad_(False).to(device)

    def __call__(self, backbone: nn.Module) -> float:
        """mAP in percent of a backbone of the run. Raises FloatingPointError for features that are not finite."""
        self.copy.load_state_dict(backbone.state_dict())
        x = torch.cat([self._features(part) for part in self.images.split(BATCH)])
        if not x.isfinite().all():
            raise FloatingPointError("knn_every: the backbone gives features that are not finite")
        keys, queries = self.keys.to(x.device), self.queries.to(x.device)
        (scores,) = vote(x[queries], x[keys], self.labels[keys], [NEIGHBOURS], self.temperature)
        return mean_average_precision(scores, self.labels[queries])[0]

    def _features(self, pixels: Tensor) -> Tensor:
        with torch.no_grad(), autocast(self.device):
            return image_features(self.copy, normalise(pixels.to(self.device))).float()
