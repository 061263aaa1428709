"""A smooth path through action knots in absolute time."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robopolicy.control.native import native
from robopolicy.embodiment import Embodiment
from robopolicy.rotations import (
    axis_angle_to_matrix,
    matrix_to_axis_angle,
    matrix_to_rotation_6d,
    rotation_6d_to_matrix,
)

__all__ = ["ActionLayout", "Curve"]

Array = NDArray[np.floating]

OVERSHOOT = 0.004
"""Slopes may exceed what a monotone cubic allows by this much per interval (m, or rad): at most 1 mm between two knots.
Without it the path would stop turning smoothly wherever a channel changes its direction."""


@dataclass(frozen=True)
class ActionLayout:
    """Which action channels are what, found by name.

    Attributes:
        position: Channels interpolated as they are: TCP position (m), or arm joints (rad).
        rotation: The six channels of the TCP's rotation, or none.
        gripper: The channels of grippers, left out of jumps; joints of a hand count as arm joints.
    """

    position: NDArray[np.intp]
    rotation: NDArray[np.intp]
    gripper: NDArray[np.intp]

    @classmethod
    def of(cls, embodiment: Embodiment) -> ActionLayout:
        """Layout of the card's action vector."""
        action = embodiment.action
        if embodiment.action_space == "ee_pose":
            end = np.array([action.index(name) for name in embodiment.arm().end_effector], dtype=np.intp)
            return cls(action.select("ee_position"), action.select("ee_rotation"), end)
        grippers = [action.index(arm.gripper) for arm in embodiment.arms if arm.gripper]
        joints = np.array([i for i in range(len(action)) if i not in grippers], dtype=np.intp)
        return cls(joints, np.array([], dtype=np.intp), np.array(grippers, dtype=np.intp))

    def orthonormal(self, values: Array) -> Array:
        """[..., A] with the rotation channels made orthonormal (Gram-Schmidt)."""
        if not len(self.rotation):
            return values
        values = values.copy()
        values[..., self.rotation] = matrix_to_rotation_6d(rotation_6d_to_matrix(values[..., self.rotation]))
        return values

    def between(self, old: Array, new: Array, share: Array) -> Array:
        """[K, A] ``share`` [K] of the way from old to new; rotations along the shortest arc."""
        mixed = old + share[:, None] * (new - old)
        if len(self.rotation):
            start = rotation_6d_to_matrix(old[:, self.rotation])
            turn = matrix_to_axis_angle(np.swapaxes(start, -1, -2) @ rotation_6d_to_matrix(new[:, self.rotation]))
            mixed[:, self.rotation] = matrix_to_rotation_6d(start @ axis_angle_to_matrix(share[:, None] * turn))
        return mixed

    def jump(self, old: Array, new: Array) -> tuple[float, float]:
        """(metres, radians) between two action vectors [A]; joints count as radians, the gripper not at all."""
        gap = new[self.position] - old[self.position]
        if not len(self.rotation):
            return 0.0, float(np.abs(gap).max())
        rotations = rotation_6d_to_matrix(np.stack([old[self.rotation], new[self.rotation]]))
        return float(np.linalg.norm(gap)), float(np.linalg.norm(matrix_to_axis_angle(rotations[0].T @ rotations[1])))


class Curve:
    """Piecewise cubic through knots, with a tail that comes to rest on the last one.

    Position and rotation are the cubic spline through the knots, with continuous rate and acceleration, whose slopes
    are bounded by three times the smaller of the neighbouring secants (Fritsch and Carlson 1980): where the knots are
    rough it keeps a continuous rate, and never overshoots a monotone sequence by more than a quarter of
    :data:`OVERSHOOT`. The first slope is given (the rate of what was scheduled before), the last is that of the last
    secant, and in ``tail_ns`` after the last knot a Hermite piece takes that rate to zero and ends on the knot.
    Rotation columns are made orthonormal after interpolation. The gripper is linear and has no tail.

    Args:
        layout: Roles of the channels.
        time_ns: [K] strictly increasing; the first is the start.
        values: [K, A], rotations orthonormal.
        rate: [A] rate at the start, unit/s.
        tail_ns: Length of the tail.
    """

    def __init__(self, layout: ActionLayout, time_ns: list[int], values: Array, rate: Array, tail_ns: int) -> None:
        self.layout = layout
        self.start_ns, self.end_ns = time_ns[0], time_ns[-1]
        self._time_ns = list(time_ns)
        self._values, self._width = values, values.shape[1]
        self.tail_ns = int(tail_ns) if len(values) > 1 else 0
        self.rest_ns = self.end_ns + self.tail_ns
        self._gripper = layout.gripper
        self._rotation = [int(i) for i in layout.rotation]
        self.path = native and native.Path(
            self._time_ns,
            np.ascontiguousarray(values, dtype=float),
            np.ascontiguousarray(rate, dtype=float),
            self.tail_ns,
            self._rotation,
            layout.gripper.tolist(),
        )
        if self.path is None:
            self._slopes = _slopes(np.diff(np.array(time_ns, dtype=np.int64).astype(float)) * 1e-9, values, rate)

    def joined(self, start_ns: int, time_ns: NDArray[np.int64], values: Array, tail_ns: int) -> Curve:
        """The curve that leaves this one at ``start_ns``, with its value and rate, for later knots.

        Args:
            start_ns: Where it begins.
            time_ns: [K] strictly increasing, after ``start_ns``.
            values: [K, A], rotations orthonormal.
            tail_ns: Length of the new curve's tail.
        """
        if self.path is None:
            knots = np.concatenate([self.at(start_ns)[None], values])
            return Curve(self.layout, [int(start_ns), *time_ns.tolist()], knots, self.rate(start_ns), tail_ns)
        curve = object.__new__(Curve)
        curve.layout, curve._width = self.layout, self._width
        curve.start_ns, curve.end_ns, curve.tail_ns = start_ns, int(time_ns[-1]), tail_ns
        curve.rest_ns = curve.end_ns + tail_ns
        curve.path = self.path.join(start_ns, time_ns, values, tail_ns)
        return curve

    def at(self, time_ns: int) -> Array:
        """[A] at ``time_ns``; before the start and after the tail the path stands still."""
        if self.path is not None:
            out = np.empty(self._width)
            self.path.at(time_ns, out)
            return out
        first, second, width_ns, m0, m1 = self._piece(time_ns)
        if second is None:
            return first.copy()
        u = (time_ns - width_ns[0]) / width_ns[1]
        h = width_ns[1] * 1e-9
        rest = 1.0 - u
        blend = u * u * (3.0 - 2.0 * u)
        value = first + blend * (second - first) + (h * u * rest * rest) * m0 - (h * u * u * rest) * m1
        g = self._gripper
        value[g] = first[g] + u * (second[g] - first[g])
        return _orthonormal(value, self._rotation) if self._rotation else value

    def rate(self, time_ns: int) -> Array:
        """[A] time derivative at ``time_ns``, unit/s, of the cubic before rotations are made orthonormal."""
        if self.path is not None:
            out = np.empty(self._width)
            self.path.rate(time_ns, out)
            return out
        first, second, width_ns, m0, m1 = self._piece(time_ns)
        if second is None:
            return np.zeros_like(first)
        u = (time_ns - width_ns[0]) / width_ns[1]
        h = width_ns[1] * 1e-9
        slope = (second - first) / h
        rate = 6.0 * u * (1.0 - u) * slope + (1.0 - u) * (1.0 - 3.0 * u) * m0 + u * (3.0 * u - 2.0) * m1
        rate[self._gripper] = slope[self._gripper]
        return rate

    def _piece(self, time_ns: int) -> tuple[Array, Array | None, tuple[int, int], Array, Array]:
        values, slopes = self._values, self._slopes
        if time_ns < self.start_ns or time_ns >= self.end_ns + self.tail_ns:
            end = 0 if time_ns < self.start_ns else -1
            return values[end], None, (0, 1), slopes[end], slopes[end]
        if time_ns >= self.end_ns:
            return values[-1], values[-1], (self.end_ns, self.tail_ns), slopes[-1], np.zeros_like(slopes[-1])
        i = bisect_right(self._time_ns, time_ns) - 1
        width_ns = (self._time_ns[i], self._time_ns[i + 1] - self._time_ns[i])
        return values[i], values[i + 1], width_ns, slopes[i], slopes[i + 1]


def _slopes(width_s: Array, values: Array, rate: Array) -> Array:
    """[K, A] slopes at the knots: of the spline, by elimination, then bounded."""
    slopes = np.zeros_like(values)
    if len(values) == 1:
        return slopes
    secant = np.diff(values, axis=0) / width_s[:, None]
    slopes[0], slopes[-1] = rate, secant[-1]
    upper = [0.0] * len(values)
    for i in range(1, len(values) - 1):
        left, right = float(width_s[i - 1]), float(width_s[i])
        pivot = 2.0 * (left + right) - right * upper[i - 1]
        upper[i] = left / pivot
        slopes[i] = (3.0 * (right * secant[i - 1] + left * secant[i]) - right * slopes[i - 1]) / pivot
    for i in range(len(values) - 2, 0, -1):
        slopes[i] = slopes[i] - upper[i] * slopes[i + 1]
    before, after = secant[:-1], secant[1:]
    least = np.minimum(np.abs(before), np.abs(after))
    most = np.where(before * after > 0, 3.0 * least, 0.0) + OVERSHOOT / np.minimum(width_s[:-1], width_s[1:])[:, None]
    slopes[1:-1] = np.minimum(np.maximum(slopes[1:-1], -most), most)
    return slopes


def _orthonormal(value: Array, rotation: list[int]) -> Array:
    """Gram-Schmidt of one vector in scalars; in the tick this is ten times faster than the batch form."""
    x0, x1, x2, y0, y1, y2 = value[rotation].tolist()
    n = (x0 * x0 + x1 * x1 + x2 * x2) ** -0.5
    x0, x1, x2 = x0 * n, x1 * n, x2 * n
    d = x0 * y0 + x1 * y1 + x2 * y2
    y0, y1, y2 = y0 - d * x0, y1 - d * x1, y2 - d * x2
    n = (y0 * y0 + y1 * y1 + y2 * y2) ** -0.5
    value[rotation] = (x0, x1, x2, y0 * n, y1 * n, y2 * n)
    return value
