"""Task ``push_t``: push a T over the table, with a stick, onto its outline.

After Push-T (Florence et al., "Implicit Behavioral Cloning", CoRL 2021; Chi et al., "Diffusion Policy", RSS 2023): T of
a 4 x 1 bar and a 1 x 3 stem, fixed target, success at an overlap of 0.9. Here an arm holds the stick, at one height.
"""

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
from robopolicy.sim.tasks.push_t_expert import PushTExpert
from robopolicy.sim.tasks.push_t_shape import Pose, Tee
from robopolicy.sim.tasks.start_posture import hand_over
from robopolicy.sim.tasks.tabletop import tabletop

if TYPE_CHECKING:
    from robopolicy.sim.env import Env
    from robopolicy.sim.scene import Scene

__all__ = ["PushT", "PushTDetour"]

STICK_RADIUS_M = 0.008
STICK_BELOW_TCP_M = 0.05
HEIGHT_M = 0.03
"""Of the T."""
HAND_HEIGHT_M = 0.06
"""TCP height at which the tip of the stick is a centimetre over the table."""


class PushT(BaseTask):
    """A T at a random place with any yaw; see :class:`robopolicy.sim.task.Task`.

    The T slides in the plane against viscous resistance, so that it stands still as soon as nobody pushes: the
    quasi-static motion of a block with a lot of friction, without its stick-slip. The stick is rigid with the hand.

    Args:
        unit_m: Width of bar and stem.
        resistance_n_s_m: Force per speed of the sliding T.
        turn_radius_m: Root of the ratio of rotational to linear resistance; 1.5 units is near that of an even pressure.
        region_lower_m, region_upper_m: [2] corners of the rectangle that the T's centre of mass is drawn from.
        yaw_rad: Largest turn between T and target at the start.
        outline: x (m), y (m), yaw (rad) of the target.
        start_m: [2] where the stick begins.
        largest_overlap: Of T and target at the start.
        overlap: Share of the T's area that has to lie on the target.
        hold_s: For how long.
        horizon: Control steps.
    """

    name = "push_t"
    instruction = "push the T onto its outline"
    environment_state_names = ("tee_position.x", "tee_position.y", "tee_yaw.cos", "tee_yaw.sin")
    goal_names = ("tee_goal.x", "tee_goal.y", "tee_goal_yaw.cos", "tee_goal_yaw.sin")

    def __init__(
        self,
        unit_m: float = 0.03,
        resistance_n_s_m: float = 40.0,
        turn_radius_m: float = 0.045,
        region_lower_m: Sequence[float] = (0.43, -0.14),
        region_upper_m: Sequence[float] = (0.57, 0.14),
        yaw_rad: float = math.pi,
        outline: Sequence[float] = (0.50, 0.0, -math.pi / 2),
        start_m: Sequence[float] = (0.33, 0.0),
        largest_overlap: float = 0.5,
        overlap: float = 0.90,
        hold_s: float = 0.2,
        horizon: int = 300,
    ):
        self.tee = Tee(unit_m)
        self.resistance_n_s_m, self.turn_radius_m = float(resistance_n_s_m), float(turn_radius_m)
        self.region_m = (np.asarray(region_lower_m, float), np.asarray(region_upper_m, float))
        self.yaw_rad = float(yaw_rad)
        self.target = Pose(*(float(x) for x in outline))
        self.start_m = np.asarray(start_m, float)
        self.largest_overlap, self.overlap = float(largest_overlap), float(overlap)
        self.hold_s, self.horizon = float(hold_s), int(horizon)
        if (self.region_m[1] <= self.region_m[0]).any() or not 0 < self.largest_overlap < self.overlap < 1:
            raise ConfigError(
                explain(
                    "push_t: no T to be pushed",
                    given=f"region {self.region_m}, largest_overlap {largest_overlap}, overlap {overlap}",
                    allowed="upper corner above the lower, 0 < largest_overlap < overlap < 1",
                )
            )

    def model(self) -> mujoco.MjSpec:
        """Table, T and outline. The T touches the stick only."""
        spec = tabletop(self.name)
        outline = spec.worldbody.add_body(name="outline", pos=[self.target.x, self.target.y, 0.0005])
        outline.quat = [math.cos(self.target.yaw / 2), 0, 0, math.sin(self.target.yaw / 2)]
        tee = spec.worldbody.add_body(name="tee", pos=[0, 0, HEIGHT_M / 2 + 0.001])
        slide, hinge = mujoco.mjtJoint.mjJNT_SLIDE, mujoco.mjtJoint.mjJNT_HINGE
        damping = self.resistance_n_s_m
        tee.add_joint(name="tee_x", type=slide, axis=[1, 0, 0], damping=damping)
        tee.add_joint(name="tee_y", type=slide, axis=[0, 1, 0], damping=damping)
        tee.add_joint(name="tee_yaw", type=hinge, axis=[0, 0, 1], damping=damping * self.turn_radius_m**2)
        for part, (middle, half) in {"bar": self.tee.bar, "stem": self.tee.stem}.items():
            box = {"type": mujoco.mjtGeom.mjGEOM_BOX}
            flat = {**box, "contype": 0, "conaffinity": 0, "rgba": [0.20, 0.62, 0.30, 1]}
            outline.add_geom(name=f"outline_{part}", pos=[*middle, 0], size=[*half, 0.0005], **flat)
            solid = {**box, "contype": 0, "conaffinity": 2, "rgba": [0.38, 0.44, 0.62, 1], "density": 900}
            tee.add_geom(name=f"tee_{part}", pos=[*middle, 0], size=[*half, HEIGHT_M / 2], **solid)
        return spec

    def equip(self, spec: mujoco.MjSpec) -> None:
        """A stick below the fingertips, hardly rougher than ice, so that the force acts along the side's normal."""
        stick = spec.body("robot/tcp").add_body(name="robot/stick", gravcomp=1)
        stick.add_geom(
            name="robot/stick",
            type=mujoco.mjtGeom.mjGEOM_CYLINDER,
            fromto=[0, 0, -0.03, 0, 0, STICK_BELOW_TCP_M],
            size=[STICK_RADIUS_M, 0, 0],
            mass=0.03,
            contype=2,
            conaffinity=1,
            friction=[0.05, 0.005, 0.0001],
            priority=2,
            solref=[0.006, 1],
            rgba=[0.85, 0.25, 0.10, 1],
        )

    def bind(self, scene: Scene) -> None:
        """Addresses of the T's joints."""
        joints = [scene.model.joint(f"tee_{name}") for name in ("x", "y", "yaw")]
        self._qpos = np.array([joint.qposadr[0] for joint in joints])
        self._judged: tuple[float, float, float] | None = None
        self._now = self._best = 0.0

    def home(self, embodiment: Embodiment) -> Mapping[str, float]:
        """The stick over ``start_m``, jaw closed around it."""
        grip = 2 * STICK_RADIUS_M / embodiment.gripper_width_m
        return {**hand_over(embodiment, (*self.start_m, HAND_HEIGHT_M)), embodiment.gripper: grip}

    def reset(self, data: mujoco.MjData, rng: np.random.Generator) -> dict[str, float]:
        """Centre uniform in the region, turn uniform, redrawn while it is near the stick or mostly on the outline."""
        lower, upper = self.region_m
        reach_m = 2.8 * self.tee.unit_m + 2 * STICK_RADIUS_M
        while True:
            turn = float(rng.uniform(-self.yaw_rad, self.yaw_rad))
            x, y = rng.uniform(lower, upper).tolist()
            pose = Pose(x, y, self.target.yaw + turn)
            away_m = math.hypot(pose.x - self.start_m[0], pose.y - self.start_m[1])
            if away_m > reach_m and self.tee.overlap(pose, self.target) <= self.largest_overlap:
                break
        self.place(data, pose)
        return {"tee.x": pose.x, "tee.y": pose.y, "tee.yaw_rad": pose.yaw}

    def place(self, data: mujoco.MjData, pose: Pose) -> None:
        """Put the T there at rest, and begin the figures anew."""
        data.qpos[self._qpos] = [pose.x, pose.y, pose.yaw]
        self._judged, self._now, self._best = None, 0.0, 0.0

    def pose(self, data: mujoco.MjData) -> Pose:
        """Of the T."""
        return Pose(*data.qpos[self._qpos].tolist())

    def observe(self, data: mujoco.MjData) -> NDArray[np.float32]:
        """Centre of mass (m), cosine and sine of the yaw: f32 [4]."""
        x, y, yaw = data.qpos[self._qpos].tolist()
        return np.array([x, y, math.cos(yaw), math.sin(yaw)], np.float32)

    def goal(self, data: mujoco.MjData) -> NDArray[np.float32]:
        """What :meth:`observe` shows when the T lies on its outline: f32 [4]; the same in every episode."""
        target = self.target
        return np.array([target.x, target.y, math.cos(target.yaw), math.sin(target.yaw)], np.float32)

    def show_goal(self, data: mujoco.MjData) -> None:
        """The T on its outline."""
        self.place(data, self.target)

    def tick(self, data: mujoco.MjData) -> None:
        """The overlap now, computed again when the T has moved by a micrometre."""
        x, y, yaw = data.qpos[self._qpos].tolist()
        last = self._judged
        if last is None or abs(x - last[0]) + abs(y - last[1]) + abs(yaw - last[2]) > 1e-6:
            self._judged = (x, y, yaw)
            self._now = self.tee.overlap(Pose(x, y, yaw), self.target)
            self._best = max(self._best, self._now)

    def success(self, data: mujoco.MjData) -> bool:
        """Enough of the T lies on the outline."""
        self.tick(data)
        return self._now >= self.overlap

    def metrics(self) -> dict[str, float]:
        """Largest overlap of the episode, 0..1."""
        return {"max_overlap": self._best}

    def expert(self, env: Env) -> PushTExpert:
        """The scripted policy for the robot of ``env``."""
        return PushTExpert(
            env.embodiment,
            self.environment_state_names,
            tee=self.tee,
            target=self.target,
            tool_m=STICK_RADIUS_M,
            turn_radius_m=self.turn_radius_m,
            height_m=HAND_HEIGHT_M,
        )


class PushTDetour(PushT):
    """Starts from which the ways around the T to the left and to the right are equally long.

    The T stands straight behind its outline and has to be pulled back, from its far side: the purest case of the two
    modes of ``push_t``, for measuring what a policy does with them.
    """

    name = "push_t_detour"
