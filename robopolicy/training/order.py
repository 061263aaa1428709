"""The order of training samples as a pure function of (seed, epoch); nothing to save, nothing to restore.

Epochs are laid end to end in one endless sequence, and step k takes positions ``k * B .. (k + 1) * B``. Resuming in the
middle of an epoch is then the same as never having stopped, for any number of processes.

Frames that are read from the disk at every use are better read together. Given the blocks that samples lie in (one
per shard), their order is shuffled, and samples are shuffled within a buffer of a few blocks that follow each other::

    blocks of the data   0 1 2 3 4 5 6 7 ...
    shuffled             5 2 7 0 | 3 6 1 4 | ...        four blocks to a buffer
    samples              all of 5 2 7 0 in random order, then all of 3 6 1 4 ...

Only the buffers that a piece of the order touches are laid out, so a piece costs the same wherever it lies.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from robopolicy.errors import DataError, explain
from robopolicy.seeding import generator

__all__ = ["BUFFER_BLOCKS", "BlockedOrder", "Order", "blocked_order", "epoch_order", "step_indices"]

BUFFER_BLOCKS = 16
"""Blocks that are mixed: with shards of 256 frames some 4,000 samples, many batches."""


class Order(Protocol):
    """Sample indices of consecutive optimiser steps, a pure function of its arguments."""

    def __call__(self, seed: int, first_step: int, steps: int, batch_size: int, /) -> NDArray[np.int64]:
        """-> int64 [steps, batch_size], see :func:`step_indices`."""
        ...


def epoch_order(n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """A permutation of ``range(n)``. -> int64 [n]."""
    return generator("order", seed, epoch).permutation(n).astype(np.int64)


def blocked_order(
    n: int,
    blocks: NDArray[np.int64],
    seed: int,
    epoch: int,
    first: int = 0,
    last: int | None = None,
    buffer_blocks: int = BUFFER_BLOCKS,
) -> NDArray[np.int64]:
    """Positions ``first .. last`` of a permutation of ``range(n)`` that stays local. -> int64 [last - first].

    Args:
        n: Samples.
        blocks: int64 [K] first sample of each block, rising, the first of them 0.
        seed, epoch: See the module.
        first, last: Piece that is wanted; all of it by default.
        buffer_blocks: Blocks that are mixed with each other.

    Raises:
        DataError: blocks that do not divide ``range(n)``.
    """
    last = n if last is None else last
    blocks = np.asarray(blocks, np.int64)
    if not len(blocks) or blocks[0] != 0 or blocks[-1] >= n or (np.diff(blocks) <= 0).any():
        raise DataError(explain("blocks do not divide the samples", given=blocks, allowed=f"rising from 0, below {n}"))
    sizes = np.diff(blocks, append=n)
    order = generator("order of blocks", seed, epoch).permutation(len(blocks))
    ends = np.cumsum(sizes[order])[buffer_blocks - 1 :: buffer_blocks]
    if not len(ends) or ends[-1] != n:
        ends = np.append(ends, n)
    begin, stop = int(np.searchsorted(ends, first, side="right")), int(np.searchsorted(ends, last, side="left"))
    parts = [np.empty(0, np.int64)]
    for number in range(begin, min(stop + 1, len(ends)) if last > first else begin):
        chosen = order[number * buffer_blocks : (number + 1) * buffer_blocks]
        samples = np.concatenate([np.arange(blocks[b], blocks[b] + sizes[b]) for b in chosen])
        parts.append(generator("order in buffer", seed, epoch, number).permutation(samples))
    laid = np.concatenate(parts)
    at = first - (int(ends[begin - 1]) if begin else 0)
    return laid[at : at + last - first]


def step_indices(
    n: int, seed: int, first_step: int, steps: int, batch_size: int, blocks: NDArray[np.int64] | None = None
) -> NDArray[np.int64]:
    """Sample indices of ``steps`` consecutive optimiser steps. -> int64 [steps, batch_size].

    Args:
        n: Samples in the data.
        seed: Of the run.
        first_step: Steps already taken.
        steps: How many rows are wanted.
        batch_size: Global batch, over all processes and micro-batches.
        blocks: Shuffle locally, see :func:`blocked_order`; None shuffles whole epochs.

    Raises:
        DataError: no samples, or blocks that do not divide them.
    """
    if n < 1:
        raise DataError(explain("no training samples", mend="collect at least one episode more"))
    begin, end = first_step * batch_size, (first_step + steps) * batch_size
    pieces = [(e, max(begin - e * n, 0), min(end - e * n, n)) for e in range(begin // n, -(-end // n))]
    if blocks is None:
        laid = [epoch_order(n, seed, e)[first:last] for e, first, last in pieces]
    else:
        laid = [blocked_order(n, blocks, seed, e, first, last) for e, first, last in pieces]
    return np.concatenate(laid).reshape(steps, batch_size)


class BlockedOrder:
    """An :class:`Order` for frames that are read from the disk at every use."""

    def __init__(self, n: int, blocks: NDArray[np.int64]):
        """Arguments as of :func:`step_indices`."""
        self.n, self.blocks = n, blocks

    def __call__(self, seed: int, first_step: int, steps: int, batch_size: int, /) -> NDArray[np.int64]:
        """-> int64 [steps, batch_size]."""
        return step_indices(self.n, seed, first_step, steps, batch_size, self.blocks)
