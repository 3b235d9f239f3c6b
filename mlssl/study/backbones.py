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


@functools.cache
def models() -> frozenset[str]:
    """Every model that the installed timm registers."""
    spec = importlib.util.find_spec("timm")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("timm is not installed; pip install timm")
    files = (Path(spec.submodule_search_locations[0]) / "models").glob("*.py")
    registered = re.compile(r"^@register_model\s+def (\w+)\(", re.MULTILINE)
    return frozenset(name for file in files for name in registered.findall(file.read_text(encoding="utf-8")))


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
