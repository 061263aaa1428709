"""Task ``open_door``: take a door by its handle and swing it open."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import mujoco
import numpy as np
from numpy.typing import NDArray

from robopolicy.sim.task import BaseTask
from robopolicy.sim.tasks.cabinet import Door, FurniturePlace, add_door, in_plane
from robopolicy.sim.tasks.open_door_expert import OpenDoorExpert
from robopolicy.sim.tasks.tabletop import mocap_yaw, tabletop

if TYPE_CHECKING:
    from robopolicy.sim.env import Env
    from robopolicy.sim.scene import Scene

__all__ = ["OpenDoor"]

INSTRUCTIONS = (
    "open the door",
    "pull the door open by its handle",
    "take the handle and swing the door open",
)
"""One of them is the instruction of an episode; they say the same."""


class OpenDoor(BaseTask):
    """A box with a door on an upright hinge, at a random place and yaw; see :class:`robopolicy.sim.task.Task`.

    Args:
        region_lower_m, region_upper_m: [2] corners of the rectangle that the handle of the closed door is drawn from.
        most_yaw_rad: Largest yaw of the box either way.
        success_rad: How far the door has to be open.
        hold_s: For how long.
        horizon: Control steps.
        door: Sizes, mass and friction.
    """

    name = "open_door"
    instruction = INSTRUCTIONS[0]
    environment_state_names = (
        *(f"handle_position.{a}" for a in "xyz"),
        *(f"hinge_position.{a}" for a in "xy"),
        "door_yaw.cos",
        "door_yaw.sin",
        "door.angle_rad",
    )
    goal_names = ("door.angle_rad",)

    def __init__(
        self,
        region_lower_m: Sequence[float] = (0.50, -0.14),
        region_upper_m: Sequence[float] = (0.58, 0.08),
        most_yaw_rad: float = 0.35,
        success_rad: float = 0.6,
        hold_s: float = 0.5,
        horizon: int = 150,
        door: Door | None = None,
    ):
        self.place = FurniturePlace("open_door", region_lower_m, region_upper_m, most_yaw_rad)
        self.success_rad, self.hold_s, self.horizon = float(success_rad), float(hold_s), int(horizon)
        self.door = door or Door()
        self._instruction = self.instruction

    def model(self) -> mujoco.MjSpec:
        """Table, box and door."""
        spec = tabletop(self.name)
        add_door(spec.worldbody.add_body(name="box", mocap=True, pos=[0.6, 0, 0]), "door", self.door)
        return spec

    def bind(self, scene: Scene) -> None:
        """Ids of box and door in the composed model."""
        self._scene = scene
        self._box = int(scene.model.body("box").mocapid[0])
        self._hinge = int(scene.model.joint("door").qposadr[0])

    def reset(self, data: mujoco.MjData, rng: np.random.Generator) -> dict[str, float]:
        """Handle uniform in the region, box turned about it, door closed."""
        handle, yaw_rad = self.place.draw(rng)
        self._instruction = INSTRUCTIONS[int(rng.integers(len(INSTRUCTIONS)))]
        x_m, y_m = self.door.handle_at(0.0)
        origin = in_plane(handle, yaw_rad, -x_m, -y_m)
        mocap_yaw(data, self._box, (*origin, 0.0), yaw_rad)
        data.qpos[self._hinge] = 0.0
        return {"handle.x": float(handle[0]), "handle.y": float(handle[1]), "box.yaw_rad": yaw_rad}

    def observe(self, data: mujoco.MjData) -> NDArray[np.float32]:
        """Handle's upper end and hinge (m), (cos, sin) of the yaw of the door itself, its angle (rad): f32 [8]."""
        w, _, _, z = data.mocap_quat[self._box].tolist()
        yaw_rad, angle_rad = 2 * math.atan2(z, w), float(data.qpos[self._hinge])
        origin = data.mocap_pos[self._box].tolist()
        handle = in_plane(origin, yaw_rad, *self.door.handle_at(angle_rad))
        hinge = in_plane(origin, yaw_rad, *self.door.hinge_m)
        turned = yaw_rad - angle_rad
        values = (*handle, self.door.handle_m[1], *hinge, math.cos(turned), math.sin(turned), angle_rad)
        return np.array(values, np.float32)

    def language(self) -> str:
        """One of :data:`INSTRUCTIONS`."""
        return self._instruction

    def goal(self, data: mujoco.MjData) -> NDArray[np.float32]:
        """How far open (rad) the door shall be: f32 [1]."""
        return np.array([self._goal_rad], np.float32)

    def show_goal(self, data: mujoco.MjData) -> None:
        """The door open."""
        data.qpos[self._hinge] = self._goal_rad
        mujoco.mj_forward(self._scene.model, data)

    @property
    def _goal_rad(self) -> float:
        return min(self.success_rad + 0.08, self.door.most_rad)

    def success(self, data: mujoco.MjData) -> bool:
        """Open by ``success_rad``."""
        return bool(data.qpos[self._hinge] >= self.success_rad)

    def expert(self, env: Env) -> OpenDoorExpert:
        """The scripted policy for the robot of ``env``."""
        return OpenDoorExpert(env.embodiment, self.environment_state_names, self._goal_rad, self.door.bar_m)
