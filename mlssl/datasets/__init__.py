"""Public datasets, taken from a folder or fetched, brought into COCO's layout."""
