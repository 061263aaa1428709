"""Scripted expert of ``wipe_force``: an admittance law; no clock, no counter.

::

    touching, on the way    -> along the plate; up or down by the missing force over the springs' stiffness   (wipe)
    touching, at the end    -> up                                                                             (lift)
    above the start, low    -> straight down until it touches                                                 (touch)
    otherwise               -> above the start of the way                                                     (approach)
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from robopolicy.embodiment import Embodiment
from robopolicy.sim.tasks.compliant_tool import ForceGauge
from robopolicy.sim.tasks.reference_motion import MotionLimits, cap, clip, nearest_angle
from robopolicy.sim.tasks.tcp_command import Decision, Seen, TcpCommand, TcpExpert

__all__ = ["WipeForceExpert"]

Array = NDArray[np.floating]

LIMITS = MotionLimits(speed_m_s=0.25, acceleration_m_s2=0.8, gain_hz=5.0)
TOUCH_N, TOUCH_SPEED_M_S = 1.0, 0.03
FORCE_GAIN_HZ = 4.0
"""Rate at which the force error is made good."""
WIPE_SPEED_M_S, MARGIN_M = 0.06, 0.02


class WipeForceExpert(TcpExpert):
    """Policy protocol; see the module.

    Args:
        embodiment: Robot; must take ``ee_pose`` actions.
        environment_state_names: [E] channel names of the task's privileged state.
        gauge: Reads the force on the pad from the wrench.
        along_n_m: Stiffness of the pad's springs along the hand.
        face_m: TCP height at which the pad is level with the plate's nominal face.
        height_error_m: How far the plate may be from there.
        half_length_m: Of the plate.
        press_n: Force to wipe with.
        grip_m: Width of what the jaw holds.
    """

    def __init__(
        self,
        embodiment: Embodiment,
        environment_state_names: tuple[str, ...],
        *,
        gauge: ForceGauge,
        along_n_m: float,
        face_m: float,
        height_error_m: float,
        half_length_m: float,
        press_n: float,
        grip_m: float,
    ):
        super().__init__(TcpCommand(embodiment, environment_state_names, LIMITS, sensors=("wrench",)))
        self._gauge, self._along_n_m, self._press_n = gauge, along_n_m, press_n
        self._face_m, self._low_m = face_m, height_error_m + 0.003
        self._end_m = half_length_m - MARGIN_M
        self._gripper = grip_m / embodiment.gripper_width_m

    def _move(self, seen: Seen) -> Decision:
        press_n = float(self._gauge.read(seen.sensor["wrench"], seen.yaw)[2])
        return self._velocity(seen, press_n) / LIMITS.gain_hz, -nearest_angle(seen.yaw), self._gripper

    def _velocity(self, seen: Seen, press_n: float) -> Array:
        """[3] m/s."""
        offset = seen.tcp[:2] - seen.vector("plate_position", "xy")
        c, s = seen.named["plate_yaw.cos"], seen.named["plate_yaw.sin"]
        along, aside = c * offset[0] + s * offset[1], c * offset[1] - s * offset[0]
        height = float(seen.tcp[2]) - self._face_m
        if press_n > TOUCH_N and height < self._low_m:
            if along > self._end_m:
                return np.array([0.0, 0.0, 0.08])
            up = clip(FORCE_GAIN_HZ * (press_n - self._press_n) / self._along_n_m, TOUCH_SPEED_M_S)
            return np.array([*self._turned(c, s, WIPE_SPEED_M_S, -LIMITS.gain_hz * aside), up])
        beside = math.hypot(along + self._end_m, aside)
        if beside < 0.008:
            down = max(TOUCH_SPEED_M_S, LIMITS.gain_hz * (height - self._low_m))
            return np.array([*self._turned(c, s, 0.0, 0.0), -min(down, LIMITS.speed_m_s)])
        over = self._low_m + 0.005 + min(0.05, beside)
        move = cap(np.array([-along - self._end_m, -aside]) * LIMITS.gain_hz, LIMITS.speed_m_s)
        if height < self._low_m:  # it does not travel low
            move = 0.0 * move
        return np.array([*self._turned(c, s, *move), clip(LIMITS.gain_hz * (over - height), LIMITS.speed_m_s)])

    @staticmethod
    def _turned(c: float, s: float, along: float, aside: float) -> tuple[float, float]:
        return c * along - s * aside, s * along + c * aside
