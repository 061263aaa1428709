"""Scripted expert of ``open_drawer``: a vector field over TCP pose, gripper opening, handle and cabinet.

No phase counter and no clock: what to do is read off the geometry each time::

    bar between the closed fingers -> along the slide, slower towards the end   (pull, hold)
    otherwise                      -> come down onto the bar and close          (turn, approach, grasp)
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from robopolicy.sim.tasks.handle_grip import HandleExpert
from robopolicy.sim.tasks.tcp_command import Seen

__all__ = ["OpenDrawerExpert"]

Array = NDArray[np.floating]


class OpenDrawerExpert(HandleExpert):
    """Policy protocol; see the module. Its goal is an opening, m."""

    def _bar(self, seen: Seen) -> tuple[Array, float]:
        forward = self._cabinet(seen)
        return seen.vector("handle_position"), math.atan2(forward[1], forward[0])

    def _way(self, seen: Seen, bar: Array) -> tuple[Array, Array]:
        forward = self._cabinet(seen)
        return -forward * (self._goal - seen.named["drawer.opening_m"]), forward

    @staticmethod
    def _cabinet(seen: Seen) -> Array:
        """[3] unit vector into the cabinet."""
        return np.array([seen.named["cabinet_yaw.cos"], seen.named["cabinet_yaw.sin"], 0.0])
