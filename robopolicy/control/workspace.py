"""Keeps the TCP, and the whole of its braking path, inside the workspace box."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from robopolicy.control.braking import brake_positions
from robopolicy.control.kinematics import Kinematics

__all__ = ["WorkspaceGuard"]


class WorkspaceGuard:
    """Checks that braking from a joint state keeps the TCP in the box.

    A start outside the box widens the box to the start, so that the arm can come home but go no further out; the true
    box is restored as soon as a state satisfies it.

    Args:
        kinematics: Chain and card.
        acceleration: [n] limits of the arm joints in tick units.
        jerk: [n] limits of the arm joints in tick units.
    """

    def __init__(self, kinematics: Kinematics, acceleration: Sequence[float], jerk: Sequence[float]) -> None:
        self._kinematics = kinematics
        lower, upper = kinematics.embodiment.workspace
        self._box = np.array([lower, upper], dtype=float)
        self._active = self._box.copy()
        self._reach = kinematics.reach_m.tolist()
        self._acceleration, self._jerk = list(acceleration), list(jerk)

    @property
    def widened(self) -> bool:
        """Whether the box is still widened to a start outside it."""
        return bool((self._active != self._box).any())

    def reset(self, q_arm: Sequence[float]) -> None:
        """Begin at ``q_arm`` [n], at rest."""
        tcp = self._kinematics.positions(np.array([q_arm]))[0]
        self._active[0] = np.minimum(self._box[0], tcp)
        self._active[1] = np.maximum(self._box[1], tcp)

    def admits(self, p: Sequence[float], v: Sequence[float], a: Sequence[float], travel: Sequence[float]) -> bool:
        """Whether braking from the arm's joint state (p, v, a) stays in the box.

        Args:
            p, v, a: [n] in tick units.
            travel: [n] upper bounds of how far each joint moves while braking, either way.
        """
        tcp = self._kinematics.forward(p)[0]
        distance = float(np.minimum(tcp - self._active[0], self._active[1] - tcp).min())
        if distance < 0:
            return False
        # Turning joint i by d moves the TCP by no more than reach_i * d, whatever the configuration.
        admitted = sum(r * t for r, t in zip(self._reach, travel, strict=True)) <= distance
        return admitted or self._inside(self._path(p, v, a), self._active)

    def settle(self, p: Sequence[float], v: Sequence[float], a: Sequence[float]) -> None:
        """Restore the true box once the state accepted satisfies it. Cheap unless widened."""
        if self.widened and self._inside(self._path(p, v, a), self._box):
            self._active = self._box.copy()

    def _path(self, p: Sequence[float], v: Sequence[float], a: Sequence[float]) -> NDArray[np.floating]:
        """[T, 3] TCP positions now and at each tick of braking."""
        paths = [
            [x, *brake_positions(x, dx, ddx, A, J)]
            for x, dx, ddx, A, J in zip(p, v, a, self._acceleration, self._jerk, strict=True)
        ]
        ticks = max(map(len, paths))
        joints = np.array([path + [path[-1]] * (ticks - len(path)) for path in paths]).T
        return self._kinematics.positions(joints)

    @staticmethod
    def _inside(points: NDArray[np.floating], box: NDArray[np.floating]) -> bool:
        return bool((points >= box[0]).all() and (points <= box[1]).all())
