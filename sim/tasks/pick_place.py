"""Task ``pick_place``: carry a cube to a marked disc on the table and let it go."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import mujoco
import numpy as np
from numpy.typing import NDArray

from robopolicy.errors import ConfigError, explain
from robopolicy.sim.task import BaseTask
from robopolicy.sim.tasks.pick_place_expert import PickPlaceExpert

if TYPE_CHECKING:
    from robopolicy.sim.env import Env
    from robopolicy.sim.scene import Scene

__all__ = ["PickPlace"]

RELEASE_MARGIN_M = 0.008
"""The jaw counts as open when it is this much wider than the cube."""
INSTRUCTIONS = (
    "pick up the red cube and put it on the green disc",
    "place the red cube on the green disc",
    "move the red block onto the green circle",
    "carry the red cube to the green spot and let it go",
)
"""One of them is the instruction of an episode; they say the same."""


class PickPlace(BaseTask):
    """A cube at a random place and yaw, a goal at least ``min_distance_m`` away; see :class:`robopolicy.sim.task.Task`.

    The yaw of a cube is seen through its four-fold symmetry as (cos 4 psi, sin 4 psi), which has no jump.

    Args:
        cube_size_m: Edge length.
        cube_mass_kg: Mass.
        region_lower_m, region_upper_m: [2] corners of the rectangle that cube and goal are drawn from, base frame.
        min_distance_m: Smallest distance between cube and goal at the start.
        tolerance_m: Largest distance of the cube's centre from the goal in the plane.
        hold_s: How long it has to rest there, released.
        horizon: Control steps.
    """

    name = "pick_place"
    instruction = INSTRUCTIONS[0]
    environment_state_names = (
        *(f"cube_position.{a}" for a in "xyz"),
        "cube_yaw.cos4",
        "cube_yaw.sin4",
        *(f"goal_position.{a}" for a in "xy"),
    )
    goal_names = tuple(f"cube_position.{a}" for a in "xyz")

    def __init__(
        self,
        cube_size_m: float = 0.04,
        cube_mass_kg: float = 0.06,
        region_lower_m: Sequence[float] = (0.38, -0.18),
        region_upper_m: Sequence[float] = (0.62, 0.18),
        min_distance_m: float = 0.12,
        tolerance_m: float = 0.03,
        hold_s: float = 0.5,
        horizon: int = 140,
    ):
        self.cube_size_m = float(cube_size_m)
        self.cube_mass_kg = float(cube_mass_kg)
        self.region_m = (np.asarray(region_lower_m, float), np.asarray(region_upper_m, float))
        self.min_distance_m = float(min_distance_m)
        self.tolerance_m = float(tolerance_m)
        self.hold_s = float(hold_s)
        self._instruction = self.instruction
        self.horizon = int(horizon)
        span_m = float(np.linalg.norm(self.region_m[1] - self.region_m[0]))
        if (self.region_m[1] <= self.region_m[0]).any() or self.min_distance_m > span_m / 2:
            raise ConfigError(
                explain(
                    "pick_place: the region is too small for min_distance_m",
                    given=f"diagonal {span_m:.3f} m, min_distance_m {self.min_distance_m}",
                    allowed="min_distance_m at most half the diagonal, upper corner above the lower",
                )
            )

    def model(self) -> mujoco.MjSpec:
        """Table, cube and disc. The table's top is z = 0."""
        spec = mujoco.MjSpec()
        spec.modelname = self.name
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
        disc = world.add_body(name="goal", mocap=True)
        disc.add_geom(
            name="goal",
            type=mujoco.mjtGeom.mjGEOM_CYLINDER,
            size=[self.tolerance_m + self.cube_size_m / 2, 0.001, 0],
            rgba=[0.10, 0.65, 0.25, 1],
            contype=0,
            conaffinity=0,
        )
        cube = world.add_body(name="cube", pos=[0.5, 0, self.cube_size_m / 2])
        cube.add_freejoint(name="cube")
        cube.add_geom(
            name="cube",
            type=box,
            size=[self.cube_size_m / 2] * 3,
            mass=self.cube_mass_kg,
            rgba=[0.85, 0.12, 0.10, 1],
            friction=[1.0, 0.02, 0.0005],
            condim=4,
            solref=[0.008, 1],
        )
        return spec

    def bind(self, scene: Scene) -> None:
        """Ids of cube and disc in the composed model."""
        self._scene, model = scene, scene.model
        self._cube_qpos = int(model.joint("cube").qposadr[0])
        self._cube_qvel = int(model.joint("cube").dofadr[0])
        self._cube_geom = model.geom("cube").id
        self._goal = int(model.body("goal").mocapid[0])

    def reset(self, data: mujoco.MjData, rng: np.random.Generator) -> dict[str, float]:
        """Cube uniform in the region with uniform yaw; goal uniform among places far enough from it."""
        lower, upper = self.region_m
        cube = rng.uniform(lower, upper)
        yaw_rad = rng.uniform(-np.pi / 4, np.pi / 4)
        goal = rng.uniform(lower, upper)
        while np.linalg.norm(goal - cube) < self.min_distance_m:
            goal = rng.uniform(lower, upper)
        quaternion = [np.cos(yaw_rad / 2), 0, 0, np.sin(yaw_rad / 2)]
        data.qpos[self._cube_qpos : self._cube_qpos + 7] = [*cube, self.cube_size_m / 2, *quaternion]
        data.mocap_pos[self._goal] = [*goal, 0.0005]
        self._instruction = INSTRUCTIONS[int(rng.integers(len(INSTRUCTIONS)))]
        names = ("cube.x", "cube.y", "cube.yaw_rad", "goal.x", "goal.y")
        return dict(zip(names, map(float, (*cube, yaw_rad, *goal)), strict=True))

    def observe(self, data: mujoco.MjData) -> NDArray[np.float32]:
        """Cube position (m), (cos, sin) of four times its yaw, goal position (m): f32 [7]."""
        position = data.qpos[self._cube_qpos : self._cube_qpos + 3]
        yaw_rad = self._cube_yaw(data)
        goal = data.mocap_pos[self._goal, :2]
        return np.array([*position, np.cos(4 * yaw_rad), np.sin(4 * yaw_rad), *goal], np.float32)

    def language(self) -> str:
        """One of :data:`INSTRUCTIONS`."""
        return self._instruction

    def goal(self, data: mujoco.MjData) -> NDArray[np.float32]:
        """Where the cube's centre shall be (m): f32 [3]."""
        return np.array([*data.mocap_pos[self._goal, :2], self.cube_size_m / 2], np.float32)

    def show_goal(self, data: mujoco.MjData) -> None:
        """The cube at rest in the middle of the disc, with the yaw that it has; the robot stays where it is."""
        yaw_rad = self._cube_yaw(data)
        quaternion = [np.cos(yaw_rad / 2), 0, 0, np.sin(yaw_rad / 2)]
        data.qpos[self._cube_qpos : self._cube_qpos + 7] = [*self.goal(data), *quaternion]

    def _cube_yaw(self, data: mujoco.MjData) -> float:
        w, x, y, z = data.qpos[self._cube_qpos + 3 : self._cube_qpos + 7]
        return float(np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z)))

    def success(self, data: mujoco.MjData) -> bool:
        """Centre within ``tolerance_m`` of the goal, on the table and nearly still, jaw open, no finger on the cube."""
        x, y, z = data.qpos[self._cube_qpos : self._cube_qpos + 3].tolist()
        goal_x, goal_y, _ = data.mocap_pos[self._goal].tolist()
        if math.hypot(x - goal_x, y - goal_y) > self.tolerance_m or abs(z - self.cube_size_m / 2) > 0.004:
            return False
        open_m = self._scene.opening_m(data)
        speed_m_s = float(np.abs(data.qvel[self._cube_qvel : self._cube_qvel + 3]).max())
        return bool(speed_m_s < 0.05 and open_m > self.cube_size_m + RELEASE_MARGIN_M and not self._touched(data))

    def _touched(self, data: mujoco.MjData) -> bool:
        for first, second in data.contact.geom[: data.ncon]:
            if (first == self._cube_geom and second in self._scene.robot_geoms) or (
                second == self._cube_geom and first in self._scene.robot_geoms
            ):
                return True
        return False

    def expert(self, env: Env) -> PickPlaceExpert:
        """The scripted policy for the robot of ``env``."""
        return PickPlaceExpert(env.embodiment, self.environment_state_names, cube_size_m=self.cube_size_m)
