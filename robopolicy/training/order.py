"""The order of training samples as a pure function of (seed, epoch); nothing to save, nothing to restore.

Epochs are laid end to end in one endless sequence, and step k takes positions ``k * B .. (k + 1) * B``. Resuming in the
middle of an epoch is then the same as never having stopped, for any number of processes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robopolicy.errors import DataError, explain
from robopolicy.seeding import generator

__all__ = ["epoch_order", "step_indices"]


def epoch_order(n: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """A permutation of ``range(n)``. -> int64 [n]."""
    return generator("order", seed, epoch).permutation(n).astype(np.int64)


def step_indices(n: int, seed: int, first_step: int, steps: int, batch_size: int) -> NDArray[np.int64]:
    """Sample indices of ``steps`` consecutive optimiser steps. -> int64 [steps, batch_size].

    Args:
        n: Samples in the data.
        seed: Of the run.
        first_step: Steps already taken.
        steps: How many rows are wanted.
        batch_size: Global batch, over all processes and micro-batches.

    Raises:
        DataError: no samples.
    """
    if n < 1:
        raise DataError(explain("no training samples", mend="collect at least one episode more"))
    begin, end = first_step * batch_size, (first_step + steps) * batch_size
    epochs = range(begin // n, -(-end // n))
    laid = np.concatenate([epoch_order(n, seed, e) for e in epochs])
    at = begin - epochs.start * n
    return laid[at : at + (end - begin)].reshape(steps, batch_size)
