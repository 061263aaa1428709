"""The ranges of one robot, from its own stores: streamed over low-dimensional columns, no picture is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.chunk_forms import ChunkForm
from robopolicy.data.windows import WindowDataset, WindowSpec
from robopolicy.embodiment_view import ACTION_PARTS, form_ranges
from robopolicy.errors import DataError, NonFiniteError, explain
from robopolicy.normalize import Normalizer

__all__ = ["MOST_RANGE_WINDOWS", "fit_normalizer"]

MOST_RANGE_WINDOWS = 200_000
"""Evenly spread windows are enough for the range of a chunk."""
WINDOWS_AT_ONCE = 8_192


def fit_normalizer(
    stores: Sequence[tuple[Any, NDArray[np.int64]]],
    form: str,
    frame: str,
    observation_horizon: int,
    prediction_horizon: int,
) -> Normalizer:
    """The normaliser of one embodiment.

    ``state``, ``action`` and ``environment_state`` are what a single store gives: the statistics kept at commit, joined
    where the robot has several stores. A chunk that is not absolute gets its range from the training windows.

    Args:
        stores: (store, its training episodes), all of one embodiment.
        form, frame: See :mod:`robopolicy.chunk_forms`.
        observation_horizon, prediction_horizon: To, Tp.

    Raises:
        DataError: stores whose privileged states differ, or statistics that are missing.
        NonFiniteError: rotations of the data that are none.
    """
    first = stores[0][0]
    card = first.embodiment
    names = ["state", "action", *(["environment_state"] if first.environment_state_names else [])]
    for store, _ in stores[1:]:
        if store.environment_state_names != first.environment_state_names:
            raise DataError(
                explain(
                    f"stores of '{card.name}' with different environment_state",
                    given=store.environment_state_names,
                    allowed=first.environment_state_names,
                    mend="convert one of them",
                )
            )
    kept = {name: [store.statistics(name) for store, _ in stores] for name in names}
    joined = {
        name: {"min": np.min([s.min for s in each], axis=0), "max": np.max([s.max for s in each], axis=0)}
        for name, each in kept.items()
    }
    normalizer = Normalizer.from_statistics(joined, card)
    if form == "absolute":
        return normalizer
    changed = ChunkForm(card, form, observation_horizon, frame)
    low, high = _ranges(stores, changed, observation_horizon, prediction_horizon)
    parts = form_ranges(low, high, changed.changed, normalizer.stream("action"))
    return Normalizer({**normalizer.streams, **parts})


def _ranges(
    stores: Sequence[tuple[Any, NDArray[np.int64]]], form: ChunkForm, seen: int, ahead: int
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]]:
    """Part -> smallest and largest value of every channel over the valid rows of the windows."""
    width = len(stores[0][0].embodiment.action)
    low = {part: np.full(width, np.inf) for part in ACTION_PARTS}
    high = {part: np.full(width, -np.inf) for part in ACTION_PARTS}
    cuts = dict(zip(ACTION_PARTS, (slice(None, seen), slice(seen, None)), strict=True))
    for store, episodes in stores:
        windows = WindowDataset(store, WindowSpec(seen, ahead, environment_state=False), episodes=episodes)
        chosen = np.unique(np.linspace(0, len(windows) - 1, MOST_RANGE_WINDOWS).astype(np.int64))
        for start in range(0, len(chosen), WINDOWS_AT_ONCE):
            part = windows.gather(chosen[start : start + WINDOWS_AT_ONCE])
            values, mask = form.encode(part["action"], part["state"][:, -1]), part["action_mask"]
            if not np.isfinite(values[mask]).all():
                raise NonFiniteError(
                    explain(f"{store.path} holds 6-D rotations that are none", mend="repair or convert the data again")
                )
            for name, cut in cuts.items():
                counted = mask[:, cut]
                if counted.size:
                    low[name] = np.minimum(low[name], np.where(counted, values[:, cut], np.inf).min(axis=(0, 1)))
                    high[name] = np.maximum(high[name], np.where(counted, values[:, cut], -np.inf).max(axis=(0, 1)))
    for name in ACTION_PARTS:  # no row of that part anywhere (To = Tp): any range will do
        empty = ~np.isfinite(low[name])
        low[name][empty], high[name][empty] = -1.0, 1.0
    return low, high
