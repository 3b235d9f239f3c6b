"""Public datasets: download or read from a folder, and convert to COCO's layout."""
