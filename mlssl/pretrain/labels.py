"""Image labels for supervised training, in the order of the image store."""

from __future__ import annotations

import torch
from torch import Tensor

from mlssl.data.coco import read_split
from mlssl.data.store import ImageStore
from mlssl.errors import DataError
from mlssl.study.settings import Data


def image_labels(store: ImageStore, data: Data) -> Tensor:
    """bool N x C: which categories (in the order of their ids) each image of the store shows, without crowds.

    Raises DataError for an image of the store that the annotations do not have.
    """
    split = read_split(data.root, data.train)
    labels = torch.from_numpy(split.labels())
    row = {image["file_name"]: i for i, image in enumerate(split.images)}
    for name in store.names:
        if name not in row:
            raise DataError(
                f"{split.annotation_file}: no image has file_name '{name}', which is in {store.path}; "
                "supervised training needs annotations of all training images"
            )
    return labels[[row[name] for name in store.names]]
