"""Task ``wipe_force``: wipe along a plate with a set force, at a height that only the force tells.

The plate is drawn and observed at its nominal height; the one that the pad meets lies up to 10 mm higher or lower.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import mujoco
import numpy as np
from numpy.typing import ArrayLike, NDArray

from robopolicy.embodiment import Embodiment
from robopolicy.errors import ConfigError, explain
from robopolicy.sim.tasks.compliant_tool import (
    TOOL_GEOM,
    Compliance,
    ForceGauge,
    ToolTask,
    add_compliant_tool,
    met_or_seen,
)
from robopolicy.sim.tasks.start_posture import hand_over
from robopolicy.sim.tasks.tabletop import mocap_yaw, tabletop
from robopolicy.sim.tasks.wipe_force_expert import WipeForceExpert

if TYPE_CHECKING:
    from robopolicy.sim.env import Env
    from robopolicy.sim.scene import Scene

__all__ = ["WipeForce"]

PAD_BELOW_TCP_M = 0.05
PAD_RADIUS_M = 0.015
PLATE_M = 0.03
"""Nominal height of the plate's face."""


class WipeForce(ToolTask):
    """A plate at a random place and yaw; see :class:`robopolicy.sim.task.Task`.

    The pad is held from the start, on springs at the hand (:mod:`robopolicy.sim.tasks.compliant_tool`).

    Args:
        band_n: [2] force on the pad that counts as wiping.
        force_limit_n: Force that ends the episode.
        least_speed_m_s: The pad has to move over the plate at least this fast.
        half_size_m: [2] half length and half width of the plate.
        height_error_m: Largest hidden displacement of the plate, up or down.
        region_lower_m, region_upper_m: [2] corners of the rectangle that the plate's middle is drawn from.
        yaw_rad: Largest yaw of the plate.
        start_m: [3] where the TCP begins.
        hold_s: How long the force has to stay in the band, without a break, while the pad wipes.
        horizon: Control steps.
    """

    name = "wipe_force"
    instruction = "wipe along the plate, pressing with ten newtons"
    environment_state_names = ("plate_position.x", "plate_position.y", "plate_yaw.cos", "plate_yaw.sin")
    goal_names = ("force_goal.lower", "force_goal.upper")

    def __init__(
        self,
        band_n: Sequence[float] = (8.0, 12.0),
        force_limit_n: float = 30.0,
        least_speed_m_s: float = 0.02,
        half_size_m: Sequence[float] = (0.10, 0.04),
        height_error_m: float = 0.010,
        region_lower_m: Sequence[float] = (0.44, -0.12),
        region_upper_m: Sequence[float] = (0.56, 0.12),
        yaw_rad: float = math.radians(40),
        start_m: Sequence[float] = (0.46, 0.0, 0.17),
        hold_s: float = 1.0,
        horizon: int = 120,
    ):
        self.band_n = (float(band_n[0]), float(band_n[1]))
        self.force_limit_n, self.least_speed_m_s = float(force_limit_n), float(least_speed_m_s)
        self.half_size_m = np.asarray(half_size_m, float)
        self.height_error_m = float(height_error_m)
        self.region_m = (np.asarray(region_lower_m, float), np.asarray(region_upper_m, float))
        self.yaw_rad, self.start_m = float(yaw_rad), np.asarray(start_m, float)
        self.hold_s, self.horizon = float(hold_s), int(horizon)
        self.springs = Compliance(along_n_m=1500.0, travel_m=0.025)
        way_m = 2 * self.half_size_m[0]
        if not 0 < self.band_n[0] < self.band_n[1] < self.force_limit_n or way_m < hold_s * least_speed_m_s:
            raise ConfigError(
                explain(
                    "wipe_force: nothing can be wiped",
                    given=f"band {band_n} N, limit {force_limit_n} N, plate of {way_m} m",
                    allowed="0 < band < limit, and a plate longer than hold_s * least_speed_m_s",
                )
            )
        if self.height_error_m + self.band_n[1] / self.springs.along_n_m > min(PLATE_M, 2 * self.springs.travel_m):
            raise ConfigError(explain("wipe_force: height_error_m is out of the springs' reach", given=height_error_m))

    def model(self) -> mujoco.MjSpec:
        """Table and two plates: one that is seen, one that is met."""
        spec = tabletop(self.name)
        for name, met in (("plate", True), ("plate_seen", False)):
            plate = spec.worldbody.add_body(name=name, mocap=True).add_geom(
                name=name,
                type=mujoco.mjtGeom.mjGEOM_BOX,
                pos=[0, 0, -PLATE_M / 2],
                size=[*self.half_size_m, PLATE_M / 2],
                rgba=[0.30, 0.60, 0.62, 1],
                friction=[0.2, 0.005, 0.0001],
            )
            met_or_seen(plate, met)
        return spec

    def equip(self, spec: mujoco.MjSpec) -> None:
        """The pad, on springs; its end is round, so that it meets the plate alike when the hand leans."""
        add_compliant_tool(spec, "pad", self.springs).add_geom(
            name="robot/pad",
            type=mujoco.mjtGeom.mjGEOM_CAPSULE,
            fromto=[0, 0, -0.01, 0, 0, PAD_BELOW_TCP_M - PAD_RADIUS_M],
            size=[PAD_RADIUS_M, 0, 0],
            rgba=[0.95, 0.85, 0.25, 1],
            **TOOL_GEOM,
        )

    def bind(self, scene: Scene) -> None:
        """Ids of plates and pad."""
        model = scene.model
        self.bind_tool(scene, "pad")
        self._plate, self._seen = (int(model.body(n).mocapid[0]) for n in ("plate", "plate_seen"))
        self._velocity = np.zeros(6)
        self._tick_s = scene.embodiment.tick_s

    def home(self, embodiment: Embodiment) -> Mapping[str, float]:
        """The TCP at ``start_m``, jaw closed around the pad."""
        grip = 2 * PAD_RADIUS_M / embodiment.gripper_width_m
        return {**hand_over(embodiment, self.start_m), embodiment.gripper: grip}

    def reset(self, data: mujoco.MjData, rng: np.random.Generator) -> dict[str, float]:
        """Plate uniform in the region and in yaw; its height off by a uniform draw that is not shown."""
        place, yaw = rng.uniform(*self.region_m), float(rng.uniform(-self.yaw_rad, self.yaw_rad))
        error = float(rng.uniform(-self.height_error_m, self.height_error_m))
        self.place(data, place, yaw, error)
        return {"plate.x": float(place[0]), "plate.y": float(place[1]), "plate.yaw_rad": yaw, "height_error_m": error}

    def place(self, data: mujoco.MjData, middle_m: ArrayLike, yaw_rad: float, error_m: float) -> None:
        """Put the plate's middle [2] there, the one that is met ``error_m`` higher, and begin the figures anew."""
        x, y = np.asarray(middle_m, float).tolist()
        mocap_yaw(data, self._seen, (x, y, PLATE_M), yaw_rad)
        mocap_yaw(data, self._plate, (x, y, PLATE_M + error_m), yaw_rad)
        self.begin(x, y, yaw_rad)
        self._force_n = self._run_s = self._best_s = 0.0
        self._wiping = False

    def goal(self, data: mujoco.MjData) -> NDArray[np.float32]:
        """The band of force, N: f32 [2]."""
        return np.array(self.band_n, np.float32)

    def show_goal(self, data: mujoco.MjData) -> None:
        """The pad pressed on the middle of the plate that is seen, as deep as the middle of the band takes."""
        self.show_hand(data, PLATE_M + PAD_BELOW_TCP_M - sum(self.band_n) / 2 / self.springs.along_n_m)

    def tick(self, data: mujoco.MjData) -> None:
        """Force and motion of the pad now."""
        self._force_n = self.load_n(data)
        in_band = self.band_n[0] <= self._force_n <= self.band_n[1]
        self._wiping = in_band and self._over_plate(data) and self._speed_m_s(data) >= self.least_speed_m_s
        self._run_s = self._run_s + self._tick_s if self._wiping else 0.0
        self._best_s = max(self._best_s, self._run_s)

    def _over_plate(self, data: mujoco.MjData) -> bool:
        x, y, yaw = self._pose
        dx, dy = data.geom_xpos[self._tool, 0] - x, data.geom_xpos[self._tool, 1] - y
        c, s = math.cos(yaw), math.sin(yaw)
        return abs(c * dx + s * dy) <= self.half_size_m[0] and abs(c * dy - s * dx) <= self.half_size_m[1]

    def _speed_m_s(self, data: mujoco.MjData) -> float:
        """In the plane."""
        kind = mujoco.mjtObj.mjOBJ_GEOM
        mujoco.mj_objectVelocity(self._model, data, kind, self._tool, self._velocity, 0)
        return float(np.hypot(self._velocity[3], self._velocity[4]))

    def success(self, data: mujoco.MjData) -> bool:
        """The pad moves over the plate with the force in the band, and has never exceeded the limit."""
        return self._wiping and self.failure(data) is None

    def metrics(self) -> dict[str, float]:
        """Largest force on the pad, and the longest time of wiping without a break."""
        return {"peak_force_n": self._peak_n, "longest_wipe_s": self._best_s}

    def expert(self, env: Env) -> WipeForceExpert:
        """The scripted policy for the robot of ``env``; it reads the wrench at the wrist."""
        return WipeForceExpert(
            env.embodiment,
            self.environment_state_names,
            gauge=ForceGauge(env.scene),
            along_n_m=self.springs.along_n_m,
            face_m=PLATE_M + PAD_BELOW_TCP_M,
            height_error_m=self.height_error_m,
            half_length_m=float(self.half_size_m[0]),
            press_n=sum(self.band_n) / 2,
            grip_m=2 * PAD_RADIUS_M,
        )
