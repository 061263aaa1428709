"""How experts come down onto the bar of a handle and know that they hold it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robopolicy.embodiment import Embodiment
from robopolicy.sim.tasks.reference_motion import MotionLimits, cap, nearest_angle
from robopolicy.sim.tasks.tcp_command import Seen

__all__ = ["HandleGrip", "HandleMotion"]

Array = NDArray[np.floating]


@dataclass(frozen=True)
class HandleMotion(MotionLimits):
    """How an expert that takes a handle moves.

    Attributes:
        clearance_m: Height above the handle at which it travels.
        slope: Height asked for per metre of distance in the plane beyond the funnel's mouth.
        mouth_m: Distance in the plane within which it may be all the way down.
        opening_m: Opening of the jaw while it comes down; the rear finger has to fit behind the bar.
        pull_m: Distance that it is at most behind while pulling; speed is ``gain_hz`` times that.
    """

    yaw_speed_rad_s: float = 2.0
    clearance_m: float = 0.07
    slope: float = 2.5
    mouth_m: float = 0.006
    opening_m: float = 0.038
    pull_m: float = 0.05


class HandleGrip:
    """A vector field that takes a bar from above, the jaw closing along the direction of the pull.

    The jaw is symmetric, so a hand may take the bar after either of two turns; it takes the nearer one.

    Args:
        embodiment: Robot.
        bar_m: Radius of the bar.
        motion: Speeds and shapes.
    """

    def __init__(self, embodiment: Embodiment, bar_m: float, motion: HandleMotion):
        width_m = embodiment.gripper_width_m
        self._motion, self._opening = motion, motion.opening_m / width_m
        self._held, self._slack = 2 * bar_m / width_m, 0.004 / width_m

    def turn(self, seen: Seen, pull_yaw_rad: float) -> float:
        """What is left to turn until the jaw closes along the pull, rad."""
        return nearest_angle(pull_yaw_rad + np.pi / 2 - seen.yaw, np.pi)

    def holds(self, seen: Seen, handle: Array) -> bool:
        """Whether the jaw is closed on the bar."""
        closed = abs(seen.gripper - self._held) < self._slack
        return bool(closed and np.linalg.norm(handle - seen.tcp) < 0.025)

    def approach(self, seen: Seen, handle: Array, turn_rad: float) -> tuple[Array, float]:
        """-> (move [3] m, gripper command): towards the bar, and closed on it once it is between the fingers."""
        motion, offset = self._motion, handle - seen.tcp
        beside_m = float(np.linalg.norm(offset[:2]))
        # once it has begun to close it puts up with more, or it would open and close at the edge of the tolerance
        near_m = 0.007 if seen.gripper > self._opening - self._slack / 2 else 0.013
        if beside_m < near_m and abs(offset[2]) < near_m and abs(turn_rad) < 0.15:
            return offset, 0.0
        unready = max(0.0, abs(seen.gripper - self._opening) - self._slack)
        rise_m = motion.slope * max(0.0, beside_m + 0.08 * abs(turn_rad) + 0.2 * unready - motion.mouth_m)
        offset[2] += min(motion.clearance_m, rise_m)
        # while it is well below the arc it goes up first, so that the fingers do not sweep over the furniture
        offset[:2] *= float(np.clip(1.3 - offset[2] / 0.05, 0.0, 1.0))
        return offset, self._opening

    def pull(self, way: Array) -> Array:
        """The move [3] along what is left of the way, no faster than the motion allows."""
        return cap(way, self._motion.pull_m)
