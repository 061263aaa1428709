"""Task ``in_hand_rotate``: a hand, palm up, turns a free object that stands on it to a yaw goal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import mujoco
import numpy as np
from numpy.typing import NDArray

from robopolicy.embodiment import Embodiment
from robopolicy.errors import ConfigError, explain
from robopolicy.sim.task import BaseTask
from robopolicy.sim.tasks.in_hand_rotate_expert import InHandRotateExpert

if TYPE_CHECKING:
    from robopolicy.sim.env import Env
    from robopolicy.sim.scene import Scene

__all__ = ["InHandRotate"]

MOST_TILT_RAD = 0.6
"""An object that leans more than this has fallen over."""

START = {
    "ffj0": 0.0, "ffj1": 0.0, "ffj2": 0.15, "ffj3": 0.15,
    "rfj0": 0.0, "rfj1": 0.0, "rfj2": 0.15, "rfj3": 0.15,
    "mfj0": 0.0, "mfj1": 0.25, "mfj2": 1.60, "mfj3": 1.09,
    "thj0": 0.85, "thj1": 1.13, "thj2": 1.06, "thj3": 1.68,
}  # fmt: skip
"""First and ring finger lie flat, out of the way of the middle finger and the thumb."""


class InHandRotate(BaseTask):
    """A cylinder that stands free on the palm; see :class:`robopolicy.sim.task.Task`.

    Its yaw is seen by a white bar. It is turned by fingers alone: nothing but palm and fingers touches it.

    Args:
        radius_m, height_m, mass_kg: Of the cylinder.
        place_m: [2] middle of where it stands, world frame; the palm's front edge is x = 0.
        scatter_m: Greatest distance from there at the start, per axis.
        min_turn_rad, max_turn_rad: Least and greatest angle between start and goal, either way.
        tolerance_rad: Largest yaw error.
        hold_s: How long the yaw has to stay within it.
        horizon: Control steps.
    """

    name = "in_hand_rotate"
    instruction = "turn the blue cylinder in the hand until its white bar lies over the green one"
    environment_state_names = (
        *(f"object_position.{a}" for a in "xyz"),
        *(f"object_axis.{a}" for a in "xy"),
        "object_yaw.cos",
        "object_yaw.sin",
        "goal_yaw.cos",
        "goal_yaw.sin",
    )
    goal_names = ("yaw.cos", "yaw.sin")
    physics_dt_s = 0.002

    def __init__(
        self,
        radius_m: float = 0.020,
        height_m: float = 0.07,
        mass_kg: float = 0.06,
        place_m: Sequence[float] = (-0.006, 0.0),
        scatter_m: float = 0.004,
        min_turn_rad: float = 0.6,
        max_turn_rad: float = 2.0,
        tolerance_rad: float = 0.2,
        hold_s: float = 0.5,
        horizon: int = 200,
    ):
        if not tolerance_rad < min_turn_rad <= max_turn_rad < math.pi:
            raise ConfigError(
                explain(
                    "in_hand_rotate: the turn does not fit",
                    given=f"tolerance {tolerance_rad}, turn {min_turn_rad} to {max_turn_rad} rad",
                    allowed="tolerance < min_turn <= max_turn < pi",
                )
            )
        self.radius_m, self.height_m, self.mass_kg = float(radius_m), float(height_m), float(mass_kg)
        self.place_m, self.scatter_m = np.asarray(place_m, float), float(scatter_m)
        self.turn_rad = (float(min_turn_rad), float(max_turn_rad))
        self.tolerance_rad = float(tolerance_rad)
        self.hold_s, self.horizon = float(hold_s), int(horizon)
        self._goal_rad = 0.0

    def model(self) -> mujoco.MjSpec:
        """Table, object and the mark of the goal."""
        spec = mujoco.MjSpec()
        spec.modelname = self.name
        world, box = spec.worldbody, mujoco.mjtGeom.mjGEOM_BOX
        world.add_light(
            pos=[0.4, 0.4, 2.0],
            dir=[-0.25, -0.35, -1],
            type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
            diffuse=[0.45, 0.45, 0.45],
            specular=[0.1, 0.1, 0.1],
        )
        spec.visual.headlight.ambient = [0.35, 0.35, 0.35]
        spec.visual.headlight.diffuse = [0.25, 0.25, 0.25]
        spec.visual.headlight.specular = [0.0, 0.0, 0.0]
        table = {"rgba": [0.80, 0.74, 0.64, 1], "friction": [1.0, 0.01, 0.0002]}
        world.add_geom(name="table", type=box, size=[0.4, 0.4, 0.02], pos=[0, 0, -0.02], **table)
        shown = {"contype": 0, "conaffinity": 0, "mass": 0}
        goal = world.add_body(name="goal", mocap=True)
        goal.add_geom(name="goal", type=box, size=[0.012, 0.003, 0.001], pos=[0.034, 0, 0],
                      rgba=[0.10, 0.65, 0.25, 1], **shown)  # fmt: skip
        thing = world.add_body(name="object", pos=[0, 0, 0.2])
        thing.add_freejoint(name="object")
        thing.add_geom(
            name="object",
            type=mujoco.mjtGeom.mjGEOM_CYLINDER,
            size=[self.radius_m, self.height_m / 2, 0],
            mass=self.mass_kg,
            rgba=[0.16, 0.30, 0.75, 1],
            friction=[1.0, 0.005, 0.0001],
            condim=4,
            solref=[0.008, 1],
        )
        thing.add_geom(name="object_bar", type=box, size=[self.radius_m / 2, 0.003, 0.001],
                       pos=[self.radius_m / 2, 0, self.height_m / 2], rgba=[0.95, 0.95, 0.95, 1], **shown)  # fmt: skip
        return spec

    def bind(self, scene: Scene) -> None:
        """Ids of the object and of the goal's mark."""
        model = scene.model
        self._qpos = int(model.joint("object").qposadr[0])
        self._goal = int(model.body("goal").mocapid[0])
        palm = model.geom("robot/palm").id
        data = mujoco.MjData(model)
        mujoco.mj_kinematics(model, data)
        half_m = np.abs(data.geom_xmat[palm].reshape(3, 3)[2]) @ model.geom_size[palm]
        self._stand_m = float(data.geom_xpos[palm][2] + half_m) + self.height_m / 2

    def home(self, embodiment: Embodiment) -> Mapping[str, float]:
        """Middle finger and thumb stand apart on either side of the object, the others lie flat."""
        return START

    def reset(self, data: mujoco.MjData, rng: np.random.Generator) -> dict[str, float]:
        """Object near its place with any yaw; the goal a turn away from it, to either side."""
        place = self.place_m + rng.uniform(-self.scatter_m, self.scatter_m, 2)
        yaw_rad = float(rng.uniform(-np.pi, np.pi))
        turn_rad = float(rng.uniform(*self.turn_rad)) * (1.0 if rng.integers(2) else -1.0)
        self._goal_rad = math.remainder(yaw_rad + turn_rad, 2 * math.pi)
        data.qpos[self._qpos : self._qpos + 7] = [*place, self._stand_m, *_about_z(yaw_rad)]
        data.mocap_pos[self._goal] = [*self.place_m, self._stand_m + self.height_m / 2]
        data.mocap_quat[self._goal] = _about_z(self._goal_rad)
        names = ("object.x", "object.y", "object.yaw_rad", "goal.yaw_rad")
        return dict(zip(names, map(float, (*place, yaw_rad, self._goal_rad)), strict=True))

    def observe(self, data: mujoco.MjData) -> NDArray[np.float32]:
        """Object position (m), x and y of its axis, (cos, sin) of its yaw and of the goal: f32 [9]."""
        position, axis, yaw_rad = self._object(data)
        yaws = (math.cos(yaw_rad), math.sin(yaw_rad), math.cos(self._goal_rad), math.sin(self._goal_rad))
        return np.array([*position, *axis[:2], *yaws], np.float32)

    def goal(self, data: mujoco.MjData) -> NDArray[np.float32]:
        """(cos, sin) of the goal's yaw: f32 [2]."""
        return np.array([math.cos(self._goal_rad), math.sin(self._goal_rad)], np.float32)

    def show_goal(self, data: mujoco.MjData) -> None:
        """The object at its place, turned to the goal."""
        data.qpos[self._qpos : self._qpos + 7] = [*self.place_m, self._stand_m, *_about_z(self._goal_rad)]

    def success(self, data: mujoco.MjData) -> bool:
        """Yaw within the tolerance, upright."""
        _, axis, yaw_rad = self._object(data)
        return axis[2] > math.cos(MOST_TILT_RAD) and abs(self._error(yaw_rad)) < self.tolerance_rad

    def failure(self, data: mujoco.MjData) -> str | None:
        """``dropped``: it fell over, or off the palm."""
        position, axis, _ = self._object(data)
        fallen = axis[2] < math.cos(MOST_TILT_RAD) or position[2] < self._stand_m - 0.02
        return "dropped" if fallen else None

    def _error(self, yaw_rad: float) -> float:
        return math.remainder(self._goal_rad - yaw_rad, 2 * math.pi)

    def _object(self, data: mujoco.MjData) -> tuple[NDArray[np.floating], tuple[float, ...], float]:
        """-> (position [3] m, its axis [3], yaw in rad)."""
        x, y, z = data.qpos[self._qpos : self._qpos + 3].tolist()
        w, i, j, k = data.qpos[self._qpos + 3 : self._qpos + 7].tolist()
        axis = (2 * (i * k + w * j), 2 * (j * k - w * i), 1 - 2 * (i * i + j * j))
        yaw_rad = math.atan2(2 * (i * j + w * k), 1 - 2 * (j * j + k * k))
        return np.array([x, y, z]), axis, yaw_rad

    def expert(self, env: Env) -> InHandRotateExpert:
        """The scripted policy for the hand of ``env``."""
        return InHandRotateExpert(
            env.embodiment,
            self.environment_state_names,
            model=env.model,
            radius_m=self.radius_m,
            place_m=self.place_m,
        )


def _about_z(yaw_rad: float) -> tuple[float, float, float, float]:
    return (math.cos(yaw_rad / 2), 0.0, 0.0, math.sin(yaw_rad / 2))
