"""Task ``stack``: put one cube on another and let it go."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import mujoco
import numpy as np
from numpy.typing import NDArray

from robopolicy.sim.task import BaseTask
from robopolicy.sim.tasks.stack_expert import StackExpert
from robopolicy.sim.tasks.tabletop import FreeBody, add_cube, require_room, tabletop, touching

if TYPE_CHECKING:
    from robopolicy.sim.env import Env
    from robopolicy.sim.scene import Scene

__all__ = ["Stack"]

RELEASE_MARGIN_M = 0.008
"""The jaw counts as open when it is this much wider than the cube."""
INSTRUCTIONS = (
    "stack the red cube on the green cube",
    "put the red cube on top of the green one",
    "place the red block onto the green block and let it go",
    "build a tower with the red cube above the green cube",
)
"""One of them is the instruction of an episode; they say the same."""


class Stack(BaseTask):
    """A red and a green cube at random places and yaws; see :class:`robopolicy.sim.task.Task`.

    The yaw of a cube is seen through its four-fold symmetry as (cos 4 psi, sin 4 psi), which has no jump.

    Args:
        cube_size_m: Edge length of both.
        cube_mass_kg: Mass of each.
        region_lower_m, region_upper_m: [2] corners of the rectangle that both are drawn from, base frame.
        min_distance_m: Smallest distance between their centres at the start.
        tolerance_m: Largest distance between their centres in the plane when stacked.
        hold_s: How long the red one has to rest on the green one, released.
        horizon: Control steps.
    """

    name = "stack"
    instruction = INSTRUCTIONS[0]
    environment_state_names = tuple(
        channel
        for cube in ("red", "green")
        for channel in (*(f"{cube}_position.{a}" for a in "xyz"), f"{cube}_yaw.cos4", f"{cube}_yaw.sin4")
    )
    goal_names = tuple(f"red_position.{a}" for a in "xyz")

    def __init__(
        self,
        cube_size_m: float = 0.04,
        cube_mass_kg: float = 0.06,
        region_lower_m: Sequence[float] = (0.38, -0.18),
        region_upper_m: Sequence[float] = (0.62, 0.18),
        min_distance_m: float = 0.11,
        tolerance_m: float = 0.018,
        hold_s: float = 1.0,
        horizon: int = 200,
    ):
        self.cube_size_m, self.cube_mass_kg = float(cube_size_m), float(cube_mass_kg)
        self.region_m = (np.asarray(region_lower_m, float), np.asarray(region_upper_m, float))
        self.min_distance_m, self.tolerance_m = float(min_distance_m), float(tolerance_m)
        self.hold_s, self.horizon = float(hold_s), int(horizon)
        self._instruction, self._goal = self.instruction, np.zeros(3)
        require_room(self.name, *self.region_m, self.min_distance_m)

    def model(self) -> mujoco.MjSpec:
        """Table and two cubes."""
        spec = tabletop(self.name)
        add_cube(spec, "red", self.cube_size_m, self.cube_mass_kg, [0.85, 0.12, 0.10, 1])
        add_cube(spec, "green", self.cube_size_m, self.cube_mass_kg, [0.10, 0.60, 0.25, 1])
        return spec

    def bind(self, scene: Scene) -> None:
        """Ids of the cubes in the composed model."""
        self._scene = scene
        self._red, self._green = (FreeBody(scene.model, name) for name in ("red", "green"))
        self._red_geom = frozenset({scene.model.geom("red").id})

    def reset(self, data: mujoco.MjData, rng: np.random.Generator) -> dict[str, float]:
        """Both uniform in the region, far enough apart, with uniform yaw."""
        lower, upper = self.region_m
        red, green = rng.uniform(lower, upper), rng.uniform(lower, upper)
        while np.linalg.norm(green - red) < self.min_distance_m:
            green = rng.uniform(lower, upper)
        red_yaw, green_yaw = rng.uniform(-np.pi / 4, np.pi / 4, 2)
        self._instruction = INSTRUCTIONS[int(rng.integers(len(INSTRUCTIONS)))]
        self._red.place(data, (*red, self.cube_size_m / 2), red_yaw)
        self._green.place(data, (*green, self.cube_size_m / 2), green_yaw)
        self._goal = np.array([*green, 1.5 * self.cube_size_m])
        names = ("red.x", "red.y", "red.yaw_rad", "green.x", "green.y", "green.yaw_rad")
        return dict(zip(names, map(float, (*red, red_yaw, *green, green_yaw)), strict=True))

    def observe(self, data: mujoco.MjData) -> NDArray[np.float32]:
        """Position (m) and (cos, sin) of four times the yaw, of the red and of the green cube: f32 [10]."""
        return np.array((*self._red.four_fold(data), *self._green.four_fold(data)), np.float32)

    def language(self) -> str:
        """One of :data:`INSTRUCTIONS`."""
        return self._instruction

    def goal(self, data: mujoco.MjData) -> NDArray[np.float32]:
        """Where the centre of the red cube shall be (m), on the green one's first place: f32 [3]."""
        return self._goal.astype(np.float32)

    def show_goal(self, data: mujoco.MjData) -> None:
        """The red cube on the green one, edges along edges."""
        self._red.place(data, tuple(self._goal), self._green.yaw(data))
        mujoco.mj_forward(self._scene.model, data)

    def success(self, data: mujoco.MjData) -> bool:
        """Red on green, within ``tolerance_m``, both nearly still, green on the table, jaw open, no finger on red."""
        red, green = self._red.position(data).tolist(), self._green.position(data).tolist()
        size_m = self.cube_size_m
        if abs(red[2] - green[2] - size_m) > 0.004 or abs(green[2] - size_m / 2) > 0.004:
            return False
        if math.hypot(red[0] - green[0], red[1] - green[1]) > self.tolerance_m:
            return False
        if max(self._red.speed_m_s(data), self._green.speed_m_s(data)) > 0.03:
            return False
        released = self._scene.opening_m(data) > size_m + RELEASE_MARGIN_M
        return bool(released and not touching(self._scene, data, self._red_geom))

    def expert(self, env: Env) -> StackExpert:
        """The scripted policy for the robot of ``env``."""
        return StackExpert(env.embodiment, self.environment_state_names, cube_size_m=self.cube_size_m)
