"""Cards for arms of which only joint angles and a gripper are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from robopolicy.channels import Channel, ChannelGroup
from robopolicy.embodiment import Arm, Embodiment

__all__ = ["joint_card"]


def joint_card(name: str, joints: Sequence[str], *, control_hz: float, description: str = "") -> Embodiment:
    """An arm whose kinematics are not known: state and action are joint angles (rad) and gripper.

    Args:
        name: Of the robot or data set.
        joints: Names of the joints in order; ``gripper`` is added at the end.
        control_hz: Rows per second.
        description: One line.
    """
    channels = [Channel(joint, "rad", -2 * np.pi, 2 * np.pi) for joint in joints]
    return Embodiment(
        name=name,
        description=description or "an arm known by its joint angles only",
        action_space="joint_position",
        state_space="joint_position",
        control_hz=control_hz,
        setpoint_hz=control_hz,
        joints=ChannelGroup((*channels, Channel("gripper", "normalised", 0.0, 1.0))),
        arms=(Arm(gripper="gripper"),),
        home={},
    )
