"""Scripted expert of ``bimanual_transfer``: a vector field over both tool centre points, both openings and the cube.

There is no phase counter and no clock; who does what is read off the geometry each time::

    receiver closed on the cube   -> giver opens, then draws back          (release, retreat)
    giver closed on the cube      -> giver brings it to the meeting point; there the receiver comes in and closes
    nobody holds it               -> giver comes down onto it and closes   (approach, descend); receiver waits

Each arm moves in the vertical plane of its base and tool: a pose is a position, a pitch (0 level, pi/2 down) and a roll
about the approach axis, five numbers whose reference paths are smooth. The roll of the forearm stays zero, so nothing
on the way is singular. :meth:`robopolicy.control.kinematics.Kinematics.solve` turns a pose into joints.

All it remembers is the reference it asked for last; it leaks towards what is measured, and begins anew whenever an
observation does not follow the last one by one control step.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.control.robot import ArmPart, RobotKinematics
from robopolicy.embodiment import Embodiment
from robopolicy.protocols import PolicySpec
from robopolicy.types import ActionChunk, Observation

__all__ = ["BimanualTransferExpert", "TransferMotion", "approach_rotation"]

Array = NDArray[np.floating]
DOWN_RAD = np.pi / 2


@dataclass(frozen=True)
class TransferMotion:
    """How the arms move.

    Attributes:
        speed_m_s: Largest speed of a TCP.
        acceleration_m_s2, jerk_m_s3: Largest changes of commanded velocity and acceleration per second.
        gain_hz: Speed asked for per metre left.
        turn_speed_rad_s: Largest rate of pitch and roll.
        turn_acceleration_rad_s2, turn_jerk_rad_s3: Largest changes of rate and acceleration per second.
        turn_gain_hz: Rate asked for per radian left.
        clearance_m: Height above the cube at which the giver travels.
        slope: Height asked for per metre of distance in the plane beyond the funnel's mouth.
        mouth_m: Distance in the plane within which the giver may be all the way down.
        level_m: Height of the TCP above which the giver turns to level.
        wait_m: Distance from the meeting point at which an arm waits its turn.
        squeeze: How far below the opening at which the jaw touches the cube it is told to close.
        answer_s: Time constant with which a velocity follows what is asked for.
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
    clearance_m: float = 0.10
    slope: float = 2.5
    mouth_m: float = 0.008
    level_m: float = 0.09
    wait_m: float = 0.12
    squeeze: float = 0.3
    answer_s: float = 0.05
    lag_s: float = 0.012
    leak: float = 0.05


@dataclass(frozen=True)
class _Pose:
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
class _Reference:
    """What was asked for last, to be reached at ``time_ns``: m, m/s, m/s^2, rad, rad/s, rad/s^2; ``joints`` [n]."""

    time_ns: int
    position: Array
    velocity: Array
    acceleration: Array
    turn: Array
    turn_rate: Array
    turn_acceleration: Array
    joints: Array


@dataclass(frozen=True)
class _Arm:
    part: ArmPart
    base_position: Array
    base_rotation: Array
    gripper: int


def approach_rotation(azimuth_rad: float, pitch_rad: float, roll_rad: float) -> Array:
    """[3, 3] of a TCP whose z lies in the vertical plane of that azimuth, ``pitch`` below level, turned by ``roll``.

    At roll 0 the y axis, along which the fingers close, is level.
    """
    ca, sa, cp, sp = math.cos(azimuth_rad), math.sin(azimuth_rad), math.cos(pitch_rad), math.sin(pitch_rad)
    across = np.array([-sa, ca, 0.0])
    z = np.array([cp * ca, cp * sa, -sp])
    y = math.cos(roll_rad) * across + math.sin(roll_rad) * np.array([sp * ca, sp * sa, cp])
    return np.stack([np.cross(y, z), y, z], axis=1)


class BimanualTransferExpert:
    """Policy protocol; see the module.

    Args:
        embodiment: Robot with arms ``left`` and ``right`` of six joints: waist, shoulder, elbow, roll of the forearm,
            wrist, roll of the gripper; ``joint_position`` actions and state.
        environment_state_names: [E] channel names of the task's privileged state.
        bases: Arm -> (position [3] m, rotation [3, 3]) of its base in the world.
        cube_size_m: Edge length of the cube.
        meeting_m: [3] where the cube changes hands, world.
        motion: Speeds and shapes.
    """

    def __init__(
        self,
        embodiment: Embodiment,
        environment_state_names: tuple[str, ...],
        *,
        bases: Mapping[str, tuple[Array, Array]],
        cube_size_m: float = 0.04,
        meeting_m: Array,
        motion: TransferMotion | None = None,
    ):
        self.motion = motion or TransferMotion()
        self._half_m, self._meeting = cube_size_m / 2, np.asarray(meeting_m, float)
        width_m = embodiment.arm("left").gripper_width_m
        self._grip, self._margin = cube_size_m / width_m, 0.0015 / width_m
        self._closed = max(0.0, self._grip - self.motion.squeeze)
        self._dt_s = embodiment.control_dt_s
        self._names = environment_state_names
        kinematics = RobotKinematics(embodiment)
        self._arms = {part.name: _Arm(part, *bases[part.name], int(part.end[0])) for part in kinematics.parts}
        self._last: dict[str, _Reference] = {}
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
        """Joint targets of the next control step, and a look ahead; ``rng``, ``prefix``, ``goal`` are not used."""
        assert observation.environment_state is not None
        now_ns, joints = int(observation.time_ns[-1]), np.asarray(observation.state[-1], float)
        seen = dict(zip(self._names, map(float, observation.environment_state[-1]), strict=True))
        cube = np.array([seen[f"cube_position.{a}"] for a in "xyz"])
        axis = np.array([seen[f"cube_rotation.{i}"] for i in range(3)])
        giver, receiver = ("right", "left") if seen["receiver_is_left"] > 0.5 else ("left", "right")
        poses = {name: _pose(arm, joints) for name, arm in self._arms.items()}
        wanted = self._decide(poses, cube, axis, giver, receiver)
        values = np.tile(joints, (2, 1))
        for name, arm in self._arms.items():
            last = self._continue(name, poses[name], joints, now_ns)
            values[:, arm.part.joints] = self._advance(name, poses[name], wanted[name], last, now_ns)
            values[:, arm.gripper] = wanted[name].opening
        return ActionChunk(values, now_ns, self._dt_s, self._spec.embodiment.hash, horizon=1)

    # ------------------------------------------------------------------------------------------------------ deciding
    def _decide(
        self, poses: Mapping[str, _Pose], cube: Array, axis: Array, giver: str, receiver: str
    ) -> dict[str, _Pose]:
        """Where both arms shall go."""
        give, take = self._arms[giver], self._arms[receiver]
        mine, other = poses[giver], poses[receiver]
        cube_give, cube_take = _into(give, cube), _into(take, cube)
        given, taken = self._holds(mine, cube_give), self._holds(other, cube_take)
        wait_give, wait_take = self._waiting(give, 0.0), self._waiting(take, np.pi / 2)
        if taken:
            stay = _Pose(_into(take, self._meeting), wait_take.turn, self._closed)
            clear = mine.opening > self._grip + 6 * self._margin
            return {giver: wait_give if clear else _Pose(mine.position, wait_give.turn, 1.0), receiver: stay}
        if given:
            carry = _Pose(_into(give, self._meeting) - (cube_give - mine.position), wait_give.turn, self._closed)
            return {giver: carry, receiver: self._receive(mine, other, cube, cube_take, wait_take)}
        return {giver: self._pick(give, mine, cube_give, axis), receiver: wait_take}

    def _holds(self, pose: _Pose, cube: Array) -> bool:
        return pose.opening < self._grip + self._margin and float(np.linalg.norm(cube - pose.position)) < 0.025

    def _waiting(self, arm: _Arm, roll_rad: float) -> _Pose:
        """Level, open, ``wait_m`` short of the meeting point."""
        meeting = _into(arm, self._meeting)
        flat_m = math.hypot(meeting[0], meeting[1])
        place = meeting.copy()
        place[:2] *= 1.0 - self.motion.wait_m / flat_m
        return _Pose(place, np.array([0.0, roll_rad]), 1.0)

    def _receive(self, giver: _Pose, pose: _Pose, cube: Array, cube_here: Array, wait: _Pose) -> _Pose:
        """Wait for the cube; come in when it is at the meeting point; close when it is between the fingers."""
        coming = float(np.linalg.norm(cube_here - pose.position)) < 0.7 * self.motion.wait_m
        near_m, level_rad = (0.03, 0.25) if coming else (0.01, 0.08)
        if np.linalg.norm(cube - self._meeting) > near_m or np.abs(giver.turn).max() > level_rad:
            return wait
        offset = cube_here - pose.position
        if np.abs(offset).max() < 0.008 and np.abs(pose.turn - wait.turn).max() < 0.1:
            return _Pose(cube_here, wait.turn, self._closed)
        # once it has begun to close it puts up with more
        if pose.opening < 0.9 and np.abs(offset).max() < 0.014:
            return _Pose(cube_here, wait.turn, self._closed)
        return _Pose(cube_here, wait.turn, 1.0)

    def _pick(self, arm: _Arm, pose: _Pose, cube: Array, axis: Array) -> _Pose:
        """Come down onto the cube along a funnel, fingers along one of its faces; close when it is between them."""
        motion, offset = self.motion, cube - pose.position
        x_axis = arm.base_rotation.T @ axis
        # with the tool down, the fingers close along azimuth + pi/2 - roll
        wanted_roll = math.atan2(cube[1], cube[0]) - math.atan2(x_axis[1], x_axis[0])
        roll_error = _wrap(wanted_roll - pose.turn[1], np.pi / 2)
        turn = np.array([DOWN_RAD, pose.turn[1] + roll_error])
        turn[1] -= np.pi * round(turn[1] / np.pi)
        error = abs(DOWN_RAD - pose.turn[0]) + abs(roll_error)
        beside_m = float(np.linalg.norm(offset[:2]))
        near_m = 0.008 if pose.opening > 1.0 - 3 * self._margin else 0.014
        if beside_m < near_m and abs(offset[2]) < near_m and error < 0.2:
            return _Pose(cube, turn, self._closed)
        rise_m = motion.slope * max(0.0, beside_m + 0.08 * error - motion.mouth_m)
        return _Pose(cube + np.array([0.0, 0.0, min(motion.clearance_m, rise_m)]), turn, 1.0)

    # -------------------------------------------------------------------------------------------------------- moving
    def _continue(self, name: str, pose: _Pose, joints: Array, now_ns: int) -> _Reference:
        """The last reference, leaked towards the measured pose; the measured pose at rest when there is none."""
        last, motion = self._last.get(name), self.motion
        if last is None or abs(last.time_ns - now_ns) > 1000:
            arm = joints[self._arms[name].part.joints]
            still, even = np.zeros(3), np.zeros(2)
            return _Reference(now_ns, pose.position, still, still, pose.turn, even, even, arm)
        off_m = pose.position - (last.position - motion.lag_s * last.velocity)
        off_rad = pose.turn - (last.turn - motion.lag_s * last.turn_rate)
        return dataclasses.replace(
            last, position=last.position + motion.leak * off_m, turn=last.turn + motion.leak * off_rad
        )

    def _advance(self, name: str, pose: _Pose, wanted: _Pose, last: _Reference, now_ns: int) -> Array:
        """[2, n] joints one and two control steps on."""
        motion, dt_s = self.motion, self._dt_s
        error = wanted.position - pose.position
        # while it is well below the path it goes up first, so that neither jaw nor cube sweeps over the table
        error[:2] *= float(np.clip(1.3 - error[2] / 0.05, 0.0, 1.0))
        push = (_cap(motion.gain_hz * error, motion.speed_m_s) - last.velocity) / motion.answer_s
        push = _cap(push, motion.acceleration_m_s2) - last.acceleration
        acceleration = last.acceleration + _cap(push, motion.jerk_m_s3 * dt_s)
        left = wanted.turn - last.turn
        if left[0] < 0:  # it gets level only where there is room below it
            left[0] *= float(np.clip((pose.position[2] - motion.level_m) / 0.04, 0.0, 1.0))
        rate = np.clip(motion.turn_gain_hz * left, -motion.turn_speed_rad_s, motion.turn_speed_rad_s)
        push = (rate - last.turn_rate) / motion.answer_s
        push = np.clip(push, -motion.turn_acceleration_rad_s2, motion.turn_acceleration_rad_s2)
        most = motion.turn_jerk_rad_s3 * dt_s
        turn_acceleration = last.turn_acceleration + np.clip(push - last.turn_acceleration, -most, most)
        velocity = last.velocity + acceleration * dt_s
        turn_rate = last.turn_rate + turn_acceleration * dt_s
        position, turn = last.position + velocity * dt_s, last.turn + turn_rate * dt_s
        first = self._solve(name, position, turn, last.joints)
        # the second row goes on with the same acceleration; without it the path through single knots would wobble
        ahead = position + (velocity + acceleration * dt_s) * dt_s
        second = self._solve(name, ahead, turn + (turn_rate + turn_acceleration * dt_s) * dt_s, first)
        self._last[name] = _Reference(
            now_ns + round(dt_s * 1e9), position, velocity, acceleration, turn, turn_rate, turn_acceleration, first
        )
        return np.stack([first, second])

    def _solve(self, name: str, position: Array, turn: Array, joints: Array) -> Array:
        """[n] joints; begun with waist and both rolls where they have to be: only the plane is left to solve."""
        azimuth = math.atan2(position[1], position[0])
        start = joints.copy()
        start[0], start[3], start[5] = azimuth, 0.0, turn[1]
        rotation = approach_rotation(azimuth, turn[0], turn[1])
        kinematics = self._arms[name].part.kinematics
        return kinematics.solve(start, position, rotation, iterations=8, damping=0.005).q_arm


def _pose(arm: _Arm, joints: Array) -> _Pose:
    position, rotation = arm.part.kinematics.forward(joints[arm.part.joints])
    azimuth = math.atan2(position[1], position[0])
    along, across = np.array([math.cos(azimuth), math.sin(azimuth), 0.0]), np.array([0.0, 0.0, 1.0])
    z, y = rotation[:, 2], rotation[:, 1]
    pitch = math.atan2(-z @ across, z @ along)
    side = np.array([-along[1], along[0], 0.0])
    roll = math.atan2(y @ np.cross(z, side), y @ side)
    return _Pose(position, np.array([pitch, roll]), float(joints[arm.gripper]))


def _into(arm: _Arm, point: Array) -> Array:
    """World -> the frame of the arm's base."""
    return arm.base_rotation.T @ (point - arm.base_position)


def _cap(vector: Array, largest: float) -> Array:
    norm = float(np.linalg.norm(vector))
    return vector if norm <= largest else vector * (largest / norm)


def _wrap(angle_rad: float, period_rad: float) -> float:
    """The equivalent angle nearest to zero."""
    return angle_rad - period_rad * round(angle_rad / period_rad)
