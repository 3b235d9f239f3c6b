"""Random seeds, hashed from the axes they belong to.

What must be shared between methods (initial backbone, data order, view parameters) has a seed that does not
know the method; nothing depends on how many random numbers something else has drawn before.
"""

from __future__ import annotations

import hashlib


def seed_of(*axes: str | int) -> int:
    """A seed in [0, 2^63) for a place in the experiment, for example `seed_of(run_seed, "views", step)`."""
    text = "\x1f".join(map(str, axes))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
