"""Scripted expert of ``open_door``: a vector field over TCP pose, gripper opening, handle, hinge and door.

No phase counter and no clock: what to do is read off the geometry each time::

    bar between the closed fingers -> along the arc about the hinge, turning with the door   (swing, hold)
    otherwise                      -> come down onto the bar and close                       (turn, approach, grasp)
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from robopolicy.sim.tasks.handle_grip import HandleExpert
from robopolicy.sim.tasks.tcp_command import Seen

__all__ = ["OpenDoorExpert"]

Array = NDArray[np.floating]

GRIP_DEPTH_M = 0.022
"""How far below the upper end of the bar the TCP takes it."""


class OpenDoorExpert(HandleExpert):
    """Policy protocol; see the module. Its goal is an angle, rad."""

    def _bar(self, seen: Seen) -> tuple[Array, float]:
        yaw_rad = math.atan2(seen.named["door_yaw.sin"], seen.named["door_yaw.cos"])
        return seen.vector("handle_position") - [0.0, 0.0, GRIP_DEPTH_M], yaw_rad

    def _way(self, seen: Seen, bar: Array) -> tuple[Array, Array]:
        left_rad = self._goal - seen.named["door.angle_rad"]
        arm = bar[:2] - seen.vector("hinge_position", "xy")
        radius_m = float(np.linalg.norm(arm))
        # opening turns the handle clockwise about the hinge, seen from above
        tangent = np.array([arm[1], -arm[0], 0.0]) / radius_m
        return tangent * radius_m * left_rad, tangent
