"""Randomness: every component draws from a generator of its own, spawned from one seed and a path."""

import hashlib

from torch import Generator


def seed_of(seed: int, path: str) -> int:
    """A 63-bit seed for the component at `path` (such as "rollout/3") of the run with this seed."""
    digest = hashlib.sha256(f"{seed}/{path}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, path: str) -> Generator:
    """A CPU generator for the component at `path`; the same numbers on every machine."""
    return Generator().manual_seed(seed_of(seed, path))
