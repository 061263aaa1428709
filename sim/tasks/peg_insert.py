"""Task ``peg_insert``: put a square peg into a socket that is not quite where it is seen.

The socket that observations and cameras show is displaced from the one that the peg meets, by up to 5 mm and 5 degrees,
as after an imperfect calibration. The displacement is drawn per episode and nothing but contact tells of it.
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
from robopolicy.sim.tasks.peg_insert_expert import PegInsertExpert
from robopolicy.sim.tasks.start_posture import hand_over
from robopolicy.sim.tasks.tabletop import mocap_yaw, tabletop

if TYPE_CHECKING:
    from robopolicy.sim.env import Env
    from robopolicy.sim.scene import Scene

__all__ = ["PegInsert"]

PEG_BELOW_TCP_M = 0.06
CHAMFER_M = 0.0005
WALL_M = 0.024
"""Thickness of the socket's walls; a hidden socket's face is met anywhere within the displacement."""


class PegInsert(ToolTask):
    """A socket at a random place and yaw; see :class:`robopolicy.sim.task.Task`.

    The peg is held from the start, on springs at the hand (:mod:`robopolicy.sim.tasks.compliant_tool`); it cannot slip.

    Args:
        peg_m: Edge of the peg's square section.
        clearance_m: By how much the hole is wider than the peg, both sides together.
        depth_m: Depth of the hole.
        shift_m: Radius of the disc that the hidden displacement is drawn from.
        twist_rad: Largest hidden turn.
        force_limit_n: Contact force on the peg that ends the episode.
        region_lower_m, region_upper_m: [2] corners of the rectangle that the socket is drawn from.
        yaw_rad: Largest yaw of the socket that is seen.
        start_m: [3] where the TCP begins.
        hold_s: How long the peg has to be in.
        horizon: Control steps.
    """

    name = "peg_insert"
    instruction = "insert the peg into the socket"
    environment_state_names = ("socket_position.x", "socket_position.y", "socket_yaw.cos", "socket_yaw.sin")
    goal_names = (*(f"tcp_goal.{a}" for a in "xyz"), "tcp_goal_yaw.cos", "tcp_goal_yaw.sin")

    def __init__(
        self,
        peg_m: float = 0.012,
        clearance_m: float = 0.002,
        depth_m: float = 0.03,
        shift_m: float = 0.005,
        twist_rad: float = math.radians(5),
        force_limit_n: float = 30.0,
        region_lower_m: Sequence[float] = (0.42, -0.15),
        region_upper_m: Sequence[float] = (0.58, 0.15),
        yaw_rad: float = math.radians(30),
        start_m: Sequence[float] = (0.46, 0.0, 0.17),
        hold_s: float = 0.2,
        horizon: int = 240,
    ):
        self.peg_m, self.clearance_m, self.depth_m = float(peg_m), float(clearance_m), float(depth_m)
        self.shift_m, self.twist_rad, self.force_limit_n = float(shift_m), float(twist_rad), float(force_limit_n)
        self.region_m = (np.asarray(region_lower_m, float), np.asarray(region_upper_m, float))
        self.yaw_rad, self.start_m = float(yaw_rad), np.asarray(start_m, float)
        self.hold_s, self.horizon = float(hold_s), int(horizon)
        turned_m = self.peg_m * (math.cos(self.twist_rad) + math.sin(self.twist_rad))
        if turned_m >= self.peg_m + self.clearance_m or (self.region_m[1] <= self.region_m[0]).any():
            raise ConfigError(
                explain(
                    "peg_insert: the peg cannot be inserted",
                    given=f"{turned_m:.4f} m across when turned, hole {self.peg_m + self.clearance_m:.4f} m",
                    mend="raise clearance_m, lower twist_rad; the region's upper corner is above its lower one",
                )
            )
        self.springs = Compliance()
        self._depth_m = 0.0

    def model(self) -> mujoco.MjSpec:
        """Table and two sockets: one that is seen, one that is met."""
        spec = tabletop(self.name)
        hole, outer = (self.peg_m + self.clearance_m) / 2, (self.peg_m + self.clearance_m) / 2 + WALL_M
        walls = {"left": (0, 1), "right": (0, -1), "front": (1, 0), "back": (-1, 0)}
        for name, met in (("socket", True), ("socket_seen", False)):
            body = spec.worldbody.add_body(name=name, mocap=True)
            for side, (x, y) in walls.items():
                middle = (hole + outer) / 2
                size = [WALL_M / 2 if x else outer, WALL_M / 2 if y else hole, self.depth_m / 2]
                geom = body.add_geom(
                    name=f"{name}_{side}",
                    type=mujoco.mjtGeom.mjGEOM_BOX,
                    pos=[x * middle, y * middle, self.depth_m / 2],
                    size=size,
                    rgba=[0.20, 0.45, 0.75, 1],
                    friction=[0.2, 0.005, 0.0001],
                    solref=[0.004, 1],
                )
                met_or_seen(geom, met)
        return spec

    def equip(self, spec: mujoco.MjSpec) -> None:
        """The peg, on springs. Its tip is chamfered; a sharp one would catch on an edge that it overlaps by microns."""
        wide, tip, chamfer = self.peg_m / 2, PEG_BELOW_TCP_M, CHAMFER_M
        levels = ((wide, -0.02), (wide, tip - chamfer), (wide - chamfer, tip))
        points = [(x * w, y * w, z) for w, z in levels for x in (-1, 1) for y in (-1, 1)]
        spec.add_mesh(name="peg", uservert=np.array(points).ravel())
        add_compliant_tool(spec, "peg", self.springs).add_geom(
            name="robot/peg",
            type=mujoco.mjtGeom.mjGEOM_MESH,
            meshname="peg",
            rgba=[0.90, 0.65, 0.15, 1],
            **TOOL_GEOM,
        )

    def bind(self, scene: Scene) -> None:
        """Ids of the sockets and the peg."""
        model = scene.model
        self.bind_tool(scene, "peg")
        self._socket, self._seen = (int(model.body(n).mocapid[0]) for n in ("socket", "socket_seen"))
        self._body = model.body("robot/peg").id

    def home(self, embodiment: Embodiment) -> Mapping[str, float]:
        """The TCP at ``start_m``, jaw closed around the peg."""
        return {**hand_over(embodiment, self.start_m), embodiment.gripper: self.peg_m / embodiment.gripper_width_m}

    def reset(self, data: mujoco.MjData, rng: np.random.Generator) -> dict[str, float]:
        """Seen socket uniform in the region; the one that is met displaced by a draw from a disc, and turned."""
        seen, yaw = rng.uniform(*self.region_m), float(rng.uniform(-self.yaw_rad, self.yaw_rad))
        radius, angle = self.shift_m * math.sqrt(rng.uniform()), rng.uniform(-math.pi, math.pi)
        shift = (radius * math.cos(angle), radius * math.sin(angle))
        twist = float(rng.uniform(-self.twist_rad, self.twist_rad))
        self.place(data, seen, yaw, shift, twist)
        names = ("socket.x", "socket.y", "socket.yaw_rad", "shift.x", "shift.y", "twist_rad")
        return dict(zip(names, map(float, (*seen, yaw, *shift, twist)), strict=True))

    def place(self, data: mujoco.MjData, seen: ArrayLike, yaw: float, shift: ArrayLike, twist: float) -> None:
        """Put the seen socket at ``seen`` [2] and ``yaw``, the real one beside it, and begin the figures anew."""
        (x, y), self._hole = np.asarray(seen, float).tolist(), np.asarray(seen, float) + np.asarray(shift, float)
        mocap_yaw(data, self._seen, (x, y, 0.0), yaw)
        mocap_yaw(data, self._socket, (*self._hole.tolist(), 0.0), yaw + twist)
        self.begin(x, y, yaw)
        self._depth_m = 0.0

    def goal(self, data: mujoco.MjData) -> NDArray[np.float32]:
        """TCP with the peg at the bottom of the socket that is seen: m, cosine and sine of the yaw: f32 [5]."""
        x, y, yaw = self._pose
        return np.array([x, y, PEG_BELOW_TCP_M, math.cos(yaw), math.sin(yaw)], np.float32)

    def show_goal(self, data: mujoco.MjData) -> None:
        """The peg at the bottom of the socket that is seen, in the hand."""
        self.show_hand(data, PEG_BELOW_TCP_M)

    def tick(self, data: mujoco.MjData) -> None:
        """Depth now, and the largest force so far."""
        self.load_n(data)
        tip = data.xpos[self._body] + PEG_BELOW_TCP_M * data.xmat[self._body].reshape(3, 3)[:, 2]
        aside_m = float(np.hypot(*(tip[:2] - self._hole)))
        self._depth_m = max(0.0, self.depth_m - float(tip[2])) if aside_m < self.peg_m / 2 else 0.0

    def success(self, data: mujoco.MjData) -> bool:
        """Tip in the hole, at four fifths of its depth or deeper, without ever having exceeded the force limit."""
        return self._depth_m >= 0.8 * self.depth_m and self.failure(data) is None

    def metrics(self) -> dict[str, float]:
        """Largest contact force on the peg, and the depth now."""
        return {"peak_force_n": self._peak_n, "depth_m": self._depth_m}

    def expert(self, env: Env) -> PegInsertExpert:
        """The scripted policy for the robot of ``env``; it reads the wrench at the wrist."""
        return PegInsertExpert(
            env.embodiment,
            self.environment_state_names,
            gauge=ForceGauge(env.scene),
            along_n_m=self.springs.along_n_m,
            aside_n_m=self.springs.aside_n_m,
            face_m=self.depth_m + PEG_BELOW_TCP_M,
            shift_m=self.shift_m,
            peg_m=self.peg_m,
        )
