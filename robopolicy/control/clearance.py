"""Keeps the whole arm, on the whole of its braking path, away from planes, boxes and itself.

The arm is a set of spheres fixed to its links. Each tick it is asked whether braking from the state that the limiter
proposes keeps every sphere on the right side of every plane, out of every box, and apart from the spheres it is paired
with. The answer is usually had from one forward kinematics: no sphere moves further than reach times joint travel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robopolicy.control.braking import brake_positions
from robopolicy.control.kinematics import Kinematics
from robopolicy.errors import ConfigError, explain, suggest
from robopolicy.schema import setting

__all__ = ["ClearanceConfig", "ClearanceGuard"]

Array = NDArray[np.float64]
BASE = "base"
MOST_POINTS = 24
"""Points of a braking path that are looked at; between two of them no sphere moves further than their joint travel."""


@dataclass(frozen=True)
class ClearanceConfig:
    """What surrounds the arm; a part of a robot's YAML. Lengths in metres, in the arm's base frame."""

    spheres: tuple[dict[str, Any], ...] = setting(
        "spheres of the arm: {name, joint (or base), position_m [3] in that joint's frame, radius_m}", default=()
    )
    pairs: tuple[tuple[str, str], ...] = setting("names of spheres that must not touch", default=())
    planes: tuple[dict[str, Any], ...] = setting("{normal [3], offset_m}: normal . x >= offset_m is free", default=())
    boxes: tuple[dict[str, Any], ...] = setting("{lower_m [3], upper_m [3]} that no sphere may enter", default=())

    @property
    def empty(self) -> bool:
        """Nothing to keep clear of."""
        return not (self.pairs or self.planes or self.boxes)


class ClearanceGuard:
    """Clearance of one arm.

    A start that is already too near is not a violation: from there no sphere may come nearer still.

    Args:
        kinematics: Of the arm.
        config: What surrounds it.
        acceleration, jerk: [n] limits of the arm joints in tick units.

    Raises:
        ConfigError: an unknown joint or sphere, a plane without a normal, an empty box.
    """

    def __init__(
        self, kinematics: Kinematics, config: ClearanceConfig, acceleration: Sequence[float], jerk: Sequence[float]
    ) -> None:
        self._kinematics, self._A, self._J = kinematics, list(acceleration), list(jerk)
        joints = [link.joint for link in kinematics.embodiment.chain]
        self._frame, names = [], []
        centre, radius = [], []
        for sphere in config.spheres:
            name, joint = str(sphere["name"]), str(sphere["joint"])
            if joint != BASE and joint not in joints:
                allowed = [BASE, *joints]
                raise ConfigError(
                    explain(f"sphere {name} is on no link", given=joint, allowed=allowed, mend=suggest(joint, allowed))
                )
            names.append(name)
            self._frame.append(0 if joint == BASE else joints.index(joint) + 1)
            centre.append(_three(sphere["position_m"], f"position_m of sphere {name}"))
            radius.append(float(sphere["radius_m"]))
        self._centre, self._radius = np.array(centre, float).reshape(-1, 3), np.array(radius, float)
        self._pairs = np.array([[_index(names, n) for n in pair] for pair in config.pairs], np.intp).reshape(-1, 2)
        self._normal, self._offset = _planes(config.planes)
        self._lower, self._upper = _boxes(config.boxes)
        self._reach = self._reaches(len(joints))
        self._floor = np.zeros(self._clearances(np.zeros((1, len(joints)))).shape[1])

    def begin(self, q_arm: Sequence[float]) -> None:
        """Start at ``q_arm`` [n], at rest."""
        here = self._clearances(np.array([q_arm], float))[0]
        self._floor = np.minimum(here - 1e-9, 0.0)

    def clear(self, p: Sequence[float], v: Sequence[float], a: Sequence[float]) -> bool:
        """Whether braking from the arm's joint state (p, v, a) [n], tick units, stays clear."""
        here = self._clearances(np.array([p], float))[0] - self._floor
        if (here < 0).any():
            return False
        paths = [brake_positions(x, dx, ddx, A, J) for x, dx, ddx, A, J in zip(p, v, a, self._A, self._J, strict=True)]
        travel = np.array([max((abs(y - x) for y in path), default=0.0) for x, path in zip(p, paths, strict=True)])
        if (here >= self._reach @ travel).all():
            return True
        points = self._points(p, paths)
        # half of the travel to the next point on either side: nothing between two points is out of sight
        slack = np.abs(np.diff(points, axis=0)).max(axis=0, initial=0.0)
        found = self._clearances(points) - self._floor
        return bool((found >= 0.5 * (self._reach @ slack)).all())

    def nearest(self, q_arm: Sequence[float]) -> float:
        """Least clearance at ``q_arm`` [n] in metres; negative inside something."""
        return float(self._clearances(np.array([q_arm], float)).min())

    def settle(self, q_arm: Sequence[float]) -> None:
        """Forget a start that was too near once the arm has left it."""
        if (self._floor < 0).any():
            here = self._clearances(np.array([q_arm], float))[0]
            self._floor = np.minimum(np.maximum(self._floor, here - 1e-9), 0.0)

    def _points(self, p: Sequence[float], paths: list[list[float]]) -> Array:
        ticks = max(map(len, paths), default=0)
        padded = np.array(
            [path + [path[-1] if path else x] * (ticks - len(path)) for x, path in zip(p, paths, strict=True)]
        ).T
        count = max(1, -(-ticks // MOST_POINTS))
        chosen = padded[count - 1 :: count] if ticks else padded.reshape(0, len(p))
        last = padded[-1:] if ticks else chosen
        return np.concatenate([np.array([p], float), chosen, last])

    def _spheres(self, q_arm: Array) -> Array:
        """[N, n] rad -> sphere centres [N, K, 3]."""
        links = self._kinematics.link_poses(q_arm)
        frames = links[:, self._frame]
        return np.einsum("nkij,kj->nki", frames[..., :3, :3], self._centre) + frames[..., :3, 3]

    def _clearances(self, q_arm: Array) -> Array:
        """[N, n] -> [N, checks] metres left of each sphere and plane, each sphere and box, each pair."""
        centres = self._spheres(q_arm)
        parts = []
        if len(self._normal):
            parts.append((centres @ self._normal.T - self._offset - self._radius[:, None]).reshape(len(q_arm), -1))
        if len(self._lower):
            outside = np.maximum(self._lower - centres[:, :, None], centres[:, :, None] - self._upper)
            apart = np.linalg.norm(np.maximum(outside, 0.0), axis=-1)
            inside = np.minimum(outside.max(axis=-1), 0.0)
            parts.append((apart + inside - self._radius[None, :, None]).reshape(len(q_arm), -1))
        if len(self._pairs):
            one, two = self._pairs.T
            apart = np.linalg.norm(centres[:, one] - centres[:, two], axis=-1)
            parts.append(apart - self._radius[one] - self._radius[two])
        return np.concatenate(parts, axis=1) if parts else np.zeros((len(q_arm), 0))

    def _reaches(self, joints: int) -> Array:
        """[checks, n]: by how much a joint's turn of one radian can change each clearance at most."""
        lengths = [float(np.linalg.norm(link.position_m)) for link in self._kinematics.embodiment.chain]
        single = np.zeros((len(self._frame), joints))
        for k, frame in enumerate(self._frame):
            for i in range(frame):
                single[k, i] = sum(lengths[i + 1 : frame]) + float(np.linalg.norm(self._centre[k]))
        parts = [np.repeat(single, len(self._normal), axis=0), np.repeat(single, len(self._lower), axis=0)]
        if len(self._pairs):
            one, two = self._pairs.T
            # both move; joints before both move neither against the other
            shared = np.minimum(np.array(self._frame)[one], np.array(self._frame)[two])
            both = single[one] + single[two]
            both[np.arange(joints)[None] < shared[:, None]] = 0.0
            parts.append(both)
        return np.concatenate(parts)


def _three(value: Any, what: str) -> Array:
    found = np.asarray(value, float)
    if found.shape != (3,) or not np.isfinite(found).all():
        raise ConfigError(explain(f"{what} must be three finite numbers", given=value))
    return found


def _index(names: list[str], name: str) -> int:
    if name not in names:
        raise ConfigError(explain("no such sphere", given=name, allowed=names, mend=suggest(name, names)))
    return names.index(name)


def _planes(planes: Sequence[Mapping[str, Any]]) -> tuple[Array, Array]:
    normals, offsets = [], []
    for plane in planes:
        normal = _three(plane["normal"], "normal of a plane")
        length = float(np.linalg.norm(normal))
        if length < 1e-9:
            raise ConfigError(explain("the normal of a plane has no length", given=plane["normal"]))
        normals.append(normal / length)
        offsets.append(float(plane["offset_m"]) / length)
    return np.array(normals, float).reshape(-1, 3), np.array(offsets, float)


def _boxes(boxes: Sequence[Mapping[str, Any]]) -> tuple[Array, Array]:
    lower = np.array([_three(box["lower_m"], "lower_m of a box") for box in boxes], float).reshape(-1, 3)
    upper = np.array([_three(box["upper_m"], "upper_m of a box") for box in boxes], float).reshape(-1, 3)
    if (lower >= upper).any():
        raise ConfigError(explain("a box is empty", given=f"{lower.tolist()} to {upper.tolist()}"))
    return lower, upper
