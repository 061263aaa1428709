"""Tools on springs in a robot's hand, and what the wrist's wrench tells of the force on them.

The springs are those of a remote centre compliance (Whitney, "Quasi-static assembly of compliantly supported rigid
parts", 1982): between hand and tool, with the hand's own fingers only shown around it. They keep forces low where a
stiff arm meets something stiff, and they hide the contact from the arm's joints: only the wrist's wrench tells of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from robopolicy.sim.task import BaseTask
from robopolicy.sim.tasks.start_posture import hand_over

if TYPE_CHECKING:
    from robopolicy.sim.scene import Scene

__all__ = ["HIDDEN_GROUP", "TOOL_GEOM", "Compliance", "ForceGauge", "ToolTask", "add_compliant_tool", "met_or_seen"]

Array = NDArray[np.floating]

HIDDEN_GROUP = 4
"""Geoms of this group are drawn in no picture."""

TOOL_GEOM: dict[str, Any] = {
    "mass": 0.05,
    "contype": 2,
    "conaffinity": 1,
    "friction": [0.2, 0.005, 0.0001],
    "priority": 2,
    "solref": [0.004, 1],
}
"""A tool that slides well; what touches it goes by its friction."""


@dataclass(frozen=True)
class Compliance:
    """Springs between hand and tool.

    Attributes:
        aside_n_m: Stiffness across the tool.
        along_n_m: Stiffness along it.
        turn_nm_rad: Stiffness against turning about it.
        travel_m: How far each slide gives way.
    """

    aside_n_m: float = 2500.0
    along_n_m: float = 3000.0
    turn_nm_rad: float = 1.0
    travel_m: float = 0.012


def add_compliant_tool(spec: mujoco.MjSpec, name: str, springs: Compliance, mass_kg: float = 0.05) -> Any:
    """A body ``robot/<name>`` on springs at the TCP, without geoms; its x, y, z axes are the TCP's.

    Args:
        spec: World with the robot in it.
        name: Of the tool.
        springs: Stiffness of its mounting.
        mass_kg: Of what will be added to it; sets the damping to about critical.
    """
    body = spec.body("robot/tcp").add_body(name=f"robot/{name}", gravcomp=1)
    slide, hinge = mujoco.mjtJoint.mjJNT_SLIDE, mujoco.mjtJoint.mjJNT_HINGE
    stiffness = (springs.aside_n_m, springs.aside_n_m, springs.along_n_m)
    for axis, label, newton in zip(np.eye(3).tolist(), "xyz", stiffness, strict=True):
        body.add_joint(
            name=f"robot/{name}_{label}",
            type=slide,
            axis=axis,
            stiffness=newton,
            damping=2 * (newton * mass_kg) ** 0.5,
            limited=mujoco.mjtLimited.mjLIMITED_TRUE,
            range=[-springs.travel_m, springs.travel_m],
        )
    body.add_joint(
        name=f"robot/{name}_turn",
        type=hinge,
        axis=[0, 0, 1],
        stiffness=springs.turn_nm_rad,
        damping=0.01,
        armature=1e-5,
    )
    return body


def met_or_seen(geom: Any, met: bool) -> None:
    """Make a geom one that things meet and no picture shows, or one that pictures show and nothing meets."""
    if met:
        geom.group = HIDDEN_GROUP
    else:
        geom.contype, geom.conaffinity = 0, 0


class ToolTask(BaseTask):
    """A tool on springs, and something for it to meet that is not quite where it is seen.

    Attributes:
        force_limit_n: Contact force on the tool that ends the episode.
    """

    physics_dt_s = 0.001
    force_limit_n = 30.0
    _peak_n = 0.0
    _pose: tuple[float, float, float]

    def bind_tool(self, scene: Scene, name: str) -> None:
        """Ids of the tool, whose geom is ``robot/<name>``."""
        self._scene, self._model = scene, scene.model
        self._tool = int(scene.model.geom(f"robot/{name}").id)
        self._wrench = np.zeros(6)

    def show_hand(self, data: mujoco.MjData, tcp_height_m: float) -> None:
        """Put the TCP over the middle of the thing that is seen, at a height, turned as it is; for a picture."""
        x, y, yaw = self._pose
        card, position = self._scene.embodiment, self._scene.joint_position(data)
        for joint, angle_rad in hand_over(card, (x, y, tcp_height_m), yaw).items():
            position[card.joints.index(joint)] = angle_rad
        self._scene.place(data, position)

    def begin(self, x_m: float, y_m: float, yaw_rad: float) -> None:
        """Remember where the thing is seen, and begin the figures anew."""
        self._pose, self._peak_n = (x_m, y_m, float(yaw_rad)), 0.0

    def observe(self, data: mujoco.MjData) -> NDArray[np.float32]:
        """Where the thing is seen in the plane (m), cosine and sine of its yaw: f32 [4]."""
        x, y, yaw = self._pose
        return np.array([x, y, math.cos(yaw), math.sin(yaw)], np.float32)

    def load_n(self, data: mujoco.MjData) -> float:
        """Sum of the normal forces on the tool now, N; the largest so far is kept."""
        total_n = 0.0
        for i, pair in enumerate(data.contact.geom[: data.ncon].tolist()):
            if self._tool in pair:
                mujoco.mj_contactForce(self._model, data, i, self._wrench)
                total_n += float(self._wrench[0])
        self._peak_n = max(self._peak_n, total_n)
        return total_n

    def failure(self, data: mujoco.MjData) -> str | None:
        """``force`` once the limit has been exceeded."""
        return "force" if self._peak_n > self.force_limit_n else None


class ForceGauge:
    """The force on the tool from the wrist's wrench, for a hand that points straight down.

    Args:
        scene: Gives the weight of what hangs below the sensor, which the sensor shows too.
        samples: How many of the newest samples are averaged.
    """

    def __init__(self, scene: Scene, samples: int = 5):
        model = scene.model
        body = int(model.site_bodyid[model.site("robot/wrist").id])
        self._weight_n = float(model.body_subtreemass[body]) * float(-model.opt.gravity[2])
        self._samples = samples

    def read(self, wrench: Array, yaw_rad: float) -> Array:
        """[3] N in the base frame: what the surroundings push the tool with.

        Args:
            wrench: [K, 6] at the wrist, oldest first.
            yaw_rad: Direction of the hand's x axis in the plane.
        """
        x, y, z = np.asarray(wrench[-self._samples :, :3], float).mean(axis=0).tolist()
        c, s = np.cos(yaw_rad), np.sin(yaw_rad)
        # the sensor shows the force of the arm on the hand, which balances weight and contact; the hand's z points down
        return np.array([-c * x - s * y, -s * x + c * y, z + self._weight_n])
