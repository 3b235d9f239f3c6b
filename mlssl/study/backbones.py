"""The names of timm's models, read from its sources: a dry run imports neither timm nor torch."""

from __future__ import annotations

import difflib
import functools
import importlib.util
import re
from pathlib import Path

from mlssl.errors import ConfigError

COLOUR_HISTOGRAM = "colour_histogram"
"""The name of the backbone without weights (`parts/colour_histogram.py`)."""


TRANSFORMERS = ("vision_transformer", "deit")
"""timm's modules of the vision transformers that evaluators of frozen features read (`parts/backbone.py`)."""


@functools.cache
def models() -> dict[str, str]:
    """Every model that the installed timm registers, and the module of its class."""
    spec = importlib.util.find_spec("timm")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("timm is not installed; pip install timm")
    files = (Path(spec.submodule_search_locations[0]) / "models").glob("*.py")
    registered = re.compile(r"^@register_model\s+def (\w+)\(", re.MULTILINE)
    return {name: file.stem for file in files for name in registered.findall(file.read_text(encoding="utf-8"))}


def is_transformer(name: str) -> bool:
    """Whether it is a vision transformer, which evaluators of frozen features read and training does not."""
    return name != COLOUR_HISTOGRAM and models().get(name.split(".")[0]) in TRANSFORMERS


def patch(name: str) -> int:
    """Pixels of the side of a vision transformer's patches, which its name says; 1 of any other model."""
    found = re.search(r"patch(\d+)", name)
    return int(found[1]) if found and is_transformer(name) else 1


@functools.cache
def check_backbone(name: str, where: str) -> None:
    """Refuse a name that timm does not know; a tag of weights, as in `resnet50.a1_in1k`, does not count."""
    if name == COLOUR_HISTOGRAM:
        return
    plain = name.split(".")[0]
    if plain not in models():
        near = difflib.get_close_matches(plain, models(), 3)
        advice = f"did you mean {' or '.join(near)}?" if near else "`timm.list_models()` lists them"
        raise ConfigError(f"{where}: timm knows no model '{name}'; {advice}")
