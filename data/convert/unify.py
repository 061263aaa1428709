"""Conventions of other formats -> those of the store: rotations, grippers, deltas. Pure functions on arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from robopolicy.channels import Channel, ChannelGroup
from robopolicy.embodiment import Embodiment
from robopolicy.errors import DataError, explain
from robopolicy.rotations import (
    axis_angle_to_matrix,
    matrix_to_rotation_6d,
    quaternion_to_matrix,
    rotation_6d_to_matrix,
)

__all__ = ["ROTATION_FORMS", "apply_delta", "generic_card", "gripper_opening", "pose_channels", "rotation_matrix"]

Array = NDArray[np.float64]
ROTATION_FORMS = {
    "matrix": 9,
    "rotation_6d": 6,
    "rotation_6d_rows": 6,
    "quaternion_wxyz": 4,
    "quaternion_xyzw": 4,
    "axis_angle": 3,
    "euler_xyz": 3,
    "euler_XYZ": 3,
}
"""Form -> numbers. ``euler_xyz`` (roll, pitch, yaw): R = Rz(yaw) Ry(pitch) Rx(roll), fixed axes as in URDF;
``euler_XYZ``: R = Rx Ry Rz, the axes of the moving body."""


def rotation_matrix(values: NDArray[np.floating], form: str) -> Array:
    """Rotations in any of :data:`ROTATION_FORMS` [..., n] -> f64 [..., 3, 3].

    Raises:
        DataError: unknown form, or another width.
    """
    x: Array = np.asarray(values, np.float64)
    if form not in ROTATION_FORMS or x.shape[-1] != ROTATION_FORMS[form]:
        raise DataError(explain("no such rotation form", given=(form, x.shape), allowed=ROTATION_FORMS))
    return np.asarray(_matrix(x, form), np.float64)


def _matrix(x: Array, form: str) -> NDArray[np.floating]:
    if form == "matrix":
        return x.reshape(*x.shape[:-1], 3, 3)
    if form == "rotation_6d":
        return rotation_6d_to_matrix(x)
    if form == "rotation_6d_rows":
        return np.swapaxes(rotation_6d_to_matrix(x), -1, -2)
    if form == "quaternion_wxyz":
        return quaternion_to_matrix(x)
    if form == "quaternion_xyzw":
        return quaternion_to_matrix(x[..., [3, 0, 1, 2]])
    if form == "axis_angle":
        return axis_angle_to_matrix(x)
    about = [axis_angle_to_matrix(x[..., i : i + 1] * np.eye(3)[i]) for i in range(3)]
    return about[2] @ about[1] @ about[0] if form == "euler_xyz" else about[0] @ about[1] @ about[2]


def pose_channels(position_m: NDArray[np.floating], rotation: NDArray[np.floating]) -> Array:
    """Position [..., 3] and matrix [..., 3, 3] -> the nine pose channels of the store [..., 9]."""
    columns = matrix_to_rotation_6d(np.asarray(rotation, np.float64))
    return np.concatenate([np.asarray(position_m, np.float64), np.asarray(columns, np.float64)], axis=-1)


def apply_delta(
    position_m: Array, rotation: Array, delta_m: Array, delta_rotation: Array, *, frame: str = "base"
) -> tuple[Array, Array]:
    """The absolute target that a delta from a measured pose means.

    Args:
        position_m: [..., 3] measured.
        rotation: [..., 3, 3] measured.
        delta_m: [..., 3].
        delta_rotation: [..., 3, 3].
        frame: ``base``: p + d, D R, both about the base's axes (robosuite's OSC, Bridge); ``tool``: p + R d, R D.

    Raises:
        DataError: unknown frame.
    """
    if frame == "base":
        return position_m + delta_m, delta_rotation @ rotation
    if frame == "tool":
        return position_m + np.einsum("...ij,...j->...i", rotation, delta_m), rotation @ delta_rotation
    raise DataError(explain("unknown frame of a delta", given=frame, allowed=("base", "tool")))


def gripper_opening(values: NDArray[np.floating], *, closed: float, opened: float) -> Array:
    """Any linear gripper reading -> 0 closed, 1 open, clipped. ``closed`` may be the larger of the two.

    Raises:
        DataError: both ends are the same.
    """
    if closed == opened:
        raise DataError(explain("a gripper needs two different ends", given=(closed, opened)))
    return np.clip((np.asarray(values, np.float64) - closed) / (opened - closed), 0.0, 1.0)


def generic_card(
    name: str,
    *,
    state: Sequence[tuple[str, str]],
    action: Sequence[tuple[str, str]],
    control_hz: float,
    action_reference: str = "absolute",
    description: str = "",
) -> Embodiment:
    """A card for data whose robot is not known: channels as the source names them, no joints, cannot be driven.

    Args:
        name: Of the robot or data set.
        state, action: (name, unit) of every channel, unit ``unknown`` where the source does not say.
        control_hz: Rows per second.
        action_reference: See :data:`robopolicy.embodiment.ACTION_REFERENCES`.
        description: One line.
    """

    def group(entries: Sequence[tuple[str, str]]) -> ChannelGroup:
        return ChannelGroup(tuple(Channel(n, unit, -1e9, 1e9) for n, unit in entries))

    return Embodiment(
        name=name,
        description=description or "described by its data only",
        action_space="custom",
        state_space="custom",
        control_hz=control_hz,
        setpoint_hz=control_hz,
        joints=ChannelGroup(()),
        arms=(),
        home={},
        custom_state=group(state),
        custom_action=group(action),
        action_reference=action_reference,
    )
