"""What experts that open furniture share: they come down onto the bar of a handle, close, and take it along its way."""

from __future__ import annotations

import abc
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robopolicy.embodiment import Embodiment
from robopolicy.sim.tasks.reference_motion import MotionLimits, cap, nearest_angle
from robopolicy.sim.tasks.tcp_command import Decision, Seen, TcpCommand, TcpExpert

__all__ = ["HandleExpert", "HandleMotion"]

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


class HandleExpert(TcpExpert):
    """A vector field that takes a bar from above, the jaw closing along the direction of the pull, and pulls.

    The jaw is symmetric, so a hand may take the bar after either of two turns; it takes the nearer one.

    Args:
        embodiment: Robot; must take ``ee_pose`` actions.
        environment_state_names: [E] channel names of the task's privileged state.
        goal: How far to open, in the unit of the joint: rad or m.
        bar_m: Radius of the handle's bar.
        motion: Speeds and shapes.
    """

    def __init__(
        self,
        embodiment: Embodiment,
        environment_state_names: tuple[str, ...],
        goal: float,
        bar_m: float,
        motion: HandleMotion | None = None,
    ):
        self._motion = motion or HandleMotion()
        super().__init__(TcpCommand(embodiment, environment_state_names, self._motion))
        width_m = embodiment.gripper_width_m
        self._goal, self._opening = goal, self._motion.opening_m / width_m
        self._held, self._slack = 2 * bar_m / width_m, 0.004 / width_m

    @abc.abstractmethod
    def _bar(self, seen: Seen) -> tuple[Array, float]:
        """-> (where to take the bar [3] m, direction of the pull in the plane in rad)."""

    @abc.abstractmethod
    def _way(self, seen: Seen, bar: Array) -> tuple[Array, Array]:
        """-> (way [3] m that the bar has to go, unit vector [3] along which it can)."""

    def _move(self, seen: Seen) -> Decision:
        bar, pull_yaw_rad = self._bar(seen)
        turn_rad = nearest_angle(pull_yaw_rad + np.pi / 2 - seen.yaw, np.pi)
        if not self._holds(seen, bar):
            move, gripper = self._approach(seen, bar, turn_rad)
            return move, turn_rad, gripper
        way, along = self._way(seen, bar)
        # the way that is left, plus what the hand has slipped across it or up
        slip = bar - seen.tcp
        slip = slip - along * float(slip @ along)
        return cap(way, self._motion.pull_m) + slip, turn_rad, 0.0

    def _holds(self, seen: Seen, bar: Array) -> bool:
        """Whether the jaw is closed on the bar."""
        closed = abs(seen.gripper - self._held) < self._slack
        return bool(closed and np.linalg.norm(bar - seen.tcp) < 0.025)

    def _approach(self, seen: Seen, bar: Array, turn_rad: float) -> tuple[Array, float]:
        """-> (move [3] m, gripper command): towards the bar, and closed on it once it is between the fingers."""
        motion, offset = self._motion, bar - seen.tcp
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
