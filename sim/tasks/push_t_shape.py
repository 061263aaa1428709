"""The T of ``push_t``: two rectangles, their overlap with a target, and the faces one can push on.

Body frame: origin at the centre of mass, y towards the bar, with a unit of length ``u``::

             y
     +-------|-------+      bar   4u x u, centre (0, 6/7 u)
     +----+  |  +----+      stem  u x 3u, centre (0, -8/7 u)
          |  o  | ---- x
          +-----+
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Face", "Pose", "Tee"]

Array = NDArray[np.floating]


@dataclass(frozen=True)
class Pose:
    """In the plane: m, m, rad."""

    x: float
    y: float
    yaw: float

    def to_body(self, point: Array) -> Array:
        """World point [2] -> body frame."""
        dx, dy = float(point[0]) - self.x, float(point[1]) - self.y
        c, s = math.cos(self.yaw), math.sin(self.yaw)
        return np.array([c * dx + s * dy, c * dy - s * dx])

    def to_world(self, point: Array) -> Array:
        """Body point [2] -> world."""
        return np.array([self.x, self.y]) + self.turn(point)

    def turn(self, vector: Array) -> Array:
        """Body vector [2] -> world."""
        c, s = math.cos(self.yaw), math.sin(self.yaw)
        x, y = float(vector[0]), float(vector[1])
        return np.array([c * x - s * y, s * x + c * y])


@dataclass(frozen=True)
class Face:
    """One straight side of the outline, body frame.

    Attributes:
        middle: [2] m.
        outward: [2] unit normal.
        along: [2] unit vector along the side.
        lower, upper: Positions along the side, from its middle, at which a round tool can push (m).
    """

    middle: Array
    outward: Array
    along: Array
    lower: float
    upper: float


class Tee:
    """Geometry of a T of unit ``unit_m``.

    Args:
        unit_m: Width of bar and stem; the bar is four units long, the stem three.
    """

    def __init__(self, unit_m: float):
        self.unit_m = u = float(unit_m)
        self.bar = (np.array([0.0, 6 / 7 * u]), np.array([2 * u, u / 2]))
        self.stem = (np.array([0.0, -8 / 7 * u]), np.array([u / 2, 1.5 * u]))
        self.area_m2 = 7 * u * u
        self.corners = tuple(_corners(*box) for box in (self.bar, self.stem))

    def overlap(self, a: Pose, b: Pose) -> float:
        """Share of the area that the T at ``a`` has in common with the T at ``b``, exact, 0..1."""
        # b's boxes are clipped in a's frame, in which a's boxes have sides along the axes
        turn = b.yaw - a.yaw
        c, s = math.cos(turn), math.sin(turn)
        x, y = a.to_body(np.array([b.x, b.y])).tolist()
        area = 0.0
        for theirs in self.corners:
            moved = [(x + c * px - s * py, y + s * px + c * py) for px, py in theirs]
            for (mx, my), (hx, hy) in (self._plain(self.bar), self._plain(self.stem)):
                area += _area(_clip_box(moved, mx - hx, mx + hx, my - hy, my + hy))
        return area / self.area_m2

    def faces(self, tool_m: float, edge_m: float) -> tuple[Face, ...]:
        """The eight sides.

        Args:
            tool_m: Radius of the tool; it has to fit into the inner corners.
            edge_m: Distance kept from outer corners.
        """
        u, (_, bar_y), (_, stem_y) = self.unit_m, self.bar[0], self.stem[0]
        x, y = np.array([1.0, 0.0]), np.array([0.0, 1.0])
        inner = tool_m + 0.006
        top, under, end = bar_y + u / 2, bar_y - u / 2, stem_y - 1.5 * u
        faces = [
            Face(top * y, y, x, edge_m - 2 * u, 2 * u - edge_m),
            Face(end * y, -y, x, edge_m - u / 2, u / 2 - edge_m),
        ]
        for side in (1.0, -1.0):
            bar, stem = np.array([side * 2 * u, bar_y]), np.array([side * u / 2, stem_y])
            beside = np.array([side * 1.25 * u, under])
            low, high = inner - 0.75 * u, 0.75 * u - edge_m
            faces.append(Face(bar, side * x, y, edge_m - u / 2, u / 2 - edge_m))
            faces.append(Face(stem, side * x, y, edge_m - 1.5 * u, 1.5 * u - inner))
            faces.append(Face(beside, -y, x, low if side > 0 else -high, high if side > 0 else -low))
        return tuple(faces)

    @staticmethod
    def _plain(box: tuple[Array, Array]) -> tuple[tuple[float, float], tuple[float, float]]:
        (mx, my), (hx, hy) = box
        return (float(mx), float(my)), (float(hx), float(hy))


def _corners(middle: Array, half: Array) -> list[tuple[float, float]]:
    """Counter-clockwise."""
    (mx, my), (hx, hy) = middle.tolist(), half.tolist()
    return [(mx + hx, my + hy), (mx - hx, my + hy), (mx - hx, my - hy), (mx + hx, my - hy)]


def _clip_box(
    polygon: list[tuple[float, float]], x_0: float, x_1: float, y_0: float, y_1: float
) -> list[tuple[float, float]]:
    """The part of a convex polygon inside a box with sides along the axes (Sutherland and Hodgman 1974)."""
    for axis, limit, sign in ((0, x_0, 1.0), (0, x_1, -1.0), (1, y_0, 1.0), (1, y_1, -1.0)):
        kept: list[tuple[float, float]] = []
        for i, here in enumerate(polygon):
            before = polygon[i - 1]
            inside_m, was_m = sign * (here[axis] - limit), sign * (before[axis] - limit)
            if (inside_m >= 0) != (was_m >= 0):
                t = was_m / (was_m - inside_m)
                kept.append((before[0] + t * (here[0] - before[0]), before[1] + t * (here[1] - before[1])))
            if inside_m >= 0:
                kept.append(here)
        polygon = kept
        if not polygon:
            break
    return polygon


def _area(polygon: list[tuple[float, float]]) -> float:
    """Of a polygon, by the shoelace formula."""
    return 0.5 * abs(sum(polygon[i - 1][0] * y - x * polygon[i - 1][1] for i, (x, y) in enumerate(polygon)))
