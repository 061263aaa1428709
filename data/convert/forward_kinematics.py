"""Joint angles of a whole episode -> the vectors of an embodiment card; what a recorded pose is worth beside them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robopolicy.channels import ChannelGroup
from robopolicy.control.kinematics import Kinematics
from robopolicy.data.convert.unify import pose_channels
from robopolicy.embodiment import Embodiment
from robopolicy.errors import DataError, explain
from robopolicy.robot_parts import EE_CHANNELS

__all__ = ["STUCK_RANGE", "PoseCheck", "card_vectors", "check_pose", "ee_channel_names", "is_stuck", "tcp_poses"]

Array = NDArray[np.float64]
STUCK_RANGE = 1e-3
"""A recorded pose whose every coordinate (m, rad) stays within this is stuck; RoboMIND-dataset-utils uses the same."""
MOVING_RAD = 0.02
"""Joints that move less than this in all may well leave a pose where it is."""


def tcp_poses(card: Embodiment, arm: str, joints: NDArray[np.floating]) -> tuple[Array, Array]:
    """Poses of one arm's tool centre point from the command channels of the whole robot.

    Args:
        card: Its arm needs a chain.
        arm: Name of the arm.
        joints: [T, J] in the card's order.

    Returns:
        Positions [T, 3] m and rotations [T, 3, 3] in the base frame.

    Raises:
        EmbodimentError: the card has no chain for that arm.
    """
    one = card.single_arm(arm)
    kinematics = Kinematics(one)
    places = [card.joints.index(link.joint) for link in one.chain]
    position, rotation = kinematics.poses(np.asarray(joints, np.float64)[:, places])
    return np.asarray(position, np.float64), np.asarray(rotation, np.float64)


def ee_channel_names(card: Embodiment, arms: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the nine pose channels of each arm."""
    return tuple(card.arm(arm).prefix + name for arm in arms for name in EE_CHANNELS)


def card_vectors(
    card: Embodiment, joints: NDArray[np.floating], kind: str, poses: dict[str, tuple[Array, Array]] | None = None
) -> Array:
    """Command channels [T, J] -> the card's ``state`` or ``action`` vectors, put together by name.

    Args:
        card: ``joint_position`` or ``ee_pose`` in that space.
        joints: In the card's order; radians, grippers 0 closed to 1 open.
        kind: ``state`` or ``action``.
        poses: Arm -> poses to use in the place of forward kinematics.

    Raises:
        DataError: a space that joints do not give.
        EmbodimentError: the card has no chain for an arm whose pose is wanted.
    """
    space = getattr(card, f"{kind}_space")
    named = {name: joints[:, i] for i, name in enumerate(card.joints.names)}
    if space == "ee_pose":
        for arm in card.arms:
            position, rotation = (poses or {}).get(arm.name) or tcp_poses(card, arm.name, joints)
            columns = pose_channels(position, rotation).T
            named |= dict(zip(ee_channel_names(card, (arm.name,)), columns, strict=True))
    elif space != "joint_position":
        raise DataError(
            explain(
                f"joints do not give the {kind} of '{card.name}'",
                given=f"{kind}_space: {space}",
                allowed=("joint_position", "ee_pose"),
                mend="name another card: embodiment=NAME",
            )
        )
    group: ChannelGroup = getattr(card, kind)
    return group.pack({name: named[name] for name in group.names})


def is_stuck(pose: NDArray[np.floating], joints: NDArray[np.floating]) -> bool:
    """Whether a recorded pose stands still while the joints of its arm move, over the episode or a quarter of it.

    Args:
        pose: [T, k] as recorded (m, rad or quaternion).
        joints: [T, n] joints of the arm, rad.
    """
    rows = len(pose)
    if rows < 2:
        return False
    if _still(pose, joints, MOVING_RAD):
        return True
    span = max(rows // 4, 8)
    starts = range(0, rows - span + 1, max(span // 4, 1))
    # Within a part of the episode more movement is asked for: a robot turns about its tool for a moment, not for long.
    return any(_still(pose[s : s + span], joints[s : s + span], 5 * MOVING_RAD) for s in starts)


def _still(pose: NDArray[np.floating], joints: NDArray[np.floating], moving_rad: float) -> bool:
    return bool(np.ptp(pose, axis=0).max() < STUCK_RANGE and np.ptp(joints, axis=0).max() > moving_rad)


@dataclass(frozen=True)
class PoseCheck:
    """A recorded pose beside the card's forward kinematics.

    Attributes:
        distance_m: Mean distance of the two points.
        spread_m: Standard deviation of that distance; small where only the tool point or the base is another.
    """

    distance_m: float
    spread_m: float


def check_pose(position_m: NDArray[np.floating], kinematic_m: NDArray[np.floating]) -> PoseCheck:
    """Compare positions [T, 3] as recorded with those of the card."""
    distance = np.linalg.norm(np.asarray(position_m, np.float64) - kinematic_m, axis=1)
    return PoseCheck(float(distance.mean()), float(distance.std()))
