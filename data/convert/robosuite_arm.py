"""One arm of robosuite: measurements and commands of a demonstration -> state and action of a card."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robopolicy.data.convert.joint_cards import joint_card
from robopolicy.data.convert.pose_cards import pose_card
from robopolicy.data.convert.robosuite import Controller, base_pose
from robopolicy.data.convert.unify import gripper_opening, pose_channels
from robopolicy.embodiment import Embodiment, load_embodiment
from robopolicy.errors import DataError, explain
from robopolicy.robot_parts import EE_CHANNELS

__all__ = ["RobosuiteArm", "frame_of"]

Array = NDArray[np.float64]


def frame_of(wanted: str, model_file: str, where: str) -> str:
    """``base`` or ``world``: the frame in which poses are delivered.

    Args:
        wanted: ``auto``, ``base`` or ``world``.
        model_file: MJCF of a demonstration, may be empty.
        where: File and demonstration, for messages.

    Raises:
        DataError: the base is wanted and the model does not say where it is.
    """
    known = bool(model_file) and base_pose(model_file) is not None
    if wanted == "base" and not known:
        raise DataError(explain(f"{where} keeps no model to find the robot's base in", mend="options.frame=world"))
    return "base" if known and wanted != "world" else "world"


@dataclass(frozen=True)
class RobosuiteArm:
    """How an arm was commanded and measured.

    Attributes:
        robot: Its name in robosuite.
        controller: Of the arm.
        fingers_m: First gripper joint when closed, when open.
        frame: Of the poses that are delivered, ``base`` or ``world``.
    """

    robot: str
    controller: Controller
    fingers_m: tuple[float, ...]
    frame: str

    def card(self, named: str, joints: int, control_hz: float) -> Embodiment:
        """The card named by the user, or one that knows the pose, or the joint angles, only.

        Raises:
            DataError: the named card has other channels than these data.
        """
        space = "joint_position" if self.controller.kind == "JOINT_POSITION" else "ee_pose"
        if named:
            card = load_embodiment(named)
            width = joints + 1 if space == "joint_position" else len(EE_CHANNELS) + 1
            if not card.state_space == card.action_space == space or len(card.action) != width:
                given = f"{card.state_space}, {card.action_space}, {len(card.action)} channels"
                raise DataError(
                    explain(f"card '{named}' cannot hold these data", given=given, allowed=f"{space}, {width}")
                )
            return card
        if space == "joint_position":
            return joint_card(
                f"robosuite_{self.robot}", [f"joint{i + 1}" for i in range(joints)], control_hz=control_hz
            )
        width_m = 2 * max(self.fingers_m)
        return pose_card(f"robosuite_{self.robot}", control_hz=control_hz, gripper_width_m=width_m)

    def of_joints(self, card: Embodiment, joints: Array, fingers: Array, actions: Array) -> tuple[Array, Array]:
        """State and action [T, n + 1] from joint angles [T, n], gripper joints [T, k] and commands [T, n + 1]."""
        opening, command = self._gripper(fingers, actions)
        targets = self.controller.joint_targets(joints, actions[:, :-1])
        names = card.action.names
        return (
            card.state.pack(dict(zip(names, (*joints.T, opening), strict=True))),
            card.action.pack(dict(zip(names, (*targets.T, command), strict=True))),
        )

    def of_poses(
        self, card: Embodiment, position_m: Array, rotation: Array, fingers: Array, actions: Array, model_file: str
    ) -> tuple[Array, Array]:
        """State and action [T, 10].

        Args:
            card: Of :meth:`card`.
            position_m: [T, 3], world frame.
            rotation: [T, 3, 3].
            fingers: Gripper joints [T, k].
            actions: Commands [T, 7].
            model_file: MJCF of the demonstration, for the frame of the base.

        Raises:
            DataError: the base is not to be found in this demonstration's model.
        """
        base = base_pose(model_file) if self.frame == "base" else None
        if self.frame == "base" and base is None:
            raise DataError(explain("a demonstration keeps no model, others do", mend="options.frame=world for all"))
        measured = _in_base(position_m, rotation, base)
        if self.controller.frame == "base" and base is not None:
            target = self.controller.pose_targets(*measured, actions[:, :6])
        else:
            target = _in_base(*self.controller.pose_targets(position_m, rotation, actions[:, :6]), base)
        opening, command = self._gripper(fingers, actions)
        names = (*EE_CHANNELS, card.gripper)
        return (
            card.state.pack(dict(zip(names, (*pose_channels(*measured).T, opening), strict=True))),
            card.action.pack(dict(zip(names, (*pose_channels(*target).T, command), strict=True))),
        )

    def _gripper(self, fingers: Array, actions: Array) -> tuple[Array, Array]:
        closed, opened = self.fingers_m
        return gripper_opening(fingers[:, 0], closed=closed, opened=opened), self.controller.gripper(actions[:, -1])


def _in_base(position_m: Array, rotation: Array, base: tuple[Array, Array] | None) -> tuple[Array, Array]:
    """World -> base frame; unchanged without a base."""
    if base is None:
        return position_m, rotation
    origin, axes = base
    return (position_m - origin) @ axes, axes.T @ rotation
