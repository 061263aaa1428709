"""What the actions of ManiSkill's control modes mean, for the robots whose controllers are listed.

A normalised command u in [-1, 1] is clipped and mapped to ``(upper + lower) / 2 + u (upper - lower) / 2``
(mani_skill/utils/gym_utils.py). Delta modes add it to what is measured, ``target`` modes to the target before;
rotations of ``pd_ee_*_pose`` are Euler angles XYZ about the base's axes, scaled by their norm
(agents/controllers/pd_ee_pose.py). How far a rotation of 1 turns changed between versions, sign included, so it is the
user who says it. Poses are brought into the frame of the robot's base.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.convert.deltas import delta_targets
from robopolicy.data.convert.unify import gripper_opening, pose_channels, rotation_matrix
from robopolicy.embodiment import Embodiment, load_embodiment
from robopolicy.registry import registry
from robopolicy.robot_parts import EE_CHANNELS
from robopolicy.rotations import quaternion_to_matrix

__all__ = ["ControlMode", "control_mode", "known_robots"]

Array = NDArray[np.float64]
_QPOS, _TCP = "obs/agent/qpos", "obs/extra/tcp_pose"


@dataclass(frozen=True)
class ControlMode:
    """One control mode of one robot.

    Attributes:
        robot: Its ``uid``.
        card_name: Its embodiment card, whose tool is that of ``tcp_pose``.
        name: Such as ``pd_joint_delta_pos``.
        arm_joints: How many numbers of ``qpos`` are the arm's; the rest are fingers.
        fingers_m: (closed, open) of a finger slide in ``qpos``.
        gripper_bounds_m: (lower, upper) that a gripper command of -1 and 1 mean.
        bounds: (lower, upper) that an arm command of -1 and 1 mean, in rad or m; None where commands are physical.
        rotation_scale_rad: Signed rotation that a 1 means.
        needed: Arrays of a trajectory that it takes, T + 1 rows each.
        width: Of its actions.
    """

    robot: str
    card_name: str
    name: str
    arm_joints: int
    fingers_m: tuple[float, float]
    gripper_bounds_m: tuple[float, float]
    bounds: tuple[float, float] | None
    rotation_scale_rad: float = 0.0
    needed: tuple[str, ...] = field(default=())
    width: int = 0

    @property
    def of_joints(self) -> bool:
        """Whether it commands joint angles."""
        return self.name.startswith("pd_joint")

    @property
    def normalised(self) -> bool:
        """Whether arm commands are in [-1, 1]."""
        return self.bounds is not None

    @property
    def description(self) -> str:
        """For the audit."""
        if self.bounds is None:
            return f"{self.robot} {self.name}: absolute joint angles"
        where = "target before" if "target" in self.name else "measured state"
        return f"{self.robot} {self.name}: -1 to 1 mean {self.bounds[0]:g} to {self.bounds[1]:g}, added to the {where}"

    def card(self, control_hz: float) -> Embodiment:
        """The robot, in joint angles or as a tool pose."""
        card = load_embodiment(self.card_name)
        space = "joint_position" if self.of_joints else "ee_pose"
        ratio = round(card.setpoint_hz / card.control_hz)
        return dataclasses.replace(
            card,
            action_space=space,
            state_space=space,
            control_hz=control_hz,
            setpoint_hz=ratio * control_hz,
            cameras=(),
        )

    def meant(self, card: Embodiment, values: Mapping[str, Array], actions: Array) -> tuple[Array, Array]:
        """State and action in the card's channels.

        Args:
            card: As :meth:`card` gives it.
            values: The arrays of :attr:`needed`, [T, n].
            actions: [T, :attr:`width`].
        """
        qpos = values[_QPOS]
        closed, opened = self.fingers_m
        opening = gripper_opening(qpos[:, self.arm_joints :].mean(axis=1), closed=closed, opened=opened)
        low, high = self.gripper_bounds_m
        command = gripper_opening(_scaled(actions[:, -1], low, high), closed=closed, opened=opened)
        if self.of_joints:
            names = card.joints.names[: self.arm_joints]
            joints = qpos[:, : self.arm_joints]
            target = self._joint_targets(joints, actions[:, :-1])
            state = dict(zip(names, joints.T, strict=True)) | {"gripper": opening}
            return card.state.pack(state), card.action.pack(
                dict(zip(names, target.T, strict=True)) | {"gripper": command}
            )
        position, rotation = self._tool(values)
        goal = self._pose_targets(position, rotation, actions[:, :-1])
        keys = (*EE_CHANNELS, "gripper")
        state_row = dict(zip(keys, (*pose_channels(position, rotation).T, opening), strict=True))
        action_row = dict(zip(keys, (*pose_channels(*goal).T, command), strict=True))
        return card.state.pack(state_row), card.action.pack(action_row)

    def _joint_targets(self, joints: Array, action: Array) -> Array:
        if self.bounds is None:
            return action
        delta = _scaled(action, *self.bounds)
        if "target" not in self.name:
            return joints + delta
        return joints[0] + np.cumsum(delta, axis=0)

    def _pose_targets(self, position: Array, rotation: Array, action: Array) -> tuple[Array, Array]:
        assert self.bounds is not None
        moved = _scaled(action[:, :3], *self.bounds)
        turn = np.zeros_like(moved)
        if action.shape[1] == 6:
            norm = np.linalg.norm(action[:, 3:], axis=1, keepdims=True)
            turn = action[:, 3:] / np.maximum(norm, 1.0) * self.rotation_scale_rad
        reference = "target" if "target" in self.name else "measured"
        return delta_targets(position, rotation, moved, rotation_matrix(turn, "euler_XYZ"), reference=reference)

    def _tool(self, values: Mapping[str, Array]) -> tuple[Array, Array]:
        """Pose of the tool in the frame of the base."""
        tcp, base = values[_TCP], values[_base_key(self.robot)]
        axes = quaternion_to_matrix(base[:, 3:7])
        inverse = np.swapaxes(axes, -1, -2)
        position = np.einsum("tij,tj->ti", inverse, tcp[:, :3] - base[:, :3])
        return position, inverse @ quaternion_to_matrix(tcp[:, 3:7])


def known_robots() -> tuple[str, ...]:
    """Robots whose controllers are listed."""
    return tuple(_table())


def control_mode(robot: str, name: str, rotation_scale_rad: float) -> ControlMode | str:
    """A control mode, or in words why its actions are not understood.

    Args:
        robot: ``uid`` of the robot.
        name: Of the mode.
        rotation_scale_rad: What a rotation of 1 means, 0 for unknown.
    """
    table = _table()
    if robot not in table:
        return f"the controllers of '{robot}' are not listed (listed: {', '.join(table)})"
    about = table[robot]
    modes: Mapping[str, Any] = about["modes"]
    if name not in modes:
        return f"'{name}' has no known meaning as an absolute target (known: {', '.join(modes)})"
    if name.startswith("pd_ee") and name.endswith("pose") and not rotation_scale_rad:
        return "how far a rotation of 1 turns changed between versions; options.rotation_scale_rad states it"
    bounds = modes[name]
    joints = int(about["arm_joints"])
    arm = joints if name.startswith("pd_joint") else 6 if name.endswith("pose") else 3
    needed = (_QPOS,) if name.startswith("pd_joint") else (_QPOS, _TCP, _base_key(robot))
    return ControlMode(
        robot=robot,
        card_name=str(about["card"]),
        name=name,
        arm_joints=joints,
        fingers_m=(float(about["fingers_m"][0]), float(about["fingers_m"][1])),
        gripper_bounds_m=(float(about["gripper_bounds_m"][0]), float(about["gripper_bounds_m"][1])),
        bounds=None if bounds is None else (float(bounds[0]), float(bounds[1])),
        rotation_scale_rad=rotation_scale_rad,
        needed=needed,
        width=arm + 1,
    )


def _base_key(robot: str) -> str:
    return f"env_states/articulations/{robot}"


def _table() -> dict[str, Any]:
    return dict(registry("format").config("maniskill")["controllers"])


def _scaled(action: Array, low: float, high: float) -> Array:
    return 0.5 * (high + low) + 0.5 * (high - low) * np.clip(action, -1.0, 1.0)
