"""The table that tasks take place on, free cubes, and what tasks ask about them. Table top at z = 0."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import mujoco
import numpy as np
from numpy.typing import NDArray

from robopolicy.errors import ConfigError, explain
from robopolicy.sim.scene import Scene

__all__ = ["FreeBody", "add_cube", "mocap_yaw", "require_room", "tabletop", "touching"]


def tabletop(name: str) -> mujoco.MjSpec:
    """A world with light, a table of 1.1 x 1.2 m and a floor that touches nothing; angles are in radians."""
    spec = mujoco.MjSpec()
    spec.modelname = name
    spec.compiler.degree = False
    world, box = spec.worldbody, mujoco.mjtGeom.mjGEOM_BOX
    # light adds up to less than one on a horizontal face, so that no colour is washed out
    world.add_light(
        pos=[0.6, 0.4, 2.0],
        dir=[-0.25, -0.35, -1],
        type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
        diffuse=[0.45, 0.45, 0.45],
        specular=[0.1, 0.1, 0.1],
    )
    spec.visual.headlight.ambient = [0.35, 0.35, 0.35]
    spec.visual.headlight.diffuse = [0.25, 0.25, 0.25]
    spec.visual.headlight.specular = [0.0, 0.0, 0.0]
    table = {"rgba": [0.80, 0.74, 0.64, 1], "friction": [1.0, 0.01, 0.0002]}
    world.add_geom(name="table", type=box, size=[0.55, 0.6, 0.02], pos=[0.35, 0, -0.02], **table)
    floor = {"rgba": [0.45, 0.50, 0.56, 1], "contype": 0, "conaffinity": 0}
    world.add_geom(name="floor", type=box, size=[3, 3, 0.01], pos=[0, 0, -0.6], **floor)
    return spec


def add_cube(spec: mujoco.MjSpec, name: str, size_m: float, mass_kg: float, rgba: Sequence[float]) -> None:
    """A free cube of that edge length; body, joint and geom carry the name."""
    cube = spec.worldbody.add_body(name=name, pos=[0.5, 0, size_m / 2])
    cube.add_freejoint(name=name)
    cube.add_geom(
        name=name,
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=[size_m / 2] * 3,
        mass=mass_kg,
        rgba=rgba,
        friction=[1.0, 0.02, 0.0005],
        condim=4,
        solref=[0.008, 1],
    )


class FreeBody:
    """Where the state of a body with a free joint is, by the joint's name.

    Args:
        model: Compiled model.
        name: Of the free joint.
    """

    def __init__(self, model: mujoco.MjModel, name: str):
        self._qpos, self._qvel = int(model.joint(name).qposadr[0]), int(model.joint(name).dofadr[0])

    def place(self, data: mujoco.MjData, position_m: Sequence[float], yaw_rad: float) -> None:
        """Put it there, upright and at rest."""
        turn = [math.cos(yaw_rad / 2), 0, 0, math.sin(yaw_rad / 2)]
        data.qpos[self._qpos : self._qpos + 7] = [*position_m, *turn]
        data.qvel[self._qvel : self._qvel + 6] = 0

    def position(self, data: mujoco.MjData) -> NDArray[np.float64]:
        """[3] m."""
        return data.qpos[self._qpos : self._qpos + 3]

    def yaw(self, data: mujoco.MjData) -> float:
        """Turn about the vertical, rad."""
        w, x, y, z = data.qpos[self._qpos + 3 : self._qpos + 7].tolist()
        return math.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))

    def four_fold(self, data: mujoco.MjData) -> tuple[float, float, float, float, float]:
        """Position (m), and the yaw of a body with four-fold symmetry as (cos, sin) of four times it, without jump."""
        x, y, z = data.qpos[self._qpos : self._qpos + 3].tolist()
        yaw_rad = 4 * self.yaw(data)
        return x, y, z, math.cos(yaw_rad), math.sin(yaw_rad)

    def speed_m_s(self, data: mujoco.MjData) -> float:
        """Largest component of its velocity."""
        return max(map(abs, data.qvel[self._qvel : self._qvel + 3].tolist()))


def mocap_yaw(data: mujoco.MjData, body: int, position_m: Sequence[float], yaw_rad: float) -> None:
    """Put a mocap body (its ``mocapid``) at a place and yaw."""
    data.mocap_pos[body] = position_m
    data.mocap_quat[body] = [math.cos(yaw_rad / 2), 0, 0, math.sin(yaw_rad / 2)]


def require_room(
    task: str, lower_m: NDArray[np.floating], upper_m: NDArray[np.floating], min_distance_m: float
) -> None:
    """Refuse a rectangle in which two places can hardly be that far apart.

    Args:
        task: Name, for the message.
        lower_m, upper_m: [2] corners.
        min_distance_m: Smallest distance between two places drawn from it.

    Raises:
        ConfigError: an empty rectangle, or a distance above half its diagonal.
    """
    span_m = float(np.linalg.norm(upper_m - lower_m))
    if (upper_m <= lower_m).any() or min_distance_m > span_m / 2:
        raise ConfigError(
            explain(
                f"{task}: the region is too small for min_distance_m",
                given=f"diagonal {span_m:.3f} m, min_distance_m {min_distance_m}",
                allowed="min_distance_m at most half the diagonal, upper corner above the lower",
            )
        )


def touching(scene: Scene, data: mujoco.MjData, geoms: Collection[int]) -> bool:
    """Whether the robot touches one of the geoms."""
    for first, second in data.contact.geom[: data.ncon].tolist():
        if (first in geoms and second in scene.robot_geoms) or (second in geoms and first in scene.robot_geoms):
            return True
    return False
