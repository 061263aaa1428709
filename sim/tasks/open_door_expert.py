"""Scripted expert of ``open_door``: a vector field over TCP pose, gripper opening, handle, hinge and door.

No phase counter and no clock: what to do is read off the geometry each time::

    bar between the closed fingers -> along the arc about the hinge, turning with the door   (swing, hold)
    otherwise                      -> come down onto the bar and close                       (turn, approach, grasp)
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from robopolicy.embodiment import Embodiment
from robopolicy.protocols import PolicySpec
from robopolicy.sim.tasks.handle_grip import HandleGrip, HandleMotion
from robopolicy.sim.tasks.tcp_command import TcpCommand
from robopolicy.types import ActionChunk, Observation

__all__ = ["OpenDoorExpert"]

GRIP_DEPTH_M = 0.022
"""How far below the upper end of the bar the TCP takes it."""


class OpenDoorExpert:
    """Policy protocol; see the module.

    Args:
        embodiment: Robot; must take ``ee_pose`` actions.
        environment_state_names: [E] channel names of the task's privileged state.
        goal_rad: How far to open the door.
        bar_m: Radius of the handle's bar.
        motion: Speeds and shapes.
    """

    def __init__(
        self,
        embodiment: Embodiment,
        environment_state_names: tuple[str, ...],
        goal_rad: float,
        bar_m: float,
        motion: HandleMotion | None = None,
    ):
        motion = motion or HandleMotion()
        self._goal_rad = goal_rad
        self._command = TcpCommand(embodiment, environment_state_names, motion)
        self._grip = HandleGrip(embodiment, bar_m, motion)

    @property
    def spec(self) -> PolicySpec:
        """One observation in; one action and the one expected after it out."""
        return self._command.spec

    def act(
        self,
        observation: Observation,
        *,
        rng: int | np.random.Generator = 0,
        prefix: ActionChunk | None = None,
        goal: Any = None,
    ) -> ActionChunk:
        """The TCP target of the next control step, and a look ahead; ``rng``, ``prefix``, ``goal`` are not used."""
        seen = self._command.read(observation)
        handle = seen.vector("handle_position") - [0.0, 0.0, GRIP_DEPTH_M]
        turn_rad = self._grip.turn(seen, math.atan2(seen.named["door_yaw.sin"], seen.named["door_yaw.cos"]))
        if not self._grip.holds(seen, handle):
            move, gripper = self._grip.approach(seen, handle, turn_rad)
            return self._command.chunk(seen, move, turn_rad, gripper)
        left_rad = self._goal_rad - seen.named["door.angle_rad"]
        arm = handle[:2] - seen.vector("hinge_position", "xy")
        radius_m = float(np.linalg.norm(arm))
        # opening turns the handle clockwise about the hinge, seen from above
        tangent = np.array([arm[1], -arm[0], 0.0]) / radius_m
        slip = handle - seen.tcp
        slip = slip - tangent * float(slip @ tangent)
        move = self._grip.pull(tangent * radius_m * left_rad) + slip
        return self._command.chunk(seen, move, turn_rad, 0.0)
