"""Explicit random seeds: each step's seed derives from the experiment's seed and its name."""

import hashlib


def derive_seed(seed: int, *names: str | int) -> int:
    """Derive an independent seed for a named step.

    Returns:
        An integer in [0, 2**63), the same for the same arguments on every machine.
    """
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
