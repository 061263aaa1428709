"""Scripted expert of ``peg_insert``: a vector field over TCP pose and wrist force; no clock, no counter.

``d`` is the depth of the peg's tip below the socket's face, from the TCP's height and the springs' deflection::

    d > SUNK                        -> push down, give way to what pushes from the side       (insert)
    touching, within the search     -> press with a set force, go on along a spiral           (search)
    near the face, not touching     -> straight down until it touches                         (touch)
    further out than the search     -> up, and back to the middle from above                  (begin again)
    otherwise                       -> above the socket as seen, then down                    (approach)

The spiral is a field too: of the Archimedean spiral ``r = b angle`` about the seen socket the nearest winding is
followed, which the place alone tells. When the hole is under the peg the springs push it in; the force drops,
and d says where the tip is. Without the wrench d cannot tell a peg that fell from one that was pushed.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from robopolicy.embodiment import Embodiment
from robopolicy.sim.tasks.compliant_tool import ForceGauge
from robopolicy.sim.tasks.reference_motion import MotionLimits, cap, clip, nearest_angle
from robopolicy.sim.tasks.tcp_command import Decision, Seen, TcpCommand, TcpExpert

__all__ = ["PegInsertExpert"]

Array = NDArray[np.floating]

LIMITS = MotionLimits(speed_m_s=0.25, acceleration_m_s2=1.2, gain_hz=5.0)
PITCH_M = 0.0009
SEARCH_SPEED_M_S = 0.020
SEARCH_RATE_RAD_S = 6.0
PRESS_N, TOUCH_N = 7.0, 1.5
SUNK_M, NEAR_M, OVER_M = 0.0015, 0.002, 0.005
TOUCH_SPEED_M_S, INSERT_SPEED_M_S = 0.03, 0.05


class PegInsertExpert(TcpExpert):
    """Policy protocol; see the module.

    Args:
        embodiment: Robot; must take ``ee_pose`` actions.
        environment_state_names: [E] channel names of the task's privileged state.
        gauge: Reads the force on the peg from the wrench.
        along_n_m, aside_n_m: Stiffness of the peg's springs.
        face_m: TCP height at which the tip is level with the socket's face.
        shift_m: How far from where it is seen the socket may be.
        peg_m: Width of the peg, for the jaw.
    """

    def __init__(
        self,
        embodiment: Embodiment,
        environment_state_names: tuple[str, ...],
        *,
        gauge: ForceGauge,
        along_n_m: float,
        aside_n_m: float,
        face_m: float,
        shift_m: float,
        peg_m: float,
    ):
        super().__init__(TcpCommand(embodiment, environment_state_names, LIMITS, sensors=("wrench",)))
        self._gauge, self._along_n_m, self._aside_n_m = gauge, along_n_m, aside_n_m
        self._face_m, self._search_m = face_m, shift_m + 0.0008
        self._dt_s = embodiment.control_dt_s
        self._gripper = peg_m / embodiment.gripper_width_m

    def _move(self, seen: Seen) -> Decision:
        force = self._gauge.read(seen.sensor["wrench"], seen.yaw)
        socket_yaw = math.atan2(seen.named["socket_yaw.sin"], seen.named["socket_yaw.cos"])
        turn = nearest_angle(socket_yaw - seen.yaw, math.pi / 2)
        return self._velocity(seen, force, turn) / LIMITS.gain_hz, turn, self._gripper

    def _velocity(self, seen: Seen, force: Array, turn: float) -> Array:
        """[3] m/s."""
        socket = seen.vector("socket_position", "xy")
        offset, asked = seen.tcp[:2] - socket, self._command.asked(seen)[:2] - socket
        radius = float(np.hypot(*offset))
        press_n = float(force[2])
        depth_m = self._face_m - seen.tcp[2] - max(press_n, 0.0) / self._along_n_m
        if depth_m > SUNK_M:
            aside = force[:2] / self._aside_n_m
            down = clip(0.004 * (2.0 * PRESS_N - press_n), INSERT_SPEED_M_S)
            return np.array([*cap(LIMITS.gain_hz * aside, 0.02), -down])
        near = depth_m > -NEAR_M
        if near and radius > self._search_m:
            return np.array([0.0, 0.0, 0.05])
        if near and press_n > TOUCH_N:
            down = clip(4.0 * (PRESS_N - press_n) / self._along_n_m, TOUCH_SPEED_M_S)
            return np.array([*self._spiral(asked), -down])
        if near:
            return np.array([0.0, 0.0, -TOUCH_SPEED_M_S])
        centred = radius < 0.001 and abs(turn) < 0.02
        funnel = (
            0.0 if centred else OVER_M + min(0.05, 2.0 * max(0.0, radius - 0.01) + 0.1 * max(0.0, abs(turn) - 0.05))
        )
        height = -depth_m - funnel
        down = clip(LIMITS.gain_hz * height, LIMITS.speed_m_s) if not centred else max(TOUCH_SPEED_M_S, 4.0 * height)
        return np.array([*cap(-LIMITS.gain_hz * offset, LIMITS.speed_m_s), -down])

    def _spiral(self, asked: Array) -> Array:
        """[2] m/s onto the next point of the spiral ``radius = b * angle``.

        Args:
            asked: [2] where the TCP was asked to be by now, from the seen socket. The measured place trails it by
                a good part of a turn, which would spoil the pitch.
        """
        b, radius = PITCH_M / (2 * math.pi), float(np.hypot(*asked))
        angle = math.atan2(asked[1], asked[0])
        angle += 2 * math.pi * max(0.0, round((radius / b - angle) / (2 * math.pi)))  # on the nearest winding
        then = max(angle, 0.0) + self._dt_s * min(SEARCH_RATE_RAD_S, SEARCH_SPEED_M_S / max(radius, 1e-4))
        return cap((b * then * np.array([math.cos(then), math.sin(then)]) - asked) / self._dt_s, 2 * SEARCH_SPEED_M_S)
