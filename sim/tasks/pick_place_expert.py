"""Scripted expert of ``pick_place``: a vector field over TCP pose, gripper opening, cube and goal.

There is no phase counter and no clock: what to do is read off the geometry each time, so that a policy which sees the
same can represent it::

    cube on its goal      -> open, then rise               (release, retreat)
    cube between fingers  -> close, then carry to the goal  (grasp, lift, carry, lower)
    otherwise             -> come down onto the cube        (approach, descend)

Approach and carry follow a funnel: the height asked for grows with the distance still to go in the plane, which makes
an arc out of lift, carry and lower.

All it remembers is the reference it asked for last, so that its targets form a smooth path; the reference leaks towards
what is measured, so that a disturbance is not undone in one jump. It begins anew at the start of an episode, and
whenever an observation does not follow the last one by one control step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.embodiment import Embodiment
from robopolicy.protocols import PolicySpec
from robopolicy.types import ActionChunk, Observation

__all__ = ["ExpertMotion", "PickPlaceExpert"]

Array = NDArray[np.floating]


@dataclass(frozen=True)
class ExpertMotion:
    """How the expert moves.

    Attributes:
        speed_m_s: Largest speed of the TCP.
        acceleration_m_s2: Largest change of the commanded velocity per second.
        gain_hz: Speed asked for per metre of distance left; sets how softly it arrives.
        yaw_speed_rad_s: Largest yaw rate.
        yaw_acceleration_rad_s2: Largest change of the yaw rate per second.
        yaw_gain_hz: Yaw rate asked for per radian left.
        clearance_m: Height above the cube's resting height at which it travels.
        slope: Height asked for per metre of distance in the plane beyond the funnel's mouth.
        mouth_m: Distance in the plane within which it may be all the way down.
        retreat_m: TCP height after release.
        squeeze: How far below the opening at which the jaw touches the cube it is told to close.
        lag_s: By how much the measured pose trails the reference.
        leak: Share of an unexpected displacement that the reference takes over in one step.
    """

    speed_m_s: float = 0.40
    acceleration_m_s2: float = 1.2
    gain_hz: float = 5.0
    yaw_speed_rad_s: float = 1.6
    yaw_acceleration_rad_s2: float = 5.0
    yaw_gain_hz: float = 4.0
    clearance_m: float = 0.10
    slope: float = 2.5
    mouth_m: float = 0.008
    retreat_m: float = 0.16
    squeeze: float = 0.3
    lag_s: float = 0.012
    leak: float = 0.1


@dataclass(frozen=True)
class _Reference:
    """What was asked for last, to be reached at ``time_ns``: m, m/s, rad, rad/s."""

    time_ns: int
    position: Array
    velocity: Array
    yaw: float
    yaw_rate: float


@dataclass(frozen=True)
class _Scene:
    """One observation by name: positions in m, yaws in rad, base frame."""

    tcp: Array
    yaw: float
    gripper: float
    cube: Array
    cube_yaw: float
    goal: Array


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
        self._dt_s = embodiment.control_dt_s
        self._names = environment_state_names
        self._position = embodiment.state.select("ee_position")
        self._rotation = embodiment.state.select("ee_rotation")
        self._gripper = embodiment.state.index(embodiment.gripper)
        self._action_position = embodiment.action.select("ee_position")
        self._action_rotation = embodiment.action.select("ee_rotation")
        self._action_gripper = embodiment.action.index(embodiment.gripper)
        self._last: _Reference | None = None
        self._spec = PolicySpec(
            embodiment=embodiment,
            observation_horizon=1,
            action_horizon=1,
            prediction_horizon=2,
            environment_state=len(environment_state_names),
        )

    @property
    def spec(self) -> PolicySpec:
        """One observation in; one action and the one expected after it out."""
        return self._spec

    def act(
        self,
        observation: Observation,
        *,
        rng: int | np.random.Generator = 0,
        prefix: ActionChunk | None = None,
        goal: Any = None,
    ) -> ActionChunk:
        """The TCP target of the next control step, and a look ahead; ``rng``, ``prefix``, ``goal`` are not used."""
        assert observation.environment_state is not None
        motion, now_ns = self.motion, int(observation.time_ns[-1])
        seen = self._read(observation.state[-1], observation.environment_state[-1])
        last = self._continue(seen, now_ns)
        waypoint, yaw_error, gripper = self._decide(seen)
        velocity = self._velocity(seen.tcp, last.velocity, waypoint)
        yaw_rate = _clip(motion.yaw_gain_hz * (yaw_error - (last.yaw - seen.yaw)), motion.yaw_speed_rad_s)
        yaw_rate = last.yaw_rate + _clip(yaw_rate - last.yaw_rate, motion.yaw_acceleration_rad_s2 * self._dt_s)
        position = last.position + velocity * self._dt_s
        yaw = last.yaw + yaw_rate * self._dt_s
        self._last = _Reference(now_ns + round(self._dt_s * 1e9), position, velocity, yaw, yaw_rate)
        # the second row goes on with the same acceleration; without it the path through single knots would wobble
        values = np.empty((2, len(self._spec.embodiment.action)))
        values[0, self._action_position], values[0, self._action_rotation] = position, _pointing_down(yaw)
        ahead = position + (2 * velocity - last.velocity) * self._dt_s
        yaw_ahead = yaw + (2 * yaw_rate - last.yaw_rate) * self._dt_s
        values[1, self._action_position], values[1, self._action_rotation] = ahead, _pointing_down(yaw_ahead)
        values[:, self._action_gripper] = gripper
        return ActionChunk(values, now_ns, self._dt_s, self._spec.embodiment.hash, horizon=1)

    def _continue(self, seen: _Scene, now_ns: int) -> _Reference:
        """The last reference, leaked towards the measured pose; the measured pose at rest when there is none."""
        last = self._last
        if last is None or abs(last.time_ns - now_ns) > 1000:
            return _Reference(now_ns, seen.tcp, np.zeros(3), seen.yaw, 0.0)
        motion = self.motion
        off_m = seen.tcp - (last.position - motion.lag_s * last.velocity)
        off_rad = _wrap(seen.yaw - (last.yaw - motion.lag_s * last.yaw_rate), 2 * np.pi)
        position, yaw = last.position + motion.leak * off_m, last.yaw + motion.leak * off_rad
        return _Reference(now_ns, position, last.velocity, yaw, last.yaw_rate)

    def _read(self, state: Array, environment_state: Array) -> _Scene:
        state = np.asarray(state, float)
        named = dict(zip(self._names, map(float, environment_state), strict=True))
        x_axis = state[self._rotation]
        return _Scene(
            tcp=state[self._position],
            yaw=math.atan2(x_axis[1], x_axis[0]),
            gripper=float(state[self._gripper]),
            cube=np.array([named[f"cube_position.{a}"] for a in "xyz"]),
            cube_yaw=math.atan2(named["cube_yaw.sin4"], named["cube_yaw.cos4"]) / 4,
            goal=np.array([named[f"goal_position.{a}"] for a in "xy"]),
        )

    def _decide(self, seen: _Scene) -> tuple[Array, float, float]:
        """-> (waypoint [3] m, yaw still to turn in rad, gripper command)."""
        motion, offset = self.motion, seen.cube - seen.tcp
        left_m = float(np.linalg.norm(seen.goal - seen.cube[:2]))
        beside_m = float(np.linalg.norm(offset[:2]))
        resting = seen.cube[2] < self._half_m + 0.004
        if resting and left_m < 0.02:
            clear = seen.gripper > self._grip + 2.5 * self._margin
            height = motion.retreat_m if clear else seen.tcp[2]
            return np.array([*seen.tcp[:2], height]), 0.0, 1.0
        if seen.gripper < self._grip + self._margin and np.linalg.norm(offset) < 0.025:
            height = self._half_m - 0.001 + self._funnel(left_m)
            return np.array([*(seen.goal - offset[:2]), height - offset[2]]), -_wrap(seen.yaw, 2 * np.pi), self._closed
        yaw_error = _wrap(seen.cube_yaw - seen.yaw, np.pi / 2)
        # once it has begun to close it puts up with more, or it would open and close at the edge of the tolerance
        near_m = 0.008 if seen.gripper > 1.0 - self._margin else 0.014
        if beside_m < near_m and abs(offset[2]) < near_m and abs(yaw_error) < 0.2:
            return seen.cube, yaw_error, self._closed
        height = seen.cube[2] + self._funnel(beside_m + 0.08 * abs(yaw_error))
        return np.array([*seen.cube[:2], height]), yaw_error, 1.0

    def _funnel(self, distance_m: float) -> float:
        motion = self.motion
        return min(motion.clearance_m, motion.slope * max(0.0, distance_m - motion.mouth_m))

    def _velocity(self, position: Array, velocity: Array, waypoint: Array) -> Array:
        """Commanded TCP velocity [3] m/s: proportional, capped, and near the present one."""
        motion = self.motion
        error = waypoint - position
        # while it is well below the arc it goes up first, so that neither jaw nor cube sweeps over the table
        error[:2] *= float(np.clip(1.3 - error[2] / 0.05, 0.0, 1.0))
        wanted = _cap(motion.gain_hz * error, motion.speed_m_s)
        return velocity + _cap(wanted - velocity, motion.acceleration_m_s2 * self._dt_s)


def _cap(vector: Array, largest: float) -> Array:
    norm = float(np.linalg.norm(vector))
    return vector if norm <= largest else vector * (largest / norm)


def _clip(value: float, largest: float) -> float:
    return float(min(max(value, -largest), largest))


def _wrap(angle_rad: float, period_rad: float) -> float:
    """The equivalent angle nearest to zero."""
    return angle_rad - period_rad * round(angle_rad / period_rad)


def _pointing_down(yaw_rad: float) -> tuple[float, ...]:
    """Rotation 6-D of Rz(yaw) diag(1, -1, -1): z axis of the TCP down, turned about the vertical."""
    c, s = math.cos(yaw_rad), math.sin(yaw_rad)
    return (c, s, 0.0, s, -c, 0.0)
