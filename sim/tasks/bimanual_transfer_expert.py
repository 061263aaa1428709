"""Scripted expert of ``bimanual_transfer``: a vector field over both tool centre points, both openings and the cube.

There is no phase counter and no clock; who does what is read off the geometry each time::

    receiver closed on the cube   -> giver opens, then draws back          (release, retreat)
    giver closed on the cube      -> giver brings it to the meeting point; there the receiver comes in and closes
    nobody holds it               -> giver comes down onto it and closes   (approach, descend); receiver waits

Giver and receiver meet face to face, level, the receiver's jaw turned by a right angle: each holds two faces of the
cube that the other leaves free. :mod:`robopolicy.sim.tasks.arm_plane_motion` takes an arm from pose to pose.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.control.robot import RobotKinematics
from robopolicy.embodiment import Embodiment
from robopolicy.protocols import PolicySpec
from robopolicy.sim.tasks.arm_plane_motion import ArmPlane, PlaneLimits, PlanePose
from robopolicy.types import ActionChunk, Observation

__all__ = ["BimanualTransferExpert", "TransferMotion"]

Array = NDArray[np.floating]
DOWN_RAD = np.pi / 2
LEVEL = np.zeros(2)
"""Pitch and roll of the giver at the meeting point."""
LEVEL_TURNED = np.array([0.0, np.pi / 2])
"""The same of the receiver."""


@dataclass(frozen=True)
class TransferMotion:
    """Where the arms go.

    Attributes:
        clearance_m: Height above the cube at which the giver travels.
        slope: Height asked for per metre of distance in the plane beyond the funnel's mouth.
        mouth_m: Distance in the plane within which the giver may be all the way down.
        wait_m: Distance from the meeting point at which an arm waits its turn.
        squeeze: How far below the opening at which the jaw touches the cube it is told to close.
        limits: Speeds of the arms.
    """

    clearance_m: float = 0.10
    slope: float = 2.5
    mouth_m: float = 0.008
    wait_m: float = 0.12
    squeeze: float = 0.3
    limits: PlaneLimits = field(default_factory=PlaneLimits)


class BimanualTransferExpert:
    """Policy protocol; see the module.

    Args:
        embodiment: Robot with arms ``left`` and ``right`` as :class:`ArmPlane` wants them, and with
            ``joint_position`` actions and state.
        environment_state_names: [E] channel names of the task's privileged state.
        bases: Arm -> (position [3] m, rotation [3, 3]) of its base in the world.
        meeting_m: [3] where the cube changes hands, world.
        cube_size_m: Edge length of the cube.
        motion: Shapes and speeds.
    """

    def __init__(
        self,
        embodiment: Embodiment,
        environment_state_names: tuple[str, ...],
        *,
        bases: Mapping[str, tuple[Array, Array]],
        meeting_m: Array,
        cube_size_m: float = 0.04,
        motion: TransferMotion | None = None,
    ):
        self.motion = motion or TransferMotion()
        self._meeting = np.asarray(meeting_m, float)
        width_m = embodiment.arm("left").gripper_width_m
        self._grip, self._margin = cube_size_m / width_m, 0.0015 / width_m
        self._closed = max(0.0, self._grip - self.motion.squeeze)
        self._names = environment_state_names
        self._arms = {
            part.name: ArmPlane(part, bases[part.name], self.motion.limits, embodiment.control_dt_s)
            for part in RobotKinematics(embodiment).parts
        }
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
        poses = {name: arm.pose(joints) for name, arm in self._arms.items()}
        wanted = self._decide(poses, cube, axis, giver, receiver)
        values = np.tile(joints, (2, 1))
        for name, arm in self._arms.items():
            values[:, arm.part.joints] = arm.advance(now_ns, joints, poses[name], wanted[name])
            values[:, arm.gripper] = wanted[name].opening
        card = self._spec.embodiment
        return ActionChunk(values, now_ns, card.control_dt_s, card.hash, horizon=1)

    def _decide(
        self, poses: Mapping[str, PlanePose], cube: Array, axis: Array, giver: str, receiver: str
    ) -> dict[str, PlanePose]:
        """Where both arms shall go."""
        give, take = self._arms[giver], self._arms[receiver]
        mine, other = poses[giver], poses[receiver]
        wait = self._waiting(take, LEVEL_TURNED)
        if self._holds(other, take.local(cube)):
            back = self._waiting(give, LEVEL)
            clear = mine.opening > self._grip + 6 * self._margin
            stay = PlanePose(take.local(self._meeting), LEVEL_TURNED, self._closed)
            return {giver: back if clear else PlanePose(mine.position, LEVEL, 1.0), receiver: stay}
        if self._holds(mine, give.local(cube)):
            offset = give.local(cube) - mine.position
            carry = PlanePose(give.local(self._meeting) - offset, LEVEL, self._closed)
            return {giver: carry, receiver: self._receive(mine, other, cube, take.local(cube), wait)}
        return {giver: self._pick(mine, give.local(cube), give.yaw(axis)), receiver: wait}

    def _holds(self, pose: PlanePose, cube: Array) -> bool:
        return pose.opening < self._grip + self._margin and float(np.linalg.norm(cube - pose.position)) < 0.025

    def _waiting(self, arm: ArmPlane, turn: Array) -> PlanePose:
        """Open, ``wait_m`` short of the meeting point."""
        place = arm.local(self._meeting)
        place[:2] *= 1.0 - self.motion.wait_m / math.hypot(place[0], place[1])
        return PlanePose(place, turn, 1.0)

    def _receive(self, giver: PlanePose, pose: PlanePose, cube: Array, cube_here: Array, wait: PlanePose) -> PlanePose:
        """Wait for the cube; come in when it is at the meeting point; close when it is between the fingers.

        Args:
            giver: Of the other arm.
            pose: Of this arm.
            cube: [3] world.
            cube_here: [3] in the frame of this arm's base.
            wait: Where this arm waits.
        """
        coming = float(np.linalg.norm(cube_here - pose.position)) < 0.7 * self.motion.wait_m
        near_m, level_rad = (0.03, 0.25) if coming else (0.01, 0.08)
        if np.linalg.norm(cube - self._meeting) > near_m or np.abs(giver.turn).max() > level_rad:
            return wait
        off_m = np.abs(cube_here - pose.position).max()
        ready = off_m < 0.008 and np.abs(pose.turn - wait.turn).max() < 0.1
        # once it has begun to close it puts up with more
        closing = pose.opening < 0.9 and off_m < 0.014
        return PlanePose(cube_here, wait.turn, self._closed if ready or closing else 1.0)

    def _pick(self, pose: PlanePose, cube: Array, cube_yaw_rad: float) -> PlanePose:
        """Come down onto the cube along a funnel, fingers along one of its faces; close when it is between them."""
        motion, offset = self.motion, cube - pose.position
        # with the tool down, the fingers close along azimuth + pi/2 - roll; the cube looks the same every quarter turn
        roll_error = _wrap(math.atan2(cube[1], cube[0]) - cube_yaw_rad - pose.turn[1], np.pi / 2)
        turn = np.array([DOWN_RAD, _wrap(pose.turn[1] + roll_error, np.pi)])
        error = abs(DOWN_RAD - pose.turn[0]) + abs(roll_error)
        beside_m = float(np.linalg.norm(offset[:2]))
        near_m = 0.008 if pose.opening > 1.0 - 3 * self._margin else 0.014
        if beside_m < near_m and abs(offset[2]) < near_m and error < 0.2:
            return PlanePose(cube, turn, self._closed)
        rise_m = motion.slope * max(0.0, beside_m + 0.08 * error - motion.mouth_m)
        return PlanePose(cube + np.array([0.0, 0.0, min(motion.clearance_m, rise_m)]), turn, 1.0)


def _wrap(angle_rad: float, period_rad: float) -> float:
    """The equivalent angle nearest to zero."""
    return angle_rad - period_rad * round(angle_rad / period_rad)
