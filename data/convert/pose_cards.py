"""Cards for recordings of tool poses and gripper openings whose arm is not described: they carry data, not motion."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from robopolicy.channels import Channel, ChannelGroup
from robopolicy.embodiment import Embodiment
from robopolicy.robot_parts import Arm

__all__ = ["at_rate", "gripper_channel", "pose_card"]

REACH_M = 10.0


def gripper_channel(name: str) -> Channel:
    """A gripper's opening, 0 closed to 1 open; limits of a hand-held tool are not known, these are beyond any."""
    return Channel(name, "normalised", 0.0, 1.0, 100.0, 1e4, 1e6)


def pose_card(
    name: str,
    *,
    arms: Sequence[str] = ("",),
    control_hz: float,
    gripper_width_m: float,
    description: str = "",
    custom_action: ChannelGroup | None = None,
) -> Embodiment:
    """State, and action unless given, are per arm: tool pose (position, 6-D rotation), then gripper.

    Args:
        name: Of the robot.
        arms: Names of the arms; one empty name for a single arm.
        control_hz: Rows per second.
        gripper_width_m: Opening at 1.
        description: One line.
        custom_action: Channels of the action where it is not a whole pose.
    """
    parts = []
    for arm in arms:
        gripper = f"{arm}.gripper" if arm else "gripper"
        box = ((-REACH_M,) * 3, (REACH_M,) * 3)
        parts.append(Arm(name=arm, workspace=box, gripper=gripper, gripper_width_m=gripper_width_m))
    joints = ChannelGroup(tuple(gripper_channel(part.gripper) for part in parts))
    return Embodiment(
        name=name,
        description=description or "tool poses and grippers, described by the data only",
        action_space="ee_pose" if custom_action is None else "custom",
        custom_action=custom_action,
        control_hz=control_hz,
        setpoint_hz=control_hz,
        joints=joints,
        arms=tuple(parts),
        home=dict.fromkeys(joints.names, 1.0),
    )


def at_rate(card: Embodiment, control_hz: float, gripper_width_m: float) -> Embodiment:
    """``card`` for data of another rate or another gripper; itself where nothing differs."""
    if card.control_hz == control_hz and all(arm.gripper_width_m == gripper_width_m for arm in card.arms):
        return card
    arms = tuple(dataclasses.replace(arm, gripper_width_m=gripper_width_m) for arm in card.arms)
    return dataclasses.replace(card, control_hz=control_hz, setpoint_hz=control_hz, arms=arms)
