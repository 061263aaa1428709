"""Which cube OGBench's expert moves next, and where to, when several have to reach their goals."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["CubeChooser"]

_PLACED_M, _ABOVE_M, _BESIDE_M = 0.03, 0.16, 0.06


class CubeChooser:
    """Keeps to one cube until it is placed and let go, then takes the next that can be placed.

    A cube can be placed when nothing lies on it, what its goal stands on is in place, and nobody else is there. When
    none can (two cubes on each other's goals), one is put aside.

    Args:
        env: The benchmark's environment, just reset.
    """

    def __init__(self, env: Any):
        self._env, self._count = env, int(env._num_cubes)
        self._current: tuple[int, np.ndarray] | None = None

    def choose(self, info: dict[str, Any]) -> tuple[int, np.ndarray]:
        """(cube, place) to go on with."""
        places = np.array([info[f"privileged/block_{i}_pos"] for i in range(self._count)])
        goals = np.array([self._env._data.mocap_pos[i] for i in self._env._cube_target_mocap_ids])
        if self._current is not None:
            cube, place = self._current
            there = np.linalg.norm(places[cube] - place) <= _PLACED_M
            free = info["proprio/gripper_contact"][0] < 0.1 and info["proprio/effector_pos"][2] > _ABOVE_M
            if not (there and free):
                return self._current
        self._current = self._next(places, goals)
        return self._current

    def _next(self, places: np.ndarray, goals: np.ndarray) -> tuple[int, np.ndarray]:
        placed = np.linalg.norm(places - goals, axis=1) <= _PLACED_M
        movable = [i for i in range(self._count) if not placed[i] and not self._covered(i, places)]
        for i in sorted(movable, key=lambda i: float(goals[i][2])):
            if self._supported(goals[i], places, placed, i) and not self._taken(goals[i], places, i):
                return i, goals[i]
        if movable:
            return movable[0], self._aside(places, goals)
        return 0, goals[0]

    def _covered(self, cube: int, places: np.ndarray) -> bool:
        above = places[:, 2] > places[cube, 2] + 0.02
        beside = np.linalg.norm(places[:, :2] - places[cube, :2], axis=1) < 0.03
        return bool((above & beside).any())

    def _supported(self, goal: np.ndarray, places: np.ndarray, placed: np.ndarray, cube: int) -> bool:
        if goal[2] < 0.03:
            return True
        below = np.linalg.norm(places - (goal - [0, 0, 0.04]), axis=1) < 0.02
        below[cube] = False
        return bool((below & placed).any())

    def _taken(self, goal: np.ndarray, places: np.ndarray, cube: int) -> bool:
        near = np.linalg.norm(places - goal, axis=1) < 0.045
        near[cube] = False
        return bool(near.any())

    def _aside(self, places: np.ndarray, goals: np.ndarray) -> np.ndarray:
        (x0, y0), (x1, y1) = self._env._target_sampling_bounds
        busy = np.concatenate([places, goals])[:, :2]
        spots = [(x, y) for x in np.linspace(x0, x1, 6) for y in np.linspace(y0, y1, 9)]
        free = max(spots, key=lambda spot: float(min(np.linalg.norm(busy - spot, axis=1).min(), _BESIDE_M * 2)))
        return np.array([*free, 0.02])
