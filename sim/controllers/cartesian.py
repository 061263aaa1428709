"""Controllers of the tool centre point of one arm: poses, steps from the commanded pose, poses with a stiffness."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from robopolicy.channels import Channel, ChannelGroup
from robopolicy.control.robot import RobotKinematics
from robopolicy.embodiment import Embodiment
from robopolicy.errors import EmbodimentError, explain
from robopolicy.robot_parts import ee_delta_channels
from robopolicy.rotations import (
    axis_angle_to_matrix,
    matrix_to_axis_angle,
    matrix_to_rotation_6d,
    rotation_6d_to_matrix,
)
from robopolicy.sim.controllers.base import JointTargets, Reference, derived_card, filled
from robopolicy.types import ActionChunk

__all__ = ["EeDelta", "EePose", "EeStiffness"]

Array = NDArray[np.floating]


class EePose:
    """Absolute TCP pose: position (m), rotation 6-D, gripper; see :class:`robopolicy.sim.controllers.base.Controller`.

    Args:
        robot: A robot of one arm.

    Raises:
        EmbodimentError: several arms, or none with a chain.
    """

    name = "ee_pose"

    def __init__(self, robot: Embodiment):
        JointTargets(robot)  # refuses what is neither poses nor joints
        if len(robot.arms) != 1 or not robot.arms[0].chain:
            raise EmbodimentError(
                explain(
                    f"'{self.name}' is for robots of one arm, '{robot.name}' has {len(robot.arms)}",
                    given=[arm.name or "arm" for arm in robot.arms if arm.chain] or "no chain",
                    allowed=("joint_position", "joint_delta", "joint_velocity"),
                    mend="choose a controller of joints",
                )
            )
        self.robot = robot
        poses = {"action_space": "ee_pose", "custom_action": None}
        # the state of the native card is only what the executor computes its own poses with
        self.native = dataclasses.replace(robot, **poses, state_space="ee_pose", custom_state=None)  # type: ignore[arg-type]
        self._kinematics = RobotKinematics(self.native).only
        action = self.native.action
        self._position, self._rotation = action.select("ee_position"), action.select("ee_rotation")
        self._end = np.array([action.index(name) for name in robot.arm().end_effector], np.intp)
        self.card = self._card()

    def _card(self) -> Embodiment:
        return derived_card(self.robot, self.name, action_space="ee_pose", custom_action=None)

    def to_native(self, chunk: ActionChunk, reference: Reference) -> ActionChunk:
        """The same values."""
        return dataclasses.replace(chunk, embodiment=self.native.hash)

    def from_native(self, targets: Array, reference: Reference) -> Array:
        """The same values, or the poses of the joints."""
        targets = np.array(targets, float)
        if self.robot.action_space == "ee_pose":
            return targets
        return np.stack([self._kinematics.tcp_state(row) for row in targets])


class EeDelta(EePose):
    """Steps of the TCP from the pose commanded last: [x, y, z] m, rotation vector rad, about the axes of the base.

    Args:
        robot: A robot of one arm.
        speed_m_s: Bound of the position channels, as a speed.
        turn_rad_s: Bound of the rotation channels, as a rate.
    """

    name = "ee_delta"

    def __init__(self, robot: Embodiment, speed_m_s: float = 1.0, turn_rad_s: float = 2.5):
        self._bounds = {"speed_m_s": float(speed_m_s), "turn_rad_s": float(turn_rad_s)}
        super().__init__(robot)

    def _card(self) -> Embodiment:
        robot = self.robot
        channels = ee_delta_channels(robot.arm(), robot.joints, robot.control_dt_s, **self._bounds)
        self._move, self._turn = channels.select("ee_delta"), channels.select("ee_turn")
        self._own_end = np.array([channels.index(name) for name in robot.arm().end_effector], np.intp)
        return derived_card(
            robot, self.name, action_space="ee_delta", custom_action=channels, action_reference="commanded"
        )

    def to_native(self, chunk: ActionChunk, reference: Reference) -> ActionChunk:
        """Steps carried out one after the other from the pose commanded for the chunk's time."""
        still = dict(zip(self._own_end.tolist(), reference.action[self._end].tolist(), strict=True))
        steps = filled(chunk, still)
        values = np.empty((len(steps), len(self.native.action)))
        values[:, self._position] = reference.action[self._position] + np.cumsum(steps[:, self._move], axis=0)
        rotation = rotation_6d_to_matrix(reference.action[self._rotation])
        turns = axis_angle_to_matrix(steps[:, self._turn])
        for row, turn in enumerate(turns):
            rotation = turn @ rotation
            values[row, self._rotation] = matrix_to_rotation_6d(rotation)
        values[:, self._end] = steps[:, self._own_end]
        return dataclasses.replace(chunk, values=values, embodiment=self.native.hash)

    def from_native(self, targets: Array, reference: Reference) -> Array:
        """How each pose differs from the one before."""
        poses = super().from_native(targets, reference)
        path = np.concatenate([np.asarray(reference.action, float)[None], poses])
        rotation = rotation_6d_to_matrix(path[:, self._rotation])
        values = np.empty((len(poses), len(self.card.action)))
        values[:, self._move] = np.diff(path[:, self._position], axis=0)
        values[:, self._turn] = matrix_to_axis_angle(rotation[1:] @ np.swapaxes(rotation[:-1], -1, -2))
        values[:, self._own_end] = poses[:, self._end]
        return values


class EeStiffness(EePose):
    """TCP pose with two stiffnesses: the arm becomes a spring between its TCP and the pose.

    Args:
        robot: A robot of one arm.
        translation_n_m: (lowest, highest) translational stiffness, N/m.
        rotation_nm_rad: (lowest, highest) rotational stiffness, N m/rad.
        default: (translational, rotational) stiffness of labels made from poses.
        damping_ratio: 1 is critical.
    """

    name = "ee_stiffness"

    def __init__(
        self,
        robot: Embodiment,
        translation_n_m: Sequence[float] = (50.0, 3000.0),
        rotation_nm_rad: Sequence[float] = (5.0, 200.0),
        default: Sequence[float] = (2500.0, 150.0),
        damping_ratio: float = 1.0,
    ):
        self._ranges = (tuple(map(float, translation_n_m)), tuple(map(float, rotation_nm_rad)))
        self.default, self.damping_ratio = np.array(default, float), float(damping_ratio)
        super().__init__(robot)

    def _card(self) -> Embodiment:
        names = ("stiffness.translation", "stiffness.rotation")
        units = ("N/m", "N m/rad")
        added = [Channel(n, u, low, high) for n, u, (low, high) in zip(names, units, self._ranges, strict=True)]
        channels = ChannelGroup((*self.native.action.channels, *added))
        self._own = np.array([channels.index(name) for name in self.native.action.names], np.intp)
        self._stiffness = channels.select("stiffness")
        return derived_card(self.robot, self.name, action_space="ee_stiffness", custom_action=channels)

    def to_native(self, chunk: ActionChunk, reference: Reference) -> ActionChunk:
        """The poses; :meth:`stiffness` has the rest."""
        return dataclasses.replace(chunk, values=chunk.values[:, self._own], embodiment=self.native.hash)

    def stiffness(self, chunk: ActionChunk) -> Array:
        """[H, 2] N/m and N m/rad of a chunk, within the card's bounds."""
        bounds = np.array(self._ranges).T
        values: Array = np.clip(np.asarray(chunk.values, float)[:, self._stiffness], *bounds)
        return values

    def from_native(self, targets: Array, reference: Reference) -> Array:
        """The poses with the default stiffness."""
        poses = super().from_native(targets, reference)
        values = np.empty((len(poses), len(self.card.action)))
        values[:, self._own], values[:, self._stiffness] = poses, self.default
        return values
