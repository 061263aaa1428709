"""Smooth references for scripted experts: where the TCP is asked to be next, with capped speed and acceleration.

An expert decides, from what it sees, how far the TCP still has to move and turn. A :class:`MotionReference` makes the
target of the next control step out of that, and one step further so that the path through the knots stays smooth::

    measured pose ----> leak ----> last reference ----> + velocity * dt ----> knot 0 (next step), knot 1 (look ahead)
    move, turn    ----> gain, capped speed, capped change of speed ----^

All it remembers is the reference asked for last. It leaks towards what is measured, so that a disturbance is not undone
in one jump, and begins anew at the measured pose whenever a call does not follow the last one by one control step, as
at the start of an episode.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robopolicy.rotations import axis_angle_to_matrix, matrix_to_axis_angle

__all__ = ["MotionLimits", "MotionReference", "cap", "clip", "nearest_angle"]

Array = NDArray[np.floating]


@dataclass(frozen=True)
class MotionLimits:
    """How a reference moves.

    Attributes:
        speed_m_s: Largest speed of the TCP.
        acceleration_m_s2: Largest change of the commanded velocity per second.
        gain_hz: Speed asked for per metre of distance left; sets how softly it arrives.
        yaw_speed_rad_s: Largest turning rate.
        yaw_acceleration_rad_s2: Largest change of the turning rate per second.
        yaw_gain_hz: Turning rate asked for per radian left.
        lag_s: By how much the measured pose trails the reference.
        leak: Share of an unexpected displacement that the reference takes over in one step.
    """

    speed_m_s: float = 0.40
    acceleration_m_s2: float = 1.2
    gain_hz: float = 5.0
    yaw_speed_rad_s: float = 1.6
    yaw_acceleration_rad_s2: float = 5.0
    yaw_gain_hz: float = 4.0
    lag_s: float = 0.012
    leak: float = 0.1


@dataclass(frozen=True)
class _Last:
    """What was asked for last, to be reached at ``time_ns``; ``turn`` is a yaw (rad) or a matrix [3, 3]."""

    time_ns: int
    position: Array
    velocity: Array
    turn: float | Array
    rate: float | Array


class MotionReference:
    """The reference of one TCP: position with a yaw about the vertical (:meth:`planar`), or with a full rotation
    (:meth:`spatial`). An expert keeps to one of the two.

    Args:
        limits: Speeds, accelerations, gains.
        dt_s: Control step.
    """

    def __init__(self, limits: MotionLimits, dt_s: float):
        self.limits, self._dt_s = limits, dt_s
        self._last: _Last | None = None

    def asked(self, now_ns: int) -> Array | None:
        """[3] position asked for at ``now_ns``, or None when the reference begins anew there."""
        last = self._last
        return None if last is None or abs(last.time_ns - now_ns) > 1000 else last.position

    def planar(
        self, now_ns: int, position: Array, yaw_rad: float, move_m: Array, turn_rad: float
    ) -> tuple[Array, tuple[float, float]]:
        """Advance by one control step.

        Args:
            now_ns: Time of the observation.
            position: [3] measured TCP, m.
            yaw_rad: Measured yaw.
            move_m: [3] from the measured TCP to where it shall go.
            turn_rad: From the measured yaw to the one it shall have.

        Returns:
            Positions [2, 3] and yaws (2) of the next step and of the one after it.
        """
        limits, dt_s, last = self.limits, self._dt_s, self._last
        velocity_0: Array
        if last is None or abs(last.time_ns - now_ns) > 1000:
            start, velocity_0, yaw_0, rate_0 = position, np.zeros(3), yaw_rad, 0.0
        else:
            yaw_0, rate_0 = float(last.turn), float(last.rate)
            off_rad = nearest_angle(yaw_rad - (yaw_0 - limits.lag_s * rate_0))
            start, velocity_0 = self._leaked(last, position), last.velocity
            yaw_0 = yaw_0 + limits.leak * off_rad
        velocity = self._velocity(velocity_0, move_m)
        rate = clip(limits.yaw_gain_hz * (turn_rad - (yaw_0 - yaw_rad)), limits.yaw_speed_rad_s)
        rate = rate_0 + clip(rate - rate_0, limits.yaw_acceleration_rad_s2 * dt_s)
        target, yaw = start + velocity * dt_s, yaw_0 + rate * dt_s
        self._last = _Last(now_ns + round(dt_s * 1e9), target, velocity, yaw, rate)
        # the second knot goes on with the same acceleration; without it the path through single knots would wobble
        ahead = target + (2 * velocity - velocity_0) * dt_s
        return np.stack([target, ahead]), (yaw, yaw + (2 * rate - rate_0) * dt_s)

    def spatial(
        self, now_ns: int, position: Array, rotation: Array, move_m: Array, turn_rad: Array
    ) -> tuple[Array, Array]:
        """Advance by one control step.

        Args:
            now_ns: Time of the observation.
            position: [3] measured TCP, m.
            rotation: [3, 3] measured.
            move_m: [3] from the measured TCP to where it shall go.
            turn_rad: [3] rotation vector in the base frame, from the measured rotation to the one it shall have.

        Returns:
            Positions [2, 3] and rotations [2, 3, 3] of the next step and of the one after it.
        """
        limits, dt_s, last = self.limits, self._dt_s, self._last
        velocity_0: Array
        rate_0: Array
        if last is None or abs(last.time_ns - now_ns) > 1000:
            start, velocity_0, turned, rate_0 = position, np.zeros(3), np.asarray(rotation, float), np.zeros(3)
        else:
            turned, rate_0 = np.asarray(last.turn), np.asarray(last.rate)
            expected = axis_angle_to_matrix(-limits.lag_s * rate_0) @ turned
            off_rad = matrix_to_axis_angle(rotation @ expected.T)
            start, velocity_0 = self._leaked(last, position), last.velocity
            turned = axis_angle_to_matrix(limits.leak * off_rad) @ turned
        velocity = self._velocity(velocity_0, move_m)
        wanted = axis_angle_to_matrix(np.asarray(turn_rad, float)) @ rotation
        rate = cap(limits.yaw_gain_hz * matrix_to_axis_angle(wanted @ turned.T), limits.yaw_speed_rad_s)
        rate = rate_0 + cap(rate - rate_0, limits.yaw_acceleration_rad_s2 * dt_s)
        target, turned = start + velocity * dt_s, axis_angle_to_matrix(rate * dt_s) @ turned
        self._last = _Last(now_ns + round(dt_s * 1e9), target, velocity, turned, rate)
        ahead = target + (2 * velocity - velocity_0) * dt_s
        return np.stack([target, ahead]), np.stack([turned, axis_angle_to_matrix((2 * rate - rate_0) * dt_s) @ turned])

    def _leaked(self, last: _Last, position: Array) -> Array:
        off_m = position - (last.position - self.limits.lag_s * last.velocity)
        return last.position + self.limits.leak * off_m

    def _velocity(self, velocity: Array, move_m: Array) -> Array:
        """[3] m/s: proportional, capped, and near the present one."""
        wanted = cap(self.limits.gain_hz * move_m, self.limits.speed_m_s)
        return velocity + cap(wanted - velocity, self.limits.acceleration_m_s2 * self._dt_s)


def cap(vector: Array, largest: float) -> Array:
    """The vector, shortened to ``largest`` if it is longer."""
    norm = float(np.linalg.norm(vector))
    return vector if norm <= largest else vector * (largest / norm)


def clip(value: float, largest: float) -> float:
    """The value within -``largest`` .. ``largest``."""
    return float(min(max(value, -largest), largest))


def nearest_angle(angle_rad: float, period_rad: float = 2 * np.pi) -> float:
    """The angle nearest to zero among those that differ from it by multiples of the period."""
    return angle_rad - period_rad * round(angle_rad / period_rad)
