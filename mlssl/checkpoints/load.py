"""Load a backbone from mlssl's own files or a published checkpoint: all of its tensors, or none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mlssl.checkpoints.networks import Network, Unclear, choose, needed, networks, shown
from mlssl.checkpoints.read import containers, listed, read, written_by_mlssl
from mlssl.errors import ConfigError


@dataclass(frozen=True)
class Loaded:
    """What a backbone was loaded from."""

    network: Network
    why: str
    """Why this network of the file."""
    own: Mapping[str, Any] | None = None
    """What mlssl wrote about the run beside the weights; None in a file of another project."""

    def __str__(self) -> str:
        kinds = ", ".join(sorted({str(v.dtype).removeprefix("torch.") for v in self.network.tensors.values()}))
        return f"{shown(self.network.name)} ({len(self.network.tensors)} tensors, {kinds}): {self.why}"


def load(
    backbone: nn.Module,
    path: Path,
    prefix: str | None = None,
    *,
    where: str = "init",
    prefix_setting: str = "init_prefix",
) -> Loaded:
    """Load every tensor of `backbone`, except batch counters, from a file, and return which network it was.

    `prefix` chooses a network by hand (see `choose`). `where` and `prefix_setting` are the settings, or options,
    that give `path` and `prefix`; errors name them. 16-bit weights become those of the backbone's type.
    Raises ConfigError, and leaves the backbone unchanged, for a file that cannot be read, that has no network with
    all tensors of the backbone or several that may be meant, or whose weights are not finite.
    """
    content, wanted = read(path, where), needed(backbone)
    if not wanted:
        raise ConfigError(f"{where}: {path}: the backbone has no weights to load; leave {where} out")
    found = networks(content, wanted)
    try:
        if not found:
            raise Unclear(
                f"has no network with names like the backbone's ({next(iter(wanted))}, …){_inside(content)}"
            )
        network, why = choose(found, prefix)
    except Unclear as error:
        remedy = f"set {prefix_setting} to one of them" if found else "give weights of the study's backbone"
        raise ConfigError(f"{where}: {path}: {error}; {remedy}") from None
    if network.wrong:
        raise ConfigError(f"{where}: {path}: {_partial(network, content, wanted, prefix_setting)}")
    for name, value in network.tensors.items():
        if not value.float().isfinite().all():
            raise ConfigError(
                f"{where}: {path}: {network.name}{name} is not finite; give the file before it diverged"
            )
    backbone.load_state_dict(network.tensors, strict=False)
    return Loaded(network, why, content["meta"] if written_by_mlssl(content) else None)


def _inside(content: dict[Any, Any]) -> str:
    """The top-level keys of a file, and the first names of its largest dict of tensors."""
    largest = max(containers(content).values(), key=len, default={})
    names = f"; its tensors are named {', '.join(list(largest)[:3])}, …" if largest else "; it holds no tensors"
    return names if content.keys() == largest.keys() else listed(content) + names


def _partial(network: Network, content: dict[Any, Any], wanted: dict[str, Tensor], prefix_setting: str) -> str:
    """Why a network is not loaded, and what to do."""
    first = ", ".join(network.wrong[:3]) + (f" and {len(network.wrong) - 3} more" if len(network.wrong) > 3 else "")
    return (
        f"has {len(network.tensors)} of the backbone's {len(wanted)} tensors under {shown(network.name)}; "
        f"not: {first}{_variant(network, content, wanted)}{listed(content)}; set backbone to the model that these "
        f"weights are of, or {prefix_setting} to another network"
    )


def _variant(network: Network, content: dict[Any, Any], wanted: dict[str, Tensor]) -> str:
    """The kind of ResNet in the file, where its names show that it is another than the backbone's."""
    values, prefix = containers(content)[network.container], network.prefix
    deep = any(f"{prefix}{stem}.0.weight" in values for stem in ("conv1", "stem"))
    pooled = any(
        name.startswith(prefix) and name.endswith(".downsample.2.weight") and f"{name[:-8]}1.weight" in values
        for name in values
    )
    ours = "conv1.0.weight" in wanted, any(".downsample.2.weight" in name for name in wanted)
    if (deep, pooled) == ours:
        return ""
    kinds = {(False, False): "a plain ResNet", (True, False): "a ResNet-C", (True, True): "a ResNet-D"}
    kind = kinds.get((deep, pooled))
    known = f"{prefix}layer1.0.conv1.weight" in values
    return f" (the file's names are those of {kind}, as timm's {_NAMES[kind]})" if kind and known else ""


_NAMES = {"a plain ResNet": "resnet50", "a ResNet-C": "resnet50c", "a ResNet-D": "resnet50d"}
