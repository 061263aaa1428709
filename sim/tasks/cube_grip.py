"""What experts that carry cubes share: the funnel that they come down through, and when the jaw has the cube."""

from __future__ import annotations

import abc
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robopolicy.embodiment import Embodiment
from robopolicy.sim.tasks.reference_motion import MotionLimits, nearest_angle
from robopolicy.sim.tasks.tcp_command import Decision, Seen, TcpCommand, TcpExpert

__all__ = ["CubeExpert", "CubeMotion"]

Array = NDArray[np.floating]


@dataclass(frozen=True)
class CubeMotion(MotionLimits):
    """How an expert that carries a cube moves.

    Attributes:
        clearance_m: Height above the cube's resting height at which it travels.
        slope: Height asked for per metre of distance in the plane beyond the funnel's mouth.
        mouth_m: Distance in the plane within which it may be all the way down.
        retreat_m: Height to which the TCP rises after release.
        squeeze: How far below the opening at which the jaw touches the cube it is told to close.
    """

    clearance_m: float = 0.10
    slope: float = 2.5
    mouth_m: float = 0.008
    retreat_m: float = 0.16
    squeeze: float = 0.3


class CubeExpert(TcpExpert):
    """A vector field of waypoints, reached over an arc.

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
        cube_size_m: float,
        motion: CubeMotion,
    ):
        super().__init__(TcpCommand(embodiment, environment_state_names, motion))
        self.motion, self._size_m = motion, cube_size_m
        self._grip = cube_size_m / embodiment.gripper_width_m
        self._margin = 0.004 / embodiment.gripper_width_m
        # closing further than the squeeze needs would only have to be undone before the jaw opens again
        self._closed = max(0.0, self._grip - motion.squeeze)

    @abc.abstractmethod
    def _decide(self, seen: Seen) -> Decision:
        """-> (waypoint [3] m, yaw still to turn in rad, gripper command)."""

    def _move(self, seen: Seen) -> Decision:
        waypoint, turn_rad, gripper = self._decide(seen)
        move = waypoint - seen.tcp
        # while it is well below the arc it goes up first, so that neither jaw nor cube sweeps over what lies there
        move[:2] *= float(np.clip(1.3 - move[2] / 0.05, 0.0, 1.0))
        return move, turn_rad, gripper

    def _holds(self, seen: Seen, cube: Array) -> bool:
        """Whether the cube is between the closed fingers."""
        return bool(seen.gripper < self._grip + self._margin and np.linalg.norm(cube - seen.tcp) < 0.025)

    def _release(self, seen: Seen, retreat_m: float) -> Decision:
        """Open, then up to that height."""
        clear = seen.gripper > self._grip + 2.5 * self._margin
        return np.array([*seen.tcp[:2], retreat_m if clear else seen.tcp[2]]), 0.0, 1.0

    def _take(self, seen: Seen, cube: Array, cube_yaw_rad: float) -> Decision:
        """Down onto the cube, fingers along the nearer pair of its faces; closed once it is between them."""
        offset, yaw_error = cube - seen.tcp, nearest_angle(cube_yaw_rad - seen.yaw, np.pi / 2)
        beside_m = float(np.linalg.norm(offset[:2]))
        # once it has begun to close it puts up with more, or it would open and close at the edge of the tolerance
        near_m = 0.008 if seen.gripper > 1.0 - self._margin else 0.014
        if beside_m < near_m and abs(offset[2]) < near_m and abs(yaw_error) < 0.2:
            return cube, yaw_error, self._closed
        height = cube[2] + self._funnel(beside_m + 0.08 * abs(yaw_error))
        return np.array([*cube[:2], height]), yaw_error, 1.0

    def _funnel(self, distance_m: float) -> float:
        """Height asked for at a distance in the plane."""
        motion = self.motion
        return min(motion.clearance_m, motion.slope * max(0.0, distance_m - motion.mouth_m))

    @staticmethod
    def _yaw(seen: Seen, cube: str) -> float:
        """Of a cube that is seen through its four-fold symmetry, rad."""
        return math.atan2(seen.named[f"{cube}_yaw.sin4"], seen.named[f"{cube}_yaw.cos4"]) / 4
