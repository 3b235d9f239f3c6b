"""Public datasets, taken from a folder or fetched, brought into COCO's layout."""

from mlssl.data.public.catalogue import DATASETS
from mlssl.data.public.prepare import prepare

__all__ = ["DATASETS", "prepare"]
