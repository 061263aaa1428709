"""What a robot's card is made of besides channels: links of a chain, arms, cameras."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robopolicy.channels import Channel, ChannelGroup

__all__ = ["EE_CHANNELS", "Arm", "Camera", "ChainLink", "ee_delta_channels", "joint_rate_channels"]

EE_CHANNELS = (*(f"ee_position.{a}" for a in "xyz"), *(f"ee_rotation.{i}" for i in range(6)))
"""TCP pose in the robot's base frame: metres, then the first two columns of the rotation matrix."""


@dataclass(frozen=True)
class ChainLink:
    """Fixed transform from the previous joint's frame, then one revolute joint about ``axis``.

    Attributes:
        joint: Channel name of the joint.
        position_m: [3] in the parent frame.
        quaternion: [4] wxyz in the parent frame.
        axis: [3] unit vector in the joint's own frame.
    """

    joint: str
    position_m: tuple[float, float, float]
    quaternion: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 0.0)
    axis: tuple[float, float, float] = (0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Arm:
    """One arm with what it carries.

    Attributes:
        name: Empty for a robot's only arm; otherwise ``left``, ``right`` ..., the prefix of its channels.
        chain: From base to flange; empty when the kinematics are not known.
        tcp: (position_m, quaternion wxyz) of the tool centre point in the last joint's frame.
        workspace: (lower_m [3], upper_m [3]) box that the TCP never leaves, base frame.
        gripper: Channel name of the gripper (0 closed, 1 open), empty for none.
        gripper_width_m: Opening between the fingertips at gripper = 1.
        hand: Channel names of the joints of a hand with several fingers.
    """

    name: str = ""
    chain: tuple[ChainLink, ...] = ()
    tcp: tuple[tuple[float, ...], tuple[float, ...]] = ((0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0))
    workspace: tuple[tuple[float, ...], tuple[float, ...]] = ((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0))
    gripper: str = ""
    gripper_width_m: float = 0.0
    hand: tuple[str, ...] = ()

    @property
    def prefix(self) -> str:
        """What the names of its channels begin with."""
        return f"{self.name}." if self.name else ""

    @property
    def end_effector(self) -> tuple[str, ...]:
        """Channel names of the gripper, or of the hand's joints."""
        return (self.gripper,) if self.gripper else self.hand

    @property
    def pose_channels(self) -> tuple[Channel, ...]:
        """The TCP pose: position (m) within the workspace, then the 6-D rotation."""
        bounds = [*zip(*self.workspace, strict=True), *[(-1.0, 1.0)] * 6]
        units = ["m"] * 3 + ["rotation_6d"] * 6
        parts = zip(EE_CHANNELS, units, bounds, strict=True)
        return tuple(Channel(self.prefix + n, u, lo, hi) for n, u, (lo, hi) in parts)


@dataclass(frozen=True)
class Camera:
    """A pinhole camera; the view axis is -z, x to the right, y up (OpenGL).

    Attributes:
        name: Slot name, such as ``front`` or ``wrist``.
        width, height: Pixels.
        fovy_deg: Vertical field of view.
        mount: ``world`` (robot base frame) or ``tcp``.
        position_m: [3] in the mount frame.
        quaternion: [4] wxyz in the mount frame.
    """

    name: str
    width: int
    height: int
    fovy_deg: float
    mount: str
    position_m: tuple[float, float, float]
    quaternion: tuple[float, float, float, float]

    @property
    def intrinsics(self) -> NDArray[np.float64]:
        """[3, 3] matrix K in pixels, square pixels, principal point in the centre."""
        focal = 0.5 * self.height / np.tan(np.deg2rad(self.fovy_deg) / 2)
        return np.array([[focal, 0, self.width / 2], [0, focal, self.height / 2], [0, 0, 1.0]])


def joint_rate_channels(joints: ChannelGroup, arms: tuple[Arm, ...], dt_s: float, word: str) -> ChannelGroup:
    """Channels of joints commanded by steps or velocities; grippers stay what they are, absolute.

    Args:
        joints: Command channels of the robot.
        arms: Tell which of them are grippers.
        dt_s: Seconds of one step.
        word: ``delta`` (``delta.joint1``, rad per step) or ``velocity`` (``velocity.joint1``, rad/s).

    Returns:
        As many channels as joints, in their order; bounds are the joints' velocity limits.
    """
    grippers = {arm.gripper for arm in arms}
    channels = []
    for joint in joints.channels:
        if joint.name in grippers:
            channels.append(joint)
            continue
        # a joint without a velocity limit may cross its range in a second
        fastest = joint.max_velocity if np.isfinite(joint.max_velocity) else joint.upper - joint.lower
        most = fastest * (dt_s if word == "delta" else 1.0)
        unit = joint.unit if word == "delta" else f"{joint.unit}/s"
        channels.append(Channel(f"{word}.{joint.name}", unit, -most, most))
    return ChannelGroup(tuple(channels))


def ee_delta_channels(
    arm: Arm, joints: ChannelGroup, dt_s: float, *, speed_m_s: float = 1.0, turn_rad_s: float = 2.5
) -> ChannelGroup:
    """Channels of a TCP commanded by steps: position (m) and rotation vector (rad) about the axes of the base.

    Args:
        arm: Gives the prefix and the gripper or hand, which stays absolute.
        joints: Command channels of the robot.
        dt_s: Seconds of one step.
        speed_m_s: Bound on the speed along each axis.
        turn_rad_s: Bound on the rate about each axis.
    """
    move, turn = speed_m_s * dt_s, turn_rad_s * dt_s
    channels = [Channel(f"{arm.prefix}ee_delta.{a}", "m", -move, move) for a in "xyz"]
    channels += [Channel(f"{arm.prefix}ee_turn.{a}", "rad", -turn, turn) for a in "xyz"]
    return ChannelGroup((*channels, *(joints.channels[joints.index(name)] for name in arm.end_effector)))
