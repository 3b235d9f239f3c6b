"""Import your own photos as a dataset in COCO's layout: labels, near-duplicates, privacy. Imports no torch."""

from mlssl.photos.importing import import_photos

__all__ = ["import_photos"]
