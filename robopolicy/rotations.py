"""Rotations: matrices inside, 6-D for networks, quaternions **wxyz** at the rim.

6-D form (Zhou et al., CVPR 2019, arXiv 1812.07035): the first two *columns* of the matrix, concatenated. All
functions take any leading batch shape and float arrays.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "IDENTITY_6D",
    "axis_angle_to_matrix",
    "geodesic_distance",
    "matrix_to_axis_angle",
    "matrix_to_quaternion",
    "matrix_to_rotation_6d",
    "quaternion_to_matrix",
    "rotation_6d_to_matrix",
]

Array = NDArray[np.floating]
IDENTITY_6D = np.array([1.0, 0.0, 0.0, 0.0, 1.0, 0.0])


def rotation_6d_to_matrix(rotation_6d: Array) -> Array:
    """Gram-Schmidt on the two stored columns. [..., 6] -> [..., 3, 3].

    Degenerate input (zero or parallel columns) gives non-finite values, which every consumer refuses.
    """
    first, second = rotation_6d[..., 0:3], rotation_6d[..., 3:6]
    with np.errstate(invalid="ignore", divide="ignore"):
        x = first / np.linalg.norm(first, axis=-1, keepdims=True)
        y = second - np.sum(x * second, axis=-1, keepdims=True) * x
        y = y / np.linalg.norm(y, axis=-1, keepdims=True)
    return np.stack([x, y, np.cross(x, y)], axis=-1)


def matrix_to_rotation_6d(matrix: Array) -> Array:
    """First two columns. [..., 3, 3] -> [..., 6]."""
    return np.concatenate([matrix[..., :, 0], matrix[..., :, 1]], axis=-1)


def quaternion_to_matrix(quaternion: Array) -> Array:
    """Unit-normalises, then converts. [..., 4] wxyz -> [..., 3, 3]."""
    w, x, y, z = np.moveaxis(quaternion / np.linalg.norm(quaternion, axis=-1, keepdims=True), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def matrix_to_quaternion(matrix: Array) -> Array:
    """[..., 3, 3] -> [..., 4] wxyz with w >= 0; picks the largest of the four components to divide by (Shepperd)."""
    m = matrix
    trace = m[..., 0, 0] + m[..., 1, 1] + m[..., 2, 2]
    squared = np.stack(
        [1 + trace, 1 + 2 * m[..., 0, 0] - trace, 1 + 2 * m[..., 1, 1] - trace, 1 + 2 * m[..., 2, 2] - trace], axis=-1
    )
    w_x, w_y, w_z = m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]
    x_y, x_z, y_z = m[..., 0, 1] + m[..., 1, 0], m[..., 0, 2] + m[..., 2, 0], m[..., 1, 2] + m[..., 2, 1]
    candidates = np.stack(
        [
            np.stack([squared[..., 0], w_x, w_y, w_z], axis=-1),
            np.stack([w_x, squared[..., 1], x_y, x_z], axis=-1),
            np.stack([w_y, x_y, squared[..., 2], y_z], axis=-1),
            np.stack([w_z, x_z, y_z, squared[..., 3]], axis=-1),
        ],
        axis=-2,
    )
    best = np.argmax(squared, axis=-1)
    chosen = np.take_along_axis(candidates, best[..., None, None], axis=-2)[..., 0, :]
    chosen = chosen / np.linalg.norm(chosen, axis=-1, keepdims=True)
    return np.where(chosen[..., :1] < 0, -chosen, chosen)


def axis_angle_to_matrix(axis_angle: Array) -> Array:
    """Rodrigues. [..., 3] rad -> [..., 3, 3]."""
    angle = np.linalg.norm(axis_angle, axis=-1)[..., None]
    half_sinc = np.where(angle > 1e-8, np.sin(angle / 2) / np.where(angle > 1e-8, angle, 1.0), 0.5 - angle**2 / 48)
    return quaternion_to_matrix(np.concatenate([np.cos(angle / 2), axis_angle * half_sinc], axis=-1))


def matrix_to_axis_angle(matrix: Array) -> Array:
    """[..., 3, 3] -> [..., 3] rad, norm in [0, pi]."""
    quaternion = matrix_to_quaternion(matrix)
    vector = quaternion[..., 1:]
    norm = np.linalg.norm(vector, axis=-1, keepdims=True)
    angle = 2 * np.arctan2(norm, quaternion[..., :1])
    return vector * np.where(norm > 1e-9, angle / np.where(norm > 1e-9, norm, 1.0), 2.0)


def geodesic_distance(a: Array, b: Array) -> Array:
    """Angle between two rotations. [..., 3, 3], [..., 3, 3] -> [...] rad."""
    return np.linalg.norm(matrix_to_axis_angle(np.swapaxes(a, -1, -2) @ b), axis=-1)
