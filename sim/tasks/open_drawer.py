"""Task ``open_drawer``: take a drawer by its handle and pull it open."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import mujoco
import numpy as np
from numpy.typing import NDArray

from robopolicy.sim.task import BaseTask
from robopolicy.sim.tasks.cabinet import Drawer, FurniturePlace, add_drawer, in_plane
from robopolicy.sim.tasks.open_drawer_expert import OpenDrawerExpert
from robopolicy.sim.tasks.tabletop import mocap_yaw, tabletop

if TYPE_CHECKING:
    from robopolicy.sim.env import Env
    from robopolicy.sim.scene import Scene

__all__ = ["OpenDrawer"]

INSTRUCTIONS = (
    "open the drawer",
    "pull the drawer open by its handle",
    "take the handle and slide the drawer out",
)
"""One of them is the instruction of an episode; they say the same."""


class OpenDrawer(BaseTask):
    """A cabinet with one drawer, at a random place and yaw; see :class:`robopolicy.sim.task.Task`.

    Args:
        region_lower_m, region_upper_m: [2] corners of the rectangle that the handle of the closed drawer is drawn from.
        most_yaw_rad: Largest yaw of the cabinet either way.
        success_m: How far the drawer has to be open.
        hold_s: For how long.
        horizon: Control steps.
        drawer: Sizes, mass and friction.
    """

    name = "open_drawer"
    instruction = INSTRUCTIONS[0]
    environment_state_names = (
        *(f"handle_position.{a}" for a in "xyz"),
        "cabinet_yaw.cos",
        "cabinet_yaw.sin",
        "drawer.opening_m",
    )
    goal_names = ("drawer.opening_m",)

    def __init__(
        self,
        region_lower_m: Sequence[float] = (0.50, -0.12),
        region_upper_m: Sequence[float] = (0.58, 0.12),
        most_yaw_rad: float = 0.35,
        success_m: float = 0.15,
        hold_s: float = 0.5,
        horizon: int = 150,
        drawer: Drawer | None = None,
    ):
        self.place = FurniturePlace("open_drawer", region_lower_m, region_upper_m, most_yaw_rad)
        self.success_m, self.hold_s, self.horizon = float(success_m), float(hold_s), int(horizon)
        self.drawer = drawer or Drawer()
        self._instruction = self.instruction

    def model(self) -> mujoco.MjSpec:
        """Table and cabinet."""
        spec = tabletop(self.name)
        add_drawer(spec.worldbody.add_body(name="cabinet", mocap=True, pos=[0.6, 0, 0]), "drawer", self.drawer)
        return spec

    def bind(self, scene: Scene) -> None:
        """Ids of cabinet and drawer in the composed model."""
        self._scene = scene
        self._cabinet = int(scene.model.body("cabinet").mocapid[0])
        self._slide = int(scene.model.joint("drawer").qposadr[0])

    def reset(self, data: mujoco.MjData, rng: np.random.Generator) -> dict[str, float]:
        """Handle uniform in the region, cabinet turned about it, drawer closed."""
        handle, yaw_rad = self.place.draw(rng)
        self._instruction = INSTRUCTIONS[int(rng.integers(len(INSTRUCTIONS)))]
        origin = in_plane(handle, yaw_rad, self.drawer.handle_m[0], 0.0)
        mocap_yaw(data, self._cabinet, (*origin, 0.0), yaw_rad)
        data.qpos[self._slide] = 0.0
        return {"handle.x": float(handle[0]), "handle.y": float(handle[1]), "cabinet.yaw_rad": yaw_rad}

    def observe(self, data: mujoco.MjData) -> NDArray[np.float32]:
        """Position of the handle's middle (m), (cos, sin) of the cabinet's yaw, opening (m): f32 [6]."""
        w, _, _, z = data.mocap_quat[self._cabinet].tolist()
        yaw_rad, opening_m = 2 * math.atan2(z, w), float(data.qpos[self._slide])
        reach_m, height_m = self.drawer.handle_m
        handle = in_plane(data.mocap_pos[self._cabinet].tolist(), yaw_rad, -reach_m - opening_m, 0.0)
        return np.array([*handle, height_m, math.cos(yaw_rad), math.sin(yaw_rad), opening_m], np.float32)

    def language(self) -> str:
        """One of :data:`INSTRUCTIONS`."""
        return self._instruction

    def goal(self, data: mujoco.MjData) -> NDArray[np.float32]:
        """How far open (m) the drawer shall be: f32 [1]."""
        return np.array([self._goal_m], np.float32)

    def show_goal(self, data: mujoco.MjData) -> None:
        """The drawer open."""
        data.qpos[self._slide] = self._goal_m
        mujoco.mj_forward(self._scene.model, data)

    @property
    def _goal_m(self) -> float:
        return min(self.success_m + 0.02, self.drawer.travel_m)

    def success(self, data: mujoco.MjData) -> bool:
        """Open by ``success_m``."""
        return bool(data.qpos[self._slide] >= self.success_m)

    def expert(self, env: Env) -> OpenDrawerExpert:
        """The scripted policy for the robot of ``env``."""
        return OpenDrawerExpert(env.embodiment, self.environment_state_names, self._goal_m, self.drawer.bar_m)
