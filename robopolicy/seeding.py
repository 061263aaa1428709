"""Randomness as a pure function of names and numbers.

Every random stream is ``numpy.random.Generator(PCG64(SeedSequence([...])))`` of the words that describe it, so an
episode, an epoch's order or a noise sample never depends on what ran before it.
"""

from __future__ import annotations

import hashlib

import numpy as np

__all__ = ["SPLITS", "generator", "seed_words"]

SPLITS = ("train", "val", "test")
"""Names of the disjoint index spaces of episodes."""


def seed_words(*parts: int | str) -> list[int]:
    """Each part as a 32-bit word list for ``SeedSequence``; strings go through SHA-256, so order and spelling count."""
    words: list[int] = []
    for part in parts:
        if isinstance(part, str):
            digest = hashlib.sha256(part.encode()).digest()
            words.extend(int.from_bytes(digest[i : i + 4], "little") for i in (0, 4))
        else:
            if part < 0:
                raise ValueError(f"seed parts must be non-negative, given: {part}")
            words.extend([part & 0xFFFFFFFF, part >> 32])
    return words


def generator(*parts: int | str) -> np.random.Generator:
    """A generator that depends on ``parts`` and nothing else."""
    return np.random.default_rng(np.random.SeedSequence(seed_words(*parts)))
