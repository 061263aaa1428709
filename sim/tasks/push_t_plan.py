"""Which side of the T to push next, and how to get there.

A stick without friction pushes along the side's normal ``n``. Against viscous resistance of turning radius ``rho`` the
T then moves, per metre of the contact's way along ``n``, with the constant body twist (Lynch and Mason 1996, "Stable
pushing", give the quasi-static mechanics)::

    velocity = n / (1 + m^2 / rho^2)      rate = (m / rho^2) / (1 + m^2 / rho^2)      m = p x n, lever of the contact p

so it turns on a circle, in closed form. :class:`PushPlanner` looks at every pair of such pushes and keeps the first of
the best pair. :func:`detours` finds the shortest ways around the T, one on each side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from robopolicy.sim.tasks.push_t_shape import Face, Pose, Tee

__all__ = ["Detours", "Push", "PushPlanner"]

Array = NDArray[np.floating]

TURN_M = 0.05
"""Metres of misplacement that one radian of wrong yaw counts for."""

WEIGHT = 6.0
"""Metres of way that a metre of misplacement left over is worth."""


@dataclass(frozen=True)
class Push:
    """One push.

    Attributes:
        face: Side of the T.
        along_m: Where on it, from its middle.
        subgoal: Pose of the T at its end.
    """

    face: Face
    along_m: float
    subgoal: Pose


class PushPlanner:
    """Chooses pushes for a T that has to come to a target.

    Args:
        tee: Geometry.
        target: Where the T shall be.
        tool_m: Radius of the stick.
        turn_radius_m: ``rho``.
        region_lower_m, region_upper_m: [2] where the stick may go, base frame.
    """

    def __init__(
        self,
        tee: Tee,
        target: Pose,
        *,
        tool_m: float,
        turn_radius_m: float,
        region_lower_m: Array,
        region_upper_m: Array,
    ):
        self._target, self._tool_m = target, tool_m
        self._region = (np.asarray(region_lower_m, float), np.asarray(region_upper_m, float))
        choices = []
        for face in tee.faces(tool_m, 0.2 * tee.unit_m):
            count = 2 + int((face.upper - face.lower) / 0.012)
            choices += [(face, s) for s in np.linspace(face.lower, face.upper, count).tolist()]
        self._choices = choices
        point = np.array([face.middle + s * face.along for face, s in choices])  # [C, 2]
        normal = np.array([-face.outward for face, _ in choices])
        lever = point[:, 0] * normal[:, 1] - point[:, 1] * normal[:, 0]
        share = 1.0 / (1.0 + (lever / turn_radius_m) ** 2)
        self._before = point - normal * (tool_m + 0.01)  # the stick's centre before contact
        self._between = np.linalg.norm(self._before[:, None] - self._before[None], axis=-1)  # [C, C]
        way = np.concatenate([np.linspace(0.004, 0.04, 7), np.linspace(0.055, 0.20, 9)])
        rate = lever / turn_radius_m**2 * share
        # poses in the T's own frame after each push, [C, W]: x, y, yaw, way
        yaw = rate[:, None] * way
        ahead, aside = _arc(yaw, way)
        ahead, aside = ahead * share[:, None], aside * share[:, None]
        x = normal[:, :1] * ahead - normal[:, 1:] * aside
        y = normal[:, 1:] * ahead + normal[:, :1] * aside
        self._moves = np.stack([x, y, yaw, np.broadcast_to(way, x.shape)], axis=-1)

    def choose(self, pose: Pose, stick: Array, rng: np.random.Generator) -> Push:
        """The first push of the best pair; among sides that are nearly as good, by chance.

        Args:
            pose: Of the T.
            stick: [2] where the stick is.
            rng: Breaks ties.
        """
        ways = self._moves.shape[1]
        first = self._moves.reshape(-1, 4)
        x, y, yaw = _compose((pose.x, pose.y, pose.yaw), first)
        near = self._away(self._before, pose, stick)  # [C]
        cost = first[:, 3] + 0.3 * np.repeat(near, ways) + 0.02
        # a T or a stick that would leave the region
        lower, upper = self._region
        inside = np.minimum(np.stack([x, y], -1) - lower - 0.07, upper - 0.07 - np.stack([x, y], -1)).min(-1)
        cost = cost + 10 * np.maximum(0.0, -inside)
        start = np.array([pose.to_world(p) for p in self._before])
        outside = np.minimum(start - lower, upper - start).min(-1) < 0
        cost = cost + np.repeat(np.where(outside, 1.0, 0.0), ways)
        alone = cost + WEIGHT * self._left(x, y, yaw)
        # a second push after the more promising first ones
        kept = np.argsort(cost + 1.5 * self._left(x, y, yaw))[:160]
        second = self._moves.reshape(-1, 4)
        x2, y2, yaw2 = _compose((x[kept, None], y[kept, None], yaw[kept, None]), second[None])
        between = np.repeat(self._between[kept // ways], ways, axis=1)
        pair = cost[kept, None] + second[None, :, 3] + 0.3 * between + 0.03 + WEIGHT * self._left(x2, y2, yaw2)
        value = alone.copy()
        value[kept] = np.minimum(value[kept], pair.min(1))
        best_of_side: dict[int, int] = {}
        order = np.argsort(value)
        for i in order[: 4 * ways].tolist():
            best_of_side.setdefault(id(self._choices[i // ways][0]), i)
        close = [i for i in best_of_side.values() if value[i] <= value[order[0]] + 0.005]
        chosen = close[int(rng.integers(len(close)))]
        face, along = self._choices[chosen // ways]
        return Push(face, along, Pose(float(x[chosen]), float(y[chosen]), float(yaw[chosen])))

    def left_m(self, pose: Pose) -> float:
        """How far a pose is from the target, turns counted at :data:`TURN_M`."""
        return float(self._left(np.array(pose.x), np.array(pose.y), np.array(pose.yaw)))

    def _left(self, x: Array, y: Array, yaw: Array) -> Array:
        turn = np.mod(yaw - self._target.yaw + np.pi, 2 * np.pi) - np.pi
        return np.sqrt((x - self._target.x) ** 2 + (y - self._target.y) ** 2 + (TURN_M * turn) ** 2)

    @staticmethod
    def _away(points: Array, pose: Pose, stick: Array) -> Array:
        return np.linalg.norm(points - pose.to_body(stick), axis=1)


def _arc(yaw: Array, way: Array) -> tuple[Array, Array]:
    """Ahead and aside after ``way`` on a circle along which the heading turns by ``yaw``."""
    small = np.abs(yaw) < 1e-6
    safe = np.where(small, 1.0, yaw)
    return way * np.where(small, 1.0, np.sin(safe) / safe), way * np.where(small, 0.0, (1 - np.cos(safe)) / safe)


def _compose(pose: tuple[Array | float, ...], move: Array) -> tuple[Array, Array, Array]:
    x, y, yaw = pose
    c, s = np.cos(yaw), np.sin(yaw)
    return x + c * move[..., 0] - s * move[..., 1], y + s * move[..., 0] + c * move[..., 1], yaw + move[..., 2]


class Detours:
    """Ways of a stick around the T, in the T's frame.

    Args:
        tee: Geometry.
        keep_m: Smallest distance of the stick's centre from the T.
    """

    def __init__(self, tee: Tee, keep_m: float):
        self._boxes = [(middle, half + keep_m) for middle, half in (tee.bar, tee.stem)]
        margin = keep_m + 0.004
        bar, stem = tee.bar, tee.stem
        corner = [
            bar[0] + (bar[1] + margin) * sign for sign in (np.array([1, 1]), np.array([-1, 1]), np.array([-1, -1]))
        ]
        corner += [stem[0] + (stem[1] + margin) * sign for sign in (np.array([-1, -1]), np.array([1, -1]))]
        corner.append(bar[0] + (bar[1] + margin) * np.array([1, -1]))
        self._ring = np.array(corner)  # [6, 2] counter-clockwise

    def free(self, start: Array, end: Array) -> bool:
        """Whether the straight way keeps clear of the T."""
        return not any(_crosses(start, end, middle, half) for middle, half in self._boxes)

    def inside(self, point: Array) -> bool:
        """Whether a place is nearer to the T than is kept on the way."""
        return any(bool((np.abs(point - middle) < half).all()) for middle, half in self._boxes)

    def around(self, start: Array, end: Array) -> tuple[tuple[float, Array], tuple[float, Array]]:
        """Counter-clockwise and clockwise: length (m) and next waypoint [2]; infinite where there is none."""
        ring, count = self._ring, len(self._ring)
        seen = [self.free(start, node) for node in ring]
        sees = [self.free(node, end) for node in ring]
        ways = []
        for sign in (1, -1):
            best: tuple[float, Array] = (math.inf, end)
            for i in range(count):
                if not seen[i]:
                    continue
                length, here = float(np.linalg.norm(ring[i] - start)), i
                for _ in range(count):
                    if sees[here]:
                        total = length + float(np.linalg.norm(end - ring[here]))
                        best = min(best, (total, ring[i]), key=lambda way: way[0])
                    after = (here + sign) % count
                    length, here = length + float(np.linalg.norm(ring[after] - ring[here])), after
            ways.append(best)
        return ways[0], ways[1]


def _crosses(start: Array, end: Array, middle: Array, half: Array) -> bool:
    """Whether a segment enters the inside of a box with sides along the axes."""
    enter, leave = 0.0, 1.0
    for a, b, m, h in zip(start.tolist(), end.tolist(), middle.tolist(), half.tolist(), strict=True):
        step = b - a
        if abs(step) < 1e-9:
            if abs(a - m) >= h:
                return False
            continue
        first, last = sorted(((m - h - a) / step, (m + h - a) / step))
        enter, leave = max(enter, first), min(leave, last)
    return leave - enter > 1e-6
