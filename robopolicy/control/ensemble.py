"""Temporal ensembling: every time is answered by all chunks that speak of it (Zhao et al. 2023, arXiv 2304.13705).

::

    chunks, oldest first    o----o----o----o                     i = 0
                                 o----o----o----o                i = 1
                                      o----o----o----o           i = 2, the newest: its times are answered
    merged                            x----x----x----x           x = sum w_i o_i / sum w_i,  w_i = exp(-m i)

It stands between a policy and the schedule: what comes out is a chunk like any other. What it costs is that a policy
which hesitates between two ways gets their mean.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from robopolicy.chunk_forms import pose_prefixes
from robopolicy.embodiment import Embodiment
from robopolicy.errors import ConfigError, ShapeError, explain
from robopolicy.rotations import matrix_to_rotation_6d, rotation_6d_to_matrix
from robopolicy.types import ActionChunk

__all__ = ["Ensemble", "ensemble_weights"]

Array = NDArray[np.floating]

_LEAST_SIZE = 0.1
"""Of the cross product of two averaged rotation columns; below it they point nowhere."""


def ensemble_weights(count: int, decay: float, *, oldest_first: bool = True) -> Array:
    """f64 [count] ``exp(-decay i)`` from the oldest prediction to the newest, with sum 1.

    Args:
        count: Predictions of one time.
        decay: m; 0 is the plain mean.
        oldest_first: ``i = 0`` is the oldest, which then weighs most: so does the code of ACT, with m = 0.01. Guides
            often say the reverse, which is False.
    """
    index = np.arange(count) if oldest_first else np.arange(count)[::-1]
    weights = np.exp(-decay * (index - index.min(initial=0)))
    return np.asarray(weights / weights.sum())


class Ensemble:
    """The chunks of one episode that still speak of the future, by absolute time.

    Positions, joints and grippers are averaged as they are; rotations are averaged by their columns and made
    orthonormal; where the columns cancel, that of the heaviest chunk stays. Steps and rates of a derived card are
    averaged for the time at which they are carried out.

    Args:
        card: Whose action channels the chunks have.
        decay: m of :func:`ensemble_weights`.
        oldest_first: See there.

    Raises:
        ConfigError: a decay below 0.
    """

    def __init__(self, card: Embodiment, decay: float = 0.01, *, oldest_first: bool = True):
        if not (np.isfinite(decay) and decay >= 0):
            raise ConfigError(explain("the decay of an ensemble must be 0 or more", given=decay, mend="0.01 is ACT's"))
        self.decay, self.oldest_first = float(decay), oldest_first
        self._card, self._dt_ns = card.hash, round(card.control_dt_s * 1e9)
        names = card.action.names
        self._rotations = [
            np.array([names.index(f"{p}ee_rotation.{i}") for i in range(6)], np.intp) for p in pose_prefixes(names)
        ]
        self.begin()

    def begin(self) -> None:
        """Forget everything."""
        self._chunks: list[ActionChunk] = []

    def __len__(self) -> int:
        return len(self._chunks)

    def merge(self, chunk: ActionChunk) -> ActionChunk:
        """Take a chunk in; the answer speaks of the times of the newest chunk there is.

        Args:
            chunk: Of the card; a row that is not valid, or not finite, says nothing.

        Returns:
            The newest chunk with every valid row averaged over all chunks that have a value for its time, between two
            of theirs by interpolation.

        Raises:
            ShapeError: a chunk of another card or step.
        """
        if chunk.embodiment != self._card or abs(chunk.dt_s * 1e9 - self._dt_ns) > 1e-6 * self._dt_ns:
            raise ShapeError(explain("a chunk of another robot cannot join the ensemble", given=chunk.embodiment[:12]))
        self._chunks = sorted([*self._chunks, chunk], key=lambda kept: kept.t0_ns)
        newest = self._chunks[-1]
        first_ns = int(newest.time_ns[0]) - self._dt_ns // 2
        self._chunks = [kept for kept in self._chunks if int(kept.time_ns[-1]) >= first_ns]
        values = np.array(newest.values, float)
        for row, time_ns in enumerate(newest.time_ns.tolist()):
            said = [found for kept in self._chunks if (found := _value(kept, time_ns, self._dt_ns)) is not None]
            if said and newest.valid is not None and newest.valid[row]:
                values[row] = self._mean(said)
        return dataclasses.replace(newest, values=values)

    def _mean(self, said: Sequence[Array]) -> Array:
        """[A] of predictions of one time, oldest first."""
        rows = np.stack(said)
        weights = ensemble_weights(len(rows), self.decay, oldest_first=self.oldest_first)
        mean = np.asarray(weights @ rows)
        for columns in self._rotations:
            x, y = mean[columns[:3]], mean[columns[3:]]
            if np.linalg.norm(np.cross(x, y)) < _LEAST_SIZE:
                mean[columns] = rows[int(weights.argmax()), columns]
            mean[columns] = matrix_to_rotation_6d(rotation_6d_to_matrix(mean[columns]))
        return mean


def _value(chunk: ActionChunk, time_ns: int, dt_ns: int) -> Array | None:
    """[A] that a chunk says of a time within its own, or None."""
    place = (time_ns - chunk.t0_ns) / dt_ns - 1.0
    below = int(np.floor(place + 1e-6))
    share = place - below
    rows = (below,) if abs(share) < 1e-6 else (below, below + 1)
    assert chunk.valid is not None
    if rows[0] < 0 or rows[-1] >= len(chunk.values) or not chunk.valid[list(rows)].all():
        return None
    values = np.asarray(chunk.values[list(rows)], float)
    if not np.isfinite(values).all():
        return None
    return values[0] if len(rows) == 1 else values[0] + share * (values[1] - values[0])
