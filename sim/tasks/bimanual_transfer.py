"""Task ``bimanual_transfer``: one arm picks a cube up and hands it to the other in the air."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import mujoco
import numpy as np
from numpy.typing import NDArray

from robopolicy.control.robot import RobotKinematics
from robopolicy.errors import ConfigError, SimulationError, explain
from robopolicy.sim.scene import ROBOT_PREFIX
from robopolicy.sim.task import BaseTask
from robopolicy.sim.tasks.arm_plane_motion import approach_rotation
from robopolicy.sim.tasks.bimanual_transfer_expert import BimanualTransferExpert
from robopolicy.sim.tasks.tabletop import FreeBody, add_cube, tabletop

if TYPE_CHECKING:
    from robopolicy.sim.env import Env
    from robopolicy.sim.scene import Scene

__all__ = ["GIVERS", "BimanualTransfer"]

GIVERS = ("right", "left", "either")
ARMS = ("left", "right")


class BimanualTransfer(BaseTask):
    """A cube at a random place and yaw before the giving arm; see :class:`robopolicy.sim.task.Task`.

    The world's origin is the middle between two arms named ``left`` (at negative x) and ``right``, which face each
    other. The task is done while the receiving gripper alone holds the cube in the air: both of its fingers touch it,
    nothing else does, and no part of it is lower than ``clearance_m``.

    Args:
        giver: ``right``, ``left``, or ``either``: drawn for each episode.
        cube_size_m: Edge length.
        cube_mass_kg: Mass.
        region_lower_m, region_upper_m: [2] corners of the rectangle that the cube is drawn from when the right arm
            gives, world frame; turned by half a turn about the vertical when the left does.
        meeting_m: [3] where the cube changes hands, world frame.
        clearance_m: Smallest height of the cube's lowest point.
        hold_s: How long the receiver has to hold it.
        horizon: Control steps.
    """

    name = "bimanual_transfer"
    environment_state_names = (
        *(f"cube_position.{a}" for a in "xyz"),
        *(f"cube_rotation.{i}" for i in range(6)),
        "receiver_is_left",
    )
    goal_names = ("holder.left", "holder.right")
    physics_dt_s = 0.002

    def __init__(
        self,
        giver: str = "right",
        cube_size_m: float = 0.04,
        cube_mass_kg: float = 0.06,
        region_lower_m: Sequence[float] = (0.05, -0.12),
        region_upper_m: Sequence[float] = (0.18, 0.12),
        meeting_m: Sequence[float] = (0.0, 0.0, 0.25),
        clearance_m: float = 0.05,
        hold_s: float = 0.5,
        horizon: int = 400,
    ):
        if giver not in GIVERS:
            raise ConfigError(explain("bimanual_transfer: no such giver", given=repr(giver), allowed=GIVERS))
        self.giver = giver
        self.cube_size_m, self.cube_mass_kg = float(cube_size_m), float(cube_mass_kg)
        self.region_m = (np.asarray(region_lower_m, float), np.asarray(region_upper_m, float))
        if (self.region_m[1] <= self.region_m[0]).any():
            raise ConfigError(
                explain("bimanual_transfer: the region is empty", given=self.region_m, mend="upper above lower")
            )
        self.meeting_m = np.asarray(meeting_m, float)
        self.clearance_m = float(clearance_m)
        self.hold_s, self.horizon = float(hold_s), int(horizon)
        self._receiver = "left"

    def model(self) -> mujoco.MjSpec:
        """Table and cube. The table's top is z = 0."""
        spec = tabletop(self.name)
        table = spec.geom("table")
        table.size, table.pos = [0.62, 0.4, 0.02], [0, 0, -0.02]
        add_cube(spec, "cube", self.cube_size_m, self.cube_mass_kg, [0.85, 0.12, 0.10, 1])
        return spec

    def bind(self, scene: Scene) -> None:
        """Ids of the cube and of what each gripper holds with.

        Raises:
            SimulationError: a robot without arms ``left`` and ``right``, each with a gripper of two fingers.
        """
        self._scene, model = scene, scene.model
        if [arm.name for arm in scene.embodiment.arms] != list(ARMS):
            raise SimulationError(
                explain(
                    f"bimanual_transfer cannot be done with '{scene.embodiment.name}'",
                    given=[arm.name for arm in scene.embodiment.arms],
                    allowed=ARMS,
                    mend="take a robot with these two arms (aloha)",
                )
            )
        self._cube_qpos = int(model.joint("cube").qposadr[0])
        self._cube = FreeBody(model, "cube")
        self._cube_geom = model.geom("cube").id
        sides = ("left", "right")
        self._fingers = {
            arm: tuple(_geoms_of(model, f"{ROBOT_PREFIX}{arm}.finger_{side}") for side in sides) for arm in ARMS
        }

    def reset(self, data: mujoco.MjData, rng: np.random.Generator) -> dict[str, float]:
        """Cube uniform in the giver's region with uniform yaw; the giver is drawn when it may be either."""
        giver = self.giver if self.giver != "either" else ("right", "left")[int(rng.integers(2))]
        place = rng.uniform(*self.region_m)
        yaw_rad = float(rng.uniform(-np.pi / 4, np.pi / 4))
        if giver == "left":
            place = -place
        self._receiver = "left" if giver == "right" else "right"
        self._cube.place(data, [*place, self.cube_size_m / 2], yaw_rad)
        names = ("cube.x", "cube.y", "cube.yaw_rad", "receiver_is_left")
        return dict(zip(names, map(float, (*place, yaw_rad, self._receiver == "left")), strict=True))

    def observe(self, data: mujoco.MjData) -> NDArray[np.float32]:
        """Cube position (m), first two columns of its rotation, 1 when the left arm receives else 0: f32 [10]."""
        pose = data.qpos[self._cube_qpos : self._cube_qpos + 7]
        rotation = _columns(pose[3:])
        return np.array([*pose[:3], *rotation, self._receiver == "left"], np.float32)

    def language(self) -> str:
        """Names both arms."""
        giver = "right" if self._receiver == "left" else "left"
        return f"pick up the red cube with the {giver} arm and hand it over to the {self._receiver} arm"

    def goal(self, data: mujoco.MjData) -> NDArray[np.float32]:
        """Who holds the cube in the end, one of two: f32 [2]."""
        return np.array([self._receiver == "left", self._receiver == "right"], np.float32)

    def show_goal(self, data: mujoco.MjData) -> None:
        """The cube at the meeting point in the receiver's gripper, the other arm where it begins."""
        embodiment, arm = self._scene.embodiment, self._receiver
        base_m, base_rotation = _base(data, arm)
        part = RobotKinematics(embodiment).part(arm)
        target_m = base_rotation.T @ (self.meeting_m - base_m)
        rotation = approach_rotation(np.arctan2(target_m[1], target_m[0]), 0.0, np.pi / 2)
        position = embodiment.home_position.copy()
        position[part.joints] = part.kinematics.solve(position[part.joints], target_m, rotation).q_arm
        # half a millimetre tighter than the cube, so that the fingers touch it
        position[part.end] = (self.cube_size_m - 0.0005) / embodiment.arm(arm).gripper_width_m
        self._scene.place(data, position)
        self._cube.place(data, [*self.meeting_m], 0.0)

    def success(self, data: mujoco.MjData) -> bool:
        """Both fingers of the receiver touch the cube, nothing else does, and it is all above ``clearance_m``."""
        pose = data.qpos[self._cube_qpos : self._cube_qpos + 7]
        if pose[2] < self.clearance_m:
            return False
        w, x, y, z = pose[3:].tolist()
        # how far a corner reaches down: half the edge times the sum of the third row's entries without sign
        row = abs(2 * (x * z - w * y)) + abs(2 * (y * z + w * x)) + abs(1 - 2 * (x * x + y * y))
        if pose[2] - 0.5 * self.cube_size_m * row < self.clearance_m:
            return False
        touching = self._touching(data)
        first, second = self._fingers[self._receiver]
        return bool(touching & first and touching & second and not touching - first - second)

    def failure(self, data: mujoco.MjData) -> str | None:
        """``dropped``: the cube fell off the table."""
        return "dropped" if data.qpos[self._cube_qpos + 2] < -0.05 else None

    def _touching(self, data: mujoco.MjData) -> set[int]:
        """Geoms that touch the cube."""
        pairs = data.contact.geom[: data.ncon]
        near = pairs[(pairs == self._cube_geom).any(axis=1)]
        return set(near.ravel().tolist()) - {self._cube_geom}

    def expert(self, env: Env) -> BimanualTransferExpert:
        """The scripted policy for the robot of ``env``."""
        return BimanualTransferExpert(
            env.embodiment,
            self.environment_state_names,
            bases={arm: _base(env.data, arm) for arm in ARMS},
            cube_size_m=self.cube_size_m,
            meeting_m=self.meeting_m,
        )


def _base(data: mujoco.MjData, arm: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(position [3] m, rotation [3, 3]) of an arm's base in the world."""
    site = data.site(f"{ROBOT_PREFIX}{arm}.base")
    return site.xpos.copy(), site.xmat.reshape(3, 3).copy()


def _geoms_of(model: mujoco.MjModel, body: str) -> frozenset[int]:
    """Geoms of one body, by its name."""
    first, count = int(model.body(body).geomadr[0]), int(model.body(body).geomnum[0])
    return frozenset(range(first, first + count))


def _columns(quaternion: NDArray[np.floating]) -> tuple[float, ...]:
    """First two columns of the rotation matrix of a quaternion wxyz."""
    w, x, y, z = quaternion.tolist()
    return (
        1 - 2 * (y * y + z * z),
        2 * (x * y + w * z),
        2 * (x * z - w * y),
        2 * (x * y - w * z),
        1 - 2 * (x * x + z * z),
        2 * (y * z + w * x),
    )
