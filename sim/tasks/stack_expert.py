"""Scripted expert of ``stack``: a vector field over TCP pose, gripper opening and the two cubes.

As in ``pick_place`` there is no phase counter and no clock; what to do is read off the geometry each time::

    red rests on green       -> open, then rise                        (release, retreat)
    red between the fingers  -> close, then over an arc onto green     (grasp, lift, carry, turn, lower)
    otherwise                -> come down onto red                     (approach, descend)

The hand takes red by the pair of faces that is nearer to it, and sets it down along the edges of green by the nearer
turn; where both are equally near, demonstrations go either way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.embodiment import Embodiment
from robopolicy.protocols import PolicySpec
from robopolicy.sim.tasks.reference_motion import MotionLimits, nearest_angle
from robopolicy.sim.tasks.tcp_command import Seen, TcpCommand
from robopolicy.types import ActionChunk, Observation

__all__ = ["StackExpert", "StackMotion"]

Array = NDArray[np.floating]


@dataclass(frozen=True)
class StackMotion(MotionLimits):
    """How the expert moves.

    Attributes:
        clearance_m: Height above the resting height at which it travels.
        slope: Height asked for per metre of distance in the plane beyond the funnel's mouth.
        mouth_m: Distance in the plane within which it may be all the way down.
        retreat_m: TCP height above the red cube after release.
        squeeze: How far below the opening at which the jaw touches the cube it is told to close.
    """

    clearance_m: float = 0.09
    slope: float = 2.5
    mouth_m: float = 0.006
    retreat_m: float = 0.12
    squeeze: float = 0.3


class StackExpert:
    """Policy protocol; see the module.

    Args:
        embodiment: Robot; must take ``ee_pose`` actions.
        environment_state_names: [E] channel names of the task's privileged state.
        cube_size_m: Edge length of the cubes.
        motion: Speeds and shapes.
    """

    def __init__(
        self,
        embodiment: Embodiment,
        environment_state_names: tuple[str, ...],
        *,
        cube_size_m: float = 0.04,
        motion: StackMotion | None = None,
    ):
        self.motion = motion or StackMotion()
        self._size_m = cube_size_m
        self._grip = cube_size_m / embodiment.gripper_width_m
        self._margin = 0.004 / embodiment.gripper_width_m
        # closing further than the squeeze needs would only have to be undone before the jaw opens again
        self._closed = max(0.0, self._grip - self.motion.squeeze)
        self._command = TcpCommand(embodiment, environment_state_names, self.motion)

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
        waypoint, turn_rad, gripper = self._decide(seen)
        move = waypoint - seen.tcp
        # while it is well below the arc it goes up first, so that neither jaw nor cube sweeps over table and cube
        move[:2] *= float(np.clip(1.3 - move[2] / 0.05, 0.0, 1.0))
        return self._command.chunk(seen, move, turn_rad, gripper)

    def _decide(self, seen: Seen) -> tuple[Array, float, float]:
        """-> (waypoint [3] m, yaw still to turn in rad, gripper command)."""
        motion, red, green = self.motion, seen.vector("red_position"), seen.vector("green_position")
        red_yaw, green_yaw = self._yaw(seen, "red"), self._yaw(seen, "green")
        offset, top = red - seen.tcp, np.array([green[0], green[1], green[2] + self._size_m])
        left_m = float(np.linalg.norm(top[:2] - red[:2]))
        if abs(red[2] - top[2]) < 0.003 and left_m < 0.012:
            clear = seen.gripper > self._grip + 2.5 * self._margin
            height = red[2] + motion.retreat_m if clear else seen.tcp[2]
            return np.array([*seen.tcp[:2], height]), 0.0, 1.0
        if seen.gripper < self._grip + self._margin and np.linalg.norm(offset) < 0.025:
            turn_rad = nearest_angle(green_yaw - red_yaw, np.pi / 2)
            height = top[2] - 0.001 + self._funnel(left_m + 0.05 * abs(turn_rad))
            return np.array([*(top[:2] - offset[:2]), height - offset[2]]), turn_rad, self._closed
        yaw_error = nearest_angle(red_yaw - seen.yaw, np.pi / 2)
        beside_m = float(np.linalg.norm(offset[:2]))
        # once it has begun to close it puts up with more, or it would open and close at the edge of the tolerance
        near_m = 0.008 if seen.gripper > 1.0 - self._margin else 0.014
        if beside_m < near_m and abs(offset[2]) < near_m and abs(yaw_error) < 0.2:
            return red, yaw_error, self._closed
        height = red[2] + self._funnel(beside_m + 0.08 * abs(yaw_error))
        return np.array([*red[:2], height]), yaw_error, 1.0

    @staticmethod
    def _yaw(seen: Seen, cube: str) -> float:
        return math.atan2(seen.named[f"{cube}_yaw.sin4"], seen.named[f"{cube}_yaw.cos4"]) / 4

    def _funnel(self, distance_m: float) -> float:
        motion = self.motion
        return min(motion.clearance_m, motion.slope * max(0.0, distance_m - motion.mouth_m))
