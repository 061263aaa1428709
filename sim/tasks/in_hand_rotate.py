"""Task ``in_hand_rotate``: a hand, palm up, turns a free object that stands on it to a yaw goal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import mujoco
import numpy as np
from numpy.typing import NDArray

from robopolicy.embodiment import Embodiment
from robopolicy.errors import ConfigError, SimulationError, explain
from robopolicy.sim.scene import ROBOT_PREFIX
from robopolicy.sim.task import BaseTask
from robopolicy.sim.tasks.in_hand_rotate_expert import InHandRotateExpert
from robopolicy.sim.tasks.tabletop import FreeBody, mocap_yaw, tabletop

if TYPE_CHECKING:
    from robopolicy.sim.env import Env
    from robopolicy.sim.scene import Scene

__all__ = ["START", "InHandRotate"]

MOST_TILT_RAD = 0.6
"""An object that leans more than this has fallen over."""

START = {
    **{"ffj0": 0.0, "ffj1": 0.0, "ffj2": 0.15, "ffj3": 0.15, "rfj0": 0.0, "rfj1": 0.0, "rfj2": 0.15, "rfj3": 0.15},
    **{"mfj0": 0.0, "mfj1": 0.17, "mfj2": 1.58, "mfj3": 1.09, "thj0": 0.88, "thj1": 1.15, "thj2": 1.03, "thj3": 1.70},
}
"""Middle finger and thumb stand apart on either side of the object; the other fingers lie flat, out of their way."""


class InHandRotate(BaseTask):
    """A cylinder that stands free on the palm of a hand; see :class:`robopolicy.sim.task.Task`.

    Nothing holds it but palm and fingers: it can be pushed off, or fall over, which ends the episode (``dropped``).
    A white bar on it shows its yaw, a green one beside it the goal. The fingers sweep about 80 degrees round it and it
    rolls between their tips, which turns it by at most some 130 degrees; longer turns take several strokes, with the
    object let go in between.

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
        max_turn_rad: float = 2.8,
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
        self._yaw_rad = self._turn_rad = self._last_left_rad = 0.0

    def model(self) -> mujoco.MjSpec:
        """Table, object and the mark of the goal."""
        spec, box = tabletop(self.name), mujoco.mjtGeom.mjGEOM_BOX
        world = spec.worldbody
        shown = {"contype": 0, "conaffinity": 0, "mass": 0}
        goal = world.add_body(name="goal", mocap=True)
        green, white = [0.10, 0.65, 0.25, 1], [0.95, 0.95, 0.95, 1]
        beside, half = [self.radius_m + 0.014, 0, 0], self.radius_m / 2
        goal.add_geom(name="goal", type=box, size=[0.010, 0.003, 0.001], pos=beside, rgba=green, **shown)
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
        top = [half, 0, self.height_m / 2]
        thing.add_geom(name="object_bar", type=box, size=[half, 0.003, 0.001], pos=top, rgba=white, **shown)
        return spec

    def bind(self, scene: Scene) -> None:
        """Ids of the object and of the goal's mark, and the height of the palm.

        Raises:
            SimulationError: a robot that is not a hand with the joints of :data:`START`.
        """
        model, names = scene.model, scene.embodiment.joints.names
        missing = [name for name in START if name not in names]
        if missing:
            raise SimulationError(
                explain(
                    f"in_hand_rotate cannot be done with '{scene.embodiment.name}'",
                    given=f"no joints {missing}",
                    mend="take a hand with these joints (allegro)",
                )
            )
        self._object = FreeBody(model, "object")
        self._qpos = int(model.joint("object").qposadr[0])
        self._goal = int(model.body("goal").mocapid[0])
        palm, data = model.geom(ROBOT_PREFIX + "palm").id, mujoco.MjData(model)
        mujoco.mj_kinematics(model, data)
        half_m = np.abs(data.geom_xmat[palm].reshape(3, 3)[2]) @ model.geom_size[palm]
        self._stand_m = float(data.geom_xpos[palm][2] + half_m) + self.height_m / 2

    def home(self, embodiment: Embodiment) -> Mapping[str, float]:
        """:data:`START`."""
        return START

    def reset(self, data: mujoco.MjData, rng: np.random.Generator) -> dict[str, float]:
        """Object near its place with any yaw; the goal a turn away from it, to either side."""
        place = self.place_m + rng.uniform(-self.scatter_m, self.scatter_m, 2)
        self._yaw_rad = float(rng.uniform(-np.pi, np.pi))
        self._turn_rad = float(rng.uniform(*self.turn_rad)) * (1.0 if rng.integers(2) else -1.0)
        self._last_left_rad = self._turn_rad
        self._object.place(data, [*place, self._stand_m], self._yaw_rad)
        mark_m = [*self.place_m, self._stand_m + self.height_m / 2]
        mocap_yaw(data, self._goal, mark_m, self._goal_rad)
        names = ("object.x", "object.y", "object.yaw_rad", "goal.yaw_rad")
        return dict(zip(names, map(float, (*place, self._yaw_rad, self._goal_rad)), strict=True))

    @property
    def _goal_rad(self) -> float:
        return math.remainder(self._yaw_rad + self._turn_rad, 2 * math.pi)

    def language(self) -> str:
        """Says which way and roughly how far."""
        way = "counter-clockwise" if self._turn_rad > 0 else "clockwise"
        far_deg = 10 * round(math.degrees(abs(self._turn_rad)) / 10)
        return f"turn the blue cylinder about {far_deg} degrees {way}, until its white bar points at the green mark"

    def observe(self, data: mujoco.MjData) -> NDArray[np.float32]:
        """Object position (m), x and y of its axis, (cos, sin) of its yaw and of the goal: f32 [9]."""
        w, x, y, z = data.qpos[self._qpos + 3 : self._qpos + 7].tolist()
        axis = (2 * (x * z + w * y), 2 * (y * z - w * x))
        yaws = [f(yaw) for yaw in (self._object.yaw(data), self._goal_rad) for f in (math.cos, math.sin)]
        return np.array([*self._object.position(data), *axis, *yaws], np.float32)

    def goal(self, data: mujoco.MjData) -> NDArray[np.float32]:
        """(cos, sin) of the goal's yaw: f32 [2]."""
        return np.array([math.cos(self._goal_rad), math.sin(self._goal_rad)], np.float32)

    def show_goal(self, data: mujoco.MjData) -> None:
        """The object at its place, turned to the goal."""
        self._object.place(data, [*self.place_m, self._stand_m], self._goal_rad)

    def success(self, data: mujoco.MjData) -> bool:
        """Yaw within the tolerance, standing on the palm."""
        return not self.failure(data) and abs(self._left_rad(data)) < self.tolerance_rad

    def failure(self, data: mujoco.MjData) -> str | None:
        """``dropped``: it fell over, or off the palm."""
        _, x, y, _ = data.qpos[self._qpos + 3 : self._qpos + 7].tolist()
        upright = 1 - 2 * (x * x + y * y) > math.cos(MOST_TILT_RAD)
        return None if upright and data.qpos[self._qpos + 2] > self._stand_m - 0.02 else "dropped"

    def tick(self, data: mujoco.MjData) -> None:
        """Keeps the yaw that is left."""
        self._last_left_rad = self._left_rad(data)

    def metrics(self) -> dict[str, float]:
        """How far the yaw is from the goal, and how far it was to be turned."""
        return {"yaw_error_rad": abs(self._last_left_rad), "turn_rad": abs(self._turn_rad)}

    def _left_rad(self, data: mujoco.MjData) -> float:
        return math.remainder(self._goal_rad - self._object.yaw(data), 2 * math.pi)

    def expert(self, env: Env) -> InHandRotateExpert:
        """The scripted policy for the hand of ``env``."""
        return InHandRotateExpert(
            env.embodiment,
            self.environment_state_names,
            model=env.model,
            radius_m=self.radius_m,
            place_m=self.place_m,
        )
