"""Task ``pick_place``: carry a cube to a marked disc on the table and let it go."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import mujoco
import numpy as np
from numpy.typing import NDArray

from robopolicy.sim.task import BaseTask
from robopolicy.sim.tasks.cube_grip import CubeMotion
from robopolicy.sim.tasks.joint_space_expert import JointSpaceExpert
from robopolicy.sim.tasks.pick_place_expert import PickPlaceExpert
from robopolicy.sim.tasks.tabletop import FreeBody, add_cube, require_room, tabletop, touching

if TYPE_CHECKING:
    from robopolicy.embodiment import Embodiment
    from robopolicy.protocols import Policy
    from robopolicy.sim.env import Env
    from robopolicy.sim.scene import Scene

__all__ = ["PickPlace"]

RELEASE_MARGIN_M = 0.008
"""The jaw counts as open when it is this much wider than the cube."""
BESIDE_FINGER_M = 0.010
"""Gap to a finger that does not move, on the way down."""
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
        clearance_m: Height above the cube's resting height at which the expert travels.
        retreat_m: TCP height to which it rises in the end.
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
        clearance_m: float = CubeMotion.clearance_m,
        retreat_m: float = CubeMotion.retreat_m,
    ):
        self.cube_size_m = float(cube_size_m)
        self.cube_mass_kg = float(cube_mass_kg)
        self.region_m = (np.asarray(region_lower_m, float), np.asarray(region_upper_m, float))
        self.min_distance_m = float(min_distance_m)
        self.tolerance_m = float(tolerance_m)
        self.hold_s = float(hold_s)
        self._instruction = self.instruction
        self.horizon = int(horizon)
        self._motion = CubeMotion(clearance_m=float(clearance_m), retreat_m=float(retreat_m))
        require_room(self.name, *self.region_m, self.min_distance_m)

    def model(self) -> mujoco.MjSpec:
        """Table, cube and disc. The table's top is z = 0."""
        spec = tabletop(self.name)
        disc = spec.worldbody.add_body(name="goal", mocap=True)
        disc.add_geom(
            name="goal",
            type=mujoco.mjtGeom.mjGEOM_CYLINDER,
            size=[self.tolerance_m + self.cube_size_m / 2, 0.001, 0],
            rgba=[0.10, 0.65, 0.25, 1],
            contype=0,
            conaffinity=0,
        )
        add_cube(spec, "cube", self.cube_size_m, self.cube_mass_kg, (0.85, 0.12, 0.10, 1))
        return spec

    def bind(self, scene: Scene) -> None:
        """Ids of cube and disc in the composed model."""
        self._scene, model = scene, scene.model
        self._cube, self._cube_geom = FreeBody(model, "cube"), model.geom("cube").id
        self._goal = int(model.body("goal").mocapid[0])

    def reset(self, data: mujoco.MjData, rng: np.random.Generator) -> dict[str, float]:
        """Cube uniform in the region with uniform yaw; goal uniform among places far enough from it."""
        lower, upper = self.region_m
        cube = rng.uniform(lower, upper)
        yaw_rad = rng.uniform(-np.pi / 4, np.pi / 4)
        goal = rng.uniform(lower, upper)
        while np.linalg.norm(goal - cube) < self.min_distance_m:
            goal = rng.uniform(lower, upper)
        self._cube.place(data, (*cube, self.cube_size_m / 2), yaw_rad)
        data.mocap_pos[self._goal] = [*goal, 0.0005]
        self._instruction = INSTRUCTIONS[int(rng.integers(len(INSTRUCTIONS)))]
        names = ("cube.x", "cube.y", "cube.yaw_rad", "goal.x", "goal.y")
        return dict(zip(names, map(float, (*cube, yaw_rad, *goal)), strict=True))

    def observe(self, data: mujoco.MjData) -> NDArray[np.float32]:
        """Cube position (m), (cos, sin) of four times its yaw, goal position (m): f32 [7]."""
        goal_x, goal_y, _ = data.mocap_pos[self._goal].tolist()
        return np.array((*self._cube.four_fold(data), goal_x, goal_y), np.float32)

    def language(self) -> str:
        """One of :data:`INSTRUCTIONS`."""
        return self._instruction

    def goal(self, data: mujoco.MjData) -> NDArray[np.float32]:
        """Where the cube's centre shall be (m): f32 [3]."""
        goal_x, goal_y, _ = data.mocap_pos[self._goal].tolist()
        return np.array((goal_x, goal_y, self.cube_size_m / 2), np.float32)

    def show_goal(self, data: mujoco.MjData) -> None:
        """The cube at rest in the middle of the disc, with the yaw that it has; the robot stays where it is."""
        self._cube.place(data, self.goal(data).tolist(), self._cube.yaw(data))

    def success(self, data: mujoco.MjData) -> bool:
        """Centre within ``tolerance_m`` of the goal, on the table and nearly still, jaw open, no finger on the cube."""
        x, y, z = self._cube.position(data).tolist()
        goal_x, goal_y, _ = data.mocap_pos[self._goal].tolist()
        if math.hypot(x - goal_x, y - goal_y) > self.tolerance_m or abs(z - self.cube_size_m / 2) > 0.004:
            return False
        if self._scene.opening_m(data) <= self.cube_size_m + RELEASE_MARGIN_M or self._cube.speed_m_s(data) >= 0.05:
            return False
        return not touching(self._scene, data, (self._cube_geom,))

    def expert(self, env: Env) -> Policy:
        """The scripted policy for the robot of ``env``; through inverse kinematics where it takes joint positions."""

        def build(card: Embodiment) -> PickPlaceExpert:
            names = self.environment_state_names
            return PickPlaceExpert(card, names, cube_size_m=self.cube_size_m, motion=self._motion)

        card = env.embodiment
        if card.action_space != "joint_position":
            return build(card)
        # one finger stands still: the cube is wanted a little beside it, and is pushed against it
        beside_m = self.cube_size_m / 2 + BESIDE_FINGER_M if len(env.scene.grippers[0].qpos) == 1 else 0.0
        return JointSpaceExpert(card, build, tool_m=(0.0, beside_m, 0.0))
