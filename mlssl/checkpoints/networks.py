"""The networks in a checkpoint that may be the backbone, and which of them is meant.

A file of a momentum method holds two networks of one architecture. Papers evaluate the one that was trained by the
gradient (query, online, base encoder), DINO alone the teacher.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mlssl.checkpoints.names import in_roi_heads, translations
from mlssl.checkpoints.read import containers, unwrapped_name

MOMENTUM = {"momentum", "key", "k", "target", "ema", "m", "loss"}
"""Words in the name of a copy that follows the trained network; `loss`: VISSL keeps MoCo's copy there."""
QUERY = {"query", "q", "online"}
RANKS = {
    "query": "the query (online) network, which papers evaluate",
    "plain": "the only network that is no copy of another",
    "teacher": "the teacher, which DINO evaluates",
    "student": "the student",
    "momentum": "a momentum copy; the file has no other network that fits",
}
"""Role of a network -> why it is chosen; those that come first are preferred."""


@dataclass(frozen=True)
class Network:
    """Tensors in a file that are named like the backbone's."""

    container: str
    """The keys that lead to its dict, with dots: `state_dict`."""
    prefix: str
    """The start of its tensors' names in that dict: `module.encoder_q.`."""
    tensors: Mapping[str, Tensor]
    """By the backbone's names: those that are there with the backbone's shape."""
    wrong: Sequence[str]
    """The others, each with the reason."""

    @property
    def name(self) -> str:
        """Container and prefix: `state_dict.module.encoder_q.`; empty for names without any."""
        return f"{self.container}.{self.prefix}" if self.container else self.prefix

    @property
    def role(self) -> str:
        """A key of RANKS, read from the words of the name."""
        segments = self.name.lower().split(".")
        words = {word for segment in segments for word in segment.split("_")}
        for role in ("teacher", "student"):
            if role in words:
                return role
        if words & MOMENTUM:
            return "momentum"
        return "query" if words & QUERY or "base_encoder" in segments else "plain"


def shown(name: str) -> str:
    return name or "names without prefix"


def needed(backbone: torch.nn.Module) -> dict[str, Tensor]:
    """The tensors that a file must have; some lack the batch counters, and no forward pass reads them."""
    return {k: v for k, v in backbone.state_dict().items() if not k.endswith("num_batches_tracked")}


def networks(content: dict[Any, Any], wanted: Mapping[str, Tensor]) -> list[Network]:
    """The networks in a file's content that have tensors named like `wanted`: the fullest first, then by place.

    Left out are those with less than a tenth of the names, or less than half as many tensors as the fullest.
    """
    schemes = translations(list(wanted))
    under: dict[tuple[str, str], Network] = {}
    for container, values in containers(content).items():
        for names in schemes.values():
            for prefix, count in _prefixes(values, names).items():
                if 10 * count >= len(wanted):
                    network = _network(container, prefix, values, names, wanted)
                    other = under.setdefault((container, prefix), network)
                    if len(network.tensors) > len(other.tensors):
                        under[container, prefix] = network
    found = sorted(under.values(), key=lambda network: -len(network.tensors))
    return [network for network in found if 2 * len(network.tensors) >= len(found[0].tensors)]


def _prefixes(values: Mapping[str, Tensor], names: Mapping[str, str]) -> Counter[str]:
    """Every prefix under which tensors have one of `names`, with their number."""
    found: Counter[str] = Counter()
    for name in values:
        start = 0
        while start >= 0:
            if name[start:] in names:
                found[name[:start]] += 1
            start = name.find(".", start) + 1 or -1
    return found


def _network(
    container: str,
    prefix: str,
    values: Mapping[str, Tensor],
    names: Mapping[str, str],
    wanted: Mapping[str, Tensor],
) -> Network:
    tensors, wrong = {}, []
    for theirs, name in names.items():
        value = values.get(prefix + theirs)
        if value is None and (elsewhere := in_roi_heads(prefix + theirs)):
            value = values.get(elsewhere)
        if value is None:
            wrong.append(f"{name} (missing)")
        elif value.shape != wanted[name].shape:
            wrong.append(f"{name} ({_size(value)} instead of {_size(wanted[name])})")
        elif not value.is_floating_point():
            wrong.append(f"{name} (of type {value.dtype})")
        else:
            tensors[name] = value
    return Network(container, prefix, tensors, wrong)


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"


class Unclear(Exception):
    """No network, or several, are meant; the text says which there are."""


def choose(found: Sequence[Network], prefix: str | None = None) -> tuple[Network, str]:
    """The network that is meant, and why in one sentence without a full stop.

    `prefix` chooses by hand, by `Network.name` or `Network.prefix`, with or without the last dot. Otherwise the
    first role of RANKS wins among the networks that are complete; if none is, the fullest network is returned, of
    equally full ones that of the first role.
    Raises Unclear for a prefix that no network has, and for several different networks of the same role.
    """
    candidates = list(found)
    if prefix is not None:
        named = [n for n in found if _same(n.name, prefix)]
        candidates = named or [n for n in found if _same(n.prefix, prefix)]
        if not candidates:
            have = ", ".join(shown(n.name) for n in found)
            raise Unclear(f"has no network under '{prefix}'" + (f"; it has {have}" if have else ""))
    candidates.sort(key=lambda n: list(RANKS).index(n.role))
    complete = [n for n in candidates if not n.wrong]
    if not complete:
        return max(candidates, key=lambda n: len(n.tensors)), "the fullest"
    best = complete[0].role
    first, *more = [n for n in complete if n.role == best]
    if different := [n for n in more if not _equal(n, first)]:
        have = ", ".join(shown(n.name) for n in (first, *different))
        raise Unclear(f"has {1 + len(different)} different networks that fit ({have})")
    why = "chosen by hand" if prefix is not None else RANKS[best]
    if prefix is None and len(complete) == 1 and best != "momentum":
        why = "the only network that fits"
    rest = [n for n in found if not n.wrong and n is not first]
    unused = ", ".join(f"{shown(n.name)} ({'the same weights' if _equal(n, first) else n.role})" for n in rest)
    return first, why + (f"; not used: {unused}" if unused else "")


def _same(name: str, given: str) -> bool:
    return name.rstrip(".") == unwrapped_name(given.rstrip(".") + ".").rstrip(".")


def _equal(one: Network, other: Network) -> bool:
    return all(
        value.dtype == other.tensors[name].dtype and torch.equal(value, other.tensors[name])
        for name, value in one.tensors.items()
    )
