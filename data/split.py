"""Which episodes are for training and which for validation: a pure function of three numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robopolicy.errors import DataError, explain
from robopolicy.seeding import generator

__all__ = ["train_val_episodes"]


def train_val_episodes(num_episodes: int, fraction: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split whole episodes, never windows, so that no validation frame has a neighbour in training.

    Args:
        num_episodes: Episodes in the store.
        fraction: Share of episodes held out for **validation**, 0 <= fraction < 1. Any fraction above 0 holds out at
            least one episode as soon as there are two; at least one episode always stays for training.
        seed: Choice of the held-out episodes.

    Returns:
        (train, val): sorted int64 episode indices, disjoint, together all episodes.

    Raises:
        DataError: no episodes, or a fraction out of range.
    """
    if num_episodes < 1:
        raise DataError(explain("nothing to split", given=f"{num_episodes} episodes", mend="collect episodes first"))
    if not 0 <= fraction < 1:
        raise DataError(explain("fraction out of range", given=fraction, allowed="0 <= fraction < 1"))
    count = 0 if fraction == 0 else min(max(round(num_episodes * fraction), 1), num_episodes - 1)
    order = generator("train_val_episodes", seed).permutation(num_episodes).astype(np.int64)
    return np.sort(order[count:]), np.sort(order[:count])
