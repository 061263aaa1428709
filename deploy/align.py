"""The slow way to the first action: a chunk of small steps from where the arm stands."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from robopolicy.embodiment import Embodiment
from robopolicy.rotations import (
    axis_angle_to_matrix,
    geodesic_distance,
    matrix_to_axis_angle,
    matrix_to_rotation_6d,
    rotation_6d_to_matrix,
)
from robopolicy.types import ActionChunk

__all__ = ["approach", "distance"]

Vector = NDArray[np.float64]


def distance(card: Embodiment, here: Vector, there: Vector) -> tuple[float, float]:
    """How far two actions [A] lie apart, the gripper left out.

    Returns:
        (metres, radians) between poses; in ``joint_position`` (0, largest joint difference in radians).
    """
    if card.action_space == "joint_position":
        grippers = {arm.gripper for arm in card.arms}
        arm = [i for i, name in enumerate(card.action.names) if name not in grippers]
        return 0.0, float(np.abs(there - here)[arm].max())
    position, rotation = card.action.select("ee_position"), card.action.select("ee_rotation")
    turn = geodesic_distance(rotation_6d_to_matrix(here[rotation]), rotation_6d_to_matrix(there[rotation]))
    return float(np.linalg.norm(there[position] - here[position])), float(turn)


def approach(card: Embodiment, here: Vector, there: Vector, *, t0_ns: int, speed: float) -> ActionChunk:
    """A chunk that leads from ``here`` to ``there`` with at most ``speed`` m/s and rad/s.

    Args:
        card: Embodiment whose action channels the vectors have.
        here, there: [A].
        t0_ns: When it begins.
        speed: m/s and rad/s.
    """
    metres, radians = distance(card, here, there)
    # A cubic from rest to rest has its greatest speed in the middle, 1.5 times the mean.
    steps = max(1, math.ceil(1.5 * max(metres, radians) / (speed * card.control_dt_s)))
    time = np.arange(1, steps + 1)[:, None] / steps
    share = time**2 * (3 - 2 * time)
    values = here + share * (there - here)
    if card.action_space != "joint_position":
        rotation = card.action.select("ee_rotation")
        start = rotation_6d_to_matrix(here[rotation])
        turn = matrix_to_axis_angle(start.T @ rotation_6d_to_matrix(there[rotation]))
        values[:, rotation] = matrix_to_rotation_6d(start @ axis_angle_to_matrix(share * turn))
    return ActionChunk(values, t0_ns, card.control_dt_s, card.hash)
