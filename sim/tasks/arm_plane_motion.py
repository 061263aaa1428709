"""Smooth references for an arm that moves in the vertical plane of its base and tool.

A pose is a position, a pitch of the approach axis (0 level, pi/2 down) and a roll about it: five numbers, so that the
roll of the forearm stays zero and nothing on the way is singular. Speeds, accelerations and jerks of the reference are
capped. It leaks towards what is measured, so that a disturbance is not undone in one jump, and begins anew at the
measured pose whenever a call does not follow the last one by one control step.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robopolicy.control.robot import ArmPart

__all__ = ["ArmPlane", "PlaneLimits", "PlanePose", "approach_rotation"]

Array = NDArray[np.floating]


@dataclass(frozen=True)
class PlaneLimits:
    """How a reference moves.

    Attributes:
        speed_m_s: Largest speed of the TCP.
        acceleration_m_s2, jerk_m_s3: Largest changes of commanded velocity and acceleration per second.
        gain_hz: Speed asked for per metre left.
        turn_speed_rad_s: Largest rate of pitch and roll.
        turn_acceleration_rad_s2, turn_jerk_rad_s3: Largest changes of rate and acceleration per second.
        turn_gain_hz: Rate asked for per radian left.
        answer_s: Time constant with which a velocity follows what is asked for.
        level_m: Height of the TCP above which the tool may turn to level.
        lag_s: By how much the measured pose trails the reference.
        leak: Share of an unexpected displacement that the reference takes over in one step.
    """

    speed_m_s: float = 0.45
    acceleration_m_s2: float = 1.5
    jerk_m_s3: float = 25.0
    gain_hz: float = 5.0
    turn_speed_rad_s: float = 1.6
    turn_acceleration_rad_s2: float = 7.0
    turn_jerk_rad_s3: float = 50.0
    turn_gain_hz: float = 4.0
    answer_s: float = 0.05
    level_m: float = 0.09
    lag_s: float = 0.012
    leak: float = 0.05


@dataclass(frozen=True)
class PlanePose:
    """Of a TCP in the frame of its arm's base.

    Attributes:
        position: [3] m.
        turn: [2] pitch and roll in rad.
        opening: Of the gripper, 0..1.
    """

    position: Array
    turn: Array
    opening: float


@dataclass(frozen=True)
class _Last:
    """What was asked for last, to be reached at ``time_ns``: m, m/s, m/s^2, rad, rad/s, rad/s^2; ``joints`` [n]."""

    time_ns: int
    position: Array
    velocity: Array
    acceleration: Array
    turn: Array
    turn_rate: Array
    turn_acceleration: Array
    joints: Array


class ArmPlane:
    """One arm: its place in the world, its measured pose, and the reference that it follows.

    Args:
        part: Arm of six joints: waist, shoulder, elbow, roll of the forearm, wrist, roll of the gripper.
        base: (position [3] m, rotation [3, 3]) of its base in the world.
        limits: Speeds and shapes.
        dt_s: Control step.
    """

    def __init__(self, part: ArmPart, base: tuple[Array, Array], limits: PlaneLimits, dt_s: float):
        self.part, self.limits, self._dt_s = part, limits, dt_s
        self.gripper = int(part.end[0])
        self._base_position, self._base_rotation = base
        self._last: _Last | None = None

    def local(self, point: Array) -> Array:
        """[3] of the world -> in the frame of the arm's base."""
        return self._base_rotation.T @ (point - self._base_position)

    def yaw(self, axis: Array) -> float:
        """Angle about the vertical, in the frame of the base, of a level direction [3] of the world."""
        along = self._base_rotation.T @ axis
        return math.atan2(along[1], along[0])

    def pose(self, joints: Array) -> PlanePose:
        """Of the tool at command channels [J]."""
        position, rotation = self.part.kinematics.forward(joints[self.part.joints])
        azimuth = math.atan2(position[1], position[0])
        along, side = _level(azimuth)
        y, z = rotation[:, 1], rotation[:, 2]
        turn = [math.atan2(-z[2], z @ along), math.atan2(y @ np.cross(z, side), y @ side)]
        return PlanePose(position, np.array(turn), float(joints[self.gripper]))

    def advance(self, now_ns: int, joints: Array, pose: PlanePose, wanted: PlanePose) -> Array:
        """[2, n] joints one and two control steps on.

        Args:
            now_ns: Time of the observation.
            joints: [J] measured.
            pose: Of the tool at these.
            wanted: Where it shall go.
        """
        limits, dt_s, last = self.limits, self._dt_s, self._continue(now_ns, joints, pose)
        error = wanted.position - pose.position
        # while it is well below the path it goes up first, so that nothing sweeps over the table
        error[:2] *= float(np.clip(1.3 - error[2] / 0.05, 0.0, 1.0))
        push = (_cap(limits.gain_hz * error, limits.speed_m_s) - last.velocity) / limits.answer_s
        push = _cap(push, limits.acceleration_m_s2) - last.acceleration
        acceleration = last.acceleration + _cap(push, limits.jerk_m_s3 * dt_s)
        left = wanted.turn - last.turn
        if left[0] < 0:  # it gets level only where there is room below it
            left[0] *= float(np.clip((pose.position[2] - limits.level_m) / 0.04, 0.0, 1.0))
        rate = np.clip(limits.turn_gain_hz * left, -limits.turn_speed_rad_s, limits.turn_speed_rad_s)
        push = (rate - last.turn_rate) / limits.answer_s
        push = np.clip(push, -limits.turn_acceleration_rad_s2, limits.turn_acceleration_rad_s2)
        most = limits.turn_jerk_rad_s3 * dt_s
        turn_acceleration = last.turn_acceleration + np.clip(push - last.turn_acceleration, -most, most)
        velocity = last.velocity + acceleration * dt_s
        turn_rate = last.turn_rate + turn_acceleration * dt_s
        position, turn = last.position + velocity * dt_s, last.turn + turn_rate * dt_s
        first = self._solve(position, turn, last.joints)
        # the second row goes on with the same acceleration; without it the path through single knots would wobble
        ahead = position + (velocity + acceleration * dt_s) * dt_s
        second = self._solve(ahead, turn + (turn_rate + turn_acceleration * dt_s) * dt_s, first)
        self._last = _Last(
            now_ns + round(dt_s * 1e9), position, velocity, acceleration, turn, turn_rate, turn_acceleration, first
        )
        return np.stack([first, second])

    def _continue(self, now_ns: int, joints: Array, pose: PlanePose) -> _Last:
        """The last reference, leaked towards the measured pose; the measured pose at rest when there is none."""
        last, limits = self._last, self.limits
        if last is None or abs(last.time_ns - now_ns) > 1000:
            still, even = np.zeros(3), np.zeros(2)
            return _Last(now_ns, pose.position, still, still, pose.turn, even, even, joints[self.part.joints])
        off_m = pose.position - (last.position - limits.lag_s * last.velocity)
        off_rad = pose.turn - (last.turn - limits.lag_s * last.turn_rate)
        return dataclasses.replace(
            last, position=last.position + limits.leak * off_m, turn=last.turn + limits.leak * off_rad
        )

    def _solve(self, position: Array, turn: Array, joints: Array) -> Array:
        """[n] joints; begun with waist and both rolls where they have to be: only the plane is left to solve."""
        azimuth = math.atan2(position[1], position[0])
        start = joints.copy()
        start[0], start[3], start[5] = azimuth, 0.0, turn[1]
        rotation = approach_rotation(azimuth, turn[0], turn[1])
        return self.part.kinematics.solve(start, position, rotation, iterations=8, damping=0.005).q_arm


def approach_rotation(azimuth_rad: float, pitch_rad: float, roll_rad: float) -> Array:
    """[3, 3] of a TCP whose z lies in the vertical plane of that azimuth, ``pitch`` below level, turned by ``roll``.

    At roll 0 the y axis, along which the fingers close, is level.
    """
    along, side = _level(azimuth_rad)
    up = np.array([0.0, 0.0, 1.0])
    z = math.cos(pitch_rad) * along - math.sin(pitch_rad) * up
    y = math.cos(roll_rad) * side + math.sin(roll_rad) * np.cross(z, side)
    return np.stack([np.cross(y, z), y, z], axis=1)


def _level(azimuth_rad: float) -> tuple[Array, Array]:
    """Level unit vectors along that azimuth and to the left of it."""
    c, s = math.cos(azimuth_rad), math.sin(azimuth_rad)
    return np.array([c, s, 0.0]), np.array([-s, c, 0.0])


def _cap(vector: Array, largest: float) -> Array:
    norm = float(np.linalg.norm(vector))
    return vector if norm <= largest else vector * (largest / norm)
