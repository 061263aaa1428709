"""Controllers in joint space: positions, steps from the commanded position, velocities. Grippers stay absolute."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from robopolicy.embodiment import Embodiment
from robopolicy.robot_parts import joint_rate_channels
from robopolicy.sim.controllers.base import JointTargets, Reference, derived_card, filled
from robopolicy.types import ActionChunk

__all__ = ["JointDelta", "JointPosition", "JointVelocity"]

Array = NDArray[np.floating]


class JointPosition:
    """Absolute joint positions (rad); see :class:`robopolicy.sim.controllers.base.Controller`.

    Args:
        robot: Any robot that can be driven.
        nullspace_gain_hz: Rate at which a redundant arm is pulled to its home posture when targets of its TCP are
            turned into labels.
    """

    name = "joint_position"

    def __init__(self, robot: Embodiment, nullspace_gain_hz: float = 0.5):
        self.robot = robot
        self._targets = JointTargets(robot)
        self._pull = nullspace_gain_hz * robot.control_dt_s
        self.native = dataclasses.replace(robot, action_space="joint_position", custom_action=None)
        self.card = self._card()

    def _card(self) -> Embodiment:
        return derived_card(self.robot, self.name, action_space="joint_position")

    def to_native(self, chunk: ActionChunk, reference: Reference) -> ActionChunk:
        """The same values."""
        return dataclasses.replace(chunk, embodiment=self.native.hash)

    def from_native(self, targets: Array, reference: Reference) -> Array:
        """Joints that reach the targets, by inverse kinematics from the commanded joints where those are poses."""
        return self._targets(targets, reference.joints, pull=self._pull)


class JointDelta(JointPosition):
    """Steps (rad per control step) from the joint position commanded last."""

    name = "joint_delta"
    word = "delta"

    def _card(self) -> Embodiment:
        robot = self.robot
        channels = joint_rate_channels(robot.joints, robot.arms, robot.control_dt_s, self.word)
        grippers = {arm.gripper for arm in robot.arms}
        self._moved = np.array([name not in grippers for name in robot.joints.names])
        self._scale = 1.0
        return derived_card(
            robot, self.name, action_space=self.name, custom_action=channels, action_reference="commanded"
        )

    def to_native(self, chunk: ActionChunk, reference: Reference) -> ActionChunk:
        """Steps added up from the joints commanded for the chunk's time."""
        still = {int(i): float(reference.joints[i]) for i in np.flatnonzero(~self._moved)}
        values = filled(chunk, still)
        steps = np.cumsum(values[:, self._moved] * self._scale, axis=0)
        values[:, self._moved] = reference.joints[self._moved] + steps
        return dataclasses.replace(chunk, values=values, embodiment=self.native.hash)

    def from_native(self, targets: Array, reference: Reference) -> Array:
        """Differences of the joints that reach the targets."""
        path = super().from_native(targets, reference)
        before = np.concatenate([reference.joints[None], path[:-1]])
        values = path.copy()
        values[:, self._moved] = (path - before)[:, self._moved] / self._scale
        return values


class JointVelocity(JointDelta):
    """Velocities (rad/s), each held for one control step."""

    name = "joint_velocity"
    word = "velocity"

    def _card(self) -> Embodiment:
        card = super()._card()
        self._scale = self.robot.control_dt_s
        return card
