"""Goals of windows: what is reached later in the same episode, or what was recorded as wanted.

Hindsight makes unlabelled play a source of goal-conditioned demonstrations: whatever state comes later is a goal that
the actions in between lead to (Lynch et al. 2019, arXiv 1903.01973; Reuss et al. 2023, arXiv 2304.02532)::

    row       t ......... t + least ......................... t + most        last row of the episode
    goal                     [ uniform over the rows between these ends, cut off at the last row ]

How far ahead is a function of (episode, row, draw) by splitmix64 (Steele et al. 2014) and of nothing else, so a window
is the same sample in every process, epoch and resumed run. A data set with ``draws`` goals per window has ``draws``
times the windows: index ``draw * N + window``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.errors import DataError, explain
from robopolicy.goals import GoalConfig, goal_width, positions

__all__ = ["WindowGoals", "goal_range", "steps_ahead", "stream_columns"]

_GOLDEN, _FIRST, _SECOND = (np.uint64(v) for v in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


class WindowGoals:
    """The goals of a store's windows.

    Args:
        store: Open for reading, or a view of one at another rate.
        goal: Which; a plain number G takes the recorded stream ``goal`` of that width as it is.

    Attributes:
        width: G, 0 for goals that are pictures alone.
        draws: Goals per window.

    Raises:
        DataError: the store has no such stream or entries, or a goal of another width.
    """

    def __init__(self, store: Any, goal: int | GoalConfig):
        self.width, self.draws = goal_width(goal), goal.draws if isinstance(goal, GoalConfig) else 1
        self._future = goal.future if isinstance(goal, GoalConfig) and goal.source == "hindsight" else None
        if self.width:
            stream, columns = _source(store, goal)
            values: NDArray[np.float32] = store.column(stream)
            self._values = np.ascontiguousarray(values[:, columns], np.float32)

    def gather(
        self,
        episode: NDArray[np.int64],
        row: NDArray[np.int64],
        start: NDArray[np.int64],
        last: NDArray[np.int64],
        draw: NDArray[np.int64],
        out: NDArray[np.float32],
    ) -> None:
        """Write the goals of B windows; there must be entries.

        Args:
            episode, row, start, last, draw: See :meth:`rows`.
            out: f32 [B, G].
        """
        np.take(self._values, self.rows(episode, row, start, last, draw), axis=0, out=out, mode="clip")

    def rows(
        self,
        episode: NDArray[np.int64],
        row: NDArray[np.int64],
        start: NDArray[np.int64],
        last: NDArray[np.int64],
        draw: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """Rows that the goals of B windows are taken from, int64 [B]; for recorded goals the newest observation's.

        Args:
            episode: int64 [B] index of the episode in the store.
            row: int64 [B] row of the newest observation.
            start, last: int64 [B] first and last row of the episode.
            draw: int64 [B] which of the window's goals.
        """
        if self._future is None:
            return row
        return row + steps_ahead(episode, row - start, draw, last - row, self._future)


def steps_ahead(
    episode: NDArray[np.int64],
    step: NDArray[np.int64],
    draw: NDArray[np.int64],
    left: NDArray[np.int64],
    future: tuple[int, int],
) -> NDArray[np.int64]:
    """How far ahead hindsight goals lie, uniform over what there is of ``future``. -> int64 [B].

    Args:
        episode, step, draw: int64 [B] what decides: index of the episode, step in it, number of the draw.
        left: int64 [B] steps to the end of the episode; 0 makes the last row its own goal.
        future: Least and most steps.
    """
    least, most = np.minimum(future[0], left), np.minimum(future[1], left)
    with np.errstate(over="ignore"):
        bits = _mixed(_mixed(_mixed(episode.astype(np.uint64)) ^ step.astype(np.uint64)) ^ draw.astype(np.uint64))
    share = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53  # [0, 1)
    return least + np.floor(share * (most - least + 1)).astype(np.int64)


def _mixed(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    z = bits + _GOLDEN
    z = (z ^ (z >> np.uint64(30))) * _FIRST
    z = (z ^ (z >> np.uint64(27))) * _SECOND
    return z ^ (z >> np.uint64(31))


def goal_range(store: Any, goal: int | GoalConfig) -> dict[str, NDArray[np.float64]]:
    """``min`` and ``max`` f64 [G] of what the goals are taken from, for the normaliser.

    Raises:
        DataError: as :class:`WindowGoals`.
    """
    stream, columns = _source(store, goal)
    found = store.statistics(stream)
    return {"min": found.min[columns], "max": found.max[columns]}


def stream_columns(store: Any, names: tuple[str, ...]) -> list[int]:
    """Where entries of ``environment_state`` are in the store.

    Raises:
        DataError: the store does not have them.
    """
    return positions(names, store.environment_state_names, f"environment_state of {store.path}", DataError)


def _source(store: Any, goal: int | GoalConfig) -> tuple[str, list[int]]:
    """Stream that goals are taken from, and which of its columns."""
    recorded = isinstance(goal, int) or goal.source == "recorded"
    stream = "goal" if recorded else "environment_state"
    if stream not in store.streams:
        mend = "goal.source=hindsight" if recorded else "collect with privileged state, or goal.source=recorded"
        raise DataError(
            explain(f"{store.path} has no {stream} to take goals from", allowed=sorted(store.streams), mend=mend)
        )
    if not recorded:
        return stream, stream_columns(store, goal.names)  # type: ignore[union-attr]
    spec = store.streams[stream]
    if isinstance(goal, int):
        if spec.shape != (goal,):
            raise DataError(
                explain(
                    f"{store.path} has goals of another width", given=goal, allowed=spec.shape[0], mend="change goal"
                )
            )
        return stream, list(range(goal))
    return stream, positions(goal.names, spec.channels, f"stream 'goal' of {store.path}", DataError)
