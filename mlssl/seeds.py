"""Random seeds, hashed from what they are used for.

What all methods share (initial backbone, data order, view parameters) has a seed that does not depend on the
method. No seed depends on the number of random numbers drawn before.
"""

from __future__ import annotations

import hashlib


def seed_of(*axes: str | int) -> int:
    """A seed in [0, 2^63) for one use in the experiment, for example `seed_of(run_seed, "views", step)`."""
    text = "\x1f".join(map(str, axes))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
