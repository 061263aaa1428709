"""Scripted expert of ``pick_place``: a vector field over TCP pose, gripper opening, cube and goal.

There is no phase counter and no clock: what to do is read off the geometry each time, so that a policy which sees the
same can represent it::

    cube on its goal      -> open, then rise               (release, retreat)
    cube between fingers  -> close, then carry to the goal  (grasp, lift, carry, lower)
    otherwise             -> come down onto the cube        (approach, descend)

Approach and carry follow a funnel: the height asked for grows with the distance still to go in the plane, which makes
an arc out of lift, carry and lower.

All it remembers is the reference it asked for last; see :mod:`robopolicy.sim.tasks.reference_motion`.
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

__all__ = ["ExpertMotion", "PickPlaceExpert"]

Array = NDArray[np.floating]


@dataclass(frozen=True)
class ExpertMotion(MotionLimits):
    """How the expert moves.

    Attributes:
        clearance_m: Height above the cube's resting height at which it travels.
        slope: Height asked for per metre of distance in the plane beyond the funnel's mouth.
        mouth_m: Distance in the plane within which it may be all the way down.
        retreat_m: TCP height after release.
        squeeze: How far below the opening at which the jaw touches the cube it is told to close.
    """

    clearance_m: float = 0.10
    slope: float = 2.5
    mouth_m: float = 0.008
    retreat_m: float = 0.16
    squeeze: float = 0.3


class PickPlaceExpert:
    """Policy protocol; see the module.

    Args:
        embodiment: Robot; must take ``ee_pose`` actions.
        environment_state_names: [E] channel names of the task's privileged state.
        cube_size_m: Edge length of the cube.
        motion: Speeds and shapes.
    """

    def __init__(
        self,
        embodiment: Embodiment,
        environment_state_names: tuple[str, ...],
        *,
        cube_size_m: float = 0.04,
        motion: ExpertMotion | None = None,
    ):
        self.motion = motion or ExpertMotion()
        self._half_m = cube_size_m / 2
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
        # while it is well below the arc it goes up first, so that neither jaw nor cube sweeps over the table
        move[:2] *= float(np.clip(1.3 - move[2] / 0.05, 0.0, 1.0))
        return self._command.chunk(seen, move, turn_rad, gripper)

    def _decide(self, seen: Seen) -> tuple[Array, float, float]:
        """-> (waypoint [3] m, yaw still to turn in rad, gripper command)."""
        motion, cube, goal = self.motion, seen.vector("cube_position"), seen.vector("goal_position", "xy")
        offset = cube - seen.tcp
        left_m = float(np.linalg.norm(goal - cube[:2]))
        beside_m = float(np.linalg.norm(offset[:2]))
        resting = cube[2] < self._half_m + 0.004
        if resting and left_m < 0.02:
            clear = seen.gripper > self._grip + 2.5 * self._margin
            height = motion.retreat_m if clear else seen.tcp[2]
            return np.array([*seen.tcp[:2], height]), 0.0, 1.0
        if seen.gripper < self._grip + self._margin and np.linalg.norm(offset) < 0.025:
            height = self._half_m - 0.001 + self._funnel(left_m)
            return np.array([*(goal - offset[:2]), height - offset[2]]), -nearest_angle(seen.yaw), self._closed
        cube_yaw = math.atan2(seen.named["cube_yaw.sin4"], seen.named["cube_yaw.cos4"]) / 4
        yaw_error = nearest_angle(cube_yaw - seen.yaw, np.pi / 2)
        # once it has begun to close it puts up with more, or it would open and close at the edge of the tolerance
        near_m = 0.008 if seen.gripper > 1.0 - self._margin else 0.014
        if beside_m < near_m and abs(offset[2]) < near_m and abs(yaw_error) < 0.2:
            return cube, yaw_error, self._closed
        height = cube[2] + self._funnel(beside_m + 0.08 * abs(yaw_error))
        return np.array([*cube[:2], height]), yaw_error, 1.0

    def _funnel(self, distance_m: float) -> float:
        motion = self.motion
        return min(motion.clearance_m, motion.slope * max(0.0, distance_m - motion.mouth_m))
