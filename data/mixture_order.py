"""Which store each sample comes from and which of its windows it is: a pure function of (seed, step).

Positions of the endless sequence of samples are grouped in blocks of :data:`BLOCK`. A block holds every store as often
as its share says (largest remainders), evenly interleaved, so that every batch mixes the stores in their shares. The
j-th sample of a store in the whole run is the j-th of its own epochs laid end to end; each is a permutation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from robopolicy.errors import DataError, explain
from robopolicy.seeding import generator

__all__ = ["BLOCK", "mixture_indices", "shares"]

BLOCK = 1 << 16
"""Shares are exact to one part in this."""


def shares(
    sizes: Sequence[int], weights: Sequence[float] | None = None, temperature: float = 1.0
) -> NDArray[np.float64]:
    """Probability of each store: ``weights``, or ``sizes ** (1 / temperature)``, made to sum to one. -> f64 [M]."""
    raw = np.array(weights, float) if weights is not None else np.array(sizes, float) ** (1.0 / temperature)
    if raw.shape != (len(sizes),) or not (np.isfinite(raw).all() and (raw > 0).all()):
        raise DataError(
            explain("shares need a positive number for every store", given=raw.tolist(), allowed=len(sizes))
        )
    return raw / raw.sum()


def mixture_indices(
    sizes: Sequence[int],
    probabilities: NDArray[np.float64],
    seed: int,
    first_step: int,
    steps: int,
    batch_size: int,
) -> NDArray[np.int64]:
    """Sample indices of consecutive optimiser steps; those of store m begin at ``sum(sizes[:m])``.

    Args:
        sizes: Windows of each store.
        probabilities: f64 [M], see :func:`shares`.
        seed: Of the run.
        first_step: Steps already taken.
        steps: How many rows are wanted.
        batch_size: Global batch, over all processes and micro-batches.

    Returns:
        int64 [steps, batch_size].

    Raises:
        DataError: a store without windows.
    """
    if min(sizes) < 1:
        raise DataError(explain("a store of the mixture has no training windows", given=list(sizes)))
    counts = _counts(probabilities)
    begin, end = first_step * batch_size, (first_step + steps) * batch_size
    blocks = range(begin // BLOCK, -(-end // BLOCK))
    labels = np.concatenate([_block(counts, seed, b) for b in blocks])
    offsets = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    out = np.empty(len(labels), np.int64)
    for store, size in enumerate(sizes):
        at = np.flatnonzero(labels == store)
        if len(at):
            drawn = int(counts[store]) * blocks.start + np.arange(len(at))
            out[at] = offsets[store] + _windows(size, seed, store, drawn)
    cut = begin - blocks.start * BLOCK
    return out[cut : cut + end - begin].reshape(steps, batch_size)


def _counts(probabilities: NDArray[np.float64]) -> NDArray[np.int64]:
    """How often each store stands in a block: largest remainders, and no store is forgotten. -> int64 [M]."""
    exact = np.asarray(probabilities, float) * BLOCK
    counts = np.maximum(np.floor(exact).astype(np.int64), 1)
    order = np.argsort(-(exact - counts), kind="stable")
    for i in range(int(BLOCK - counts.sum())):
        counts[order[i % len(order)]] += 1
    while counts.sum() > BLOCK:
        counts[np.argmax(counts)] -= 1
    return counts


def _block(counts: NDArray[np.int64], seed: int, block: int) -> NDArray[np.int64]:
    """Labels of one block: item j of a store lies at (j + u) / count, u drawn per item, so gaps stay even. [BLOCK]."""
    rng = generator("mixture", seed, block)
    keys = np.concatenate([(np.arange(n) + rng.uniform(size=n)) / n for n in counts])
    return np.repeat(np.arange(len(counts)), counts)[np.argsort(keys, kind="stable")]


def _windows(size: int, seed: int, store: int, drawn: NDArray[np.int64]) -> NDArray[np.int64]:
    """Windows of a store for its consecutive draws ``drawn`` [n]."""
    first, last = int(drawn[0]) // size, int(drawn[-1]) // size
    epochs = [generator("mixture-order", seed, store, e).permutation(size) for e in range(first, last + 1)]
    return np.concatenate(epochs)[drawn - first * size]
