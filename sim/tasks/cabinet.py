"""Furniture for tasks: a drawer in its case, and a door in its frame, each with a handle for a hand from above.

The frame of a piece has its origin on the table under the middle of its closed front, x into the piece and z up;
what is seen from the robot is the face towards -x. Furniture touches the robot and nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from robopolicy.errors import ConfigError, explain

__all__ = ["Door", "Drawer", "FurniturePlace", "add_door", "add_drawer", "in_plane"]

_BOX, _CAPSULE = mujoco.mjtGeom.mjGEOM_BOX, mujoco.mjtGeom.mjGEOM_CAPSULE
_ROBOT_ONLY = {"contype": 0, "conaffinity": 2}
_CASE: dict[str, Any] = {"rgba": [0.62, 0.45, 0.30, 1], "mass": 0.0, **_ROBOT_ONLY}
_FRONT: dict[str, Any] = {"rgba": [0.78, 0.62, 0.42, 1], "mass": 0.1, **_ROBOT_ONLY}
_METAL: dict[str, Any] = {
    "rgba": [0.20, 0.22, 0.26, 1],
    "friction": [1.0, 0.02, 0.0005],
    "condim": 4,
    "solref": [0.008, 1],
    "mass": 0.02,
    **_ROBOT_ONLY,
}
_WALL_M = 0.008


@dataclass(frozen=True)
class Drawer:
    """Sizes of a drawer and its case.

    Attributes:
        width_m, depth_m, height_m: Of the case.
        travel_m: How far the drawer comes out.
        handle_m: [2] where the handle's bar is when closed: distance before the case's front, height.
        bar_m: Radius of the bar, which is level.
        bar_half_m: Half of its length, along the front.
        mass_kg: Of the drawer.
        friction_n: Force it takes to move it.
        damping_n_s_m: Force per speed.
    """

    width_m: float = 0.24
    depth_m: float = 0.24
    height_m: float = 0.095
    travel_m: float = 0.20
    handle_m: tuple[float, float] = (0.058, 0.070)
    bar_m: float = 0.007
    bar_half_m: float = 0.05
    mass_kg: float = 0.8
    friction_n: float = 2.0
    damping_n_s_m: float = 12.0


@dataclass(frozen=True)
class Door:
    """Sizes of a door and its frame; the hinge is at the robot's left (+y) and the door opens towards the robot.

    Attributes:
        width_m, height_m, depth_m: Of the frame, which is a box open at the front.
        radius_m: Distance of the handle's bar from the hinge along the closed door.
        handle_m: [2] where the bar is: distance before the door's front, height of its free upper end.
        bar_m: Radius of the bar, which is upright.
        most_rad: How far the door opens.
        mass_kg: Of the door.
        friction_n_m: Torque it takes to move it.
        damping_n_m_s: Torque per rate.
    """

    width_m: float = 0.24
    height_m: float = 0.13
    depth_m: float = 0.12
    radius_m: float = 0.18
    handle_m: tuple[float, float] = (0.056, 0.125)
    bar_m: float = 0.008
    most_rad: float = 1.2
    mass_kg: float = 0.6
    friction_n_m: float = 0.10
    damping_n_m_s: float = 0.25

    @property
    def hinge_m(self) -> tuple[float, float]:
        """(x, y) of the hinge in the frame of the piece."""
        return (-0.002, self.width_m / 2)

    def handle_at(self, angle_rad: float) -> tuple[float, float]:
        """(x, y) of the handle's bar in the frame of the piece with the door open by an angle."""
        x, y = in_plane(np.array(self.hinge_m), -angle_rad, -self.handle_m[0], -self.radius_m)
        return float(x), float(y)


def add_drawer(case: Any, name: str, sizes: Drawer) -> None:
    """Add walls to the body ``case``, and a drawer; body and slide are called ``name``, the bar ``<name>_handle``."""
    half_y, top, wall = sizes.width_m / 2, sizes.height_m, _WALL_M
    _box(case, name, sizes.width_m, sizes.depth_m, top)
    drawer = case.add_body(name=name)
    slide = drawer.add_joint(
        name=name,
        type=mujoco.mjtJoint.mjJNT_SLIDE,
        axis=[-1, 0, 0],
        range=[0, sizes.travel_m],
        limited=mujoco.mjtLimited.mjLIMITED_TRUE,
        frictionloss=sizes.friction_n,
    )
    _damp(slide, sizes.damping_n_s_m)
    inner_y, depth, low = half_y - wall - 0.004, sizes.depth_m - 2 * wall, wall + 0.003
    for part, size, pos in (
        ("floor", [depth / 2, inner_y, 0.003], [depth / 2, 0, low + 0.003]),
        ("side_left", [depth / 2, 0.003, 0.02], [depth / 2, inner_y - 0.003, low + 0.02]),
        ("side_right", [depth / 2, 0.003, 0.02], [depth / 2, 0.003 - inner_y, low + 0.02]),
        ("end", [0.003, inner_y, 0.02], [depth - 0.003, 0, low + 0.02]),
    ):
        drawer.add_geom(name=f"{name}_{part}", type=_BOX, size=size, pos=pos, **_FRONT)
    plate = {**_FRONT, "mass": sizes.mass_kg - 0.46}
    high = (top - 0.006) / 2
    drawer.add_geom(name=f"{name}_front", type=_BOX, size=[0.005, half_y, high], pos=[-0.006, 0, high + 0.003], **plate)
    reach, height = sizes.handle_m
    right, left = ([-reach, y, height] for y in (-sizes.bar_half_m, sizes.bar_half_m))
    _bar(drawer, f"{name}_handle", right, left, sizes.bar_m)
    for side, end in (("right", right), ("left", left)):
        _bar(drawer, f"{name}_post_{side}", end, [-0.008, *end[1:]], 0.005)


def add_door(frame: Any, name: str, sizes: Door) -> None:
    """Add walls to the body ``frame``, and a door; body and hinge are called ``name``, the bar ``<name>_handle``."""
    half_y, top = sizes.width_m / 2, sizes.height_m
    _box(frame, name, sizes.width_m, sizes.depth_m, top)
    door = frame.add_body(name=name, pos=[*sizes.hinge_m, 0])
    hinge = door.add_joint(
        name=name,
        type=mujoco.mjtJoint.mjJNT_HINGE,
        axis=[0, 0, -1],
        range=[0, sizes.most_rad],
        limited=mujoco.mjtLimited.mjLIMITED_TRUE,
        frictionloss=sizes.friction_n_m,
        armature=0.002,
    )
    _damp(hinge, sizes.damping_n_m_s)
    high = (top - 0.006) / 2
    panel = {**_FRONT, "mass": sizes.mass_kg - 0.06}
    door.add_geom(
        name=f"{name}_panel", type=_BOX, size=[0.005, half_y, high], pos=[-0.006, -half_y, high + 0.003], **panel
    )
    reach, height = sizes.handle_m
    foot = [-reach, -sizes.radius_m, 0.035]
    head = [-reach, -sizes.radius_m, height - sizes.bar_m]
    _bar(door, f"{name}_handle", foot, head, sizes.bar_m)
    for z in (0.04, 0.075):
        _bar(door, f"{name}_post_{round(1000 * z)}", [-reach, -sizes.radius_m, z], [-0.008, -sizes.radius_m, z], 0.005)


def _bar(body: Any, name: str, start: list[float], end: list[float], radius_m: float) -> None:
    body.add_geom(name=name, type=_CAPSULE, fromto=[*start, *end], size=[radius_m, 0, 0], **_METAL)


def _box(body: Any, name: str, width_m: float, depth_m: float, height_m: float) -> None:
    """Five walls, open towards -x."""
    half_x, half_y, half_z, wall = depth_m / 2, width_m / 2, height_m / 2, _WALL_M / 2
    for part, size, pos in (
        ("bottom", [half_x, half_y, wall], [half_x, 0, wall]),
        ("top", [half_x, half_y, wall], [half_x, 0, height_m - wall]),
        ("left", [half_x, wall, half_z - 2 * wall], [half_x, half_y - wall, half_z]),
        ("right", [half_x, wall, half_z - 2 * wall], [half_x, wall - half_y, half_z]),
        ("back", [wall, half_y - 2 * wall, half_z - 2 * wall], [depth_m - wall, 0, half_z]),
    ):
        body.add_geom(name=f"{name}_{part}", type=_BOX, size=size, pos=pos, **_CASE)


def _damp(joint: Any, damping: float) -> None:
    """Newer versions of the engine keep a polynomial of the velocity, older ones a number."""
    if np.ndim(joint.damping):
        joint.damping[0] = damping
    else:
        joint.damping = damping


def in_plane(origin: NDArray[np.floating], yaw_rad: float, x_m: float, y_m: float) -> NDArray[np.float64]:
    """[2] where the point (x, y) of a frame with that origin and yaw lies."""
    c, s = math.cos(yaw_rad), math.sin(yaw_rad)
    return np.array([origin[0] + c * x_m - s * y_m, origin[1] + s * x_m + c * y_m])


class FurniturePlace:
    """Where a piece of furniture is put: its handle uniform in a rectangle, its yaw uniform about facing the robot.

    Args:
        task: Name, for messages.
        lower_m, upper_m: [2] corners of the rectangle, base frame.
        most_yaw_rad: Largest yaw either way.

    Raises:
        ConfigError: an empty rectangle, or a yaw beyond a quarter turn.
    """

    def __init__(self, task: str, lower_m: Sequence[float], upper_m: Sequence[float], most_yaw_rad: float):
        self.lower_m, self.upper_m = np.asarray(lower_m, float), np.asarray(upper_m, float)
        self.most_yaw_rad = float(most_yaw_rad)
        if (self.upper_m < self.lower_m).any() or not 0 <= self.most_yaw_rad < math.pi / 2:
            raise ConfigError(
                explain(
                    f"{task}: no such place for the furniture",
                    given=f"{list(lower_m)} to {list(upper_m)} m, most_yaw_rad {most_yaw_rad}",
                    allowed="upper corner above the lower, yaw from 0 to below pi/2",
                )
            )

    def draw(self, rng: np.random.Generator) -> tuple[NDArray[np.float64], float]:
        """-> (handle [2] m, yaw in rad)."""
        handle = rng.uniform(self.lower_m, self.upper_m)
        return handle, float(rng.uniform(-self.most_yaw_rad, self.most_yaw_rad))
