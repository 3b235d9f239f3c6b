"""Procedural scene images with several labelled objects each, written as a COCO folder."""

from mlssl.scenes.write import write_scenes

__all__ = ["write_scenes"]
